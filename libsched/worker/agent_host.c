/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine may call during prepare() and step(). An engine is code of somebody else: what it
 * gets wrong ends the request it got wrong, with words that help its author.
 */
#include "worker/agent.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The outputs that the description promises are checked against it; those of prepare() are between
 * the engine and itself. */
static int check_spec(const struct agent *agent, const libsched_tensor *output, libsched_error *err)
{
    const libsched_engine_description *d = &agent->step->model->description;
    for (uint32_t i = 0; i < d->n_outputs; i++) {
        const libsched_tensor_spec *spec = &d->outputs[i];
        if (strcmp(spec->name, output->name) != 0)
            continue;
        bool fits = spec->datatype == output->datatype && spec->rank == output->rank;
        for (uint32_t k = 0; fits && k < spec->rank; k++)
            fits = spec->shape[k] == -1 || spec->shape[k] == output->shape[k];
        if (fits)
            return LIBSCHED_OK;
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine made output \"%s\" of a datatype or shape other than "
                                  "it describes",
                                  output->name);
    }
    return libsched_error_set(err, LIBSCHED_EENGINE,
                              "the engine made output \"%s\", which it does not describe",
                              output->name);
}

static int check_output(const struct agent *agent, const struct agent_item *item,
                        const libsched_tensor *output, libsched_error *err)
{
    if (output->name == NULL || strnlen(output->name, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine made an output whose name is "
                                  "missing or too long");
    if (item->n_outputs == LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine made more than %d outputs in one part",
                                  LIBSCHED_MAX_TENSORS);
    size_t size = libsched_datatype_size(output->datatype);
    int64_t elements = output->rank <= LIBSCHED_MAX_RANK
                           ? libsched_shape_elements(output->shape, output->rank)
                           : -1;
    bool sized = output->datatype == LIBSCHED_BYTES ||
                 (size > 0 && elements >= 0 && output->size % size == 0 &&
                  output->size / size == (uint64_t)elements);
    if (elements < 0 || !sized)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine made output \"%s\" of %" PRIu64
                                  " bytes, which its datatype and shape don't take",
                                  output->name, output->size);
    return agent->step->run.prepare != 0 ? LIBSCHED_OK : check_spec(agent, output, err);
}

static void *host_output(void *host, libsched_item *engine_item, const char *name,
                         uint32_t datatype, uint32_t rank, const int64_t *shape, uint64_t size)
{
    struct agent *agent = host;
    struct agent_item *item = (struct agent_item *)engine_item;
    agent_items_refresh(agent);
    if (item->ended)
        return NULL;
    libsched_tensor output = {.name = name, .datatype = datatype, .rank = rank, .size = size};
    if (rank <= LIBSCHED_MAX_RANK && rank > 0)
        memcpy(output.shape, shape, rank * sizeof(*shape));
    libsched_error err;
    struct agent_output *made = NULL;
    if (check_output(agent, item, &output, &err) == LIBSCHED_OK)
        made = agent_results_take(agent, size, &err);
    if (made == NULL) {
        agent_item_end(agent, item, err.status, err.message);
        return NULL;
    }
    snprintf(made->name, sizeof(made->name), "%s", name);
    made->datatype = datatype;
    made->rank = rank;
    memcpy(made->shape, output.shape, sizeof(made->shape));
    if (item->last_output != NULL)
        item->last_output->next = made;
    else
        item->outputs = made;
    item->last_output = made;
    item->n_outputs++;
    return agent->results + made->block->offset;
}

static void host_part(void *host, libsched_item *engine_item)
{
    struct agent *agent = host;
    struct agent_item *item = (struct agent_item *)engine_item;
    agent_items_refresh(agent);
    if (item->ended)
        return;
    if (agent->step->run.prepare != 0) {
        agent_item_end(agent, item, LIBSCHED_EENGINE,
                       "the engine sent a part while it prepared a request");
        return;
    }
    libsched_error err;
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, item->batch);
    wire_put_u64(&agent->out, item->item.id);
    if (agent_results_put(agent, item, &err) < 0) {
        agent_item_end(agent, item, err.status, err.message);
        return;
    }
    agent_send(agent, EVENT_PART);
    /* An engine without steps may go on for long; where there are steps, their end is near. */
    if ((agent->step->model->description.flags & LIBSCHED_ENGINE_STEPS) == 0)
        agent_wake_host(agent);
}

static void host_end(void *host, libsched_item *engine_item, int status, const char *message)
{
    struct agent *agent = host;
    struct agent_item *item = (struct agent_item *)engine_item;
    agent_items_refresh(agent);
    if (item->ended)
        return;
    if (status > 0 || strcmp(libsched_status_name(status), "unknown") == 0) {
        status = LIBSCHED_EENGINE;
        message = "the engine ended the request with what is no status";
    } else if (status < 0 && message == NULL) {
        message = "the engine failed the request without a message";
    }
    agent_item_end(agent, item, status, message);
}

static void host_log(void *host, const char *message)
{
    struct agent *agent = host;
    agent_items_refresh(agent);
    agent_log(agent, "%s", message != NULL ? message : "");
}

const libsched_engine_host agent_host = {
    .struct_size = sizeof(libsched_engine_host),
    .output = host_output,
    .part = host_part,
    .end = host_end,
    .log = host_log,
};
