/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train_embed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/encoder.h"

/* What prepare() and step() make: few tensors, each once. */
#define MAX_OUTPUTS 4
#define ALIGNMENT 64

struct train_embedder {
    const libsched_engine *engine;
    libsched_engine_model *model;
    uint32_t width;
};

/* What one call made of the one item. */
struct call {
    libsched_tensor outputs[MAX_OUTPUTS];
    char names[MAX_OUTPUTS][LIBSCHED_NAME_SIZE];
    uint32_t n_outputs;
    bool ended;
    int status;
    libsched_error err;
};

static void free_outputs(struct call *call)
{
    for (uint32_t i = 0; i < call->n_outputs; i++)
        free((void *)(uintptr_t)call->outputs[i].data);
    call->n_outputs = 0;
}

/* ----------------------------------------------------------------------------------- the host */

static void host_end(void *host, libsched_item *item, int status, const char *message)
{
    struct call *call = host;

    (void)item;
    if (call->ended)
        return;
    call->ended = true;
    call->status = libsched_error_set(&call->err, status, "%s", message != NULL ? message : "");
}

static void *host_output(void *host, libsched_item *item, const char *name, uint32_t datatype,
                         uint32_t rank, const int64_t *shape, uint64_t size)
{
    struct call *call = host;
    libsched_tensor *output = &call->outputs[call->n_outputs];
    const size_t room = (size / ALIGNMENT + 1) * ALIGNMENT;
    void *data;

    if (call->ended || call->n_outputs == MAX_OUTPUTS || strlen(name) >= LIBSCHED_NAME_SIZE)
        return NULL;
    data = aligned_alloc(ALIGNMENT, room);
    if (data == NULL) {
        host_end(host, item, LIBSCHED_ENOMEM, "no memory for embeddings");
        return NULL;
    }
    strcpy(call->names[call->n_outputs], name);
    *output = (libsched_tensor){.name = call->names[call->n_outputs],
                                .datatype = datatype,
                                .rank = rank,
                                .data = data,
                                .size = size};
    memcpy(output->shape, shape, rank * sizeof(*shape));
    call->n_outputs++;
    return data;
}

static void host_part(void *host, libsched_item *item)
{
    host_end(host, item, LIBSCHED_EENGINE, "an encoder has no parts");
}

static void host_log(void *host, const char *message)
{
    (void)host;
    (void)message;
}

/* Calls the engine with one item. The outputs are the caller's, also on failure. */
static int run(struct train_embedder *embedder, struct call *call, const libsched_tensor *inputs,
               uint32_t n_inputs, bool prepare, libsched_error *err)
{
    static const libsched_engine_host host = {
        .struct_size = sizeof(host),
        .output = host_output,
        .part = host_part,
        .end = host_end,
        .log = host_log,
    };
    /* A model that has a classifier already would give its scores. */
    static const libsched_parameter embedding = {
        .name = "output", .type = LIBSCHED_PARAMETER_STRING, .value.string = "embedding"};
    libsched_item item = {
        .id = 1,
        .joined = true,
        .n_inputs = n_inputs,
        .inputs = inputs,
        .n_parameters = 1,
        .parameters = &embedding,
    };
    libsched_item *const items[] = {&item};
    libsched_engine_batch batch = {
        .struct_size = sizeof(batch), .n_items = 1, .items = items, .host = call};
    int status;

    memset(call, 0, sizeof(*call));
    status = (prepare ? embedder->engine->prepare : embedder->engine->step)(embedder->model, &batch,
                                                                            &host, err);
    if (status != LIBSCHED_OK)
        return status;
    if (!call->ended)
        return libsched_error_set(err, LIBSCHED_EENGINE, "the encoder gave no answer");
    if (call->status != LIBSCHED_OK)
        return libsched_error_set(err, call->status, "%s", call->err.message);
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------ a model */

int train_embedder_open(struct train_embedder **out, const struct catalog_model *model,
                        struct libsched_device *device, uint32_t threads, libsched_error *err)
{
    const libsched_engine_open_args args = {
        .struct_size = sizeof(args),
        .name = "train",
        .path = model->path,
        .parameters = model->parameters,
        .n_parameters = model->n_parameters,
        .device = device,
        .threads = threads,
    };
    struct train_embedder *embedder = calloc(1, sizeof(*embedder));
    libsched_engine_description description;
    int status;

    if (embedder == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
    embedder->engine = engine_encoder();
    status = embedder->engine->open(&embedder->model, &args, err);
    if (status != LIBSCHED_OK) {
        free(embedder);
        return status;
    }
    status = embedder->engine->describe(embedder->model, &description, err);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < description.n_outputs; i++)
        if (strcmp(description.outputs[i].name, "embedding") == 0)
            embedder->width = (uint32_t)description.outputs[i].shape[1];
    if (status != LIBSCHED_OK) {
        train_embedder_close(embedder);
        return status;
    }
    *out = embedder;
    return LIBSCHED_OK;
}

void train_embedder_close(struct train_embedder *embedder)
{
    if (embedder == NULL)
        return;
    embedder->engine->close(embedder->model);
    free(embedder);
}

uint32_t train_embedder_width(const struct train_embedder *embedder)
{
    return embedder->width;
}

/* ----------------------------------------------------------------------------------- embedding */

/* The texts as a BYTES tensor, which is the caller's to free. */
static int gather(libsched_tensor *out, const struct train_example *texts, uint32_t n,
                  libsched_error *err)
{
    uint64_t size = 0;
    char *data, *to;

    for (uint32_t i = 0; i < n; i++)
        size += sizeof(uint32_t) + texts[i].length;
    to = data = aligned_alloc(ALIGNMENT, (size / ALIGNMENT + 1) * ALIGNMENT);
    if (data == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for texts");
    for (uint32_t i = 0; i < n; i++) {
        memcpy(to, &texts[i].length, sizeof(uint32_t));
        memcpy(to + sizeof(uint32_t), texts[i].text, texts[i].length);
        to += sizeof(uint32_t) + texts[i].length;
    }
    *out = (libsched_tensor){.name = "text",
                             .datatype = LIBSCHED_BYTES,
                             .rank = 1,
                             .shape = {n},
                             .data = data,
                             .size = size};
    return LIBSCHED_OK;
}

int train_embed(struct train_embedder *embedder, const struct train_example *texts, uint32_t n,
                float *out, libsched_error *err)
{
    const uint64_t size = (uint64_t)n * embedder->width * sizeof(float);
    struct call prepared = {0}, embedded = {0};
    libsched_tensor input;
    int status = gather(&input, texts, n, err);

    if (status != LIBSCHED_OK)
        return status;
    status = run(embedder, &prepared, &input, 1, true, err);
    free((void *)(uintptr_t)input.data);
    if (status == LIBSCHED_OK)
        status = run(embedder, &embedded, prepared.outputs, prepared.n_outputs, false, err);
    if (status == LIBSCHED_OK && (embedded.n_outputs != 1 || embedded.outputs[0].size != size))
        status = libsched_error_set(err, LIBSCHED_EENGINE,
                                    "the encoder gave something else than embeddings");
    if (status == LIBSCHED_OK)
        memcpy(out, embedded.outputs[0].data, size);
    free_outputs(&prepared);
    free_outputs(&embedded);
    return status;
}
