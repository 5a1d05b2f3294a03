/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU device, inside: its objects, and the functions behind each entry of its table.
 *
 * Operations are carried out before they return. Matrix products are oneDNN's; everything else is
 * our own (cpu_kernels.h), on the same OpenMP threads.
 *
 * At the end of a parallel part libgomp's threads spin for milliseconds by default, which costs
 * other work on the same cores its time, and then the next part its threads. A worker process is
 * started with a small GOMP_SPINCOUNT; who embeds the library, with workers as threads, does well
 * to set it, or OMP_WAIT_POLICY=passive, before the program starts.
 */
#ifndef DEVICE_CPU_H
#define DEVICE_CPU_H

#include <libsched/device.h>

#include "device/cpu_kernels.h"
#include "device/cpu_onednn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver that is built in. */
const libsched_device_driver *device_cpu_driver(void);

struct cpu_products;

struct cpu_device {
    libsched_device base;
    uint32_t threads;
    const struct cpu_kernels *kernels;
    struct onednn *dnn;
    struct cpu_products *products;
    void *scratch; /* of the operation that runs; grows to what the largest needed */
    size_t scratch_size;
};

struct libsched_device_buffer {
    uint32_t datatype;
    uint64_t rows, columns; /* as asked for */
    size_t size;            /* bytes, the rows behind included */
    void *data;
};

struct libsched_device_weight {
    uint32_t kind, datatype;
    uint64_t rows, columns;
    void *data; /* TABLE, VECTOR */
    size_t size;
    struct onednn_weights packed; /* LINEAR */
};

/* Some queries of one sequence: the piece of attention that one thread takes with one head. */
struct cpu_query_block {
    uint32_t sequence, first, count;
};

struct libsched_device_sequences {
    uint32_t max_sequences, n;
    uint64_t max_tokens;
    uint32_t longest;
    uint32_t *starts; /* n + 1 */
    int32_t *ids;
    uint32_t *positions;
    uint32_t n_blocks;
    struct cpu_query_block *blocks; /* of the longest sequences first */
};

/* Queries in a cpu_query_block. */
#define CPU_QUERY_BLOCK 128
/* Rows a buffer has behind those asked for, so that products may round rows up. */
#define CPU_SPARE_ROWS 16

/* The device's scratch memory, of at least `size` bytes; NULL where there is no room. */
void *cpu_scratch(struct cpu_device *device, size_t size);

int cpu_buffer_create(libsched_device *device, libsched_device_buffer **out, uint32_t datatype,
                      uint64_t rows, uint64_t columns, libsched_error *err);
void cpu_buffer_destroy(libsched_device *device, libsched_device_buffer *buffer);
int cpu_upload(libsched_device *device, libsched_device_buffer *buffer, uint64_t first_row,
               uint64_t rows, const void *source, libsched_error *err);
int cpu_download(libsched_device *device, const libsched_device_buffer *buffer, uint64_t first_row,
                 uint64_t rows, void *target, libsched_error *err);
/* Whether a buffer has the datatype, rows and columns that an operation needs. */
int cpu_buffer_check(const libsched_device_buffer *buffer, const char *name, uint32_t datatype,
                     uint64_t rows, uint64_t columns, libsched_error *err);

int cpu_weight_create(libsched_device *device, libsched_device_weight **out,
                      const libsched_device_weight_args *args, libsched_error *err);
void cpu_weight_destroy(libsched_device *device, libsched_device_weight *weight);
/* Whether a weight is of a kind and has the columns; rows only where `rows` is not 0. */
int cpu_weight_check(const libsched_device_weight *weight, const char *name, uint32_t kind,
                     uint64_t rows, uint64_t columns, libsched_error *err);

int cpu_sequences_create(libsched_device *device, libsched_device_sequences **out,
                         uint32_t max_sequences, uint64_t max_tokens, libsched_error *err);
void cpu_sequences_destroy(libsched_device *device, libsched_device_sequences *sequences);
int cpu_sequences_set(libsched_device *device, libsched_device_sequences *sequences, uint32_t n,
                      const uint32_t *starts, const int32_t *ids, libsched_error *err);

int cpu_embed(libsched_device *device, const libsched_device_embed_args *args, libsched_error *err);
int cpu_linear(libsched_device *device, const libsched_device_linear_args *args,
               libsched_error *err);
int cpu_norm(libsched_device *device, const libsched_device_norm_args *args, libsched_error *err);
int cpu_attention(libsched_device *device, const libsched_device_attention_args *args,
                  libsched_error *err);
int cpu_pool(libsched_device *device, const libsched_device_pool_args *args, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
