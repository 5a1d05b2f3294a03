/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rank of a job: started, stepped and closed by commands, on the thread that also runs the
 * steps of models. That its job is cancelled it hears from the ear, which also frees it from a
 * collective in which it waits for others.
 */
#include "worker/agent_rank.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/loader.h"
#include "program/registry.h"

int agent_rank_open(struct agent *agent, libsched_error *err)
{
    agent->rank = calloc(1, sizeof(*agent->rank));
    if (agent->rank == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a rank");
    agent_reach_open(&agent->rank->reach);
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------- cancellation */

void agent_rank_cancel(struct agent *agent, uint64_t job)
{
    agent_reach_cancel(&agent->rank->reach, agent, job);
}

static void give_up(struct agent *agent)
{
    agent->rank->gave_up = true;
    agent_reach_abort(&agent->rank->reach, agent);
}

/* -------------------------------------------------------------------------------------- leaving */

/* Whether the communicator may serve another job: nothing is under way, and nothing was wrong. The
 * host, which knows of all ranks, may still let it go. */
static bool keep_communicator(struct agent *agent, libsched_device_communicator *communicator)
{
    struct agent_rank *rank = agent->rank;
    const struct agent_gang gang = {
        .segment = rank->segment,
        .communicator = communicator,
        .rank = rank->head.rank,
        .n_ranks = rank->head.n_ranks,
        .bytes = rank->communicator_bytes,
    };
    libsched_error ignored;
    return rank->finished && !rank->gave_up && rank->segment != NULL &&
           !agent_reach_is_cancelled(&rank->reach) &&
           agent->device->driver->synchronize(agent->device, &ignored) == LIBSCHED_OK &&
           agent_gang_keep(agent, &gang);
}

void agent_rank_end(struct agent *agent)
{
    struct agent_rank *rank = agent->rank;
    if (!rank->reach.present)
        return;
    if (rank->rank != NULL)
        rank->program->close(rank->rank);
    rank->rank = NULL;

    agent_reach_leave(&rank->reach);
    libsched_device_communicator *communicator = agent_reach_take(&rank->reach);

    if (communicator != NULL && keep_communicator(agent, communicator))
        rank->segment = NULL; /* it is kept as well */
    else if (communicator != NULL)
        agent->device->driver->communicator_destroy(agent->device, communicator);
    if (rank->segment != NULL)
        agent_release_segment(agent, rank->segment);
    rank->segment = NULL;
    free(rank->parameters);
    free(rank->record);
    rank->parameters = NULL;
    rank->record = NULL;
    rank->held_back = false;
    ledger_free(&rank->results);
}

void agent_rank_free(struct agent *agent)
{
    if (agent->rank == NULL)
        return;
    agent_reach_free(&agent->rank->reach);
    free(agent->rank);
}

/* ------------------------------------------------------------------------------------- commands */

static int unreadable(struct agent *agent)
{
    return agent_fail(agent, LIBSCHED_EPROTOCOL, "a command for a rank can't be read");
}

/* What was asked for, as it came. */
struct asked {
    struct protocol_rank head;
    const char *name, *program, *library;
    libsched_parameter *parameters;
};

/* The parameters are the caller's to free. */
static int read_asked(struct agent *agent, struct wire_reader *reader, struct asked *asked)
{
    *asked = (struct asked){0};
    wire_get(reader, &asked->head, sizeof(asked->head));
    asked->name = wire_get_name(reader);
    asked->program = wire_get_name(reader);
    asked->library = wire_get_string(reader);
    uint32_t n = asked->head.n_parameters;
    /* A parameter takes more bytes on the wire than this. */
    if (reader->failed || n > (size_t)(reader->end - reader->at))
        return unreadable(agent);
    asked->parameters = calloc(n + (size_t)1, sizeof(libsched_parameter));
    if (asked->parameters == NULL)
        return agent_fail(agent, LIBSCHED_ENOMEM, "no memory for a job's parameters");
    wire_get_parameters(reader, asked->parameters, n);
    if (wire_ends(reader))
        return LIBSCHED_OK;
    free(asked->parameters);
    return unreadable(agent);
}

static void put_status(struct agent *agent, int status, const libsched_error *err)
{
    wire_put_u32(&agent->out, (uint32_t)status);
    wire_put_string(&agent->out, status < 0 ? err->message : NULL);
}

/* ---------------------------------------------------------------------------------------- check */

int agent_rank_check(struct agent *agent, struct wire_reader *reader)
{
    struct asked asked;
    int status = read_asked(agent, reader, &asked);
    if (status < 0)
        return status;
    libsched_error err = {0};
    libsched_program_needs needs = {0};
    const libsched_program *program;
    const libsched_program_args args = {
        .struct_size = sizeof(args),
        .name = asked.name,
        .parameters = asked.parameters,
        .n_parameters = asked.head.n_parameters,
        .n_ranks = asked.head.n_ranks,
        .threads = agent->threads,
    };
    status = program_resolve(&program, asked.program, asked.library, agent->plugin_path, &err);
    if (status == LIBSCHED_OK)
        status = agent_known_status(program->check(&args, &needs, &err), "program", &err);
    free(asked.parameters);
    /* It is cut, should the program not have ended it. */
    libsched_error text;
    libsched_error_set(&text, LIBSCHED_OK, "%.*s", (int)sizeof(needs.text), needs.text);

    wire_reset(&agent->out);
    wire_put_u64(&agent->out, asked.head.job);
    wire_put_u32(&agent->out, (uint32_t)status);
    wire_put_string(&agent->out, status < 0 ? err.message : text.message);
    wire_put_u64(&agent->out, status < 0 ? 0 : needs.memory_bytes);
    agent_send(agent, EVENT_RANK_CHECKED);
    return LIBSCHED_OK;
}

/* ---------------------------------------------------------------------------------------- start */

static void send_id(struct agent *agent)
{
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, agent->rank->head.job);
    wire_put(&agent->out, agent->rank->id, sizeof(agent->rank->id));
    agent_send(agent, EVENT_RANK_ID);
    /* The others are waiting for it, and this rank will wait for them. */
    agent_wake_host(agent);
}

static int find_shared(struct agent *agent, libsched_error *err)
{
    struct agent_rank *rank = agent->rank;
    if (rank->head.segment == PROTOCOL_NO_SEGMENT)
        return LIBSCHED_OK;
    struct control_segment *segment = control_find(agent->control, rank->head.segment, err);
    if (segment == NULL)
        return err->status;
    if (!segment->writable)
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the memory for the job's ranks can't be written to");
    segment->users++;
    rank->segment = segment;
    return LIBSCHED_OK;
}

/* What is free of the device's own memory; 0 where that is not known, or others use it as well. */
static uint64_t free_memory(const struct agent *agent)
{
    libsched_device_properties info = {.struct_size = sizeof(info)};
    if (agent->device->driver->info(agent->device, &info, NULL) != LIBSCHED_OK ||
        (info.flags & LIBSCHED_DEVICE_UNIFIED) != 0)
        return 0;
    return info.memory_free;
}

static int create_communicator(struct agent *agent, libsched_error *err)
{
    struct agent_rank *rank = agent->rank;
    libsched_device *device = agent->device;
    const libsched_device_driver *driver = device->driver;
    libsched_device_communicator *communicator;
    int status = find_shared(agent, err);
    if (status == LIBSCHED_OK && rank->head.rank == 0 && driver->communicator_id != NULL) {
        status = driver->communicator_id(device, rank->id, err);
        if (status == LIBSCHED_OK)
            send_id(agent);
    }
    if (status < 0)
        return status;
    const libsched_device_communicator_args args = {
        .struct_size = sizeof(args),
        .rank = rank->head.rank,
        .n_ranks = rank->head.n_ranks,
        .timeout_ns = rank->head.timeout_ns,
        .shared = rank->segment != NULL ? rank->segment->data : NULL,
        .shared_size = rank->segment != NULL ? rank->segment->size : 0,
        .id = driver->communicator_id != NULL ? rank->id : NULL,
        .cancelled = &rank->reach.cancelled,
    };
    uint64_t before = free_memory(agent);
    status = driver->communicator_create(device, &communicator, &args, err);
    if (status != LIBSCHED_OK)
        return status;
    uint64_t after = free_memory(agent);
    rank->communicator_bytes = before > after ? before - after : 0;
    agent_reach_set(&rank->reach, agent, communicator);
    return LIBSCHED_OK;
}

static int start_program(struct agent *agent, libsched_error *err)
{
    struct agent_rank *rank = agent->rank;
    int status =
        program_resolve(&rank->program, rank->program_name, rank->library, agent->plugin_path, err);
    if (status == LIBSCHED_OK && agent_reach_is_cancelled(&rank->reach))
        status = libsched_error_set(err, LIBSCHED_ECANCELED, "cancelled before it was started");
    if (status == LIBSCHED_OK && rank->head.n_ranks > 1 && rank->reach.communicator == NULL)
        status = agent_known_status(create_communicator(agent, err), "device's driver", err);
    if (status < 0)
        return status;
    const libsched_program_args args = {
        .struct_size = sizeof(args),
        .name = rank->name,
        .parameters = rank->parameters,
        .n_parameters = rank->head.n_parameters,
        .n_ranks = rank->head.n_ranks,
        .rank = rank->head.rank,
        .threads = agent->threads,
        .device = agent->device,
        .communicator = rank->reach.communicator,
    };
    status = rank->program->start(&rank->rank, &args, &agent_program_host, agent, err);
    /* Where there are others, they may have begun already to do something together. */
    if (status == LIBSCHED_ENODEVMEM && agent_gang_forget(agent) && rank->head.n_ranks == 1)
        status = rank->program->start(&rank->rank, &args, &agent_program_host, agent, err);
    status = agent_known_status(status, "program", err);
    if (status < 0)
        rank->rank = NULL;
    return status;
}

/* Answers the start, and where it failed leaves nothing behind. */
static int answer_start(struct agent *agent, int status, const libsched_error *err)
{
    if (status < 0)
        give_up(agent);
    agent_rank_flush(agent);
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, agent->rank->head.job);
    put_status(agent, status, err);
    agent_send(agent, EVENT_RANK_STARTED);
    if (status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, status, "%s", err->message);
    if (status < 0)
        agent_rank_end(agent);
    agent_report_memory(agent);
    return LIBSCHED_OK;
}

static int start(struct agent *agent)
{
    libsched_error err = {0};
    int status = start_program(agent, &err);
    return answer_start(agent, status, &err);
}

/* A rank that has to find the others waits for what rank 0 makes. */
static int find_others(struct agent *agent)
{
    struct agent_rank *rank = agent->rank;
    rank->waits_for_id = rank->head.n_ranks > 1 && rank->head.kept == 0 && rank->head.rank != 0 &&
                         agent->device->driver->communicator_id != NULL;
    return rank->waits_for_id ? LIBSCHED_OK : start(agent);
}

/* Says whether the communicator of the job before is there, and waits for what the host makes of
 * what all ranks say. */
static int tell_kept(struct agent *agent)
{
    struct agent_rank *rank = agent->rank;
    struct agent_gang gang = {0};
    libsched_error err = {0};
    uint64_t calls = 0;
    int status = find_shared(agent, &err);
    if (status < 0)
        return answer_start(agent, status, &err);
    if (rank->segment != NULL &&
        agent_gang_take(agent, &gang, rank->segment, rank->head.rank, rank->head.n_ranks)) {
        rank->communicator_bytes = gang.bytes;
        calls = device_communicator_calls(agent->device->driver, gang.communicator);
        agent_reach_set(&rank->reach, agent, gang.communicator);
    }
    rank->waits_to_go = true;
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, rank->head.job);
    wire_put_u32(&agent->out, gang.communicator != NULL);
    wire_put_u64(&agent->out, calls);
    agent_send(agent, EVENT_RANK_KEPT);
    return LIBSCHED_OK;
}

/* Another communicator is made, in another segment. */
static void renew(struct agent *agent, uint32_t segment)
{
    struct agent_rank *rank = agent->rank;
    libsched_device_communicator *communicator = agent_reach_take(&rank->reach);
    if (communicator != NULL) {
        /* The others may lack it: nothing is to be waited for. */
        agent->device->driver->communicator_abort(communicator);
        agent->device->driver->communicator_destroy(agent->device, communicator);
    }
    if (rank->segment != NULL)
        agent_release_segment(agent, rank->segment);
    rank->segment = NULL;
    rank->head.segment = segment;
    rank->head.kept = 0;
}

int agent_rank_go(struct agent *agent, struct wire_reader *reader)
{
    struct agent_rank *rank = agent->rank;
    uint64_t job = wire_get_u64(reader);
    uint32_t kept = wire_get_u32(reader), segment = wire_get_u32(reader);
    if (!wire_ends(reader))
        return unreadable(agent);
    if (!rank->reach.present || rank->head.job != job || !rank->waits_to_go)
        return LIBSCHED_OK;
    if (kept != 0 && rank->reach.communicator == NULL)
        return agent_fail(agent, LIBSCHED_EPROTOCOL,
                          "the host wants a communicator that was said not to be there");
    rank->waits_to_go = false;
    if (kept == 0)
        renew(agent, segment);
    return find_others(agent);
}

int agent_rank_start(struct agent *agent, struct wire_reader *reader)
{
    struct agent_rank *rank = agent->rank;
    struct asked asked;
    int status = read_asked(agent, reader, &asked);
    if (status < 0)
        return status;
    if (rank->reach.present) {
        free(asked.parameters);
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "the host starts a second rank");
    }
    rank->head = asked.head;
    snprintf(rank->name, sizeof(rank->name), "%s", asked.name);
    snprintf(rank->program_name, sizeof(rank->program_name), "%s", asked.program);
    rank->library = asked.library;
    rank->parameters = asked.parameters;
    rank->record = agent->record;
    agent->record = NULL;
    agent->record_capacity = 0;
    rank->next_at = 0;
    rank->finished = rank->gave_up = rank->waits_to_go = false;
    rank->communicator_bytes = 0;
    agent_reach_enter(&rank->reach, rank->head.job);

    libsched_error err;
    if (agent->device == NULL) {
        libsched_error_set(&err, LIBSCHED_ENODEVICE, "%s has no device to run a job on",
                           agent->name);
        return answer_start(agent, err.status, &err);
    }
    const libsched_device_driver *driver = agent->device->driver;
    if (rank->head.n_ranks > 1 && !device_has_collectives(driver)) {
        libsched_error_set(&err, LIBSCHED_ENOTSUP,
                           "driver \"%s\" has no collectives: its devices can't run a job together",
                           driver->name);
        return answer_start(agent, err.status, &err);
    }
    return rank->head.n_ranks > 1 && rank->head.kept != 0 ? tell_kept(agent) : find_others(agent);
}

int agent_rank_id(struct agent *agent, struct wire_reader *reader)
{
    struct agent_rank *rank = agent->rank;
    uint64_t job = wire_get_u64(reader);
    unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE];
    wire_get(reader, id, sizeof(id));
    if (!wire_ends(reader))
        return unreadable(agent);
    if (!rank->reach.present || rank->head.job != job || !rank->waits_for_id)
        return LIBSCHED_OK;
    memcpy(rank->id, id, sizeof(id));
    rank->waits_for_id = false;
    return start(agent);
}

/* ----------------------------------------------------------------------------------------- step */

static int run_step(struct agent *agent, uint64_t job, uint64_t step, bool *finished,
                    libsched_error *err)
{
    struct agent_rank *rank = agent->rank;
    if (!rank->reach.present || rank->head.job != job || rank->rank == NULL)
        return libsched_error_set(err, LIBSCHED_ENOENT, "there is no rank of this job in %s",
                                  agent->name);
    if (agent_reach_is_cancelled(&rank->reach))
        return libsched_error_set(err, LIBSCHED_ECANCELED, "cancelled");
    int status = rank->program->step(rank->rank, step, finished, &agent_program_host, agent, err);
    rank->finished = status == LIBSCHED_OK && *finished;
    return agent_known_status(status, "program", err);
}

int agent_rank_step(struct agent *agent, struct wire_reader *reader)
{
    uint64_t job = wire_get_u64(reader), step = wire_get_u64(reader);
    if (!wire_ends(reader))
        return unreadable(agent);
    libsched_error err = {0};
    bool finished = false;
    uint64_t begin = agent_now();
    int status = run_step(agent, job, step, &finished, &err);
    uint64_t end = agent_now();
    if (status < 0)
        give_up(agent);
    /* Nothing is behind the last word. */
    if (status < 0 || finished || (agent_rank_due(agent) != 0 && end >= agent_rank_due(agent)))
        agent_rank_flush(agent);
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, job);
    wire_put_u64(&agent->out, step);
    put_status(agent, status, &err);
    wire_put_u32(&agent->out, status == LIBSCHED_OK && finished);
    wire_put_u64(&agent->out, begin);
    wire_put_u64(&agent->out, end);
    agent_send(agent, EVENT_RANK_STEPPED);
    if (status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, status, "%s", err.message);
    return LIBSCHED_OK;
}

/* ---------------------------------------------------------------------------------------- close */

int agent_rank_close(struct agent *agent, struct wire_reader *reader)
{
    struct agent_rank *rank = agent->rank;
    uint64_t job = wire_get_u64(reader);
    if (!wire_ends(reader))
        return unreadable(agent);
    if (rank->reach.present && rank->head.job == job) {
        if (rank->waits_for_id || rank->waits_to_go) {
            libsched_error err;
            rank->waits_for_id = rank->waits_to_go = false;
            libsched_error_set(&err, LIBSCHED_ECANCELED, "closed before it was started");
            int status = answer_start(agent, err.status, &err);
            if (status < 0)
                return status;
        }
        agent_rank_flush(agent);
        agent_rank_end(agent);
    }
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, job);
    agent_send(agent, EVENT_RANK_CLOSED);
    agent_report_memory(agent);
    return LIBSCHED_OK;
}
