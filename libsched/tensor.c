/* SPDX-License-Identifier: Apache-2.0 */
#include <libsched/tensor.h>

#include <inttypes.h>
#include <string.h>

#define MAX_ELEMENTS ((int64_t)1 << 62)

static const struct {
    const char *name;
    size_t size;
} datatypes[] = {
    [LIBSCHED_BOOL] = {"BOOL", 1},     [LIBSCHED_UINT8] = {"UINT8", 1},
    [LIBSCHED_UINT16] = {"UINT16", 2}, [LIBSCHED_UINT32] = {"UINT32", 4},
    [LIBSCHED_UINT64] = {"UINT64", 8}, [LIBSCHED_INT8] = {"INT8", 1},
    [LIBSCHED_INT16] = {"INT16", 2},   [LIBSCHED_INT32] = {"INT32", 4},
    [LIBSCHED_INT64] = {"INT64", 8},   [LIBSCHED_FP16] = {"FP16", 2},
    [LIBSCHED_BF16] = {"BF16", 2},     [LIBSCHED_FP32] = {"FP32", 4},
    [LIBSCHED_FP64] = {"FP64", 8},     [LIBSCHED_BYTES] = {"BYTES", 0},
};
#define N_DATATYPES (sizeof(datatypes) / sizeof(datatypes[0]))

const char *libsched_datatype_name(uint32_t datatype)
{
    return datatype < N_DATATYPES ? datatypes[datatype].name : NULL;
}

uint32_t libsched_datatype_parse(const char *name, size_t length)
{
    for (uint32_t i = 1; i < N_DATATYPES; i++)
        if (strlen(datatypes[i].name) == length && memcmp(datatypes[i].name, name, length) == 0)
            return i;
    return 0;
}

size_t libsched_datatype_size(uint32_t datatype)
{
    return datatype < N_DATATYPES ? datatypes[datatype].size : 0;
}

int64_t libsched_shape_elements(const int64_t *shape, uint32_t rank)
{
    int64_t n = 1;
    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] < 0)
            return -1;
        if (shape[i] > 0 && n > MAX_ELEMENTS / shape[i])
            return -1;
        n *= shape[i];
    }
    return n;
}

/* Walks the lengths inside a BYTES tensor. */
static int check_bytes(const libsched_tensor *tensor, int64_t elements, libsched_error *err)
{
    const unsigned char *at = tensor->data;
    uint64_t left = tensor->size;
    int64_t n = 0;

    while (left > 0) {
        if (left < 4)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "tensor \"%s\": %" PRIu64
                                      " stray bytes behind element %" PRId64,
                                      tensor->name, left, n);
        uint32_t length =
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        if (length > left - 4)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "tensor \"%s\": element %" PRId64 " claims %" PRIu32
                                      " bytes where %" PRIu64 " are left",
                                      tensor->name, n, length, left - 4);
        at += 4 + (size_t)length;
        left -= 4 + (uint64_t)length;
        n++;
    }
    if (n != elements)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\": holds %" PRId64
                                  " elements, its shape says %" PRId64,
                                  tensor->name, n, elements);
    return LIBSCHED_OK;
}

int libsched_tensor_check(const libsched_tensor *tensor, libsched_error *err)
{
    if (tensor->name == NULL || strnlen(tensor->name, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a tensor's name has to have at most %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    if (libsched_datatype_name(tensor->datatype) == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "tensor \"%s\": unknown datatype %" PRIu32,
                                  tensor->name, tensor->datatype);
    if (tensor->rank > LIBSCHED_MAX_RANK)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\": %" PRIu32 " dimensions, at most %d are possible",
                                  tensor->name, tensor->rank, LIBSCHED_MAX_RANK);
    if (tensor->data == NULL && tensor->size > 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "tensor \"%s\": no data", tensor->name);

    int64_t elements = libsched_shape_elements(tensor->shape, tensor->rank);
    size_t size = libsched_datatype_size(tensor->datatype);
    if (elements < 0 || (size > 0 && (uint64_t)elements > UINT64_MAX / size))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\": a dimension is negative, or there are too many "
                                  "elements",
                                  tensor->name);
    if (tensor->datatype == LIBSCHED_BYTES)
        return check_bytes(tensor, elements, err);

    if ((uint64_t)elements * size != tensor->size)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\": %" PRIu64 " bytes, but its shape takes %" PRIu64,
                                  tensor->name, tensor->size, (uint64_t)elements * size);
    return LIBSCHED_OK;
}

const libsched_parameter *libsched_parameter_find(const libsched_parameter *parameters, size_t n,
                                                  const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(parameters[i].name, name) == 0)
            return &parameters[i];
    return NULL;
}
