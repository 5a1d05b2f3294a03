/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a job's ranks run, beside the batches on its devices.
 *
 * A job's step takes all its devices at the same time, with nothing else under way on them. On each
 * device it is known by how much inference is behind its share since the job began: a step adds to
 * it, a batch takes from it. After a step inference goes first on a device where it is behind and
 * has something to begin with; where it has none its claim lapses, as nobody saves up. When it is
 * behind nowhere, the devices are to come to rest for the next step: only batches begin there that
 * end before the last of them is free. So each side waits for one longest step, or one longest
 * batch, beyond its share.
 */
#include "core/internal.h"

/* ------------------------------------------------------------------------------------- shares */

void core_gang_took(struct core *core, uint32_t device, uint64_t ns)
{
    struct core_device_state *d = core->devices[device];
    uint64_t share = core->config.job_share;
    uint64_t owed = core_multiply(ns, 1024 - share) / share;

    if (owed > INT64_MAX / 2)
        owed = INT64_MAX / 2;
    if (d->owed < INT64_MAX / 2)
        d->owed += (int64_t)owed;
}

void core_gang_served(struct core *core, uint32_t device, uint64_t ns)
{
    struct core_device_state *d = core->devices[device];

    if (d->gang == CORE_NONE || ns > INT64_MAX / 2)
        return;
    /* What it had beyond its share is forgotten, but for the last batch. */
    d->owed = d->owed > 0 ? d->owed - (int64_t)ns : -(int64_t)ns;
}

static uint64_t devices_behind(const struct core *core, uint64_t devices)
{
    uint64_t behind = 0;

    for (; devices != 0; devices &= devices - 1)
        if (core->devices[__builtin_ctzll(devices)]->owed > 0)
            behind |= devices & -devices;
    return behind;
}

/* --------------------------------------------------------------------------------------- at rest
 */

static bool device_rests(const struct core_job *j, const struct core_device_state *d)
{
    if (!d->up || d->dying || d->exclusive || d->in_flight > 0)
        return false;
    if (j->reserves)
        return d->n_sessions == 0 && d->loads == 0;
    return j->phase != CORE_JOB_DRAINING || core_device_excess(d) == 0;
}

static bool gang_rests(const struct core *core, const struct core_job *j)
{
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        if (!device_rests(j, core->devices[__builtin_ctzll(bits)]))
            return false;
    return true;
}

/* When the last of its devices will rest, as far as is known. */
static uint64_t gang_ready_at(const struct core *core, const struct core_job *j)
{
    uint64_t at = core->now;

    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1) {
        const struct core_device_state *d = core->devices[__builtin_ctzll(bits)];
        if (device_rests(j, d))
            continue;
        if (d->in_flight == 0 || d->exclusive || j->reserves || core_device_excess(d) > 0)
            return CORE_NEVER;
        uint64_t free_at = core_device_free_at(core, d);
        if (free_at > at)
            at = free_at;
    }
    return at;
}

uint64_t core_gang_until(const struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];

    if (d->gang == CORE_NONE)
        return CORE_NEVER;
    const struct core_job *j = &core->jobs[d->gang];
    switch (j->phase) {
    case CORE_JOB_DRAINING:
        /* What it waits for goes on until it has ended. */
        if (j->reserves || core_device_excess(d) > 0)
            return CORE_NEVER;
        return j->ready_at;
    case CORE_JOB_READY:
        return j->wants ? j->ready_at : CORE_NEVER;
    default:
        return 0;
    }
}

/* --------------------------------------------------------------------------------------- deciding
 */

/* Evicts what is idle; where that is not enough, sessions are to end. */
static void gang_make_room(struct core *core, const struct core_job *j)
{
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(bits);
        struct core_device_state *d = core->devices[device];
        bool closed = core_residency_yield(core, device) > 0;
        if (d->closed != closed)
            core->look_at |= bits & -bits;
        d->closed = closed;
    }
}

static void gang_begin(struct core *core, struct core_job *j)
{
    if (j->phase == CORE_JOB_READY) {
        core_gang_step(core, j);
        return;
    }
    for (uint64_t bits = j->devices; !j->reserves && bits != 0; bits &= bits - 1)
        core->devices[__builtin_ctzll(bits)]->closed = false;
    core_gang_start(core, j);
}

/* It is its turn. */
static void gang_want(struct core *core, struct core_job *j)
{
    uint64_t before = j->wants ? j->ready_at : CORE_NEVER;

    j->wants = true;
    if (j->phase == CORE_JOB_DRAINING && !j->reserves)
        gang_make_room(core, j);
    if (gang_rests(core, j)) {
        gang_begin(core, j);
        return;
    }
    j->ready_at = gang_ready_at(core, j);
    if (j->ready_at != before)
        core->look_at |= j->devices;
}

static void gang_look(struct core *core, struct core_job *j)
{
    switch (j->phase) {
    case CORE_JOB_DRAINING:
        gang_want(core, j);
        break;
    case CORE_JOB_READY:
        if (j->wants || devices_behind(core, j->devices) == 0)
            gang_want(core, j);
        else
            core->job_yields |= j->devices;
        break;
    case CORE_JOB_VACATING:
        for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
            if (core->devices[__builtin_ctzll(bits)]->up)
                return;
        core_gang_hold(core, j);
        break;
    default:
        break;
    }
}

static void gangs_note_due(struct core *core)
{
    core->job_due = core->waiting_jobs == CORE_NONE ? CORE_NEVER : core->job_plan_at;
    for (uint64_t bits = core->job_devices; bits != 0; bits &= bits - 1) {
        const struct core_job *j = &core->jobs[core->devices[__builtin_ctzll(bits)]->gang];
        uint64_t end = core_gang_ends_at(j), due = end < j->due ? end : j->due;
        if (due < core->job_due)
            core->job_due = due;
    }
}

/* Each job once, though it has several devices. */
static uint64_t gang_take_look(struct core *core, uint64_t *devices, struct core_job **j)
{
    uint32_t device = (uint32_t)__builtin_ctzll(*devices);

    *j = &core->jobs[core->devices[device]->gang];
    uint64_t own = (*j)->devices;
    *devices &= ~own;
    return own;
}

void core_gang_schedule(struct core *core)
{
    if (core->n_jobs == 0)
        return;
    core_gang_expire(core);
    if (core->job_plan || core->job_plan_at <= core->now ||
        (core->job_starved && core->look_at != 0))
        core_gang_plan(core);
    uint64_t look = core->job_devices & (core->job_look | core->look_at);
    core->job_look = core->job_yields = 0;
    while (look != 0) {
        struct core_job *j;
        gang_take_look(core, &look, &j);
        gang_look(core, j);
    }
}

void core_gang_resume(struct core *core)
{
    if (core->n_jobs == 0)
        return;
    uint64_t yields = core->job_yields & core->job_devices;
    core->job_yields = 0;
    while (yields != 0) {
        struct core_job *j;
        uint64_t behind = devices_behind(core, gang_take_look(core, &yields, &j));
        for (uint64_t bits = behind; bits != 0; bits &= bits - 1) {
            struct core_device_state *d = core->devices[__builtin_ctzll(bits)];
            if (d->in_flight > 0)
                continue;
            /* Also where it is still behind elsewhere: or it would claim this later. */
            d->owed = 0;
            behind &= ~(bits & -bits);
        }
        if (behind == 0 && j->phase == CORE_JOB_READY)
            gang_want(core, j);
    }
    gangs_note_due(core);
}
