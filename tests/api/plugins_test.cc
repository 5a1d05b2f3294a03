// SPDX-License-Identifier: Apache-2.0
// Engines of plugins, above all those that do not behave.
#include "scheduler.h"

using namespace api_test;

namespace
{

void with_plugins(libsched_options &options)
{
    options.plugin_path = PLUGIN_FOLDER;
}

int load(Scheduler &s, const char *name, const char *how, libsched_error *err,
         const char *library = nullptr)
{
    Parameters parameters;
    parameters.string("how", how);
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = name;
    options.engine = "fatal";
    options.library = library;
    options.parameters = parameters.data();
    options.n_parameters = parameters.size();
    return libsched_model_load(s.get(), &options, err);
}

} // namespace

class Plugins : public ApiTest
{
};

TEST_P(Plugins, AreFoundByNameAndByPath)
{
    Scheduler s(GetParam(), with_plugins);
    libsched_error err{};
    ASSERT_EQ(load(s, "named", "", &err), LIBSCHED_OK) << err.message;
    ASSERT_EQ(load(s, "pathed", "", &err, PLUGIN_FOLDER "/libsched-engine-fatal.so"), LIBSCHED_OK)
        << err.message;
    for (const char *name : {"named", "pathed"}) {
        Request request(name);
        const Done &done = s.infer(request);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    }
}

TEST_P(Plugins, WhosePreparedFormIsNoneFailTheRequest)
{
    Scheduler s(GetParam(), with_plugins);
    libsched_error err{};
    ASSERT_EQ(load(s, "bad", "garbage", &err), LIBSCHED_OK) << err.message;
    s.load("good", Parameters().integer("prepare_us", 0));
    Request request("bad"), other("good");
    const Done &done = s.infer(request);
    EXPECT_LT(done.status(), 0);
    EXPECT_NE(done.message, "");
    EXPECT_EQ(s.infer(other).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

class FatalPlugins : public ApiTest
{
};

TEST_P(FatalPlugins, WhoseLoadEndsTheWorkerFailAlone)
{
    for (const char *how : {"open", "open_prepare"}) {
        Scheduler s(GetParam(), with_plugins);
        s.load("good", Parameters().integer("prepare_us", 0));
        libsched_error err{};
        ASSERT_EQ(load(s, "bad", how, &err), LIBSCHED_OK) << err.message;
        Request waiting("bad"), other("good");
        uint64_t id = s.submit(waiting);
        s.run_until([&] { return s.model("bad").state == LIBSCHED_MODEL_FAILED; });
        EXPECT_EQ(s.model("bad").error.status, LIBSCHED_EBADMODEL);
        EXPECT_NE(std::string(s.model("bad").error.message).find("signal"), std::string::npos)
            << s.model("bad").error.message;
        EXPECT_EQ(s.end_of(id).status(), LIBSCHED_EBADMODEL);
        const Done &done = s.infer(other);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(s.device().state, uint32_t(LIBSCHED_DEVICE_UP));
        EXPECT_EQ(s.stats().worker_deaths, 2u);
    }
}

API_TESTS_FOR_BOTH(Plugins);
API_TESTS_FOR_PROCESSES(FatalPlugins);
