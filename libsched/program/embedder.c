/* SPDX-License-Identifier: Apache-2.0 */
#include "program/embedder.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/safetensors.h"

/* What prepare() makes: `ids` and `lengths`. */
#define MAX_OUTPUTS 2
#define ALIGNMENT 64
/* A model's own parameters, and those that take their place. */
#define MAX_PARAMETERS (LIBSCHED_MAX_PARAMETERS + 2)
/* No more tokens are computed at once, whatever a batch has: the encoder cuts it. */
#define MOST_AT_ONCE 16384
/* A device that computes one chunk while another is under way has each of these twice. */
#define CHUNKS 2
/* What a device knows of a chunk's sequences, for each of its tokens: starts, ids, positions, and
 * where a block of attention begins. */
#define SEQUENCE_BYTES 30

struct embedder {
    libsched_engine_model *model;
    uint32_t width;
};

/* What one call made of one item. */
struct outcome {
    libsched_tensor outputs[MAX_OUTPUTS];
    char names[MAX_OUTPUTS][LIBSCHED_NAME_SIZE];
    uint32_t n_outputs;
    bool ended;
};

/* A call of prepare() or step(). */
struct call {
    struct outcome *outcomes; /* of each item; its id is its index, and one */
    uint32_t n;
    uint32_t failed; /* the first item that did; n: none */
    libsched_error err;
};

static void free_outcomes(struct call *call)
{
    for (uint32_t i = 0; call->outcomes != NULL && i < call->n; i++)
        for (uint32_t k = 0; k < call->outcomes[i].n_outputs; k++)
            free((void *)(uintptr_t)call->outcomes[i].outputs[k].data);
    free(call->outcomes);
}

/* ----------------------------------------------------------------------------------- the host */

static void host_end(void *host, libsched_item *item, int status, const char *message)
{
    struct call *call = host;
    const uint32_t index = (uint32_t)item->id - 1;

    if (call->outcomes[index].ended)
        return;
    call->outcomes[index].ended = true;
    if (status != LIBSCHED_OK && index < call->failed) {
        call->failed = index;
        libsched_error_set(&call->err, status, "%s", message != NULL ? message : "");
    }
}

static void *host_output(void *host, libsched_item *item, const char *name, uint32_t datatype,
                         uint32_t rank, const int64_t *shape, uint64_t size)
{
    struct outcome *to = &((struct call *)host)->outcomes[item->id - 1];
    libsched_tensor *output = &to->outputs[to->n_outputs];
    void *data;

    if (to->ended || to->n_outputs == MAX_OUTPUTS || strlen(name) >= LIBSCHED_NAME_SIZE)
        return NULL;
    data = aligned_alloc(ALIGNMENT, (size / ALIGNMENT + 1) * ALIGNMENT);
    if (data == NULL) {
        host_end(host, item, LIBSCHED_ENOMEM, "no memory for embeddings");
        return NULL;
    }
    strcpy(to->names[to->n_outputs], name);
    *output = (libsched_tensor){.name = to->names[to->n_outputs],
                                .datatype = datatype,
                                .rank = rank,
                                .data = data,
                                .size = size};
    memcpy(output->shape, shape, rank * sizeof(*shape));
    to->n_outputs++;
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

static const libsched_engine_host encoder_host = {
    .struct_size = sizeof(encoder_host),
    .output = host_output,
    .part = host_part,
    .end = host_end,
    .log = host_log,
};

/* Calls the engine with `n` items. What came of them is the caller's, also on failure. */
static int call_engine(struct embedder *embedder, struct call *call, libsched_item *items,
                       bool prepare, libsched_error *err)
{
    libsched_item **list = malloc(call->n * sizeof(*list));
    libsched_engine_batch batch = {
        .struct_size = sizeof(batch), .n_items = call->n, .items = list, .host = call};
    int status;

    call->failed = call->n;
    call->outcomes = calloc(call->n, sizeof(*call->outcomes));
    if (list == NULL || call->outcomes == NULL) {
        free(list);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a batch");
    }
    for (uint32_t i = 0; i < call->n; i++)
        list[i] = &items[i];
    status = (prepare ? engine_encoder()->prepare : engine_encoder()->step)(embedder->model, &batch,
                                                                            &encoder_host, err);
    free(list);
    if (status != LIBSCHED_OK)
        return status;
    if (call->failed < call->n)
        return libsched_error_set(err, call->err.status, "%s", call->err.message);
    for (uint32_t i = 0; i < call->n; i++)
        if (!call->outcomes[i].ended)
            return libsched_error_set(err, LIBSCHED_EENGINE, "the encoder gave no answer");
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------ a model */

int embedder_find_model(struct catalog_model **out, const char *path, const char *program,
                        libsched_error *err)
{
    libsched_error cause = {0};
    int status = catalog_open(out, path, &cause);

    if (status == LIBSCHED_OK && (strcmp((*out)->engine, "encoder") != 0 || (*out)->library)) {
        libsched_error_set(&cause, LIBSCHED_EBADMODEL, "engine \"%s\" is not the encoder",
                           (*out)->engine);
        catalog_close(*out);
        *out = NULL;
        status = LIBSCHED_EBADMODEL;
    }
    if (status != LIBSCHED_OK)
        return libsched_error_set(err, status == LIBSCHED_EBADMODEL ? LIBSCHED_EINVAL : status,
                                  "%s: \"model\": %s", program, cause.message);
    return LIBSCHED_OK;
}

/* A checkpoint in 16 bits may be computed with in 32. Biases and norms are kept in both, and those
 * of a layer may be whole on each rank. */
static uint64_t weights_memory(const char *folder, const struct encoder_config *c, uint32_t n_ranks)
{
    const double hidden = c->hidden;
    const double tables = ((double)c->vocabulary + c->positions + c->token_types) * hidden;
    const double layers = c->layers * hidden * (4 * hidden + 2.0 * c->intermediate);
    const double size = (double)catalog_file_size(folder, SAFETENSORS_WEIGHTS);

    const double vectors = c->layers * (9 * hidden + c->intermediate) + 2 * hidden;

    return (uint64_t)(6 * vectors + 2 * size * (tables + layers / n_ranks) / (tables + layers));
}

/* What a chunk of tokens is computed in: beside the states and the pooled ones in FP32 what is
 * between two products, in FP32, or in BF16 and with a copy of the states in it. */
static uint64_t scratch_memory(const struct encoder_config *c, uint64_t batch, uint32_t n_ranks)
{
    const uint64_t tokens = batch > 0 && batch < MOST_AT_ONCE ? batch : MOST_AT_ONCE;
    const uint64_t held = tokens > c->max_tokens ? tokens : c->max_tokens;
    const uint64_t hidden = c->hidden, between = (4 * hidden + c->intermediate) / n_ranks;
    const uint64_t f32 = 4 * between, bf16 = 2 * between + 2 * hidden;

    return held * ((1 + CHUNKS) * 4 * hidden + (f32 > bf16 ? f32 : bf16) + CHUNKS * SEQUENCE_BYTES);
}

uint64_t embedder_memory(const struct catalog_model *model, const struct encoder_config *config,
                         uint64_t batch, uint32_t n_ranks)
{
    return weights_memory(model->path, config, n_ranks) + scratch_memory(config, batch, n_ranks);
}

/* The manifest's parameters, but for those that the options say. */
static uint32_t merge(libsched_parameter to[MAX_PARAMETERS], const struct catalog_model *model,
                      const struct embedder_options *options)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < model->n_parameters && n < LIBSCHED_MAX_PARAMETERS; i++)
        if ((options->precision == NULL || strcmp(model->parameters[i].name, "precision") != 0) &&
            (options->batch == 0 || strcmp(model->parameters[i].name, "max_batch_units") != 0))
            to[n++] = model->parameters[i];
    if (options->precision != NULL)
        to[n++] = (libsched_parameter){.name = "precision",
                                       .type = LIBSCHED_PARAMETER_STRING,
                                       .value.string = options->precision};
    if (options->batch != 0)
        to[n++] = (libsched_parameter){.name = "max_batch_units",
                                       .type = LIBSCHED_PARAMETER_INT,
                                       .value.integer = (int64_t)options->batch};
    return n;
}

int embedder_open(struct embedder **out, const struct catalog_model *model,
                  struct libsched_device *device, const struct embedder_options *options,
                  libsched_error *err)
{
    libsched_parameter parameters[MAX_PARAMETERS];
    const libsched_engine_open_args args = {
        .struct_size = sizeof(args),
        .name = options->program,
        .path = model->path,
        .parameters = parameters,
        .n_parameters = merge(parameters, model, options),
        .device = device,
        .threads = options->threads,
        .communicator = options->copies != NULL ? options->copies->communicator : NULL,
        .rank = options->copies != NULL ? options->copies->number : 0,
        .n_ranks = options->copies != NULL ? options->copies->n : 1,
    };
    struct embedder *embedder = calloc(1, sizeof(*embedder));
    libsched_engine_description description;
    int status;

    if (embedder == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
    if (options->split != NULL)
        status = encoder_open_split(&embedder->model, &args, options->split, err);
    else
        status = engine_encoder()->open(&embedder->model, &args, err);
    if (status != LIBSCHED_OK) {
        free(embedder);
        return status;
    }
    status = engine_encoder()->describe(embedder->model, &description, err);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < description.n_outputs; i++)
        if (strcmp(description.outputs[i].name, "embedding") == 0)
            embedder->width = (uint32_t)description.outputs[i].shape[1];
    if (status != LIBSCHED_OK) {
        embedder_close(embedder);
        return status;
    }
    *out = embedder;
    return LIBSCHED_OK;
}

void embedder_close(struct embedder *embedder)
{
    if (embedder == NULL)
        return;
    engine_encoder()->close(embedder->model);
    free(embedder);
}

uint32_t embedder_width(const struct embedder *embedder)
{
    return embedder->width;
}

/* ----------------------------------------------------------------------------------- embedding */

static uint64_t text_room(const struct embedder_text *text)
{
    const uint64_t size = text->text != NULL ? sizeof(uint32_t) + (uint64_t)text->length
                                             : (uint64_t)text->length * sizeof(int32_t);
    return (size / ALIGNMENT + 1) * ALIGNMENT;
}

/* The input of one item, written to `to`. */
static libsched_tensor make_input(const struct embedder_text *text, unsigned char *to)
{
    if (text->text == NULL) {
        if (text->length > 0)
            memcpy(to, text->ids, text->length * sizeof(int32_t));
        return (libsched_tensor){.name = "input_ids",
                                 .datatype = LIBSCHED_INT32,
                                 .rank = 2,
                                 .shape = {1, text->length},
                                 .data = to,
                                 .size = text->length * sizeof(int32_t)};
    }
    memcpy(to, &text->length, sizeof(uint32_t));
    memcpy(to + sizeof(uint32_t), text->text, text->length);
    return (libsched_tensor){.name = "text",
                             .datatype = LIBSCHED_BYTES,
                             .rank = 1,
                             .shape = {1},
                             .data = to,
                             .size = sizeof(uint32_t) + (uint64_t)text->length};
}

static void make_items(libsched_item *items, libsched_tensor *inputs,
                       const struct embedder_text *texts, uint32_t n, unsigned char *data)
{
    /* A model that has a classifier already would give its scores. */
    static const libsched_parameter embedding = {
        .name = "output", .type = LIBSCHED_PARAMETER_STRING, .value.string = "embedding"};

    for (uint32_t i = 0; i < n; i++) {
        inputs[i] = make_input(&texts[i], data);
        data += text_room(&texts[i]);
        items[i] = (libsched_item){
            .id = i + UINT64_C(1),
            .joined = true,
            .n_inputs = 1,
            .inputs = &inputs[i],
            .n_parameters = 1,
            .parameters = &embedding,
        };
    }
}

static int step(struct embedder *embedder, struct call *call, libsched_item *items,
                const struct call *prepared, float *out, libsched_error *err)
{
    const uint64_t size = (uint64_t)embedder->width * sizeof(float);
    int status;

    for (uint32_t i = 0; i < call->n; i++) {
        items[i].inputs = prepared->outcomes[i].outputs;
        items[i].n_inputs = prepared->outcomes[i].n_outputs;
    }
    status = call_engine(embedder, call, items, false, err);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < call->n; i++) {
        const struct outcome *of = &call->outcomes[i];
        if (of->n_outputs != 1 || of->outputs[0].size != size)
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "the encoder gave something else than embeddings");
        memcpy(out + (uint64_t)i * embedder->width, of->outputs[0].data, size);
    }
    return status;
}

int embedder_run(struct embedder *embedder, const struct embedder_text *texts, uint32_t n,
                 float *out, uint32_t *which, libsched_error *err)
{
    struct call prepared = {.n = n, .failed = n}, embedded = {.n = n, .failed = n};
    libsched_item *items = calloc(n + (size_t)1, sizeof(*items));
    libsched_tensor *inputs = calloc(n + (size_t)1, sizeof(*inputs));
    unsigned char *data;
    uint64_t size = ALIGNMENT;
    int status = LIBSCHED_OK;

    for (uint32_t i = 0; i < n; i++)
        size += text_room(&texts[i]);
    data = aligned_alloc(ALIGNMENT, size);
    if (items == NULL || inputs == NULL || data == NULL) {
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for texts");
    } else if (n > 0) {
        make_items(items, inputs, texts, n, data);
        status = call_engine(embedder, &prepared, items, true, err);
        if (status == LIBSCHED_OK)
            status = step(embedder, &embedded, items, &prepared, out, err);
    }
    *which = prepared.failed < n ? prepared.failed : embedded.failed;
    free_outcomes(&prepared);
    free_outcomes(&embedded);
    free(items);
    free(inputs);
    free(data);
    return status;
}
