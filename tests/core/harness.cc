/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

Harness::Harness(uint32_t max_requests, uint32_t max_clients, uint32_t max_strikes)
{
    core_config config = {max_requests, max_clients, max_strikes};
    c = core_new(&config);
    EXPECT_NE(c, nullptr);
}

Harness::Harness(const core_config &config)
{
    c = core_new(&config);
    EXPECT_NE(c, nullptr);
}

Harness::~Harness()
{
    core_free(c);
}

void Harness::carry_out()
{
    core_action action;
    while (core_next_action(c, &action)) {
        Action copy;
        static_cast<core_action &>(copy) = action;
        copy.all.assign(action.items, action.items + action.n_items);
        copy.on.assign(action.ranks, action.ranks + action.n_ranks);
        EXPECT_EQ(action.seq, ++last_seq);
        if (action.type == CORE_JOB_REPLY) {
            EXPECT_EQ(ended.count(action.job), 0u) << "a second end";
            ended[action.job] = copy;
        }
        if (action.type == CORE_REPLY) {
            EXPECT_EQ(replies.count(action.id), 0u) << "a second reply";
            replies[action.id] = copy;
        } else if (action.type == CORE_REPLY_PART) {
            EXPECT_EQ(replies.count(action.id), 0u) << "a part after the reply";
            parts[action.id]++;
        } else if (action.type == CORE_ARM_TIMER) {
            timer = action.at;
        }
        actions.push_back(copy);
    }
    libsched_error err = {};
    EXPECT_TRUE(core_check(c, &err)) << err.message;
}

int Harness::handle(core_event &event)
{
    int status = core_handle(c, now, &event);
    carry_out();
    return status;
}

/* ------------------------------------------------------------------------------------- set-up */

void Harness::device(uint32_t index, uint64_t memory, uint32_t depth, uint64_t lead)
{
    core_device d = {};
    d.kind = CORE_COMPUTE;
    d.memory_bytes = memory;
    d.depth = depth;
    d.lead_ns = lead;
    ASSERT_EQ(core_add_device(c, index, &d), LIBSCHED_OK);
}

void Harness::preparer(uint32_t index)
{
    core_device d = {CORE_PREPARE, 0, 0};
    ASSERT_EQ(core_add_device(c, index, &d), LIBSCHED_OK);
}

core_model Harness::one_shot(uint64_t devices)
{
    core_model m = {};
    m.devices = devices;
    m.max_batch_requests = 8;
    m.max_batch_units = 100;
    m.max_request_units = 1000;
    m.max_prepare_requests = 4;
    m.queue_limit = 100;
    return m;
}

core_model Harness::steps(uint64_t devices)
{
    core_model m = one_shot(devices);
    m.flags = CORE_MODEL_STEPS;
    return m;
}

int Harness::add(uint32_t index, const core_model &model)
{
    int status = core_add_model(c, now, index, &model);
    carry_out();
    return status;
}

void Harness::remove(uint32_t index, int status)
{
    EXPECT_EQ(core_remove_model(c, now, index, status), LIBSCHED_OK);
    carry_out();
}

void Harness::start(std::initializer_list<uint32_t> devices)
{
    for (uint32_t d : devices)
        up(d);
    while (has(CORE_LOAD)) {
        Action load = take(CORE_LOAD);
        loaded(load.device, load.model);
    }
}

/* ------------------------------------------------------------------------------------- events */

static core_event submit_event(const Request &request)
{
    core_event event = {};
    event.type = CORE_SUBMIT;
    event.u.submit.model = request.model;
    event.u.submit.units = request.units;
    event.u.submit.deadline = request.deadline;
    event.u.submit.wants_parts = request.parts;
    event.u.submit.part_credit = request.credit;
    event.u.submit.client = request.client;
    event.u.submit.priority = request.priority;
    event.u.submit.batch_key = request.batch_key;
    return event;
}

uint64_t Harness::submit(const Request &request)
{
    core_event event = submit_event(request);
    EXPECT_EQ(handle(event), LIBSCHED_OK);
    EXPECT_NE(event.u.submit.id, 0u);
    return event.u.submit.id;
}

int Harness::refused(const Request &request, uint64_t *retry_after)
{
    core_event event = submit_event(request);
    int status = handle(event);
    if (retry_after != nullptr)
        *retry_after = event.u.submit.retry_after;
    return status;
}

int Harness::cancel(uint64_t id)
{
    core_event event = {};
    event.type = CORE_CANCEL;
    event.u.cancel.id = id;
    return handle(event);
}

int Harness::grant(uint64_t id, uint32_t n)
{
    core_event event = {};
    event.type = CORE_GRANT;
    event.u.grant.id = id;
    event.u.grant.parts = n;
    return handle(event);
}

void Harness::up(uint32_t device)
{
    core_event event = {};
    event.type = CORE_WORKER_UP;
    event.device = device;
    event.epoch = epoch_of[device] = ++epochs;
    handle(event);
}

void Harness::down(uint32_t device)
{
    core_event event = {};
    event.type = CORE_WORKER_DOWN;
    event.device = device;
    event.epoch = epoch_of[device];
    handle(event);
}

void Harness::loaded(uint32_t device, uint32_t model, int status, uint64_t bytes)
{
    core_event event = {};
    event.type = CORE_LOADED;
    event.device = device;
    event.epoch = epoch_of[device];
    event.u.loaded.model = model;
    event.u.loaded.status = status;
    event.u.loaded.memory_bytes = bytes;
    handle(event);
}

void Harness::evicted(uint32_t device, uint32_t model)
{
    core_event event = {};
    event.type = CORE_EVICTED;
    event.device = device;
    event.epoch = epoch_of[device];
    event.u.loaded.model = model;
    handle(event);
}

void Harness::measured(uint32_t device, uint64_t free_bytes)
{
    core_event event = {};
    event.type = CORE_MEMORY_REPORT;
    event.device = device;
    event.epoch = epoch_of[device];
    event.u.memory.free_bytes = free_bytes;
    handle(event);
}

static core_event batch_event(core_event_type type, const Action &batch)
{
    core_event event = {};
    event.type = type;
    event.device = batch.device;
    event.epoch = batch.epoch;
    return event;
}

void Harness::prepared(const Action &batch, uint64_t id, uint64_t units, int status)
{
    core_event event = batch_event(CORE_PREPARED, batch);
    event.u.prepared.id = id;
    event.u.prepared.batch = batch.batch;
    event.u.prepared.units = units;
    event.u.prepared.status = status;
    handle(event);
}

bool Harness::part(const Action &batch, uint64_t id)
{
    core_event event = batch_event(CORE_PART, batch);
    event.u.part.id = id;
    event.u.part.batch = batch.batch;
    handle(event);
    return !event.u.part.drop;
}

void Harness::item(const Action &batch, uint64_t id, int status)
{
    core_event event = batch_event(CORE_ITEM_DONE, batch);
    event.u.item_done.id = id;
    event.u.item_done.batch = batch.batch;
    event.u.item_done.status = status;
    handle(event);
}

void Harness::step_done(const Action &batch, int status, uint64_t ns)
{
    core_event event = batch_event(CORE_STEP_DONE, batch);
    event.u.step_done.batch = batch.batch;
    event.u.step_done.step = batch.step;
    event.u.step_done.status = status;
    event.u.step_done.begin = now - ns;
    event.u.step_done.end = now;
    handle(event);
}

void Harness::batch_done(const Action &batch, int status)
{
    core_event event = batch_event(CORE_BATCH_DONE, batch);
    event.u.step_done.batch = batch.batch;
    event.u.step_done.step = batch.step;
    event.u.step_done.status = status;
    handle(event);
}

void Harness::tick(uint64_t at)
{
    now = at;
    if (timer == 0 || timer > now)
        return;
    timer = 0;
    core_event event = {};
    event.type = CORE_TIMER;
    handle(event);
}

void Harness::drain()
{
    core_event event = {};
    event.type = CORE_DRAIN;
    handle(event);
}

void Harness::finish(const Action &batch)
{
    for (const auto &i : batch.all)
        if (!i.leaves)
            item(batch, i.id);
    step_done(batch);
}

/* --------------------------------------------------------------------------------------- jobs */

static core_event job_event(const Job &job)
{
    core_event event = {};
    event.type = CORE_JOB_SUBMIT;
    event.u.job.flags = job.reserve ? CORE_JOB_RESERVE : 0;
    event.u.job.n_devices = job.k;
    event.u.job.devices = job.devices;
    event.u.job.memory_bytes = job.memory;
    event.u.job.priority = job.priority;
    event.u.job.client = job.client;
    event.u.job.time_limit = job.time_limit;
    event.u.job.step_limit = job.step_limit;
    return event;
}

uint64_t Harness::job(const Job &job)
{
    core_event event = job_event(job);
    EXPECT_EQ(handle(event), LIBSCHED_OK);
    EXPECT_NE(event.u.job.id, 0u);
    return event.u.job.id;
}

int Harness::job_refused(const Job &job, uint64_t *retry_after)
{
    core_event event = job_event(job);
    int status = handle(event);
    EXPECT_EQ(event.u.job.id, 0u);
    if (retry_after != nullptr)
        *retry_after = event.u.job.retry_after;
    return status;
}

int Harness::cancel_job(uint64_t id)
{
    core_event event = {};
    event.type = CORE_JOB_CANCEL;
    event.u.job_id.id = id;
    return handle(event);
}

int Harness::release(uint64_t id)
{
    core_event event = {};
    event.type = CORE_JOB_RELEASE;
    event.u.job_id.id = id;
    return handle(event);
}

void Harness::rank(core_event_type type, uint32_t device, uint64_t job, uint32_t step,
                   bool finished, int status)
{
    core_event event = {};
    event.type = type;
    event.device = device;
    event.epoch = epoch_of[device];
    event.u.rank.id = job;
    event.u.rank.step = step;
    event.u.rank.finished = finished;
    event.u.rank.status = status;
    handle(event);
}

void Harness::started(const Action &start)
{
    for (uint32_t device : start.on)
        rank(CORE_RANK_STARTED, device, start.job);
}

void Harness::stepped(const Action &step, bool finished)
{
    for (uint32_t device : step.on)
        rank(CORE_RANK_STEPPED, device, step.job, step.step, finished);
}

void Harness::closed(const Action &close)
{
    for (uint32_t device : close.on)
        rank(CORE_RANK_CLOSED, device, close.job);
}

core_job_info Harness::info(uint64_t job) const
{
    core_job_info out = {};
    EXPECT_EQ(core_job_get(c, job, &out), LIBSCHED_OK);
    return out;
}

int Harness::job_status(uint64_t id) const
{
    auto found = ended.find(id);
    return found == ended.end() ? 1 : found->second.status;
}

/* ------------------------------------------------------------------------------------ looking */

Action Harness::take(core_action_type type)
{
    for (size_t i = 0; i < actions.size(); i++) {
        if (actions[i].type == type) {
            Action action = actions[i];
            actions.erase(actions.begin() + static_cast<std::ptrdiff_t>(i));
            return action;
        }
    }
    ADD_FAILURE() << "no action of type " << type;
    return {};
}

bool Harness::has(core_action_type type) const
{
    for (const auto &action : actions)
        if (action.type == type)
            return true;
    return false;
}

int Harness::status(uint64_t id) const
{
    auto found = replies.find(id);
    return found == replies.end() ? 1 : found->second.status;
}

core_counts Harness::counts(uint32_t model) const
{
    core_counts out;
    core_get_counts(c, model, &out);
    return out;
}

uint64_t Harness::epoch(uint32_t device) const
{
    return epoch_of.at(device);
}
