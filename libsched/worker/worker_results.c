/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker_internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/memory.h"

struct incarnation *worker_incarnation_new(uint64_t epoch, uint64_t result_bytes, int *memory,
                                           int *results, libsched_error *err)
{
    struct incarnation *incarnation = calloc(1, sizeof(*incarnation));
    if (incarnation == NULL) {
        libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a worker");
        return NULL;
    }
    incarnation->users = 1;
    incarnation->result_bytes = result_bytes;
    incarnation->wake_worker = -1;
    *memory = *results = -1;
    void *base = NULL;
    int status = memory_create(results, "sched-results", result_bytes, err);
    /* A worker that could cut its results short could kill the one who reads them. */
    if (status == 0)
        status = memory_seal(*results, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, err);
    if (status == 0)
        status = memory_map(&base, *results, result_bytes, false, err);
    incarnation->results = base;
    if (status == 0)
        status = channel_create(&incarnation->channel, memory, epoch, result_bytes, err);
    if (status == 0)
        return incarnation;
    if (*results >= 0)
        close(*results);
    *results = -1;
    worker_incarnation_release(incarnation);
    return NULL;
}

void worker_incarnation_release(struct incarnation *incarnation)
{
    if (--incarnation->users > 0)
        return;
    if (incarnation->channel.header != NULL)
        channel_detach(&incarnation->channel);
    memory_unmap((void *)(uintptr_t)incarnation->results, incarnation->result_bytes);
    free(incarnation);
}

static bool read_output(const struct incarnation *incarnation, struct wire_reader *reader,
                        libsched_tensor *output, char *name, libsched_error *err)
{
    snprintf(name, LIBSCHED_NAME_SIZE, "%s", wire_get_name(reader));
    *output = (libsched_tensor){.name = name, .datatype = wire_get_u32(reader)};
    output->rank = wire_get_shape(reader, output->shape);
    uint64_t offset = wire_get_u64(reader);
    output->size = wire_get_u64(reader);
    if (reader->failed) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "an output that can't be read");
        return false;
    }
    if (offset % HEAP_ALIGNMENT != 0 || offset > incarnation->result_bytes ||
        output->size > incarnation->result_bytes - offset) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL,
                           "an output of %" PRIu64 " bytes at %" PRIu64
                           " of a result memory of %" PRIu64,
                           output->size, offset, incarnation->result_bytes);
        return false;
    }
    output->data = incarnation->results + offset;
    return libsched_tensor_check(output, err) == LIBSCHED_OK;
}

bool worker_results_read(struct worker *worker, struct wire_reader *reader,
                         struct worker_event *event, libsched_error *err)
{
    uint32_t handle = wire_get_u32(reader);
    uint32_t n = wire_get_u32(reader);
    if (reader->failed || n > LIBSCHED_MAX_TENSORS || (n == 0) != (handle == PROTOCOL_NO_RESULTS)) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "outputs that can't be read");
        return false;
    }
    if (n == 0)
        return true;
    struct worker_results *results =
        malloc(sizeof(*results) + n * (sizeof(libsched_tensor) + LIBSCHED_NAME_SIZE));
    if (results == NULL) {
        libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the account of a result");
        return false;
    }
    char *names = (char *)&results->outputs[n];
    for (uint32_t i = 0; i < n; i++) {
        if (!read_output(worker->incarnation, reader, &results->outputs[i],
                         names + i * (size_t)LIBSCHED_NAME_SIZE, err)) {
            free(results);
            return false;
        }
    }
    results->incarnation = worker->incarnation;
    results->incarnation->users++;
    results->handle = handle;
    event->results = results;
    event->outputs = results->outputs;
    event->n_outputs = n;
    return true;
}

void worker_results_release(struct worker_results *results)
{
    if (results == NULL)
        return;
    struct incarnation *incarnation = results->incarnation;
    if (incarnation->wake_worker >= 0) {
        struct channel_header *header = incarnation->channel.header;
        incarnation->channel.released[incarnation->released % CHANNEL_RESULTS] = results->handle;
        incarnation->released++;
        __atomic_store_n(&header->released, incarnation->released, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__atomic_load_n(&header->wants_room, __ATOMIC_RELAXED) != 0 &&
            __atomic_exchange_n(&header->wants_room, 0, __ATOMIC_SEQ_CST) != 0)
            channel_wake(incarnation->wake_worker);
    }
    worker_incarnation_release(incarnation);
    free(results);
}
