/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps. Where an engine can begin one while another is under way, the next command is looked at
 * while the device computes: so a batch is copied in and given to the device before the one before
 * is done. Whatever else is to be done waits until no step is under way, but for segments that go.
 */
#include "worker/agent.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/registry.h"
#include "worker/agent_gang.h"

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
        agent->step->items[agent->step->n_items++] = &item->item;
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
    struct agent_step *step = agent->step;
    if (n <= step->capacity)
        return true;
    libsched_item **items = realloc(step->items, n * sizeof(*items));
    if (items == NULL)
        return false;
    step->items = items;
    step->capacity = (uint32_t)n;
    return true;
}

static int read_run(struct agent *agent, struct wire_reader *reader, struct protocol_run *run)
{
    /* Each of them takes bytes of the record: this bounds what is allocated. */
    uint64_t least =
        (uint64_t)run->n_stays + run->n_leaves + run->n_joins + run->n_inputs + run->n_parameters;
    if (reader->failed || least > (size_t)(reader->end - reader->at))
        return unreadable(agent);
    agent->step->n_items = 0;
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

static int call_engine(struct agent *agent, bool *pending, libsched_error *err)
{
    struct agent_step *step = agent->step;
    const libsched_engine *engine = step->model->engine;
    libsched_engine_model *model = step->model->model;
    uint64_t units = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        ((struct agent_item *)step->items[i])->seen = true;
        units += step->items[i]->units;
    }
    step->batch = (libsched_engine_batch){
        .struct_size = sizeof(step->batch),
        .n_items = step->n_items,
        .items = step->items,
        .units = units,
        .host = agent,
    };
    agent_items_refresh(agent);
    if (step->run.prepare != 0) {
        if (engine->prepare == NULL)
            return libsched_error_set(err, LIBSCHED_EENGINE, "engine \"%s\" does not prepare",
                                      engine->name);
        return engine->prepare(model, &step->batch, &agent_host, err);
    }
    if (step->model->prepare_only)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "model \"%s\" is loaded here to prepare only", step->model->name);
    if (engine_has_begin(engine))
        return engine->begin(model, &step->batch, &agent_host, pending, err);
    return engine->step(model, &step->batch, &agent_host, err);
}

/* Whether a step that found no memory may be run again as if it had not been. */
static bool repeatable(const struct agent_step *step)
{
    if (step->model == NULL || (step->model->description.flags & LIBSCHED_ENGINE_STEPS) != 0 ||
        step->run.prepare != 0)
        return false;
    for (uint32_t i = 0; i < step->n_items; i++)
        if (((const struct agent_item *)step->items[i])->ended)
            return false;
    return true;
}

/* Runs it again, without what it made of its items. */
static int repeat(struct agent *agent, bool *pending, libsched_error *err)
{
    const struct agent_step *step = agent->step;
    for (uint32_t i = 0; i < step->n_items; i++) {
        struct agent_item *item = (struct agent_item *)step->items[i];
        agent_item_leave(item);
        agent_item_clear(agent, item);
    }
    return agent_known_status(call_engine(agent, pending, err), "engine", err);
}

/* An end that the engine did not give. */
static void end_for_engine(struct agent *agent, struct agent_item *item, int status,
                           const char *message)
{
    agent_item_leave(item);
    agent_item_end(agent, item, status, message);
}

/* Brings every item of the step to where the step's status says. */
static void settle(struct agent *agent, int status, const char *message)
{
    struct agent_step *step = agent->step;
    bool steps = step->run.prepare == 0 && step->model != NULL &&
                 (step->model->description.flags & LIBSCHED_ENGINE_STEPS) != 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        struct agent_item *item = (struct agent_item *)step->items[i];
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
    step->n_items = 0;
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

/* Settles the step that the engine was called for, and tells the host. */
static int end_step(struct agent *agent, int status, const libsched_error *err)
{
    const struct protocol_run *run = &agent->step->run;
    /* It had the device to itself from the end of the one before. */
    uint64_t begin = agent->step->begin > agent->last_end ? agent->step->begin : agent->last_end;
    uint64_t end = agent_now();
    /* The host finds out by the worker's end, and runs what has no end yet elsewhere. */
    if (status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, status, "%s", err->message);
    settle(agent, status, err->message);
    if (status < 0)
        agent_items_drop_batch(agent, run->batch);
    send_step(agent, run, status, status < 0 ? err->message : NULL, begin, end);
    agent->last_end = end;
    return LIBSCHED_OK;
}

/* -------------------------------------------------------------------------- those under way */

/* Goes on with the oldest. */
static int go_on(struct agent *agent, bool wait, bool *over)
{
    struct agent_step *step = &agent->steps[agent->first_step];
    libsched_error err = {0};
    bool pending = false;

    agent->step = step;
    agent->wait_until = 0;
    agent_items_refresh(agent);
    int status = agent_known_status(
        step->model->engine->finish(step->model->model, wait, &pending, &err), "engine", &err);
    if (status == LIBSCHED_OK && pending && wait)
        status = libsched_error_set(&err, LIBSCHED_EENGINE,
                                    "the engine did not wait for the end of its step");
    /* As where there is none when it is begun; not beside another, which may need what is kept. */
    if (status == LIBSCHED_ENODEVMEM && agent->n_steps == 1 && repeatable(step) &&
        agent_gang_forget(agent))
        status = repeat(agent, &pending, &err);
    *over = status < 0 || !pending;
    if (!*over)
        return LIBSCHED_OK;
    agent->first_step = (agent->first_step + 1) % AGENT_STEPS;
    agent->n_steps--;
    return end_step(agent, status, &err);
}

int agent_steps_finish(struct agent *agent, uint32_t n)
{
    int status = LIBSCHED_OK;
    bool over;
    while (status == LIBSCHED_OK && agent->n_steps > n)
        status = go_on(agent, true, &over);
    return status;
}

int agent_steps_go_on(struct agent *agent, bool *over)
{
    /* No further one can be begun: there is nothing else to look at. */
    return go_on(agent, agent->n_steps == AGENT_STEPS, over);
}

void agent_steps_free(struct agent *agent)
{
    for (uint32_t i = 0; i < AGENT_STEPS; i++)
        free(agent->steps[i].items);
}

/* Results of a step that is under way can't make room for those of one behind it: until it is over
 * nobody is told of them. */
static bool has_room(const struct agent *agent)
{
    return agent->heap.used <= agent->heap.size / 4;
}

/* Whether a step may be begun beside those that are under way. */
static bool may_overlap(const struct agent *agent, const struct protocol_run *run,
                        const struct agent_model *model)
{
    if (model == NULL || run->prepare != 0 || run->n_stays > 0 || run->n_leaves > 0 ||
        run->n_joins == 0 || !engine_has_begin(model->engine) || !has_room(agent))
        return false;
    for (uint32_t i = 0; i < agent->n_steps; i++)
        if (agent->steps[(agent->first_step + i) % AGENT_STEPS].run.batch == run->batch)
            return false;
    return true;
}

int agent_step(struct agent *agent, struct wire_reader *reader)
{
    struct protocol_run run = {0};
    wire_get(reader, &run, sizeof(run));
    struct agent_model *model = agent_model_find(agent, run.key);
    int status = agent_steps_finish(agent, may_overlap(agent, &run, model) ? AGENT_STEPS - 1 : 0);
    if (status < 0)
        return status;
    agent->step = &agent->steps[(agent->first_step + agent->n_steps) % AGENT_STEPS];
    status = read_run(agent, reader, &run);
    if (status < 0)
        return status;

    libsched_error err = {0};
    bool pending = false;
    agent->step->run = run;
    agent->step->model = model;
    agent->wait_until = 0;
    agent->step->begin = agent_now();
    if (run.n_joins == 0 && run.n_stays == 0) {
        if (run.ends)
            agent_items_drop_batch(agent, run.batch);
    } else if (model == NULL) {
        status = libsched_error_set(&err, LIBSCHED_ENOTREADY, "the model is not loaded in %s",
                                    agent->name);
    } else {
        status = agent_known_status(call_engine(agent, &pending, &err), "engine", &err);
    }
    if (status == LIBSCHED_OK && pending) {
        agent->n_steps++;
        return LIBSCHED_OK;
    }
    /* Steps are over in their order, also one that is so at once. */
    struct agent_step *step = agent->step;
    int before = agent_steps_finish(agent, 0);
    agent->step = step;
    if (before < 0)
        return before;
    /* What was kept for jobs is given up for it, and then it is tried once more. */
    if (status == LIBSCHED_ENODEVMEM && repeatable(step) && agent_gang_forget(agent)) {
        status = repeat(agent, &pending, &err);
        if (status == LIBSCHED_OK && pending) {
            agent->n_steps++;
            return LIBSCHED_OK;
        }
    }
    return end_step(agent, status, &err);
}
