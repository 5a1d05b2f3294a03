/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job's gang: its ranks are started, stepped and closed as the core decides, and what they say
 * goes to the core. What a rank says counts only from the worker that has it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"

static void to_core(libsched *s, struct runtime_device *device, struct core_event *event)
{
    event->device = device->index;
    event->epoch = device->epoch;
    core_handle(s->core, s->now, event);
}

static uint32_t rank_of(const struct runtime_job *job, const struct runtime_device *device)
{
    uint32_t rank = 0;
    while (rank < job->n_ranks && job->ranks[rank] != device->index)
        rank++;
    return rank;
}

/* What a rank failed with is the job's failure, if it is the first; the others' may only be that
 * they missed it. */
static void note_failure(struct runtime_job *job, const struct runtime_device *device, int status,
                         const char *message)
{
    if (job->failure.status != LIBSCHED_OK && job->failure.status != LIBSCHED_ECANCELED)
        return;
    if (job->n_ranks > 1)
        libsched_error_set(&job->failure, status, "rank %u on %s: %s", rank_of(job, device),
                           device->name, message);
    else
        libsched_error_set(&job->failure, status, "on %s: %s", device->name, message);
}

/* --------------------------------------------------------------------- what the core decided */

/* One that could not be started has answered. */
static void not_started(libsched *s, struct runtime_job *job, struct runtime_device *device,
                        int status, const char *message)
{
    struct core_event started = {.type = CORE_RANK_STARTED,
                                 .u.rank = {.id = job->core_id, .status = status}};
    note_failure(job, device, status, message);
    to_core(s, device, &started);
}

/* Ranks wait for each other somewhat less long than a step may take: so they say which is missing,
 * and their workers live on. */
uint64_t runtime_job_collective_limit(const struct runtime_job *job)
{
    return job->step_limit - job->step_limit / 8;
}

static void start_rank(libsched *s, struct runtime_job *job, uint32_t i)
{
    struct runtime_device *device = &s->devices[job->ranks[i]];
    const struct worker_rank rank = {
        .job = job->core_id,
        .name = job->name,
        .program = job->program,
        .library = job->library,
        .parameters = job->parameters,
        .n_parameters = job->n_parameters,
        .rank = i,
        .n_ranks = job->n_ranks,
        .timeout_ns = runtime_job_collective_limit(job),
        .shared = job->shared,
        .kept = job->kept,
    };
    libsched_error err = {0};
    if (device->worker == NULL || !device->in_core_up)
        return; /* the core knows */
    if (job->n_ranks > 1)
        runtime_load_beside(s, device, true);
    int rc = worker_rank_start(device->worker, &rank, &err);
    /* Of one that is ending the core hears soon. */
    if (rc == LIBSCHED_OK || rc == LIBSCHED_EDEVICELOST || rc == LIBSCHED_EBUSY) {
        device->job = job->core_id;
        device->rank_closes = false;
    } else {
        not_started(s, job, device, rc, err.message);
    }
    if (rc == LIBSCHED_EBUSY)
        runtime_worker_kill(s, device, err.message);
}

static void start_ranks(libsched *s, struct runtime_job *job)
{
    libsched_error err = {0};
    if (job->n_ranks > 1 &&
        runtime_gang_begin(s, job, runtime_job_collective_limit(job), &err) < 0) {
        for (uint32_t i = 0; i < job->n_ranks; i++)
            not_started(s, job, &s->devices[job->ranks[i]], err.status, err.message);
        return;
    }
    for (uint32_t i = 0; i < job->n_ranks; i++)
        start_rank(s, job, i);
    runtime_spin_share(s);
}

static void hold(libsched *s, struct runtime_job *job)
{
    char reason[LIBSCHED_MESSAGE_SIZE];
    snprintf(reason, sizeof(reason), "held by job %" PRIu64 " (%s%s%.64s)", job->id, job->name,
             job->client[0] != '\0' ? " of " : "", job->client);
    for (uint32_t i = 0; i < job->n_ranks; i++)
        runtime_device_set_state(s, &s->devices[job->ranks[i]], LIBSCHED_DEVICE_HELD, reason);
}

static void start(libsched *s, struct runtime_job *job, const struct core_action *action)
{
    struct core_job_info info;
    job->n_ranks = action->n_ranks;
    memcpy(job->ranks, action->ranks, action->n_ranks * sizeof(job->ranks[0]));
    for (uint32_t i = 0; i < job->n_ranks; i++)
        job->devices |= UINT64_C(1) << job->ranks[i];
    job->started_at = s->now;
    if (core_job_get(s->core, job->core_id, &info) == LIBSCHED_OK) {
        job->distance = info.distance;
        job->least_distance = info.least_distance;
    }
    if (job->reservation) {
        hold(s, job);
        runtime_job_set_state(s, job, LIBSCHED_JOB_RUNNING);
        return;
    }
    runtime_job_set_state(s, job, LIBSCHED_JOB_STARTING);
    start_ranks(s, job);
}

/* The workers of the ranks that an action names, and that have them. */
static void tell_ranks(libsched *s, struct runtime_job *job, const struct core_action *action)
{
    for (uint32_t i = 0; i < action->n_ranks; i++) {
        struct runtime_device *device = &s->devices[action->ranks[i]];
        if (device->worker == NULL || device->job != job->core_id)
            continue;
        int rc = action->type == CORE_JOB_STEP
                     ? worker_rank_step(device->worker, job->core_id, action->step)
                     : worker_rank_close(device->worker, job->core_id, action->status < 0);
        if (rc < 0)
            runtime_worker_kill(s, device, "it does not take its commands");
        device->rank_closes |= action->type == CORE_JOB_CLOSE;
    }
}

static void step(libsched *s, struct runtime_job *job, const struct core_action *action)
{
    job->step = action->step;
    tell_ranks(s, job, action);
    runtime_job_set_state(s, job, LIBSCHED_JOB_RUNNING);
}

static void close_ranks(libsched *s, struct runtime_job *job, const struct core_action *action)
{
    tell_ranks(s, job, action);
    runtime_job_set_state(s, job, LIBSCHED_JOB_CLOSING);
}

void runtime_job_act(libsched *s, const struct core_action *action)
{
    struct runtime_job *job = runtime_job_by_core(s, action->job);
    if (job == NULL)
        return;
    switch (action->type) {
    case CORE_JOB_START:
        start(s, job, action);
        break;
    case CORE_JOB_STEP:
        step(s, job, action);
        break;
    case CORE_JOB_CLOSE:
        close_ranks(s, job, action);
        break;
    default: /* CORE_JOB_REPLY */
        runtime_job_finish(s, job, action->status);
    }
}

const char *runtime_job_kill_text(libsched *s, struct runtime_device *device, char *out,
                                  size_t size)
{
    struct runtime_job *job = runtime_job_by_core(s, device->job);
    if (job == NULL || device->lost)
        return "the scheduler gave it up";
    snprintf(out, size,
             "it did not answer within its limit (%" PRIu64 ".%03" PRIu64
             " s a step), so its worker was ended",
             job->step_limit / 1000000000, job->step_limit / 1000000 % 1000);
    note_failure(job, device, LIBSCHED_EDEVICELOST, out);
    return out;
}

/* --------------------------------------------------------------------------- what they say */

static void started(libsched *s, struct runtime_job *job, struct runtime_device *device,
                    const struct worker_event *event)
{
    struct core_event to = {.type = CORE_RANK_STARTED,
                            .u.rank = {.id = job->core_id, .status = event->status}};
    if (event->status < 0) {
        note_failure(job, device, event->status, event->error.message);
        if (device->rank_closes)
            return; /* it answers that as well, and has it until then */
        device->job = 0;
    }
    to_core(s, device, &to);
}

static void stepped(libsched *s, struct runtime_job *job, struct runtime_device *device,
                    const struct worker_event *event)
{
    uint64_t now = runtime_now(s);
    uint64_t end = event->end < now ? event->end : now;
    uint64_t begin = event->begin < end ? event->begin : end;
    struct core_event to = {
        .type = CORE_RANK_STEPPED,
        .u.rank = {.id = job->core_id,
                   .step = (uint32_t)event->step,
                   .status = event->status,
                   .finished = event->finished,
                   .begin = begin,
                   .end = end},
    };
    device->served = true;
    device->lost |= event->status == LIBSCHED_EDEVICELOST;
    if (begin != 0)
        device->busy_ns += end - begin;
    if (event->status < 0)
        note_failure(job, device, event->status, event->error.message);
    to_core(s, device, &to);
}

static void closed(libsched *s, struct runtime_job *job, struct runtime_device *device)
{
    struct core_event to = {.type = CORE_RANK_CLOSED, .u.rank = {.id = job->core_id}};
    device->job = 0;
    to_core(s, device, &to);
    runtime_spin_share(s);
}

/* All ranks go on with what they have kept, or with something new, once all have said what they
 * have. */
static void kept(libsched *s, struct runtime_job *job, struct runtime_device *device,
                 const struct worker_event *event)
{
    libsched_error err = {0};
    if (!runtime_gang_hear(s, job, event, &err))
        return;
    if (job->shared == NULL)
        note_failure(job, device, err.status, err.message);
    for (uint32_t i = 0; i < job->n_ranks; i++) {
        struct runtime_device *other = &s->devices[job->ranks[i]];
        if (other->worker == NULL || other->job != job->core_id || other->rank_closes)
            continue;
        /* Where there is nothing to go on with, it fails as one that is cancelled. */
        int rc = job->shared != NULL
                     ? worker_rank_go(other->worker, job->core_id, job->kept, job->shared, &err)
                     : worker_rank_close(other->worker, job->core_id, true);
        if (rc < 0 && rc != LIBSCHED_EDEVICELOST)
            runtime_worker_kill(s, other, "it does not take its commands");
    }
}

/* The others find rank 0 by this. */
static void pass_id(libsched *s, struct runtime_job *job, const struct worker_event *event)
{
    for (uint32_t i = 1; i < job->n_ranks; i++) {
        struct runtime_device *device = &s->devices[job->ranks[i]];
        if (device->worker == NULL || device->job != job->core_id)
            continue;
        if (worker_rank_id(device->worker, job->core_id, event->rank_id) < 0)
            runtime_worker_kill(s, device, "it does not take its commands");
    }
}

void runtime_job_rank_event(libsched *s, struct runtime_device *device,
                            const struct worker_event *event)
{
    struct runtime_job *job = runtime_job_by_core(s, event->job);
    if (job == NULL || device->job != event->job)
        return;
    bool first = job->n_ranks > 0 && job->ranks[0] == device->index;
    switch (event->type) {
    case WORKER_RANK_ID:
        if (first)
            pass_id(s, job, event);
        break;
    case WORKER_RANK_KEPT:
        kept(s, job, device, event);
        break;
    case WORKER_RANK_STARTED:
        started(s, job, device, event);
        break;
    case WORKER_RANK_STEPPED:
        stepped(s, job, device, event);
        break;
    case WORKER_RANK_CLOSED:
        closed(s, job, device);
        break;
    case WORKER_PROGRESS:
        if (first)
            runtime_job_progress(s, job, event);
        break;
    case WORKER_RESULT:
        if (first)
            runtime_job_value(s, job, event->result);
        break;
    default:
        break;
    }
}

void runtime_job_rank_down(libsched *s, struct runtime_device *device, const char *why)
{
    struct runtime_job *job = runtime_job_by_core(s, device->job);
    /* Whatever it died of, it was the job's. */
    device->served = true;
    device->job = 0;
    if (job != NULL)
        note_failure(job, device, LIBSCHED_EDEVICELOST, why);
}
