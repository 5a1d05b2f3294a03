/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that kernels need beyond plain C++: what the compiler for the device builds in, and the
 * instructions that have no name in the language.
 *
 * The kernels can also be compiled for the host (tests/cuda/fake/emulator.h), which then defines
 * the same names; so a kernel may use nothing of the device that is not here.
 */
#ifndef CUDA_PORTABLE_H
#define CUDA_PORTABLE_H

#ifdef GPU_SCHED_EMULATED
#include "emulator.h"
#else
#include <cuda_runtime.h>

#include <stdint.h>

#define KERNEL __global__ static
#define DEVICE __device__ __forceinline__ static

/* The kernel's shared memory, of the size that it was launched with. */
#define SHARED_MEMORY(type, name)                                         \
    extern __shared__ __align__(16) unsigned char kernel_shared_memory[]; \
    type *name = reinterpret_cast<type *>(kernel_shared_memory)

template <class Arguments>
static cudaError_t launch(void (*kernel)(Arguments), dim3 grid, dim3 block, size_t shared,
                          cudaStream_t stream, Arguments arguments)
{
    void *pointers[] = {&arguments};

    /* Without being asked for, a block has no more than this. */
    if (shared > 48u << 10) {
        cudaError_t code =
            cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (code != cudaSuccess)
            return code;
    }
    return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, block, pointers, shared,
                            stream);
}

DEVICE void sync_warp()
{
    __syncwarp();
}

DEVICE void sync_block()
{
    __syncthreads();
}

/* The value of the lane whose number differs in these bits. */
DEVICE float shuffle_xor(float value, int bits)
{
    return __shfl_xor_sync(0xffffffffu, value, bits);
}

DEVICE double shuffle_xor(double value, int bits)
{
    return __shfl_xor_sync(0xffffffffu, value, bits);
}

DEVICE float float_of_bits(uint32_t bits)
{
    return __uint_as_float(bits);
}

/* 2 to the power of it, to two units in the last place; what is below the normal numbers is 0.
 * Without care for these it is one instruction. */
DEVICE float power_of_two(float exponent)
{
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

/* Two floats as a pair of BF16, `low` in the lower half; to the nearest, ties to even. */
DEVICE uint32_t pack_bf16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/*
 * d += a b, of a whole warp: a is 16 × 16, b 16 × 8, d 16 × 8. With g = lane / 4, t = lane % 4:
 *   a: rows g, g + 8, g, g + 8 of columns 2 t and one more, the latter two of columns 2 t + 8
 *   b: rows 2 t and one more, then 2 t + 8, of column g
 *   d: row g, columns 2 t and one more, then row g + 8
 */
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 × 8 matrices from shared memory: lanes 8 i to 8 i + 7 give the rows of matrix i. A lane
 * gets of each matrix row lane / 4, columns 2 (lane % 4) and one more; transposed, of the
 * transpose. */
DEVICE void load_matrices(uint32_t (&r)[4], const uint16_t *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

DEVICE void load_matrices_transposed(uint32_t (&r)[4], const uint16_t *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes, aligned, to shared memory, which are there after copies_wait(); zeros where not
 * `valid`. `from` has to be readable in any case. */
DEVICE void copy_later(void *to, const void *from, bool valid)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    const int size = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(at), "l"(from), "r"(size)
                 : "memory");
}

/* The copies of this thread since the last time are a group. */
DEVICE void copies_commit()
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

/* All groups but the latest `N` are there, for this thread: the others need a sync_block(). */
template <int N> DEVICE void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

#endif

DEVICE float float_of_bf16(uint16_t half)
{
    return float_of_bits((uint32_t)half << 16);
}

DEVICE uint16_t bf16_of_float(float value)
{
    return (uint16_t)(pack_bf16(value, 0.0f) & 0xffffu);
}

#endif
