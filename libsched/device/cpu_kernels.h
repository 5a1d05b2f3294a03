/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops of the CPU device that are not matrix products of oneDNN's. They are written
 * once, on vectors of the compiler's (cpu_kernels.inc), and built for several instruction sets; the
 * widest that this CPU has is taken at run time. Each runs on one thread.
 */
#ifndef DEVICE_CPU_KERNELS_H
#define DEVICE_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Attention of some queries of one sequence, in one head. */
struct cpu_attention_task {
    const void *queries, *keys, *values; /* the head's columns of the first row of each */
    size_t stride;                       /* elements from one row of these to the next */
    size_t n_queries, n_keys, head_size;
    float scale;
    bool bf16;    /* queries, keys, values and output are BF16, else FP32 */
    void *output; /* the head's columns of the first query's row */
    size_t output_stride;
    void *scratch; /* attention_scratch() bytes, aligned to 64 */
};

struct cpu_kernels {
    const char *name; /* "AVX-512" */
    /* Bytes of scratch for an attention task. */
    size_t (*attention_scratch)(size_t n_queries, size_t n_keys, size_t head_size);
    void (*attention)(const struct cpu_attention_task *task);
    /* layer_norm(input + residual) of one row. residual and output_bf16 may be NULL; output may be
     * the input. */
    void (*norm)(const float *input, const float *residual, const float *gain, const float *shift,
                 float epsilon, size_t columns, float *output, uint16_t *output_bf16);
    /* output += input, both FP32. */
    void (*add)(const float *input, size_t n, float *output);
    /* output = max(output, input); a NaN in either stays. */
    void (*max)(const float *input, size_t n, float *output);
    void (*from_bf16)(const uint16_t *input, size_t n, float *output);
    void (*to_bf16)(const float *input, size_t n, uint16_t *output); /* to nearest, ties to even */
};

extern const struct cpu_kernels cpu_kernels_generic;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;
#endif

/* Those for this CPU. */
const struct cpu_kernels *cpu_kernels_select(void);
/* Whether it multiplies BF16 by itself (rather than oneDNN widening it first). */
bool cpu_has_bf16(void);

#endif
