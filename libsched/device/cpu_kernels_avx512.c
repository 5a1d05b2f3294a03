/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels for AVX-512. */
#include "device/cpu_kernels.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")

#include <immintrin.h>

#define LANES 16
#define QUERIES 8
#define KERNELS_TABLE cpu_kernels_avx512
#define KERNELS_NAME "AVX-512"
#define MAX_LANES(a, b) ((vf)_mm512_max_ps((a), (b)))
#include "device/cpu_kernels.inc"
#else
typedef int cpu_kernels_avx512_not_here;
#endif
