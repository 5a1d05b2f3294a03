/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int unreadable(struct agent *agent)
{
    return agent_fail(agent, LIBSCHED_EPROTOCOL, "a command to run a step can't be read");
}

/* Reads the ids of those who stay, and takes out those who leave. */
static int gather(struct agent *agent, struct wire_reader *reader, const struct protocol_run *run)
{
    for (uint32_t i = 0; i < run->n_stays; i++) {
        struct agent_item *item = agent_item_find(agent, wire_get_u64(reader), run->batch);
        /* It may have been dropped with the step before. */
        if (item == NULL)
            continue;
        item->item.joined = false;
        agent->step_items[agent->n_step_items++] = &item->item;
    }
    for (uint32_t i = 0; i < run->n_leaves; i++) {
        struct agent_item *item = agent_item_find(agent, wire_get_u64(reader), run->batch);
        if (item != NULL)
            agent_item_drop(agent, item);
    }
    return reader->failed ? unreadable(agent) : LIBSCHED_OK;
}

static bool reserve_items(struct agent *agent, size_t n)
{
    if (n <= agent->step_capacity)
        return true;
    libsched_item **items = realloc(agent->step_items, n * sizeof(*items));
    if (items == NULL)
        return false;
    agent->step_items = items;
    agent->step_capacity = (uint32_t)n;
    return true;
}

static int read_run(struct agent *agent, struct wire_reader *reader, struct protocol_run *run)
{
    wire_get(reader, run, sizeof(*run));
    /* Each of them takes bytes of the record: this bounds what is allocated. */
    uint64_t least =
        (uint64_t)run->n_stays + run->n_leaves + run->n_joins + run->n_inputs + run->n_parameters;
    if (reader->failed || least > (size_t)(reader->end - reader->at))
        return unreadable(agent);
    agent->n_step_items = 0;
    if (!reserve_items(agent, (size_t)run->n_stays + run->n_joins))
        return agent_fail(agent, LIBSCHED_ENOMEM, "no memory for a batch");
    struct agent_model *model = agent_model_find(agent, run->key);
    int status = gather(agent, reader, run);
    if (status == 0)
        status = agent_items_join(agent, reader, run, model);
    return status;
}

int agent_known_status(int status, const char *what, libsched_error *err)
{
    if (status == LIBSCHED_OK)
        return status;
    if (status > 0 || strcmp(libsched_status_name(status), "unknown") == 0)
        return libsched_error_set(err, LIBSCHED_EENGINE, "the %s answered %d, which is no status",
                                  what, status);
    if (err->message[0] == '\0')
        libsched_error_set(err, status, "the %s failed without a message", what);
    return status;
}

static int call_engine(struct agent *agent, bool prepare, libsched_error *err)
{
    struct agent_model *model = agent->step_model;
    uint64_t units = 0;
    for (uint32_t i = 0; i < agent->n_step_items; i++) {
        ((struct agent_item *)agent->step_items[i])->seen = true;
        units += agent->step_items[i]->units;
    }
    libsched_engine_batch batch = {
        .struct_size = sizeof(batch),
        .n_items = agent->n_step_items,
        .items = agent->step_items,
        .units = units,
        .host = agent,
    };
    agent_items_refresh(agent);
    if (prepare) {
        if (model->engine->prepare == NULL)
            return libsched_error_set(err, LIBSCHED_EENGINE, "engine \"%s\" does not prepare",
                                      model->engine->name);
        return model->engine->prepare(model->model, &batch, &agent_host, err);
    }
    if (model->prepare_only)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "model \"%s\" is loaded here to prepare only", model->name);
    return model->engine->step(model->model, &batch, &agent_host, err);
}

/* An end that the engine did not give. */
static void end_for_engine(struct agent *agent, struct agent_item *item, int status,
                           const char *message)
{
    agent_item_leave(item);
    agent_item_end(agent, item, status, message);
}

/* Brings every item of the step to where the step's status says. */
static void settle(struct agent *agent, bool prepare, int status, const char *message)
{
    bool steps = !prepare && agent->step_model != NULL &&
                 (agent->step_model->description.flags & LIBSCHED_ENGINE_STEPS) != 0;
    for (uint32_t i = 0; i < agent->n_step_items; i++) {
        struct agent_item *item = (struct agent_item *)agent->step_items[i];
        if (!item->ended) {
            if (status == LIBSCHED_OK && steps)
                continue;
            if (status == LIBSCHED_ENODEVMEM) {
                agent_item_drop(agent, item);
                continue;
            }
            if (status == LIBSCHED_OK)
                end_for_engine(agent, item, LIBSCHED_EENGINE,
                               "the engine did not end the request in its step");
            else
                end_for_engine(agent, item, status, message);
        }
        agent_item_remove(agent, item);
    }
    agent->n_step_items = 0;
}

static void send_step(struct agent *agent, const struct protocol_run *run, int status,
                      const char *message, uint64_t begin, uint64_t end)
{
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, run->batch);
    wire_put_u32(&agent->out, run->step);
    wire_put_u32(&agent->out, (uint32_t)status);
    wire_put_string(&agent->out, message);
    wire_put_u64(&agent->out, begin);
    wire_put_u64(&agent->out, end);
    agent_send(agent, EVENT_STEP);
}

int agent_step(struct agent *agent, struct wire_reader *reader)
{
    struct protocol_run run;
    int status = read_run(agent, reader, &run);
    if (status < 0)
        return status;

    bool prepare = run.prepare != 0;
    libsched_error err = {0};
    agent->step_model = agent_model_find(agent, run.key);
    agent->preparing = prepare;
    agent->wait_until = 0;
    uint64_t begin = agent_now(), end = begin;
    if (run.n_joins == 0 && run.n_stays == 0) {
        if (run.ends)
            agent_items_drop_batch(agent, run.batch);
    } else if (agent->step_model == NULL) {
        status = libsched_error_set(&err, LIBSCHED_ENOTREADY, "the model is not loaded in %s",
                                    agent->name);
    } else {
        status = agent_known_status(call_engine(agent, prepare, &err), "engine", &err);
        end = agent_now();
    }
    /* The host finds out by the worker's end, and runs what has no end yet elsewhere. */
    if (status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, status, "%s", err.message);
    settle(agent, prepare, status, err.message);
    if (status < 0)
        agent_items_drop_batch(agent, run.batch);
    send_step(agent, &run, status, status < 0 ? err.message : NULL, begin, end);
    return LIBSCHED_OK;
}
