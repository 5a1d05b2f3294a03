/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "gpu": what a GPU does for the scheduler, beside what it does by itself.
 *
 *   sequences_per_s   the encoder's step on batches of so many tokens, through the engine and the
 *                     CUDA plugin; baseline: the bare matrix products of the same shapes
 *   graph_batch_us    a batch of so many tokens as the encoder gives it, from the first call until
 * the vectors are there; baseline: operation by operation, without CUDA graphs gemm_gflop_per_s
 * products through the plugin; baseline: a bare loop of cuBLASLt upload_, download_gb_per_s  copies
 * through the plugin; baseline: bare copies of pinned memory direct_upload_,
 * direct_download_gb_per_s  the same of memory that the plugin was told of, as of a worker's
 * requests and results
 *
 * The weights are MiniLM's in shape and random. Where there is no GPU it says why, and that it
 * skips. Bare loops are there where it was built with the toolkit (gpu_bare.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <libsched/device.h>

#include "device/loader.h"
#include "gpu_bare.h"
#include "report.h"

#define HIDDEN 384u
#define HEADS 12u
#define MIDDLE 1536u
#define LAYERS 6u
#define VOCABULARY 30522u
#define POSITIONS 512u
/* As the encoder cuts its batches for a GPU. */
#define CHUNK_TOKENS 16384u
#define MIN_SECONDS 2.0

static const libsched_device_driver *driver;
static libsched_device *device;

static void check(int status, const libsched_error *err, const char *what)
{
    if (status == LIBSCHED_OK)
        return;
    fprintf(stderr, "bench-gpu: %s: %s\n", what, err->message);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* That graphs or pinned memory are not to be had explains the numbers. */
static void note(void *context, const char *text)
{
    (void)context;
    fprintf(stderr, "bench-gpu: %s\n", text);
}

static void wait_for_device(void)
{
    libsched_error err;

    check(driver->synchronize(device, &err), &err, "synchronize");
}

/* ------------------------------------------------------------------------------------ the model */

static libsched_device_weight *make_weight(uint32_t kind, uint64_t rows, uint64_t columns,
                                           float scale)
{
    libsched_device_weight *weight;
    libsched_error err;
    float *data = malloc(rows * columns * sizeof(*data));

    if (data == NULL)
        exit(1);
    for (uint64_t i = 0; i < rows * columns; i++)
        data[i] = scale * ((float)(i * 2654435761u >> 16 & 255) / 128 - 1);
    const libsched_device_weight_args args = {
        .struct_size = sizeof(args),
        .kind = kind,
        .datatype = LIBSCHED_BF16,
        .source_datatype = LIBSCHED_FP32,
        .rows = rows,
        .columns = columns,
        .data = data,
    };
    check(driver->weight_create(device, &weight, &args, &err), &err, "a weight");
    free(data);
    return weight;
}

static libsched_device_buffer *make_buffer(uint32_t datatype, uint64_t rows, uint64_t columns)
{
    libsched_device_buffer *buffer;
    libsched_error err;

    check(driver->buffer_create(device, &buffer, datatype, rows, columns, &err), &err, "a buffer");
    return buffer;
}

enum { QKV, OUT, UP, DOWN, PRODUCTS };

static struct {
    libsched_device_weight *words, *positions, *gain, *shift;
    libsched_device_weight *products[PRODUCTS], *biases[PRODUCTS];
    libsched_device_buffer *states, *half, *qkv, *context, *middle, *pooled;
    libsched_device_sequences *sequences;
    libsched_device_section *section;
} model;

static void make_model(void)
{
    static const uint32_t shapes[PRODUCTS][2] = {
        {3 * HIDDEN, HIDDEN}, {HIDDEN, HIDDEN}, {MIDDLE, HIDDEN}, {HIDDEN, MIDDLE}};
    libsched_error err;
    uint64_t bytes;

    model.words = make_weight(LIBSCHED_WEIGHT_TABLE, VOCABULARY, HIDDEN, 1);
    model.positions = make_weight(LIBSCHED_WEIGHT_TABLE, POSITIONS, HIDDEN, 1);
    model.gain = make_weight(LIBSCHED_WEIGHT_VECTOR, 1, HIDDEN, 1);
    model.shift = make_weight(LIBSCHED_WEIGHT_VECTOR, 1, HIDDEN, 1);
    for (int p = 0; p < PRODUCTS; p++) {
        model.products[p] = make_weight(LIBSCHED_WEIGHT_LINEAR, shapes[p][0], shapes[p][1], 0.05f);
        model.biases[p] = make_weight(LIBSCHED_WEIGHT_VECTOR, 1, shapes[p][0], 0.1f);
    }
    model.states = make_buffer(LIBSCHED_FP32, CHUNK_TOKENS, HIDDEN);
    model.half = make_buffer(LIBSCHED_BF16, CHUNK_TOKENS, HIDDEN);
    model.qkv = make_buffer(LIBSCHED_BF16, CHUNK_TOKENS, 3 * HIDDEN);
    model.context = make_buffer(LIBSCHED_BF16, CHUNK_TOKENS, HIDDEN);
    model.middle = make_buffer(LIBSCHED_BF16, CHUNK_TOKENS, MIDDLE);
    model.pooled = make_buffer(LIBSCHED_FP32, CHUNK_TOKENS, HIDDEN);
    check(driver->sequences_create(device, &model.sequences, CHUNK_TOKENS, CHUNK_TOKENS, &err),
          &err, "a batch");
    check(driver->section_create(device, &model.section, model.sequences, &bytes, &err), &err,
          "a section");
}

static void free_model(void)
{
    driver->section_destroy(device, model.section);
    libsched_device_buffer *buffers[] = {model.states,  model.half,   model.qkv,
                                         model.context, model.middle, model.pooled};

    driver->weight_destroy(device, model.words);
    driver->weight_destroy(device, model.positions);
    driver->weight_destroy(device, model.gain);
    driver->weight_destroy(device, model.shift);
    for (int p = 0; p < PRODUCTS; p++) {
        driver->weight_destroy(device, model.products[p]);
        driver->weight_destroy(device, model.biases[p]);
    }
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        driver->buffer_destroy(device, buffers[i]);
    driver->sequences_destroy(device, model.sequences);
}

static void product(int which, uint64_t rows, const libsched_device_buffer *input,
                    uint32_t activation, bool accumulate, libsched_device_buffer *output)
{
    const libsched_device_linear_args args = {
        .struct_size = sizeof(args),
        .rows = rows,
        .input = input,
        .weight = model.products[which],
        .bias = model.biases[which],
        .activation = activation,
        .accumulate = accumulate,
        .output = output,
    };
    libsched_error err;

    check(driver->linear(device, &args, &err), &err, "a product");
}

static void norm(uint64_t rows)
{
    const libsched_device_norm_args args = {
        .struct_size = sizeof(args),
        .rows = rows,
        .input = model.states,
        .gain = model.gain,
        .shift = model.shift,
        .epsilon = 1e-12f,
        .output = model.states,
        .output_bf16 = model.half,
    };
    libsched_error err;

    check(driver->norm(device, &args, &err), &err, "norm");
}

/* A batch from token ids to embeddings on the host, in the operations of the encoder. */
static void run_operations(uint64_t tokens)
{
    const libsched_device_embed_args embed = {
        .struct_size = sizeof(embed),
        .sequences = model.sequences,
        .words = model.words,
        .positions = model.positions,
        .gain = model.gain,
        .shift = model.shift,
        .epsilon = 1e-12f,
        .output = model.states,
        .output_bf16 = model.half,
    };
    const libsched_device_attention_args attention = {
        .struct_size = sizeof(attention),
        .sequences = model.sequences,
        .qkv = model.qkv,
        .heads = HEADS,
        .head_size = HIDDEN / HEADS,
        .scale = 0.17677669f,
        .output = model.context,
    };
    const libsched_device_pool_args pool = {
        .struct_size = sizeof(pool),
        .sequences = model.sequences,
        .input = model.states,
        .pooling = LIBSCHED_POOLING_MEAN,
        .normalize = true,
        .output = model.pooled,
    };
    libsched_error err;

    check(driver->embed(device, &embed, &err), &err, "embed");
    for (uint32_t i = 0; i < LAYERS; i++) {
        product(QKV, tokens, model.half, LIBSCHED_ACTIVATION_NONE, false, model.qkv);
        check(driver->attention(device, &attention, &err), &err, "attention");
        product(OUT, tokens, model.context, LIBSCHED_ACTIVATION_NONE, true, model.states);
        norm(tokens);
        product(UP, tokens, model.half, LIBSCHED_ACTIVATION_GELU, false, model.middle);
        product(DOWN, tokens, model.middle, LIBSCHED_ACTIVATION_NONE, true, model.states);
        norm(tokens);
    }
    check(driver->pool(device, &pool, &err), &err, "pool");
}

/* As the encoder does it; or without graphs. */
static void run_batch(uint32_t n, const uint32_t *starts, const int32_t *ids, float *embeddings,
                      bool graphs)
{
    bool given = false, again = graphs;
    libsched_error err;

    check(driver->sequences_set(device, model.sequences, n, starts, ids, &err), &err, "a batch");
    while (again && !given) {
        check(driver->section_begin(device, model.section, 0, &given, &err), &err, "a section");
        if (given)
            break;
        run_operations(starts[n]);
        check(driver->section_end(device, model.section, LIBSCHED_OK, &again, &err), &err,
              "a section");
    }
    if (!graphs)
        run_operations(starts[n]);
    check(driver->download(device, model.pooled, 0, n, embeddings, &err), &err, "download");
    wait_for_device();
}

/* Seconds that the bare products of a batch take; 0: not known. */
static double bare_batch(struct gpu_bare *bare, uint64_t tokens)
{
    static const uint32_t shapes[PRODUCTS][2] = {
        {3 * HIDDEN, HIDDEN}, {HIDDEN, HIDDEN}, {MIDDLE, HIDDEN}, {HIDDEN, MIDDLE}};
    double seconds = 0;

    for (int p = 0; p < PRODUCTS && bare != NULL; p++)
        seconds += LAYERS * gpu_bare_product(bare, tokens, shapes[p][1], shapes[p][0]);
    return seconds;
}

static void measure_encoder(struct report *report, struct gpu_bare *bare, uint32_t length,
                            uint32_t batch)
{
    uint32_t *starts = calloc((size_t)batch + 1, sizeof(*starts));
    int32_t *ids = calloc((size_t)batch * length, sizeof(*ids));
    float *embeddings = calloc((size_t)batch * HIDDEN, sizeof(*embeddings));
    uint64_t runs = 0;
    double begin, seconds, bare_seconds;

    if (starts == NULL || ids == NULL || embeddings == NULL)
        exit(1);
    for (uint32_t i = 0; i < batch; i++)
        starts[i + 1] = starts[i] + length;
    for (uint32_t t = 0; t < starts[batch]; t++)
        ids[t] = (int32_t)(t * 7919u % VOCABULARY);
    run_batch(batch, starts, ids, embeddings, true);
    begin = now();
    do {
        run_batch(batch, starts, ids, embeddings, true);
        runs++;
        seconds = now() - begin;
    } while (seconds < MIN_SECONDS);
    bare_seconds = bare_batch(bare, starts[batch]);
    report_add(report, "sequences_per_s",
               json_pack("{s:i, s:i, s:s}", "length", (int)length, "batch", (int)batch, "precision",
                         "bf16"),
               (double)batch * (double)runs / seconds, "sequences/s",
               bare_seconds > 0 ? batch / bare_seconds : 0);
    free(starts);
    free(ids);
    free(embeddings);
}

/* One text of so many tokens, again and again. */
static void measure_graphs(struct report *report, uint32_t length)
{
    const uint32_t starts[] = {0, length};
    int32_t ids[POSITIONS] = {0};
    float embedding[HIDDEN];
    double us[2];

    for (int graphs = 0; graphs < 2; graphs++) {
        uint64_t runs = 0;
        double begin, seconds;

        /* Until it is recorded. */
        for (int i = 0; i < 3; i++)
            run_batch(1, starts, ids, embedding, graphs);
        begin = now();
        do {
            run_batch(1, starts, ids, embedding, graphs);
            runs++;
            seconds = now() - begin;
        } while (seconds < MIN_SECONDS);
        us[graphs] = seconds / (double)runs * 1e6;
    }
    report_add(report, "graph_batch_us",
               json_pack("{s:i, s:i, s:s}", "length", (int)length, "batch", 1, "precision", "bf16"),
               us[1], "us", us[0]);
}

/* ----------------------------------------------------------------------------- products, copies */

static void measure_gemm(struct report *report, struct gpu_bare *bare, uint64_t size)
{
    libsched_device_weight *weight = make_weight(LIBSCHED_WEIGHT_LINEAR, size, size, 0.05f);
    libsched_device_buffer *input = make_buffer(LIBSCHED_BF16, size, size);
    libsched_device_buffer *output = make_buffer(LIBSCHED_BF16, size, size);
    const libsched_device_linear_args args = {
        .struct_size = sizeof(args),
        .rows = size,
        .input = input,
        .weight = weight,
        .output = output,
    };
    const double flops = 2.0 * (double)size * (double)size * (double)size;
    libsched_error err;
    uint64_t runs = 0;
    double begin, seconds, bare_seconds;

    check(driver->linear(device, &args, &err), &err, "a product");
    wait_for_device();
    begin = now();
    do {
        for (int i = 0; i < 20; i++, runs++)
            check(driver->linear(device, &args, &err), &err, "a product");
        wait_for_device();
        seconds = now() - begin;
    } while (seconds < MIN_SECONDS);
    bare_seconds = bare != NULL ? gpu_bare_product(bare, size, size, size) : 0;
    report_add(report, "gemm_gflop_per_s", json_pack("{s:i}", "size", (int)size),
               flops * (double)runs / seconds * 1e-9, "GFLOP/s",
               bare_seconds > 0 ? flops / bare_seconds * 1e-9 : 0);
    driver->weight_destroy(device, weight);
    driver->buffer_destroy(device, input);
    driver->buffer_destroy(device, output);
}

static void measure_copies(struct report *report, struct gpu_bare *bare, uint64_t bytes,
                           bool direct)
{
    libsched_device_buffer *buffer = make_buffer(LIBSCHED_FP32, bytes / 4096, 1024);
    /* As workers have it. */
    void *host =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    const libsched_device_host_args memory = {
        .struct_size = sizeof(memory), .memory = host, .size = bytes};
    const char *const names[2][2] = {
        {"download_gb_per_s", "upload_gb_per_s"},
        {"direct_download_gb_per_s", "direct_upload_gb_per_s"},
    };
    libsched_error err;

    if (host == MAP_FAILED)
        exit(1);
    if (direct) {
        check(driver->host_register(device, &memory, &err), &err, "memory");
        /* Until it is pinned. */
        check(driver->upload(device, buffer, 0, bytes / 4096, host, &err), &err, "upload");
        wait_for_device();
    }
    for (int up = 0; up < 2; up++) {
        uint64_t runs = 0;
        double seconds, begin = now();
        do {
            if (up)
                check(driver->upload(device, buffer, 0, bytes / 4096, host, &err), &err, "upload");
            else
                check(driver->download(device, buffer, 0, bytes / 4096, host, &err), &err,
                      "download");
            wait_for_device();
            runs++;
            seconds = now() - begin;
        } while (seconds < MIN_SECONDS);
        report_add(report, names[direct][up], json_pack("{s:i}", "mib", (int)(bytes >> 20)),
                   (double)bytes * (double)runs / seconds * 1e-9, "GB/s",
                   bare != NULL ? gpu_bare_copy(bare, bytes, up != 0) * 1e-9 : 0);
    }
    driver->host_unregister(device, host);
    driver->buffer_destroy(device, buffer);
    munmap(host, bytes);
}

/* ---------------------------------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    static const uint32_t lengths[] = {16, 128, 512};
    const char *plugins = getenv("GPU_SCHED_PLUGINS");
    const libsched_device_open_args args = {
        .struct_size = sizeof(args), .threads = 1, .note = note};
    libsched_device_properties info = {.struct_size = sizeof(info)};
    libsched_error err = {0};
    struct report *report;
    struct gpu_bare *bare;
    bool json = false;
    int status;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") != 0) {
            fprintf(stderr, "usage: bench-gpu [--json]\n"
                            "GPU_SCHED_PLUGINS names the folder of the CUDA plugin\n");
            return 64;
        }
        json = true;
    }
    status =
        device_find_driver(&driver, "cuda", plugins != NULL ? plugins : CUDA_PLUGIN_FOLDER, &err);
    if (status == LIBSCHED_OK)
        status = driver->open(&device, &args, &err);
    if (status != LIBSCHED_OK) {
        fprintf(stderr, "bench-gpu: skipped: %s\n", err.message);
        return 77;
    }
    check(driver->info(device, &info, &err), &err, "the device");
    bare = gpu_bare_open();
    report = report_open("gpu", json);
    report_machine(report, "device", info.text);
    make_model();
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        measure_graphs(report, lengths[i]);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        measure_encoder(report, bare, lengths[i], 1);
        measure_encoder(report, bare, lengths[i], CHUNK_TOKENS / lengths[i]);
    }
    free_model();
    measure_gemm(report, bare, 1024);
    measure_gemm(report, bare, 4096);
    for (int direct = 0; direct < 2; direct++) {
        measure_copies(report, bare, UINT64_C(1) << 20, direct);
        measure_copies(report, bare, UINT64_C(64) << 20, direct);
    }
    report_close(report);
    gpu_bare_close(bare);
    driver->close(device);
    return 0;
}
