// SPDX-License-Identifier: Apache-2.0
// Models: loading, what is told of them, unloading.
#include <cmath>

#include "scheduler.h"

using namespace api_test;

class Models : public ApiTest
{
};

TEST_P(Models, AreDescribed)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("max_batch_requests", 7));
    libsched_model_info info = s.model("m");
    EXPECT_STREQ(info.name, "m");
    EXPECT_STREQ(info.engine, "synthetic");
    EXPECT_EQ(info.devices, 1u);
    EXPECT_EQ(info.max_batch_requests, 7u);
    EXPECT_EQ(info.queue_limit, 4096u);
    ASSERT_EQ(info.n_inputs, 1u);
    EXPECT_STREQ(info.inputs[0].name, "data");
    EXPECT_EQ(libsched_model_count(s.get()), 1u);
    libsched_model_info same = LIBSCHED_MODEL_INFO_INIT;
    EXPECT_EQ(libsched_model_get(s.get(), 0, &same), LIBSCHED_OK);
    EXPECT_STREQ(same.name, "m");
    EXPECT_EQ(libsched_model_get(s.get(), 1, &same), LIBSCHED_ENOMODEL);
    EXPECT_EQ(libsched_model_find(s.get(), "n", &same), LIBSCHED_ENOMODEL);
    const libsched_tensor_spec *specs;
    uint32_t n;
    ASSERT_EQ(libsched_model_inputs(s.get(), "m", &specs, &n), LIBSCHED_OK);
    ASSERT_EQ(n, 1u);
    EXPECT_STREQ(specs[0].name, "data");
    EXPECT_EQ(libsched_model_inputs(s.get(), "n", &specs, &n), LIBSCHED_ENOMODEL);
    EXPECT_EQ(libsched_model_inputs(s.get(), nullptr, &specs, &n), LIBSCHED_ENOMODEL);
    EXPECT_EQ(libsched_model_find(s.get(), nullptr, &same), LIBSCHED_ENOMODEL);
    ASSERT_FALSE(s.changes.empty());
    EXPECT_EQ(s.changes.back().raw.kind, uint32_t(LIBSCHED_MODEL));
    EXPECT_EQ(s.changes.back().name, "m");
    EXPECT_EQ(s.changes.back().raw.state, uint32_t(LIBSCHED_MODEL_READY));
}

TEST_P(Models, HaveLimitsThatOnlyLower)
{
    Scheduler s(GetParam());
    Parameters parameters;
    parameters.integer("max_batch_requests", 8);
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "m";
    options.engine = "synthetic";
    options.parameters = parameters.data();
    options.n_parameters = parameters.size();
    options.max_batch_requests = 100;
    options.max_request_units = 5;
    ASSERT_EQ(libsched_model_load(s.get(), &options, nullptr), LIBSCHED_OK);
    s.run_until([&] { return s.model("m").state == LIBSCHED_MODEL_READY; });
    EXPECT_EQ(s.model("m").max_batch_requests, 8u);
    EXPECT_EQ(s.model("m").max_request_units, 5u);
}

TEST_P(Models, OfTooManyUnitsAreRefused)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("units_per_kib", 1024).integer("max_request_units", 100));
    Request small("m", 50), large("m", 200);
    EXPECT_EQ(s.infer(small).status(), LIBSCHED_OK);
    libsched_error err{};
    uint64_t id;
    EXPECT_EQ(libsched_submit(s.get(), large.get(), &id, &err), LIBSCHED_ETOOBIG);
    EXPECT_NE(std::string(err.message).find("100"), std::string::npos) << err.message;
}

TEST_P(Models, ThatAreNotThereAreSaidSo)
{
    Scheduler s(GetParam());
    Request request("nobody");
    libsched_error err{};
    uint64_t id;
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, &err), LIBSCHED_ENOMODEL);
    EXPECT_NE(std::string(err.message).find("nobody"), std::string::npos);
    request.get();
    request.raw.model = nullptr;
    EXPECT_EQ(libsched_submit(s.get(), &request.raw, &id, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(libsched_model_unload(s.get(), "nobody", &err), LIBSCHED_ENOMODEL);
}

TEST_P(Models, AreRefusedAtOnceWhereThatCanBeSeen)
{
    Scheduler s(GetParam());
    s.load("m");
    libsched_error err{};
    EXPECT_EQ(s.begin_load("m", {}, 0, &err), LIBSCHED_EEXIST);
    EXPECT_EQ(s.begin_load("a/b", {}, 0, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(s.begin_load("", {}, 0, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(s.begin_load(std::string(64, 'x'), {}, 0, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(s.begin_load("nan", Parameters().real("a_us", NAN), 0, &err), LIBSCHED_EINVAL);
    EXPECT_NE(std::string(err.message).find("\"a_us\" is no finite number"), std::string::npos)
        << err.message;
    EXPECT_EQ(s.begin_load("twice", Parameters().integer("a_us", 1).integer("a_us", 2), 0, &err),
              LIBSCHED_EINVAL);

    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "n";
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_EINVAL);
    options.path = "/nowhere/at/all";
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_EBADMODEL);
    EXPECT_NE(std::string(err.message).find("/nowhere"), std::string::npos) << err.message;
    options.path = nullptr;
    options.engine = "synthetic";
    const char *gpu = "gpu:99";
    options.devices = &gpu;
    options.n_devices = 1;
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_ENODEVICE);
    options.n_devices = 0;
    options.library = "relative.so";
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_EINVAL);
    options.library = "/nowhere/engine.so";
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_EBADMODEL);
    EXPECT_EQ(libsched_model_count(s.get()), 1u);
}

TEST_P(Models, ThatFailSayWhyAndMayBeLoadedAgain)
{
    Scheduler s(GetParam());
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "m";
    options.engine = "no_such_engine";
    ASSERT_EQ(libsched_model_load(s.get(), &options, nullptr), LIBSCHED_OK);
    Request request("m");
    uint64_t id = s.submit(request);
    s.run_until([&] { return s.model("m").state == LIBSCHED_MODEL_FAILED; });
    EXPECT_LT(s.model("m").error.status, 0);
    EXPECT_NE(std::string(s.model("m").error.message).find("no_such_engine"), std::string::npos)
        << s.model("m").error.message;
    EXPECT_EQ(s.end_of(id).status(), s.model("m").error.status);
    EXPECT_NE(s.end_of(id).message, "");
    libsched_error err{};
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, &err), s.model("m").error.status);

    s.load("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(libsched_model_count(s.get()), 1u);
}

TEST_P(Models, WithBadParametersFail)
{
    Scheduler s(GetParam());
    ASSERT_EQ(s.begin_load("m", Parameters().string("a_us", "many")), LIBSCHED_OK);
    s.run_until([&] { return s.model("m").state == LIBSCHED_MODEL_FAILED; });
    EXPECT_NE(std::string(s.model("m").error.message).find("a_us"), std::string::npos)
        << s.model("m").error.message;
    EXPECT_EQ(libsched_model_unload(s.get(), "m", nullptr), LIBSCHED_OK);
    s.run_until([&] { return libsched_model_count(s.get()) == 0; });
}

TEST_P(Models, AreUnloadedUnderLoad)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 20000).integer("max_batch_requests", 4));
    s.load("other");
    std::vector<uint64_t> ids;
    Request request("m");
    for (int i = 0; i < 40; i++)
        ids.push_back(s.submit(request));
    s.run_until([&] { return s.n_ends >= 4; });
    ASSERT_EQ(libsched_model_unload(s.get(), "m", nullptr), LIBSCHED_OK);
    uint64_t id;
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, nullptr), LIBSCHED_ENOMODEL);
    EXPECT_EQ(s.begin_load("m"), LIBSCHED_EEXIST);
    s.run_until(
        [&] { return !s.changes.empty() && s.changes.back().raw.state == LIBSCHED_MODEL_GONE; });
    EXPECT_EQ(s.n_ends, ids.size());
    int answered = 0, ended = 0;
    for (uint64_t each : ids) {
        int status = s.ends.at(each).status();
        answered += status == LIBSCHED_OK;
        ended += status == LIBSCHED_ENOMODEL;
    }
    EXPECT_EQ(answered + ended, 40);
    EXPECT_GE(answered, 8); // four before, and those that ran
    EXPECT_GT(ended, 0);
    Request other("other");
    EXPECT_EQ(s.infer(other).status(), LIBSCHED_OK);
    EXPECT_EQ(libsched_model_count(s.get()), 1u);
    s.load("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
}

TEST_P(Models, AreUnloadedWhileTheyLoad)
{
    Scheduler s(GetParam());
    ASSERT_EQ(s.begin_load("m", Parameters().integer("load_us", 100000)), LIBSCHED_OK);
    Request request("m");
    uint64_t id = s.submit(request);
    const libsched_tensor_spec *specs;
    uint32_t n;
    EXPECT_EQ(libsched_model_inputs(s.get(), "m", &specs, &n), LIBSCHED_ENOTREADY);
    ASSERT_EQ(libsched_model_unload(s.get(), "m", nullptr), LIBSCHED_OK);
    EXPECT_EQ(libsched_model_unload(s.get(), "m", nullptr), LIBSCHED_ENOMODEL);
    EXPECT_EQ(s.end_of(id).status(), LIBSCHED_ENOMODEL);
    s.run_until([&] { return libsched_model_count(s.get()) == 0; });
}

TEST_P(Models, RunOnTheDevicesThatWereNamed)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.cpu_devices = 2; });
    ASSERT_GE(libsched_device_count(s.get()), 2u);
    const char *second = "cpu:1";
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "m";
    options.engine = "synthetic";
    options.devices = &second;
    options.n_devices = 1;
    ASSERT_EQ(libsched_model_load(s.get(), &options, nullptr), LIBSCHED_OK);
    Request request("m");
    EXPECT_EQ(s.infer(request).raw.device, 1u);
    EXPECT_EQ(s.model("m").devices, 2u);
}

TEST_P(Models, OnTwoDevicesRunOnBoth)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.cpu_devices = 2; });
    s.load("m", Parameters().integer("a_us", 20000).integer("max_batch_requests", 1));
    s.run_until([&] { return s.model("m").devices == 3; });
    Request request("m");
    for (int i = 0; i < 8; i++)
        s.submit(request);
    s.run_until([&] { return s.n_ends == 8; });
    uint32_t on[2] = {0, 0};
    for (const auto &[id, done] : s.ends)
        on[done.raw.device]++;
    EXPECT_GE(on[0], 2u);
    EXPECT_GE(on[1], 2u);
}

API_TESTS_FOR_BOTH(Models);
