// SPDX-License-Identifier: Apache-2.0
// Workers that die: who notices, who is retried, who is to blame.
#include <algorithm>
#include <csignal>
#include <filesystem>

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../support/folder.h"
#include "scheduler.h"

using namespace api_test;

class Faults : public ApiTest
{
};

TEST_P(Faults, AWorkerKilledInABatchCostsNobodyAnError)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 200000).integer("max_batch_requests", 8));
    std::vector<uint64_t> ids;
    for (int i = 0; i < 8; i++) {
        Request request("m", 64, uint8_t(i));
        ids.push_back(s.submit(request));
    }
    s.run_until([&] { return s.stats().running == 8; });
    ASSERT_EQ(kill(s.device().pid, SIGKILL), 0);
    s.run_until([&] { return s.n_ends == ids.size(); });
    for (size_t i = 0; i < ids.size(); i++) {
        const Done &done = s.ends.at(ids[i]);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(done.raw.attempts, 2u);
        EXPECT_EQ(done.raw.batch_size, 1u);
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(),
                  checksum(std::vector<uint8_t>(64, uint8_t(i))));
    }
    EXPECT_EQ(s.stats().worker_deaths, 1u);
    EXPECT_EQ(s.stats().counters.retried, 8u);
    EXPECT_EQ(s.device().restarts, 1u);
}

TEST_P(Faults, AnIdleWorkerThatDiesIsReplaced)
{
    Scheduler s(GetParam());
    s.load("m");
    int32_t pid = s.device().pid;
    ASSERT_GT(pid, 0);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    s.run_until([&] { return s.device().state == LIBSCHED_DEVICE_UP && s.device().pid != pid; });
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(s.model("m").state, uint32_t(LIBSCHED_MODEL_READY));
}

TEST_P(Faults, APoisonedRequestFailsAndItsNeighboursAreAnswered)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 1000));
    uint64_t deaths = 0;
    for (const char *fault : {"segv", "kill", "exit"}) {
        std::vector<uint64_t> neighbours;
        uint64_t poison = 0;
        for (int i = 0; i < 10; i++) {
            Request request("m", 100, uint8_t(i));
            if (i == 6)
                request.parameters.string("fault", fault);
            uint64_t id = s.submit(request);
            if (i == 6)
                poison = id;
            else
                neighbours.push_back(id);
        }
        const Done &end = s.end_of(poison);
        EXPECT_EQ(end.status(), LIBSCHED_EPOISON) << end.message;
        EXPECT_STREQ(libsched_status_name(end.status()), "poisoned");
        EXPECT_NE(end.message.find(strcmp(fault, "exit") == 0 ? "exited with code 3" : "signal"),
                  std::string::npos)
            << end.message;
        for (uint64_t id : neighbours) {
            const Done &done = s.end_of(id);
            EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
            EXPECT_EQ(done.raw.attempts, 2u);
            EXPECT_EQ(done.raw.batch_size, 1u);
        }
        // Once with all of them, and twice by itself.
        EXPECT_EQ(end.raw.attempts, 3u);
        deaths += 3;
        EXPECT_EQ(s.stats().worker_deaths, deaths);
    }
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

/* As of a kernel that never ends, or an engine that waits for what does not come. */
TEST_P(Faults, AStepThatNeverEndsCostsItsNeighboursAnAttempt)
{
    Scheduler s(GetParam());
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "m";
    options.engine = "synthetic";
    options.step_limit_ns = 1000000000;
    s.load(options);
    std::vector<uint64_t> neighbours;
    uint64_t hangs = 0;
    for (int i = 0; i < 10; i++) {
        Request request("m", 100, uint8_t(i));
        if (i == 6)
            request.parameters.string("fault", "hang");
        (i == 6 ? hangs : neighbours.emplace_back()) = s.submit(request);
    }
    const Done &end = s.end_of(hangs);
    EXPECT_EQ(end.status(), LIBSCHED_EPOISON) << end.message;
    EXPECT_NE(end.message.find("longer than its limit of 1.000 s"), std::string::npos)
        << end.message;
    for (uint64_t id : neighbours)
        EXPECT_EQ(s.end_of(id).status(), LIBSCHED_OK) << s.end_of(id).message;
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Faults, APoisonedRequestThatWasAlwaysAloneHasTwoTries)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.max_restarts = 2; });
    s.load("m");
    // More often than a device that serves nothing would be started again.
    for (uint64_t i = 1; i <= 4; i++) {
        Request request("m");
        request.parameters.string("fault", "kill");
        const Done &done = s.infer(request);
        EXPECT_EQ(done.status(), LIBSCHED_EPOISON) << done.message;
        EXPECT_EQ(done.raw.attempts, 2u);
        EXPECT_EQ(s.stats().worker_deaths, 2 * i);
    }
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
}

TEST_P(Faults, AWorkerKilledAgainCostsNobodyAnError)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 100000).integer("max_batch_requests", 6));
    std::vector<uint64_t> ids;
    for (int i = 0; i < 6; i++) {
        Request request("m", 64, uint8_t(i));
        ids.push_back(s.submit(request));
    }
    s.run_until([&] { return s.stats().running == 6; });
    int32_t first = s.device().pid;
    ASSERT_EQ(kill(first, SIGKILL), 0);
    // Once more while one of them runs by itself: it has another try.
    s.run_until([&] { return s.device().pid > 0 && s.device().pid != first; });
    s.run_until([&] { return s.stats().running == 1; });
    ASSERT_EQ(kill(s.device().pid, SIGKILL), 0);
    s.run_until([&] { return s.n_ends == ids.size(); });
    uint32_t most = 0;
    for (size_t i = 0; i < ids.size(); i++) {
        const Done &done = s.ends.at(ids[i]);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(),
                  checksum(std::vector<uint8_t>(64, uint8_t(i))));
        most = std::max(most, done.raw.attempts);
    }
    EXPECT_EQ(most, 3u);
    EXPECT_EQ(s.stats().worker_deaths, 2u);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Faults, AWorkerKilledWhileItLoadsLoadsAgain)
{
    Scheduler s(GetParam());
    s.await_device();
    ASSERT_EQ(s.begin_load("m", Parameters().integer("load_us", 200000)), LIBSCHED_OK);
    Request request("m");
    uint64_t id = s.submit(request);
    s.turn(0); // the worker has been told
    ASSERT_EQ(kill(s.device().pid, SIGKILL), 0);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(s.stats().worker_deaths, 1u);
    EXPECT_EQ(s.model("m").state, uint32_t(LIBSCHED_MODEL_READY));
}

TEST_P(Faults, ResultsThatAreHeldOutliveTheirWorker)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m", 100000, 7);
    request.parameters.boolean("echo", true);
    s.submit(request);
    libsched_completion held;
    for (size_t n = 0; n == 0 || held.kind != LIBSCHED_END;) {
        pollfd fd = {libsched_fd(s.get()), POLLIN, 0};
        ASSERT_EQ(poll(&fd, 1, 120000), 1);
        libsched_process(s.get(), 0);
        n = libsched_reap(s.get(), &held, 1);
    }
    int32_t pid = s.device().pid;
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    s.run_until([&] { return s.device().state == LIBSCHED_DEVICE_UP && s.device().pid != pid; });
    ASSERT_EQ(held.n_outputs, 2u);
    EXPECT_EQ(held.outputs[1].size, 100000u);
    EXPECT_EQ(memcmp(held.outputs[1].data, request.data.data(), 100000), 0);
    libsched_release(s.get(), &held, 1);
    EXPECT_EQ(held.handle, nullptr);
    libsched_release(s.get(), &held, 1);
}

TEST_P(Faults, AFaultThatStrikesOnceIsSurvived)
{
    gpu_sched_test::temporary_folder folder;
    Scheduler s(GetParam());
    s.load("m", Parameters().string("fault_folder", folder.path()));
    Request request("m", 10, 3);
    request.parameters.string("fault", "abort").string("fault_once", "mark");
    const Done &done = s.infer(request);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.raw.attempts, 2u);
}

TEST_P(Faults, PartsAlreadySentAreNotSentAgain)
{
    gpu_sched_test::temporary_folder folder;
    Scheduler s(GetParam());
    s.load("m", Parameters().string("fault_folder", folder.path()));
    Request request("m");
    request.parameters.integer("parts", 6).integer("fault_part", 4);
    request.parameters.string("fault", "kill").string("fault_once", "mark");
    request.raw.flags = LIBSCHED_WANT_PARTS;
    request.raw.part_credit = 100;
    uint64_t id = s.submit(request);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.raw.attempts, 2u);
    ASSERT_EQ(s.parts[id].size(), 5u);
    for (uint32_t i = 0; i < 5; i++)
        EXPECT_EQ(s.parts[id][i].outputs.at("part").scalar<uint32_t>(), i + 1);
}

TEST_P(Faults, APartThatCameWithTheDeathIsNotLost)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 20000));
    Request request("m");
    request.parameters.integer("parts", 3);
    request.raw.flags = LIBSCHED_WANT_PARTS;
    request.raw.part_credit = 100;
    uint64_t id = s.submit(request);
    s.run_until([&] { return s.stats().running == 1; });
    // The first part is there, and the worker's end, before either is looked at.
    pollfd part = {libsched_fd(s.get()), POLLIN, 0};
    ASSERT_EQ(poll(&part, 1, 120000), 1);
    pollfd end = {int(syscall(SYS_pidfd_open, s.device().pid, 0)), POLLIN, 0};
    ASSERT_GE(end.fd, 0);
    ASSERT_EQ(kill(s.device().pid, SIGKILL), 0);
    ASSERT_EQ(poll(&end, 1, 120000), 1);
    close(end.fd);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.raw.attempts, 2u);
    ASSERT_EQ(s.parts[id].size(), 2u);
    for (uint32_t i = 0; i < 2; i++)
        EXPECT_EQ(s.parts[id][i].outputs.at("part").scalar<uint32_t>(), i + 1);
    EXPECT_EQ(done.outputs.at("part").scalar<uint32_t>(), 3u);
}

TEST_P(Faults, AWorkerThatPreparesIsReplacedToo)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("prepare_us", 300000));
    Request request("m", 40, 9);
    uint64_t id = s.submit(request);
    // The only child that is not the device's worker prepares.
    s.turn(0);
    std::vector<pid_t> others;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream children(entry.path() / "children");
        for (pid_t pid; children >> pid;)
            if (pid != s.device().pid)
                others.push_back(pid);
    }
    ASSERT_EQ(others.size(), 1u);
    ASSERT_EQ(kill(others[0], SIGKILL), 0);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
    EXPECT_EQ(s.stats().worker_deaths, 1u);
    EXPECT_EQ(s.model("m").state, uint32_t(LIBSCHED_MODEL_READY));
}

// A file that is no program, and programs that are no workers.
TEST_P(Faults, AWorkerThatCannotStartIsGivenUp)
{
    gpu_sched_test::temporary_folder folder;
    std::string text = folder.write("text", "not a program\n");
    ASSERT_EQ(chmod(text.c_str(), 0700), 0);
    const struct {
        std::string path, why;
    } cases[] = {
        {text, "Exec format error"},
        {"/bin/false", "exited with code 1"},
        {"/bin/true", "exited with code 0"},
    };
    for (const auto &each : cases) {
        Scheduler s(GetParam(), [&](libsched_options &o) {
            o.worker_path = each.path.c_str();
            o.max_restarts = 1;
        });
        s.run_until([&] { return s.device().state == LIBSCHED_DEVICE_DOWN; });
        EXPECT_NE(std::string(s.device().reason).find(each.why), std::string::npos)
            << each.path << ": " << s.device().reason;
        libsched_error err{};
        EXPECT_EQ(s.begin_load("m", {}, 0, &err), LIBSCHED_ENODEVICE);
    }
}

TEST_P(Faults, AWorkerThatNeverComesUpIsGivenUp)
{
    Scheduler s(GetParam(), [](libsched_options &o) {
        o.worker_path = "/bin/false";
        o.max_restarts = 2;
    });
    ASSERT_EQ(s.begin_load("m"), LIBSCHED_OK);
    Request request("m");
    uint64_t id = s.submit(request);
    s.run_until([&] { return s.device().state == LIBSCHED_DEVICE_DOWN; });
    EXPECT_NE(std::string(s.device().reason), "");
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_ENODEVICE) << done.message;
    EXPECT_EQ(s.model("m").state, uint32_t(LIBSCHED_MODEL_FAILED));
    EXPECT_EQ(s.model("m").error.status, LIBSCHED_ENODEVICE);
    libsched_error err{};
    uint64_t unused;
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &unused, &err), LIBSCHED_ENODEVICE);
    EXPECT_EQ(s.begin_load("other", {}, 0, &err), LIBSCHED_ENODEVICE);
}

API_TESTS_FOR_PROCESSES(Faults);
