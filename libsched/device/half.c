/* SPDX-License-Identifier: Apache-2.0 */
#include "device/half.h"

#include <stdint.h>
#include <string.h>

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static float widen_one(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 0x1f;
    const uint32_t fraction = half & 0x3ff;
    float magnitude;

    if (exponent == 0x1f)
        return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0)
        return float_of_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13);
    magnitude = (float)fraction * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
}

void half_widen_fp16(const void *source, size_t n, float *target)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, (const char *)source + 2 * i, sizeof(half));
        target[i] = widen_one(half);
    }
}

void half_widen_bf16(const void *source, size_t n, float *target)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, (const char *)source + 2 * i, sizeof(half));
        target[i] = float_of_bits((uint32_t)half << 16);
    }
}
