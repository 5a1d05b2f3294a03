/* SPDX-License-Identifier: Apache-2.0 */
/* What a checkpoint holds, in what the device computes with. */
#include <string.h>

#include "internal.h"

static float float_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static float widen_fp16(uint16_t half)
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

/* To the nearest, ties to even; a NaN stays one. */
static uint16_t narrow_bf16(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float load(const unsigned char *source, uint32_t datatype, uint64_t i)
{
    uint16_t half;
    float wide;

    if (datatype == LIBSCHED_FP32) {
        memcpy(&wide, source + 4 * i, sizeof(wide));
        return wide;
    }
    memcpy(&half, source + 2 * i, sizeof(half));
    return datatype == LIBSCHED_FP16 ? widen_fp16(half) : float_of_bits((uint32_t)half << 16);
}

void cuda_convert(const void *source, uint32_t source_datatype, uint64_t n, void *target,
                  uint32_t datatype)
{
    unsigned char *to = target;

    if (source_datatype == datatype) {
        memcpy(to, source, n * libsched_datatype_size(datatype));
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        const float value = load(source, source_datatype, i);

        if (datatype == LIBSCHED_FP32) {
            memcpy(to + 4 * i, &value, sizeof(value));
        } else {
            const uint16_t half = narrow_bf16(value);
            memcpy(to + 2 * i, &half, sizeof(half));
        }
    }
}
