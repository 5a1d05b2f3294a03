/* SPDX-License-Identifier: Apache-2.0 */
/* What a job is at, and what for. */
#include "core/internal.h"

static uint32_t count(uint64_t bits)
{
    return (uint32_t)__builtin_popcountll(bits);
}

/* When a device will have been given back at the latest; 0: its job has no limit. */
static uint64_t given_back_by(const struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];

    if (d->gang == CORE_NONE)
        return core->now;
    const struct core_job *j = &core->jobs[d->gang];
    if (j->phase == CORE_JOB_ENDING)
        return j->due == CORE_NEVER ? core->now : j->due;
    if (j->time_limit == 0)
        return 0;
    /* Not begun: it drains at most so long. */
    uint64_t begin = j->started != 0 ? j->started : j->due == CORE_NEVER ? core->now : j->due;
    return core_add(core_add(begin, j->time_limit), j->step_limit);
}

/* The head of the line has the k devices that come back first. */
static uint64_t head_starts_by(const struct core *core, const struct core_job *j, uint64_t devices)
{
    uint64_t at[CORE_MAX_DEVICES];
    uint32_t n = 0;

    for (; devices != 0; devices &= devices - 1) {
        uint64_t by = given_back_by(core, (uint32_t)__builtin_ctzll(devices));
        uint32_t i = n;
        if (by == 0)
            continue;
        for (; i > 0 && at[i - 1] > by; i--)
            at[i] = at[i - 1];
        at[i] = by;
        n++;
    }
    return n < j->n_devices ? 0 : core_add(at[j->n_devices - 1], j->step_limit);
}

/* Of the jobs that have some of these, the one that gives them back first. */
static uint64_t holder(const struct core *core, uint64_t devices)
{
    uint64_t id = 0, least = CORE_NEVER;

    for (devices &= core->job_devices; devices != 0; devices &= devices - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(devices);
        uint64_t by = given_back_by(core, device);
        if (id == 0 || (by != 0 && by < least)) {
            id = core->jobs[core->devices[device]->gang].id;
            least = by == 0 ? CORE_NEVER : by;
        }
    }
    return id;
}

static void why_waiting(const struct core *core, const struct core_job *j,
                        struct core_job_info *out)
{
    uint64_t up = core_gang_up(core, j, false), unheld = up & ~core->job_devices;
    uint64_t roomy = core_gang_roomy(core, j, up);
    uint32_t first = core_gang_first(core);

    if (count(up) < j->n_devices) {
        out->why = CORE_WHY_DOWN;
        out->have = count(up);
    } else if (count(roomy) < j->n_devices) {
        out->why = CORE_WHY_MEMORY;
        out->have = count(roomy);
    } else if (&core->jobs[first] != j) {
        out->why = CORE_WHY_ORDER;
        out->have = count(roomy & unheld);
        out->blocker = core->jobs[first].id;
    } else {
        out->why = CORE_WHY_DEVICES;
        out->have = count(roomy & unheld);
        out->blocker = holder(core, roomy);
        out->starts_by = head_starts_by(core, j, roomy);
    }
}

static void why_draining(const struct core *core, const struct core_job *j,
                         struct core_job_info *out)
{
    out->why = CORE_WHY_DRAINING;
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1) {
        const struct core_device_state *d = core->devices[__builtin_ctzll(bits)];
        out->have +=
            j->reserves ? d->n_sessions == 0 : d->in_flight == 0 && core_device_excess(d) == 0;
    }
    /* Then they are vacated, or it waits anew. */
    if (j->reserves && j->due != CORE_NEVER)
        out->starts_by = j->phase == CORE_JOB_VACATING ? j->due : core_add(j->due, j->step_limit);
    else if (!j->reserves && j->ready_at != CORE_NEVER)
        out->starts_by = j->ready_at > core->now ? j->ready_at : core->now;
}

int core_job_get(const struct core *core, uint64_t id, struct core_job_info *out)
{
    const struct core_job *j = core_gang_find(core, id);

    if (j == NULL || out == NULL)
        return j == NULL ? LIBSCHED_ENOENT : LIBSCHED_EINVAL;
    *out = (struct core_job_info){
        .need = j->n_devices,
        .distance = j->distance,
        .least_distance = j->least_distance,
        .step = j->step,
        .submitted = j->submitted,
        .started = j->started,
        .device_ns = j->device_ns,
    };
    switch (j->phase) {
    case CORE_JOB_WAITING:
        out->state = CORE_JOB_PENDING;
        why_waiting(core, j, out);
        break;
    case CORE_JOB_DRAINING:
    case CORE_JOB_VACATING:
        out->state = CORE_JOB_PENDING;
        why_draining(core, j, out);
        break;
    case CORE_JOB_BEGINS:
        out->state = CORE_JOB_STARTING;
        break;
    case CORE_JOB_ENDING:
        out->state = CORE_JOB_CLOSING;
        break;
    default:
        out->state = CORE_JOB_RUNNING;
    }
    if (j->phase != CORE_JOB_WAITING)
        for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
            out->ranks[out->n_ranks++] = (uint32_t)__builtin_ctzll(bits);
    if (out->state != CORE_JOB_PENDING)
        out->have = out->n_ranks;
    /* What is under way now. */
    bool runs = j->phase == CORE_JOB_HELD || j->phase == CORE_JOB_BEGINS ||
                j->phase == CORE_JOB_STEPPING || j->phase == CORE_JOB_ENDING;
    uint64_t at_it = j->phase == CORE_JOB_HELD ? j->devices : j->awaits;
    for (; runs && at_it != 0; at_it &= at_it - 1)
        out->device_ns += core->now - core->devices[__builtin_ctzll(at_it)]->gang_since;
    return LIBSCHED_OK;
}
