// SPDX-License-Identifier: Apache-2.0
// Embedding and layer norm. A warp has a row, and keeps it in registers, so that it is read once;
// rows of more than 1024 columns are a block's, which reads them again.
#include "kernels.h"
#include "portable.h"

namespace
{

constexpr int WARPS = 4;          // of a block with a row for each
constexpr int WIDE_THREADS = 256; // of a block with one row

struct row_source {
    kernel_sequences sequences; // of an embedding
    kernel_table words, positions, types;
    const float *input, *residual; // of a norm
    uint64_t rows;
};

struct row_args {
    row_source source;
    kernel_norm_args norm;
};

DEVICE float4 load_four(const kernel_table &table, size_t at)
{
    if (!table.bf16)
        return *reinterpret_cast<const float4 *>(static_cast<const float *>(table.data) + at);
    const uint2 pairs =
        *reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(table.data) + at);
    return make_float4(float_of_bits(pairs.x << 16), float_of_bits(pairs.x & 0xffff0000u),
                       float_of_bits(pairs.y << 16), float_of_bits(pairs.y & 0xffff0000u));
}

DEVICE float load_one(const kernel_table &table, size_t at)
{
    if (!table.bf16)
        return static_cast<const float *>(table.data)[at];
    return float_of_bf16(static_cast<const uint16_t *>(table.data)[at]);
}

DEVICE void add(float4 &sum, const float4 &more)
{
    sum.x += more.x;
    sum.y += more.y;
    sum.z += more.z;
    sum.w += more.w;
}

// Where the rows come from: what of() finds out about one, then columns of it, four or one.
struct embedded {
    size_t word, position;

    static __device__ embedded of(const row_source &s, size_t row, uint32_t columns)
    {
        return {(size_t)s.sequences.ids[row] * columns,
                (size_t)s.sequences.positions[row] * columns};
    }
    __device__ float4 four(const row_source &s, uint32_t c) const
    {
        float4 sum = load_four(s.words, word + c);
        if (s.types.data != nullptr)
            add(sum, load_four(s.types, c));
        add(sum, load_four(s.positions, position + c));
        return sum;
    }
    __device__ float one(const row_source &s, uint32_t c) const
    {
        float sum = load_one(s.words, word + c);
        if (s.types.data != nullptr)
            sum += load_one(s.types, c);
        return sum + load_one(s.positions, position + c);
    }
};

struct added {
    size_t at;

    static __device__ added of(const row_source &, size_t row, uint32_t columns)
    {
        return {row * columns};
    }
    __device__ float4 four(const row_source &s, uint32_t c) const
    {
        float4 sum = *reinterpret_cast<const float4 *>(s.input + at + c);
        if (s.residual != nullptr)
            add(sum, *reinterpret_cast<const float4 *>(s.residual + at + c));
        return sum;
    }
    __device__ float one(const row_source &s, uint32_t c) const
    {
        return s.residual != nullptr ? s.input[at + c] + s.residual[at + c] : s.input[at + c];
    }
};

DEVICE float sum_of_warp(float value)
{
    for (int bits = 16; bits > 0; bits /= 2)
        value += shuffle_xor(value, bits);
    return value;
}

// A lane has GROUPS times four columns: neighbours where FOURS, else 32 apart.
template <int GROUPS, bool FOURS> DEVICE uint32_t column(uint32_t lane, int group, int i)
{
    return FOURS ? 4 * (lane + 32u * (uint32_t)group) + (uint32_t)i
                 : lane + 32u * (uint32_t)(4 * group + i);
}

template <class Source, int GROUPS, bool FOURS> KERNEL void norm_narrow(row_args a)
{
    const uint32_t lane = threadIdx.x % 32, columns = a.norm.columns;
    const size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    float v[GROUPS][4];
    float sum = 0, square = 0;

    if (row >= a.source.rows)
        return;
    const Source source = Source::of(a.source, row, columns);
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        if (FOURS) {
            const uint32_t c = column<GROUPS, FOURS>(lane, g, 0);
            const float4 four = c < columns ? source.four(a.source, c) : make_float4(0, 0, 0, 0);
            v[g][0] = four.x;
            v[g][1] = four.y;
            v[g][2] = four.z;
            v[g][3] = four.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t c = column<GROUPS, FOURS>(lane, g, i);
                v[g][i] = c < columns ? source.one(a.source, c) : 0;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum += v[g][i];
    }
    const float mean = sum_of_warp(sum) / (float)columns;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column<GROUPS, FOURS>(lane, g, i) < columns)
                square += (v[g][i] - mean) * (v[g][i] - mean);
    const float scale = 1.0f / sqrtf(sum_of_warp(square) / (float)columns + a.norm.epsilon);
    float *output = a.norm.output + row * columns;
    uint16_t *half = a.norm.output_bf16 != nullptr ? a.norm.output_bf16 + row * columns : nullptr;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        if (FOURS) {
            const uint32_t c = column<GROUPS, FOURS>(lane, g, 0);
            if (c >= columns)
                continue;
            const float4 gain = *reinterpret_cast<const float4 *>(a.norm.gain + c);
            const float4 shift = *reinterpret_cast<const float4 *>(a.norm.shift + c);
            const float4 y = make_float4((v[g][0] - mean) * scale * gain.x + shift.x,
                                         (v[g][1] - mean) * scale * gain.y + shift.y,
                                         (v[g][2] - mean) * scale * gain.z + shift.z,
                                         (v[g][3] - mean) * scale * gain.w + shift.w);
            *reinterpret_cast<float4 *>(output + c) = y;
            if (half != nullptr)
                *reinterpret_cast<uint2 *>(half + c) =
                    make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t c = column<GROUPS, FOURS>(lane, g, i);
                if (c >= columns)
                    continue;
                const float y = (v[g][i] - mean) * scale * a.norm.gain[c] + a.norm.shift[c];
                output[c] = y;
                if (half != nullptr)
                    half[c] = bf16_of_float(y);
            }
        }
    }
}

// The sum over a block, for each of its threads; `shared` has a float for each warp.
DEVICE float sum_of_block(float value, float *shared)
{
    value = sum_of_warp(value);
    sync_block(); // the sum before may still be read
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = value;
    sync_block();
    float sum = 0;
    for (int i = 0; i < WIDE_THREADS / 32; i++)
        sum += shared[i];
    return sum;
}

template <class Source> KERNEL void norm_wide(row_args a)
{
    SHARED_MEMORY(float, shared);
    const uint32_t columns = a.norm.columns;
    const size_t row = blockIdx.x;
    const Source source = Source::of(a.source, row, columns);
    float *output = a.norm.output + row * columns;
    float sum = 0, square = 0;

    for (uint32_t c = threadIdx.x; c < columns; c += WIDE_THREADS)
        sum += source.one(a.source, c);
    const float mean = sum_of_block(sum, shared) / (float)columns;
    for (uint32_t c = threadIdx.x; c < columns; c += WIDE_THREADS) {
        const float d = source.one(a.source, c) - mean;
        square += d * d;
    }
    const float scale =
        1.0f / sqrtf(sum_of_block(square, shared) / (float)columns + a.norm.epsilon);
    // The input may be the output: each column is read and then written by one thread.
    for (uint32_t c = threadIdx.x; c < columns; c += WIDE_THREADS) {
        const float y = (source.one(a.source, c) - mean) * scale * a.norm.gain[c] + a.norm.shift[c];
        output[c] = y;
        if (a.norm.output_bf16 != nullptr)
            a.norm.output_bf16[row * columns + c] = bf16_of_float(y);
    }
}

template <class Source, int GROUPS, bool FOURS>
cudaError_t launch_narrow(const row_args &args, cudaStream_t stream)
{
    const dim3 grid((unsigned)((args.source.rows + WARPS - 1) / WARPS));

    return launch(norm_narrow<Source, GROUPS, FOURS>, grid, dim3(32 * WARPS), 0, stream, args);
}

template <class Source> cudaError_t launch_norm(const row_args &args, cudaStream_t stream)
{
    const uint32_t columns = args.norm.columns, groups = (columns + 127) / 128;

    if (groups > 8)
        return launch(norm_wide<Source>, dim3((unsigned)args.source.rows), dim3(WIDE_THREADS),
                      WIDE_THREADS / 32 * sizeof(float), stream, args);
    if (columns % 4 != 0)
        return groups == 1   ? launch_narrow<Source, 1, false>(args, stream)
               : groups <= 4 ? launch_narrow<Source, 4, false>(args, stream)
                             : launch_narrow<Source, 8, false>(args, stream);
    switch (groups) {
    case 1:
        return launch_narrow<Source, 1, true>(args, stream);
    case 2:
        return launch_narrow<Source, 2, true>(args, stream);
    case 3:
        return launch_narrow<Source, 3, true>(args, stream);
    case 4:
        return launch_narrow<Source, 4, true>(args, stream);
    case 5:
    case 6:
        return launch_narrow<Source, 6, true>(args, stream);
    default:
        return launch_narrow<Source, 8, true>(args, stream);
    }
}

} // namespace

cudaError_t kernel_embed(const struct kernel_embed_args *args, cudaStream_t stream)
{
    row_args rows = {};

    rows.source.sequences = args->sequences;
    rows.source.words = args->words;
    rows.source.positions = args->positions;
    rows.source.types = args->types;
    rows.source.rows = args->sequences.tokens;
    rows.norm = args->norm;
    return launch_norm<embedded>(rows, stream);
}

cudaError_t kernel_residual(const struct kernel_residual_args *args, cudaStream_t stream)
{
    row_args rows = {};

    rows.source.input = args->input;
    rows.source.residual = args->residual;
    rows.source.rows = args->rows;
    rows.norm = args->norm;
    return launch_norm<added>(rows, stream);
}
