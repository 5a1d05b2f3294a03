/* SPDX-License-Identifier: Apache-2.0 */
/* A file that is read line by line: the input of a program. */
#ifndef PROGRAM_LINES_H
#define PROGRAM_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#include "catalog/json.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Larger files are refused. */
#define LINES_MAX_FILE ((size_t)64 << 20)

struct lines {
    const char *program, *name; /* for messages: "train", the file's without its folder */
    char *text;
    size_t length;
    /* The line that was had last. */
    const char *line;
    size_t line_length; /* without its end */
    uint32_t number;    /* from 1 on */
    size_t next;        /* where the next one begins */
};

/* Reads a file, which `option` of the program named. LIBSCHED_EINVAL: it is not there, not readable
 * or too large. `program` and `path` have to outlive the lines. */
int lines_open(struct lines *out, const char *program, const char *option, const char *path,
               libsched_error *err);
void lines_close(struct lines *lines);

/* Goes to the next line; false where there is none. */
bool lines_next(struct lines *lines);
/* Whether it is empty, or has nothing but spaces. */
bool lines_is_blank(const struct lines *lines);
/* The JSON object in it, which is the caller's. LIBSCHED_EINVAL names file and line. */
int lines_parse(const struct lines *lines, json_t **out, libsched_error *err);
/* LIBSCHED_EINVAL, with what is wrong in this line. */
int lines_refuse(const struct lines *lines, const char *what, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
