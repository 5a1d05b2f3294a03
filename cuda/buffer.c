/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices of activations. */
#include <inttypes.h>
#include <stdlib.h>

#include "internal.h"

/* Up to 16 in powers of two, so that what is one long row takes no more than that; beyond, in steps
 * that compute at most a quarter for nothing. */
uint64_t cuda_rung(uint64_t rows)
{
    uint64_t step = 16;

    if (rows <= 16) {
        while (step / 2 >= rows && step > 1)
            step /= 2;
        return rows == 0 ? 0 : step;
    }
    step = rows <= 128 ? 16 : rows <= 512 ? 32 : rows <= 2048 ? 128 : 256;
    return (rows + step - 1) / step * step;
}

int cuda_buffer_create(libsched_device *base, libsched_device_buffer **out, uint32_t datatype,
                       uint64_t rows, uint64_t columns, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_buffer *buffer;
    int status = cuda_enter(device, err);

    if (status != LIBSCHED_OK)
        return status;
    if (datatype != LIBSCHED_FP32 && datatype != LIBSCHED_BF16)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a buffer is FP32 or BF16, got %s",
                                  libsched_datatype_name(datatype) != NULL
                                      ? libsched_datatype_name(datatype)
                                      : "no datatype");
    if (rows > CUDA_MAX_DIMENSION || columns > CUDA_MAX_DIMENSION || columns == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a buffer of %" PRIu64 " by %" PRIu64 " is not possible", rows,
                                  columns);
    buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a buffer");
    buffer->datatype = datatype;
    buffer->rows = rows;
    buffer->columns = columns;
    status = cuda_allocate(device, &buffer->span,
                           cuda_rung(rows) * columns * libsched_datatype_size(datatype), "a buffer",
                           err);
    if (status != LIBSCHED_OK) {
        free(buffer);
        return status;
    }
    *out = buffer;
    return LIBSCHED_OK;
}

void cuda_buffer_destroy(libsched_device *device, libsched_device_buffer *buffer)
{
    if (buffer == NULL)
        return;
    cuda_release(cuda_device_of(device), &buffer->span);
    free(buffer);
}

int cuda_buffer_check(const libsched_device_buffer *buffer, const char *name, uint32_t datatype,
                      uint64_t rows, uint64_t columns, libsched_error *err)
{
    if (buffer == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: no buffer", name);
    if (buffer->datatype != datatype)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: the buffer is %s, not %s", name,
                                  libsched_datatype_name(buffer->datatype),
                                  libsched_datatype_name(datatype));
    if (buffer->columns != columns || buffer->rows < rows)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: the buffer is %" PRIu64 " by %" PRIu64 ", %" PRIu64
                                  " by %" PRIu64 " are needed",
                                  name, buffer->rows, buffer->columns, rows, columns);
    return LIBSCHED_OK;
}

static int check_rows(const libsched_device_buffer *buffer, uint64_t first, uint64_t rows,
                      libsched_error *err)
{
    if (first > buffer->rows || rows > buffer->rows - first)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "rows %" PRIu64 " and %" PRIu64 " more of a buffer of %" PRIu64,
                                  first, rows, buffer->rows);
    return LIBSCHED_OK;
}

int cuda_upload(libsched_device *base, libsched_device_buffer *buffer, uint64_t first_row,
                uint64_t rows, const void *source, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const uint64_t row = buffer->columns * libsched_datatype_size(buffer->datatype);
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check_rows(buffer, first_row, rows, err);
    if (status == LIBSCHED_OK && rows > 0)
        status = cuda_copy_in(device, &buffer->span, first_row * row, rows * row, source, err);
    return status;
}

int cuda_download(libsched_device *base, const libsched_device_buffer *buffer, uint64_t first_row,
                  uint64_t rows, void *target, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const uint64_t row = buffer->columns * libsched_datatype_size(buffer->datatype);
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check_rows(buffer, first_row, rows, err);
    if (status == LIBSCHED_OK && rows > 0)
        status = cuda_copy_out(device, cuda_span_of_buffer(buffer), first_row * row, rows * row,
                               target, err);
    return status;
}
