// SPDX-License-Identifier: Apache-2.0
// Attention without tensor cores: for FP32, for BF16 with heads that the other kernel has no
// registers for, and to check that one against.
//
// A block has 16 queries of one head, a warp 4 of them. For the scores a lane has a key, for the
// sum of values some columns.
#include "kernels.h"
#include "portable.h"

namespace
{

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int ROWS = 4;               // queries of a warp
constexpr int QUERIES = WARPS * ROWS; // of a block
constexpr int TILE = 32;              // keys
constexpr int PAD = 4;                // lanes read their keys from different banks
constexpr float LOG2_E = 1.4426950408889634f;

template <int D> struct shared_layout {
    float q[QUERIES][D];
    float k[TILE][D + PAD];
    float v[TILE][D];
    float p[QUERIES][TILE];
};

DEVICE float element(const float *row, uint32_t c)
{
    return row[c];
}

DEVICE float element(const uint16_t *row, uint32_t c)
{
    return float_of_bf16(row[c]);
}

DEVICE void store(float *row, uint32_t c, float value)
{
    row[c] = value;
}

DEVICE void store(uint16_t *row, uint32_t c, float value)
{
    row[c] = bf16_of_float(value);
}

// Rows of shared memory, `stride` apart, with zeros where there are none.
template <class T, int D>
DEVICE void load_rows(float *to, int n_rows, int stride, const T *rows, size_t from_stride,
                      uint32_t n, uint32_t head_size)
{
    for (int i = (int)threadIdx.x; i < n_rows * D; i += THREADS) {
        const uint32_t r = (uint32_t)(i / D), c = (uint32_t)(i % D);
        to[(int)r * stride + (int)c] =
            r < n && c < head_size ? element(rows + r * from_stride, c) : 0.0f;
    }
}

template <class T, int D> KERNEL void attention(kernel_attention_args a)
{
    SHARED_MEMORY(shared_layout<D>, shared);
    const kernel_block block = a.sequences.blocks[blockIdx.x / (KERNEL_BLOCK_QUERIES / QUERIES)];
    const uint32_t lane = threadIdx.x % 32;
    const int warp = (int)threadIdx.x / 32;
    const uint32_t first =
        block.first + blockIdx.x % (KERNEL_BLOCK_QUERIES / QUERIES) * (uint32_t)QUERIES;
    const size_t width = (size_t)a.heads * a.head_size, stride = 3 * width;
    const T *qkv = static_cast<const T *>(a.qkv) + (size_t)block.start * stride +
                   (size_t)blockIdx.y * a.head_size;
    float o[ROWS][D / 32], top[ROWS], sum[ROWS];

    if (first >= block.length)
        return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        top[r] = -INFINITY;
        sum[r] = 0;
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            o[r][j] = 0;
    }
    load_rows<T, D>(&shared->q[0][0], QUERIES, D, qkv + first * stride, stride,
                    block.length - first, a.head_size);

    for (uint32_t at = 0; at < block.length; at += TILE) {
        const uint32_t n = block.length - at;
        float s[ROWS];

        sync_block(); // the tile before is done with
        load_rows<T, D>(&shared->k[0][0], TILE, D + PAD, qkv + width + at * stride, stride, n,
                        a.head_size);
        load_rows<T, D>(&shared->v[0][0], TILE, D, qkv + 2 * width + at * stride, stride, n,
                        a.head_size);
        sync_block();
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            s[r] = 0;
#pragma unroll 8
        for (int c = 0; c < D; c += 4) {
            const float4 k = *reinterpret_cast<const float4 *>(&shared->k[lane][c]);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float4 q = *reinterpret_cast<const float4 *>(&shared->q[warp * ROWS + r][c]);
                s[r] += q.x * k.x + q.y * k.y + q.z * k.z + q.w * k.w;
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float most;

            s[r] = lane < n ? s[r] * a.scale : -INFINITY;
            most = s[r];
            for (int bits = 16; bits > 0; bits /= 2)
                most = fmaxf(most, shuffle_xor(most, bits));
            most = fmaxf(most, top[r]);
            const float factor = exp2f((top[r] - most) * LOG2_E);
            const float p = exp2f((s[r] - most) * LOG2_E);
            top[r] = most;
            sum[r] = sum[r] * factor + p;
#pragma unroll
            for (int j = 0; j < D / 32; j++)
                o[r][j] *= factor;
            shared->p[warp * ROWS + r][lane] = p;
        }
        sync_warp();
#pragma unroll 2
        for (int k = 0; k < TILE; k += 4) {
            float4 p[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                p[r] = *reinterpret_cast<const float4 *>(&shared->p[warp * ROWS + r][k]);
#pragma unroll
            for (int j = 0; j < D / 32; j++) {
                const uint32_t c = (uint32_t)j * 32 + lane;
                const float v0 = shared->v[k][c], v1 = shared->v[k + 1][c];
                const float v2 = shared->v[k + 2][c], v3 = shared->v[k + 3][c];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    o[r][j] += p[r].x * v0 + p[r].y * v1 + p[r].z * v2 + p[r].w * v3;
            }
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const uint32_t query = first + (uint32_t)(warp * ROWS + r);

        for (int bits = 16; bits > 0; bits /= 2)
            sum[r] += shuffle_xor(sum[r], bits);
        if (query >= block.length)
            continue;
        T *row = static_cast<T *>(a.output) + (size_t)(block.start + query) * width +
                 (size_t)blockIdx.y * a.head_size;
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            const uint32_t c = (uint32_t)j * 32 + lane;
            if (c < a.head_size)
                store(row, c, o[r][j] / sum[r]);
        }
    }
}

template <class T, int D>
cudaError_t launch_size(const kernel_attention_args &args, cudaStream_t stream)
{
    const dim3 grid(args.sequences.n_blocks * (KERNEL_BLOCK_QUERIES / QUERIES), args.heads);

    return launch(attention<T, D>, grid, dim3(THREADS), sizeof(shared_layout<D>), stream, args);
}

template <class T>
cudaError_t launch_attention(const kernel_attention_args &args, cudaStream_t stream)
{
    if (args.head_size <= 32)
        return launch_size<T, 32>(args, stream);
    if (args.head_size <= 64)
        return launch_size<T, 64>(args, stream);
    if (args.head_size <= 128)
        return launch_size<T, 128>(args, stream);
    return launch_size<T, 256>(args, stream);
}

} // namespace

cudaError_t kernel_attention_f32(const struct kernel_attention_args *args, cudaStream_t stream)
{
    return launch_attention<float>(*args, stream);
}

cudaError_t kernel_attention_bf16_plain(const struct kernel_attention_args *args,
                                        cudaStream_t stream)
{
    return launch_attention<uint16_t>(*args, stream);
}
