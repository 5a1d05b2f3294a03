/* SPDX-License-Identifier: Apache-2.0 */
/* Set-up, the event dispatcher, and the order in which decisions are made. */
#include <stdlib.h>

#include "core/internal.h"

struct core *core_new(const struct core_config *config)
{
    if (config == NULL || config->max_requests == 0 ||
        config->max_requests > (UINT32_C(1) << CORE_SLOT_BITS) || config->max_strikes > UINT8_MAX ||
        config->max_clients >= (UINT32_C(1) << CORE_SLOT_BITS) ||
        config->max_jobs > CORE_MAX_JOBS || config->job_share > 1024)
        return NULL;
    struct core *core = calloc(1, sizeof(*core));
    if (core == NULL)
        return NULL;
    core->config = *config;
    if (core->config.max_strikes == 0)
        core->config.max_strikes = 2;
    core->action_head = core->action_tail = CORE_NONE;
    core->timer_action = (struct core_link){.next = CORE_NONE, .prev = CORE_UNLINKED};
    core->requests = calloc(config->max_requests, sizeof(core->requests[0]));
    core->deadlines = calloc(config->max_requests, sizeof(core->deadlines[0]));
    core->positions = calloc(config->max_requests, sizeof(core->positions[0]));
    if (core->requests == NULL || core->deadlines == NULL || core->positions == NULL ||
        core_clients_init(core) != LIBSCHED_OK || core_flows_init(core) != LIBSCHED_OK ||
        core_plan_init(core) != LIBSCHED_OK || core_gangs_init(core) != LIBSCHED_OK) {
        core_free(core);
        return NULL;
    }
    for (uint32_t i = 0; i < config->max_requests; i++) {
        core->requests[i].next = i + 1 < config->max_requests ? i + 1 : CORE_NONE;
        core->requests[i].action.prev = CORE_UNLINKED;
        core->positions[i] = CORE_NONE;
    }
    return core;
}

void core_free(struct core *core)
{
    if (core == NULL)
        return;
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        if (core->models[i] != NULL)
            core_model_free(core->models[i]);
        free(core->models[i]);
    }
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        if (core->devices[i] != NULL)
            free(core->devices[i]->sessions);
        free(core->devices[i]);
    }
    free(core->lanes);
    free(core->flows);
    free(core->flow_buckets);
    free(core->planner);
    free(core->jobs);
    free(core->job_clients);
    free(core->job_order);
    free(core->clients);
    free(core->client_buckets);
    free(core->requests);
    free(core->deadlines);
    free(core->positions);
    free(core);
}

/* Events of a device: what does not come from its present worker is stale. */
static int handle_device(struct core *core, struct core_event *event)
{
    if (event->type == CORE_PART)
        event->u.part.drop = true;
    else if (event->type == CORE_ITEM_DONE)
        event->u.item_done.drop = true;
    if (event->device >= CORE_MAX_DEVICES || core->devices[event->device] == NULL)
        return LIBSCHED_ENODEVICE;
    struct core_device_state *d = core->devices[event->device];
    if (event->type == CORE_WORKER_UP) {
        if (d->vacated)
            return LIBSCHED_EBUSY;
        core_device_up(core, event->device, event->epoch);
        return LIBSCHED_OK;
    }
    if (!d->up || d->epoch != event->epoch)
        return LIBSCHED_OK;
    switch (event->type) {
    case CORE_PREPARED:
        core_session_prepared(core, event->device, event);
        break;
    case CORE_PART:
        core_session_part(core, event->device, event);
        break;
    case CORE_ITEM_DONE:
        core_session_item_done(core, event->device, event);
        break;
    case CORE_STEP_DONE:
    case CORE_BATCH_DONE:
        core_session_step_done(core, event->device, event);
        break;
    case CORE_LOADED:
        core_residency_loaded(core, event->device, event->u.loaded.model, event->u.loaded.status,
                              event->u.loaded.memory_bytes);
        break;
    case CORE_EVICTED:
        core_residency_evicted(core, event->device, event->u.loaded.model);
        break;
    case CORE_MEMORY_REPORT:
        core_device_measured(d, event->u.memory.free_bytes);
        core->plan = true;
        break;
    case CORE_RANK_STARTED:
    case CORE_RANK_STEPPED:
    case CORE_RANK_CLOSED:
        core_gang_rank(core, event->device, event);
        break;
    default:
        core_device_down(core, event->device);
    }
    return LIBSCHED_OK;
}

int core_handle(struct core *core, uint64_t now, struct core_event *event)
{
    if (now > core->now)
        core->now = now;
    core->dirty = true;
    switch (event->type) {
    case CORE_SUBMIT:
        return core_request_submit(core, &event->u.submit);
    case CORE_CANCEL:
        return core_request_cancel(core, event->u.cancel.id);
    case CORE_GRANT:
        return core_request_grant(core, event->u.grant.id, event->u.grant.parts);
    case CORE_TIMER:
        core->armed = 0;
        return LIBSCHED_OK;
    case CORE_DRAIN:
        core->draining = true;
        return LIBSCHED_OK;
    case CORE_PREPARED:
    case CORE_PART:
    case CORE_ITEM_DONE:
    case CORE_STEP_DONE:
    case CORE_BATCH_DONE:
    case CORE_LOADED:
    case CORE_EVICTED:
    case CORE_MEMORY_REPORT:
    case CORE_WORKER_UP:
    case CORE_WORKER_DOWN:
    case CORE_RANK_STARTED:
    case CORE_RANK_STEPPED:
    case CORE_RANK_CLOSED:
        return handle_device(core, event);
    case CORE_JOB_SUBMIT:
        return core_gang_submit(core, &event->u.job);
    case CORE_JOB_CANCEL:
        return core_gang_cancel(core, event->u.job_id.id, LIBSCHED_ECANCELED);
    case CORE_JOB_RELEASE:
        return core_gang_cancel(core, event->u.job_id.id, LIBSCHED_OK);
    }
    return LIBSCHED_EINVAL;
}

static void schedule_devices(struct core *core)
{
    uint64_t devices = core->look_at;

    core->look_at = 0;
    for (; devices != 0; devices &= devices - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(devices);
        if (core->devices[device] != NULL && core->devices[device]->up)
            core_batch_schedule(core, device);
    }
}

void core_schedule(struct core *core)
{
    core->dirty = false;
    core_requests_expire(core);
    core_devices_look(core);
    core->planned = core->plan || core->pressure;
    if (core->planned)
        core_residency_plan(core);
    core_gang_schedule(core);
    core->blocked = false;
    schedule_devices(core);
    if (core->blocked) {
        /* Somebody found too little memory: may be it can be made. */
        core->planned = true;
        core_residency_plan(core);
        schedule_devices(core);
        core->pressure |= core->blocked;
    }
    core_gang_resume(core);
    uint64_t due = core_next_due(core);
    if (due != CORE_NEVER && (core->armed == 0 || due < core->armed))
        core_action_link(core, CORE_NODE_TIMER);
}

uint64_t core_next_due(const struct core *core)
{
    uint64_t due = core_devices_due(core);

    if (core->n_jobs > 0 && core->job_due < due)
        due = core->job_due;
    if (core->n_deadlines > 0 && core_deadline_first(core) < due)
        due = core_deadline_first(core);
    return due;
}
