/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels on vectors of 16 bytes, which every 64-bit CPU has. */
#include "device/cpu_kernels.h"

#define LANES 4
#define QUERIES 4
#define KERNELS_TABLE cpu_kernels_generic
#define KERNELS_NAME "128-bit vectors"
#include "device/cpu_kernels.inc"
