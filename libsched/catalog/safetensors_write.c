/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/json.h"

static int check(const libsched_tensor *tensor, uint64_t offset, libsched_error *err)
{
    if (safetensors_dtype_name(tensor->datatype) == NULL ||
        libsched_tensor_check(tensor, NULL) != LIBSCHED_OK)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\" can't be written: its size is not that of its "
                                  "shape and datatype",
                                  tensor->name);
    if (offset % libsched_datatype_size(tensor->datatype) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "tensor \"%s\" would not be aligned: write those of larger "
                                  "elements first",
                                  tensor->name);
    return LIBSCHED_OK;
}

/* NULL where memory is short. */
static json_t *describe(const libsched_tensor *tensor, uint64_t offset)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(tensor->datatype),
                     "shape", shape, "data_offsets", (json_int_t)offset,
                     (json_int_t)(offset + tensor->size));
}

/* The header's text, padded so that the data behind it is aligned; free(). */
static char *make_header(const libsched_tensor *tensors, size_t n, libsched_error *err)
{
    json_t *header = json_object();
    char *text = NULL;
    uint64_t offset = 0;
    int status = header != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
    for (size_t i = 0; status == LIBSCHED_OK && i < n; i++) {
        status = check(&tensors[i], offset, err);
        if (status == LIBSCHED_OK &&
            json_object_set_new(header, tensors[i].name, describe(&tensors[i], offset)) < 0)
            status = LIBSCHED_ENOMEM;
        offset += tensors[i].size;
    }
    if (status == LIBSCHED_OK)
        text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (status == LIBSCHED_OK && text != NULL) {
        size_t length = strlen(text), padded = (length + 7) / 8 * 8;
        char *longer = realloc(text, padded + 1);
        if (longer != NULL) {
            memset(longer + length, ' ', padded - length);
            longer[padded] = '\0';
            return longer;
        }
    }
    free(text);
    if (status != LIBSCHED_EINVAL)
        libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a file's header");
    return NULL;
}

static int write_all(int fd, const void *data, uint64_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t n = write(fd, at, size < (1u << 30) ? size : 1u << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += n;
        size -= (uint64_t)n;
    }
    return 0;
}

static int write_header(int fd, const char *header)
{
    uint64_t length = strlen(header);
    unsigned char little[8];
    for (int i = 0; i < 8; i++)
        little[i] = (unsigned char)(length >> (8 * i));
    return write_all(fd, little, sizeof(little)) < 0 ? -1 : write_all(fd, header, length);
}

static int write_file(int fd, const char *header, const libsched_tensor *tensors, size_t n)
{
    if (write_header(fd, header) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (write_all(fd, tensors[i].data, tensors[i].size) < 0)
            return -1;
    return fsync(fd);
}

int safetensors_write(const char *path, const libsched_tensor *tensors, size_t n,
                      libsched_error *err)
{
    char *header = make_header(tensors, n, err);
    if (header == NULL)
        return err != NULL && err->status == LIBSCHED_EINVAL ? LIBSCHED_EINVAL : LIBSCHED_ENOMEM;
    int status = LIBSCHED_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", path);
    else if (write_file(fd, header, tensors, n) < 0)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", path);
    if (fd >= 0 && close(fd) < 0 && status == LIBSCHED_OK)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", path);
    if (fd >= 0 && status < 0)
        unlink(path);
    free(header);
    return status;
}

/* --------------------------------------------------------------------------------------- stream */

struct safetensors_stream {
    int fd;
    uint64_t left; /* bytes that are to come */
    bool ended;
    char *path, *temporary;
};

static int can_not_write(const struct safetensors_stream *stream, libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", stream->temporary);
}

/* As any other new file: mkostemp() lets nobody else read it. To ask
 * for the mask is to change it, for all threads: what another one makes just then is nobody's
 * rather than everybody's. */
static void open_up(int fd)
{
    mode_t mask = umask(0777);

    umask(mask);
    if (fchmod(fd, 0666 & ~mask) < 0) {
        /* It then serves its owner. */
    }
}

static int stream_begin(struct safetensors_stream *stream, const char *path, const char *header,
                        libsched_error *err)
{
    stream->path = strdup(path);
    if (stream->path == NULL || asprintf(&stream->temporary, "%s.XXXXXX", path) < 0) {
        stream->temporary = NULL;
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a path");
    }
    stream->fd = mkostemp(stream->temporary, O_CLOEXEC);
    if (stream->fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", path);
    open_up(stream->fd);
    return write_header(stream->fd, header) < 0 ? can_not_write(stream, err) : LIBSCHED_OK;
}

int safetensors_stream_open(struct safetensors_stream **out, const char *path,
                            const libsched_tensor *tensor, libsched_error *err)
{
    libsched_error cause = {0};
    libsched_tensor described = *tensor;
    struct safetensors_stream *stream;
    char *header;
    int status;

    /* It is not read, but a tensor without data would be refused. */
    described.data = "";
    header = make_header(&described, 1, &cause);
    if (header == NULL)
        return libsched_error_set(err, cause.status, "%s", cause.message);
    stream = calloc(1, sizeof(*stream));
    if (stream == NULL) {
        free(header);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a file");
    }
    stream->fd = -1;
    stream->left = tensor->size;
    status = stream_begin(stream, path, header, err);
    free(header);
    if (status != LIBSCHED_OK) {
        safetensors_stream_close(stream);
        return status;
    }
    *out = stream;
    return LIBSCHED_OK;
}

int safetensors_stream_write(struct safetensors_stream *stream, const void *data, uint64_t size,
                             libsched_error *err)
{
    if (size > stream->left)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: %" PRIu64 " bytes more, where %" PRIu64 " are to come",
                                  stream->path, size, stream->left);
    if (write_all(stream->fd, data, size) < 0)
        return can_not_write(stream, err);
    stream->left -= size;
    return LIBSCHED_OK;
}

int safetensors_stream_end(struct safetensors_stream *stream, libsched_error *err)
{
    if (stream->left > 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %" PRIu64 " bytes are missing",
                                  stream->path, stream->left);
    if (fsync(stream->fd) < 0)
        return can_not_write(stream, err);
    /* Not every file system can do it in one. */
    if (renameat2(AT_FDCWD, stream->temporary, AT_FDCWD, stream->path, RENAME_NOREPLACE) < 0 &&
        (errno != EINVAL || access(stream->path, F_OK) == 0 ||
         rename(stream->temporary, stream->path) < 0)) {
        if (errno == EEXIST || access(stream->path, F_OK) == 0)
            return libsched_error_set(err, LIBSCHED_EINVAL, "%s is there already", stream->path);
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", stream->path);
    }
    stream->ended = true;
    return LIBSCHED_OK;
}

void safetensors_stream_close(struct safetensors_stream *stream)
{
    if (stream == NULL)
        return;
    if (stream->fd >= 0) {
        close(stream->fd);
        if (!stream->ended)
            unlink(stream->temporary);
    }
    free(stream->path);
    free(stream->temporary);
    free(stream);
}
