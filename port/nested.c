/* SPDX-License-Identifier: Apache-2.0 */
#include "nested.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "decode.h"
#include "element.h"

struct walk {
    struct nested *tensor;
    uint32_t at[LIBSCHED_MAX_RANK]; /* the indices of the value at hand */
    uint8_t *out;                   /* where the next element goes; NULL while measuring */
    libsched_error *err;
};

/* "inputs.ids[3][0]", for the value at hand `level` levels down. */
static const char *path_of(const struct walk *w, uint32_t level, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "%s", w->tensor->path);
    for (uint32_t i = 0; i < level && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "[%" PRIu32 "]", w->at[i]);
    return out;
}

static int refuse_row(const struct walk *w, uint32_t level, const msgpack_object *row)
{
    char path[160];
    const struct nested *t = w->tensor;
    path_of(w, level, path, sizeof(path));
    if (row->type != MSGPACK_OBJECT_ARRAY)
        return libsched_error_set(w->err, LIBSCHED_EINVAL,
                                  "%s: %s, where the rows before are arrays of %" PRId64, path,
                                  decode_kind(row), t->shape[level]);
    return libsched_error_set(w->err, LIBSCHED_EINVAL,
                              "%s: %" PRIu32 " elements, the rows before have %" PRId64, path,
                              row->via.array.size, t->shape[level]);
}

static int refuse_element(const struct walk *w, uint32_t level, const msgpack_object *value)
{
    char path[160], why[96];
    path_of(w, level, path, sizeof(path));
    if (value->type == MSGPACK_OBJECT_ARRAY)
        return libsched_error_set(w->err, LIBSCHED_EINVAL,
                                  "%s: an array, where the rows before have no further dimension",
                                  path);
    if (w->tensor->datatype == LIBSCHED_BYTES)
        snprintf(why, sizeof(why), "%s, where a string is expected", decode_kind(value));
    else
        element_refusal(w->tensor->datatype, value, why, sizeof(why));
    return libsched_error_set(w->err, LIBSCHED_EINVAL, "%s: %s", path, why);
}

static int bytes_row(struct walk *w, uint32_t level, const msgpack_object *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct text text;
        if (!decode_text(&values[i], &text)) {
            if (level > 0)
                w->at[level - 1] = i;
            return refuse_element(w, level, &values[i]);
        }
        if (w->out == NULL) {
            w->tensor->size += 4 + (uint64_t)text.size;
            continue;
        }
        uint8_t length[4] = {(uint8_t)text.size, (uint8_t)(text.size >> 8),
                             (uint8_t)(text.size >> 16), (uint8_t)(text.size >> 24)};
        memcpy(w->out, length, 4);
        if (text.size > 0)
            memcpy(w->out + 4, text.data, text.size);
        w->out += 4 + (size_t)text.size;
    }
    return LIBSCHED_OK;
}

/* A row of elements: `level` levels down, of which the last counts them. */
static int element_row(struct walk *w, uint32_t level, const msgpack_object *values, uint32_t n)
{
    if (w->tensor->datatype == LIBSCHED_BYTES)
        return bytes_row(w, level, values, n);
    if (w->out == NULL)
        return LIBSCHED_OK;
    uint32_t done = element_write_row(w->tensor->datatype, values, n, w->out);
    if (done < n) {
        if (level > 0)
            w->at[level - 1] = done;
        return refuse_element(w, level, &values[done]);
    }
    w->out += n * libsched_datatype_size(w->tensor->datatype);
    return LIBSCHED_OK;
}

static int walk_row(struct walk *w, uint32_t level, const msgpack_object *row)
{
    const struct nested *t = w->tensor;
    if (row->type != MSGPACK_OBJECT_ARRAY || (int64_t)row->via.array.size != t->shape[level])
        return refuse_row(w, level, row);
    const msgpack_object *values = row->via.array.ptr;
    uint32_t n = row->via.array.size;
    if (level + 1 == t->rank)
        return element_row(w, level + 1, values, n);
    for (uint32_t i = 0; i < n; i++) {
        w->at[level] = i;
        int rc = walk_row(w, level + 1, &values[i]);
        if (rc < 0)
            return rc;
    }
    return LIBSCHED_OK;
}

static int walk_tensor(struct walk *w)
{
    const struct nested *t = w->tensor;
    return t->rank == 0 ? element_row(w, 0, t->value, 1) : walk_row(w, 0, t->value);
}

int nested_measure(struct nested *out, const char *path, const msgpack_object *value,
                   uint32_t datatype, libsched_error *err)
{
    *out = (struct nested){.path = path, .value = value, .datatype = datatype};

    for (const msgpack_object *o = value; o->type == MSGPACK_OBJECT_ARRAY; o = o->via.array.ptr) {
        if (out->rank == LIBSCHED_MAX_RANK)
            return libsched_error_set(err, LIBSCHED_EINVAL, "%s: more than %d dimensions", path,
                                      LIBSCHED_MAX_RANK);
        out->shape[out->rank++] = o->via.array.size;
        if (o->via.array.size == 0)
            break;
    }
    struct walk w = {.tensor = out, .err = err};
    int rc = walk_tensor(&w);
    if (rc < 0 || datatype == LIBSCHED_BYTES)
        return rc;
    /* Every element is a value of the frame, so this cannot overflow. */
    out->size =
        (uint64_t)libsched_shape_elements(out->shape, out->rank) * libsched_datatype_size(datatype);
    return LIBSCHED_OK;
}

int nested_write(const struct nested *nested, void *out, libsched_error *err)
{
    struct nested copy = *nested;
    struct walk w = {.tensor = &copy, .out = out, .err = err};
    return walk_tensor(&w);
}
