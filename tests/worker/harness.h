// SPDX-License-Identifier: Apache-2.0
// A worker and what came from it, for the tests of this room: as a process and as a thread.
#ifndef TESTS_WORKER_HARNESS_H
#define TESTS_WORKER_HARNESS_H

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <poll.h>
#include <time.h>

#include "worker/segment.h"
#include "worker/worker.h"

namespace worker_test
{

inline uint64_t now_ns()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * 1000000000 + uint64_t(now.tv_nsec);
}

struct Output {
    std::string name;
    uint32_t datatype;
    std::vector<int64_t> shape;
    const void *data;
    uint64_t size;

    uint64_t u64() const
    {
        uint64_t value = 0;
        EXPECT_EQ(size, sizeof(value));
        memcpy(&value, data, sizeof(value));
        return value;
    }
    uint32_t u32() const
    {
        uint32_t value = 0;
        EXPECT_EQ(size, sizeof(value));
        memcpy(&value, data, sizeof(value));
        return value;
    }
    std::string bytes() const
    {
        return std::string(static_cast<const char *>(data), size);
    }
};

// An event with its outputs, which are released with it.
struct Event {
    worker_event raw{};
    std::string message;
    std::string result_name, result_value;
    std::vector<Output> outputs;
    std::shared_ptr<worker_results> results;

    const Output *find(const std::string &name) const
    {
        for (const Output &o : outputs)
            if (o.name == name)
                return &o;
        return nullptr;
    }
};

struct Segment {
    segment *raw = nullptr;

    explicit Segment(uint64_t size)
    {
        libsched_error err;
        if (segment_create(&raw, "test", size, &err) < 0)
            ADD_FAILURE() << err.message;
    }
    Segment(const Segment &) = delete;
    Segment &operator=(const Segment &) = delete;
    ~Segment()
    {
        segment_free(raw);
    }
    unsigned char *data() const
    {
        return static_cast<unsigned char *>(segment_data(raw));
    }
};

// One item: bytes for the synthetic engine's input, and parameters.
struct Item {
    uint64_t id;
    std::string data;
    std::vector<libsched_parameter> parameters;
    uint64_t units = 1;
};

inline libsched_parameter integer(const char *name, int64_t value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_INT;
    p.value.integer = value;
    return p;
}

inline libsched_parameter text(const char *name, const char *value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_STRING;
    p.value.string = value;
    return p;
}

inline libsched_parameter flag(const char *name, bool value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_BOOL;
    p.value.boolean = value;
    return p;
}

inline std::string parameter_text(const libsched_parameter &p)
{
    switch (p.type) {
    case LIBSCHED_PARAMETER_BOOL:
        return p.value.boolean ? "true" : "false";
    case LIBSCHED_PARAMETER_INT:
        return std::to_string(p.value.integer);
    case LIBSCHED_PARAMETER_FLOAT:
        return std::to_string(p.value.real);
    default:
        return p.value.string;
    }
}

class Worker
{
  public:
    explicit Worker(bool thread, uint64_t result_bytes = 1 << 20,
                    const std::function<void(worker_options &)> &change = {})
        : inputs(64 << 20)
    {
        worker_options options = {};
        options.name = "test:0";
        options.thread = thread;
        options.worker_path = SCHED_WORKER_PATH;
        options.threads = 1;
        options.result_bytes = result_bytes;
        options.epoch = 7;
        if (change)
            change(options);
        libsched_error err;
        start_status = worker_start(&raw, &options, &err);
        if (start_status < 0)
            start_error = err.message;
    }
    Worker(const Worker &) = delete;
    Worker &operator=(const Worker &) = delete;
    ~Worker()
    {
        worker_free(raw);
    }

    // The next event, waited for; type 0 where none comes in time.
    Event next(int timeout_ms = 120000)
    {
        uint64_t until = now_ns() + uint64_t(timeout_ms) * 1000000;
        Event event;
        while (!worker_next_event(raw, &event.raw)) {
            int64_t left = (int64_t(until) - int64_t(now_ns())) / 1000000;
            if (left <= 0)
                return Event{};
            if (worker_arm(raw))
                continue;
            pollfd fd = {worker_fd(raw), POLLIN, 0};
            poll(&fd, 1, int(left) + 1);
        }
        event.message = event.raw.error.message;
        if (event.raw.result != nullptr) {
            event.result_name = event.raw.result->name;
            event.result_value = parameter_text(*event.raw.result);
            event.raw.result = nullptr;
        }
        event.results.reset(event.raw.results, worker_results_release);
        for (uint32_t i = 0; i < event.raw.n_outputs; i++) {
            const libsched_tensor &t = event.raw.outputs[i];
            event.outputs.push_back(
                {t.name, t.datatype, {t.shape, t.shape + t.rank}, t.data, t.size});
        }
        return event;
    }

    // The next event of a type; others on the way are kept in `passed`.
    Event wait(worker_event_type type)
    {
        for (;;) {
            Event event = next();
            if (event.raw.type == type || event.raw.type == 0) {
                EXPECT_EQ(event.raw.type, type) << event.message;
                return event;
            }
            if (event.raw.type == WORKER_DOWN) {
                ADD_FAILURE() << "the worker is down: " << event.message;
                return Event{};
            }
            passed.push_back(event);
        }
    }

    void up()
    {
        ASSERT_EQ(start_status, 0) << start_error;
        wait(WORKER_UP);
    }

    Event load(std::vector<libsched_parameter> parameters = {}, uint32_t key = 1,
               const char *engine = "synthetic", const char *library = nullptr)
    {
        worker_model model = {};
        model.key = key;
        model.name = "test";
        model.engine = engine;
        model.library = library;
        model.parameters = parameters.data();
        model.n_parameters = uint32_t(parameters.size());
        libsched_error err;
        EXPECT_EQ(worker_load(raw, &model, &err), 0);
        return wait(WORKER_LOADED);
    }

    // Puts the items' bytes into the segment and runs a step.
    int run(uint64_t batch, uint32_t step, const std::vector<Item> &joins,
            const std::vector<uint64_t> &stays = {}, const std::vector<uint64_t> &leaves = {},
            const std::function<void(worker_step &)> &change = {})
    {
        std::vector<worker_tensor> tensors(joins.size());
        std::vector<worker_item> items(joins.size());
        for (size_t i = 0; i < joins.size(); i++) {
            const Item &join = joins[i];
            if (used + join.data.size() + 64 > segment_size(inputs.raw))
                used = 0;
            memcpy(inputs.data() + used, join.data.data(), join.data.size());
            tensors[i].name = "data";
            tensors[i].datatype = LIBSCHED_UINT8;
            tensors[i].rank = 1;
            tensors[i].shape[0] = int64_t(join.data.size());
            tensors[i].segment = inputs.raw;
            tensors[i].offset = used;
            tensors[i].size = join.data.size();
            used += (join.data.size() + 63) / 64 * 64;
            items[i].id = join.id;
            items[i].units = join.units;
            items[i].n_inputs = 1;
            items[i].inputs = &tensors[i];
            items[i].parameters = join.parameters.data();
            items[i].n_parameters = uint32_t(join.parameters.size());
        }
        worker_step s = {};
        s.batch = batch;
        s.key = 1;
        s.step = step;
        s.n_joins = uint32_t(items.size());
        s.joins = items.data();
        s.n_stays = uint32_t(stays.size());
        s.stays = stays.data();
        s.n_leaves = uint32_t(leaves.size());
        s.leaves = leaves.data();
        if (change)
            change(s);
        libsched_error err = {};
        int status = worker_run(raw, &s, &err);
        run_error = err.message;
        return status;
    }

    worker *raw = nullptr;
    int start_status = 0;
    std::string start_error, run_error;
    std::deque<Event> passed;
    Segment inputs;
    uint64_t used = 0;
};

// The tests that hold for both kinds of worker.
class BothKinds : public testing::TestWithParam<bool>
{
  protected:
    bool thread() const
    {
        return GetParam();
    }
};

#define INSTANTIATE_BOTH_KINDS(suite)                  \
    INSTANTIATE_TEST_SUITE_P(, suite, testing::Bool(), \
                             [](const auto &kind) { return kind.param ? "Thread" : "Process"; })

} // namespace worker_test

#endif
