/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libsched/device.h>

#include "catalog/encoder_config.h"
#include "catalog/manifest.h"
#include "program/embedder.h"
#include "program/new_path.h"
#include "program/options.h"
#include "program/rank.h"
#include "program/reduce.h"
#include "program/train_data.h"
#include "program/train_softmax.h"
#include "program/train_write.h"

#define KNOWN "model, data, out, epochs, learning_rate, batch and seed"
/* Texts that are embedded together, whichever rank does it. */
#define CHUNK 32u
/* Columns of the buffers, whose rows are then as many as are needed. */
#define COLUMNS 256

struct options {
    const char *model, *data, *out;
    uint64_t epochs, batch, seed;
    double rate;
};

enum phase { EMBED, TRAIN, WRITE };

struct libsched_program_rank {
    struct rank_head head;
    struct options options;
    char *out;
    struct catalog_model *model;
    struct train_data data;
    struct embedder *embedder; /* NULL once everything is embedded */
    float *embeddings;         /* of all examples; filled where they are this rank's */
    uint32_t width;

    enum phase phase;
    uint64_t per_step; /* chunks or batches in a step, the same on all ranks */
    uint64_t chunk;    /* the next one of this rank */
    uint64_t rounds;   /* chunks that every rank has been given */
    double largest;    /* component of an embedding */

    struct softmax softmax;
    libsched_device_buffer *buffer; /* the limbs of the sums, on the device */
    float *limbs;                   /* and on the host; [rows, COLUMNS] */
    uint64_t rows;
    libsched_device_buffer *number; /* one FP32 */
    uint32_t *order;                /* of the examples, in this epoch */
    uint64_t random;
    uint64_t epoch, at;         /* epochs that are over; examples of this one */
    uint64_t batches;           /* in all */
    double loss;                /* of this epoch, so far */
    uint64_t right;             /* of this epoch, so far */
    double mean_loss, accuracy; /* of the last whole one */
};

/* --------------------------------------------------------------------------------------- check */

static int read_options(struct options *out, const libsched_program_args *args, libsched_error *err)
{
    struct option_reader reader;

    *out = (struct options){.epochs = 20, .batch = 32, .rate = 1};
    options_begin(&reader, args, "train", err);
    options_path(&reader, "model", &out->model);
    options_path(&reader, "data", &out->data);
    options_path(&reader, "out", &out->out);
    options_integer(&reader, "epochs", 1, 100000, &out->epochs);
    options_integer(&reader, "batch", 1, SOFTMAX_MAX_BATCH, &out->batch);
    options_integer(&reader, "seed", 0, INT64_MAX, &out->seed);
    options_real(&reader, "learning_rate", 1e-12, 1e6, &out->rate);
    return options_end(&reader, KNOWN);
}

/* The limbs of the sums, in whole rows. */
static uint64_t count_rows(uint64_t n_sums)
{
    return (n_sums * SOFTMAX_LIMBS + COLUMNS - 1) / COLUMNS;
}

/* The encoder has gone when the classifier comes. */
static uint64_t device_memory(const struct catalog_model *model,
                              const struct encoder_config *config, const struct train_data *data)
{
    const uint64_t encoder = embedder_memory(model, config, 0, 1);
    const uint64_t sums =
        count_rows(softmax_count_sums(data->n_classes, config->hidden)) * COLUMNS * sizeof(float);

    return sizeof(float) + (encoder > sums ? encoder : sums);
}

static int train_check(const libsched_program_args *args, libsched_program_needs *out,
                       libsched_error *err)
{
    struct options o;
    struct catalog_model *model = NULL;
    struct encoder_config config;
    struct train_data data = {0};
    int status = read_options(&o, args, err);

    if (status == LIBSCHED_OK)
        status = embedder_find_model(&model, o.model, "train", err);
    if (status == LIBSCHED_OK && encoder_config_load(&config, model->path, err) != LIBSCHED_OK)
        status = err->status = LIBSCHED_EINVAL;
    if (status == LIBSCHED_OK)
        status = new_path_check(o.out, "train", "out", "folder", err);
    if (status == LIBSCHED_OK)
        status = train_data_read(&data, o.data, err);
    if (status == LIBSCHED_OK) {
        out->memory_bytes = device_memory(model, &config, &data);
        snprintf(out->text, sizeof(out->text),
                 "%" PRIu32 " examples of %" PRIu32 " classes, %" PRIu32 " components, %" PRIu64
                 " epoch%s",
                 data.n, data.n_classes, config.hidden, o.epochs, o.epochs == 1 ? "" : "s");
    }
    train_data_free(&data);
    catalog_close(model);
    return status;
}

/* --------------------------------------------------------------------------------------- start */

static void train_close(libsched_program_rank *rank)
{
    const libsched_device_driver *driver = rank->head.device->driver;

    driver->buffer_destroy(rank->head.device, rank->buffer);
    driver->buffer_destroy(rank->head.device, rank->number);
    embedder_close(rank->embedder);
    train_data_free(&rank->data);
    softmax_free(&rank->softmax);
    catalog_close(rank->model);
    free(rank->embeddings);
    free(rank->limbs);
    free(rank->order);
    free(rank->out);
    free(rank);
}

static int open_rank(libsched_program_rank *rank, const libsched_program_args *args,
                     libsched_error *err)
{
    const struct embedder_options embedder = {.program = "train",
                                              .threads = args->threads,
                                              .copies = rank->head.n > 1 ? &rank->head : NULL};
    libsched_device *device = rank->head.device;
    int status = read_options(&rank->options, args, err);

    if (status == LIBSCHED_OK)
        status = embedder_find_model(&rank->model, rank->options.model, "train", err);
    if (status == LIBSCHED_OK)
        status = train_data_read(&rank->data, rank->options.data, err);
    if (status == LIBSCHED_OK)
        status = embedder_open(&rank->embedder, rank->model, device, &embedder, err);
    if (status == LIBSCHED_OK)
        status = device->driver->buffer_create(device, &rank->number, LIBSCHED_FP32, 1, 1, err);
    if (status != LIBSCHED_OK)
        return status;
    rank->width = embedder_width(rank->embedder);
    rank->out = strdup(rank->options.out);
    rank->embeddings = malloc((uint64_t)rank->data.n * rank->width * sizeof(float));
    rank->order = malloc(rank->data.n * sizeof(*rank->order));
    if (rank->out == NULL || rank->embeddings == NULL || rank->order == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM,
                                  "no memory for the embeddings of %" PRIu32 " texts",
                                  rank->data.n);
    /* They are the caller's, and this call's. */
    rank->options.model = rank->options.data = rank->options.out = NULL;
    rank->chunk = rank->head.number;
    rank->per_step = 1;
    rank->random = rank->options.seed;
    return LIBSCHED_OK;
}

static int train_start(libsched_program_rank **out, const libsched_program_args *args,
                       const libsched_program_host *host, void *host_data, libsched_error *err)
{
    (void)host;
    (void)host_data;
    return rank_start(out, sizeof(**out), args, open_rank, train_close, err);
}

/* ------------------------------------------------------------------------------ between ranks */

/* The largest of all ranks', rounded where there is one as where there are many: so the weights do
 * not depend on how many there are. */
static int agree(libsched_program_rank *rank, double *value, libsched_error *err)
{
    *value = (float)*value;
    return program_reduce_number(&rank->head, rank->number, LIBSCHED_REDUCE_MAX, value, err);
}

static int plan_step(libsched_program_rank *rank, uint64_t ns, uint64_t done, libsched_error *err)
{
    return program_plan_step(&rank->head, rank->number, ns, done, &rank->per_step, err);
}

/* The sums of all ranks' batches. */
static int add_up(libsched_program_rank *rank, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    const uint64_t n = rank->softmax.n_sums * SOFTMAX_LIMBS;
    int status;

    if (rank->head.n == 1)
        return LIBSCHED_OK;
    softmax_split(&rank->softmax, rank->limbs);
    status = device->driver->upload(device, rank->buffer, 0, rank->rows, rank->limbs, err);
    if (status == LIBSCHED_OK)
        status = program_reduce(&rank->head, rank->buffer, n, LIBSCHED_REDUCE_SUM, err);
    if (status == LIBSCHED_OK)
        status = device->driver->download(device, rank->buffer, 0, rank->rows, rank->limbs, err);
    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    if (status == LIBSCHED_OK)
        softmax_join(&rank->softmax, rank->limbs);
    return status;
}

/* ----------------------------------------------------------------------------------- embedding */

static uint64_t count_chunks(const libsched_program_rank *rank)
{
    return (rank->data.n + (uint64_t)CHUNK - 1) / CHUNK;
}

static int embed_chunk(libsched_program_rank *rank, libsched_error *err)
{
    const uint64_t first = rank->chunk * CHUNK;
    const uint64_t left = rank->data.n - first;
    const uint32_t n = left < CHUNK ? (uint32_t)left : CHUNK;
    float *out = rank->embeddings + first * rank->width;
    struct embedder_text texts[CHUNK] = {0};
    uint32_t which;
    int status;

    for (uint32_t i = 0; i < n; i++)
        texts[i] = (struct embedder_text){.text = rank->data.examples[first + i].text,
                                          .length = rank->data.examples[first + i].length};
    status = embedder_run(rank->embedder, texts, n, out, &which, err);

    for (uint64_t i = 0; status == LIBSCHED_OK && i < (uint64_t)n * rank->width; i++)
        rank->largest = fabs(out[i]) > rank->largest ? fabs(out[i]) : rank->largest;
    rank->chunk += rank->head.n;
    return status;
}

/* Everything is embedded: the encoder goes, and the classifier comes. */
static int begin_training(libsched_program_rank *rank, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    int status = agree(rank, &rank->largest, err);

    embedder_close(rank->embedder);
    rank->embedder = NULL;
    if (status == LIBSCHED_OK)
        status =
            softmax_init(&rank->softmax, rank->data.n_classes, rank->width, rank->largest, err);
    if (status != LIBSCHED_OK)
        return status;
    rank->rows = count_rows(rank->softmax.n_sums);
    rank->limbs = calloc(rank->rows * COLUMNS, sizeof(float));
    if (rank->limbs == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a classifier");
    rank->phase = TRAIN;
    rank->per_step = 1;
    return device->driver->buffer_create(device, &rank->buffer, LIBSCHED_FP32, rank->rows, COLUMNS,
                                         err);
}

static int embed(libsched_program_rank *rank, const libsched_program_host *host, void *host_data,
                 libsched_error *err)
{
    const uint64_t begin = program_now();
    const bool first = rank->rounds == 0;
    uint64_t done = 0;
    int status = LIBSCHED_OK;

    for (uint64_t i = 0; status == LIBSCHED_OK && i < rank->per_step; i++) {
        if (rank->chunk < count_chunks(rank) && !host->cancelled(host_data)) {
            status = embed_chunk(rank, err);
            done++;
        }
    }
    rank->rounds += rank->per_step;
    /* The first one also compiles what it needs: it tells nothing. */
    if (status == LIBSCHED_OK && !first)
        status = plan_step(rank, program_now() - begin, done, err);
    if (status == LIBSCHED_OK && rank->rounds * rank->head.n >= count_chunks(rank))
        status = begin_training(rank, err);
    return status;
}

/* ------------------------------------------------------------------------------------ training */

/* splitmix64: the same on every machine. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A new order for a new epoch, the same on all ranks. */
static void shuffle(libsched_program_rank *rank)
{
    for (uint32_t i = 0; i < rank->data.n; i++)
        rank->order[i] = i;
    for (uint32_t i = rank->data.n - 1; i > 0; i--) {
        uint32_t other = (uint32_t)(next_random(&rank->random) % (i + UINT64_C(1)));
        uint32_t kept = rank->order[i];
        rank->order[i] = rank->order[other];
        rank->order[other] = kept;
    }
}

static void end_epoch(libsched_program_rank *rank)
{
    rank->mean_loss = rank->loss / rank->data.n;
    rank->accuracy = (double)rank->right / rank->data.n;
    rank->loss = 0;
    rank->right = 0;
    rank->at = 0;
    rank->epoch++;
}

static int train_batch(libsched_program_rank *rank, libsched_error *err)
{
    const uint64_t left = rank->data.n - rank->at;
    const uint64_t n = left < rank->options.batch ? left : rank->options.batch;
    int status;

    if (rank->at == 0)
        shuffle(rank);
    softmax_clear(&rank->softmax);
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t example = rank->order[rank->at + i];
        if (example / CHUNK % rank->head.n == rank->head.number)
            softmax_add(&rank->softmax, rank->embeddings + (uint64_t)example * rank->width,
                        rank->data.examples[example].label);
    }
    status = add_up(rank, err);
    if (status != LIBSCHED_OK)
        return status;
    softmax_update(&rank->softmax, n, rank->options.rate);
    rank->loss += softmax_loss(&rank->softmax);
    rank->right += softmax_right(&rank->softmax);
    rank->batches++;
    rank->at += n;
    if (rank->at == rank->data.n)
        end_epoch(rank);
    return LIBSCHED_OK;
}

static int train(libsched_program_rank *rank, libsched_error *err)
{
    const uint64_t begin = program_now();
    uint64_t done = 0;
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && done < rank->per_step && rank->epoch < rank->options.epochs) {
        status = train_batch(rank, err);
        done++;
    }
    if (status == LIBSCHED_OK)
        status = plan_step(rank, program_now() - begin, done, err);
    if (rank->epoch == rank->options.epochs)
        rank->phase = WRITE;
    return status;
}

/* ----------------------------------------------------------------------------------------- end */

static int check_weights(const libsched_program_rank *rank, libsched_error *err)
{
    const struct softmax *s = &rank->softmax;

    for (uint64_t i = 0; i + 2 < s->n_sums; i++)
        if (!isfinite((float)s->weight[i]))
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "train: the weights grew beyond all bounds: lower "
                                      "\"learning_rate\", which is %g",
                                      rank->options.rate);
    return LIBSCHED_OK;
}

static int finish(libsched_program_rank *rank, const libsched_program_host *host, void *host_data,
                  libsched_error *err)
{
    int status = check_weights(rank, err);

    if (status == LIBSCHED_OK && rank->head.number == 0)
        status = train_write(rank->out, rank->model, &rank->softmax, rank->data.classes, err);
    if (status == LIBSCHED_OK)
        status = result_text(host, host_data, "path", rank->out);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "classes", rank->data.n_classes);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "examples", rank->data.n);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "batches", rank->batches);
    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, "loss", rank->mean_loss);
    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, "accuracy", rank->accuracy);
    return status;
}

/* Examples that were gone through, once to be embedded and once in each epoch. */
static void tell(const libsched_program_rank *rank, const libsched_program_host *host,
                 void *host_data)
{
    const uint64_t n = rank->data.n;
    const uint64_t embedded = rank->rounds * rank->head.n * CHUNK;
    const uint64_t total = n * (rank->options.epochs + 1);
    char line[96];

    if (rank->phase == EMBED)
        snprintf(line, sizeof(line), "embedding the texts");
    else if (rank->epoch == 0)
        snprintf(line, sizeof(line), "epoch 1 of %" PRIu64, rank->options.epochs);
    else
        snprintf(line, sizeof(line), "epoch %" PRIu64 " of %" PRIu64 ": loss %.4f, %.1f %% right",
                 rank->epoch, rank->options.epochs, rank->mean_loss, 100 * rank->accuracy);
    host->progress(host_data, (embedded < n ? embedded : n) + rank->epoch * n + rank->at, total,
                   line);
}

static int train_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                      const libsched_program_host *host, void *host_data, libsched_error *err)
{
    int status;

    (void)step;
    if (rank->phase == EMBED) {
        status = embed(rank, host, host_data, err);
    } else if (rank->phase == TRAIN) {
        status = train(rank, err);
    } else {
        status = finish(rank, host, host_data, err);
        *finished = true;
    }
    if (status == LIBSCHED_OK)
        tell(rank, host, host_data);
    return status;
}

const libsched_program *program_train(void)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "train",
        .check = train_check,
        .start = train_start,
        .step = train_step,
        .close = train_close,
    };
    return &program;
}
