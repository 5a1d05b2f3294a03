/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs as the maps that stand for them in messages.
 */
#include "port.h"
#include "reply.h"
#include "utf8.h"

const char *describe_job_state(uint32_t state)
{
    static const char *const names[] = {
        [LIBSCHED_JOB_CHECKING] = "checking", [LIBSCHED_JOB_PENDING] = "pending",
        [LIBSCHED_JOB_STARTING] = "starting", [LIBSCHED_JOB_RUNNING] = "running",
        [LIBSCHED_JOB_CLOSING] = "closing",   [LIBSCHED_JOB_ENDED] = "ended",
    };
    return state >= LIBSCHED_JOB_CHECKING && state <= LIBSCHED_JOB_ENDED ? names[state] : "unknown";
}

static void put_uint(struct frame_writer *w, const char *key, uint64_t value)
{
    encode_str(w, key);
    encode_uint(w, value);
}

static void put_str(struct frame_writer *w, const char *key, const char *value)
{
    encode_str(w, key);
    encode_str(w, value);
}

/* Words of a client or a program, which may be any bytes. */
static void put_words(struct frame_writer *w, const char *key, const char *value)
{
    encode_str(w, key);
    encode_words(w, value);
}

void describe_job(struct port *p, const libsched_job_info *info)
{
    struct frame_writer *w = &p->writer;
    bool program = info->program[0] != '\0', total = info->total != 0;
    bool starts_by = info->starts_by_ns != 0;

    encode_map(w, 14u + program + total + starts_by);
    put_uint(w, "job", info->id);
    put_str(w, "name", info->name);
    if (program)
        put_str(w, "program", info->program);
    put_str(w, "state", describe_job_state(info->state));
    put_words(w, "client", info->client);
    put_words(w, "text", info->text);
    put_words(w, "why", info->why);
    put_uint(w, "n_devices", info->n_devices);
    encode_key(w, "devices");
    describe_device_names(p, info->devices);
    put_uint(w, "step", info->step);
    put_uint(w, "done", info->done);
    if (total)
        put_uint(w, "total", info->total);
    put_words(w, "message", info->message);
    put_uint(w, "queued_us", info->queued_ns / 1000);
    put_uint(w, "run_us", info->run_ns / 1000);
    put_uint(w, "device_us", info->device_ns / 1000);
    if (starts_by)
        put_uint(w, "starts_by_us", info->starts_by_ns / 1000);
}

void describe_jobs(struct port *p)
{
    uint32_t n = libsched_job_count(p->sched);
    encode_array(&p->writer, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
        libsched_job_get(p->sched, i, &info);
        describe_job(p, &info);
    }
}

/* The same of any length. */
static void put_long(struct port *p, const char *text)
{
    size_t size = strlen(text) + 1;
    char *clean = msgpack_zone_malloc_no_align(&p->zone, size);
    if (clean != NULL)
        utf8_clean(clean, size, text);
    encode_str(&p->writer, clean != NULL ? clean : "");
    msgpack_zone_clear(&p->zone);
}

static void put_value(struct port *p, const libsched_parameter *value)
{
    struct frame_writer *w = &p->writer;
    msgpack_packer pk = encode_packer(w);
    switch (value->type) {
    case LIBSCHED_PARAMETER_BOOL:
        encode_bool(w, value->value.boolean);
        break;
    case LIBSCHED_PARAMETER_INT:
        encode_int(w, value->value.integer);
        break;
    case LIBSCHED_PARAMETER_FLOAT:
        msgpack_pack_double(&pk, value->value.real);
        break;
    case LIBSCHED_PARAMETER_STRING:
        put_long(p, value->value.string);
        break;
    default:
        encode_nil(w);
    }
}

void describe_job_event(struct port *p, const libsched_completion *c)
{
    struct frame_writer *w = &p->writer;
    bool ended = c->state == LIBSCHED_JOB_ENDED, total = c->total != 0;

    encode_map(w, 7u + total + (ended ? 2 : 0));
    put_str(w, "event", "job");
    put_uint(w, "job", c->id);
    put_str(w, "name", c->name);
    put_str(w, "state", describe_job_state(c->state));
    put_uint(w, "done", c->done);
    if (total)
        put_uint(w, "total", c->total);
    /* What a failed one has to say is in its error. */
    put_words(w, "message", c->status < 0 ? "" : c->message);
    encode_key(w, "devices");
    describe_device_names(p, c->devices);
    if (!ended)
        return;
    encode_key(w, "status");
    if (c->status < 0)
        encode_error(w, c->status, c->message, 0);
    else
        encode_nil(w);
    encode_key(w, "result");
    encode_map(w, c->n_values);
    for (uint32_t i = 0; i < c->n_values; i++) {
        encode_words(w, c->values[i].name);
        put_value(p, &c->values[i]);
    }
}
