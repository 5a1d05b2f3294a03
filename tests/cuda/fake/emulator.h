/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs kernels on the host: the names of kernels/portable.h, and what the language of the device
 * builds in. A block's threads are coroutines of one thread; a barrier, a shuffle or a product of
 * matrices is where they wait for each other, and between two of these each runs alone. In which
 * order is chosen: a kernel that lacks a barrier computes something else in another order.
 *
 * Shared memory is a block of the host's heap of exactly the size that the launch asked for, and
 * filled with NaNs, so AddressSanitizer finds what reaches beyond it, and results what reads it
 * before it was written. Copies to it that go on by themselves arrive when they are waited for.
 */
#ifndef FAKE_EMULATOR_H
#define FAKE_EMULATOR_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "cuda_runtime_api.h"

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

namespace emulator
{

/* Of the coroutine that runs. */
struct thread_state {
    dim3 thread, block, grid;
    void *shared;
};
extern thread_local const thread_state *current;

/* In which order the threads of a block, and its blocks, run. */
enum order { FORWARD, BACKWARD, SHUFFLED };
void set_order(order how, uint32_t seed);

/* Runs all blocks of a kernel. */
void run(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);

/* Waits for the whole block; for the whole warp. */
void block_barrier();
/* Every lane gives `size` bytes (at most 64) and gets those of all 32, one after the other, valid
 * until it comes to the next barrier of any kind but one. `what` tells operations apart: lanes of
 * a warp that are at different ones end the process. */
const unsigned char *exchange(int what, const void *own, size_t size);

/* Copies that arrive later. */
void copy_later(void *to, const void *from, bool valid);
void copies_commit();
void copies_wait(int left);

} // namespace emulator

/* fake_cuda.cc: what a stream does when it comes to it. */
cudaError_t fake_launch(cudaStream_t stream, std::function<void()> kernel);

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define gridDim (emulator::current->grid)

#define KERNEL static
#define DEVICE static inline
#define __device__

#define SHARED_MEMORY(type, name) type *name = static_cast<type *>(emulator::current->shared)

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, dim3 block, size_t shared,
                   cudaStream_t stream, Arguments arguments)
{
    /* What no card takes. */
    if (block.x * block.y * block.z > 1024 || grid.x == 0 || grid.y == 0 || grid.y > 65535 ||
        grid.x > 0x7fffffff || shared > 160 * 1024)
        return cudaErrorInvalidValue;
    return fake_launch(stream,
                       [=] { emulator::run(grid, block, shared, [=] { kernel(arguments); }); });
}

DEVICE void sync_warp()
{
    emulator::exchange(1, nullptr, 0);
}

DEVICE void sync_block()
{
    emulator::block_barrier();
}

template <class T> T emulated_shuffle(T value, int bits)
{
    const unsigned char *all = emulator::exchange(2, &value, sizeof(value));
    T other;
    memcpy(&other, all + ((threadIdx.x % 32) ^ (unsigned)bits) * sizeof(T), sizeof(T));
    return other;
}

DEVICE float shuffle_xor(float value, int bits)
{
    return emulated_shuffle(value, bits);
}

DEVICE double shuffle_xor(double value, int bits)
{
    return emulated_shuffle(value, bits);
}

DEVICE float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

DEVICE uint32_t emulated_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

DEVICE float power_of_two(float exponent)
{
    const float power = exp2f(exponent);
    return power < 0x1p-126f ? 0 : power;
}

DEVICE uint32_t pack_bf16(float low, float high)
{
    return emulated_bf16(low) | emulated_bf16(high) << 16;
}

/* Element i of a pair. */
DEVICE float emulated_half(uint32_t pair, unsigned i)
{
    return float_of_bits(i == 0 ? pair << 16 : pair & 0xffff0000u);
}

DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    uint32_t all[32][6];
    memcpy(all, emulator::exchange(3, own, sizeof(own)), sizeof(all));
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = g + (i / 2) * 8, column = 2 * t + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            /* Who has a[row][k], and b[k][column]. */
            const uint32_t *left = all[row % 8 * 4 + k % 8 / 2];
            const uint32_t *right = all[column * 4 + k % 8 / 2];
            sum += emulated_half(left[row / 8 + k / 8 * 2], k % 2) *
                   emulated_half(right[4 + k / 8], k % 2);
        }
        d[i] += sum;
    }
}

DEVICE void load_matrices(uint32_t (&r)[4], const uint16_t *row)
{
    const uint16_t *rows[32];
    memcpy(rows, emulator::exchange(4, &row, sizeof(row)), sizeof(rows));
    const unsigned lane = threadIdx.x % 32;

    for (unsigned i = 0; i < 4; i++)
        memcpy(&r[i], rows[8 * i + lane / 4] + 2 * (lane % 4), sizeof(r[i]));
}

DEVICE void load_matrices_transposed(uint32_t (&r)[4], const uint16_t *row)
{
    const uint16_t *rows[32];
    memcpy(rows, emulator::exchange(5, &row, sizeof(row)), sizeof(rows));
    const unsigned lane = threadIdx.x % 32;

    for (unsigned i = 0; i < 4; i++) {
        const uint32_t low = rows[8 * i + 2 * (lane % 4)][lane / 4];
        const uint32_t high = rows[8 * i + 2 * (lane % 4) + 1][lane / 4];
        r[i] = low | high << 16;
    }
}

DEVICE void copy_later(void *to, const void *from, bool valid)
{
    emulator::copy_later(to, from, valid);
}

DEVICE void copies_commit()
{
    emulator::copies_commit();
}

template <int N> void copies_wait()
{
    emulator::copies_wait(N);
}

#endif
