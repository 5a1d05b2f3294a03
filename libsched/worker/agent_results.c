/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/memory.h"

/* For so long one call of an engine waits for the host to give results back, in all. */
#define PATIENCE_NS UINT64_C(1000000000)

int agent_results_open(struct agent *agent, libsched_error *err)
{
    uint64_t size = agent->channel.header->result_bytes;
    struct stat st;
    if (fstat(agent->fds->results, &st) < 0 || (uint64_t)st.st_size < size)
        return libsched_error_set(
            err, LIBSCHED_EPROTOCOL,
            "the result memory is smaller than the %" PRIu64 " bytes announced", size);
    void *base;
    int status = memory_map(&base, agent->fds->results, size, true, err);
    if (status < 0)
        return status;
    agent->results = base;
    agent->handles = calloc(CHANNEL_RESULTS, sizeof(struct heap_block *));
    agent->free_handles = malloc(CHANNEL_RESULTS * sizeof(uint32_t));
    if (agent->handles == NULL || agent->free_handles == NULL || !heap_init(&agent->heap, size))
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to keep account of results");
    /* The lowest is on top. */
    for (uint32_t i = 0; i < CHANNEL_RESULTS; i++)
        agent->free_handles[i] = CHANNEL_RESULTS - 1 - i;
    agent->n_free_handles = CHANNEL_RESULTS;
    return LIBSCHED_OK;
}

void agent_results_close(struct agent *agent)
{
    if (agent->results != NULL)
        memory_unmap(agent->results, agent->channel.header->result_bytes);
    heap_destroy(&agent->heap);
    free(agent->handles);
    free(agent->free_handles);
    for (struct agent_output *output = agent->spare_outputs, *next; output != NULL; output = next) {
        next = output->next;
        free(output);
    }
}

void agent_results_collect(struct agent *agent)
{
    uint64_t released = __atomic_load_n(&agent->channel.header->released, __ATOMIC_ACQUIRE);
    for (; agent->released != released; agent->released++) {
        uint32_t handle = agent->channel.released[agent->released % CHANNEL_RESULTS];
        if (handle >= CHANNEL_RESULTS || agent->handles[handle] == NULL)
            continue;
        for (struct heap_block *block = agent->handles[handle], *next; block; block = next) {
            next = block->sibling;
            heap_free(&agent->heap, block);
        }
        agent->handles[handle] = NULL;
        agent->free_handles[agent->n_free_handles++] = handle;
    }
}

/* Waits until the host has given something back; false when that takes too long. */
static bool wait_for_room(struct agent *agent)
{
    uint64_t seen = agent->released;
    agent_results_collect(agent);
    if (agent->released != seen)
        return true;
    if (agent->wait_until == 0)
        agent->wait_until = agent_now() + PATIENCE_NS;
    /* It can only give back what it was told of. */
    agent_wake_host(agent);
    uint32_t *wants_room = &agent->channel.header->wants_room;
    for (;;) {
        __atomic_store_n(wants_room, 1, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        agent_results_collect(agent);
        bool found = agent->released != seen;
        if (!found && agent_now() < agent->wait_until && !agent_must_stop(agent)) {
            agent_sleep(agent, agent->wait_until);
            continue;
        }
        __atomic_store_n(wants_room, 0, __ATOMIC_SEQ_CST);
        return found;
    }
}

static struct agent_output *take_record(struct agent *agent)
{
    struct agent_output *output = agent->spare_outputs;
    if (output == NULL)
        return malloc(sizeof(*output));
    agent->spare_outputs = output->next;
    return output;
}

struct agent_output *agent_results_take(struct agent *agent, uint64_t size, libsched_error *err)
{
    if (size > agent->heap.size) {
        libsched_error_set(err, LIBSCHED_ETOOBIG,
                           "an output of %" PRIu64 " bytes: the result memory has %" PRIu64
                           "; raise result_bytes",
                           size, agent->heap.size);
        return NULL;
    }
    struct heap_block *block = heap_alloc(&agent->heap, size);
    while (block == NULL && wait_for_room(agent))
        block = heap_alloc(&agent->heap, size);
    if (block == NULL) {
        libsched_error_set(err, LIBSCHED_ETOOBIG,
                           "no room for an output of %" PRIu64 " bytes: %" PRIu64 " of %" PRIu64
                           " bytes hold results that nobody has released; raise result_bytes",
                           size, agent->heap.used, agent->heap.size);
        return NULL;
    }
    struct agent_output *output = take_record(agent);
    if (output == NULL) {
        heap_free(&agent->heap, block);
        libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for an output");
        return NULL;
    }
    *output = (struct agent_output){.block = block, .size = size};
    return output;
}

static void free_record(struct agent *agent, struct agent_output *output)
{
    output->next = agent->spare_outputs;
    agent->spare_outputs = output;
}

void agent_results_drop(struct agent *agent, struct agent_output *outputs)
{
    for (struct agent_output *output = outputs, *next; output != NULL; output = next) {
        next = output->next;
        heap_free(&agent->heap, output->block);
        free_record(agent, output);
    }
}

int agent_results_put(struct agent *agent, struct agent_item *item, libsched_error *err)
{
    if (item->outputs == NULL) {
        wire_put_u32(&agent->out, PROTOCOL_NO_RESULTS);
        wire_put_u32(&agent->out, 0);
        return LIBSCHED_OK;
    }
    while (agent->n_free_handles == 0)
        if (!wait_for_room(agent))
            return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                      "%u results are waiting to be released, no more are possible",
                                      CHANNEL_RESULTS);
    uint32_t handle = agent->free_handles[--agent->n_free_handles];
    wire_put_u32(&agent->out, handle);
    wire_put_u32(&agent->out, item->n_outputs);
    for (struct agent_output *output = item->outputs, *next; output != NULL; output = next) {
        next = output->next;
        wire_put_string(&agent->out, output->name);
        wire_put_u32(&agent->out, output->datatype);
        wire_put_shape(&agent->out, output->shape, output->rank);
        wire_put_u64(&agent->out, output->block->offset);
        wire_put_u64(&agent->out, output->size);
        output->block->sibling = agent->handles[handle];
        agent->handles[handle] = output->block;
        free_record(agent, output);
    }
    item->outputs = item->last_output = NULL;
    item->n_outputs = 0;
    return LIBSCHED_OK;
}
