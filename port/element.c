/* SPDX-License-Identifier: Apache-2.0 */
#include "element.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "decode.h"

/* Rounds a double to a float's format of `mantissa` bits and exponents from `min_exponent` on, in
 * the double itself: the result is then representable there, or too large. Adding and taking away
 * a power of two whose last bit is the format's last bit rounds as the processor does: to
 * nearest, ties to even. */
static double round_to_format(double value, int mantissa, int min_exponent)
{
    int exponent;
    if (value == 0 || !isfinite(value))
        return value;
    frexp(value, &exponent); /* value = f * 2^exponent, f in [0.5, 1) */
    if (exponent - 1 < min_exponent)
        exponent = min_exponent + 1;
    int shift = exponent - 1 - mantissa; /* the last bit counts 2^shift */
    return ldexp(nearbyint(ldexp(value, -shift)), shift);
}

/* The bits of a value that round_to_format() has made representable, or too large. */
static uint16_t encode_small_float(double value, int mantissa, int exponent_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    uint16_t infinity = (uint16_t)(((1u << exponent_bits) - 1) << mantissa);
    if (isnan(value))
        return (uint16_t)(sign | infinity | 1u << (mantissa - 1));

    value = fabs(round_to_format(value, mantissa, 1 - bias));
    if (value == 0)
        return sign;
    int exponent;
    double fraction = frexp(value, &exponent);
    exponent -= 1;
    if (isinf(value) || exponent > bias)
        return sign | infinity;
    if (exponent < 1 - bias) /* subnormal: no leading one */
        return (uint16_t)(sign | (uint16_t)ldexp(value, bias - 1 + mantissa));
    uint32_t bits = (uint32_t)ldexp(fraction * 2 - 1, mantissa);
    return (uint16_t)(sign | (uint32_t)(exponent + bias) << mantissa | bits);
}

uint16_t element_fp16(double value)
{
    return encode_small_float(value, 10, 5);
}

uint16_t element_bf16(double value)
{
    return encode_small_float(value, 7, 8);
}

static bool as_double(const msgpack_object *o, double *out)
{
    switch (o->type) {
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        *out = o->via.f64;
        return true;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        *out = (double)o->via.u64;
        return true;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        *out = (double)o->via.i64;
        return true;
    default:
        return false;
    }
}

#define WRITE_UNSIGNED(ctype, max)                                                            \
    do {                                                                                      \
        for (; i < n; i++) {                                                                  \
            if (values[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER || values[i].via.u64 > max) \
                return i;                                                                     \
            ctype element = (ctype)values[i].via.u64;                                         \
            memcpy((char *)out + i * sizeof(ctype), &element, sizeof(ctype));                 \
        }                                                                                     \
    } while (0)

#define WRITE_SIGNED(ctype, min, max)                                         \
    do {                                                                      \
        for (; i < n; i++) {                                                  \
            ctype element;                                                    \
            if (values[i].type == MSGPACK_OBJECT_POSITIVE_INTEGER &&          \
                values[i].via.u64 <= (uint64_t)max)                           \
                element = (ctype)values[i].via.u64;                           \
            else if (values[i].type == MSGPACK_OBJECT_NEGATIVE_INTEGER &&     \
                     values[i].via.i64 >= min)                                \
                element = (ctype)values[i].via.i64;                           \
            else                                                              \
                return i;                                                     \
            memcpy((char *)out + i * sizeof(ctype), &element, sizeof(ctype)); \
        }                                                                     \
    } while (0)

#define WRITE_FLOAT(ctype, convert, is_infinite)                              \
    do {                                                                      \
        for (; i < n; i++) {                                                  \
            double value;                                                     \
            if (!as_double(&values[i], &value))                               \
                return i;                                                     \
            ctype element = convert(value);                                   \
            if (is_infinite(element) && !isinf(value))                        \
                return i;                                                     \
            memcpy((char *)out + i * sizeof(ctype), &element, sizeof(ctype)); \
        }                                                                     \
    } while (0)

#define FP16_INFINITE(x) (((x)&0x7fff) == 0x7c00)
#define BF16_INFINITE(x) (((x)&0x7fff) == 0x7f80)

uint32_t element_write_row(uint32_t datatype, const msgpack_object *values, uint32_t n, void *out)
{
    uint32_t i = 0;
    switch (datatype) {
    case LIBSCHED_BOOL:
        for (; i < n; i++) {
            if (values[i].type == MSGPACK_OBJECT_BOOLEAN)
                ((uint8_t *)out)[i] = values[i].via.boolean;
            else if (values[i].type == MSGPACK_OBJECT_POSITIVE_INTEGER && values[i].via.u64 <= 1)
                ((uint8_t *)out)[i] = (uint8_t)values[i].via.u64;
            else
                return i;
        }
        return n;
    case LIBSCHED_UINT8:
        WRITE_UNSIGNED(uint8_t, UINT8_MAX);
        return n;
    case LIBSCHED_UINT16:
        WRITE_UNSIGNED(uint16_t, UINT16_MAX);
        return n;
    case LIBSCHED_UINT32:
        WRITE_UNSIGNED(uint32_t, UINT32_MAX);
        return n;
    case LIBSCHED_UINT64:
        WRITE_UNSIGNED(uint64_t, UINT64_MAX);
        return n;
    case LIBSCHED_INT8:
        WRITE_SIGNED(int8_t, INT8_MIN, INT8_MAX);
        return n;
    case LIBSCHED_INT16:
        WRITE_SIGNED(int16_t, INT16_MIN, INT16_MAX);
        return n;
    case LIBSCHED_INT32:
        WRITE_SIGNED(int32_t, INT32_MIN, INT32_MAX);
        return n;
    case LIBSCHED_INT64:
        WRITE_SIGNED(int64_t, INT64_MIN, INT64_MAX);
        return n;
    case LIBSCHED_FP16:
        WRITE_FLOAT(uint16_t, element_fp16, FP16_INFINITE);
        return n;
    case LIBSCHED_BF16:
        WRITE_FLOAT(uint16_t, element_bf16, BF16_INFINITE);
        return n;
    case LIBSCHED_FP32:
        WRITE_FLOAT(float, (float), isinf);
        return n;
    case LIBSCHED_FP64:
        WRITE_FLOAT(double, , isinf);
        return n;
    default:
        return 0;
    }
}

/* The range of an integer datatype, in words. */
static const char *range_of(uint32_t datatype)
{
    switch (datatype) {
    case LIBSCHED_UINT8:
        return "0 to 255";
    case LIBSCHED_UINT16:
        return "0 to 65535";
    case LIBSCHED_UINT32:
        return "0 to 4294967295";
    case LIBSCHED_UINT64:
        return "0 to 18446744073709551615";
    case LIBSCHED_INT8:
        return "-128 to 127";
    case LIBSCHED_INT16:
        return "-32768 to 32767";
    case LIBSCHED_INT32:
        return "-2147483648 to 2147483647";
    case LIBSCHED_INT64:
        return "-9223372036854775808 to 9223372036854775807";
    case LIBSCHED_BOOL:
        return "true or false, 1 or 0";
    case LIBSCHED_FP16:
        return "at most 65504";
    default:
        return "at most 3.4e38";
    }
}

void element_refusal(uint32_t datatype, const msgpack_object *value, char *out, size_t size)
{
    const char *name = libsched_datatype_name(datatype);
    switch (value->type) {
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        snprintf(out, size, "%" PRIu64 " is not within %s (%s)", value->via.u64, name,
                 range_of(datatype));
        return;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        snprintf(out, size, "%" PRId64 " is not within %s (%s)", value->via.i64, name,
                 range_of(datatype));
        return;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        snprintf(out, size, "%g is not within %s (%s)", value->via.f64, name, range_of(datatype));
        return;
    default:
        snprintf(out, size, "%s, where %s is expected", decode_kind(value), name);
        return;
    }
}
