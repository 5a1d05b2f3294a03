/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One number of a message as an element of a tensor.
 */
#ifndef PORT_ELEMENT_H
#define PORT_ELEMENT_H

#include <stdint.h>

#include <msgpack.h>

#include <libsched.h>

/*
 * Writes a row of values as elements of a fixed-size datatype. The number of values written: less
 * than `n` where the next one does not fit the datatype (element_refusal() says why).
 *
 * Integers take integers in their range, floats take integers and floats (rounded to nearest, ties
 * to even; what would round to infinity is refused, an infinity or NaN itself is not), BOOL takes
 * booleans, and 0 and 1.
 */
uint32_t element_write_row(uint32_t datatype, const msgpack_object *values, uint32_t n, void *out);

/* Why a value is no element of the datatype: "70000 is not within INT16 (-32768 to 32767)". */
void element_refusal(uint32_t datatype, const msgpack_object *value, char *out, size_t size);

/* IEEE 754 binary16 and bfloat16 of a double. Infinite where the double is beyond their range. */
uint16_t element_fp16(double value);
uint16_t element_bf16(double value);

#endif
