/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step: the sequences of all items, one after the other, cut into chunks of whole sequences.
 * An item ends as soon as its last chunk is done.
 *
 * Where the device can tell when a chunk is done, the next is given to it meanwhile: of the same
 * step, or of the one behind it. Chunks end in the order in which they were given, and a step is
 * over when its last one is. What goes wrong with a chunk is the fault of its own step.
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
    /* Chunks that write to the output: it is the item's until the last of them is done. */
    uint32_t n_chunks;
    libsched_error failure; /* what it ends with then; LIBSCHED_OK: nothing */
    bool stopped;           /* nothing more of it is computed */
    bool ended;
};

/* The part of a chunk that belongs to one item. */
struct encoder_piece {
    struct run *run;
    uint64_t first_sequence, first_id; /* in the item */
    uint32_t chunk_sequence;           /* in the chunk */
    uint64_t chunk_token;
    uint64_t n_sequences, n_tokens;
};

struct encoder_step {
    struct encoder_step *next; /* that was begun behind it */
    libsched_engine_model *model;
    libsched_engine_batch *batch;
    const libsched_engine_host *host;
    struct run *runs;
    struct encoder_piece *pieces[ENCODER_CHUNKS]; /* of each chunk */
    uint32_t at;                                  /* the first run that is not in chunks whole */
    int status;                                   /* a failure: nothing more of it is computed */
    libsched_error err;
    struct encoder_chunk *chunk; /* that is being put together */
};

static void end_run(struct encoder_step *step, struct run *run, int status, const char *message)
{
    step->host->end(step->batch->host, run->item, status, message);
    run->stopped = run->ended = true;
}

/* Its output may still be written to: then it ends with the last chunk that does so. */
static void fail_run(struct encoder_step *step, struct run *run, int status, const char *message)
{
    run->stopped = true;
    if (run->n_chunks == 0)
        end_run(step, run, status, message);
    else if (run->failure.status == LIBSCHED_OK)
        libsched_error_set(&run->failure, status, "%s", message);
}

/* The names of the classes, once all scores are there. False where the item ended for want of
 * room. */
static bool make_labels(struct encoder_step *step, struct run *run)
{
    const struct encoder_head *head = step->model->head;
    const int64_t n = (int64_t)run->n_sequences;
    uint64_t size = 0;
    char *to;

    for (uint64_t i = 0; i < run->n_sequences; i++)
        size += sizeof(uint32_t) +
                head->labels[encoder_head_best(head, run->output + i * head->classes)].length;
    to = step->host->output(step->batch->host, run->item, "label", LIBSCHED_BYTES, 1, &n, size);
    run->stopped = run->ended = to == NULL;
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
static void end_last(struct encoder_step *step, struct run *run)
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
static uint64_t run_columns(const struct encoder_step *step, const struct run *run)
{
    return run->kind == ENCODER_SCORES ? step->model->head->classes : step->model->config.hidden;
}

/* Room for the answer. False where the item ended for want of it. */
static bool make_outputs(struct encoder_step *step, struct run *run)
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
    run->stopped = run->ended = run->output == NULL;
    return !run->ended;
}

static void begin_run(struct encoder_step *step, struct run *run)
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
static int take_sequence(struct encoder_step *step, struct run *run, libsched_error *err)
{
    struct encoder_scratch *s = &step->model->scratch;
    const int32_t length = *(const volatile int32_t *)&run->lengths[run->next_sequence];
    int32_t *to = s->ids + step->chunk->n_tokens;

    if (length < 1 || (uint32_t)length > step->model->options.max_length ||
        (uint64_t)length > run->n_ids - run->next_id)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "sequence %" PRIu64 " claims %" PRId32 " tokens, %" PRIu64
                                  " are left and %" PRIu32 " allowed",
                                  run->next_sequence, length, run->n_ids - run->next_id,
                                  step->model->options.max_length);
    if ((uint64_t)length > s->max_tokens - step->chunk->n_tokens)
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
    step->chunk->n_tokens += (uint64_t)length;
    s->starts[++step->chunk->n_sequences] = (uint32_t)step->chunk->n_tokens;
    return LIBSCHED_OK;
}

/* Adds what fits of an item. False where the chunk is full. */
static bool take_run(struct encoder_step *step, struct run *run)
{
    libsched_error err = {0};
    struct encoder_piece piece = {
        .run = run,
        .first_sequence = run->next_sequence,
        .first_id = run->next_id,
        .chunk_sequence = step->chunk->n_sequences,
        .chunk_token = step->chunk->n_tokens,
    };
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && run->next_sequence < run->n_sequences)
        status = take_sequence(step, run, &err);
    piece.n_sequences = run->next_sequence - piece.first_sequence;
    piece.n_tokens = run->next_id - piece.first_id;
    if (status != LIBSCHED_OK && status != LIBSCHED_EBUSY) {
        /* What it has in this chunk already is computed for nothing. */
        fail_run(step, run, status, err.message);
        return true;
    }
    if (piece.n_sequences > 0) {
        step->chunk->pieces[step->chunk->n_pieces++] = piece;
        step->chunk->pool |= run->kind != ENCODER_TOKEN_STATES;
    }
    return status == LIBSCHED_OK;
}

/* The next chunk, of the runs that are not whole in one yet. */
static void gather(struct encoder_step *step)
{
    step->model->scratch.starts[0] = 0;
    for (; step->at < step->batch->n_items; step->at++) {
        struct run *run = &step->runs[step->at];

        if (!run->stopped && run->item->cancelled)
            fail_run(step, run, LIBSCHED_ECANCELED, "cancelled");
        if (!run->stopped && run->output == NULL)
            begin_run(step, run);
        if (!run->stopped && !take_run(step, run))
            return;
    }
}

/* ------------------------------------------------------------------------------------- a chunk */

static int download(struct encoder_step *step, const struct encoder_chunk *chunk,
                    const struct encoder_piece *piece, libsched_error *err)
{
    libsched_device *device = step->model->device;
    const uint64_t hidden = step->model->config.hidden;
    float *embeddings = piece->run->kind == ENCODER_SCORES
                            ? chunk->head_input + piece->chunk_sequence * hidden
                            : piece->run->output + piece->first_sequence * hidden;

    if (piece->run->kind == ENCODER_TOKEN_STATES)
        return device->driver->download(device, step->model->scratch.states, piece->chunk_token,
                                        piece->n_tokens,
                                        piece->run->output + piece->first_id * hidden, err);
    return device->driver->download(device, chunk->pooled, piece->chunk_sequence,
                                    piece->n_sequences, embeddings, err);
}

/* Gives the device a chunk. */
static int give(struct encoder_step *step, struct encoder_chunk *chunk, libsched_error *err)
{
    libsched_device *device = step->model->device;
    int status = encoder_forward(step->model, chunk, chunk->n_sequences, chunk->pool, err);

    for (uint32_t i = 0; status == LIBSCHED_OK && i < chunk->n_pieces; i++)
        if (!chunk->pieces[i].run->stopped)
            status = download(step, chunk, &chunk->pieces[i], err);
    if (status == LIBSCHED_OK && step->model->scratch.n_chunks > 1)
        status = device->driver->mark(device, &chunk->mark, err);
    return status;
}

/* Whether the device is done with a chunk. */
static int is_done(libsched_engine_model *model, const struct encoder_chunk *chunk, bool wait,
                   libsched_error *err)
{
    libsched_device *device = model->device;

    if (model->scratch.n_chunks > 1)
        return device->driver->reached(device, chunk->mark, wait, err);
    return device->driver->synchronize(device, err);
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

static void score_piece(struct encoder_step *step, const struct encoder_chunk *chunk,
                        const struct encoder_piece *piece)
{
    struct encoder_head *head = step->model->head;

    for (uint64_t i = 0; i < piece->n_sequences; i++)
        encoder_head_scores(head, chunk->head_input + (piece->chunk_sequence + i) * head->hidden,
                            piece->run->output + (piece->first_sequence + i) * head->classes);
}

/* What came of a piece: why the item ends with it, or LIBSCHED_OK. */
static int check_piece(struct encoder_step *step, const struct encoder_piece *piece,
                       libsched_error *err)
{
    const struct run *run = piece->run;
    const bool tokens = run->kind == ENCODER_TOKEN_STATES;
    const uint64_t first = tokens ? piece->first_id : piece->first_sequence;
    const uint64_t columns = run_columns(step, run);
    const int64_t bad = find_nonfinite(run->output + first * columns,
                                       tokens ? piece->n_tokens : piece->n_sequences, columns);

    if (bad < 0)
        return LIBSCHED_OK;
    return libsched_error_set(
        err, LIBSCHED_EENGINE,
        "the model's answer to %s %" PRIu64
        " is not finite: its weights are damaged, or too large for the precision",
        tokens ? "token" : "sequence", first + (uint64_t)bad);
}

/* After its piece of a chunk: an answer that is not finite ends the item, and so does its last
 * sequence. */
static void finish_piece(struct encoder_step *step, const struct encoder_chunk *chunk,
                         const struct encoder_piece *piece)
{
    struct run *run = piece->run;
    libsched_error err;

    run->n_chunks--;
    if (!run->stopped) {
        if (run->kind == ENCODER_SCORES)
            score_piece(step, chunk, piece);
        if (check_piece(step, piece, &err) != LIBSCHED_OK)
            fail_run(step, run, err.status, err.message);
    }
    if (run->ended || run->n_chunks > 0)
        return;
    if (run->failure.status != LIBSCHED_OK)
        end_run(step, run, run->failure.status, run->failure.message);
    else if (run->next_sequence == run->n_sequences)
        end_last(step, run);
}

/* ---------------------------------------------------------------------------------------- steps */

/* Frees the oldest chunk. */
static void pop_chunk(struct encoder_scratch *s)
{
    s->chunks[s->first].step = NULL;
    s->first = (s->first + 1) % s->n_chunks;
    s->n_busy--;
}

/* Nothing more of the step is computed; what of it is under way still is. */
static void fail_step(struct encoder_step *step, int status, const libsched_error *err)
{
    if (step->status != LIBSCHED_OK)
        return;
    step->status = status;
    step->err = *err;
}

static bool has_more(const struct encoder_step *step)
{
    return step->status == LIBSCHED_OK && step->at < step->batch->n_items;
}

/* Gives the device the step's next chunk, for which there is room. */
static void give_next(struct encoder_step *step)
{
    struct encoder_scratch *s = &step->model->scratch;
    const uint32_t index = (s->first + s->n_busy) % s->n_chunks;
    struct encoder_chunk *chunk = &s->chunks[index];
    libsched_error err = {0};
    int status;

    chunk->pieces = step->pieces[index];
    chunk->n_pieces = chunk->n_sequences = 0;
    chunk->n_tokens = 0;
    chunk->pool = false;
    step->chunk = chunk;
    gather(step);
    if (chunk->n_sequences == 0)
        return;
    status = give(step, chunk, &err);
    if (status != LIBSCHED_OK) {
        fail_step(step, status, &err);
        return;
    }
    for (uint32_t i = 0; i < chunk->n_pieces; i++)
        chunk->pieces[i].run->n_chunks++;
    chunk->step = step;
    s->n_busy++;
}

/* Keeps the device busy. */
static void give_more(libsched_engine_model *model)
{
    struct encoder_scratch *s = &model->scratch;

    for (struct encoder_step *step = model->steps; step != NULL; step = step->next)
        while (s->n_busy < s->n_chunks && has_more(step))
            give_next(step);
}

/* The oldest chunk, which is the step's. */
static int finish_chunk(struct encoder_step *step, bool wait)
{
    struct encoder_scratch *s = &step->model->scratch;
    struct encoder_chunk *chunk = &s->chunks[s->first];
    libsched_error err = {0};
    int status = is_done(step->model, chunk, wait, &err);

    if (status == LIBSCHED_EBUSY)
        return status;
    if (status != LIBSCHED_OK)
        fail_step(step, status, &err);
    for (uint32_t i = 0; step->status == LIBSCHED_OK && i < chunk->n_pieces; i++)
        finish_piece(step, chunk, &chunk->pieces[i]);
    pop_chunk(s);
    return LIBSCHED_OK;
}

static void free_step(struct encoder_step *step)
{
    for (uint32_t i = 0; i < ENCODER_CHUNKS; i++)
        free(step->pieces[i]);
    free(step->runs);
    free(step);
}

/* The step that was begun first is over. */
static int end_step(struct encoder_step *step, libsched_error *err)
{
    libsched_engine_model *model = step->model;
    const int status = step->status;
    libsched_error ignored;

    /* What was given of a chunk that could not be given whole may still write to the items'
     * memory. Others' chunks are waited for as well, and are done then. */
    if (status != LIBSCHED_OK && status != LIBSCHED_EDEVICELOST)
        (void)model->device->driver->synchronize(model->device, &ignored);
    if (status != LIBSCHED_OK && err != NULL)
        *err = step->err;
    model->steps = step->next;
    free_step(step);
    return status;
}

static struct encoder_step *new_step(libsched_engine_model *model, libsched_engine_batch *batch,
                                     const libsched_engine_host *host)
{
    struct encoder_step *step = calloc(1, sizeof(*step));
    bool whole = step != NULL;

    if (step == NULL)
        return NULL;
    step->model = model;
    step->batch = batch;
    step->host = host;
    step->runs = calloc(batch->n_items, sizeof(*step->runs));
    for (uint32_t i = 0; i < model->scratch.n_chunks; i++) {
        step->pieces[i] = calloc(batch->n_items, sizeof(*step->pieces[i]));
        whole = whole && step->pieces[i] != NULL;
    }
    if (step->runs == NULL || !whole) {
        free_step(step);
        return NULL;
    }
    for (uint32_t i = 0; i < batch->n_items; i++)
        step->runs[i].item = batch->items[i];
    return step;
}

int encoder_begin(libsched_engine_model *model, libsched_engine_batch *batch,
                  const libsched_engine_host *host, bool *pending, libsched_error *err)
{
    struct encoder_step *step = new_step(model, batch, host), **last = &model->steps;

    *pending = false;
    if (step == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a step");
    while (*last != NULL)
        last = &(*last)->next;
    *last = step;
    /* Where a call returns when it is done there is nothing to go on with meanwhile. */
    if (model->scratch.n_chunks == 1)
        return encoder_finish(model, true, pending, err);
    give_more(model);
    *pending = true;
    return LIBSCHED_OK;
}

int encoder_finish(libsched_engine_model *model, bool wait, bool *pending, libsched_error *err)
{
    struct encoder_step *step = model->steps;
    const struct encoder_scratch *s = &model->scratch;

    *pending = false;
    if (step == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "no step is under way");
    for (;;) {
        give_more(model);
        if (s->n_busy == 0 || s->chunks[s->first].step != step)
            return end_step(step, err);
        if (finish_chunk(step, wait) == LIBSCHED_EBUSY) {
            *pending = true;
            return LIBSCHED_OK;
        }
    }
}

int encoder_step(libsched_engine_model *model, libsched_engine_batch *batch,
                 const libsched_engine_host *host, libsched_error *err)
{
    bool pending;
    int status = encoder_begin(model, batch, host, &pending, err);

    return pending ? encoder_finish(model, true, &pending, err) : status;
}

void encoder_steps_drop(libsched_engine_model *model)
{
    libsched_error ignored;

    if (model->steps == NULL)
        return;
    (void)model->device->driver->synchronize(model->device, &ignored);
    while (model->scratch.n_busy > 0)
        pop_chunk(&model->scratch);
    while (model->steps != NULL) {
        struct encoder_step *next = model->steps->next;
        free_step(model->steps);
        model->steps = next;
    }
}
