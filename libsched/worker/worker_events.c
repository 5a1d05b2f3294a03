/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/description.h"

/* Looks in vain before one asks the kernel whether it has exited. Who sleeps between them is told
 * by the descriptor. */
#define LOOKS_PER_ASK 256

/* A worker that speaks nonsense is not listened to any more. */
static void convict(struct worker *worker, const char *what)
{
    worker->faulty = true;
    libsched_error_set(&worker->fault, LIBSCHED_EPROTOCOL, "killed, as it spoke nonsense: %s",
                       what);
    worker_kill(worker);
}

/* -------------------------------------------------------------------------------- single events */

static bool is_status(int status)
{
    return status <= 0 && strcmp(libsched_status_name(status), "unknown") != 0;
}

bool worker_read_status(struct wire_reader *reader, struct worker_event *event)
{
    int status = (int)wire_get_u32(reader);
    const char *message = wire_get_string(reader);
    if (reader->failed || !is_status(status))
        return false;
    event->status = status;
    if (status < 0 || message != NULL)
        libsched_error_set(&event->error, status, "%s", message != NULL ? message : "");
    return true;
}

static bool read_loaded(struct worker *worker, struct wire_reader *reader,
                        struct worker_event *event, libsched_error *err)
{
    event->type = WORKER_LOADED;
    event->key = wire_get_u32(reader);
    if (!worker_read_status(reader, event))
        return false;
    event->memory_bytes = wire_get_u64(reader);
    if (event->status < 0)
        return true;
    wire_get(reader, &worker->description, sizeof(worker->description));
    event->description = &worker->description;
    return !reader->failed && description_check(&worker->description, err) == LIBSCHED_OK;
}

static bool read_part(struct worker *worker, struct wire_reader *reader, struct worker_event *event,
                      libsched_error *err)
{
    event->type = WORKER_PART;
    event->batch = wire_get_u64(reader);
    event->id = wire_get_u64(reader);
    if (reader->failed || !worker_has_item(worker, event->id, event->batch)) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "a part of a request it does not have");
        return false;
    }
    return worker_results_read(worker, reader, event, err);
}

static bool read_item(struct worker *worker, struct wire_reader *reader, struct worker_event *event,
                      libsched_error *err)
{
    event->type = WORKER_ITEM;
    event->batch = wire_get_u64(reader);
    event->id = wire_get_u64(reader);
    event->units = wire_get_u64(reader);
    event->batch_key = wire_get_u64(reader);
    if (!worker_read_status(reader, event))
        return false;
    if (!worker_has_item(worker, event->id, event->batch)) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "the end of a request it does not have");
        return false;
    }
    if (!worker_results_read(worker, reader, event, err))
        return false;
    worker_forget_item(worker, event->id, event->batch);
    return true;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void worker_read_times(struct wire_reader *reader, struct worker_event *event)
{
    event->begin = wire_get_u64(reader);
    event->end = wire_get_u64(reader);
    uint64_t now = now_ns();
    if (event->end > now)
        event->end = now;
    if (event->begin > event->end)
        event->begin = event->end;
}

static bool read_step(struct wire_reader *reader, struct worker_event *event)
{
    event->type = WORKER_STEP;
    event->batch = wire_get_u64(reader);
    event->step = wire_get_u32(reader);
    if (!worker_read_status(reader, event))
        return false;
    worker_read_times(reader, event);
    return true;
}

/* Reads an event from its copy. False: nonsense, which `err` may describe. An event of type 0 is
 * for this file alone. */
static bool read_event(struct worker *worker, uint32_t type, struct wire_reader *reader,
                       struct worker_event *event, libsched_error *err)
{
    switch ((enum protocol_event)type) {
    case EVENT_UP:
        event->type = WORKER_UP;
        worker->up = true;
        return channel_check_worker(&worker->incarnation->channel, worker->epoch, err) ==
               LIBSCHED_OK;
    case EVENT_LOADED:
        return read_loaded(worker, reader, event, err);
    case EVENT_LOAD_ID:
        event->type = WORKER_LOAD_ID;
        event->key = wire_get_u32(reader);
        event->status = (int)wire_get_u32(reader);
        wire_get(reader, event->rank_id, sizeof(event->rank_id));
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "what others should load by, unasked");
        if (!worker->makes_id || worker->makes_id_for != event->key || !is_status(event->status))
            return false;
        worker->makes_id = false;
        return true;
    case EVENT_UNLOADED:
        event->type = WORKER_UNLOADED;
        event->key = wire_get_u32(reader);
        return true;
    case EVENT_PART:
        return read_part(worker, reader, event, err);
    case EVENT_ITEM:
        return read_item(worker, reader, event, err);
    case EVENT_DROPPED: {
        uint64_t batch = wire_get_u64(reader);
        uint64_t id = wire_get_u64(reader);
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "a request dropped that it does not have");
        return !reader->failed && worker_forget_item(worker, id, batch);
    }
    case EVENT_STEP:
        return read_step(reader, event);
    case EVENT_MEMORY:
        event->type = WORKER_MEMORY;
        event->free_bytes = wire_get_u64(reader);
        return true;
    case EVENT_LOG: {
        const char *line = wire_get_string(reader);
        event->type = WORKER_LOG;
        libsched_error_set(&event->error, LIBSCHED_OK, "%s", line != NULL ? line : "");
        return true;
    }
    case EVENT_FORGOT:
        event->type = WORKER_FORGOT;
        return true;
    case EVENT_RANK_CHECKED:
    case EVENT_RANK_ID:
    case EVENT_RANK_KEPT:
    case EVENT_RANK_STARTED:
    case EVENT_RANK_STEPPED:
    case EVENT_RANK_CLOSED:
    case EVENT_PROGRESS:
    case EVENT_RESULT:
        return worker_rank_read(worker, (enum protocol_event)type, reader, event, err);
    }
    libsched_error_set(err, LIBSCHED_EPROTOCOL, "an event of unknown type %" PRIu32, type);
    return false;
}

static uint32_t percent(uint32_t value)
{
    return value <= 100 ? value : 100;
}

bool worker_readings(const struct worker *worker, libsched_device_readings *out)
{
    libsched_device_readings readings;
    uint64_t read_at, now = now_ns();
    libsched_error text;
    if (!channel_get_readings(&worker->incarnation->channel, &readings, &read_at))
        return false;
    readings.struct_size = sizeof(readings);
    readings.age_ns = read_at < now ? now - read_at : 0;
    readings.utilization_percent = percent(readings.utilization_percent);
    readings.memory_busy_percent = percent(readings.memory_busy_percent);
    /* UTF-8, whoever wrote it. */
    libsched_error_set(&text, LIBSCHED_OK, "%s", readings.reason);
    memcpy(readings.reason, text.message, sizeof(readings.reason));
    libsched_error_set(&text, LIBSCHED_OK, "%s", readings.uuid);
    snprintf(readings.uuid, sizeof(readings.uuid), "%.*s", (int)sizeof(readings.uuid) - 1,
             text.message);
    *out = readings;
    return true;
}

/* ----------------------------------------------------------------------------------- the stream */

static bool copy_record(struct worker *worker, const struct ring_record *record)
{
    if (record->length > worker->record_capacity) {
        size_t capacity = 8192;
        while (capacity < record->length)
            capacity *= 2;
        unsigned char *grown = realloc(worker->record, capacity);
        if (grown == NULL)
            return false;
        worker->record = grown;
        worker->record_capacity = capacity;
    }
    ring_take(&worker->events, record, worker->record);
    if (ring_must_wake_producer(&worker->events))
        worker_ring_bell(worker);
    return true;
}

/* Takes one record; false where it was nonsense, which ends the worker. */
static bool take_event(struct worker *worker, const struct ring_record *record,
                       struct worker_event *event)
{
    libsched_error err = {0};
    *event = (struct worker_event){0};
    if (!copy_record(worker, record)) {
        convict(worker, "no memory to hear it out");
        return false;
    }
    worker->events_since_arm++;
    worker->looked = 0;
    struct wire_reader reader;
    wire_read(&reader, worker->record, record->length);
    /* Its first words tell whether the rest can be understood. */
    if (!worker->up && record->type != EVENT_UP && record->type != EVENT_LOG) {
        convict(worker, "it did not say who it is");
        return false;
    }
    if (read_event(worker, record->type, &reader, event, &err) && wire_ends(&reader))
        return true;
    worker_results_release(event->results);
    char text[LIBSCHED_MESSAGE_SIZE];
    if (err.message[0] == '\0' || reader.failed)
        snprintf(text, sizeof(text), "an event of type %" PRIu32 " that can't be read",
                 record->type);
    else
        snprintf(text, sizeof(text), "%s", err.message);
    convict(worker, text);
    return false;
}

static bool must_ask_for_exit(struct worker *worker)
{
    if (!worker->ask_for_exit && !worker->faulty && ++worker->looked < LOOKS_PER_ASK)
        return false;
    worker->ask_for_exit = false;
    worker->looked = 0;
    return true;
}

static bool go_down(struct worker *worker, struct worker_event *event)
{
    if (worker->is_down)
        return false;
    worker->is_down = true;
    *event = (struct worker_event){.type = WORKER_DOWN};
    event->error = worker->faulty ? worker->fault : worker->end;
    event->status = worker->faulty ? worker->fault.status : worker->end_status;
    return true;
}

bool worker_next_event(struct worker *worker, struct worker_event *event)
{
    while (!worker->faulty) {
        struct ring_record record;
        enum ring_peek peek = ring_peek(&worker->events, &record);
        if (peek == RING_RECORD) {
            if (take_event(worker, &record, event) && event->type != 0)
                return true;
        } else if (peek == RING_BROKEN) {
            convict(worker, "its ring of events is damaged");
        } else if (worker->has_gone) {
            break;
        } else if (!must_ask_for_exit(worker) || !worker_look_for_exit(worker, false)) {
            return false;
        }
        /* What it wrote before its exit was seen is still to be read. */
    }
    if (!worker->has_gone) {
        if (!must_ask_for_exit(worker) || !worker_look_for_exit(worker, false))
            return false;
    }
    return go_down(worker, event);
}
