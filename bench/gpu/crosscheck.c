/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values rather than times: embeddings of this device beside those of the CPU device in f32, and a
 * file of embeddings and of what attention makes of random numbers, for others to compute the same
 * (bench/gpu_peers.py).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../steps.h"
#include "catalog/safetensors.h"
#include "device/cpu.h"
#include "gpu.h"

#define ATTENTION_LENGTHS 6

static const int32_t attention_lengths[ATTENTION_LENGTHS] = {1, 16, 33, 128, 77, 512};

static double least_cosine(const float *a, const float *b, int64_t rows, int64_t columns)
{
    double least = 1;

    for (int64_t r = 0; r < rows; r++) {
        double ab = 0, aa = 0, bb = 0;

        for (int64_t c = 0; c < columns; c++) {
            const double x = a[r * columns + c], y = b[r * columns + c];

            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        /* A NaN is no cosine. */
        if (!(ab / sqrt(aa * bb) >= least))
            least = ab / sqrt(aa * bb);
    }
    return isnan(least) ? -1 : least;
}

static void embed(struct gpu_bench *b, libsched_device *device, const char *precision,
                  struct step_run *run, const struct steps *steps)
{
    libsched_engine_model *model = steps_open(b->folder, device, precision, b->threads);

    steps_run(model, run, &steps->all[0]);
    steps_close(model);
}

static void compare(struct gpu_bench *b, const char *precision, double aim,
                    const struct step_run *got, const struct step_run *expected)
{
    report_add(b->report, "least_cosine_to_cpu",
               json_pack("{s:i, s:s}", "sequences", (int)b->compared, "precision", precision),
               least_cosine(got->output, expected->output, b->compared, b->config.hidden), "", aim);
}

/* --------------------------------------------------------------------------------- attention */

struct attention {
    uint64_t tokens;
    float *qkv, *context; /* as this device has them, in FP32 */
};

static float random_value(uint64_t i)
{
    uint32_t x = (uint32_t)i * 2654435761u;

    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return (float)(int32_t)x / 1073741824.0f;
}

static float widen(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Rounded towards zero: the numbers are random. */
static uint16_t narrow(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

static void attend(struct gpu_bench *b, struct attention *out)
{
    const struct encoder_config *c = &b->config;
    const bool half = gpu_datatype(b) == LIBSCHED_BF16;
    uint32_t starts[ATTENTION_LENGTHS + 1] = {0};
    libsched_device_sequences *sequences;
    libsched_device_buffer *qkv, *context;
    int32_t *ids;
    void *given, *got;
    libsched_error err;

    for (int i = 0; i < ATTENTION_LENGTHS; i++)
        starts[i + 1] = starts[i] + (uint32_t)attention_lengths[i];
    out->tokens = starts[ATTENTION_LENGTHS];
    const uint64_t n_qkv = out->tokens * 3 * c->hidden, n_context = out->tokens * c->hidden;

    ids = gpu_allocate(out->tokens, sizeof(*ids));
    out->qkv = gpu_allocate(n_qkv, sizeof(float));
    out->context = gpu_allocate(n_context, sizeof(float));
    given = half ? gpu_allocate(n_qkv, sizeof(uint16_t)) : out->qkv;
    got = half ? gpu_allocate(n_context, sizeof(uint16_t)) : out->context;
    for (uint64_t i = 0; i < n_qkv; i++) {
        out->qkv[i] = widen(narrow(random_value(i)));
        if (half)
            ((uint16_t *)given)[i] = narrow(out->qkv[i]);
    }
    gpu_check(
        b->driver->sequences_create(b->device, &sequences, ATTENTION_LENGTHS, out->tokens, &err),
        &err, "a batch");
    gpu_check(b->driver->sequences_set(b->device, sequences, ATTENTION_LENGTHS, starts, ids, &err),
              &err, "a batch");
    qkv = gpu_buffer(b, gpu_datatype(b), out->tokens, 3 * (uint64_t)c->hidden);
    context = gpu_buffer(b, gpu_datatype(b), out->tokens, c->hidden);
    gpu_check(b->driver->upload(b->device, qkv, 0, out->tokens, given, &err), &err, "upload");
    const libsched_device_attention_args args = {
        .struct_size = sizeof(args),
        .sequences = sequences,
        .qkv = qkv,
        .heads = c->heads,
        .head_size = c->hidden / c->heads,
        .scale = 1.0f / sqrtf((float)(c->hidden / c->heads)),
        .output = context,
    };
    gpu_check(b->driver->attention(b->device, &args, &err), &err, "attention");
    gpu_check(b->driver->download(b->device, context, 0, out->tokens, got, &err), &err, "download");
    gpu_synchronize(b);
    for (uint64_t i = 0; half && i < n_context; i++)
        out->context[i] = widen(((uint16_t *)got)[i]);
    b->driver->buffer_destroy(b->device, qkv);
    b->driver->buffer_destroy(b->device, context);
    b->driver->sequences_destroy(b->device, sequences);
    if (half) {
        free(given);
        free(got);
    }
    free(ids);
}

/* -------------------------------------------------------------------------------------- a file */

static libsched_tensor tensor(const char *name, uint32_t datatype, int64_t rows, int64_t columns,
                              const void *data)
{
    return (libsched_tensor){
        .name = name,
        .datatype = datatype,
        .rank = columns > 0 ? 2 : 1,
        .shape = {rows, columns},
        .data = data,
        .size = (uint64_t)(rows * (columns > 0 ? columns : 1)) * 4,
    };
}

static void write_file(struct gpu_bench *b, const char *folder, const struct step *step,
                       const struct step_run *embeddings)
{
    const int64_t hidden = b->config.hidden;
    struct attention attention;
    char path[4096];
    libsched_error err;

    attend(b, &attention);
    const libsched_tensor tensors[] = {
        tensor("ids", LIBSCHED_INT32, step->tokens, 0, step->ids),
        tensor("lengths", LIBSCHED_INT32, step->n, 0, step->lengths),
        tensor("embeddings", LIBSCHED_FP32, step->n, hidden, embeddings->output),
        tensor("attention_lengths", LIBSCHED_INT32, ATTENTION_LENGTHS, 0, attention_lengths),
        tensor("qkv", LIBSCHED_FP32, (int64_t)attention.tokens, 3 * hidden, attention.qkv),
        tensor("context", LIBSCHED_FP32, (int64_t)attention.tokens, hidden, attention.context),
    };
    if ((size_t)snprintf(path, sizeof(path), "%s/crosscheck.safetensors", folder) >= sizeof(path))
        gpu_die(folder, "the path is too long");
    unlink(path);
    gpu_check(safetensors_write(path, tensors, sizeof(tensors) / sizeof(tensors[0]), &err), &err,
              path);
    free(attention.qkv);
    free(attention.context);
}

void gpu_crosscheck(struct gpu_bench *b, const char *folder)
{
    const libsched_device_open_args args = {.struct_size = sizeof(args), .threads = b->threads};
    struct step_run cpu = {0}, own = {0}, plain = {0};
    libsched_device *device;
    struct steps steps;
    libsched_error err;

    steps_make(&steps, 0, b->compared, 1, b->config.vocabulary);
    gpu_check(device_cpu_driver()->open(&device, &args, &err), &err, "the CPU device");
    embed(b, device, "f32", &cpu, &steps);
    device->driver->close(device);
    embed(b, b->device, b->precision, &own, &steps);
    if (gpu_datatype(b) == LIBSCHED_BF16)
        compare(b, "bf16", 0.9995, &own, &cpu);
    embed(b, b->device, "f32", &plain, &steps);
    compare(b, "f32", 0.99999, &plain, &cpu);
    if (folder != NULL)
        write_file(b, folder, &steps.all[0], &own);
    steps_free_run(&cpu);
    steps_free_run(&own);
    steps_free_run(&plain);
    steps_free(&steps);
}
