/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model itself: BERT with its norms behind the residual sums (Devlin et al., 2018), in
 * operations of the device. The residual stream is FP32 in either precision.
 *
 * Of a split model every rank has the states whole. The products behind attention and in the middle
 * of the feed-forward part give each rank a part of the sum that is to be added to them: rank 0
 * adds its part, and the bias, to the states, the others put theirs in the states' place, and the
 * sum over all ranks is the new states. So there is no buffer for it, and nothing is added twice.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/encoder_internal.h"

/* Whether the device can tell when a part of what it was given is done. */
static bool has_marks(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, reached) && driver->mark != NULL &&
           driver->reached != NULL;
}

/* Whether it may record what it is given again and again. */
static bool has_sections(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, section_end) &&
           driver->section_create != NULL;
}

static int create_chunk(struct encoder_chunk *out, libsched_device *device, uint64_t max_tokens,
                        uint64_t hidden, bool head, libsched_error *err)
{
    /* A sequence has at least one token. */
    int status = device->driver->sequences_create(device, &out->sequences, (uint32_t)max_tokens,
                                                  max_tokens, err);

    if (status == LIBSCHED_OK)
        status = device->driver->buffer_create(device, &out->pooled, LIBSCHED_FP32, max_tokens,
                                               hidden, err);
    if (status == LIBSCHED_OK && head) {
        out->head_input = calloc(max_tokens * hidden, sizeof(float));
        if (out->head_input == NULL)
            status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model's head");
    }
    return status;
}

int encoder_scratch_create(struct encoder_scratch *out, libsched_device *device,
                           const struct encoder_config *config, uint32_t precision,
                           uint32_t n_ranks, uint64_t max_tokens, bool head, libsched_error *err)
{
    const uint64_t hidden = config->hidden;
    const struct {
        libsched_device_buffer **buffer;
        uint32_t datatype;
        uint64_t columns;
    } wanted[] = {
        {&out->states, LIBSCHED_FP32, hidden},
        {&out->qkv, precision, 3 * hidden / n_ranks},
        {&out->context, precision, hidden / n_ranks},
        {&out->middle, precision, config->intermediate / n_ranks},
        {&out->states_bf16, LIBSCHED_BF16, hidden}, /* the last: not always wanted */
    };
    const size_t n = sizeof(wanted) / sizeof(wanted[0]) - (precision != LIBSCHED_BF16);
    int status;

    memset(out, 0, sizeof(*out));
    out->max_tokens = max_tokens;
    out->starts = calloc(max_tokens + 1, sizeof(*out->starts));
    out->ids = calloc(max_tokens, sizeof(*out->ids));
    if (out->starts == NULL || out->ids == NULL) {
        encoder_scratch_free(out, device);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a chunk");
    }
    out->n_chunks = has_marks(device->driver) ? ENCODER_CHUNKS : 1;
    status = LIBSCHED_OK;
    for (uint32_t i = 0; status == LIBSCHED_OK && i < out->n_chunks; i++)
        status = create_chunk(&out->chunks[i], device, max_tokens, hidden, head, err);
    out->bytes = out->n_chunks * max_tokens * hidden * sizeof(float);
    /* Where ranks have to meet nothing can be given that was recorded. */
    for (uint32_t i = 0; i < out->n_chunks && n_ranks == 1 && has_sections(device->driver); i++) {
        uint64_t bytes = 0;

        if (status == LIBSCHED_OK)
            status = device->driver->section_create(device, &out->chunks[i].section,
                                                    out->chunks[i].sequences, &bytes, err);
        out->bytes += bytes;
    }
    for (size_t i = 0; status == LIBSCHED_OK && i < n; i++) {
        status = device->driver->buffer_create(device, wanted[i].buffer, wanted[i].datatype,
                                               max_tokens, wanted[i].columns, err);
        out->bytes += max_tokens * wanted[i].columns * libsched_datatype_size(wanted[i].datatype);
    }
    if (status != LIBSCHED_OK)
        encoder_scratch_free(out, device);
    return status;
}

void encoder_scratch_free(struct encoder_scratch *scratch, libsched_device *device)
{
    const libsched_device_driver *driver = device->driver;

    for (uint32_t i = 0; i < ENCODER_CHUNKS; i++) {
        if (scratch->chunks[i].section != NULL)
            driver->section_destroy(device, scratch->chunks[i].section);
        driver->sequences_destroy(device, scratch->chunks[i].sequences);
        driver->buffer_destroy(device, scratch->chunks[i].pooled);
        free(scratch->chunks[i].head_input);
    }
    driver->buffer_destroy(device, scratch->states);
    driver->buffer_destroy(device, scratch->states_bf16);
    driver->buffer_destroy(device, scratch->qkv);
    driver->buffer_destroy(device, scratch->context);
    driver->buffer_destroy(device, scratch->middle);
    free(scratch->starts);
    free(scratch->ids);
    memset(scratch, 0, sizeof(*scratch));
}

/* One pass: the model, its device, the chunk, and how many tokens it has. */
struct pass {
    libsched_engine_model *model;
    libsched_device *device;
    struct encoder_chunk *chunk;
    uint64_t tokens;
    libsched_error *err;
};

static int linear(const struct pass *pass, const struct encoder_linear *layer,
                  const libsched_device_buffer *input, uint32_t activation, bool accumulate,
                  libsched_device_buffer *output)
{
    const libsched_device_linear_args args = {
        .struct_size = sizeof(args),
        .rows = pass->tokens,
        .input = input,
        .weight = layer->weight,
        .bias = layer->bias,
        .activation = activation,
        .accumulate = accumulate,
        .output = output,
    };

    return pass->device->driver->linear(pass->device, &args, pass->err);
}

/* states += input weightᵀ + bias, over all ranks. */
static int add_to_states(const struct pass *pass, const struct encoder_linear *layer,
                         const libsched_device_buffer *input)
{
    const struct encoder_split *split = &pass->model->split;
    libsched_device_buffer *states = pass->model->scratch.states;
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .reduction = LIBSCHED_REDUCE_SUM,
        .count = pass->tokens * pass->model->config.hidden,
        .input = states,
        .output = states,
    };
    int status = linear(pass, layer, input, LIBSCHED_ACTIVATION_NONE, split->rank == 0, states);

    if (status == LIBSCHED_OK && split->n_ranks > 1)
        status =
            pass->device->driver->all_reduce(pass->device, split->communicator, &args, pass->err);
    return status;
}

static int norm(const struct pass *pass, const struct encoder_norm *layer)
{
    struct encoder_scratch *s = &pass->model->scratch;
    const libsched_device_norm_args args = {
        .struct_size = sizeof(args),
        .rows = pass->tokens,
        .input = s->states,
        .gain = layer->gain,
        .shift = layer->shift,
        .epsilon = (float)pass->model->config.layer_norm_eps,
        .output = s->states,
        .output_bf16 = s->states_bf16,
    };

    return pass->device->driver->norm(pass->device, &args, pass->err);
}

static int attention(const struct pass *pass)
{
    const struct encoder_config *config = &pass->model->config;
    struct encoder_scratch *s = &pass->model->scratch;
    const uint32_t head_size = config->hidden / config->heads;
    const libsched_device_attention_args args = {
        .struct_size = sizeof(args),
        .sequences = pass->chunk->sequences,
        .qkv = s->qkv,
        .heads = encoder_share(config->heads, &pass->model->split),
        .head_size = head_size,
        .scale = 1.0f / sqrtf((float)head_size),
        .output = s->context,
    };

    return pass->device->driver->attention(pass->device, &args, pass->err);
}

static int embed(const struct pass *pass)
{
    const struct encoder_weights *w = &pass->model->weights;
    struct encoder_scratch *s = &pass->model->scratch;
    const libsched_device_embed_args args = {
        .struct_size = sizeof(args),
        .sequences = pass->chunk->sequences,
        .words = w->words,
        .positions = w->positions,
        .types = w->types,
        .gain = w->norm.gain,
        .shift = w->norm.shift,
        .epsilon = (float)pass->model->config.layer_norm_eps,
        .output = s->states,
        .output_bf16 = s->states_bf16,
    };

    return pass->device->driver->embed(pass->device, &args, pass->err);
}

static int pool_states(const struct pass *pass)
{
    struct encoder_scratch *s = &pass->model->scratch;
    const libsched_device_pool_args args = {
        .struct_size = sizeof(args),
        .sequences = pass->chunk->sequences,
        .input = s->states,
        .pooling = pass->model->options.pooling,
        .normalize = pass->model->options.normalize,
        .output = pass->chunk->pooled,
    };

    return pass->device->driver->pool(pass->device, &args, pass->err);
}

static uint32_t activation_of(const struct encoder_config *config)
{
    switch (config->activation) {
    case ENCODER_RELU:
        return LIBSCHED_ACTIVATION_RELU;
    case ENCODER_GELU_TANH:
        return LIBSCHED_ACTIVATION_GELU_TANH;
    default:
        return LIBSCHED_ACTIVATION_GELU;
    }
}

static int run_layer(const struct pass *pass, const struct encoder_layer *layer)
{
    struct encoder_scratch *s = &pass->model->scratch;
    const libsched_device_buffer *states = s->states_bf16 != NULL ? s->states_bf16 : s->states;
    int status = linear(pass, &layer->qkv, states, LIBSCHED_ACTIVATION_NONE, false, s->qkv);

    if (status == LIBSCHED_OK)
        status = attention(pass);
    if (status == LIBSCHED_OK)
        status = add_to_states(pass, &layer->attention, s->context);
    if (status == LIBSCHED_OK)
        status = norm(pass, &layer->attention_norm);
    if (status == LIBSCHED_OK)
        status =
            linear(pass, &layer->up, states, activation_of(&pass->model->config), false, s->middle);
    if (status == LIBSCHED_OK)
        status = add_to_states(pass, &layer->down, s->middle);
    if (status == LIBSCHED_OK)
        status = norm(pass, &layer->output_norm);
    return status;
}

/* All that is computed once the sequences are there. */
static int run_model(const struct pass *pass, bool pool)
{
    const struct encoder_weights *weights = &pass->model->weights;
    int status = embed(pass);

    for (uint32_t i = 0; status == LIBSCHED_OK && i < weights->n_layers; i++)
        status = run_layer(pass, &weights->layers[i]);
    if (status == LIBSCHED_OK && pool)
        status = pool_states(pass);
    return status;
}

/* The same, with the device's help. */
static int run_section(const struct pass *pass, bool pool)
{
    const libsched_device_driver *driver = pass->device->driver;
    libsched_device_section *section = pass->chunk->section;
    bool given = false, again = false;
    int status, ran;

    do {
        status = driver->section_begin(pass->device, section, pool, &given, pass->err);
        if (status != LIBSCHED_OK || given)
            return status;
        ran = run_model(pass, pool);
        status = driver->section_end(pass->device, section, ran, &again, pass->err);
    } while (status == LIBSCHED_OK && again);
    return status == LIBSCHED_OK ? ran : status;
}

int encoder_forward(libsched_engine_model *model, struct encoder_chunk *chunk, uint32_t n,
                    bool pool, libsched_error *err)
{
    struct encoder_scratch *s = &model->scratch;
    const struct pass pass = {model, model->device, chunk, s->starts[n], err};
    int status = model->device->driver->sequences_set(model->device, chunk->sequences, n, s->starts,
                                                      s->ids, err);

    if (status == LIBSCHED_OK)
        status = chunk->section != NULL ? run_section(&pass, pool) : run_model(&pass, pool);
    return status;
}
