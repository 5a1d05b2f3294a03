/* SPDX-License-Identifier: Apache-2.0 */
/* The two 16-bit floating-point formats of checkpoints, widened to FP32 exactly. */
#ifndef DEVICE_HALF_H
#define DEVICE_HALF_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* source: n elements, little-endian, at any alignment. */
void half_widen_fp16(const void *source, size_t n, float *target);
void half_widen_bf16(const void *source, size_t n, float *target);

#ifdef __cplusplus
}
#endif

#endif
