// SPDX-License-Identifier: Apache-2.0
// Attention in BF16 on tensor cores, after Dao (FlashAttention-2, 2023): keys and values go by in
// tiles, and the softmax is carried along, so scores are never written anywhere.
//
// A block has 64 queries of one head, a warp 16 of them. While one tile is computed with, the next
// is on its way to shared memory. Rows there are 8 elements longer than they need to be, so that
// the 8 rows of a matrix lie in different banks.
#include "kernels.h"
#include "portable.h"

namespace
{

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int TILE = 64; // keys
constexpr int PAD = 8;
constexpr float LOG2_E = 1.4426950408889634f;

static_assert(KERNEL_BLOCK_QUERIES == 16 * WARPS, "a warp has 16 queries");

template <int D> constexpr size_t shared_size()
{
    return 2 * 2 * TILE * (D + PAD) * sizeof(uint16_t);
}

// Columns c and c + 1 of a row, zero beyond its end.
template <bool EIGHTS>
DEVICE uint32_t load_pair(const uint16_t *row, uint32_t c, uint32_t head_size)
{
    if (EIGHTS)
        return c < head_size ? *reinterpret_cast<const uint32_t *>(row + c) : 0;
    const uint32_t low = c < head_size ? row[c] : 0, high = c + 1 < head_size ? row[c + 1] : 0;
    return low | high << 16;
}

// Keys `first` to `first` + TILE - 1 (or values: rows of the same length), with zeros where there
// are none: what is multiplied by a weight of 0 must not be a NaN.
template <int D, bool EIGHTS>
DEVICE void load_tile(uint16_t *to, const uint16_t *rows, size_t stride, uint32_t first, uint32_t n,
                      uint32_t head_size)
{
    if (EIGHTS) {
        for (int i = (int)threadIdx.x; i < TILE * D / 8; i += THREADS) {
            const uint32_t r = (uint32_t)i / (D / 8), c = (uint32_t)i % (D / 8) * 8;
            const bool valid = first + r < n && c < head_size;
            copy_later(to + r * (D + PAD) + c, valid ? rows + (first + r) * stride + c : rows,
                       valid);
        }
    } else {
        for (int i = (int)threadIdx.x; i < TILE * D; i += THREADS) {
            const uint32_t r = (uint32_t)i / D, c = (uint32_t)i % D;
            to[r * (D + PAD) + c] =
                first + r < n && c < head_size ? rows[(first + r) * stride + c] : (uint16_t)0;
        }
    }
}

// The state of a warp's 16 queries; a lane has parts of two of them, those of row lane / 4 and 8
// more.
template <int D> struct queries {
    uint32_t q[D / 16][4];
    float o[D / 8][4];
    float top[2], sum[2];
};

template <int D>
DEVICE void attend(queries<D> &w, const uint16_t *keys, const uint16_t *values, uint32_t n_keys,
                   float scale)
{
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
    float s[TILE / 8][4];

    // Scores: 16 keys at a time, the rows of their matrices given by all lanes.
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[2 * k][i] = s[2 * k + 1][i] = 0;
        if ((uint32_t)k * 16 < n_keys) {
            const uint16_t *row =
                keys + ((uint32_t)k * 16 + lane % 8 + lane / 16 * 8) * (D + PAD) + lane / 8 % 2 * 8;
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                uint32_t b[4];
                load_matrices(b, row + d * 16);
                mma_bf16(s[2 * k], w.q[d], b[0], b[1]);
                mma_bf16(s[2 * k + 1], w.q[d], b[2], b[3]);
            }
        }
    }

    // The softmax so far, in powers of two.
    float top[2] = {w.top[0], w.top[1]};
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t key = (uint32_t)j * 8 + 2 * t + (uint32_t)(i % 2);
            s[j][i] = key < n_keys ? s[j][i] * scale : -INFINITY;
            top[i / 2] = fmaxf(top[i / 2], s[j][i]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], shuffle_xor(top[r], 1));
        top[r] = fmaxf(top[r], shuffle_xor(top[r], 2));
        const float factor = power_of_two(w.top[r] - top[r]);
        w.top[r] = top[r];
        w.sum[r] *= factor;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            w.o[j][2 * r] *= factor;
            w.o[j][2 * r + 1] *= factor;
        }
    }
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[j][i] = power_of_two(s[j][i] - top[i / 2]);
            w.sum[i / 2] += s[j][i];
        }

        // Their sum of values: the scores of a lane are those that it has to give.
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
        if ((uint32_t)k * 16 < n_keys) {
            const uint32_t p[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]),
                                   pack_bf16(s[2 * k][2], s[2 * k][3]),
                                   pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]),
                                   pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
            const uint16_t *row =
                values + ((uint32_t)k * 16 + lane % 16) * (D + PAD) + lane / 16 * 8;
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                uint32_t b[4];
                load_matrices_transposed(b, row + d * 16);
                mma_bf16(w.o[2 * d], p, b[0], b[1]);
                mma_bf16(w.o[2 * d + 1], p, b[2], b[3]);
            }
        }
    }
}

template <int D, bool EIGHTS> KERNEL void attention(kernel_attention_args a)
{
    SHARED_MEMORY(uint16_t, shared);
    constexpr int SIZE = TILE * (D + PAD);
    const kernel_block block = a.sequences.blocks[blockIdx.x];
    if (block.length == 0) // a recording's, see section.c
        return;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t first = threadIdx.x / 32 * 16; // of the warp's queries, in the block
    const uint32_t n_queries = block.length - block.first;
    const size_t width = (size_t)a.heads * a.head_size, stride = 3 * width;
    const uint16_t *qkv = static_cast<const uint16_t *>(a.qkv) + (size_t)block.start * stride +
                          (size_t)blockIdx.y * a.head_size;
    const uint16_t *keys = qkv + width, *values = keys + width;
    const bool active = first < n_queries;
    queries<D> w;

#pragma unroll
    for (int d = 0; d < D / 16; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t r = first + g + (uint32_t)(i % 2) * 8;
            w.q[d][i] = r < n_queries
                            ? load_pair<EIGHTS>(qkv + (block.first + r) * stride,
                                                (uint32_t)d * 16 + 2 * t + (uint32_t)(i / 2) * 8,
                                                a.head_size)
                            : 0;
        }
#pragma unroll
    for (int j = 0; j < D / 8; j++)
        w.o[j][0] = w.o[j][1] = w.o[j][2] = w.o[j][3] = 0;
    w.top[0] = w.top[1] = -INFINITY;
    w.sum[0] = w.sum[1] = 0;

    load_tile<D, EIGHTS>(shared, keys, stride, 0, block.length, a.head_size);
    load_tile<D, EIGHTS>(shared + SIZE, values, stride, 0, block.length, a.head_size);
    copies_commit();
    for (uint32_t at = 0, half = 0; at < block.length; at += TILE, half ^= 1) {
        if (at + TILE < block.length) {
            uint16_t *next = shared + (half ^ 1) * 2 * SIZE;
            load_tile<D, EIGHTS>(next, keys, stride, at + TILE, block.length, a.head_size);
            load_tile<D, EIGHTS>(next + SIZE, values, stride, at + TILE, block.length, a.head_size);
        }
        copies_commit();
        copies_wait<1>();
        sync_block();
        if (active)
            attend<D>(w, shared + half * 2 * SIZE, shared + half * 2 * SIZE + SIZE,
                      block.length - at < TILE ? block.length - at : TILE, a.scale * LOG2_E);
        sync_block(); // or the next but one would come over what others still read
    }
    if (!active)
        return;

    uint16_t *output = static_cast<uint16_t *>(a.output) +
                       (size_t)(block.start + block.first) * width +
                       (size_t)blockIdx.y * a.head_size;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = w.sum[r];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        const float factor = 1.0f / sum;
        const uint32_t query = first + g + (uint32_t)r * 8;
        if (query >= n_queries)
            continue;
        uint16_t *row = output + query * width;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const uint32_t c = (uint32_t)j * 8 + 2 * t;
            const uint32_t pair = pack_bf16(w.o[j][2 * r] * factor, w.o[j][2 * r + 1] * factor);
            if (EIGHTS) {
                if (c < a.head_size)
                    *reinterpret_cast<uint32_t *>(row + c) = pair;
            } else {
                if (c < a.head_size)
                    row[c] = (uint16_t)(pair & 0xffffu);
                if (c + 1 < a.head_size)
                    row[c + 1] = (uint16_t)(pair >> 16);
            }
        }
    }
}

template <int D>
cudaError_t launch_attention(const kernel_attention_args &args, cudaStream_t stream)
{
    const dim3 grid(args.sequences.n_blocks, args.heads);

    if (args.head_size % 8 == 0)
        return launch(attention<D, true>, grid, dim3(THREADS), shared_size<D>(), stream, args);
    return launch(attention<D, false>, grid, dim3(THREADS), shared_size<D>(), stream, args);
}

} // namespace

cudaError_t kernel_attention_bf16(const struct kernel_attention_args *args, cudaStream_t stream)
{
    if (args->head_size <= 16)
        return launch_attention<16>(*args, stream);
    if (args->head_size <= 32)
        return launch_attention<32>(*args, stream);
    if (args->head_size <= 64)
        return launch_attention<64>(*args, stream);
    if (args->head_size <= 96)
        return launch_attention<96>(*args, stream);
    if (args->head_size <= 128)
        return launch_attention<128>(*args, stream);
    return kernel_attention_bf16_plain(args, stream);
}
