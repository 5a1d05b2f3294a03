/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's table: opening, describing and closing a model. */
#include "engine/encoder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/safetensors.h"
#include "engine/encoder_internal.h"

/* What a step may hold unless somebody says otherwise. Where the device computes on the host's
 * cores, a few hundred tokens already run at full speed, and a longer step only lets others wait;
 * a GPU is filled by tens of thousands. */
#define DEFAULT_BATCH_REQUESTS 256
#define DEFAULT_BATCH_UNITS_CPU 2048
#define DEFAULT_BATCH_UNITS 65536
/* A GPU is given more at once than a CPU's caches hold. */
#define CHUNK_TOKENS 16384
/* Tokens are about four bytes of text, as ids are four bytes; each text has two of its own. */
#define UNITS_FIXED 2
#define UNITS_PER_KIB 256

uint64_t encoder_sequence_units(const struct encoder_config *config, uint64_t tokens)
{
    const uint64_t linear = 2 * (uint64_t)config->hidden + config->intermediate;

    return tokens + (tokens * tokens + linear - 1) / linear;
}

/* Sets options.precision to what will be computed with, or says why it can't be. */
static int choose_precision(struct libsched_engine_model *model,
                            const libsched_device_properties *info, libsched_error *err)
{
    const bool native = (info->flags & LIBSCHED_DEVICE_BF16) != 0;

    if (model->options.auto_precision)
        model->options.precision = native ? LIBSCHED_BF16 : LIBSCHED_FP32;
    if (model->options.precision == LIBSCHED_BF16 && !native)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "precision \"bf16\" is not native to this device (%.100s): use "
                                  "\"f32\" or \"auto\"",
                                  info->text);
    return LIBSCHED_OK;
}

/* The weights and the memory to compute in. */
static int open_device(struct libsched_engine_model *model, const libsched_engine_open_args *args,
                       const struct encoder_copies *copies, libsched_error *err)
{
    libsched_device *device = args->device;
    libsched_device_properties info = {.struct_size = sizeof(info)};
    uint64_t chunk;
    int status;

    if (device == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "the encoder needs a device to compute on");
    status = device->driver->info(device, &info, err);
    if (status == LIBSCHED_OK)
        status = choose_precision(model, &info, err);
    if (status != LIBSCHED_OK)
        return status;
    model->device = device;
    if (model->options.max_batch_units == 0)
        model->options.max_batch_units = (info.flags & LIBSCHED_DEVICE_UNIFIED) != 0
                                             ? DEFAULT_BATCH_UNITS_CPU
                                             : DEFAULT_BATCH_UNITS;
    chunk = (info.flags & LIBSCHED_DEVICE_UNIFIED) != 0 ? ENCODER_CHUNK_TOKENS : CHUNK_TOKENS;
    /* No step is larger, unless a single request is. */
    if (chunk > model->options.max_batch_units)
        chunk = model->options.max_batch_units;
    if (chunk < model->options.max_length)
        chunk = model->options.max_length;
    status = encoder_weights_load(&model->weights, device, args->path, &model->config,
                                  model->options.precision, &model->split, copies, err);
    if (status == LIBSCHED_OK)
        status = encoder_scratch_create(&model->scratch, device, &model->config,
                                        model->options.precision, model->split.n_ranks, chunk,
                                        model->head != NULL, err);
    return status;
}

/* Whether the tokenizer does as the configuration says. */
static int check_tokenizer(const struct libsched_engine_model *model, libsched_error *err)
{
    struct tokenizer_scratch *scratch;
    int32_t ids[2][3];
    uint32_t n;
    bool truncated;
    int status;

    if (tokenizer_id_limit(model->tokenizer) > model->config.vocabulary)
        return libsched_error_set(
            err, LIBSCHED_EBADMODEL,
            "the tokenizer has ids up to %" PRIu32 ", config.json says vocab_size %" PRIu32,
            tokenizer_id_limit(model->tokenizer) - 1, model->config.vocabulary);
    if (!model->config.do_lower_case)
        return LIBSCHED_OK;
    status = tokenizer_scratch_open(&scratch, model->tokenizer, err);
    if (status != LIBSCHED_OK)
        return status;
    memset(ids, 0, sizeof(ids));
    status = tokenizer_encode(model->tokenizer, scratch, "A", 1, 3, ids[0], &n, &truncated, err);
    if (status == LIBSCHED_OK)
        status =
            tokenizer_encode(model->tokenizer, scratch, "a", 1, 3, ids[1], &n, &truncated, err);
    tokenizer_scratch_close(scratch);
    if (status == LIBSCHED_OK && memcmp(ids[0], ids[1], sizeof(ids[0])) != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "sentence_bert_config.json says do_lower_case, but the "
                                  "tokenizer keeps capitals: set \"lowercase\" in tokenizer.json");
    return status;
}

static void encoder_close(libsched_engine_model *model)
{
    if (model->device != NULL) {
        encoder_steps_drop(model);
        encoder_scratch_free(&model->scratch, model->device);
        encoder_weights_free(&model->weights, model->device);
    }
    tokenizer_close(model->tokenizer);
    encoder_head_free(model->head);
    free(model);
}

int encoder_split_check(const struct encoder_config *config, uint32_t n_ranks, libsched_error *err)
{
    if (n_ranks == 0 || config->heads % n_ranks != 0 || config->intermediate % n_ranks != 0)
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "a model of %" PRIu32 " heads and a feed-forward width of %" PRIu32
            " can't be split over %" PRIu32 " devices: their number has to divide both",
            config->heads, config->intermediate, n_ranks);
    return LIBSCHED_OK;
}

static int open_model(libsched_engine_model **out, const libsched_engine_open_args *args,
                      const struct encoder_split *split, const struct encoder_copies *copies,
                      libsched_error *err)
{
    libsched_engine_model *model;
    int status;

    if (args->path == NULL)
        return libsched_error_set(
            err, LIBSCHED_EBADMODEL,
            "the encoder needs a folder with config.json, " SAFETENSORS_WEIGHTS
            " and the tokenizer's files");
    model = calloc(1, sizeof(*model));
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
    snprintf(model->name, sizeof(model->name), "%s", args->name);
    model->split = *split;
    status = encoder_config_load(&model->config, args->path, err);
    if (status == LIBSCHED_OK)
        status = encoder_split_check(&model->config, split->n_ranks, err);
    if (status == LIBSCHED_OK)
        status = encoder_options_read(&model->options, &model->config, args->parameters,
                                      args->n_parameters, err);
    if (status == LIBSCHED_OK)
        status = tokenizer_open(&model->tokenizer, args->path, err);
    if (status == LIBSCHED_OK)
        status = check_tokenizer(model, err);
    if (status == LIBSCHED_OK)
        status = encoder_head_load(&model->head, args->path, model->config.hidden, err);
    if (status == LIBSCHED_OK && !args->prepare_only)
        status = open_device(model, args, copies, err);
    if (status != LIBSCHED_OK) {
        encoder_close(model);
        return status;
    }
    *out = model;
    return LIBSCHED_OK;
}

int encoder_open_split(libsched_engine_model **out, const libsched_engine_open_args *args,
                       const struct encoder_split *split, libsched_error *err)
{
    return open_model(out, args, split, NULL, err);
}

static int encoder_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                        libsched_error *err)
{
    const struct encoder_split whole = {.n_ranks = 1};
    const struct encoder_copies copies = {args->rank, args->communicator};

    return open_model(out, args, &whole, args->communicator != NULL ? &copies : NULL, err);
}

/* --------------------------------------------------------------------------------- description */

static libsched_tensor_spec spec(const char *name, uint32_t datatype, uint32_t rank, int64_t rows,
                                 int64_t columns)
{
    libsched_tensor_spec s = {
        .datatype = datatype, .rank = rank, .shape = {rows, columns}, .optional = true};

    snprintf(s.name, sizeof(s.name), "%s", name);
    return s;
}

/* A name that may come in two datatypes has two specs. Which of the inputs go together is
 * prepare()'s to check. */
static void describe_tensors(const libsched_engine_model *model, libsched_engine_description *out)
{
    const int64_t hidden = model->config.hidden;
    const libsched_tensor_spec inputs[] = {
        spec("text", LIBSCHED_BYTES, 1, -1, 0),
        spec("input_ids", LIBSCHED_INT32, 2, -1, -1),
        spec("input_ids", LIBSCHED_INT64, 2, -1, -1),
        spec("attention_mask", LIBSCHED_INT32, 2, -1, -1),
        spec("attention_mask", LIBSCHED_INT64, 2, -1, -1),
    };
    const libsched_tensor_spec outputs[] = {
        spec("embedding", LIBSCHED_FP32, 2, -1, hidden),
        spec("token_states", LIBSCHED_FP32, 2, -1, hidden),
        spec("lengths", LIBSCHED_INT32, 1, -1, 0),
        spec("scores", LIBSCHED_FP32, 2, -1, model->head != NULL ? model->head->classes : 0),
        spec("label", LIBSCHED_BYTES, 1, -1, 0),
    };
    const uint32_t n_outputs =
        (uint32_t)(sizeof(outputs) / sizeof(outputs[0])) - (model->head != NULL ? 0 : 2);

    memcpy(out->inputs, inputs, sizeof(inputs));
    memcpy(out->outputs, outputs, n_outputs * sizeof(outputs[0]));
    out->n_inputs = sizeof(inputs) / sizeof(inputs[0]);
    out->n_outputs = n_outputs;
}

static int encoder_describe(libsched_engine_model *model, libsched_engine_description *out,
                            libsched_error *err)
{
    const struct encoder_options *options = &model->options;
    const struct encoder_config *config = &model->config;

    char classes[32] = "";

    (void)err;
    memset(out, 0, sizeof(*out));
    if (model->head != NULL)
        snprintf(classes, sizeof(classes), ", %" PRIu32 " classes", model->head->classes);
    out->flags = LIBSCHED_ENGINE_PREPARES | LIBSCHED_ENGINE_REPEATABLE;
    describe_tensors(model, out);
    out->max_batch_requests =
        options->max_batch_requests > 0 ? options->max_batch_requests : DEFAULT_BATCH_REQUESTS;
    out->max_batch_units =
        options->max_batch_units > 0 ? options->max_batch_units : DEFAULT_BATCH_UNITS;
    out->max_request_units = options->max_request_units;
    out->units_fixed = UNITS_FIXED;
    out->units_per_kib = UNITS_PER_KIB;
    out->memory_bytes = model->weights.bytes + model->scratch.bytes;
    snprintf(out->text, sizeof(out->text),
             "BERT, %" PRIu32 " layers, hidden %" PRIu32 ", %s, %s pooling%s%s, at most %" PRIu32
             " tokens",
             config->layers, config->hidden, options->precision == LIBSCHED_BF16 ? "bf16" : "f32",
             encoder_pooling_name(options->pooling), options->normalize ? ", normalised" : "",
             classes, options->max_length);
    return LIBSCHED_OK;
}

/* Compiles the products for full chunks, which take the longest, and for single texts. */
static int encoder_warmup(libsched_engine_model *model, libsched_error *err)
{
    static const uint32_t lengths[] = {8, 16, 32, 64, 128, 256, 512, UINT32_MAX};
    struct encoder_scratch *s = &model->scratch;
    int status = LIBSCHED_OK;

    memset(s->ids, 0, s->max_tokens * sizeof(*s->ids));
    for (size_t i = 0; status == LIBSCHED_OK && i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint32_t total = lengths[i] < s->max_tokens ? lengths[i] : (uint32_t)s->max_tokens;
        uint32_t n = 0;

        s->starts[0] = 0;
        while (s->starts[n] < total) {
            uint32_t left = total - s->starts[n];
            uint32_t length = left < model->options.max_length ? left : model->options.max_length;
            s->starts[n + 1] = s->starts[n] + length;
            n++;
        }
        status = encoder_forward(model, &s->chunks[0], n, true, err);
    }
    if (status == LIBSCHED_OK)
        status = model->device->driver->synchronize(model->device, err);
    return status;
}

const libsched_engine *engine_encoder(void)
{
    static const libsched_engine engine = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "encoder",
        .open = encoder_open,
        .describe = encoder_describe,
        .close = encoder_close,
        .warmup = encoder_warmup,
        .prepare = encoder_prepare,
        .step = encoder_step,
        .begin = encoder_begin,
        .finish = encoder_finish,
    };
    return &engine;
}
