/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks of jobs, seen from the scheduler's side: what a worker is told, and whether what it
 * says of its rank can be.
 */
#include "worker/worker_internal.h"

#include <inttypes.h>
#include <string.h>

#include "program/registry.h"

/* ------------------------------------------------------------------------------------- commands */

static bool is_name(const char *name)
{
    return name != NULL && strnlen(name, LIBSCHED_NAME_SIZE) < LIBSCHED_NAME_SIZE;
}

static int check_rank(const struct worker_rank *rank, libsched_error *err)
{
    if (!is_name(rank->name) || !is_name(rank->program))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a job and its program need names of at most %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    if (rank->n_parameters > LIBSCHED_MAX_PARAMETERS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a job has at most %d parameters",
                                  LIBSCHED_MAX_PARAMETERS);
    if (rank->n_ranks == 0 || rank->rank >= rank->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL, "there is no rank %" PRIu32 " of %" PRIu32,
                                  rank->rank, rank->n_ranks);
    return LIBSCHED_OK;
}

static void put_rank(struct worker *worker, const struct worker_rank *rank, uint32_t segment)
{
    const struct protocol_rank head = {
        .job = rank->job,
        .timeout_ns = rank->timeout_ns,
        .rank = rank->rank,
        .n_ranks = rank->n_ranks,
        .segment = segment,
        .n_parameters = rank->n_parameters,
        .kept = rank->kept && rank->n_ranks > 1,
    };
    struct wire_writer *out = &worker->out;
    wire_reset(out);
    wire_put(out, &head, sizeof(head));
    wire_put_string(out, rank->name);
    wire_put_string(out, rank->program);
    wire_put_string(out, rank->library);
    wire_put_parameters(out, rank->parameters, rank->n_parameters);
}

int worker_rank_find_program(const char *name, const char *plugin_path, libsched_error *err)
{
    const libsched_program *builtin;
    char path[PROGRAM_PATH_SIZE];
    return program_find(&builtin, path, sizeof(path), name, plugin_path, err);
}

int worker_rank_start(struct worker *worker, const struct worker_rank *rank, libsched_error *err)
{
    struct worker_rank_state *state = &worker->rank;
    int status = worker_check_alive(worker, err);
    if (status == 0)
        status = check_rank(rank, err);
    if (status == 0 && state->present)
        status = libsched_error_set(err, LIBSCHED_EEXIST,
                                    "worker %s has a rank of job %" PRIu64 " already", worker->name,
                                    state->job);
    uint32_t segment = PROTOCOL_NO_SEGMENT;
    if (status == 0 && rank->n_ranks > 1)
        status = worker_pass_shared(worker, rank->n_ranks, rank->shared, &segment, err);
    if (status < 0)
        return status;
    put_rank(worker, rank, segment);
    status = worker_send_command(worker, COMMAND_RANK_START, err);
    if (status < 0)
        return status;
    ledger_free(&state->results);
    *state = (struct worker_rank_state){
        .present = true,
        .job = rank->job,
        .rank = rank->rank,
        .n_ranks = rank->n_ranks,
        .starting = true,
        .asked = rank->kept && rank->n_ranks > 1,
    };
    return LIBSCHED_OK;
}

static struct worker_rank_state *find(struct worker *worker, uint64_t job)
{
    return worker->rank.present && worker->rank.job == job ? &worker->rank : NULL;
}

int worker_rank_id(struct worker *worker, uint64_t job,
                   const unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE])
{
    const struct worker_rank_state *state = find(worker, job);
    int status = worker_check_alive(worker, NULL);
    if (status < 0)
        return status;
    if (state == NULL)
        return LIBSCHED_ENOENT;
    if (!state->starting || state->rank == 0)
        return LIBSCHED_EINVAL;
    wire_reset(&worker->out);
    wire_put_u64(&worker->out, job);
    wire_put(&worker->out, id, LIBSCHED_COMMUNICATOR_ID_SIZE);
    return worker_send_command(worker, COMMAND_RANK_ID, NULL);
}

int worker_rank_go(struct worker *worker, uint64_t job, bool kept, struct segment *shared,
                   libsched_error *err)
{
    struct worker_rank_state *state = find(worker, job);
    int status = worker_check_alive(worker, err);
    uint32_t segment = PROTOCOL_NO_SEGMENT;
    if (status < 0)
        return status;
    if (state == NULL)
        return libsched_error_set(err, LIBSCHED_ENOENT, "worker %s has no rank of job %" PRIu64,
                                  worker->name, job);
    if (!state->starting || !state->told || (kept && !state->has_kept))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the rank in worker %s has not said that it could go on",
                                  worker->name);
    if (!kept)
        status = worker_pass_shared(worker, state->n_ranks, shared, &segment, err);
    if (status < 0)
        return status;
    wire_reset(&worker->out);
    wire_put_u64(&worker->out, job);
    wire_put_u32(&worker->out, kept);
    wire_put_u32(&worker->out, segment);
    status = worker_send_command(worker, COMMAND_RANK_GO, err);
    if (status == LIBSCHED_OK)
        state->told = false;
    return status;
}

int worker_rank_step(struct worker *worker, uint64_t job, uint64_t step)
{
    struct worker_rank_state *state = find(worker, job);
    int status = worker_check_alive(worker, NULL);
    if (status < 0)
        return status;
    if (state == NULL)
        return LIBSCHED_ENOENT;
    if (state->starting || state->stepping || state->closing || state->finished || state->failed)
        return LIBSCHED_EINVAL;
    wire_reset(&worker->out);
    wire_put_u64(&worker->out, job);
    wire_put_u64(&worker->out, step);
    status = worker_send_command(worker, COMMAND_RANK_STEP, NULL);
    if (status == LIBSCHED_OK) {
        state->stepping = true;
        state->step = step;
    }
    return status;
}

int worker_rank_interrupt(struct worker *worker, libsched_error *err)
{
    if (!worker->rank.present || worker->control < 0)
        return LIBSCHED_OK;
    const struct protocol_segment message = {.flags = PROTOCOL_CANCEL, .size = worker->rank.job};
    return worker_send_control(worker, &message, 1, NULL, 0, err);
}

int worker_rank_close(struct worker *worker, uint64_t job, bool cancelled)
{
    struct worker_rank_state *state = find(worker, job);
    int status = worker_check_alive(worker, NULL);
    if (status < 0)
        return status;
    if (state == NULL)
        return LIBSCHED_ENOENT;
    if (cancelled)
        status = worker_rank_interrupt(worker, NULL);
    if (status < 0 || state->closing)
        return status;
    wire_reset(&worker->out);
    wire_put_u64(&worker->out, job);
    status = worker_send_command(worker, COMMAND_RANK_CLOSE, NULL);
    if (status == LIBSCHED_OK)
        state->closing = true;
    return status;
}

int worker_rank_check(struct worker *worker, const struct worker_rank *rank, libsched_error *err)
{
    int status = worker_check_alive(worker, err);
    if (status == 0)
        status = check_rank(rank, err);
    if (status == 0 && id_map_find(&worker->checks, rank->job) != NULL)
        status = libsched_error_set(err, LIBSCHED_EEXIST,
                                    "worker %s is checking job %" PRIu64 " already", worker->name,
                                    rank->job);
    if (status == 0 && !id_map_reserve(&worker->checks, 1))
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to check a job");
    if (status < 0)
        return status;
    put_rank(worker, rank, PROTOCOL_NO_SEGMENT);
    status = worker_send_command(worker, COMMAND_RANK_CHECK, err);
    if (status == LIBSCHED_OK)
        id_map_add(&worker->checks, rank->job, 0);
    return status;
}

/* --------------------------------------------------------------------------------------- events */

static bool read_checked(struct worker *worker, struct wire_reader *reader,
                         struct worker_event *event, libsched_error *err)
{
    event->type = WORKER_RANK_CHECKED;
    if (!id_map_remove(&worker->checks, event->job)) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "the check of a job that it was not asked for");
        return false;
    }
    if (!worker_read_status(reader, event))
        return false;
    event->memory_bytes = wire_get_u64(reader);
    return true;
}

static bool read_id(struct worker_rank_state *state, struct wire_reader *reader,
                    struct worker_event *event)
{
    event->type = WORKER_RANK_ID;
    if (!state->starting || state->had_id || state->rank != 0 || state->n_ranks < 2)
        return false;
    state->had_id = true;
    wire_get(reader, event->rank_id, sizeof(event->rank_id));
    return true;
}

static bool read_kept(struct worker_rank_state *state, struct wire_reader *reader,
                      struct worker_event *event)
{
    event->type = WORKER_RANK_KEPT;
    uint32_t has = wire_get_u32(reader);
    event->calls = wire_get_u64(reader);
    if (!state->starting || !state->asked || has > 1)
        return false;
    state->asked = false;
    state->told = true;
    state->has_kept = event->has_kept = has == 1;
    return true;
}

static bool read_started(struct worker_rank_state *state, struct wire_reader *reader,
                         struct worker_event *event)
{
    event->type = WORKER_RANK_STARTED;
    if (!state->starting || !worker_read_status(reader, event))
        return false;
    state->starting = false;
    state->failed = event->status < 0;
    /* One that could not be started is gone; if it is being closed it is heard of once more. */
    if (state->failed && !state->closing)
        state->present = false;
    return true;
}

static bool read_stepped(struct worker_rank_state *state, struct wire_reader *reader,
                         struct worker_event *event)
{
    event->type = WORKER_RANK_STEPPED;
    event->step = wire_get_u64(reader);
    if (!state->stepping || event->step != state->step || !worker_read_status(reader, event))
        return false;
    uint32_t finished = wire_get_u32(reader);
    if (finished > 1 || (finished == 1 && event->status < 0))
        return false;
    worker_read_times(reader, event);
    state->stepping = false;
    state->failed = event->status < 0;
    state->finished = event->finished = finished == 1;
    return true;
}

static bool read_closed(struct worker_rank_state *state, struct worker_event *event)
{
    event->type = WORKER_RANK_CLOSED;
    if (!state->closing || state->starting || state->stepping)
        return false;
    ledger_free(&state->results);
    *state = (struct worker_rank_state){0};
    return true;
}

static bool read_progress(const struct worker_rank_state *state, struct wire_reader *reader,
                          struct worker_event *event)
{
    event->type = WORKER_PROGRESS;
    event->done = wire_get_u64(reader);
    event->total = wire_get_u64(reader);
    const char *line = wire_get_string(reader);
    libsched_error_set(&event->error, LIBSCHED_OK, "%s", line != NULL ? line : "");
    return state->rank == 0 && (event->total == 0 || event->done <= event->total);
}

static bool read_result(struct worker *worker, struct wire_reader *reader,
                        struct worker_event *event, libsched_error *err)
{
    event->type = WORKER_RESULT;
    event->result = &worker->result;
    wire_get_parameters(reader, &worker->result, 1);
    return !reader->failed && worker->rank.rank == 0 &&
           ledger_put(&worker->rank.results, &worker->result, err) == LIBSCHED_OK;
}

bool worker_rank_read(struct worker *worker, enum protocol_event type, struct wire_reader *reader,
                      struct worker_event *event, libsched_error *err)
{
    event->job = wire_get_u64(reader);
    if (reader->failed)
        return false;
    if (type == EVENT_RANK_CHECKED)
        return read_checked(worker, reader, event, err);
    struct worker_rank_state *state = find(worker, event->job);
    if (state == NULL) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "a rank of a job that it does not have");
        return false;
    }
    libsched_error_set(err, LIBSCHED_EPROTOCOL, "a rank that does what it was not told to");
    switch (type) {
    case EVENT_RANK_ID:
        return read_id(state, reader, event);
    case EVENT_RANK_KEPT:
        return read_kept(state, reader, event);
    case EVENT_RANK_STARTED:
        return read_started(state, reader, event);
    case EVENT_RANK_STEPPED:
        return read_stepped(state, reader, event);
    case EVENT_RANK_CLOSED:
        return read_closed(state, event);
    case EVENT_PROGRESS:
        return read_progress(state, reader, event);
    case EVENT_RESULT:
        return read_result(worker, reader, event, err);
    default:
        return false;
    }
}
