/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a model folder, read whole into private memory.
 *
 * They are read and never mapped: a file that another process truncates while it is mapped ends
 * the reader with SIGBUS, a file that is read gives a short count, which is an error like any
 * other.
 */
#ifndef CATALOG_FILE_H
#define CATALOG_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether there is something of that name in the folder. */
bool catalog_file_exists(const char *folder, const char *file);
/* How large it is; 0 where there is nothing. */
uint64_t catalog_file_size(const char *folder, const char *file);

/*
 * The content of a regular file, at most `max_size` bytes, with a NUL behind it. `*text` is the
 * caller's, to be given to catalog_file_free(). Messages name the file as `file`. Fails with
 * LIBSCHED_EBADMODEL (absent, not readable, not a regular file, too large), LIBSCHED_ENOMEM or
 * LIBSCHED_ESYSTEM.
 */
int catalog_file_read(char **text, size_t *length, const char *folder, const char *file,
                      size_t max_size, libsched_error *err);
void catalog_file_free(char *text);

/* A regular file opened for reading, and its size. `*fd` is the caller's. Messages name it as
 * `label`. Fails as above. */
int catalog_file_open(int *fd, uint64_t *size, const char *path, const char *label,
                      libsched_error *err);

/* Reads exactly `length` bytes at `offset`. A file that ends earlier is LIBSCHED_EBADMODEL. */
int catalog_file_read_at(int fd, void *to, size_t length, uint64_t offset, const char *label,
                         libsched_error *err);

/* "folder/file" in memory of its own (free()), or NULL. */
char *catalog_file_join(const char *folder, const char *file);

#ifdef __cplusplus
}
#endif

#endif
