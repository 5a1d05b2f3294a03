/* SPDX-License-Identifier: Apache-2.0 */
#include "program/embed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libsched/device.h>

#include "catalog/encoder_config.h"
#include "catalog/manifest.h"
#include "catalog/safetensors.h"
#include "engine/encoder.h"
#include "program/embed_data.h"
#include "program/embedder.h"
#include "program/new_path.h"
#include "program/options.h"
#include "program/rank.h"
#include "program/reduce.h"

#define KNOWN "model, input, output, split, batch and precision"
/* Tokens of a batch unless somebody says otherwise: on the host's cores a step then takes some
 * tens of milliseconds, and a GPU is filled. */
#define BATCH_CPU 1024
#define BATCH 16384
#define MAX_BATCH ((uint64_t)1 << 20)
#define TENSOR_NAME "embeddings"

enum split { SPLIT_DATA, SPLIT_TENSOR };

static const char *const splits[] = {"data", "tensor", NULL};
static const char *const precisions[] = {"f32", "bf16", "auto", NULL};

struct options {
    const char *model, *input, *output;
    uint32_t split, precision; /* precision: behind the last: the model's own */
    uint64_t batch;            /* 0: the device's usual */
};

struct libsched_program_rank {
    struct rank_head head;
    struct options options;
    char *output;
    struct embed_data data;
    struct embedder *embedder;
    uint32_t width;
    struct safetensors_stream *file; /* rank 0's */
    float *vectors;                  /* of one batch, or on rank 0 of one of each rank */
    /* With the data split: a batch, and one of each rank. */
    libsched_device_buffer *own, *all;
    libsched_device_buffer *number; /* one FP32 */
    /* A round is a batch of each rank, or one of all. */
    uint64_t round, n_rounds, per_step;
};

/* --------------------------------------------------------------------------------------- check */

static int read_options(struct options *out, const libsched_program_args *args, libsched_error *err)
{
    struct option_reader reader;

    *out = (struct options){.split = SPLIT_DATA, .precision = UINT32_MAX};
    options_begin(&reader, args, "embed", err);
    options_path(&reader, "model", &out->model);
    options_path(&reader, "input", &out->input);
    options_path(&reader, "output", &out->output);
    options_choice(&reader, "split", splits, &out->split);
    options_choice(&reader, "precision", precisions, &out->precision);
    options_integer(&reader, "batch", 1, MAX_BATCH, &out->batch);
    return options_end(&reader, KNOWN);
}

static bool split_layers(const struct options *o)
{
    return o->split == SPLIT_TENSOR;
}

/* The configuration of the model, which has to be one that can be split as it is asked for. */
static int read_config(struct encoder_config *out, const struct catalog_model *model,
                       const struct options *o, uint32_t n_ranks, libsched_error *err)
{
    libsched_error cause = {0};
    int status = encoder_config_load(out, model->path, &cause);

    if (status == LIBSCHED_OK && split_layers(o))
        status = encoder_split_check(out, n_ranks, &cause);
    if (status != LIBSCHED_OK)
        return libsched_error_set(err, status == LIBSCHED_EBADMODEL ? LIBSCHED_EINVAL : status,
                                  "embed: \"model\": %s", cause.message);
    return LIBSCHED_OK;
}

/* What the vectors of all ranks' batches come together in; a GPU's batches are the largest. */
static int gather_memory(uint64_t *out, const struct options *o, struct embed_data *data,
                         const struct encoder_config *config, uint32_t n_ranks, libsched_error *err)
{
    int status;

    *out = sizeof(float);
    if (n_ranks == 1 || split_layers(o))
        return LIBSCHED_OK;
    status = embed_data_plan(data, o->batch > 0 ? o->batch : BATCH, config->max_tokens, err);
    *out += data->most * (1 + (uint64_t)n_ranks) * config->hidden * sizeof(float);
    return status;
}

static void describe(libsched_program_needs *out, const struct options *o,
                     const struct embed_data *data, const struct encoder_config *config,
                     uint32_t n_ranks)
{
    char how[64] = "";

    if (n_ranks > 1)
        snprintf(how, sizeof(how),
                 split_layers(o) ? ", each by %" PRIu32 " devices" : ", over %" PRIu32 " devices",
                 n_ranks);
    snprintf(out->text, sizeof(out->text), "%" PRIu32 " text%s, %" PRIu32 " components%s", data->n,
             data->n == 1 ? "" : "s", config->hidden, how);
}

static int embed_check(const libsched_program_args *args, libsched_program_needs *out,
                       libsched_error *err)
{
    struct options o;
    struct catalog_model *model = NULL;
    struct encoder_config config;
    struct embed_data data = {0};
    uint64_t gathered = 0;
    int status = read_options(&o, args, err);

    if (status == LIBSCHED_OK)
        status = embedder_find_model(&model, o.model, "embed", err);
    if (status == LIBSCHED_OK)
        status = read_config(&config, model, &o, args->n_ranks, err);
    if (status == LIBSCHED_OK)
        status = new_path_check(o.output, "embed", "output", "file", err);
    if (status == LIBSCHED_OK)
        status = embed_data_read(&data, o.input, err);
    if (status == LIBSCHED_OK)
        status = gather_memory(&gathered, &o, &data, &config, args->n_ranks, err);
    if (status == LIBSCHED_OK) {
        out->memory_bytes = gathered + embedder_memory(model, &config, o.batch,
                                                       split_layers(&o) ? args->n_ranks : 1);
        describe(out, &o, &data, &config, args->n_ranks);
    }
    embed_data_free(&data);
    catalog_close(model);
    return status;
}

/* --------------------------------------------------------------------------------------- start */

static void embed_close(libsched_program_rank *rank)
{
    const libsched_device_driver *driver = rank->head.device->driver;

    driver->buffer_destroy(rank->head.device, rank->own);
    driver->buffer_destroy(rank->head.device, rank->all);
    driver->buffer_destroy(rank->head.device, rank->number);
    embedder_close(rank->embedder);
    safetensors_stream_close(rank->file);
    embed_data_free(&rank->data);
    free(rank->vectors);
    free(rank->output);
    free(rank);
}

/* Ranks whose batches come together in a round. */
static uint32_t at_once(const libsched_program_rank *rank)
{
    return split_layers(&rank->options) ? 1 : rank->head.n;
}

static int open_embedder(libsched_program_rank *rank, const struct catalog_model *model,
                         uint32_t threads, libsched_error *err)
{
    const struct encoder_split split = {rank->head.number, rank->head.n, rank->head.communicator};
    const struct options *o = &rank->options;
    const struct embedder_options options = {
        .program = "embed",
        .threads = threads,
        .split = split_layers(o) ? &split : NULL,
        .copies = rank->head.n > 1 ? &rank->head : NULL,
        .precision = o->precision == UINT32_MAX ? NULL : precisions[o->precision],
        .batch = o->batch,
    };
    int status = embedder_open(&rank->embedder, model, rank->head.device, &options, err);

    if (status == LIBSCHED_OK)
        rank->width = embedder_width(rank->embedder);
    return status;
}

static int plan(libsched_program_rank *rank, const struct encoder_config *config,
                libsched_error *err)
{
    libsched_device *device = rank->head.device;
    libsched_device_properties info = {.struct_size = sizeof(info)};
    uint64_t batch = rank->options.batch;
    int status = device->driver->info(device, &info, err);

    if (batch == 0)
        batch = (info.flags & LIBSCHED_DEVICE_UNIFIED) != 0 ? BATCH_CPU : BATCH;
    if (status == LIBSCHED_OK)
        status = embed_data_plan(&rank->data, batch, config->max_tokens, err);
    rank->n_rounds = ((uint64_t)rank->data.n_batches + at_once(rank) - 1) / at_once(rank);
    rank->per_step = 1;
    return status;
}

/* What a round's vectors go through. */
static int create_buffers(libsched_program_rank *rank, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    const libsched_device_driver *driver = device->driver;
    const uint64_t rows = rank->data.most, all = rows * at_once(rank);
    int status = driver->buffer_create(device, &rank->number, LIBSCHED_FP32, 1, 1, err);

    rank->vectors = malloc(all * rank->width * sizeof(float));
    if (status == LIBSCHED_OK && rank->vectors == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %" PRIu64 " vectors", all);
    if (status == LIBSCHED_OK && at_once(rank) > 1)
        status = driver->buffer_create(device, &rank->own, LIBSCHED_FP32, rows, rank->width, err);
    if (status == LIBSCHED_OK && at_once(rank) > 1)
        status = driver->buffer_create(device, &rank->all, LIBSCHED_FP32, all, rank->width, err);
    return status;
}

static int create_file(libsched_program_rank *rank, libsched_error *err)
{
    const libsched_tensor tensor = {
        .name = TENSOR_NAME,
        .datatype = LIBSCHED_FP32,
        .rank = 2,
        .shape = {rank->data.n, rank->width},
        .size = (uint64_t)rank->data.n * rank->width * sizeof(float),
    };
    int status = new_path_check(rank->output, "embed", "output", "file", err);

    return status == LIBSCHED_OK ? safetensors_stream_open(&rank->file, rank->output, &tensor, err)
                                 : status;
}

static int open_rank(libsched_program_rank *rank, const libsched_program_args *args,
                     libsched_error *err)
{
    struct catalog_model *model = NULL;
    struct encoder_config config;
    int status = read_options(&rank->options, args, err);

    if (status == LIBSCHED_OK)
        status = embedder_find_model(&model, rank->options.model, "embed", err);
    if (status == LIBSCHED_OK)
        status = read_config(&config, model, &rank->options, rank->head.n, err);
    if (status == LIBSCHED_OK)
        status = embed_data_read(&rank->data, rank->options.input, err);
    if (status == LIBSCHED_OK)
        status = open_embedder(rank, model, args->threads, err);
    catalog_close(model);
    if (status == LIBSCHED_OK)
        status = plan(rank, &config, err);
    if (status == LIBSCHED_OK)
        status = create_buffers(rank, err);
    if (status != LIBSCHED_OK)
        return status;
    rank->output = strdup(rank->options.output);
    /* They are the caller's, and this call's. */
    rank->options.model = rank->options.input = rank->options.output = NULL;
    if (rank->output == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a path");
    return rank->head.number == 0 ? create_file(rank, err) : LIBSCHED_OK;
}

static int embed_start(libsched_program_rank **out, const libsched_program_args *args,
                       const libsched_program_host *host, void *host_data, libsched_error *err)
{
    (void)host;
    (void)host_data;
    return rank_start(out, sizeof(**out), args, open_rank, embed_close, err);
}

/* ---------------------------------------------------------------------------------------- step */

/* The texts of a batch: none behind the last. */
static uint32_t count_texts(const struct embed_data *data, uint64_t batch)
{
    return batch < data->n_batches ? data->batches[batch + 1] - data->batches[batch] : 0;
}

static int compute(libsched_program_rank *rank, uint64_t batch, libsched_error *err)
{
    const struct embed_data *data = &rank->data;
    const uint32_t n = count_texts(data, batch);
    libsched_error cause = {0};
    uint32_t first, which;
    int status;

    if (n == 0)
        return LIBSCHED_OK;
    first = data->batches[batch];
    status = embedder_run(rank->embedder, data->texts + first, n, rank->vectors, &which, &cause);
    if (status != LIBSCHED_OK && which < n)
        return libsched_error_set(err, status, "embed: %s, line %" PRIu32 ": %s", data->name,
                                  data->lines[first + which], cause.message);
    return status != LIBSCHED_OK ? libsched_error_set(err, status, "%s", cause.message) : status;
}

/* Rank 0 gets the vectors of all ranks' batches, each with room for as many as the largest has. */
static int gather(libsched_program_rank *rank, uint32_t own, uint32_t rows, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    const libsched_device_driver *driver = device->driver;
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .count = (uint64_t)rows * rank->width,
        .input = rank->own,
        .output = rank->all,
    };
    int status = driver->upload(device, rank->own, 0, own, rank->vectors, err);

    if (status == LIBSCHED_OK)
        status = driver->all_gather(device, rank->head.communicator, &args, err);
    if (status == LIBSCHED_OK && rank->head.number == 0)
        status = driver->download(device, rank->all, 0, (uint64_t)rows * rank->head.n,
                                  rank->vectors, err);
    return status == LIBSCHED_OK ? driver->synchronize(device, err) : status;
}

static int write_vectors(libsched_program_rank *rank, uint64_t first_row, uint32_t n,
                         libsched_error *err)
{
    if (rank->file == NULL)
        return LIBSCHED_OK;
    return safetensors_stream_write(rank->file, rank->vectors + first_row * rank->width,
                                    (uint64_t)n * rank->width * sizeof(float), err);
}

static int run_round(libsched_program_rank *rank, libsched_error *err)
{
    const uint32_t n = at_once(rank);
    const uint64_t first = rank->round * n, own = first + (n > 1 ? rank->head.number : 0);
    uint32_t most = 0;
    int status = compute(rank, own, err);

    for (uint32_t i = 0; i < n; i++)
        most =
            count_texts(&rank->data, first + i) > most ? count_texts(&rank->data, first + i) : most;
    if (status == LIBSCHED_OK && n > 1)
        status = gather(rank, count_texts(&rank->data, own), most, err);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < n; i++)
        status = write_vectors(rank, (uint64_t)i * most, count_texts(&rank->data, first + i), err);
    rank->round++;
    return status;
}

static int finish(libsched_program_rank *rank, const libsched_program_host *host, void *host_data,
                  libsched_error *err)
{
    int status = rank->file != NULL ? safetensors_stream_end(rank->file, err) : LIBSCHED_OK;

    if (status == LIBSCHED_OK)
        status = result_text(host, host_data, "path", rank->output);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "texts", rank->data.n);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "width", rank->width);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "batches", rank->data.n_batches);
    return status;
}

static void tell(const libsched_program_rank *rank, const libsched_program_host *host,
                 void *host_data)
{
    const struct embed_data *data = &rank->data;
    const uint64_t batch = rank->round * at_once(rank);
    const uint32_t done = batch < data->n_batches ? data->batches[batch] : data->n;
    char line[64];

    snprintf(line, sizeof(line), "%" PRIu32 " of %" PRIu32 " texts", done, data->n);
    host->progress(host_data, done, data->n, line);
}

static int embed_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                      const libsched_program_host *host, void *host_data, libsched_error *err)
{
    const uint64_t begin = program_now();
    uint64_t done = 0;
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && done < rank->per_step && rank->round < rank->n_rounds) {
        /* The others hear of it as well: nobody waits for this rank. */
        if (host->cancelled(host_data))
            return libsched_error_set(err, LIBSCHED_ECANCELED, "cancelled");
        status = run_round(rank, err);
        done++;
    }
    if (status != LIBSCHED_OK)
        return status;
    tell(rank, host, host_data);
    *finished = rank->round == rank->n_rounds;
    if (*finished)
        return finish(rank, host, host_data, err);
    /* The first one also compiles what it needs: it tells nothing. */
    if (step == 1)
        return LIBSCHED_OK;
    return program_plan_step(&rank->head, rank->number, program_now() - begin, done,
                             &rank->per_step, err);
}

const libsched_program *program_embed(void)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "embed",
        .check = embed_check,
        .start = embed_start,
        .step = embed_step,
        .close = embed_close,
    };
    return &program;
}
