/* SPDX-License-Identifier: Apache-2.0 */
/* What this CPU can do. */
#include "device/cpu_kernels.h"

const struct cpu_kernels *cpu_kernels_select(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &cpu_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &cpu_kernels_avx2;
#endif
    return &cpu_kernels_generic;
}

bool cpu_has_bf16(void)
{
#if defined(__x86_64__)
    /* Every CPU with AMX has this as well. */
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}
