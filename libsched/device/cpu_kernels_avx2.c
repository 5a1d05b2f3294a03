/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels for AVX2 with FMA. */
#include "device/cpu_kernels.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include <immintrin.h>

#define LANES 8
#define QUERIES 4
#define KERNELS_TABLE cpu_kernels_avx2
#define KERNELS_NAME "AVX2"
#define MAX_LANES(a, b) ((vf)_mm256_max_ps((a), (b)))
#include "device/cpu_kernels.inc"
#else
typedef int cpu_kernels_avx2_not_here;
#endif
