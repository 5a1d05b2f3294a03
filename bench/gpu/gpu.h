/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the benchmark "gpu" share: the device, the model, the clock, the report. What
 * fails ends the program; what can't be measured here says so, and is left out.
 */
#ifndef BENCH_GPU_H
#define BENCH_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/device.h>

#include "../report.h"
#include "bare.h"
#include "catalog/encoder_config.h"

#define GPU_LENGTHS 4
/* Rows of a matrix product in which the encoder gives a GPU its batches (engine/encoder.c). */
#define GPU_CHUNK_TOKENS 16384u

struct gpu_bench {
    const libsched_device_driver *driver;
    libsched_device *device;
    const char *plugins;   /* where the driver is; NULL: built in */
    struct gpu_bare *bare; /* NULL: there are no bare loops */
    struct report *report;
    const char *folder; /* the model */
    struct encoder_config config;
    char text[LIBSCHED_MESSAGE_SIZE]; /* what the driver says of the device, its place included */
    bool cuda;                        /* or the CPU, to see that the benchmark works */
    const char *precision; /* of the encoder, and datatype of products: "bf16" or "f32" */
    uint32_t threads;
    double seconds;               /* a measurement takes about so long */
    int32_t lengths[GPU_LENGTHS]; /* of sequences; 0: mixed */
    int64_t tokens;               /* of a step that fills the device */
    int32_t several;              /* sequences in a request that has several */
    int32_t compared;             /* sequences whose embeddings are */
    uint32_t size;                /* of a large square product */
    uint64_t copy_bytes[2];       /* of copies from and to the device */
    uint64_t all_reduce_bytes;    /* the largest */
};

/* Ends the program where a call failed. */
void gpu_check(int status, const libsched_error *err, const char *what);
_Noreturn void gpu_die(const char *what, const char *why);
void gpu_skip(const char *what, const char *why);
void *gpu_allocate(uint64_t n, uint64_t size);
double gpu_now(void);
/* Opens the device once more: for a measurement with another environment, or other memory. */
libsched_device *gpu_open(struct gpu_bench *b);
void gpu_synchronize(struct gpu_bench *b);
/* Seconds that a call takes which is given to the device again and again. */
double gpu_time(struct gpu_bench *b, double seconds, void (*call)(void *context), void *context);

libsched_device_buffer *gpu_buffer(struct gpu_bench *b, uint32_t datatype, uint64_t rows,
                                   uint64_t columns);
/* Of random numbers, up to `scale`. */
libsched_device_weight *gpu_weight(struct gpu_bench *b, uint32_t kind, uint64_t rows,
                                   uint64_t columns, float scale);
/* What products are computed in: LIBSCHED_BF16 or LIBSCHED_FP32. */
uint32_t gpu_datatype(const struct gpu_bench *b);
/* How a length is told: a number, or "mixed". */
json_t *gpu_length(int32_t length);
/* Sequences in a step of so many tokens. */
int32_t gpu_batch(int32_t length, int64_t tokens);
/* The four products of a layer: outputs and inputs of each. */
enum { GPU_QKV, GPU_OUT, GPU_UP, GPU_DOWN, GPU_PRODUCTS };
void gpu_shapes(const struct encoder_config *config, uint64_t out[GPU_PRODUCTS][2]);

/* The parts. */
void gpu_crosscheck(struct gpu_bench *b, const char *folder);
void gpu_encoder(struct gpu_bench *b);
void gpu_single(struct gpu_bench *b);
void gpu_graphs(struct gpu_bench *b);
void gpu_gemm(struct gpu_bench *b);
void gpu_copies(struct gpu_bench *b);
void gpu_roofline(struct gpu_bench *b);
void gpu_jobs(struct gpu_bench *b);

#endif
