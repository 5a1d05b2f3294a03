/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job's life: it waits until gang_plan.c finds devices for it; these come to rest (or, for a
 * reservation, are emptied and vacated); its ranks start, step (when gang_turn.c says so) and end.
 *
 * A device belongs to the job from the moment it is chosen until its own rank is gone, so at the
 * end they come back one by one. What a rank says is believed only where it was asked: what is late
 * is ignored, and what can't be true fails the job.
 */
#include <stdlib.h>

#include "core/internal.h"

#define RETRY_AFTER UINT64_C(1000000000)
#define JOB_SLOT_BITS 16
#define JOB_SLOT_MASK ((UINT64_C(1) << JOB_SLOT_BITS) - 1)

int core_gangs_init(struct core *core)
{
    if (core->config.max_jobs == 0)
        core->config.max_jobs = 256;
    if (core->config.job_share == 0)
        core->config.job_share = 512;
    /* Debts of clients without a job are remembered, as far as there is room for them. */
    core->max_job_clients = core->config.max_jobs + 256;
    core->jobs = calloc(core->config.max_jobs, sizeof(core->jobs[0]));
    core->job_clients = calloc(core->max_job_clients, sizeof(core->job_clients[0]));
    core->job_order = calloc(core->config.max_jobs, sizeof(core->job_order[0]));
    if (core->jobs == NULL || core->job_clients == NULL || core->job_order == NULL)
        return LIBSCHED_ENOMEM;
    for (uint32_t i = 0; i < core->config.max_jobs; i++) {
        core->jobs[i].next = i + 1 < core->config.max_jobs ? i + 1 : CORE_NONE;
        core->jobs[i].action.prev = CORE_UNLINKED;
    }
    core->waiting_jobs = core->last_job = core->head_job = CORE_NONE;
    core->job_due = core->job_plan_at = CORE_NEVER;
    return LIBSCHED_OK;
}

uint32_t core_gang_slot(const struct core *core, const struct core_job *j)
{
    return (uint32_t)(j - core->jobs);
}

struct core_job *core_gang_find(const struct core *core, uint64_t id)
{
    uint64_t slot = id & JOB_SLOT_MASK;

    if (slot >= core->config.max_jobs)
        return NULL;
    struct core_job *j = &core->jobs[slot];
    return j->id == id && j->phase != CORE_JOB_FREE && j->phase != CORE_JOB_ENDED ? j : NULL;
}

static bool has_ranks(const struct core_job *j)
{
    return !j->reserves && j->phase >= CORE_JOB_BEGINS && j->phase <= CORE_JOB_ENDING;
}

/* What it says next replaces what the caller has not heard yet. */
static void gang_say(struct core *core, struct core_job *j, enum core_job_say say)
{
    j->say = (uint8_t)say;
    core_action_link(core, core_job_node(core_gang_slot(core, j)));
}

static void gang_unsay(struct core *core, struct core_job *j)
{
    j->say = 0;
    core_action_unlink(core, core_job_node(core_gang_slot(core, j)));
}

/* Whether the caller has heard what it said last. */
static bool gang_heard(const struct core_job *j)
{
    return !core_action_linked(&j->action);
}

/* ------------------------------------------------------------------------------------- submit */

static int submit_check(const struct core *core, const struct core_job_submit *submit)
{
    uint32_t n = 0, roomy = 0;

    if (core->draining)
        return LIBSCHED_ECLOSING;
    if ((submit->flags & ~(uint32_t)CORE_JOB_RESERVE) != 0 || submit->n_devices == 0 ||
        submit->devices == 0 || submit->priority >= CORE_PRIORITIES)
        return LIBSCHED_EINVAL;
    for (uint64_t bits = submit->devices; bits != 0; bits &= bits - 1) {
        const struct core_device_state *d = core->devices[__builtin_ctzll(bits)];
        if (d == NULL || d->config.kind != CORE_COMPUTE)
            return LIBSCHED_EINVAL;
        n++;
        roomy += (submit->flags & CORE_JOB_RESERVE) || d->config.memory_bytes == 0 ||
                 submit->memory_bytes <= d->config.memory_bytes;
    }
    if (n < submit->n_devices)
        return LIBSCHED_ENODEVICE;
    if (roomy < submit->n_devices)
        return LIBSCHED_ENODEVMEM;
    return core->free_job == CORE_NONE ? LIBSCHED_EBUSY : LIBSCHED_OK;
}

int core_gang_submit(struct core *core, struct core_job_submit *submit)
{
    submit->id = 0;
    submit->retry_after = 0;
    int status = submit_check(core, submit);
    if (status == LIBSCHED_EBUSY)
        submit->retry_after = RETRY_AFTER;
    if (status != LIBSCHED_OK)
        return status;
    uint32_t slot = core->free_job;
    struct core_job *j = &core->jobs[slot];
    core->free_job = j->next;
    core->n_jobs++;
    core->jobs_submitted++;
    core->job_generation += UINT64_C(1) << JOB_SLOT_BITS;
    if (core->job_generation == 0)
        core->job_generation = UINT64_C(1) << JOB_SLOT_BITS;
    *j = (struct core_job){
        .id = core->job_generation | slot,
        .allowed = submit->devices,
        .memory = submit->flags & CORE_JOB_RESERVE ? 0 : submit->memory_bytes,
        .time_limit = submit->time_limit,
        .step_limit = submit->step_limit == 0 ? CORE_STEP_LIMIT : submit->step_limit,
        .submitted = core->now,
        .due = CORE_NEVER,
        .ready_at = CORE_NEVER,
        .action = {.next = CORE_NONE, .prev = CORE_UNLINKED},
        .client = core_gang_enter(core, submit->client, submit->priority),
        .n_devices = submit->n_devices,
        .priority = (uint8_t)submit->priority,
        .reserves = (submit->flags & CORE_JOB_RESERVE) != 0,
    };
    core_gang_wait(core, j);
    submit->id = j->id;
    return LIBSCHED_OK;
}

/* ----------------------------------------------------------------------------- its devices */

void core_gang_assign(struct core *core, struct core_job *j, uint64_t devices)
{
    core_gang_unwait(core, j);
    j->phase = CORE_JOB_DRAINING;
    j->devices = devices;
    j->wants = true;
    j->due = core_add(core->now, j->step_limit);
    j->ready_at = CORE_NEVER;
    core->job_devices |= devices;
    core->job_look |= devices;
    for (; devices != 0; devices &= devices - 1) {
        struct core_device_state *d = core->devices[__builtin_ctzll(devices)];
        d->gang = core_gang_slot(core, j);
        d->closed = d->reserved = j->reserves;
        d->owed = 0;
        /* Before it is there: so nobody else takes what gets free. */
        d->gang_memory = d->config.memory_bytes == 0 ? 0 : j->memory;
        core_device_take(d, d->gang_memory);
    }
    core->plan |= j->reserves; /* what it had resident may be wanted elsewhere */
}

static void gang_release(struct core *core, struct core_job *j, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    uint64_t bit = core_bit(device);

    core_device_give(d, d->gang_memory);
    if (!d->up)
        d->down_at = core->now;
    d->gang = CORE_NONE;
    d->gang_memory = 0;
    d->closed = d->reserved = false;
    d->owed = 0;
    j->devices &= ~bit;
    j->begun &= ~bit;
    j->awaits &= ~bit;
    core->job_devices &= ~bit;
    core->job_look &= ~bit;
    core->look_at |= bit;
    core->plan = core->job_plan = core->dirty = true;
}

static void gang_end(struct core *core, struct core_job *j)
{
    core_gang_settle(core, j);
    if (j->again) {
        j->again = false;
        core_gang_wait(core, j);
        return;
    }
    j->phase = CORE_JOB_ENDED;
    core->jobs_ended++;
    core_gang_leave(core, j);
    gang_say(core, j, CORE_SAY_REPLY);
}

/* Gives all back of what has not begun. */
static void gang_abandon(struct core *core, struct core_job *j)
{
    gang_unsay(core, j);
    while (j->devices != 0)
        gang_release(core, j, (uint32_t)__builtin_ctzll(j->devices));
    j->wants = false;
    j->started = 0;
    j->due = CORE_NEVER;
    gang_end(core, j);
}

static void gang_wait_anew(struct core *core, struct core_job *j)
{
    j->again = true;
    gang_abandon(core, j);
}

/* What a rank has been at until now. */
void core_gang_account(struct core *core, struct core_job *j, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    uint64_t ns = core->now - d->gang_since;

    d->gang_since = core->now;
    j->device_ns += ns;
    core_gang_took(core, device, ns);
    core_gang_charge(core, j);
}

/* All its ranks are given something to do, which is to be answered in time. */
static void gang_ask(struct core *core, struct core_job *j, enum core_job_phase phase,
                     enum core_job_say say)
{
    j->phase = (uint8_t)phase;
    j->awaits = j->devices;
    j->wants = false;
    j->due = core_add(core->now, j->step_limit);
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        core->devices[__builtin_ctzll(bits)]->gang_since = core->now;
    gang_say(core, j, say);
}

/* ---------------------------------------------------------------------------- reservations */

/* Devices whose caller has heard that it is to end their workers are waited for; the others are
 * free at once. */
static void gang_occupy(struct core *core, struct core_job *j)
{
    j->phase = CORE_JOB_ENDING;
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(bits);
        struct core_device_state *d = core->devices[device];
        if (d->vacated && d->up)
            continue;
        if (d->vacated) {
            core_device_say(core, device, CORE_SAY_OCCUPY);
        } else if (d->say & CORE_SAY_VACATE) {
            d->say &= (uint8_t)~CORE_SAY_VACATE;
            if (d->say == 0)
                core_action_unlink(core, CORE_NODE_DEVICES + device);
        }
        gang_release(core, j, device);
    }
    if (j->devices == 0) {
        j->due = CORE_NEVER;
        gang_end(core, j);
    }
}

static void gang_vacate(struct core *core, struct core_job *j)
{
    j->phase = CORE_JOB_VACATING;
    j->due = core_add(core->now, j->step_limit);
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        core_device_say(core, (uint32_t)__builtin_ctzll(bits), CORE_SAY_VACATE);
}

void core_gang_hold(struct core *core, struct core_job *j)
{
    j->phase = CORE_JOB_HELD;
    j->started = core->now;
    j->due = CORE_NEVER;
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        core->devices[__builtin_ctzll(bits)]->gang_since = core->now;
    gang_say(core, j, CORE_SAY_START);
}

static void gang_give_back(struct core *core, struct core_job *j, int status)
{
    j->status = status;
    switch (j->phase) {
    case CORE_JOB_DRAINING:
        gang_abandon(core, j);
        break;
    case CORE_JOB_HELD:
        gang_unsay(core, j);
        for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
            core_gang_account(core, j, (uint32_t)__builtin_ctzll(bits));
        gang_occupy(core, j);
        break;
    default: /* CORE_JOB_VACATING */
        gang_occupy(core, j);
    }
}

/* ----------------------------------------------------------------------------------- its ranks */

void core_gang_start(struct core *core, struct core_job *j)
{
    if (j->reserves) {
        gang_vacate(core, j);
        return;
    }
    j->started = core->now;
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        core->devices[__builtin_ctzll(bits)]->owed = 0;
    gang_ask(core, j, CORE_JOB_BEGINS, CORE_SAY_START);
}

void core_gang_step(struct core *core, struct core_job *j)
{
    j->step++;
    j->finished = 0;
    gang_ask(core, j, CORE_JOB_STEPPING, CORE_SAY_STEP);
}

static void gang_ready(struct core *core, struct core_job *j)
{
    j->phase = CORE_JOB_READY;
    j->due = CORE_NEVER;
    j->ready_at = CORE_NEVER;
    core->job_look |= j->devices;
    core->look_at |= j->devices;
    /* A load that wants to be alone may have waited for it. */
    core->plan = true;
}

static uint64_t devices_dying(const struct core *core, uint64_t devices)
{
    uint64_t dying = 0;

    for (; devices != 0; devices &= devices - 1)
        if (core->devices[__builtin_ctzll(devices)]->dying)
            dying |= devices & -devices;
    return dying;
}

void core_gang_close(struct core *core, struct core_job *j, int status)
{
    if (j->reserves) {
        gang_give_back(core, j, status);
        return;
    }
    j->status = status;
    if (j->phase == CORE_JOB_DRAINING || (j->phase == CORE_JOB_BEGINS && !gang_heard(j))) {
        gang_abandon(core, j);
        return;
    }
    if (j->phase == CORE_JOB_BEGINS || j->phase == CORE_JOB_STEPPING)
        for (uint64_t bits = j->awaits; bits != 0; bits &= bits - 1)
            core_gang_account(core, j, (uint32_t)__builtin_ctzll(bits));
    gang_unsay(core, j);
    if (j->devices == 0) {
        j->due = CORE_NEVER;
        gang_end(core, j);
        return;
    }
    gang_ask(core, j, CORE_JOB_ENDING, CORE_SAY_CLOSE);
    if ((j->devices & ~devices_dying(core, j->devices)) == 0)
        gang_unsay(core, j); /* nobody is left to be told */
}

/* A rank is gone, and with it, may be, the last. */
static void gang_gone(struct core *core, struct core_job *j, uint32_t device)
{
    if (j->awaits & core_bit(device))
        core_gang_account(core, j, device);
    gang_release(core, j, device);
    if (j->phase != CORE_JOB_ENDING || j->devices != 0)
        return;
    gang_unsay(core, j);
    j->due = CORE_NEVER;
    gang_end(core, j);
}

static void rank_failed(struct core *core, struct core_job *j, uint32_t device, int status)
{
    if (status == LIBSCHED_EDEVICELOST)
        core_device_kill(core, device);
    if (j->phase != CORE_JOB_ENDING)
        core_gang_close(core, j, status);
}

static void rank_started(struct core *core, struct core_job *j, uint32_t device, int status)
{
    uint64_t bit = core_bit(device);

    if (j->begun & bit)
        return;
    if (j->phase == CORE_JOB_BEGINS && !gang_heard(j))
        return;
    if (status == LIBSCHED_EDEVICELOST) {
        rank_failed(core, j, device, status);
    } else if (status != LIBSCHED_OK) {
        /* Of this rank nothing is left. */
        gang_gone(core, j, device);
        if (j->phase == CORE_JOB_BEGINS)
            core_gang_close(core, j, status);
    } else {
        j->begun |= bit;
        if (j->phase != CORE_JOB_BEGINS)
            return;
        core_gang_account(core, j, device);
        j->awaits &= ~bit;
        if (j->awaits == 0)
            gang_ready(core, j);
    }
}

static void rank_stepped(struct core *core, struct core_job *j, uint32_t device,
                         const struct core_event *event)
{
    uint64_t bit = core_bit(device);
    uint32_t step = event->u.rank.step;
    int status = event->u.rank.status;

    if (j->phase == CORE_JOB_ENDING) {
        if (status == LIBSCHED_EDEVICELOST)
            core_device_kill(core, device);
        return;
    }
    if (step > j->step || (step == j->step && j->phase == CORE_JOB_STEPPING && !gang_heard(j))) {
        core_gang_close(core, j, LIBSCHED_EENGINE); /* nobody asked for it */
        return;
    }
    if (j->phase != CORE_JOB_STEPPING || step != j->step || !(j->awaits & bit))
        return;
    core_gang_account(core, j, device);
    j->awaits &= ~bit;
    if (event->u.rank.finished)
        j->finished |= bit;
    if (status != LIBSCHED_OK) {
        rank_failed(core, j, device, status);
    } else if (j->awaits == 0) {
        if (j->finished == 0 && j->step < UINT32_MAX)
            gang_ready(core, j);
        else
            core_gang_close(core, j, j->finished == j->devices ? LIBSCHED_OK : LIBSCHED_EENGINE);
    }
}

static void rank_closed(struct core *core, struct core_job *j, uint32_t device)
{
    if (j->phase == CORE_JOB_ENDING) {
        if (gang_heard(j))
            gang_gone(core, j, device);
    } else if (j->phase != CORE_JOB_BEGINS || gang_heard(j)) {
        core_gang_close(core, j, LIBSCHED_EENGINE); /* by itself: it is told all the same */
    }
}

void core_gang_rank(struct core *core, uint32_t device, const struct core_event *event)
{
    struct core_job *j = core_gang_find(core, event->u.rank.id);

    if (j == NULL || !has_ranks(j) || !(j->devices & core_bit(device)))
        return;
    if (event->type == CORE_RANK_STARTED)
        rank_started(core, j, device, event->u.rank.status);
    else if (event->type == CORE_RANK_STEPPED)
        rank_stepped(core, j, device, event);
    else
        rank_closed(core, j, device);
}

/* ------------------------------------------------------------------------------------- its end */

int core_gang_cancel(struct core *core, uint64_t id, int status)
{
    struct core_job *j = core_gang_find(core, id);

    if (j == NULL)
        return LIBSCHED_ENOENT;
    if (status == LIBSCHED_OK && !j->reserves)
        return LIBSCHED_EINVAL;
    if (j->phase == CORE_JOB_WAITING) {
        core_gang_unwait(core, j);
        j->status = status;
        gang_end(core, j);
    } else if (j->phase != CORE_JOB_ENDING) {
        core_gang_close(core, j, status);
    } else if (j->again) {
        j->again = false; /* it would have waited anew */
        j->status = status;
    }
    return LIBSCHED_OK;
}

bool core_gang_busy(const struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];

    if (d->gang == CORE_NONE)
        return false;
    const struct core_job *j = &core->jobs[d->gang];
    return !j->reserves && j->phase != CORE_JOB_DRAINING && (j->awaits & core_bit(device)) != 0;
}

/* A reservation's device: its worker has ended. */
static void vacated_lost(struct core *core, struct core_job *j, uint32_t device)
{
    if (j->phase == CORE_JOB_VACATING && !core->devices[device]->vacated) {
        /* By itself: the caller may be about to start it again. */
        j->again = true;
        gang_occupy(core, j);
    } else if (j->phase == CORE_JOB_ENDING) {
        gang_occupy(core, j);
    } else {
        core->job_look |= core_bit(device);
    }
}

void core_gang_lost(struct core *core, uint32_t device)
{
    uint32_t gang = core->devices[device]->gang;

    if (gang == CORE_NONE)
        return;
    struct core_job *j = &core->jobs[gang];
    if (j->phase == CORE_JOB_DRAINING || (j->phase == CORE_JOB_BEGINS && !gang_heard(j))) {
        gang_wait_anew(core, j); /* nothing is lost: others may do */
    } else if (j->reserves) {
        vacated_lost(core, j, device);
    } else {
        gang_gone(core, j, device);
        if (j->phase != CORE_JOB_ENDING && j->phase != CORE_JOB_ENDED)
            core_gang_close(core, j, LIBSCHED_EDEVICELOST);
    }
}

static void gang_kill(struct core *core, uint64_t devices)
{
    for (; devices != 0; devices &= devices - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(devices);
        if (core->devices[device]->up)
            core_device_kill(core, device);
    }
}

static void gang_overdue(struct core *core, struct core_job *j)
{
    uint64_t late = j->awaits;

    if (!gang_heard(j)) {
        j->due = core_add(core->now, j->step_limit); /* they were not asked yet */
        return;
    }
    j->due = CORE_NEVER;
    switch (j->phase) {
    case CORE_JOB_DRAINING:
        if (j->reserves)
            gang_vacate(core, j); /* whoever still holds on to it is tried again elsewhere */
        else
            gang_wait_anew(core, j);
        break;
    case CORE_JOB_VACATING:
        gang_kill(core, j->devices);
        break;
    case CORE_JOB_ENDING:
        gang_kill(core, j->reserves ? j->devices : late);
        break;
    default: /* CORE_JOB_BEGINS, CORE_JOB_STEPPING */
        gang_kill(core, late);
        core_gang_close(core, j, LIBSCHED_EDEVICELOST);
    }
}

uint64_t core_gang_ends_at(const struct core_job *j)
{
    bool timed = j->time_limit != 0 && j->phase >= CORE_JOB_HELD && j->phase <= CORE_JOB_STEPPING;
    return timed ? core_add(j->started, j->time_limit) : CORE_NEVER;
}

void core_gang_expire(struct core *core)
{
    if (core->job_due > core->now)
        return;
    for (uint64_t bits = core->job_devices; bits != 0; bits &= bits - 1) {
        uint32_t gang = core->devices[__builtin_ctzll(bits)]->gang;
        if (gang == CORE_NONE)
            continue; /* given back by one before */
        struct core_job *j = &core->jobs[gang];
        if (j->due <= core->now)
            gang_overdue(core, j);
        if (core_gang_ends_at(j) <= core->now)
            core_gang_close(core, j, LIBSCHED_ETIMELIMIT);
    }
}

/* ------------------------------------------------------------------------------------- actions */

bool core_gang_action(struct core *core, uint32_t slot, struct core_action *out)
{
    static const enum core_action_type types[] = {
        [CORE_SAY_START] = CORE_JOB_START,
        [CORE_SAY_STEP] = CORE_JOB_STEP,
        [CORE_SAY_CLOSE] = CORE_JOB_CLOSE,
        [CORE_SAY_REPLY] = CORE_JOB_REPLY,
    };
    struct core_job *j = &core->jobs[slot];

    out->type = types[j->say];
    out->job = j->id;
    out->status = j->status;
    out->step = j->step;
    gang_unsay(core, j);
    if (out->type == CORE_JOB_REPLY) {
        j->phase = CORE_JOB_FREE;
        j->next = core->free_job;
        core->free_job = slot;
        core->n_jobs--;
        return true;
    }
    /* A worker that is being ended has not to be asked to close its rank, too. */
    uint64_t devices = j->devices;
    if (out->type == CORE_JOB_CLOSE)
        devices &= ~devices_dying(core, devices);
    for (; devices != 0; devices &= devices - 1)
        core->ranks[out->n_ranks++] = (uint32_t)__builtin_ctzll(devices);
    out->ranks = core->ranks;
    return out->n_ranks > 0;
}
