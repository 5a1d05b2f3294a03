/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core with invented devices, for tests: each call is one event, after which everything the core
 * wants done is recorded, and core_check() asked. Nothing answers by itself: a test says what
 * becomes of a load or a step.
 */
#ifndef TESTS_CORE_HARNESS_H
#define TESTS_CORE_HARNESS_H

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/core.h"

struct Action : core_action {
    std::vector<core_action_item> all;
    std::vector<uint32_t> on; /* the devices of ranks */

    std::vector<uint64_t> ids() const
    {
        std::vector<uint64_t> out;
        for (const auto &item : all)
            out.push_back(item.id);
        return out;
    }
};

struct Request {
    uint32_t model = 0;
    uint64_t units = 1;
    uint64_t deadline = 0;
    bool parts = false;
    uint32_t credit = UINT32_MAX;
    uint64_t client = 0;
    uint32_t priority = 0;
    uint64_t batch_key = 0;
};

struct Job {
    uint32_t k = 1;
    uint64_t devices = 1;
    uint64_t memory = 0;
    uint64_t time_limit = 0;
    uint64_t step_limit = 0;
    uint64_t client = 0;
    uint32_t priority = 0;
    bool reserve = false;
};

class Harness
{
  public:
    explicit Harness(const core_config &config);
    explicit Harness(uint32_t max_requests = 256, uint32_t max_clients = 8,
                     uint32_t max_strikes = 2);
    ~Harness();
    Harness(const Harness &) = delete;
    Harness &operator=(const Harness &) = delete;

    uint64_t now = 1000;
    core *c;
    std::vector<Action> actions;        /* not yet taken by the test */
    std::map<uint64_t, Action> replies; /* by id; a second one is a failure */
    std::map<uint64_t, Action> ended;   /* jobs, likewise */
    std::map<uint64_t, uint32_t> parts; /* CORE_REPLY_PARTs of an id */
    uint64_t timer = 0;                 /* what was armed last */

    /* Set-up. */
    void device(uint32_t index, uint64_t memory = 0, uint32_t depth = 1, uint64_t lead = 0);
    void preparer(uint32_t index);
    static core_model one_shot(uint64_t devices = 1);
    static core_model steps(uint64_t devices = 1);
    int add(uint32_t index, const core_model &model);
    void remove(uint32_t index, int status = LIBSCHED_OK);
    /* Brings devices up and answers every load at once with LIBSCHED_OK. */
    void start(std::initializer_list<uint32_t> devices);

    /* Events. */
    int handle(core_event &event);
    uint64_t submit(const Request &request = {});
    int refused(const Request &request, uint64_t *retry_after = nullptr);
    int cancel(uint64_t id);
    int grant(uint64_t id, uint32_t parts);
    void up(uint32_t device);
    void down(uint32_t device);
    void loaded(uint32_t device, uint32_t model, int status = LIBSCHED_OK, uint64_t bytes = 0);
    void evicted(uint32_t device, uint32_t model);
    void measured(uint32_t device, uint64_t free_bytes);
    void prepared(const Action &batch, uint64_t id, uint64_t units = 1, int status = LIBSCHED_OK);
    bool part(const Action &batch, uint64_t id); /* false: it was dropped */
    void item(const Action &batch, uint64_t id, int status = LIBSCHED_OK);
    void step_done(const Action &batch, int status = LIBSCHED_OK, uint64_t ns = 0);
    void batch_done(const Action &batch, int status = LIBSCHED_OK);
    void tick(uint64_t at); /* the clock goes on, and the timer fires if it is due */
    void drain();

    /* Ends all items of a step well, and the step. */
    void finish(const Action &batch);

    /* Jobs. */
    uint64_t job(const Job &job);
    int job_refused(const Job &job, uint64_t *retry_after = nullptr);
    int cancel_job(uint64_t id);
    int release(uint64_t id);
    void rank(core_event_type type, uint32_t device, uint64_t job, uint32_t step = 0,
              bool finished = false, int status = LIBSCHED_OK);
    /* All ranks that an action names answer it. */
    void started(const Action &start);
    void stepped(const Action &step, bool finished = false);
    void closed(const Action &close);
    core_job_info info(uint64_t job) const;
    /* The status a job was answered with, or 1. */
    int job_status(uint64_t id) const;

    /* Takes the first recorded action of a type; fails where there is none. */
    Action take(core_action_type type);
    bool has(core_action_type type) const;
    /* The status an id was answered with, or 1 where it was not. */
    int status(uint64_t id) const;
    core_counts counts(uint32_t model = UINT32_MAX) const;
    uint64_t epoch(uint32_t device) const;

  private:
    void carry_out();
    uint64_t last_seq = 0;
    uint64_t epochs = 0;
    std::map<uint32_t, uint64_t> epoch_of;
};

#endif
