// SPDX-License-Identifier: Apache-2.0
// The ranks of a job in workers of their own, as a host drives them.
#ifndef TESTS_WORKER_RANK_HARNESS_H
#define TESTS_WORKER_RANK_HARNESS_H

#include <map>

#include "worker/harness.h"

namespace worker_test
{

inline void with_device(worker_options &options)
{
    options.driver = "cpu";
    options.plugin_path = PLUGIN_FOLDER;
}

inline libsched_parameter real(const char *name, double value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_FLOAT;
    p.value.real = value;
    return p;
}

struct Job {
    uint64_t key = 9;
    std::string program;
    std::vector<libsched_parameter> parameters;
    uint32_t n_ranks;
    uint64_t timeout_ns = UINT64_C(60000000000);
    segment *shared = nullptr;
    bool kept = false; /* the communicator of the job before is used again */
    std::vector<std::unique_ptr<Worker>> workers;

    Job(bool thread, std::string program_, std::vector<libsched_parameter> parameters_,
        uint32_t n_ranks_ = 1)
        : program(program_), parameters(parameters_), n_ranks(n_ranks_)
    {
        libsched_error err = {};
        if (n_ranks > 1 &&
            segment_create_shared(&shared, "test-ranks", LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks),
                                  &err) < 0)
            ADD_FAILURE() << err.message;
        for (uint32_t r = 0; r < n_ranks; r++) {
            workers.push_back(std::make_unique<Worker>(thread, 1 << 20, with_device));
            workers.back()->up();
        }
    }
    Job(const Job &) = delete;
    Job &operator=(const Job &) = delete;
    ~Job()
    {
        workers.clear();
        segment_free(shared);
    }

    worker_rank rank(uint32_t r) const
    {
        worker_rank rank = {};
        rank.job = key;
        rank.name = "test-job";
        rank.program = program.c_str();
        rank.parameters = parameters.data();
        rank.n_parameters = uint32_t(parameters.size());
        rank.rank = r;
        rank.n_ranks = n_ranks;
        rank.timeout_ns = timeout_ns;
        rank.shared = shared;
        rank.kept = kept;
        return rank;
    }
    Worker &operator[](uint32_t r) const
    {
        return *workers[r];
    }
    int send_start(uint32_t r)
    {
        worker_rank own = rank(r);
        libsched_error err = {};
        int status = worker_rank_start(workers[r]->raw, &own, &err);
        error = err.message;
        return status;
    }
    // What each rank says of the communicator of the job before.
    std::vector<bool> ask()
    {
        std::vector<bool> has;
        for (uint32_t r = 0; r < n_ranks; r++)
            EXPECT_EQ(send_start(r), 0) << error;
        for (auto &w : workers)
            has.push_back(w->wait(WORKER_RANK_KEPT).raw.has_kept);
        return has;
    }
    void go(bool with_kept, segment *fresh = nullptr)
    {
        libsched_error err = {};
        for (auto &w : workers)
            ASSERT_EQ(worker_rank_go(w->raw, key, with_kept, fresh, &err), 0) << err.message;
    }
    // All ranks have another segment from here on.
    segment *renew()
    {
        libsched_error err = {};
        for (auto &w : workers)
            worker_drop_segment(w->raw, shared);
        segment_free(shared);
        shared = nullptr;
        EXPECT_EQ(segment_create_shared(&shared, "test-ranks",
                                        LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks), &err),
                  0)
            << err.message;
        return shared;
    }
    // Starts all ranks, and waits until they are.
    void start()
    {
        if (kept) {
            ASSERT_EQ(ask(), std::vector<bool>(n_ranks, true));
            go(true);
        } else {
            for (uint32_t r = 0; r < n_ranks; r++)
                ASSERT_EQ(send_start(r), 0) << error;
        }
        await_start();
    }
    void await_start()
    {
        for (auto &w : workers) {
            Event started = w->wait(WORKER_RANK_STARTED);
            ASSERT_EQ(started.raw.status, 0) << started.message;
            EXPECT_EQ(started.raw.job, key);
        }
    }
    void send_step(uint64_t step)
    {
        for (auto &w : workers)
            ASSERT_EQ(worker_rank_step(w->raw, key, step), 0);
    }
    // Runs steps until all ranks have finished; the number of the last.
    uint64_t run()
    {
        for (uint64_t step = 1;; step++) {
            uint32_t finished = 0;
            send_step(step);
            for (auto &w : workers) {
                Event stepped = w->wait(WORKER_RANK_STEPPED);
                EXPECT_EQ(stepped.raw.status, 0) << stepped.message;
                EXPECT_EQ(stepped.raw.step, step);
                EXPECT_LE(stepped.raw.begin, stepped.raw.end);
                if (stepped.raw.status < 0 || stepped.raw.type == 0)
                    return 0;
                finished += stepped.raw.finished;
            }
            if (finished > 0) {
                EXPECT_EQ(finished, n_ranks) << "all ranks finish with the same step";
                return step;
            }
        }
    }
    void close(bool cancelled = false)
    {
        for (auto &w : workers)
            EXPECT_EQ(worker_rank_close(w->raw, key, cancelled), 0);
        for (auto &w : workers)
            EXPECT_EQ(w->wait(WORKER_RANK_CLOSED).raw.job, key);
    }

    std::string error;
};

// The results that came from a worker so far; those given again replace the ones before.
inline std::map<std::string, std::string> results(const Worker &worker)
{
    std::map<std::string, std::string> out;
    for (const Event &event : worker.passed)
        if (event.raw.type == WORKER_RESULT)
            out[event.result_name] = event.result_value;
    return out;
}

inline std::vector<Event> of_type(const Worker &worker, worker_event_type type)
{
    std::vector<Event> out;
    for (const Event &event : worker.passed)
        if (event.raw.type == type)
            out.push_back(event);
    return out;
}

} // namespace worker_test

#endif
