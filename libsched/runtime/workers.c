/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workers: one for each device, started again when one dies. A death is followed by a start at
 * once; further ones, without anything done in between, by longer and longer waits, until the
 * device is given up.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"

#define FIRST_WAIT UINT64_C(100000000)
#define LONGEST_WAIT UINT64_C(5000000000)
/* One that was up for so long was not a failed start, even where nobody needed it. */
#define LONG_LIFE UINT64_C(10000000000)
/* Idle workers are asked to end, and given this long. */
#define END_WAIT UINT64_C(300000000)
/* One that leaves its device to somebody else may have much to free. */
#define VACATE_WAIT UINT64_C(5000000000)

static void free_worker(libsched *s, struct runtime_device *device)
{
    if (device->worker_fd >= 0)
        runtime_wakeup_forget(s, device->worker_fd);
    device->worker_fd = -1;
    worker_free(device->worker);
    device->worker = NULL;
    runtime_gangs_forget(s, device);
}

/* A worker has ended, or did not start: when the next comes. */
static void plan_restart(libsched *s, struct runtime_device *device, int status, const char *why)
{
    uint64_t now = runtime_now(s);
    bool in_vain =
        !device->in_core_up && (status == LIBSCHED_ENODEVICE || status == LIBSCHED_ENOTSUP);
    if (device->served || (device->in_core_up && now - device->started_at >= LONG_LIFE))
        device->deaths = 0;
    else
        device->deaths++;
    device->in_core_up = false;
    device->served = false;

    /* No driver, a card that is too old: it would be the same next time. */
    if (in_vain) {
        device->restart_at = 0;
        runtime_log(s, LIBSCHED_LOG_WARNING, "%s: can't be used: %s", device->name, why);
        runtime_device_set_state(s, device, LIBSCHED_DEVICE_DOWN, why);
        return;
    }
    if (device->deaths >= s->options.max_restarts) {
        char reason[LIBSCHED_MESSAGE_SIZE];
        device->restart_at = 0;
        snprintf(reason, sizeof(reason),
                 "given up: its worker ended %u times in a row, last: %.180s", device->deaths, why);
        runtime_log(s, LIBSCHED_LOG_ERROR, "%s: %s", device->name, reason);
        runtime_device_set_state(s, device, LIBSCHED_DEVICE_DOWN, reason);
        return;
    }
    uint64_t wait = 0;
    if (device->deaths >= 2) {
        uint32_t doublings = device->deaths - 2;
        wait = doublings < 6 ? FIRST_WAIT << doublings : LONGEST_WAIT;
        wait = wait < LONGEST_WAIT ? wait : LONGEST_WAIT;
    }
    device->restart_at = now + wait;
    runtime_log(s, LIBSCHED_LOG_WARNING, "%s: its worker ended: %s; another starts in %llu ms",
                device->name, why, (unsigned long long)(wait / 1000000));
    runtime_device_set_state(s, device, LIBSCHED_DEVICE_STARTING, why);
}

void runtime_worker_start(libsched *s, struct runtime_device *device)
{
    const struct worker_options options = {
        .name = device->name,
        .thread = (s->options.flags & LIBSCHED_THREAD_WORKERS) != 0,
        .worker_path = s->options.worker_path,
        .plugin_path = s->options.plugin_path,
        .driver = device->driver,
        .ordinal = device->ordinal,
        .pci_bus_id = device->topology != NULL ? device->topology->pci_bus_id : NULL,
        .cpus = device->topology != NULL ? device->topology->cpu_list : NULL,
        .threads = device->threads,
        .spin_us = 0,
        .result_bytes = s->options.result_bytes,
        .epoch = s->next_epoch++,
        .environment = s->options.environment,
    };
    libsched_error err = {0};
    device->restart_at = 0;
    device->ending = device->stopping = device->lost = false;
    device->stop_by = 0;
    device->epoch = options.epoch;
    device->spin_us = 0;
    device->started_at = runtime_now(s);
    int rc = worker_start(&device->worker, &options, &err);
    if (rc < 0) {
        device->worker = NULL;
    } else {
        device->worker_fd = worker_fd(device->worker);
        rc = runtime_wakeup_watch(s, device->worker_fd, &err);
        if (rc < 0) {
            device->worker_fd = -1;
            free_worker(s, device);
        }
    }
    if (rc < 0) {
        plan_restart(s, device, rc, err.message);
        runtime_models_review(s);
    }
}

void runtime_workers_restart(libsched *s, uint64_t now)
{
    for (uint32_t i = 0; i < s->n_devices; i++) {
        struct runtime_device *device = &s->devices[i];
        if (device->stop_by != 0 && now >= device->stop_by) {
            device->stop_by = 0;
            runtime_worker_kill(s, device, "it was asked to end, and takes too long");
        }
        if (device->restart_at == 0 || now < device->restart_at)
            continue;
        if (device->restart_at > 1)
            device->restarts++;
        runtime_worker_start(s, device);
    }
}

uint64_t runtime_workers_restart_at(const libsched *s)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < s->n_devices; i++) {
        const uint64_t due[] = {s->devices[i].restart_at, s->devices[i].stop_by};
        for (int k = 0; k < 2; k++)
            if (due[k] != 0 && (at == 0 || due[k] < at))
                at = due[k];
    }
    return at;
}

void runtime_worker_kill(libsched *s, struct runtime_device *device, const char *why)
{
    if (device->ending)
        return;
    device->ending = true;
    runtime_log(s, LIBSCHED_LOG_ERROR, "%s: its worker is ended: %s", device->name, why);
    worker_kill(device->worker);
}

/* Idle already: what it does yet is let go of its device. */
void runtime_worker_vacate(libsched *s, struct runtime_device *device)
{
    device->vacated = true;
    device->restart_at = 0;
    runtime_device_set_state(s, device, LIBSCHED_DEVICE_HELD, "reserved, its worker is ended");
    if (device->worker == NULL || device->stopping)
        return;
    device->stopping = true;
    device->stop_by = s->now + VACATE_WAIT;
    worker_stop(device->worker);
}

void runtime_worker_occupy(libsched *s, struct runtime_device *device)
{
    if (!device->vacated)
        return;
    device->vacated = false;
    runtime_device_set_state(s, device, LIBSCHED_DEVICE_STARTING, "");
    /* One that is still ending is followed by another. */
    if (device->worker == NULL)
        device->restart_at = 1;
}

/* ---------------------------------------------------------------------------- what they say */

static void to_core(libsched *s, struct runtime_device *device, struct core_event *event)
{
    event->device = device->index;
    event->epoch = device->epoch;
    core_handle(s->core, s->now, event);
}

static void is_up(libsched *s, struct runtime_device *device)
{
    struct core_event event = {.type = CORE_WORKER_UP};
    if (device->stopping)
        return; /* it came too late */
    device->in_core_up = true;
    to_core(s, device, &event);
    runtime_log(s, LIBSCHED_LOG_INFO, "%s: up", device->name);
    runtime_device_set_state(s, device, LIBSCHED_DEVICE_UP, "");
    runtime_spin_share(s);
    if (device->prepares)
        runtime_jobs_check_soon(s);
}

/* Requests that the worker had: their inputs are free again. Parts that may not go out are kept for
 * now, as the core may have decided already to send the first of them: when the request is given to
 * a worker again, those that went out have gone, and the others come again. */
static void forget_running(libsched *s, struct runtime_device *device, uint64_t batch,
                           uint32_t step, const libsched_error *why)
{
    LIST_EACH(&device->running, node, following)
    {
        struct runtime_request *request = LIST_ENTRY(node, struct runtime_request, at);
        if (batch != 0 && request->batch != batch)
            continue;
        if (why == NULL) {
            if (request->leaves != 0 && request->leaves <= step)
                runtime_request_taken_back(s, request);
            continue;
        }
        if (!request->ended)
            request->failure = *why;
        runtime_request_taken_back(s, request);
    }
}

/* It was asked to end, and did: no death. */
static void was_stopped(struct runtime_device *device)
{
    device->in_core_up = device->served = device->stopping = false;
    device->deaths = 0;
    device->stop_by = 0;
    if (!device->vacated)
        device->restart_at = 1;
}

static void is_down(libsched *s, struct runtime_device *device, const struct worker_event *event)
{
    libsched_error why = {.status = LIBSCHED_EDEVICELOST};
    snprintf(why.message, sizeof(why.message), "%s",
             device->hung[0] != '\0' ? device->hung : event->error.message);
    device->hung[0] = '\0';
    bool asked = device->stopping;
    s->worker_deaths += !asked;
    forget_running(s, device, 0, 0, &why);
    if (device->job != 0)
        runtime_job_rank_down(s, device, why.message);
    if (device->prepares)
        runtime_jobs_checker_down(s, device);
    if (device->in_core_up) {
        struct core_event down = {.type = CORE_WORKER_DOWN};
        to_core(s, device, &down);
    }
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++)
        if (s->by_index[i] != NULL)
            s->by_index[i]->loads[device->index] = RUNTIME_NOT_LOADED;
    runtime_readings_keep(s, device);
    runtime_load_over(s, device, true);
    free_worker(s, device);
    if (asked)
        was_stopped(device);
    else
        plan_restart(s, device, event->error.status, why.message);
    runtime_models_review(s);
    runtime_spin_share(s);
}

static struct runtime_request *request_at(libsched *s, struct runtime_device *device,
                                          const struct worker_event *event)
{
    struct runtime_request *request = runtime_request_by_core(s, event->id);
    if (request == NULL || list_empty(&request->at) || request->device != device->index ||
        request->batch != event->batch)
        return NULL;
    return request;
}

/* One that has been answered already, and whose inputs the worker still had. */
static void late_end(libsched *s, struct runtime_device *device, const struct worker_event *event)
{
    LIST_EACH(&device->running, node, following)
    {
        struct runtime_request *request = LIST_ENTRY(node, struct runtime_request, at);
        if (request->core_id == event->id && request->batch == event->batch)
            runtime_request_taken_back(s, request);
    }
}

static void part_came(libsched *s, struct runtime_device *device, struct worker_event *event)
{
    struct runtime_request *request = request_at(s, device, event);
    struct core_event part = {.type = CORE_PART,
                              .u.part = {.id = event->id, .batch = event->batch}};
    to_core(s, device, &part);
    if (request != NULL && (!part.u.part.drop || !request->wants_parts))
        runtime_part_came(s, request, event);
    else
        worker_results_release(event->results);
}

static void item_ended(libsched *s, struct runtime_device *device, struct worker_event *event)
{
    struct runtime_request *request = request_at(s, device, event);
    struct core_event done = {
        .type = CORE_ITEM_DONE,
        .u.item_done = {.id = event->id, .batch = event->batch, .status = event->status},
    };
    if (request == NULL) {
        late_end(s, device, event);
        worker_results_release(event->results);
        return;
    }
    device->served = true;
    runtime_request_taken_back(s, request);
    if (event->status < 0)
        request->failure = event->error;
    to_core(s, device, &done);
    if (event->status < 0 || done.u.item_done.drop)
        worker_results_release(event->results);
    else
        runtime_outputs_keep(request, event);
}

static void item_prepared(libsched *s, struct runtime_device *device, struct worker_event *event)
{
    struct runtime_request *request = request_at(s, device, event);
    struct core_event prepared = {
        .type = CORE_PREPARED,
        .u.prepared = {.id = event->id,
                       .batch = event->batch,
                       .units = event->units > 0 ? event->units : 1,
                       .batch_key = event->batch_key,
                       .status = event->status},
    };
    if (request == NULL) {
        late_end(s, device, event);
        worker_results_release(event->results);
        return;
    }
    device->served = true;
    runtime_request_taken_back(s, request);
    request->units = prepared.u.prepared.units;
    if (event->status == LIBSCHED_OK)
        prepared.u.prepared.status = runtime_request_prepare(s, request, event, &request->failure);
    else
        request->failure = event->error;
    worker_results_release(event->results);
    to_core(s, device, &prepared);
}

static void step_ended(libsched *s, struct runtime_device *device, const struct worker_event *event)
{
    uint64_t now = runtime_now(s);
    uint64_t end = event->end < now ? event->end : now;
    uint64_t begin = event->begin < end ? event->begin : end;
    struct core_event done = {
        .type = device->prepares ? CORE_BATCH_DONE : CORE_STEP_DONE,
        .u.step_done = {.batch = event->batch,
                        .step = event->step,
                        .status = event->status,
                        .begin = begin,
                        .end = end},
    };
    if (begin != 0) {
        device->busy_ns += end - begin;
        device->batches++;
    }
    /* A step that failed ends its session: the worker has dropped who was in it. */
    device->lost |= event->status == LIBSCHED_EDEVICELOST;
    forget_running(s, device, event->batch, event->step, event->status < 0 ? &event->error : NULL);
    to_core(s, device, &done);
}

static void memory_reported(libsched *s, struct runtime_device *device,
                            const struct worker_event *event)
{
    struct core_event report = {.type = CORE_MEMORY_REPORT,
                                .u.memory = {.free_bytes = event->free_bytes}};
    to_core(s, device, &report);
}

static void loaded(libsched *s, struct runtime_model *model, struct runtime_device *device,
                   const struct worker_event *event)
{
    if (event->key == s->together.model)
        runtime_load_over(s, device, false);
    runtime_model_loaded(s, model, device, event);
}

static void take(libsched *s, struct runtime_device *device, struct worker_event *event)
{
    struct runtime_model *model;

    switch (event->type) {
    case WORKER_UP:
        is_up(s, device);
        break;
    case WORKER_LOAD_ID:
        runtime_load_id(s, device, event);
        break;
    case WORKER_LOADED:
    case WORKER_UNLOADED:
        model = event->key < CORE_MAX_MODELS ? s->by_index[event->key] : NULL;
        if (model == NULL)
            runtime_worker_kill(s, device, "it speaks of a model that it was not given");
        else if (event->type == WORKER_LOADED)
            loaded(s, model, device, event);
        else
            runtime_model_unloaded(s, model, device, event->status);
        if (device->prepares)
            runtime_jobs_check_soon(s);
        break;
    case WORKER_PART:
        part_came(s, device, event);
        break;
    case WORKER_ITEM:
        if (device->prepares)
            item_prepared(s, device, event);
        else
            item_ended(s, device, event);
        break;
    case WORKER_STEP:
        step_ended(s, device, event);
        break;
    case WORKER_MEMORY:
        memory_reported(s, device, event);
        break;
    case WORKER_LOG:
        runtime_log(s, LIBSCHED_LOG_INFO, "%s: %s", device->name, event->error.message);
        break;
    case WORKER_RANK_CHECKED:
    case WORKER_RANK_ID:
    case WORKER_RANK_KEPT:
    case WORKER_RANK_STARTED:
    case WORKER_RANK_STEPPED:
    case WORKER_RANK_CLOSED:
    case WORKER_PROGRESS:
    case WORKER_RESULT:
        runtime_job_event(s, device, event);
        break;
    case WORKER_FORGOT:
        runtime_log(s, LIBSCHED_LOG_INFO,
                    "%s: for want of memory it has let go what it had kept for jobs with others",
                    device->name);
        runtime_gangs_forget(s, device);
        break;
    case WORKER_DOWN:
        is_down(s, device, event);
        break;
    }
}

uint32_t runtime_worker_events(libsched *s, struct runtime_device *device, uint32_t max)
{
    struct worker_event event;
    uint32_t n = 0;
    while (n < max && device->worker != NULL && worker_next_event(device->worker, &event)) {
        take(s, device, &event);
        n++;
    }
    return n;
}

void runtime_segment_drop(libsched *s, const struct segment *segment)
{
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].worker != NULL)
            worker_drop_segment(s->devices[i].worker, segment);
}

/* ------------------------------------------------------------------------------------ the end */

/* Waits for the exit of one that was asked to end. */
static void await_end(struct runtime_device *device, uint64_t until)
{
    struct worker_event event;
    for (;;) {
        while (worker_next_event(device->worker, &event)) {
            if (event.type == WORKER_PART || event.type == WORKER_ITEM)
                worker_results_release(event.results);
            if (event.type == WORKER_DOWN)
                return;
        }
        uint64_t now = libsched_now();
        if (now >= until)
            return;
        if (worker_arm(device->worker))
            continue;
        struct pollfd fd = {.fd = worker_fd(device->worker), .events = POLLIN};
        poll(&fd, 1, (int)((until - now) / 1000000 + 1));
    }
}

void runtime_workers_end(libsched *s)
{
    bool asked[CORE_MAX_DEVICES] = {false};
    for (uint32_t i = 0; i < s->n_devices; i++) {
        struct runtime_device *device = &s->devices[i];
        if (device->worker == NULL)
            continue;
        /* One in the middle of something may take any time to its end. */
        asked[i] = list_empty(&device->running) && device->in_core_up && device->job == 0;
        LIST_EACH(&device->running, node, following)
        worker_cancel(device->worker, LIST_ENTRY(node, struct runtime_request, at)->core_id);
        if (asked[i])
            worker_stop(device->worker);
        else
            worker_kill(device->worker);
    }
    uint64_t until = libsched_now() + END_WAIT;
    for (uint32_t i = 0; i < s->n_devices; i++) {
        struct runtime_device *device = &s->devices[i];
        if (device->worker == NULL)
            continue;
        if (asked[i])
            await_end(device, until);
        worker_kill(device->worker);
    }
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].worker != NULL)
            free_worker(s, &s->devices[i]);
}
