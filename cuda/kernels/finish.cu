// SPDX-License-Identifier: Apache-2.0
// What comes behind a product: bias and activation; and a product of our own, for shapes that
// cuBLASLt does not take.
#include "kernels.h"
#include "portable.h"

namespace
{

constexpr int THREADS = 256;
constexpr int TILE = 16; // of the product: TILE × TILE threads

DEVICE float activate(float x, kernel_activation activation)
{
    switch (activation) {
    case KERNEL_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case KERNEL_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case KERNEL_RELU:
        // A NaN stays one.
        return x < 0.0f ? 0.0f : x;
    default:
        return x;
    }
}

template <bool EIGHTS> DEVICE void add_bias(float (&v)[8], const float *bias)
{
    if (!EIGHTS) {
        v[0] += bias[0];
        return;
    }
    const float4 *at = reinterpret_cast<const float4 *>(bias);
    const float4 low = at[0], high = at[1];
    v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
    v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
}

// Eight neighbours in a row, or one.
template <bool BF16, bool EIGHTS> KERNEL void finish(kernel_finish_args a)
{
    constexpr int N = EIGHTS ? 8 : 1;
    const uint64_t columns = a.columns / N, n = a.rows * columns;
    const uint64_t step = (uint64_t)gridDim.x * THREADS;

    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
        const uint32_t c = (uint32_t)(i % columns) * N;
        float v[8];

        if (BF16 && EIGHTS) {
            const uint4 packed = static_cast<const uint4 *>(a.values)[i];
            const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                v[2 * k] = float_of_bits(pairs[k] << 16);
                v[2 * k + 1] = float_of_bits(pairs[k] & 0xffff0000u);
            }
        } else if (EIGHTS) {
            const float4 *at = static_cast<const float4 *>(a.values) + 2 * i;
            const float4 low = at[0], high = at[1];
            v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
            v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
        } else {
            v[0] = BF16 ? float_of_bf16(static_cast<const uint16_t *>(a.values)[i])
                        : static_cast<const float *>(a.values)[i];
        }
        if (a.bias != nullptr)
            add_bias<EIGHTS>(v, a.bias + c);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = activate(v[k], a.activation);
        if (BF16 && EIGHTS) {
            static_cast<uint4 *>(a.values)[i] =
                make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                           pack_bf16(v[6], v[7]));
        } else if (EIGHTS) {
            float4 *at = static_cast<float4 *>(a.values) + 2 * i;
            at[0] = make_float4(v[0], v[1], v[2], v[3]);
            at[1] = make_float4(v[4], v[5], v[6], v[7]);
        } else if (BF16) {
            static_cast<uint16_t *>(a.values)[i] = bf16_of_float(v[0]);
        } else {
            static_cast<float *>(a.values)[i] = v[0];
        }
    }
}

DEVICE float element(const void *data, uint64_t at, bool bf16)
{
    return bf16 ? float_of_bf16(static_cast<const uint16_t *>(data)[at])
                : static_cast<const float *>(data)[at];
}

KERNEL void product(kernel_product_args a)
{
    SHARED_MEMORY(float, shared);
    float *x = shared, *w = shared + TILE * (TILE + 1);
    const uint32_t tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    const uint64_t row = (uint64_t)blockIdx.x * TILE + ty;

    for (uint64_t first = (uint64_t)blockIdx.y * TILE; first < a.outputs;
         first += (uint64_t)gridDim.y * TILE) {
        const uint64_t column = first + tx;
        float sum = 0;

        for (uint64_t k = 0; k < a.inputs; k += TILE) {
            x[ty * (TILE + 1) + tx] = row < a.rows && k + tx < a.inputs
                                          ? element(a.input, row * a.inputs + k + tx, a.bf16)
                                          : 0;
            w[ty * (TILE + 1) + tx] =
                first + ty < a.outputs && k + tx < a.inputs
                    ? element(a.weight, (first + ty) * a.inputs + k + tx, a.bf16)
                    : 0;
            sync_block();
            for (int i = 0; i < TILE; i++)
                sum += x[ty * (TILE + 1) + i] * w[tx * (TILE + 1) + i];
            sync_block();
        }
        if (row >= a.rows || column >= a.outputs)
            continue;
        const uint64_t at = row * a.outputs + column;
        if (a.bias != nullptr)
            sum += a.bias[column];
        sum = activate(sum, a.activation);
        if (a.accumulate)
            sum += static_cast<const float *>(a.output)[at];
        if (a.output_bf16)
            static_cast<uint16_t *>(a.output)[at] = bf16_of_float(sum);
        else
            static_cast<float *>(a.output)[at] = sum;
    }
}

struct convert_args {
    const void *input;
    void *output;
    uint64_t n;
};

KERNEL void widen(convert_args a)
{
    const uint64_t step = (uint64_t)gridDim.x * THREADS;
    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += step)
        static_cast<float *>(a.output)[i] =
            float_of_bf16(static_cast<const uint16_t *>(a.input)[i]);
}

KERNEL void narrow(convert_args a)
{
    const uint64_t step = (uint64_t)gridDim.x * THREADS;
    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += step)
        static_cast<uint16_t *>(a.output)[i] =
            bf16_of_float(static_cast<const float *>(a.input)[i]);
}

// Enough blocks to fill any card; the rest is their loop.
dim3 grid_for(uint64_t n)
{
    const uint64_t blocks = (n + THREADS - 1) / THREADS;
    return dim3((unsigned)(blocks < 65536 ? blocks : 65536));
}

template <bool BF16, bool EIGHTS>
cudaError_t launch_finish(const kernel_finish_args &args, cudaStream_t stream)
{
    return launch(finish<BF16, EIGHTS>, grid_for(args.rows * args.columns / (EIGHTS ? 8 : 1)),
                  dim3(THREADS), 0, stream, args);
}

} // namespace

cudaError_t kernel_finish(const struct kernel_finish_args *args, cudaStream_t stream)
{
    if (args->columns % 8 == 0)
        return args->bf16 ? launch_finish<true, true>(*args, stream)
                          : launch_finish<false, true>(*args, stream);
    return args->bf16 ? launch_finish<true, false>(*args, stream)
                      : launch_finish<false, false>(*args, stream);
}

cudaError_t kernel_product(const struct kernel_product_args *args, cudaStream_t stream)
{
    const uint64_t columns = (args->outputs + TILE - 1) / TILE;
    const dim3 grid((unsigned)((args->rows + TILE - 1) / TILE),
                    (unsigned)(columns < 65535 ? columns : 65535));

    return launch(product, grid, dim3(TILE * TILE), 2 * TILE * (TILE + 1) * sizeof(float), stream,
                  *args);
}

cudaError_t kernel_widen(const uint16_t *input, uint64_t n, float *output, cudaStream_t stream)
{
    return launch(widen, grid_for(n), dim3(THREADS), 0, stream, convert_args{input, output, n});
}

cudaError_t kernel_narrow(const float *input, uint64_t n, uint16_t *output, cudaStream_t stream)
{
    return launch(narrow, grid_for(n), dim3(THREADS), 0, stream, convert_args{input, output, n});
}
