/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: the coming and going of their workers, and their memory. */
#include <stdlib.h>

#include "core/internal.h"

#define STEP_TIMES 32
#define STEP_LEAST UINT64_C(10000000000)
#define STEP_MOST UINT64_C(600000000000)

int core_add_device(struct core *core, uint32_t index, const struct core_device *config)
{
    if (index >= CORE_MAX_DEVICES || config == NULL ||
        (config->kind != CORE_COMPUTE && config->kind != CORE_PREPARE) ||
        config->depth > CORE_MAX_DEPTH || config->memory_bytes > CORE_MAX_MEMORY)
        return LIBSCHED_EINVAL;
    if (core->devices[index] != NULL)
        return LIBSCHED_EEXIST;
    struct core_device_state *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return LIBSCHED_ENOMEM;
    d->sessions = calloc(CORE_MAX_SESSIONS, sizeof(d->sessions[0]));
    if (d->sessions == NULL) {
        free(d);
        return LIBSCHED_ENOMEM;
    }
    d->config = *config;
    if (d->config.depth == 0)
        d->config.depth = 1;
    if (d->config.kind == CORE_PREPARE)
        d->config.memory_bytes = 0;
    d->action = (struct core_link){.next = CORE_NONE, .prev = CORE_UNLINKED};
    d->claim = d->gang = CORE_NONE;
    d->parked_head = d->parked_tail = UINT16_MAX;
    for (uint32_t i = 0; i < CORE_MAX_SESSIONS; i++) {
        d->sessions[i].next = (uint16_t)(i + 1 < CORE_MAX_SESSIONS ? i + 1 : UINT16_MAX);
        d->sessions[i].action.prev = CORE_UNLINKED;
    }
    core->devices[index] = d;
    if (index >= core->n_devices)
        core->n_devices = index + 1;
    if (config->kind == CORE_PREPARE)
        for (uint32_t i = 0; i < CORE_MAX_MODELS; i++)
            if (core_model_get(core, i) != NULL)
                core_residency_want(core, i, false);
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------- memory */

uint64_t core_device_free(const struct core_device_state *d)
{
    uint64_t taken = d->memory + d->external;

    if (d->config.memory_bytes == 0)
        return UINT64_MAX;
    /* A load may have taken more than was thought. */
    return taken >= d->config.memory_bytes ? 0 : d->config.memory_bytes - taken;
}

uint64_t core_device_free_at(const struct core *core, const struct core_device_state *d)
{
    uint64_t at = d->in_flight > 0 ? core_add(d->busy_since, d->bound) : 0;
    return at > core->now ? at : core->now;
}

/* ------------------------------------------------------------------------------- steps ahead */

/* When the steps under way are expected to be done; CORE_NEVER: not known. */
static uint64_t expected_at(const struct core_device_state *d)
{
    return d->n_unknown > 0 ? CORE_NEVER : core_add(d->busy_since, d->expected);
}

uint64_t core_device_begins(const struct core *core, const struct core_device_state *d)
{
    uint64_t at = d->in_flight > 0 ? expected_at(d) : 0;
    return at > core->now && at != CORE_NEVER ? at : core->now;
}

/* Whether a further step may be given ahead, when those under way are nearly done. Beside a job,
 * what requests are owed is known only when a step has ended. */
static bool gives_ahead(const struct core_device_state *d)
{
    return d->config.lead_ns != 0 && d->in_flight > 0 && d->in_flight < d->config.depth &&
           d->gang == CORE_NONE && d->n_unknown == 0;
}

bool core_device_bears(const struct core *core, const struct core_device_state *d)
{
    if (d->in_flight == 0 || d->config.lead_ns == 0)
        return d->in_flight < d->config.depth;
    return gives_ahead(d) && expected_at(d) <= core_add(core->now, d->config.lead_ns);
}

/* How long the worker may take for a step; 0: as long as it likes. */
static uint64_t step_limit(const struct core *core, const struct core_session *s)
{
    uint64_t limit = core->models[s->model]->config.step_limit;

    if (limit != CORE_STEP_LEARNT)
        return limit;
    limit = core_multiply(s->step_bound, STEP_TIMES);
    return limit == 0 || limit > STEP_MOST ? STEP_MOST : limit < STEP_LEAST ? STEP_LEAST : limit;
}

void core_device_begin(const struct core *core, struct core_device_state *d,
                       const struct core_session *s)
{
    const uint32_t last = (d->first_limit + d->in_flight) % CORE_MAX_DEPTH;

    d->limits[last] = step_limit(core, s);
    d->loads_before[last] = d->loads;
    if (d->in_flight++ == 0) {
        d->busy_since = core->now;
        d->overdue_since = 0;
    }
    d->bound = core_add(d->bound, s->step_bound);
    d->expected = core_add(d->expected, s->step_expected);
    d->n_unknown += s->step_expected == 0;
}

void core_device_end(const struct core *core, struct core_device_state *d,
                     const struct core_session *s)
{
    d->in_flight--;
    d->first_limit = (d->first_limit + 1) % CORE_MAX_DEPTH;
    d->busy_since = core->now;
    d->overdue_since = 0;
    d->bound -= s->step_bound;
    d->expected -= s->step_expected;
    d->n_unknown -= s->step_expected == 0;
}

void core_device_loaded(const struct core *core, struct core_device_state *d)
{
    d->loads--;
    d->loaded_at = core->now;
    for (uint32_t i = 0; i < d->in_flight; i++) {
        uint32_t *before = &d->loads_before[(d->first_limit + i) % CORE_MAX_DEPTH];
        *before -= *before > 0;
    }
}

static uint64_t lead_due(const struct core_device_state *d)
{
    uint64_t at = expected_at(d);
    return at > d->config.lead_ns ? at - d->config.lead_ns : 0;
}

void core_device_await_lead(struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];
    uint64_t waiting = d->parked_head != UINT16_MAX;

    core->leads &= ~core_bit(device);
    if (!gives_ahead(d) || core_device_bears(core, d))
        return;
    for (uint32_t i = 0; i < CORE_MAX_MODELS / 64; i++)
        waiting |= core->waiting_models[i];
    if (waiting != 0)
        core->leads |= core_bit(device);
}

/* When the step that runs has taken too long. A worker does one thing after the other: while it
 * loads a model, no step runs that was given after that. */
static uint64_t overrun_due(const struct core_device_state *d)
{
    uint64_t limit = d->in_flight > 0 && d->up && !d->dying ? d->limits[d->first_limit] : 0;
    uint64_t since = d->busy_since > d->loaded_at ? d->busy_since : d->loaded_at;
    if (limit == 0 || d->loads_before[d->first_limit] > 0)
        return CORE_NEVER;
    return d->overdue_since == 0 ? core_add(since, limit) : core_add(d->overdue_since, limit / 16);
}

/* Ends the workers whose step takes too long: a kernel that never ends, an engine that waits for
 * what does not come. Where it was this process that did not run, the end of the step is heard of
 * next: so it is looked at twice. */
static void end_overrun(struct core *core)
{
    for (uint32_t i = 0; i < core->n_devices; i++) {
        struct core_device_state *d = core->devices[i];
        if (d == NULL || overrun_due(d) > core->now)
            continue;
        if (d->overdue_since == 0) {
            d->overdue_since = core->now;
            continue;
        }
        d->overrun = d->limits[d->first_limit];
        core_device_kill(core, i);
    }
}

void core_devices_look(struct core *core)
{
    end_overrun(core);
    for (uint64_t bits = core->leads; bits != 0; bits &= bits - 1)
        if (lead_due(core->devices[__builtin_ctzll(bits)]) <= core->now)
            core->look_at |= bits & -bits;
}

uint64_t core_devices_due(const struct core *core)
{
    uint64_t due = CORE_NEVER;

    for (uint32_t i = 0; i < core->n_devices; i++) {
        uint64_t at = core->devices[i] == NULL ? CORE_NEVER : overrun_due(core->devices[i]);
        due = at < due ? at : due;
    }
    for (uint64_t bits = core->leads; bits != 0; bits &= bits - 1) {
        uint64_t at = lead_due(core->devices[__builtin_ctzll(bits)]);
        due = at < due ? at : due;
    }
    return due;
}

/* ------------------------------------------------------------------------------------- memory */

uint64_t core_device_excess(const struct core_device_state *d)
{
    uint64_t taken = d->memory + d->external;

    if (d->config.memory_bytes == 0 || taken <= d->config.memory_bytes)
        return 0;
    return taken - d->config.memory_bytes;
}

void core_device_take(struct core_device_state *d, uint64_t bytes)
{
    if (d->config.memory_bytes != 0)
        d->memory += bytes;
}

void core_device_give(struct core_device_state *d, uint64_t bytes)
{
    if (d->config.memory_bytes != 0)
        d->memory -= bytes;
}

/* What is neither free nor ours is somebody else's. Memory that is reserved but not yet taken
 * makes that less, for a while; it is never taken for more than it is. */
void core_device_measured(struct core_device_state *d, uint64_t free_bytes)
{
    uint64_t left = d->config.memory_bytes;

    if (left == 0)
        return;
    left = d->memory >= left ? 0 : left - d->memory;
    d->external = free_bytes >= left ? 0 : left - free_bytes;
}

/* ------------------------------------------------------------------------------------- worker */

void core_device_up(struct core *core, uint32_t device, uint64_t epoch)
{
    struct core_device_state *d = core->devices[device];

    if (d->ever_up && epoch == d->epoch)
        return;
    if (d->up)
        core_device_down(core, device);
    d->up = d->ever_up = true;
    d->epoch = epoch;
    core_residency_renew(core, device);
    core->plan = core->job_plan = true;
}

void core_device_down(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];

    core_action_unlink(core, CORE_NODE_DEVICES + device);
    d->say = 0;
    core_sessions_lost(core, device);
    core->leads &= ~core_bit(device);
    d->up = d->dying = d->exclusive = d->hold = d->rest = d->had_new = false;
    d->external = d->overrun = 0;
    d->down_at = core->now;
    core_gang_lost(core, device);
    core->plan = core->job_plan = true;
}

void core_device_say(struct core *core, uint32_t device, enum core_device_say what)
{
    struct core_device_state *d = core->devices[device];

    d->say |= (uint8_t)what;
    if (!core_action_linked(&d->action))
        core_action_link(core, CORE_NODE_DEVICES + device);
}

void core_device_kill(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];

    if (d->dying)
        return;
    d->dying = true;
    core_device_say(core, device, CORE_SAY_KILL);
}

int core_set_distance(struct core *core, uint32_t a, uint32_t b, uint32_t distance)
{
    if (a >= CORE_MAX_DEVICES || b >= CORE_MAX_DEVICES || a == b)
        return LIBSCHED_EINVAL;
    core->distances[a][b] = core->distances[b][a] = distance;
    return LIBSCHED_OK;
}
