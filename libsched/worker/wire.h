/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing and reading the payloads of ring records: numbers, strings, tensors' shapes, parameters.
 *
 * Both sides run on the same machine and from the same build (the channel's header says so), so
 * numbers are stored as they are; nothing is aligned. A reader checks each length, and once it has
 * failed answers zeros: the caller asks at the end.
 */
#ifndef WORKER_WIRE_H
#define WORKER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All zero is an empty writer; its buffer grows and is reused. */
struct wire_writer {
    unsigned char *data;
    size_t length, capacity;
    bool failed; /* memory was short */
};

void wire_writer_free(struct wire_writer *writer);
void wire_reset(struct wire_writer *writer);

void wire_put(struct wire_writer *writer, const void *bytes, size_t length);
void wire_put_u32(struct wire_writer *writer, uint32_t value);
void wire_put_u64(struct wire_writer *writer, uint64_t value);
/* NULL is kept apart from "". */
void wire_put_string(struct wire_writer *writer, const char *string);
void wire_put_shape(struct wire_writer *writer, const int64_t *shape, uint32_t rank);
void wire_put_parameters(struct wire_writer *writer, const libsched_parameter *parameters,
                         uint32_t n);

struct wire_reader {
    const unsigned char *at, *end;
    bool failed;
};

void wire_read(struct wire_reader *reader, const void *data, size_t length);

void wire_get(struct wire_reader *reader, void *bytes, size_t length);
uint32_t wire_get_u32(struct wire_reader *reader);
uint64_t wire_get_u64(struct wire_reader *reader);
/* Points into what is read, NUL-terminated; NULL where the writer put NULL, or on failure. */
const char *wire_get_string(struct wire_reader *reader);
/* A string that has to be there and is shorter than LIBSCHED_NAME_SIZE; "" on failure. */
const char *wire_get_name(struct wire_reader *reader);
/* Fails where the rank is above LIBSCHED_MAX_RANK. */
uint32_t wire_get_shape(struct wire_reader *reader, int64_t *shape);
/* Reads `n` parameters into `out`; their strings point into what is read. */
void wire_get_parameters(struct wire_reader *reader, libsched_parameter *out, uint32_t n);

/* Whether all was well and nothing is left over. */
bool wire_ends(const struct wire_reader *reader);

#ifdef __cplusplus
}
#endif

#endif
