/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../steps.h"

/* Work is given for about so long before it is waited for. */
#define BURST_SECONDS 0.02

_Noreturn void gpu_die(const char *what, const char *why)
{
    fprintf(stderr, "bench-gpu: %s: %s\n", what, why);
    exit(1);
}

void gpu_check(int status, const libsched_error *err, const char *what)
{
    if (status != LIBSCHED_OK)
        gpu_die(what, err->message);
}

void gpu_skip(const char *what, const char *why)
{
    fprintf(stderr, "bench-gpu: not measured: %s: %s\n", what, why);
}

void *gpu_allocate(uint64_t n, uint64_t size)
{
    void *memory = calloc(n, size);

    if (memory == NULL)
        gpu_die("the benchmark", "no memory");
    return memory;
}

double gpu_now(void)
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

libsched_device *gpu_open(struct gpu_bench *b)
{
    const libsched_device_open_args args = {
        .struct_size = sizeof(args), .threads = b->threads, .note = note};
    libsched_device *device;
    libsched_error err;

    gpu_check(b->driver->open(&device, &args, &err), &err, "the device");
    return device;
}

void gpu_synchronize(struct gpu_bench *b)
{
    libsched_error err;

    gpu_check(b->driver->synchronize(b->device, &err), &err, "synchronize");
}

double gpu_time(struct gpu_bench *b, double seconds, void (*call)(void *context), void *context)
{
    uint64_t burst = 1, calls = 0;
    double begin, took, all = 0;

    /* What is slow the first time. */
    call(context);
    gpu_synchronize(b);
    while (all < seconds) {
        begin = gpu_now();
        for (uint64_t i = 0; i < burst; i++)
            call(context);
        gpu_synchronize(b);
        took = gpu_now() - begin;
        /* Only what was long enough that its beginning and end are nothing to it is counted. */
        if (took >= BURST_SECONDS || took >= seconds) {
            all += took;
            calls += burst;
        } else {
            burst *= 2;
        }
    }
    return all / (double)calls;
}

uint32_t gpu_datatype(const struct gpu_bench *b)
{
    return strcmp(b->precision, "bf16") == 0 ? LIBSCHED_BF16 : LIBSCHED_FP32;
}

libsched_device_weight *gpu_weight(struct gpu_bench *b, uint32_t kind, uint64_t rows,
                                   uint64_t columns, float scale)
{
    libsched_device_weight *weight;
    libsched_error err;
    float *data = gpu_allocate(rows * columns, sizeof(*data));

    for (uint64_t i = 0; i < rows * columns; i++)
        data[i] = scale * ((float)(i * 2654435761u >> 16 & 255) / 128 - 1);
    const libsched_device_weight_args args = {
        .struct_size = sizeof(args),
        .kind = kind,
        .datatype = gpu_datatype(b),
        .source_datatype = LIBSCHED_FP32,
        .rows = rows,
        .columns = columns,
        .data = data,
    };
    gpu_check(b->driver->weight_create(b->device, &weight, &args, &err), &err, "a weight");
    free(data);
    return weight;
}

libsched_device_buffer *gpu_buffer(struct gpu_bench *b, uint32_t datatype, uint64_t rows,
                                   uint64_t columns)
{
    libsched_device_buffer *buffer;
    libsched_error err;

    gpu_check(b->driver->buffer_create(b->device, &buffer, datatype, rows, columns, &err), &err,
              "a buffer");
    return buffer;
}

json_t *gpu_length(int32_t length)
{
    return length > 0 ? json_integer(length) : json_string("mixed");
}

int32_t gpu_batch(int32_t length, int64_t tokens)
{
    const int64_t n = tokens / (length > 0 ? length : STEPS_MIXED_MEAN);

    return n > 0 ? (int32_t)n : 1;
}

void gpu_shapes(const struct encoder_config *config, uint64_t out[GPU_PRODUCTS][2])
{
    const uint64_t h = config->hidden, m = config->intermediate;
    const uint64_t shapes[GPU_PRODUCTS][2] = {{3 * h, h}, {h, h}, {m, h}, {h, m}};

    memcpy(out, shapes, sizeof(shapes));
}
