/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train_data.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/json.h"

/* An example, and nothing that nests much. */
#define LINE_DEPTH 8

struct reading {
    struct train_data *data;
    const char *name; /* the file's, for messages */
    uint32_t capacity;
    size_t used;                  /* of data->bytes, which is as large as the file */
    struct encoder_label *labels; /* of each example */
    uint32_t line;
    libsched_error *err;
};

static int refuse(const struct reading *r, const char *what)
{
    return libsched_error_set(r->err, LIBSCHED_EINVAL, "train: %s, line %" PRIu32 ": %s", r->name,
                              r->line, what);
}

static bool reserve(struct reading *r)
{
    struct train_data *data = r->data;
    uint32_t capacity = r->capacity > 0 ? 2 * r->capacity : 1024;
    struct train_example *examples;
    struct encoder_label *labels;

    if (data->n < r->capacity)
        return true;
    examples = realloc(data->examples, capacity * sizeof(*examples));
    if (examples == NULL)
        return false;
    data->examples = examples;
    labels = realloc(r->labels, capacity * sizeof(*labels));
    if (labels == NULL)
        return false;
    r->labels = labels;
    r->capacity = capacity;
    return true;
}

/* A text in a line is never longer than the line, nor are its label's digits. */
static const char *keep(struct reading *r, const char *text, size_t length)
{
    char *to = r->data->bytes + r->used;

    memcpy(to, text, length);
    r->used += length;
    return to;
}

static int add(struct reading *r, const json_t *object)
{
    const json_t *text = json_object_get(object, "text"), *label = json_object_get(object, "label");
    struct train_data *data = r->data;
    char digits[24];
    const char *label_text = digits;
    size_t label_length;

    if (!json_is_string(text))
        return refuse(r, "\"text\" is missing or not a string");
    if (json_is_string(label)) {
        label_text = json_string_value(label);
        label_length = json_string_length(label);
    } else if (json_is_integer(label)) {
        label_length = (size_t)snprintf(digits, sizeof(digits), "%" JSON_INTEGER_FORMAT,
                                        json_integer_value(label));
    } else {
        return refuse(r, "\"label\" is missing, or neither a string nor an integer");
    }
    if (label_length == 0 || label_length > TRAIN_MAX_LABEL)
        return refuse(r, "a label has to have 1 to 256 bytes");
    if (!reserve(r))
        return libsched_error_set(r->err, LIBSCHED_ENOMEM, "no memory for the examples");
    data->examples[data->n].length = (uint32_t)json_string_length(text);
    data->examples[data->n].text = keep(r, json_string_value(text), json_string_length(text));
    r->labels[data->n].length = (uint32_t)label_length;
    r->labels[data->n].text = keep(r, label_text, label_length);
    data->n++;
    return LIBSCHED_OK;
}

static int read_line(struct reading *r, const char *line, size_t length)
{
    json_t *object;
    char where[CATALOG_QUOTE_SIZE];
    libsched_error cause;
    int status;

    if (strspn(line, " \t\r") >= length)
        return LIBSCHED_OK;
    snprintf(where, sizeof(where), "line %" PRIu32, r->line);
    status = catalog_json_parse(&object, line, length, LINE_DEPTH, where, &cause);
    if (status == LIBSCHED_ENOMEM)
        return libsched_error_set(r->err, status, "%s", cause.message);
    if (status != LIBSCHED_OK)
        return libsched_error_set(r->err, LIBSCHED_EINVAL, "train: %s, %s", r->name, cause.message);
    status = add(r, object);
    json_decref(object);
    return status;
}

static int read_lines(struct reading *r, const char *text, size_t length)
{
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && length > 0) {
        const char *end = memchr(text, '\n', length);
        size_t line = end != NULL ? (size_t)(end - text) : length;

        r->line++;
        status = read_line(r, text, line);
        line += end != NULL;
        text += line;
        length -= line;
    }
    return status;
}

/* -------------------------------------------------------------------------------------- classes */

static int compare(const void *a, const void *b)
{
    const struct encoder_label *x = a, *y = b;
    const uint32_t shorter = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, shorter);

    return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

/* The classes are the labels that occur, in an order that does not depend on the file's. */
static int find_classes(struct reading *r)
{
    struct train_data *data = r->data;
    uint32_t n = 0;

    data->classes = malloc((data->n + (size_t)1) * sizeof(*data->classes));
    if (data->classes == NULL)
        return libsched_error_set(r->err, LIBSCHED_ENOMEM, "no memory for the classes");
    if (data->n > 0) {
        memcpy(data->classes, r->labels, data->n * sizeof(*data->classes));
        qsort(data->classes, data->n, sizeof(*data->classes), compare);
    }
    for (uint32_t i = 0; i < data->n; i++)
        if (i == 0 || compare(&data->classes[i], &data->classes[n - 1]) != 0)
            data->classes[n++] = data->classes[i];
    data->n_classes = n;
    if (n < 2 || n > TRAIN_MAX_CLASSES)
        return libsched_error_set(r->err, LIBSCHED_EINVAL,
                                  "train: %s has %" PRIu32 " examples with %" PRIu32
                                  " different labels: 2 to %u are needed",
                                  r->name, data->n, n, TRAIN_MAX_CLASSES);
    for (uint32_t i = 0; i < data->n; i++) {
        const struct encoder_label *found =
            bsearch(&r->labels[i], data->classes, n, sizeof(*found), compare);
        data->examples[i].label = (uint32_t)(found - data->classes);
    }
    return LIBSCHED_OK;
}

int train_data_read(struct train_data *out, const char *path, libsched_error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    struct reading r = {.data = out, .name = name, .err = err};
    char *folder = strndup(path, (size_t)(name - path));
    char *text = NULL;
    size_t length = 0;
    libsched_error cause = {0};
    int status;

    memset(out, 0, sizeof(*out));
    if (folder == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a path");
    status = catalog_file_read(&text, &length, folder, name, TRAIN_MAX_FILE, &cause);
    free(folder);
    if (status != LIBSCHED_OK)
        return libsched_error_set(err, status == LIBSCHED_EBADMODEL ? LIBSCHED_EINVAL : status,
                                  "train: \"data\": %s", cause.message);
    out->bytes = malloc(length + 1);
    if (out->bytes == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the examples");
    if (status == LIBSCHED_OK)
        status = read_lines(&r, text, length);
    if (status == LIBSCHED_OK)
        status = find_classes(&r);
    catalog_file_free(text);
    free(r.labels);
    if (status != LIBSCHED_OK)
        train_data_free(out);
    return status;
}

void train_data_free(struct train_data *data)
{
    free(data->examples);
    free(data->classes);
    free(data->bytes);
    memset(data, 0, sizeof(*data));
}
