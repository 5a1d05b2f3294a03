/* SPDX-License-Identifier: Apache-2.0 */
#include "program/lines.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"

/* What is in a line, and nothing that nests much. */
#define LINE_DEPTH 8

int lines_open(struct lines *out, const char *program, const char *option, const char *path,
               libsched_error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    char *folder = strndup(path, (size_t)(name - path));
    libsched_error cause = {0};
    int status;

    *out = (struct lines){.program = program, .name = name};
    if (folder == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a path");
    status = catalog_file_read(&out->text, &out->length, folder, name, LINES_MAX_FILE, &cause);
    free(folder);
    if (status != LIBSCHED_OK)
        return libsched_error_set(err, status == LIBSCHED_EBADMODEL ? LIBSCHED_EINVAL : status,
                                  "%s: \"%s\": %s", program, option, cause.message);
    return LIBSCHED_OK;
}

void lines_close(struct lines *lines)
{
    catalog_file_free(lines->text);
    *lines = (struct lines){0};
}

bool lines_next(struct lines *lines)
{
    const size_t left = lines->length - lines->next;
    const char *end;

    if (left == 0)
        return false;
    lines->line = lines->text + lines->next;
    end = memchr(lines->line, '\n', left);
    lines->line_length = end != NULL ? (size_t)(end - lines->line) : left;
    lines->next += lines->line_length + (end != NULL);
    lines->number++;
    return true;
}

bool lines_is_blank(const struct lines *lines)
{
    /* What was read has a NUL behind it. */
    return strspn(lines->line, " \t\r") >= lines->line_length;
}

int lines_parse(const struct lines *lines, json_t **out, libsched_error *err)
{
    char where[CATALOG_QUOTE_SIZE];
    libsched_error cause;
    int status;

    snprintf(where, sizeof(where), "line %" PRIu32, lines->number);
    status = catalog_json_parse(out, lines->line, lines->line_length, LINE_DEPTH, where, &cause);
    if (status == LIBSCHED_OK)
        return LIBSCHED_OK;
    if (status == LIBSCHED_ENOMEM)
        return libsched_error_set(err, status, "%s", cause.message);
    return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %s, %s", lines->program, lines->name,
                              cause.message);
}

int lines_refuse(const struct lines *lines, const char *what, libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %s, line %" PRIu32 ": %s", lines->program,
                              lines->name, lines->number, what);
}
