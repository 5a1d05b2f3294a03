/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: the coming and going of their workers, and their memory. */
#include <stdlib.h>

#include "core/internal.h"

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
    return d->in_flight > 0 && d->free_at > core->now ? d->free_at : core->now;
}

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
    d->up = d->dying = d->exclusive = d->hold = d->rest = d->had_new = false;
    d->external = 0;
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
