/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step: the sequences of all items, one after the other, cut into chunks of whole sequences.
 * An item ends as soon as its last chunk is done.
 *
 * What prepare() wrote lies in memory that another process can reach, so each length and id is
 * copied once, and the copy is checked.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/encoder_internal.h"

/* An item on its way through the step. */
struct run {
    libsched_item *item;
    const int32_t *ids;     /* not to be trusted */
    const int32_t *lengths; /* not to be trusted */
    uint64_t n_ids, n_sequences;
    uint64_t next_sequence, next_id; /* the first that is in no chunk yet */
    enum encoder_output kind;
    float *output; /* [n_sequences, hidden or classes], or [n_ids, hidden] of token states */
    bool ended;
};

/* The part of a chunk that belongs to one item. */
struct piece {
    struct run *run;
    uint64_t first_sequence, first_id; /* in the item */
    uint32_t chunk_sequence;           /* in the chunk */
    uint64_t chunk_token;
    uint64_t n_sequences, n_tokens;
};

struct step {
    libsched_engine_model *model;
    libsched_engine_batch *batch;
    const libsched_engine_host *host;
    struct run *runs;
    struct piece *pieces; /* of the chunk */
    uint32_t n_pieces;
    uint32_t n_sequences; /* in the chunk */
    uint64_t n_tokens;
    bool pool; /* some piece of the chunk wants embeddings */
};

static void end_run(struct step *step, struct run *run, int status, const char *message)
{
    step->host->end(step->batch->host, run->item, status, message);
    run->ended = true;
}

/* The names of the classes, once all scores are there. False where the item ended for want of
 * room. */
static bool make_labels(struct step *step, struct run *run)
{
    const struct encoder_head *head = step->model->head;
    const int64_t n = (int64_t)run->n_sequences;
    uint64_t size = 0;
    char *to;

    for (uint64_t i = 0; i < run->n_sequences; i++)
        size += sizeof(uint32_t) +
                head->labels[encoder_head_best(head, run->output + i * head->classes)].length;
    to = step->host->output(step->batch->host, run->item, "label", LIBSCHED_BYTES, 1, &n, size);
    run->ended = to == NULL;
    for (uint64_t i = 0; to != NULL && i < run->n_sequences; i++) {
        const struct encoder_label *label =
            &head->labels[encoder_head_best(head, run->output + i * head->classes)];
        memcpy(to, &label->length, sizeof(uint32_t));
        memcpy(to + sizeof(uint32_t), label->text, label->length);
        to += sizeof(uint32_t) + label->length;
    }
    return !run->ended;
}

/* After its last sequence, which has to have been its last id. */
static void end_last(struct step *step, struct run *run)
{
    if (run->next_id != run->n_ids)
        end_run(step, run, LIBSCHED_EINVAL, "there are more ids than the lengths add up to");
    else if (run->kind != ENCODER_SCORES || make_labels(step, run))
        end_run(step, run, LIBSCHED_OK, NULL);
}

/* ----------------------------------------------------------------------------------- beginning */

static int read_inputs(const libsched_engine_model *model, struct run *run, libsched_error *err)
{
    const libsched_tensor *ids = encoder_input(run->item, "ids");
    const libsched_tensor *lengths = encoder_input(run->item, "lengths");
    struct encoder_request request;
    int status = encoder_request_read(&request, model, run->item, err);

    if (status != LIBSCHED_OK)
        return status;
    if (ids == NULL || lengths == NULL || ids->datatype != LIBSCHED_INT32 ||
        lengths->datatype != LIBSCHED_INT32 || ids->rank != 1 || lengths->rank != 1)
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "a step takes what prepare() made: INT32 \"ids\" and \"lengths\"");
    run->kind = request.output;
    run->ids = ids->data;
    run->lengths = lengths->data;
    run->n_ids = ids->size / sizeof(int32_t);
    run->n_sequences = lengths->size / sizeof(int32_t);
    return LIBSCHED_OK;
}

/* Of its output. */
static uint64_t run_columns(const struct step *step, const struct run *run)
{
    return run->kind == ENCODER_SCORES ? step->model->head->classes : step->model->config.hidden;
}

/* Room for the answer. False where the item ended for want of it. */
static bool make_outputs(struct step *step, struct run *run)
{
    static const char *const names[] = {
        [ENCODER_EMBEDDING] = "embedding",
        [ENCODER_TOKEN_STATES] = "token_states",
        [ENCODER_SCORES] = "scores",
    };
    const uint64_t columns = run_columns(step, run);
    const uint64_t rows = run->kind == ENCODER_TOKEN_STATES ? run->n_ids : run->n_sequences;
    const int64_t shape[] = {(int64_t)rows, (int64_t)columns};
    const uint64_t size = rows * columns * sizeof(float);

    run->output = step->host->output(step->batch->host, run->item, names[run->kind], LIBSCHED_FP32,
                                     2, shape, size);
    if (run->output != NULL && run->kind == ENCODER_TOKEN_STATES) {
        const int64_t n = (int64_t)run->n_sequences;
        const uint64_t lengths_size = run->n_sequences * sizeof(int32_t);
        void *lengths = step->host->output(step->batch->host, run->item, "lengths", LIBSCHED_INT32,
                                           1, &n, lengths_size);
        if (lengths == NULL)
            run->output = NULL;
        else if (lengths_size > 0)
            memcpy(lengths, run->lengths, lengths_size);
    }
    run->ended = run->output == NULL;
    return !run->ended;
}

static void begin_run(struct step *step, struct run *run)
{
    libsched_error err = {0};
    int status = read_inputs(step->model, run, &err);

    if (status != LIBSCHED_OK) {
        end_run(step, run, status, err.message);
        return;
    }
    if (make_outputs(step, run) && run->n_sequences == 0)
        end_last(step, run);
}

/* --------------------------------------------------------------------------------- gathering */

/* Copies the next sequence of an item behind the chunk's last. LIBSCHED_EBUSY: no room, in the
 * next chunk then. */
static int take_sequence(struct step *step, struct run *run, libsched_error *err)
{
    struct encoder_scratch *s = &step->model->scratch;
    const int32_t length = *(const volatile int32_t *)&run->lengths[run->next_sequence];
    int32_t *to = s->ids + step->n_tokens;

    if (length < 1 || (uint32_t)length > step->model->options.max_length ||
        (uint64_t)length > run->n_ids - run->next_id)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "sequence %" PRIu64 " claims %" PRId32 " tokens, %" PRIu64
                                  " are left and %" PRIu32 " allowed",
                                  run->next_sequence, length, run->n_ids - run->next_id,
                                  step->model->options.max_length);
    if ((uint64_t)length > s->max_tokens - step->n_tokens)
        return LIBSCHED_EBUSY;
    memcpy(to, run->ids + run->next_id, (size_t)length * sizeof(*to));
    for (int32_t i = 0; i < length; i++)
        if (to[i] < 0 || (uint32_t)to[i] >= step->model->config.vocabulary)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "sequence %" PRIu64 ", token %" PRId32 ": id %" PRId32
                                      " is not in the vocabulary of %" PRIu32,
                                      run->next_sequence, i, to[i], step->model->config.vocabulary);
    run->next_sequence++;
    run->next_id += (uint64_t)length;
    step->n_tokens += (uint64_t)length;
    s->starts[++step->n_sequences] = (uint32_t)step->n_tokens;
    return LIBSCHED_OK;
}

/* Adds what fits of an item. False where the chunk is full. */
static bool take_run(struct step *step, struct run *run)
{
    libsched_error err = {0};
    struct piece piece = {
        .run = run,
        .first_sequence = run->next_sequence,
        .first_id = run->next_id,
        .chunk_sequence = step->n_sequences,
        .chunk_token = step->n_tokens,
    };
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && run->next_sequence < run->n_sequences)
        status = take_sequence(step, run, &err);
    if (status != LIBSCHED_OK && status != LIBSCHED_EBUSY) {
        /* What it has in this chunk already is computed for nothing. */
        end_run(step, run, status, err.message);
        return true;
    }
    piece.n_sequences = run->next_sequence - piece.first_sequence;
    piece.n_tokens = run->next_id - piece.first_id;
    if (piece.n_sequences > 0) {
        step->pieces[step->n_pieces++] = piece;
        step->pool |= run->kind != ENCODER_TOKEN_STATES;
    }
    return status == LIBSCHED_OK;
}

/* The next chunk, of the runs from `*at` on. */
static void gather(struct step *step, uint32_t *at)
{
    step->n_pieces = 0;
    step->n_sequences = 0;
    step->n_tokens = 0;
    step->pool = false;
    step->model->scratch.starts[0] = 0;
    for (; *at < step->batch->n_items; (*at)++) {
        struct run *run = &step->runs[*at];

        if (!run->ended && run->item->cancelled)
            end_run(step, run, LIBSCHED_ECANCELED, "cancelled");
        if (!run->ended && run->output == NULL)
            begin_run(step, run);
        if (!run->ended && !take_run(step, run))
            return;
    }
}

/* ------------------------------------------------------------------------------------- a chunk */

static int download(struct step *step, const struct piece *piece, libsched_error *err)
{
    libsched_device *device = step->model->device;
    const uint64_t hidden = step->model->config.hidden;
    float *embeddings = piece->run->kind == ENCODER_SCORES
                            ? step->model->head_input + piece->chunk_sequence * hidden
                            : piece->run->output + piece->first_sequence * hidden;

    if (piece->run->kind == ENCODER_TOKEN_STATES)
        return device->driver->download(device, step->model->scratch.states, piece->chunk_token,
                                        piece->n_tokens,
                                        piece->run->output + piece->first_id * hidden, err);
    return device->driver->download(device, step->model->scratch.pooled, piece->chunk_sequence,
                                    piece->n_sequences, embeddings, err);
}

static int compute(struct step *step, libsched_error *err)
{
    libsched_device *device = step->model->device;
    int status = encoder_forward(step->model, step->n_sequences, step->pool, err);

    for (uint32_t i = 0; status == LIBSCHED_OK && i < step->n_pieces; i++)
        if (!step->pieces[i].run->ended)
            status = download(step, &step->pieces[i], err);
    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    return status;
}

/* The row of the first element that is not finite, or -1. */
static int64_t find_nonfinite(const float *values, uint64_t rows, uint64_t columns)
{
    for (uint64_t r = 0; r < rows; r++) {
        /* Zero unless an infinity or a NaN is among them. */
        float sum = 0;
        for (uint64_t c = 0; c < columns; c++)
            sum += values[r * columns + c] * 0.0f;
        if (sum != 0 || isnan(sum))
            return (int64_t)r;
    }
    return -1;
}

static void score_piece(struct step *step, const struct piece *piece)
{
    struct encoder_head *head = step->model->head;

    for (uint64_t i = 0; i < piece->n_sequences; i++)
        encoder_head_scores(head,
                            step->model->head_input + (piece->chunk_sequence + i) * head->hidden,
                            piece->run->output + (piece->first_sequence + i) * head->classes);
}

/* After its piece of a chunk: an answer that is not finite ends the item, and so does its last
 * sequence. */
static void finish_piece(struct step *step, const struct piece *piece)
{
    struct run *run = piece->run;
    const bool tokens = run->kind == ENCODER_TOKEN_STATES;
    const uint64_t first = tokens ? piece->first_id : piece->first_sequence;
    const uint64_t columns = run_columns(step, run);
    int64_t bad;

    if (run->ended)
        return;
    if (run->kind == ENCODER_SCORES)
        score_piece(step, piece);
    bad = find_nonfinite(run->output + first * columns,
                         tokens ? piece->n_tokens : piece->n_sequences, columns);
    if (bad >= 0) {
        libsched_error err;
        libsched_error_set(
            &err, LIBSCHED_EENGINE,
            "the model's answer to %s %" PRIu64
            " is not finite: its weights are damaged, or too large for the precision",
            tokens ? "token" : "sequence", first + (uint64_t)bad);
        end_run(step, run, LIBSCHED_EENGINE, err.message);
    } else if (run->next_sequence == run->n_sequences) {
        end_last(step, run);
    }
}

int encoder_step(libsched_engine_model *model, libsched_engine_batch *batch,
                 const libsched_engine_host *host, libsched_error *err)
{
    struct step step = {.model = model, .batch = batch, .host = host};
    int status = LIBSCHED_OK;
    uint32_t at = 0;

    step.runs = calloc(batch->n_items, sizeof(*step.runs));
    step.pieces = calloc(batch->n_items, sizeof(*step.pieces));
    if (step.runs == NULL || step.pieces == NULL) {
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a step");
        goto out;
    }
    for (uint32_t i = 0; i < batch->n_items; i++)
        step.runs[i].item = batch->items[i];
    while (status == LIBSCHED_OK && at < batch->n_items) {
        gather(&step, &at);
        if (step.n_sequences > 0)
            status = compute(&step, err);
        for (uint32_t i = 0; status == LIBSCHED_OK && i < step.n_pieces; i++)
            finish_piece(&step, &step.pieces[i]);
    }
out:
    free(step.runs);
    free(step.pieces);
    return status;
}
