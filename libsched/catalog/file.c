/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

char *catalog_file_join(const char *folder, const char *file)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, file) < 0 ? NULL : path;
}

bool catalog_file_exists(const char *folder, const char *file)
{
    char *path = catalog_file_join(folder, file);
    /* Anything but "not there" counts as there, so that opening it says what is wrong with it. */
    bool exists = path == NULL || access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
    free(path);
    return exists;
}

uint64_t catalog_file_size(const char *folder, const char *file)
{
    struct stat info;
    char *path = catalog_file_join(folder, file);
    uint64_t size = path != NULL && stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
    free(path);
    return size;
}

int catalog_file_open(int *fd, uint64_t *size, const char *path, const char *label,
                      libsched_error *err)
{
    /* Without O_NONBLOCK a FIFO would hold the caller until somebody writes to it. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: cannot be opened: %m", label);
    struct stat info;
    if (fstat(opened, &info) != 0) {
        int status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s: fstat: %m", label);
        close(opened);
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        close(opened);
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: not a regular file", label);
    }
    *fd = opened;
    *size = (uint64_t)info.st_size;
    return LIBSCHED_OK;
}

int catalog_file_read_at(int fd, void *to, size_t length, uint64_t offset, const char *label,
                         libsched_error *err)
{
    char *at = to;
    while (length > 0) {
        /* The kernel reads at most 2 GiB at once. */
        size_t step = length < ((size_t)1 << 30) ? length : (size_t)1 << 30;
        ssize_t n = pread(fd, at, step, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s: reading at byte %" PRIu64 ": %m",
                                      label, offset);
        if (n == 0)
            return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                      "%s: shrank while it was read: ends at byte %" PRIu64, label,
                                      offset);
        at += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return LIBSCHED_OK;
}

int catalog_file_read(char **text, size_t *length, const char *folder, const char *file,
                      size_t max_size, libsched_error *err)
{
    *text = NULL;
    *length = 0;
    char *path = catalog_file_join(folder, file);
    if (path == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "%s: no memory", file);
    int fd;
    uint64_t size;
    int status = catalog_file_open(&fd, &size, path, file, err);
    free(path);
    if (status != LIBSCHED_OK)
        return status;

    char *buffer = NULL;
    if (size > max_size)
        status = libsched_error_set(err, LIBSCHED_EBADMODEL,
                                    "%s: %" PRIu64 " bytes, at most %zu are accepted", file, size,
                                    max_size);
    else if ((buffer = malloc((size_t)size + 1)) == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "%s: no memory for %" PRIu64 " bytes",
                                    file, size);
    else
        status = catalog_file_read_at(fd, buffer, (size_t)size, 0, file, err);
    close(fd);
    if (status != LIBSCHED_OK) {
        free(buffer);
        return status;
    }
    buffer[size] = '\0';
    *text = buffer;
    *length = (size_t)size;
    return LIBSCHED_OK;
}

void catalog_file_free(char *text)
{
    free(text);
}
