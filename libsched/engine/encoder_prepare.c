/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prepare: texts become token ids, token ids are checked, and both become what a step takes: `ids`,
 * INT32 [tokens], the sequences one after the other, and `lengths`, INT32 [n].
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/encoder_internal.h"

/* A text over the limit is counted up to so many tokens, to say by how much it is over. */
#define COUNT_LIMIT 65536

/* The sequences of one item, gathered. */
struct sequences {
    int32_t *ids, *lengths;
    uint64_t n_ids, n_lengths;
    uint64_t room_ids, room_lengths;
    uint64_t units;
};

static void free_sequences(struct sequences *s)
{
    free(s->ids);
    free(s->lengths);
}

/* Room for `more` elements behind the n of an array. */
static int reserve(int32_t **array, uint64_t *room, uint64_t n, uint64_t more, libsched_error *err)
{
    uint64_t wanted = n + more > 2 * *room ? n + more : 2 * *room;
    int32_t *larger;

    if (n + more <= *room)
        return LIBSCHED_OK;
    larger = realloc(*array, wanted * sizeof(**array));
    if (larger == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %" PRIu64 " tokens", wanted);
    *array = larger;
    *room = wanted;
    return LIBSCHED_OK;
}

/* Takes the `length` ids that lie behind s->n_ids as a sequence. */
static int add_sequence(const libsched_engine_model *model, struct sequences *s, uint32_t length,
                        libsched_error *err)
{
    int status = reserve(&s->lengths, &s->room_lengths, s->n_lengths, 1, err);

    if (status != LIBSCHED_OK)
        return status;
    s->lengths[s->n_lengths++] = (int32_t)length;
    s->n_ids += length;
    s->units += encoder_sequence_units(&model->config, length);
    if (s->units > model->options.max_request_units)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "the first %" PRIu64 " sequences are %" PRIu64
                                  " units of work, a request may have %" PRIu64
                                  ": send them in several",
                                  s->n_lengths, s->units, model->options.max_request_units);
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- texts */

/* The message for a text that is too long, with its tokens counted. */
static int refuse_length(const libsched_engine_model *model, struct tokenizer_scratch *scratch,
                         uint64_t index, const char *text, size_t length, libsched_error *err)
{
    const uint32_t limit = length + 2 < COUNT_LIMIT ? (uint32_t)length + 2 : COUNT_LIMIT;
    int32_t *ids = malloc(limit * sizeof(*ids));
    uint32_t n = 0;
    bool truncated = true;

    if (ids != NULL && tokenizer_encode(model->tokenizer, scratch, text, length, limit, ids, &n,
                                        &truncated, NULL) != LIBSCHED_OK)
        truncated = true;
    free(ids);
    return libsched_error_set(err, LIBSCHED_ETOOBIG,
                              "text %" PRIu64 " has %s%" PRIu32 " tokens, the limit is %" PRIu32
                              ": shorten it, or leave \"truncate\" at true",
                              index, truncated ? "more than " : "",
                              truncated && n == 0 ? model->options.max_length : n,
                              model->options.max_length);
}

static int add_text(const libsched_engine_model *model, struct tokenizer_scratch *scratch,
                    struct sequences *s, uint64_t index, const char *text, size_t length,
                    bool truncate, libsched_error *err)
{
    libsched_error detail = {0};
    uint32_t n;
    bool truncated;
    int status = reserve(&s->ids, &s->room_ids, s->n_ids, model->options.max_length, err);

    if (status != LIBSCHED_OK)
        return status;
    status = tokenizer_encode(model->tokenizer, scratch, text, length, model->options.max_length,
                              s->ids + s->n_ids, &n, &truncated, &detail);
    if (status != LIBSCHED_OK)
        return libsched_error_set(err, status, "text %" PRIu64 ": %s", index, detail.message);
    if (truncated && !truncate)
        return refuse_length(model, scratch, index, text, length, err);
    return add_sequence(model, s, n, err);
}

static int add_texts(const libsched_engine_model *model, struct tokenizer_scratch *scratch,
                     struct sequences *s, const libsched_tensor *texts, bool truncate,
                     libsched_error *err)
{
    const unsigned char *at = texts->data;
    uint64_t left = texts->size;
    int status = LIBSCHED_OK;

    if (texts->datatype != LIBSCHED_BYTES || texts->rank != 1)
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "\"text\" has to be BYTES with one dimension, got %s with %" PRIu32,
            libsched_datatype_name(texts->datatype), texts->rank);
    for (uint64_t i = 0; status == LIBSCHED_OK && left > 0; i++) {
        uint64_t length;

        if (left < 4)
            return libsched_error_set(err, LIBSCHED_EINVAL, "text %" PRIu64 " is cut short", i);
        length =
            (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24;
        if (length > left - 4)
            return libsched_error_set(err, LIBSCHED_EINVAL, "text %" PRIu64 " is cut short", i);
        status = add_text(model, scratch, s, i, (const char *)at + 4, length, truncate, err);
        at += 4 + length;
        left -= 4 + length;
    }
    return status;
}

/* ----------------------------------------------------------------------------------- token ids */

/* Element i of an INT32 or INT64 tensor. */
static int64_t integer_at(const libsched_tensor *t, uint64_t i)
{
    return t->datatype == LIBSCHED_INT64 ? ((const int64_t *)t->data)[i]
                                         : ((const int32_t *)t->data)[i];
}

static int check_ids(const libsched_tensor *ids, const libsched_tensor *mask, libsched_error *err)
{
    if ((ids->datatype != LIBSCHED_INT32 && ids->datatype != LIBSCHED_INT64) || ids->rank != 2)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"input_ids\" has to be INT32 or INT64 with two dimensions, got "
                                  "%s with %" PRIu32,
                                  libsched_datatype_name(ids->datatype), ids->rank);
    if (mask == NULL)
        return LIBSCHED_OK;
    if ((mask->datatype != LIBSCHED_INT32 && mask->datatype != LIBSCHED_INT64) || mask->rank != 2)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"attention_mask\" has to be INT32 or INT64 with two "
                                  "dimensions, got %s with %" PRIu32,
                                  libsched_datatype_name(mask->datatype), mask->rank);
    if (mask->shape[0] != ids->shape[0] || mask->shape[1] != ids->shape[1])
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"attention_mask\" is [%" PRId64 ", %" PRId64
                                  "], \"input_ids\" [%" PRId64 ", %" PRId64
                                  "]: they have to be alike",
                                  mask->shape[0], mask->shape[1], ids->shape[0], ids->shape[1]);
    return LIBSCHED_OK;
}

/* The tokens of a row that count: all, or the ones that its mask begins with. */
static int row_length(const libsched_tensor *mask, uint64_t row, uint64_t columns, uint64_t *out,
                      libsched_error *err)
{
    uint64_t n = 0;

    if (mask == NULL)
        n = columns;
    while (n < columns && integer_at(mask, row * columns + n) == 1)
        n++;
    for (uint64_t c = n; c < columns; c++)
        if (integer_at(mask, row * columns + c) != 0)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "row %" PRIu64 " of \"attention_mask\" has to be ones and "
                                      "then zeros, got %" PRId64 " in column %" PRIu64,
                                      row, integer_at(mask, row * columns + c), c);
    if (n == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "row %" PRIu64 " has no tokens", row);
    *out = n;
    return LIBSCHED_OK;
}

static int add_row(const libsched_engine_model *model, struct sequences *s,
                   const libsched_tensor *ids, uint64_t row, uint64_t columns, uint64_t length,
                   libsched_error *err)
{
    int status;

    if (length > model->options.max_length)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "row %" PRIu64 " has %" PRIu64 " tokens, the limit is %" PRIu32
                                  ": token ids are not cut",
                                  row, length, model->options.max_length);
    status = reserve(&s->ids, &s->room_ids, s->n_ids, length, err);
    if (status != LIBSCHED_OK)
        return status;
    for (uint64_t c = 0; c < length; c++) {
        int64_t id = integer_at(ids, row * columns + c);
        if (id < 0 || id >= model->config.vocabulary)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "id %" PRId64 " in row %" PRIu64 ", column %" PRIu64
                                      " is not in the vocabulary of %" PRIu32,
                                      id, row, c, model->config.vocabulary);
        s->ids[s->n_ids + c] = (int32_t)id;
    }
    return add_sequence(model, s, (uint32_t)length, err);
}

static int add_rows(const libsched_engine_model *model, struct sequences *s,
                    const libsched_tensor *ids, const libsched_tensor *mask, libsched_error *err)
{
    int status = check_ids(ids, mask, err);

    for (uint64_t row = 0; status == LIBSCHED_OK && row < (uint64_t)ids->shape[0]; row++) {
        const uint64_t columns = (uint64_t)ids->shape[1];
        uint64_t length = 0;

        status = row_length(mask, row, columns, &length, err);
        if (status == LIBSCHED_OK)
            status = add_row(model, s, ids, row, columns, length, err);
    }
    return status;
}

/* ------------------------------------------------------------------------------------- an item */

static int read_item(const libsched_engine_model *model, struct tokenizer_scratch *scratch,
                     struct sequences *s, const libsched_item *item, libsched_error *err)
{
    const libsched_tensor *texts = encoder_input(item, "text");
    const libsched_tensor *ids = encoder_input(item, "input_ids");
    const libsched_tensor *mask = encoder_input(item, "attention_mask");
    struct encoder_request request;
    int status = encoder_request_read(&request, model, item, err);

    if (status != LIBSCHED_OK)
        return status;
    if ((texts != NULL) == (ids != NULL))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "an encoder takes either \"text\" or \"input_ids\", got %s",
                                  texts != NULL ? "both" : "neither");
    if (texts != NULL && mask != NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"attention_mask\" goes with \"input_ids\", not with \"text\"");
    if (texts != NULL)
        return add_texts(model, scratch, s, texts, request.truncate, err);
    return add_rows(model, s, ids, mask, err);
}

/* A vector of INT32 among the item's outputs. False where the item ended for want of room. */
static bool write_vector(libsched_engine_batch *batch, const libsched_engine_host *host,
                         libsched_item *item, const char *name, const int32_t *values, uint64_t n)
{
    const int64_t shape = (int64_t)n;
    const uint64_t size = n * sizeof(*values);
    void *to = host->output(batch->host, item, name, LIBSCHED_INT32, 1, &shape, size);

    if (to != NULL && size > 0)
        memcpy(to, values, size);
    return to != NULL;
}

static void prepare_item(const libsched_engine_model *model, struct tokenizer_scratch *scratch,
                         libsched_engine_batch *batch, const libsched_engine_host *host,
                         libsched_item *item)
{
    struct sequences s = {0};
    libsched_error err = {0};
    int status = read_item(model, scratch, &s, item, &err);

    if (status != LIBSCHED_OK) {
        host->end(batch->host, item, status, err.message);
    } else if (write_vector(batch, host, item, "ids", s.ids, s.n_ids) &&
               write_vector(batch, host, item, "lengths", s.lengths, s.n_lengths)) {
        /* An empty list of texts is work as well: an answer. */
        item->units = s.units > 0 ? s.units : 1;
        host->end(batch->host, item, LIBSCHED_OK, NULL);
    }
    free_sequences(&s);
}

int encoder_prepare(libsched_engine_model *model, libsched_engine_batch *batch,
                    const libsched_engine_host *host, libsched_error *err)
{
    struct tokenizer_scratch *scratch;
    int status = tokenizer_scratch_open(&scratch, model->tokenizer, err);

    if (status != LIBSCHED_OK)
        return status;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        if (batch->items[i]->cancelled)
            host->end(batch->host, batch->items[i], LIBSCHED_ECANCELED, "cancelled");
        else
            prepare_item(model, scratch, batch, host, batch->items[i]);
    }
    tokenizer_scratch_close(scratch);
    return LIBSCHED_OK;
}
