/* SPDX-License-Identifier: Apache-2.0 */
/*
 * submit, reserve, release, cancel_job, job and jobs.
 */
#include <inttypes.h>

#include "decode.h"
#include "port.h"
#include "reply.h"

/* Where there are too many: nobody knows when one ends. */
#define RETRY_NS (1000 * UINT64_C(1000000))

static int read_u32(const char *what, const msgpack_object *o, uint64_t max, uint32_t *out,
                    libsched_error *err)
{
    uint64_t number;
    int rc = decode_number(what, o, max, &number, err);
    if (rc == LIBSCHED_OK)
        *out = (uint32_t)number;
    return rc;
}

static int read_limit(const char *what, const msgpack_object *o, uint64_t *out_ns,
                      libsched_error *err)
{
    uint64_t ms;
    int rc = decode_number(what, o, MAX_LIMIT_MS, &ms, err);
    if (rc == LIBSCHED_OK)
        *out_ns = ms * 1000000;
    return rc;
}

/* A key that submit and reserve have; LIBSCHED_ENOENT where it is none. */
static int read_common_key(struct port *p, struct text key, const msgpack_object *value,
                           libsched_job_options *out, libsched_error *err)
{
    if (text_is(key, "name"))
        return decode_name(&p->zone, "name", value, &out->name, err);
    if (text_is(key, "devices"))
        return read_u32("devices", value, UINT32_MAX, &out->n_devices, err);
    if (text_is(key, "allowed"))
        return decode_names(&p->zone, "allowed", value, &out->devices, &out->n_device_names, err);
    if (text_is(key, "client"))
        return decode_client(&p->zone, value, &out->client, err);
    if (text_is(key, "priority"))
        return read_u32("priority", value, LIBSCHED_PRIORITIES - 1, &out->priority, err);
    if (text_is(key, "time_limit_ms"))
        return read_limit("time_limit_ms", value, &out->time_limit_ns, err);
    return LIBSCHED_ENOENT;
}

static int read_submit_key(struct port *p, const msgpack_object_kv *kv, libsched_job_options *out,
                           libsched_error *err)
{
    struct text key = {0};
    decode_text(&kv->key, &key);
    int rc = read_common_key(p, key, &kv->val, out, err);
    if (rc != LIBSCHED_ENOENT)
        return rc;
    if (text_is(key, "program"))
        return decode_name(&p->zone, "program", &kv->val, &out->program, err);
    if (text_is(key, "library"))
        return decode_string(&p->zone, "library", &kv->val, &out->library, err);
    if (text_is(key, "parameters"))
        return decode_parameters(&p->zone, "parameters", &kv->val, &out->parameters,
                                 &out->n_parameters, err);
    if (text_is(key, "memory_bytes"))
        return decode_number("memory_bytes", &kv->val, UINT64_MAX, &out->memory_bytes, err);
    if (text_is(key, "step_limit_ms"))
        return read_limit("step_limit_ms", &kv->val, &out->step_limit_ns, err);
    if (text_is(key, "inputs"))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "submit: a program takes parameters and no tensors: give it the "
                                  "path of a file that holds them");
    return decode_unknown_key("submit", &kv->key,
                              "program, name, library, parameters, devices, allowed, memory_bytes, "
                              "client, priority, time_limit_ms and step_limit_ms",
                              err);
}

static int read_reserve_key(struct port *p, const msgpack_object_kv *kv, libsched_job_options *out,
                            libsched_error *err)
{
    struct text key = {0};
    decode_text(&kv->key, &key);
    int rc = read_common_key(p, key, &kv->val, out, err);
    if (rc != LIBSCHED_ENOENT)
        return rc;
    return decode_unknown_key("reserve", &kv->key,
                              "name, devices, allowed, client, priority and time_limit_ms", err);
}

typedef int read_key_fn(struct port *p, const msgpack_object_kv *kv, libsched_job_options *out,
                        libsched_error *err);

static void submit(struct port *p, const struct message *m, const char *method, uint32_t flags,
                   read_key_fn *read_key)
{
    libsched_job_options options = LIBSCHED_JOB_OPTIONS_INIT;
    libsched_error err;
    uint64_t job = 0;
    int rc = LIBSCHED_OK;

    options.flags = flags;
    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "%s takes one map", method);
    for (uint32_t i = 0; rc == LIBSCHED_OK && i < m->params[0].via.map.size; i++)
        rc = read_key(p, &m->params[0].via.map.ptr[i], &options, &err);
    if (rc == LIBSCHED_OK && (flags & LIBSCHED_JOB_RESERVE) == 0 && options.program == NULL)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "%s: program is missing", method);
    if (rc == LIBSCHED_OK)
        rc = libsched_job_submit(p->sched, &options, &job, &err);
    if (rc < 0) {
        reply_error_retry(p, m->index, &err, rc == LIBSCHED_EBUSY ? RETRY_NS : 0);
        return;
    }
    reply_begin(p, m->index);
    encode_map(&p->writer, 1);
    encode_key(&p->writer, "job");
    encode_uint(&p->writer, job);
    reply_end(p, m->index);
}

void method_submit(struct port *p, const struct message *m)
{
    submit(p, m, "submit", 0, read_submit_key);
}

void method_reserve(struct port *p, const struct message *m)
{
    submit(p, m, "reserve", LIBSCHED_JOB_RESERVE, read_reserve_key);
}

/* [{"job"}]; where it is not that, it is answered so. */
static bool read_job(struct port *p, const struct message *m, const char *method, uint64_t *job)
{
    libsched_error err;
    int rc = LIBSCHED_OK;
    *job = 0;
    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "%s takes one map", method);
    for (uint32_t i = 0; rc == LIBSCHED_OK && i < m->params[0].via.map.size; i++) {
        const msgpack_object_kv *kv = &m->params[0].via.map.ptr[i];
        struct text key = {0};
        decode_text(&kv->key, &key);
        if (text_is(key, "job"))
            rc = decode_number("job", &kv->val, UINT64_MAX, job, &err);
        else
            rc = decode_unknown_key(method, &kv->key, "job", &err);
    }
    if (rc == LIBSCHED_OK && *job == 0)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "%s: job is missing, or 0", method);
    if (rc < 0)
        reply_error(p, m->index, &err);
    return rc == LIBSCHED_OK;
}

static void answer(struct port *p, const struct message *m, uint64_t job, int rc)
{
    if (rc == LIBSCHED_OK)
        reply_nil(p, m->index);
    else if (rc == LIBSCHED_ENOENT)
        reply_failure(p, m->index, rc, "there is no job %" PRIu64 ", or it has ended", job);
    else if (rc == LIBSCHED_EINVAL)
        reply_failure(p, m->index, rc, "job %" PRIu64 " runs a program: cancel it instead", job);
    else
        reply_failure(p, m->index, rc, "job %" PRIu64 " can't be told", job);
}

void method_release(struct port *p, const struct message *m)
{
    uint64_t job;
    if (read_job(p, m, "release", &job))
        answer(p, m, job, libsched_job_release(p->sched, job));
}

void method_cancel_job(struct port *p, const struct message *m)
{
    uint64_t job;
    if (read_job(p, m, "cancel_job", &job))
        answer(p, m, job, libsched_job_cancel(p->sched, job));
}

void method_job(struct port *p, const struct message *m)
{
    uint64_t job;
    libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
    if (!read_job(p, m, "job", &job))
        return;
    if (libsched_job_find(p->sched, job, &info) < 0) {
        answer(p, m, job, LIBSCHED_ENOENT);
        return;
    }
    reply_begin(p, m->index);
    describe_job(p, &info);
    reply_end(p, m->index);
}

void method_jobs(struct port *p, const struct message *m)
{
    reply_begin(p, m->index);
    describe_jobs(p);
    reply_end(p, m->index);
}
