/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core decided, carried out. What can't be (a worker that takes no command) ends the
 * worker: the core hears of its death and decides anew.
 */
#include <string.h>

#include <inttypes.h>
#include <stdio.h>

#include "runtime/internal.h"

/* The device that an action is for, if its worker is still the one that was meant. */
static struct runtime_device *device_of(libsched *s, const struct core_action *action)
{
    struct runtime_device *device = &s->devices[action->device];
    return device->worker != NULL && device->epoch == action->epoch ? device : NULL;
}

static void give_step(libsched *s, const struct core_action *action, bool begins)
{
    struct runtime_device *device = device_of(s, action);
    if (device == NULL)
        return;
    struct worker_step step = {
        .batch = action->batch,
        .key = action->model,
        .step = action->step,
        .prepare = device->prepares,
        .ends = action->ends,
        .joins = s->step_joins,
    };
    uint64_t *leaves = s->step_ids + CORE_MAX_BATCH;
    for (uint32_t i = 0; i < action->n_items; i++) {
        const struct core_action_item *item = &action->items[i];
        struct runtime_request *request = runtime_request_by_core(s, item->id);
        if (item->leaves) {
            *--leaves = item->id;
            step.n_leaves++;
            if (request != NULL)
                request->leaves = action->step;
        } else if (!begins && !item->joins) {
            s->step_ids[step.n_stays++] = item->id;
        } else if (request != NULL) {
            s->step_joins[step.n_joins++] = (struct worker_item){
                .id = item->id,
                .units = item->units,
                .deadline = request->deadline,
                .n_inputs = request->inputs.n,
                .n_parameters = request->n_parameters,
                .inputs = request->inputs.tensors,
                .parameters = request->parameters,
            };
            runtime_request_given(request, device, action->batch);
        }
    }
    step.stays = s->step_ids;
    step.leaves = leaves;

    libsched_error err = {0};
    runtime_load_beside(s, device, false);
    if (worker_run(device->worker, &step, &err) < 0)
        runtime_worker_kill(s, device, err.message);
}

static void evict(libsched *s, const struct core_action *action)
{
    struct runtime_device *device = device_of(s, action);
    if (device != NULL && worker_unload(device->worker, action->model) < 0)
        runtime_worker_kill(s, device, "it does not take its commands");
}

/* `limit`: that which a step has overrun, in ns, or 0. */
static void end_worker(libsched *s, struct runtime_device *device, uint64_t limit)
{
    char why[LIBSCHED_MESSAGE_SIZE];

    if (limit == 0) {
        runtime_worker_kill(s, device, runtime_job_kill_text(s, device, why, sizeof(why)));
        return;
    }
    snprintf(device->hung, sizeof(device->hung),
             "a step took longer than its limit of %" PRIu64 ".%03" PRIu64 " s", limit / 1000000000,
             limit / 1000000 % 1000);
    runtime_worker_kill(s, device, device->hung);
}

void runtime_carry_out(libsched *s, const struct core_action *action)
{
    struct runtime_device *device;
    struct runtime_request *request;

    switch (action->type) {
    case CORE_DISPATCH:
        give_step(s, action, true);
        break;
    case CORE_STEP:
        give_step(s, action, false);
        break;
    case CORE_LOAD:
        runtime_load_plan(s, action);
        break;
    case CORE_EVICT:
        evict(s, action);
        break;
    case CORE_ABORT:
        device = device_of(s, action);
        if (device != NULL)
            worker_cancel(device->worker, action->id);
        break;
    case CORE_KILL:
        device = device_of(s, action);
        if (device != NULL)
            end_worker(s, device, action->at);
        break;
    case CORE_REPLY:
        request = runtime_request_by_core(s, action->id);
        if (request != NULL)
            runtime_request_finish(s, request, action);
        break;
    case CORE_REPLY_PART:
        request = runtime_request_by_core(s, action->id);
        if (request != NULL)
            runtime_part_send(s, request);
        break;
    case CORE_ARM_TIMER:
        s->core_at = action->at;
        break;
    case CORE_JOB_START:
    case CORE_JOB_STEP:
    case CORE_JOB_CLOSE:
    case CORE_JOB_REPLY:
        runtime_job_act(s, action);
        break;
    case CORE_VACATE:
        runtime_worker_vacate(s, &s->devices[action->device]);
        break;
    case CORE_OCCUPY:
        runtime_worker_occupy(s, &s->devices[action->device]);
        break;
    }
}
