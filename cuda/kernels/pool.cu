// SPDX-License-Identifier: Apache-2.0
// Pooling and normalisation: a block has a sequence, its threads the columns.
#include "kernels.h"
#include "portable.h"

namespace
{

constexpr int THREADS = 256;

// Of the rows from `row` on; both a NaN among them and an infinity stay.
DEVICE float pool_column(const float *column, size_t stride, uint32_t n, kernel_pooling pooling)
{
    float value = column[0];

    if (pooling == KERNEL_MEAN) {
#pragma unroll 8
        for (uint32_t t = 1; t < n; t++)
            value += column[t * stride];
        return value * (1.0f / (float)n);
    }
    if (pooling == KERNEL_MAX) {
#pragma unroll 8
        for (uint32_t t = 1; t < n; t++) {
            const float next = column[t * stride];
            value = next > value || next != next ? next : value;
        }
    }
    return value;
}

DEVICE double sum_of_block(double value, double *shared)
{
    for (int bits = 16; bits > 0; bits /= 2)
        value += shuffle_xor(value, bits);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = value;
    sync_block();
    double sum = 0;
    for (int i = 0; i < THREADS / 32; i++)
        sum += shared[i];
    return sum;
}

// In double precision the square of no float is too large, nor too small. A sequence without tokens
// gives zeros.
KERNEL void pool(kernel_pool_args a)
{
    SHARED_MEMORY(double, shared);
    const uint32_t first = a.sequences.starts[blockIdx.x];
    const uint32_t n = a.sequences.starts[blockIdx.x + 1] - first;
    const float *rows = a.input + (size_t)first * a.columns;
    float *output = a.output + (size_t)blockIdx.x * a.columns;
    double square = 0;

    for (uint32_t c = threadIdx.x; c < a.columns; c += THREADS) {
        const float value = n > 0 ? pool_column(rows + c, a.columns, n, a.pooling) : 0.0f;
        output[c] = value;
        square += (double)value * value;
    }
    if (!a.normalize)
        return;
    const float length = (float)sqrt(sum_of_block(square, shared));
    // Written so that a NaN stays one.
    const float factor = 1.0f / (length < 1e-12f ? 1e-12f : length);
    for (uint32_t c = threadIdx.x; c < a.columns; c += THREADS)
        output[c] *= factor;
}

} // namespace

cudaError_t kernel_pool(const struct kernel_pool_args *args, cudaStream_t stream)
{
    return launch(pool, dim3(args->sequences.n), dim3(THREADS), THREADS / 32 * sizeof(double),
                  stream, *args);
}
