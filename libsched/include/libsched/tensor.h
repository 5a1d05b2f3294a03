/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datatypes, tensors and parameters: what goes into a request and comes out of it.
 *
 * The names of datatypes are those of the Open Inference Protocol. Numbers are little-endian and
 * dense in row-major order. A BYTES tensor is its elements one after the other, each preceded by
 * its length as a little-endian uint32; nothing is aligned in it.
 */
#ifndef LIBSCHED_TENSOR_H
#define LIBSCHED_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIBSCHED_MAX_RANK 8
#define LIBSCHED_MAX_TENSORS 16    /* inputs, and likewise outputs, of a model */
#define LIBSCHED_MAX_PARAMETERS 32 /* of a request or a model */
#define LIBSCHED_NAME_SIZE 64      /* bytes of a name, its NUL included */

typedef enum libsched_datatype {
    LIBSCHED_BOOL = 1,
    LIBSCHED_UINT8,
    LIBSCHED_UINT16,
    LIBSCHED_UINT32,
    LIBSCHED_UINT64,
    LIBSCHED_INT8,
    LIBSCHED_INT16,
    LIBSCHED_INT32,
    LIBSCHED_INT64,
    LIBSCHED_FP16,
    LIBSCHED_BF16,
    LIBSCHED_FP32,
    LIBSCHED_FP64,
    LIBSCHED_BYTES,
} libsched_datatype;

/* The protocol's name ("FP32"), static, or NULL for a value that is no datatype. */
LIBSCHED_API const char *libsched_datatype_name(uint32_t datatype);
/* The datatype of a name (not NUL-terminated: `length` bytes), or 0. */
LIBSCHED_API uint32_t libsched_datatype_parse(const char *name, size_t length);
/* Bytes of an element; 0 for BYTES and for what is no datatype. */
LIBSCHED_API size_t libsched_datatype_size(uint32_t datatype);

/* A tensor that somebody else owns. */
typedef struct libsched_tensor {
    const char *name;  /* NUL-terminated, shorter than LIBSCHED_NAME_SIZE */
    uint32_t datatype; /* libsched_datatype */
    uint32_t rank;     /* at most LIBSCHED_MAX_RANK; 0 is a scalar */
    int64_t shape[LIBSCHED_MAX_RANK];
    const void *data;
    uint64_t size; /* bytes */
} libsched_tensor;

/*
 * Whether a tensor's size is that of its shape and datatype, its dimensions not negative and their
 * product within 2^62; for BYTES, whether the lengths inside it add up to its size and number as
 * many as its shape says. LIBSCHED_EINVAL where not. Reads each byte of a BYTES length once: a
 * caller whose memory may change under it checks a copy.
 */
LIBSCHED_API int libsched_tensor_check(const libsched_tensor *tensor, libsched_error *err);

/* Elements of a shape, or -1 where a dimension is negative or the product exceeds 2^62. */
LIBSCHED_API int64_t libsched_shape_elements(const int64_t *shape, uint32_t rank);

/* What a model takes or gives. A dimension of -1 is variable. */
typedef struct libsched_tensor_spec {
    char name[LIBSCHED_NAME_SIZE];
    uint32_t datatype;
    uint32_t rank;
    int64_t shape[LIBSCHED_MAX_RANK];
    bool optional;
} libsched_tensor_spec;

/* A named value: an option of a model, or of a request. */
typedef enum libsched_parameter_type {
    LIBSCHED_PARAMETER_BOOL = 1,
    LIBSCHED_PARAMETER_INT,
    LIBSCHED_PARAMETER_FLOAT,
    LIBSCHED_PARAMETER_STRING,
} libsched_parameter_type;

typedef struct libsched_parameter {
    const char *name;
    uint32_t type; /* libsched_parameter_type */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *string; /* NUL-terminated UTF-8 */
    } value;
} libsched_parameter;

/* The parameter of a name, one of `parameters`, or NULL. */
LIBSCHED_API const libsched_parameter *libsched_parameter_find(const libsched_parameter *parameters,
                                                               size_t n, const char *name);

#ifdef __cplusplus
}
#endif

#endif
