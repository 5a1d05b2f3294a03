// SPDX-License-Identifier: Apache-2.0
// Sleeping and spinning: a caller that only polls libsched_fd() misses nothing.
#include <atomic>
#include <csignal>
#include <thread>

#include "scheduler.h"

using namespace api_test;

class Waking : public ApiTest
{
};

// One request after the other: each wake-up is needed, and a lost one hangs the test.
TEST_P(Waking, LosesNoWakeUp)
{
    Scheduler s(GetParam());
    s.load("m");
    for (int i = 0; i < 3000; i++) {
        Request request("m", size_t(i % 100), uint8_t(i));
        const Done &done = s.infer(request);
        ASSERT_EQ(done.status(), LIBSCHED_OK);
        s.ends.clear();
    }
}

TEST_P(Waking, MixesWithSpinning)
{
    Scheduler s(GetParam());
    s.load("m");
    for (int i = 0; i < 1000; i++) {
        Request request("m");
        uint64_t id = s.submit(request);
        // Some looks without sleeping, and then to sleep: in whatever state they leave it.
        for (int look = 0; look < i % 7 && !s.has_ended(id); look++)
            s.look(LIBSCHED_SPINNING);
        s.look(0);
        s.end_of(id);
    }
}

TEST_P(Waking, TellsOfWhatAnotherCallBroughtAbout)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 100000).integer("max_batch_requests", 1));
    Request request("m");
    s.submit(request);
    uint64_t id = s.submit(request);
    s.turn(0);
    s.turn(0);
    libsched_cancel(s.get(), id);
    pollfd fd = {libsched_fd(s.get()), POLLIN, 0};
    EXPECT_EQ(poll(&fd, 1, 0), 1);
    EXPECT_EQ(s.end_of(id).status(), LIBSCHED_ECANCELED);
}

TEST_P(Waking, StaysReadableUntilAllIsReaped)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    for (int i = 0; i < 100; i++)
        s.submit(request);
    // turn() reaps 16 at a time, and always polls before.
    s.run_until([&] { return s.n_ends == 100; });
}

TEST_P(Waking, SpinsOnlyWhereNobodyComputes)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.spin_us = UINT32_MAX; });
    s.load("m");
    EXPECT_EQ(libsched_spin_budget(s.get()), 0u);
    EXPECT_EQ(libsched_process(s.get(), 0x10), LIBSCHED_EINVAL);
}

// ------------------------------------------------------------------------------ a thread of its
// own

class OwnThread : public ApiTest
{
};

TEST_P(OwnThread, ServesSeveralThreads)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.flags |= LIBSCHED_OWN_THREAD; });
    s.load("m");
    constexpr int n_threads = 4, n_each = 500;
    std::atomic<int> refused{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; t++)
        threads.emplace_back([&, t] {
            for (int i = 0; i < n_each; i++) {
                Request request("m", size_t(i % 64), uint8_t(t));
                request.raw.user = checksum(request.data);
                uint64_t id;
                if (libsched_submit(s.get(), request.get(), &id, nullptr) < 0)
                    refused++;
                if (i % 50 == 0)
                    s.stats();
            }
        });
    s.run_until([&] { return s.n_ends == n_threads * n_each; });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(refused, 0);
    for (const auto &[id, done] : s.ends) {
        ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), done.raw.user);
    }
    EXPECT_EQ(libsched_process(s.get(), 0), 0);
}

TEST_P(OwnThread, ReleasesAndCancelsFromAnyThread)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.flags |= LIBSCHED_OWN_THREAD; });
    s.load("m", Parameters().integer("a_us", 300));
    constexpr int n = 400;
    std::thread canceller([&] {
        for (int i = 0; i < n; i++) {
            Request request("m");
            libsched_buffer *buffer = nullptr;
            libsched_buffer_alloc(s.get(), 100, &buffer, nullptr);
            uint64_t id;
            EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, nullptr), LIBSCHED_OK);
            if (i % 2 == 0)
                libsched_cancel(s.get(), id);
            libsched_buffer_release(buffer);
        }
    });
    s.run_until([&] { return s.n_ends == n; });
    canceller.join();
    libsched_stats stats = s.stats();
    EXPECT_EQ(stats.counters.completed + stats.counters.cancelled, uint64_t(n));
    EXPECT_EQ(stats.arena_used, 0u);
}

class OwnThreadOfProcesses : public ApiTest
{
};

TEST_P(OwnThreadOfProcesses, RestartsWorkersByItself)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.flags |= LIBSCHED_OWN_THREAD; });
    s.load("m");
    Request request("m");
    for (int i = 0; i < 3; i++) {
        int32_t pid = s.device().pid;
        ASSERT_GT(pid, 0);
        kill(pid, SIGKILL);
        EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
        s.run_until([&] { return s.device().pid > 0 && s.device().pid != pid; });
    }
}

API_TESTS_FOR_BOTH(Waking);
API_TESTS_FOR_BOTH(OwnThread);
API_TESTS_FOR_PROCESSES(OwnThreadOfProcesses);
