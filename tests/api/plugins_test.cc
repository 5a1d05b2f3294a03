// SPDX-License-Identifier: Apache-2.0
// Engines of plugins, above all those that do not behave.
#include "scheduler.h"
#include "support/folder.h"

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

TEST_P(Plugins, WhoseWordsAreNotUtf8AreQuotedSo)
{
    Scheduler s(GetParam(), with_plugins);
    libsched_error err{};
    ASSERT_EQ(load(s, "m", "words", &err), LIBSCHED_OK) << err.message;
    Request request("m");
    const Done &done = s.infer(request);
    EXPECT_EQ(done.status(), LIBSCHED_EENGINE);
    EXPECT_EQ(done.message, "it is na?ve");
    EXPECT_STREQ(s.model("m").text, "na?ve");
}

TEST_P(Plugins, ThatCannotStartFailTheirModel)
{
    gpu_sched_test::temporary_folder folder;
    std::string text = folder.write("libsched-engine-text.so", "not a library");
    const struct {
        std::string library, why;
    } cases[] = {
        {text, "plugin can't be loaded: "},
        // A library, and no engine.
        {SCHED_LIBRARY_PATH, "does not export libsched_engine_entry()"},
    };
    Scheduler s(GetParam(), with_plugins);
    s.load("good");
    for (const auto &each : cases) {
        libsched_error err{};
        ASSERT_EQ(load(s, "bad", "", &err, each.library.c_str()), LIBSCHED_OK) << err.message;
        Request waiting("bad"), other("good");
        uint64_t id = s.submit(waiting);
        EXPECT_EQ(s.infer(other).status(), LIBSCHED_OK);
        const Done &done = s.end_of(id);
        EXPECT_EQ(done.status(), LIBSCHED_EENGINE);
        EXPECT_NE(done.message.find(each.why), std::string::npos) << done.message;
        EXPECT_EQ(s.model("bad").state, uint32_t(LIBSCHED_MODEL_FAILED));
    }
    EXPECT_EQ(s.stats().worker_deaths, 0u);
}

class FatalPlugins : public ApiTest
{
};

TEST_P(FatalPlugins, ThatEndTheirWorkerWhilePreparingBlameTheRightRequest)
{
    Scheduler s(GetParam(), with_plugins);
    libsched_error err{};
    ASSERT_EQ(load(s, "m", "prepare", &err), LIBSCHED_OK) << err.message;
    s.run_until([&] { return s.model("m").state == LIBSCHED_MODEL_READY; });
    std::vector<uint64_t> neighbours;
    uint64_t poison = 0;
    for (int i = 0; i < 10; i++) {
        Request request("m", 20, i == 6 ? '!' : 'x');
        (i == 6 ? poison : neighbours.emplace_back()) = s.submit(request);
    }
    const Done &done = s.end_of(poison);
    EXPECT_EQ(done.status(), LIBSCHED_EPOISON) << done.message;
    EXPECT_NE(done.message.find("signal 6"), std::string::npos) << done.message;
    EXPECT_EQ(done.raw.device, UINT32_MAX); // it came to none
    for (uint64_t id : neighbours)
        EXPECT_EQ(s.end_of(id).status(), LIBSCHED_OK) << s.ends.at(id).message;
    EXPECT_EQ(s.stats().worker_deaths, 3u);
    EXPECT_EQ(s.stats().arena_used, 0u);
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(s.device().restarts, 0u); // nor did it harm one
}

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
