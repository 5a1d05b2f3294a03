/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights in a .safetensors file: eight bytes with the length of a JSON header (little-endian),
 * the header, which gives each tensor's datatype, shape and place, and the data.
 *
 * Everything the header says is checked before the data is touched: the tensors have to lie inside
 * the file, as large as their shape and datatype say, aligned to their datatype, without overlap
 * and without a gap. What does not hold is LIBSCHED_EBADMODEL.
 *
 * The data is read into private memory, not mapped: a mapped file that somebody else truncates
 * kills the reader with SIGBUS. It costs the file's size in memory while the file is open; an
 * engine copies or packs its weights and closes the file, so that this does not last. No huge
 * model is served from the page cache this way, which is accepted.
 *
 * An open file does not change; any number of threads may read it.
 */
#ifndef CATALOG_SAFETENSORS_H
#define CATALOG_SAFETENSORS_H

#include <stddef.h>

#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the weights of a model are called in its folder. */
#define SAFETENSORS_WEIGHTS "model.safetensors"

/* Larger headers are refused. A tensor takes about 100 bytes of it. */
#define SAFETENSORS_MAX_HEADER ((uint64_t)16 << 20)

struct safetensors;

/* Opens a file. `*out` is the caller's, to be closed. */
int safetensors_open(struct safetensors **out, const char *path, libsched_error *err);
/* The same without the data, which is not read: each tensor's is NULL. */
int safetensors_open_header(struct safetensors **out, const char *path, libsched_error *err);
/* Frees the file and all that was had from it. NULL is allowed. */
void safetensors_close(struct safetensors *file);

/* The tensor of a name, or NULL. It lives as long as the file. Its name may be longer than
 * LIBSCHED_NAME_SIZE; its data is aligned to its datatype. */
const libsched_tensor *safetensors_find(const struct safetensors *file, const char *name);

/* All tensors, by name: index 0 to count - 1. */
size_t safetensors_count(const struct safetensors *file);
const libsched_tensor *safetensors_at(const struct safetensors *file, size_t index);

/*
 * Writes tensors to a new file, in their order; those of larger elements first, so that all are
 * aligned. It is on the disk when this returns; on failure there is no file. LIBSCHED_EINVAL: a
 * tensor that can't be; LIBSCHED_ESYSTEM: the file can't be made or written.
 */
int safetensors_write(const char *path, const libsched_tensor *tensors, size_t n,
                      libsched_error *err);

/*
 * The same for one tensor whose data comes piece by piece, so that it need not be in memory. Until
 * the end the file has another name, `path` with some letters behind it.
 */
struct safetensors_stream;

/* Begins a file. `tensor` says name, datatype, shape and size; its data is not looked at. */
int safetensors_stream_open(struct safetensors_stream **out, const char *path,
                            const libsched_tensor *tensor, libsched_error *err);
/* The next bytes. */
int safetensors_stream_write(struct safetensors_stream *stream, const void *data, uint64_t size,
                             libsched_error *err);
/* All is there: the file is on the disk, and has its name, when this returns LIBSCHED_OK.
 * LIBSCHED_EINVAL: it is not all there, or there is something of that name by now. */
int safetensors_stream_end(struct safetensors_stream *stream, libsched_error *err);
/* Frees it, and without an end before, removes the file. NULL is allowed. */
void safetensors_stream_close(struct safetensors_stream *stream);

/* "F32", or NULL for what such a file can't hold. */
const char *safetensors_dtype_name(uint32_t datatype);

#ifdef __cplusplus
}
#endif

#endif
