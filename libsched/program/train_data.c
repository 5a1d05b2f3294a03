/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train_data.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program/lines.h"

struct reading {
    struct train_data *data;
    struct lines lines;
    uint32_t capacity;
    size_t used;                  /* of data->bytes, which is as large as the file */
    struct encoder_label *labels; /* of each example */
    libsched_error *err;
};

static int refuse(const struct reading *r, const char *what)
{
    return lines_refuse(&r->lines, what, r->err);
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
                                  r->lines.name, data->n, n, TRAIN_MAX_CLASSES);
    for (uint32_t i = 0; i < data->n; i++) {
        const struct encoder_label *found =
            bsearch(&r->labels[i], data->classes, n, sizeof(*found), compare);
        data->examples[i].label = (uint32_t)(found - data->classes);
    }
    return LIBSCHED_OK;
}

int train_data_read(struct train_data *out, const char *path, libsched_error *err)
{
    struct reading r = {.data = out, .err = err};
    int status = lines_open(&r.lines, "train", "data", path, err);

    memset(out, 0, sizeof(*out));
    if (status != LIBSCHED_OK)
        return status;
    out->bytes = malloc(r.lines.length + 1);
    if (out->bytes == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the examples");
    while (status == LIBSCHED_OK && lines_next(&r.lines)) {
        json_t *object;
        if (lines_is_blank(&r.lines))
            continue;
        status = lines_parse(&r.lines, &object, err);
        if (status == LIBSCHED_OK) {
            status = add(&r, object);
            json_decref(object);
        }
    }
    if (status == LIBSCHED_OK)
        status = find_classes(&r);
    lines_close(&r.lines);
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
