/* SPDX-License-Identifier: Apache-2.0 */
#include "device/loader.h"
#include "worker/agent_gang.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Of the memory of commands: more is given back. */
#define LARGEST_KEPT ((size_t)1 << 20)

/* -------------------------------------------------------------------------------------- joining */

/* One allocation for all that join together: the items, then what they point to. */
struct joining {
    struct agent_joins *joins;
    struct agent_item *items;
    libsched_tensor *inputs;
    struct control_segment **segments;
    libsched_parameter *parameters;
};

static bool allocate(struct joining *out, const struct protocol_run *run)
{
    size_t size = sizeof(struct agent_joins) + run->n_joins * sizeof(struct agent_item) +
                  run->n_inputs * (sizeof(libsched_tensor) + sizeof(struct control_segment *)) +
                  run->n_parameters * sizeof(libsched_parameter);
    unsigned char *memory = malloc(size);
    if (memory == NULL)
        return false;
    /* All of them are aligned like pointers. */
    out->joins = (void *)memory;
    out->items = (void *)(memory += sizeof(struct agent_joins));
    out->inputs = (void *)(memory += run->n_joins * sizeof(struct agent_item));
    out->segments = (void *)(memory += run->n_inputs * sizeof(libsched_tensor));
    out->parameters = (void *)(memory += run->n_inputs * sizeof(struct control_segment *));
    *out->joins = (struct agent_joins){0};
    return true;
}

static struct control_segment *find_segment(struct agent *agent, uint32_t id, libsched_error *err)
{
    if (agent->last_segment == NULL || agent->last_segment->id != id)
        agent->last_segment = control_find(agent->control, id, err);
    return agent->last_segment;
}

static int read_input(struct agent *agent, struct wire_reader *reader, libsched_tensor *input,
                      struct control_segment **segment)
{
    input->name = wire_get_name(reader);
    input->datatype = wire_get_u32(reader);
    input->rank = wire_get_shape(reader, input->shape);
    uint32_t id = wire_get_u32(reader);
    uint64_t offset = wire_get_u64(reader);
    input->size = wire_get_u64(reader);
    if (reader->failed)
        return agent_fail(agent, LIBSCHED_EPROTOCOL,
                          "an input in the host's command can't be read");
    libsched_error err;
    *segment = find_segment(agent, id, &err);
    if (*segment == NULL)
        return agent_fail(agent, err.status, "%s", err.message);
    if (offset > (*segment)->size || input->size > (*segment)->size - offset)
        return agent_fail(agent, LIBSCHED_EPROTOCOL,
                          "input \"%s\" does not lie in its segment: %" PRIu64 " bytes at %" PRIu64
                          " of %" PRIu64,
                          input->name, input->size, offset, (*segment)->size);
    input->data = (*segment)->data + offset;
    if ((*segment)->lasting && !(*segment)->told) {
        (*segment)->told = true;
        return agent_tell_memory(agent, (*segment)->data, (*segment)->size, false);
    }
    return LIBSCHED_OK;
}

static int read_item(struct agent *agent, struct wire_reader *reader, struct joining *at,
                     struct protocol_run *left)
{
    struct protocol_item head;
    wire_get(reader, &head, sizeof(head));
    if (reader->failed || head.n_inputs > left->n_inputs ||
        head.n_parameters > left->n_parameters || head.slot >= CHANNEL_ITEMS ||
        id_map_find(&agent->items, head.id) != NULL)
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "an item in the host's command can't be read");
    left->n_inputs -= head.n_inputs;
    left->n_parameters -= head.n_parameters;

    for (uint32_t i = 0; i < head.n_inputs; i++) {
        int status = read_input(agent, reader, &at->inputs[i], &at->segments[i]);
        if (status < 0)
            return status;
    }
    wire_get_parameters(reader, at->parameters, head.n_parameters);
    if (reader->failed)
        return agent_fail(agent, LIBSCHED_EPROTOCOL,
                          "a parameter in the host's command can't be read");
    *at->items = (struct agent_item){
        .item = {.id = head.id,
                 .units = head.units,
                 .deadline_ns = head.deadline,
                 .joined = true,
                 .n_inputs = head.n_inputs,
                 .n_parameters = head.n_parameters,
                 .inputs = at->inputs,
                 .parameters = at->parameters},
        .joins = at->joins,
        .segments = at->segments,
        .slot = head.slot,
    };
    for (uint32_t i = 0; i < head.n_inputs; i++)
        at->segments[i]->users++;
    at->inputs += head.n_inputs;
    at->segments += head.n_inputs;
    at->parameters += head.n_parameters;
    return LIBSCHED_OK;
}

static bool cancelled(const struct agent *agent, const struct agent_item *item)
{
    return __atomic_load_n(&agent->channel.cancelled[item->slot], __ATOMIC_RELAXED) != 0;
}

int agent_items_join(struct agent *agent, struct wire_reader *reader,
                     const struct protocol_run *run, struct agent_model *model)
{
    if (run->n_joins == 0)
        return LIBSCHED_OK;
    struct joining at;
    if (!id_map_reserve(&agent->items, run->n_joins) || !allocate(&at, run))
        return agent_fail(agent, LIBSCHED_ENOMEM, "no memory for a batch of %" PRIu32 " items",
                          run->n_joins);
    struct protocol_run left = *run;
    for (uint32_t i = 0; i < run->n_joins; i++) {
        int status = read_item(agent, reader, &at, &left);
        if (status < 0) {
            if (at.joins->users == 0)
                free(at.joins);
            return status;
        }
        struct agent_item *item = at.items++;
        item->batch = run->batch;
        item->model = model;
        item->item.cancelled = cancelled(agent, item);
        item->next = agent->first_item;
        if (item->next != NULL)
            item->next->previous = item;
        agent->first_item = item;
        id_map_add(&agent->items, item->item.id, (uintptr_t)item);
        at.joins->users++;
        agent->step->items[agent->step->n_items++] = &item->item;
    }
    /* The names and strings stay where they are: the items keep the record. */
    at.joins->record = agent->record;
    at.joins->record_capacity = agent->record_capacity;
    agent->record = NULL;
    agent->record_capacity = 0;
    return LIBSCHED_OK;
}

/* -------------------------------------------------------------------------------------- leaving */

struct agent_item *agent_item_find(const struct agent *agent, uint64_t id, uint64_t batch)
{
    uint64_t *value = id_map_find(&agent->items, id);
    struct agent_item *item = value != NULL ? (struct agent_item *)(uintptr_t)*value : NULL;
    return item != NULL && item->batch == batch ? item : NULL;
}

static void forget_segment(struct agent *agent, struct control_segment *segment)
{
    if (agent->last_segment == segment)
        agent->last_segment = NULL;
    if (segment->told && agent->device != NULL && device_has_host_memory(agent->device->driver))
        agent->device->driver->host_unregister(agent->device, segment->data);
    control_forget(agent->control, segment);
}

void agent_release_segment(struct agent *agent, struct control_segment *segment)
{
    if (--segment->users == 0 && segment->dropped)
        forget_segment(agent, segment);
}

static void release_joins(struct agent *agent, struct agent_joins *joins)
{
    if (--joins->users > 0)
        return;
    /* The next command may use it, unless it is the memory of an unusually large one. Not in the
     * place of this command's: that may still be read. */
    if (joins->record_capacity > agent->spare_capacity && joins->record_capacity <= LARGEST_KEPT) {
        free(agent->spare_record);
        agent->spare_record = joins->record;
        agent->spare_capacity = joins->record_capacity;
    } else {
        free(joins->record);
    }
    free(joins);
}

void agent_item_remove(struct agent *agent, struct agent_item *item)
{
    for (uint32_t i = 0; i < item->item.n_inputs; i++)
        agent_release_segment(agent, item->segments[i]);
    agent_results_drop(agent, item->outputs);
    id_map_remove(&agent->items, item->item.id);
    if (item->next != NULL)
        item->next->previous = item->previous;
    if (item->previous != NULL)
        item->previous->next = item->next;
    else
        agent->first_item = item->next;
    release_joins(agent, item->joins);
}

void agent_item_leave(struct agent_item *item)
{
    /* An engine that never saw it has nothing to free. */
    if (item->seen && !item->ended && item->model->engine->leave != NULL)
        item->model->engine->leave(item->model->model, &item->item);
}

void agent_item_drop(struct agent *agent, struct agent_item *item)
{
    agent_item_leave(item);
    if (!item->ended) {
        wire_reset(&agent->out);
        wire_put_u64(&agent->out, item->batch);
        wire_put_u64(&agent->out, item->item.id);
        agent_send(agent, EVENT_DROPPED);
    }
    agent_item_remove(agent, item);
}

void agent_items_drop_batch(struct agent *agent, uint64_t batch)
{
    for (struct agent_item *item = agent->first_item, *next; item != NULL; item = next) {
        next = item->next;
        if (item->batch == batch)
            agent_item_drop(agent, item);
    }
}

void agent_items_drop_model(struct agent *agent, const struct agent_model *model)
{
    for (struct agent_item *item = agent->first_item, *next; item != NULL; item = next) {
        next = item->next;
        if (item->model == model)
            agent_item_drop(agent, item);
    }
}

void agent_items_drop_all(struct agent *agent)
{
    while (agent->first_item != NULL)
        agent_item_drop(agent, agent->first_item);
}

int agent_drop_segment(struct agent *agent, uint32_t id)
{
    libsched_error err;
    struct control_segment *segment = find_segment(agent, id, &err);
    if (segment == NULL)
        return agent_fail(agent, err.status, "%s", err.message);
    if (agent_gang_has(agent, segment)) {
        int status = agent_steps_finish(agent, 0);
        if (status < 0)
            return status;
        agent_gang_drop(agent, segment);
        /* Of the device's memory there is more now. */
        agent_report_memory(agent);
    }
    /* What is under way has its use of it until it is over. */
    segment->dropped = true;
    if (segment->users == 0)
        forget_segment(agent, segment);
    return LIBSCHED_OK;
}

/* ----------------------------------------------------------------------------------------- ends */

void agent_items_refresh(struct agent *agent)
{
    uint32_t cancellations = __atomic_load_n(&agent->channel.header->cancelled, __ATOMIC_ACQUIRE);
    if (cancellations == agent->cancellations && !agent_must_stop(agent))
        return;
    agent->cancellations = cancellations;
    /* Told to stop, whatever comes out of the step is of use to nobody. */
    bool stop = agent_must_stop(agent);
    for (uint32_t k = 0; k < AGENT_STEPS; k++)
        for (uint32_t i = 0; i < agent->steps[k].n_items; i++) {
            struct agent_item *item = (struct agent_item *)agent->steps[k].items[i];
            if (!item->ended)
                item->item.cancelled = stop || cancelled(agent, item);
        }
}

static bool write_end(struct agent *agent, struct agent_item *item, int status, const char *message,
                      libsched_error *err)
{
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, item->batch);
    wire_put_u64(&agent->out, item->item.id);
    wire_put_u64(&agent->out, item->item.units > 0 ? item->item.units : 1);
    wire_put_u64(&agent->out, item->item.batch_key);
    wire_put_u32(&agent->out, (uint32_t)status);
    wire_put_string(&agent->out, message);
    return agent_results_put(agent, item, err) == LIBSCHED_OK;
}

void agent_item_clear(struct agent *agent, struct agent_item *item)
{
    agent_results_drop(agent, item->outputs);
    item->outputs = item->last_output = NULL;
    item->n_outputs = 0;
}

void agent_item_end(struct agent *agent, struct agent_item *item, int status, const char *message)
{
    libsched_error err;
    item->ended = true;
    if (status != LIBSCHED_OK)
        agent_item_clear(agent, item);
    char cut[LIBSCHED_MESSAGE_SIZE];
    if (message != NULL && strlen(message) >= sizeof(cut)) {
        libsched_error_set(&err, status, "%s", message);
        memcpy(cut, err.message, sizeof(cut));
        message = cut;
    }
    if (!write_end(agent, item, status, message, &err)) {
        agent_item_clear(agent, item);
        write_end(agent, item, err.status, err.message, &err);
    }
    agent_send(agent, EVENT_ITEM);
}
