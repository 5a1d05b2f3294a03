/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that are processes, and what becomes of the others when one dies, is late, is cancelled, or
 * does something else. */
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <random>

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/ranks.h"

using namespace gpu_sched_test;
using testing::HasSubstr;

namespace
{

const uint64_t never = UINT64_C(600000000000);

class processes : public testing::TestWithParam<device_case>
{
};
class ranks : public testing::TestWithParam<device_case>
{
};
class creation : public testing::TestWithParam<device_case>
{
};
class memory : public testing::TestWithParam<device_case>
{
};
INSTANTIATE_TEST_SUITE_P(devices, processes, testing::ValuesIn(gang_devices()), device_case_name);
INSTANTIATE_TEST_SUITE_P(devices, ranks, testing::ValuesIn(gang_devices()), device_case_name);
INSTANTIATE_TEST_SUITE_P(devices, creation, testing::ValuesIn(gang_devices()), device_case_name);
INSTANTIATE_TEST_SUITE_P(devices, memory, testing::ValuesIn(gang_devices()), device_case_name);

/* A child that runs a rank, and ends with what `body` answers. */
pid_t start(const std::function<int()> &body)
{
    pid_t child = fork();
    if (child == 0)
        _exit(body());
    return child;
}

int exit_code(pid_t child)
{
    int status = -1;
    EXPECT_EQ(child, waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST_P(processes, have_the_same_sums)
{
    const uint32_t n_ranks = 3;
    const uint64_t n = 700001;
    shared_memory shared(n_ranks);
    std::vector<pid_t> children;
    for (uint32_t r = 0; r < n_ranks; r++)
        children.push_back(start([&] {
            rank own(GetParam(), shared, r, n_ranks);
            if (own.status != LIBSCHED_OK)
                return 1;
            std::vector<float> values(n, (float)(r + 1));
            auto *buffer = own.buffer(values);
            for (int i = 0; i < 4; i++)
                if (own.run(own.driver->all_reduce, buffer, buffer, n) != LIBSCHED_OK)
                    return 2;
            /* 1 + 2 + 3, and then three times that, three times over. */
            for (float v : own.read<float>(buffer, n))
                if (v != 6.0f * 27)
                    return 3;
            return own.barrier() == LIBSCHED_OK ? 0 : 4;
        }));
    for (pid_t child : children)
        EXPECT_EQ(0, exit_code(child));
}

/* A rank that dies in the middle of an operation is found by the others' timeout ... */
TEST_P(processes, find_a_dead_rank_by_timeout)
{
    shared_memory shared(2);
    pid_t other = start([&] {
        rank own(GetParam(), shared, 1, 2);
        raise(SIGKILL);
        return 0;
    });
    rank own(GetParam(), shared, 0, 2, 200000000);
    ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
    EXPECT_EQ(1000 + SIGKILL, exit_code(other));
    auto *buffer = own.buffer(std::vector<float>(10, 1));
    EXPECT_EQ(LIBSCHED_EDEADLINE, own.run(own.driver->all_reduce, buffer, buffer, 10));
    EXPECT_STREQ("all_reduce: rank 1 did not come within 200 ms: its process has ended, or hangs",
                 own.err.message);
    EXPECT_EQ(LIBSCHED_ECANCELED, own.barrier()) << "a failed communicator can only be destroyed";
}

/* ... or by whoever saw it die and calls abort, on any of the others; then all fail at once. */
TEST_P(processes, that_wait_for_a_dead_rank_are_freed_by_an_abort)
{
    shared_memory shared(3);
    int ready[2];
    ASSERT_EQ(0, pipe(ready));
    pid_t waiting = start([&] {
        rank own(GetParam(), shared, 1, 3, never);
        if (own.status != LIBSCHED_OK || write(ready[1], "x", 1) != 1)
            return 1;
        return own.barrier() == LIBSCHED_ECANCELED ? 0 : 2;
    });
    pid_t dying = start([&] {
        rank own(GetParam(), shared, 2, 3, never);
        if (own.status != LIBSCHED_OK)
            return 1;
        /* Until it is killed. */
        for (;;)
            pause();
    });
    rank own(GetParam(), shared, 0, 3, never);
    ASSERT_EQ(LIBSCHED_OK, own.status);
    char x;
    ASSERT_EQ(1, read(ready[0], &x, 1));
    std::thread watcher([&] {
        kill(dying, SIGKILL);
        EXPECT_EQ(1000 + SIGKILL, exit_code(dying));
        own.driver->communicator_abort(own.communicator);
    });
    uint64_t begin = clock_ns();
    EXPECT_EQ(LIBSCHED_ECANCELED, own.barrier());
    EXPECT_LT(clock_ns() - begin, UINT64_C(120000000000));
    watcher.join();
    EXPECT_EQ(0, exit_code(waiting));
    close(ready[0]);
    close(ready[1]);
}

/* An abort also ends ranks that are all there and never wait for each other for long. */
TEST_P(ranks, that_work_on_are_stopped_by_an_abort)
{
    shared_memory shared(2);
    std::atomic<libsched_device_communicator *> communicator{nullptr};
    std::atomic<int> rounds{0};
    std::atomic<const libsched_device_driver *> driver{nullptr};
    std::vector<std::thread> threads;
    std::atomic<int> gone{0};
    for (uint32_t r = 0; r < 2; r++)
        threads.emplace_back([&, r] {
            rank own(GetParam(), shared, r, 2, never);
            ASSERT_EQ(LIBSCHED_OK, own.status);
            if (r == 0) {
                driver = own.driver;
                communicator = own.communicator;
            }
            while (own.barrier() == LIBSCHED_OK)
                rounds++;
            EXPECT_EQ(LIBSCHED_ECANCELED, own.status) << own.err.message;
            /* The communicator has to outlive the abort. */
            gone++;
            while (gone < 3)
                std::this_thread::yield();
        });
    while (rounds < 1000)
        std::this_thread::yield();
    driver.load()->communicator_abort(communicator);
    gone++;
    for (auto &t : threads)
        t.join();
}

TEST_P(ranks, that_all_wait_hear_of_one_timeout)
{
    shared_memory shared(3);
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (uint32_t r = 0; r < 3; r++)
        threads.emplace_back([&, r] {
            /* Rank 1 would wait for long. They have as long to find each other, on a busy machine.
             */
            rank own(GetParam(), shared, r, 3, r == 0 ? UINT64_C(2000000000) : never);
            ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
            if (r == 2)
                return;
            EXPECT_EQ(LIBSCHED_EDEADLINE, own.barrier()) << own.err.message;
            failures++;
        });
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(2, failures);
}

TEST_P(ranks, that_call_different_operations_all_fail)
{
    shared_memory shared(2);
    std::vector<std::string> messages(2);
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < 2; r++)
        threads.emplace_back([&, r] {
            rank own(GetParam(), shared, r, 2, never);
            ASSERT_EQ(LIBSCHED_OK, own.status);
            auto *buffer = own.buffer(std::vector<float>(10, 1));
            EXPECT_EQ(LIBSCHED_EINVAL,
                      own.run(r == 0 ? own.driver->all_reduce : own.driver->broadcast, buffer,
                              buffer, 10 - r));
            messages[r] = own.err.message;
        });
    for (auto &t : threads)
        t.join();
    EXPECT_THAT(
        messages[0] + messages[1],
        testing::AnyOf(HasSubstr("calls all_reduce of 10 elements, rank 1 broadcast of 9"),
                       HasSubstr("calls broadcast of 9 elements, rank 0 all_reduce of 10")));
}

TEST_P(creation, times_out_where_somebody_is_missing)
{
    shared_memory shared(2);
    rank own(GetParam(), shared, 0, 2, 50000000);
    EXPECT_EQ(LIBSCHED_EDEADLINE, own.status);
    EXPECT_THAT(own.err.message, HasSubstr("rank 1 did not come within 50 ms"));
}

TEST_P(creation, is_given_up_when_it_is_cancelled)
{
    shared_memory shared(2);
    bool cancelled = false;
    std::thread watcher([&] { __atomic_store_n(&cancelled, true, __ATOMIC_RELEASE); });
    rank own(GetParam(), shared, 0, 2, never, &cancelled);
    EXPECT_EQ(LIBSCHED_ECANCELED, own.status) << own.err.message;
    watcher.join();
    /* Whoever comes later hears of it. */
    rank late(GetParam(), shared, 1, 2, never);
    EXPECT_EQ(LIBSCHED_ECANCELED, late.status);
}

TEST_P(creation, takes_memory_of_its_own)
{
    shared_memory shared(1);
    rank first(GetParam(), shared, 0, 1), second(GetParam(), shared, 0, 1);
    EXPECT_EQ(LIBSCHED_OK, first.status);
    EXPECT_EQ(LIBSCHED_EINVAL, second.status);
    EXPECT_THAT(second.err.message, HasSubstr("there is a rank 0 in this memory already"));
}

/* Whatever a rank writes where all can write: the others fail or finish, nothing else. */
TEST_P(memory, that_another_scribbles_over_harms_nobody)
{
    /* Beside the fake of CUDA each takes a second. */
    for (unsigned seed = 0; seed < (GetParam().driver == "cpu" ? 10 : 3); seed++) {
        shared_memory shared(2);
        std::atomic<bool> stop{false};
        std::atomic<int> created{0};
        std::thread vandal([&] {
            std::mt19937_64 random(seed);
            while (created < 2)
                std::this_thread::yield();
            while (!stop)
                for (int i = 0; i < 100; i++)
                    __atomic_store_n(static_cast<uint64_t *>(shared.data) +
                                         random() % ((i % 2 != 0 ? 1024 : shared.size) / 8),
                                     random(), __ATOMIC_RELAXED);
        });
        std::vector<std::thread> threads;
        for (uint32_t r = 0; r < 2; r++)
            threads.emplace_back([&, r] {
                /* To find each other takes its time on a busy machine, and to open one that is
                 * emulated as well. */
                rank own(GetParam(), shared, r, 2,
                         GetParam().driver == "cpu" ? 1000000000 : UINT64_C(5000000000));
                created++;
                ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
                auto *buffer = own.buffer(std::vector<float>(600000, 1));
                auto *output = own.buffer(LIBSCHED_FP32, 1200000);
                for (int i = 0; i < 5; i++) {
                    own.run(own.driver->all_reduce, buffer, buffer, 600000);
                    own.run(own.driver->all_gather, buffer, output, 600000);
                    own.run(own.driver->reduce_scatter, output, buffer, 600000);
                    own.run(own.driver->broadcast, buffer, buffer, 600000, 0, 1);
                }
            });
        for (auto &t : threads)
            t.join();
        stop = true;
        vandal.join();
    }
}

} // namespace
