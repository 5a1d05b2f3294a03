/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tensor given as nested arrays of values, or as a single value: its shape, then its bytes.
 *
 * The shape is read off the first row of each level; every other row has to agree. What does not is
 * named by its path: "inputs.ids[3]: 4 elements, the rows before have 5".
 */
#ifndef PORT_NESTED_H
#define PORT_NESTED_H

#include <stdint.h>

#include <msgpack.h>

#include <libsched.h>

struct nested {
    const char *path; /* "inputs.ids", for messages */
    const msgpack_object *value;
    uint32_t datatype;
    uint32_t rank;
    int64_t shape[LIBSCHED_MAX_RANK];
    uint64_t size; /* bytes of the tensor */
};

/* Finds the shape and the size of a value as a tensor of `datatype`, checking every row. */
int nested_measure(struct nested *out, const char *path, const msgpack_object *value,
                   uint32_t datatype, libsched_error *err);

/* Writes the tensor's out->size bytes. */
int nested_write(const struct nested *nested, void *out, libsched_error *err);

#endif
