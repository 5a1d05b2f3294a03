/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request's memory: one block for itself, its inputs' descriptions, its parameters and all its
 * strings; the inputs' bytes in the arena or in buffers. And its place in the tables.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

int runtime_requests_open(libsched *s, libsched_error *err)
{
    uint32_t n = s->options.max_requests;
    s->requests = calloc(n, sizeof(*s->requests));
    s->by_core = calloc(n, sizeof(*s->by_core));
    s->free_slots = malloc(n * sizeof(*s->free_slots));
    s->step_joins = malloc(CORE_MAX_BATCH * sizeof(*s->step_joins));
    s->step_ids = malloc(CORE_MAX_BATCH * sizeof(*s->step_ids));
    if (s->requests == NULL || s->by_core == NULL || s->free_slots == NULL ||
        s->step_joins == NULL || s->step_ids == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %u requests", n);
    /* The slot given back last is taken first: its table entries are still in the cache. */
    for (uint32_t i = 0; i < n; i++)
        s->free_slots[i] = n - 1 - i;
    s->n_free_slots = n;
    return LIBSCHED_OK;
}

void runtime_requests_close(libsched *s)
{
    if (s->requests != NULL)
        for (uint32_t i = 0; i < s->options.max_requests; i++)
            if (s->requests[i] != NULL) {
                struct runtime_request *request = s->requests[i];
                runtime_parts_forget(request);
                worker_results_release(request->end.results);
                runtime_inputs_free(s, &request->inputs);
                free(request);
            }
    free(s->requests);
    free(s->by_core);
    free(s->free_slots);
    free(s->step_joins);
    free(s->step_ids);
}

/* ------------------------------------------------------------------------------------- making */

/* Hands out the parts of one block, front to back. */
struct layout {
    unsigned char *at;
};

static void *carve(struct layout *layout, size_t size)
{
    void *piece = layout->at;
    layout->at += (size + 15) & ~(size_t)15;
    return piece;
}

static char *carve_string(struct layout *layout, const char *string)
{
    size_t size = strlen(string) + 1;
    char *copy = (char *)layout->at;
    memcpy(copy, string, size);
    layout->at += size;
    return copy;
}

static size_t rounded(size_t size)
{
    return (size + 15) & ~(size_t)15;
}

static size_t block_size(const libsched_request *from)
{
    size_t size = rounded(sizeof(struct runtime_request)) +
                  rounded(from->n_inputs * sizeof(struct worker_tensor)) +
                  rounded(from->n_inputs * sizeof(libsched_buffer *)) +
                  rounded(from->n_parameters * sizeof(libsched_parameter));
    for (uint32_t i = 0; i < from->n_inputs; i++)
        size += strlen(from->inputs[i].name) + 1;
    for (uint32_t i = 0; i < from->n_parameters; i++) {
        const libsched_parameter *p = &from->parameters[i];
        size += strlen(p->name) + 1;
        if (p->type == LIBSCHED_PARAMETER_STRING)
            size += strlen(p->value.string) + 1;
    }
    return size;
}

static uint64_t aligned(uint64_t size)
{
    return (size + RUNTIME_ARENA_ALIGNMENT - 1) & ~(uint64_t)(RUNTIME_ARENA_ALIGNMENT - 1);
}

/* Room in the arena for `size` bytes of inputs. */
static int take_room(libsched *s, struct runtime_arena_block **out, uint64_t size,
                     libsched_error *err)
{
    *out = NULL;
    if (size == 0)
        return LIBSCHED_OK;
    if (size > runtime_arena_size(s->arena))
        return libsched_error_set(
            err, LIBSCHED_ETOOBIG, "its inputs take %llu bytes, the arena has %llu in all",
            (unsigned long long)size, (unsigned long long)runtime_arena_size(s->arena));
    *out = runtime_arena_take(s->arena, size);
    if (*out == NULL)
        return libsched_error_set(
            err, LIBSCHED_EBUSY,
            "its inputs take %llu bytes, and %llu of the arena's %llu are taken: come back later",
            (unsigned long long)size, (unsigned long long)runtime_arena_used(s->arena),
            (unsigned long long)runtime_arena_size(s->arena));
    return LIBSCHED_OK;
}

/* Where a tensor's data lies in the buffer that the caller named for it. Workers take inputs at
 * multiples of the alignment: `*fits` is false where it is copied all the same. */
static int locate(libsched *s, const libsched_tensor *tensor, const libsched_buffer *buffer,
                  uint64_t *offset, bool *fits, libsched_error *err)
{
    uintptr_t data = (uintptr_t)tensor->data, start = (uintptr_t)buffer->data;
    if (buffer->s != s)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%s\" lies in a buffer of another scheduler", tensor->name);
    if (tensor->size == 0)
        data = start;
    if (data < start || data - start > buffer->size || tensor->size > buffer->size - (data - start))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%s\" does not lie in the buffer that was given with it",
                                  tensor->name);
    *offset = buffer->offset + (data - start);
    *fits = *offset % RUNTIME_ARENA_ALIGNMENT == 0;
    return LIBSCHED_OK;
}

/* Finds out which inputs stay in their buffers, and how much room the others need. */
static int place_buffers(libsched *s, struct runtime_inputs *inputs, const libsched_request *from,
                         uint64_t *copied, libsched_error *err)
{
    *copied = 0;
    for (uint32_t i = 0; i < from->n_inputs; i++) {
        const libsched_tensor *tensor = &from->inputs[i];
        libsched_buffer *buffer = from->buffers != NULL ? from->buffers[i] : NULL;
        struct worker_tensor *to = &inputs->tensors[i];
        bool fits = false;
        int rc = buffer != NULL ? locate(s, tensor, buffer, &to->offset, &fits, err) : LIBSCHED_OK;
        if (rc < 0)
            return rc;
        if (fits) {
            to->segment = buffer->segment;
            inputs->buffers[i] = buffer;
            buffer->references++;
            continue;
        }
        if (tensor->size > runtime_arena_size(s->arena))
            return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                      "\"%s\" has %llu bytes, the arena has %llu in all",
                                      tensor->name, (unsigned long long)tensor->size,
                                      (unsigned long long)runtime_arena_size(s->arena));
        *copied += aligned(tensor->size);
    }
    return LIBSCHED_OK;
}

/* Puts the inputs where workers can read them. */
static int place_inputs(libsched *s, struct runtime_inputs *inputs, const libsched_request *from,
                        libsched_error *err)
{
    uint64_t copied;
    int rc = place_buffers(s, inputs, from, &copied, err);
    if (rc == LIBSCHED_OK)
        rc = take_room(s, &inputs->block, copied, err);
    if (rc < 0)
        return rc;
    uint64_t offset = inputs->block != NULL ? runtime_arena_offset(inputs->block) : 0;
    for (uint32_t i = 0; i < from->n_inputs; i++) {
        const libsched_tensor *tensor = &from->inputs[i];
        if (inputs->buffers[i] != NULL)
            continue;
        inputs->tensors[i].segment = s->segment;
        inputs->tensors[i].offset = offset;
        if (tensor->size > 0)
            memcpy((unsigned char *)segment_data(s->segment) + offset, tensor->data, tensor->size);
        offset += aligned(tensor->size);
    }
    return LIBSCHED_OK;
}

static void describe_inputs(struct runtime_inputs *inputs, const libsched_request *from,
                            struct layout *layout)
{
    inputs->n = from->n_inputs;
    inputs->tensors = carve(layout, from->n_inputs * sizeof(*inputs->tensors));
    inputs->buffers = carve(layout, from->n_inputs * sizeof(*inputs->buffers));
    for (uint32_t i = 0; i < from->n_inputs; i++) {
        const libsched_tensor *tensor = &from->inputs[i];
        struct worker_tensor *to = &inputs->tensors[i];
        *to = (struct worker_tensor){
            .datatype = tensor->datatype,
            .rank = tensor->rank,
            .size = tensor->size,
        };
        memcpy(to->shape, tensor->shape, tensor->rank * sizeof(to->shape[0]));
        inputs->buffers[i] = NULL;
    }
}

static const libsched_parameter *copy_parameters(const libsched_request *from,
                                                 struct layout *layout)
{
    libsched_parameter *copy = carve(layout, from->n_parameters * sizeof(*copy));
    for (uint32_t i = 0; i < from->n_parameters; i++)
        copy[i] = from->parameters[i];
    return copy;
}

static void copy_strings(struct runtime_request *request, const libsched_request *from,
                         struct layout *layout)
{
    libsched_parameter *parameters = (libsched_parameter *)request->parameters;
    for (uint32_t i = 0; i < from->n_inputs; i++)
        request->inputs.tensors[i].name = carve_string(layout, from->inputs[i].name);
    for (uint32_t i = 0; i < from->n_parameters; i++) {
        parameters[i].name = carve_string(layout, from->parameters[i].name);
        if (parameters[i].type == LIBSCHED_PARAMETER_STRING)
            parameters[i].value.string = carve_string(layout, from->parameters[i].value.string);
    }
}

int runtime_request_new(struct runtime_request **out, libsched *s, const libsched_request *from,
                        libsched_error *err)
{
    if (s->n_free_slots == 0)
        return libsched_error_set(err, LIBSCHED_EBUSY,
                                  "%u requests are in flight or were not released, which is the "
                                  "limit (max_requests): come back later",
                                  s->options.max_requests);
    struct layout layout = {.at = malloc(block_size(from))};
    if (layout.at == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a request");
    struct runtime_request *request = carve(&layout, sizeof(*request));
    memset(request, 0, sizeof(*request));
    list_init(&request->held);
    list_init(&request->at);
    list_init(&request->parts);
    list_init(&request->end.link);
    request->end.request = request;
    describe_inputs(&request->inputs, from, &layout);
    request->n_parameters = from->n_parameters;
    request->parameters = copy_parameters(from, &layout);
    copy_strings(request, from, &layout);

    int rc = place_inputs(s, &request->inputs, from, err);
    if (rc < 0) {
        runtime_inputs_free(s, &request->inputs);
        free(request);
        return rc;
    }
    for (uint32_t i = 0; i < from->n_inputs; i++)
        request->input_bytes += from->inputs[i].size;
    uint32_t slot = s->free_slots[--s->n_free_slots];
    request->id = ++s->generation << RUNTIME_SLOT_BITS | slot;
    s->requests[slot] = request;
    *out = request;
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------ freeing */

void runtime_inputs_free(libsched *s, struct runtime_inputs *inputs)
{
    for (uint32_t i = 0; i < inputs->n && inputs->buffers != NULL; i++)
        if (inputs->buffers[i] != NULL)
            runtime_buffer_put(inputs->buffers[i]);
    runtime_arena_give(s->arena, inputs->block);
    free(inputs->memory);
    memset(inputs, 0, sizeof(*inputs));
}

static void free_request(libsched *s, struct runtime_request *request)
{
    uint32_t slot = (uint32_t)(request->id & RUNTIME_SLOT_MASK);
    s->requests[slot] = NULL;
    s->free_slots[s->n_free_slots++] = slot;
    runtime_inputs_free(s, &request->inputs);
    free(request);
}

void runtime_request_discard(libsched *s, struct runtime_request *request)
{
    list_remove(&request->held);
    free_request(s, request);
}

void runtime_request_release(libsched *s, struct runtime_request *request)
{
    if (!request->ended || !list_empty(&request->at))
        return;
    if (request->released)
        free_request(s, request);
    else
        runtime_inputs_free(s, &request->inputs);
}

/* -------------------------------------------------------------------------------------- tables */

struct runtime_request *runtime_request_find(const libsched *s, uint64_t id)
{
    uint64_t slot = id & RUNTIME_SLOT_MASK;
    struct runtime_request *request = slot < s->options.max_requests ? s->requests[slot] : NULL;
    return request != NULL && request->id == id ? request : NULL;
}

struct runtime_request *runtime_request_by_core(const libsched *s, uint64_t core_id)
{
    uint64_t slot = core_id & RUNTIME_SLOT_MASK;
    struct runtime_request *request = slot < s->options.max_requests ? s->by_core[slot] : NULL;
    return request != NULL && request->core_id == core_id ? request : NULL;
}

void runtime_request_given(struct runtime_request *request, struct runtime_device *device,
                           uint64_t batch)
{
    runtime_parts_forget(request); /* of a run before, see forget_running() */
    request->device = device->index;
    request->batch = batch;
    request->leaves = 0;
    list_append(&device->running, &request->at);
}

void runtime_request_taken_back(libsched *s, struct runtime_request *request)
{
    list_remove(&request->at);
    runtime_request_release(s, request);
}

/* ----------------------------------------------------------------------------------- preparing */

/* A copy of what a worker that prepares has made, with everything in its place. */
static int copy_prepared(libsched *s, struct runtime_inputs *to, const struct worker_event *event,
                         libsched_error *err)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < event->n_outputs; i++)
        size += aligned(event->outputs[i].size);
    int rc = take_room(s, &to->block, size, err);
    if (rc < 0)
        return rc;

    size_t tensors = rounded(event->n_outputs * sizeof(*to->tensors));
    to->memory = malloc(tensors + (size_t)event->n_outputs * LIBSCHED_NAME_SIZE + 1);
    if (to->memory == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a prepared request");
    to->n = event->n_outputs;
    to->tensors = to->memory;

    char *names = (char *)to->memory + tensors;
    uint64_t offset = to->block != NULL ? runtime_arena_offset(to->block) : 0;
    for (uint32_t i = 0; i < event->n_outputs; i++) {
        libsched_tensor tensor = event->outputs[i];
        unsigned char *data = (unsigned char *)segment_data(s->segment) + offset;
        char *name = names + (size_t)i * LIBSCHED_NAME_SIZE;
        strncpy(name, tensor.name, LIBSCHED_NAME_SIZE - 1);
        name[LIBSCHED_NAME_SIZE - 1] = '\0';
        if (tensor.size > 0)
            memcpy(data, tensor.data, tensor.size);
        tensor.data = data;
        rc = libsched_tensor_check(&tensor, err);
        if (rc < 0) {
            if (err != NULL)
                err->status = LIBSCHED_EENGINE;
            return LIBSCHED_EENGINE;
        }
        to->tensors[i] = (struct worker_tensor){
            .name = name,
            .datatype = tensor.datatype,
            .rank = tensor.rank,
            .segment = s->segment,
            .offset = offset,
            .size = tensor.size,
        };
        memcpy(to->tensors[i].shape, tensor.shape, sizeof(tensor.shape));
        offset += aligned(tensor.size);
    }
    return LIBSCHED_OK;
}

int runtime_request_prepare(libsched *s, struct runtime_request *request,
                            const struct worker_event *event, libsched_error *err)
{
    struct runtime_inputs prepared = {0};
    if (event->n_outputs > LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EENGINE, "its prepared form has %u tensors",
                                  event->n_outputs);
    /* What was submitted is no longer needed, and its room may be. */
    runtime_inputs_free(s, &request->inputs);
    int rc = copy_prepared(s, &prepared, event, err);
    if (rc < 0)
        runtime_inputs_free(s, &prepared);
    else
        request->inputs = prepared;
    return rc;
}
