/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels, as the rest of the plugin calls them: each function gives one or more kernels to a
 * stream. The arguments have been checked. Numbers of rows and tokens are not 0.
 */
#ifndef CUDA_KERNELS_H
#define CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Queries of a kernel_block. */
#define KERNEL_BLOCK_QUERIES 64u
#define KERNEL_MAX_HEAD_SIZE 256u
#define KERNEL_MAX_HEADS 65535u

/* Some queries of one sequence. */
struct kernel_block {
    uint32_t start;  /* the sequence's first row */
    uint32_t first;  /* query, counted in the sequence */
    uint32_t length; /* of the sequence */
    uint32_t unused;
};

struct kernel_sequences {
    const uint32_t *starts;
    const int32_t *ids;
    const uint32_t *positions;
    const struct kernel_block *blocks;
    uint32_t n, tokens, n_blocks;
};

struct kernel_table {
    const void *data; /* NULL: there is none */
    bool bf16;
};

struct kernel_norm_args {
    const float *gain, *shift;
    float epsilon;
    uint32_t columns;
    float *output;
    uint16_t *output_bf16; /* NULL: not wanted */
};

struct kernel_embed_args {
    struct kernel_sequences sequences;
    struct kernel_table words, positions, types;
    struct kernel_norm_args norm;
};

struct kernel_residual_args {
    const float *input, *residual; /* the input may be the output */
    uint64_t rows;
    struct kernel_norm_args norm;
};

/* As in libsched/device.h. */
enum kernel_activation { KERNEL_NONE, KERNEL_GELU, KERNEL_GELU_TANH, KERNEL_RELU };
enum kernel_pooling { KERNEL_MEAN = 1, KERNEL_CLS, KERNEL_MAX };

/* values = activation(values + bias) */
struct kernel_finish_args {
    void *values;
    const float *bias; /* NULL: none */
    uint64_t rows, columns;
    bool bf16;
    enum kernel_activation activation;
};

/* A product, for what cuBLASLt does not do. */
struct kernel_product_args {
    const void *input, *weight;
    const float *bias; /* NULL: none */
    void *output;
    uint64_t rows, inputs, outputs;
    bool bf16, output_bf16, accumulate;
    enum kernel_activation activation;
};

struct kernel_attention_args {
    struct kernel_sequences sequences;
    const void *qkv;
    void *output;
    uint32_t heads, head_size;
    float scale;
};

struct kernel_pool_args {
    struct kernel_sequences sequences;
    const float *input;
    float *output;
    uint32_t columns;
    enum kernel_pooling pooling;
    bool normalize;
};

cudaError_t kernel_embed(const struct kernel_embed_args *args, cudaStream_t stream);
cudaError_t kernel_residual(const struct kernel_residual_args *args, cudaStream_t stream);
cudaError_t kernel_finish(const struct kernel_finish_args *args, cudaStream_t stream);
cudaError_t kernel_product(const struct kernel_product_args *args, cudaStream_t stream);
/* bf16, heads of up to KERNEL_MAX_HEAD_SIZE; those above 128 without tensor cores. */
cudaError_t kernel_attention_bf16(const struct kernel_attention_args *args, cudaStream_t stream);
cudaError_t kernel_attention_f32(const struct kernel_attention_args *args, cudaStream_t stream);
/* bf16 by the kernel for f32: what the one with tensor cores is checked against. */
cudaError_t kernel_attention_bf16_plain(const struct kernel_attention_args *args,
                                        cudaStream_t stream);
cudaError_t kernel_pool(const struct kernel_pool_args *args, cudaStream_t stream);
/* n elements; for sums that are carried in FP32. */
cudaError_t kernel_widen(const uint16_t *input, uint64_t n, float *output, cudaStream_t stream);
cudaError_t kernel_narrow(const float *input, uint64_t n, uint16_t *output, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
