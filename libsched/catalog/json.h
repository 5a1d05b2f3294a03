/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON files of a model, read with distrust: size and nesting are limited before anything is
 * parsed, duplicate keys are refused, and what is wrong is said with the file and the key.
 *
 * Every function that fails answers LIBSCHED_EBADMODEL (or LIBSCHED_ENOMEM, LIBSCHED_ESYSTEM)
 * with a message. `file` is the name that messages give the file.
 */
#ifndef CATALOG_JSON_H
#define CATALOG_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Enough for any manifest or configuration. */
#define CATALOG_JSON_MAX_SIZE ((size_t)1 << 20)
#define CATALOG_JSON_MAX_DEPTH 16

/* The object in `length` bytes of text. `*out` is the caller's, to be released with
 * json_decref(). */
int catalog_json_parse(json_t **out, const char *text, size_t length, unsigned max_depth,
                       const char *file, libsched_error *err);

/* The object in the file `file`, relative to `folder`. */
int catalog_json_load(json_t **out, const char *folder, const char *file, size_t max_size,
                      libsched_error *err);

/* The same for a file that need not be there: then `*out` is NULL, and that is no error. */
int catalog_json_load_optional(json_t **out, const char *folder, const char *file, size_t max_size,
                               libsched_error *err);

/* The same for a file that holds an array. */
int catalog_json_load_optional_array(json_t **out, const char *folder, const char *file,
                                     size_t max_size, libsched_error *err);

/*
 * A member of an object, checked. Where the key is absent or null, `*inout` keeps what it holds;
 * catalog_json_require() beforehand makes a key obligatory. A NULL object has no keys.
 */
int catalog_json_require(const json_t *object, const char *file, const char *key,
                         libsched_error *err);
int catalog_json_uint(const json_t *object, const char *file, const char *key, uint64_t min,
                      uint64_t max, uint64_t *inout, libsched_error *err);
int catalog_json_real(const json_t *object, const char *file, const char *key, double min,
                      double max, double *inout, libsched_error *err);
int catalog_json_bool(const json_t *object, const char *file, const char *key, bool *inout,
                      libsched_error *err);
/* `*inout` points into the object. */
int catalog_json_string(const json_t *object, const char *file, const char *key, const char **inout,
                        libsched_error *err);

/* Refuses a key that is not in `known`, a NULL-terminated list. */
int catalog_json_only(const json_t *object, const char *file, const char *const *known,
                      libsched_error *err);

/* The bytes catalog_quote() writes, its NUL included. */
#define CATALOG_QUOTE_SIZE 80

/* A text from a file, fit for a message: control characters as '?', cut with "..." between
 * characters where it is long. Returns `out`. */
const char *catalog_quote(char out[CATALOG_QUOTE_SIZE], const char *text);

#ifdef __cplusplus
}
#endif

#endif
