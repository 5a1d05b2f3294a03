/* SPDX-License-Identifier: Apache-2.0 */
#include "program/embed_data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "program/lines.h"

/* [CLS] and [SEP]. */
#define SPECIAL_TOKENS 2
#define BYTES_PER_TOKEN 4

struct reading {
    struct embed_data *data;
    struct lines lines;
    bool json;
    uint32_t capacity;
    size_t used_bytes; /* of data->bytes, which is as large as the file */
    size_t used_ids;   /* of data->ids: an id takes two bytes of the file at least */
    libsched_error *err;
};

static int no_memory(const struct reading *r)
{
    return libsched_error_set(r->err, LIBSCHED_ENOMEM, "no memory for the texts");
}

/* Room for one more text. */
static bool reserve(struct reading *r)
{
    struct embed_data *data = r->data;
    const uint32_t capacity = r->capacity > 0 ? 2 * r->capacity : 1024;
    struct embedder_text *texts;
    uint32_t *lines;

    if (data->n < r->capacity)
        return true;
    texts = realloc(data->texts, capacity * sizeof(*texts));
    if (texts == NULL)
        return false;
    data->texts = texts;
    lines = realloc(data->lines, capacity * sizeof(*lines));
    if (lines == NULL)
        return false;
    data->lines = lines;
    r->capacity = capacity;
    return true;
}

static int add(struct reading *r, struct embedder_text text)
{
    if (!reserve(r))
        return no_memory(r);
    r->data->texts[r->data->n] = text;
    r->data->lines[r->data->n] = r->lines.number;
    r->data->n++;
    return LIBSCHED_OK;
}

/* A text in a line is never longer than the line. */
static int add_text(struct reading *r, const char *text, size_t length)
{
    char *to = r->data->bytes + r->used_bytes;

    memcpy(to, text, length);
    r->used_bytes += length;
    return add(r, (struct embedder_text){.text = to, .length = (uint32_t)length});
}

static int add_ids(struct reading *r, const json_t *list)
{
    const size_t n = json_array_size(list);
    int32_t *to = r->data->ids + r->used_ids;

    if (n == 0)
        return lines_refuse(&r->lines, "\"input_ids\" is empty", r->err);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return lines_refuse(&r->lines, "\"input_ids\" has to be a list of token ids", r->err);
        to[i] = (int32_t)json_integer_value(id);
    }
    r->used_ids += n;
    return add(r, (struct embedder_text){.ids = to, .length = (uint32_t)n});
}

static int add_object(struct reading *r)
{
    const json_t *text, *ids;
    json_t *object;
    int status = lines_parse(&r->lines, &object, r->err);

    if (status != LIBSCHED_OK)
        return status;
    text = json_object_get(object, "text");
    ids = json_object_get(object, "input_ids");
    if ((text != NULL) == (ids != NULL))
        status = lines_refuse(&r->lines, "either \"text\" or \"input_ids\" is needed", r->err);
    else if (text != NULL && !json_is_string(text))
        status = lines_refuse(&r->lines, "\"text\" is not a string", r->err);
    else if (text != NULL)
        status = add_text(r, json_string_value(text), json_string_length(text));
    else if (!json_is_array(ids))
        status = lines_refuse(&r->lines, "\"input_ids\" is not a list", r->err);
    else
        status = add_ids(r, ids);
    json_decref(object);
    return status;
}

static int read_all(struct reading *r)
{
    struct embed_data *data = r->data;
    int status = LIBSCHED_OK;

    data->name = strdup(r->lines.name);
    data->bytes = malloc(r->lines.length + 1);
    data->ids = malloc((r->json ? r->lines.length / 2 + 1 : 1) * sizeof(*data->ids));
    if (data->name == NULL || data->bytes == NULL || data->ids == NULL)
        return no_memory(r);
    while (status == LIBSCHED_OK && lines_next(&r->lines)) {
        if (!r->json)
            status = add_text(r, r->lines.line, r->lines.line_length);
        else if (!lines_is_blank(&r->lines))
            status = add_object(r);
    }
    if (status == LIBSCHED_OK && data->n == 0)
        status = libsched_error_set(r->err, LIBSCHED_EINVAL, "embed: \"input\": %s has no texts",
                                    data->name);
    return status;
}

static bool ends_in(const char *text, const char *end)
{
    const size_t a = strlen(text), b = strlen(end);

    return a >= b && strcmp(text + a - b, end) == 0;
}

int embed_data_read(struct embed_data *out, const char *path, libsched_error *err)
{
    struct reading r = {.data = out, .json = ends_in(path, ".jsonl"), .err = err};
    int status = lines_open(&r.lines, "embed", "input", path, err);

    memset(out, 0, sizeof(*out));
    if (status != LIBSCHED_OK)
        return status;
    status = read_all(&r);
    lines_close(&r.lines);
    if (status != LIBSCHED_OK)
        embed_data_free(out);
    return status;
}

void embed_data_free(struct embed_data *data)
{
    free(data->name);
    free(data->texts);
    free(data->lines);
    free(data->bytes);
    free(data->ids);
    free(data->batches);
    memset(data, 0, sizeof(*data));
}

/* -------------------------------------------------------------------------------------- batches */

static uint64_t guess_tokens(const struct embedder_text *text, uint64_t max_length)
{
    const uint64_t n = text->text == NULL
                           ? text->length
                           : SPECIAL_TOKENS + (uint64_t)text->length / BYTES_PER_TOKEN;

    return n < max_length ? n : max_length;
}

int embed_data_plan(struct embed_data *data, uint64_t tokens, uint64_t max_length,
                    libsched_error *err)
{
    uint64_t held = 0;

    data->n_batches = 0;
    data->most = 0;
    free(data->batches);
    data->batches = malloc((data->n + (size_t)1) * sizeof(*data->batches));
    if (data->batches == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the batches");
    for (uint32_t i = 0; i < data->n; i++) {
        const uint64_t more = guess_tokens(&data->texts[i], max_length);
        const uint32_t first = data->n_batches > 0 ? data->batches[data->n_batches - 1] : 0;

        if (i == 0 || held + more > tokens || i - first == EMBED_MAX_TEXTS) {
            data->batches[data->n_batches++] = i;
            held = 0;
        }
        held += more;
    }
    data->batches[data->n_batches] = data->n;
    for (uint32_t b = 0; b < data->n_batches; b++) {
        const uint32_t n = data->batches[b + 1] - data->batches[b];
        data->most = n > data->most ? n : data->most;
    }
    return LIBSCHED_OK;
}
