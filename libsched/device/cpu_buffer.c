/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices of activations. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu.h"
#include "device/cpu_memory.h"

/* No dimension above it is taken: products of two, times an element, stay within 64 bits. */
#define MAX_DIMENSION ((uint64_t)1 << 30)

int cpu_buffer_create(libsched_device *device, libsched_device_buffer **out, uint32_t datatype,
                      uint64_t rows, uint64_t columns, libsched_error *err)
{
    libsched_device_buffer *buffer;

    (void)device;
    if (datatype != LIBSCHED_FP32 && datatype != LIBSCHED_BF16)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a buffer is FP32 or BF16, got %s",
                                  libsched_datatype_name(datatype) != NULL
                                      ? libsched_datatype_name(datatype)
                                      : "no datatype");
    if (rows > MAX_DIMENSION || columns > MAX_DIMENSION || columns == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a buffer of %" PRIu64 " by %" PRIu64 " is not possible", rows,
                                  columns);
    buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a buffer");
    buffer->datatype = datatype;
    buffer->rows = rows;
    buffer->columns = columns;
    buffer->size = (rows + CPU_SPARE_ROWS) * columns * libsched_datatype_size(datatype);
    buffer->data = cpu_alloc(buffer->size);
    if (buffer->data == NULL) {
        libsched_error_set(err, LIBSCHED_ENODEVMEM, "no memory for a buffer of %zu bytes",
                           buffer->size);
        free(buffer);
        return LIBSCHED_ENODEVMEM;
    }
    *out = buffer;
    return LIBSCHED_OK;
}

void cpu_buffer_destroy(libsched_device *device, libsched_device_buffer *buffer)
{
    (void)device;
    if (buffer == NULL)
        return;
    cpu_free(buffer->data, buffer->size);
    free(buffer);
}

int cpu_buffer_check(const libsched_device_buffer *buffer, const char *name, uint32_t datatype,
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

/* Where some rows begin, or NULL where they are not all inside. */
static unsigned char *rows_at(const libsched_device_buffer *buffer, uint64_t first, uint64_t rows,
                              size_t *bytes, libsched_error *err)
{
    size_t row = buffer->columns * libsched_datatype_size(buffer->datatype);

    if (first > buffer->rows || rows > buffer->rows - first) {
        libsched_error_set(err, LIBSCHED_EINVAL,
                           "rows %" PRIu64 " and %" PRIu64 " more of a buffer of %" PRIu64, first,
                           rows, buffer->rows);
        return NULL;
    }
    *bytes = rows * row;
    return (unsigned char *)buffer->data + first * row;
}

int cpu_upload(libsched_device *device, libsched_device_buffer *buffer, uint64_t first_row,
               uint64_t rows, const void *source, libsched_error *err)
{
    size_t bytes;
    unsigned char *at = rows_at(buffer, first_row, rows, &bytes, err);

    (void)device;
    if (at == NULL)
        return LIBSCHED_EINVAL;
    if (bytes > 0)
        memcpy(at, source, bytes);
    return LIBSCHED_OK;
}

int cpu_download(libsched_device *device, const libsched_device_buffer *buffer, uint64_t first_row,
                 uint64_t rows, void *target, libsched_error *err)
{
    size_t bytes;
    unsigned char *at = rows_at(buffer, first_row, rows, &bytes, err);

    (void)device;
    if (at == NULL)
        return LIBSCHED_EINVAL;
    if (bytes > 0)
        memcpy(target, at, bytes);
    return LIBSCHED_OK;
}
