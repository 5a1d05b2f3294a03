/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libsched has finished becomes responses, parts and events.
 *
 * Outputs lie in memory that a worker could still write, so whatever is decided by is read once:
 * a tensor's description is copied before it is looked at, and a length before it is used.
 */
#include <inttypes.h>
#include <string.h>

#include "port.h"
#include "reply.h"

#define REAP_AT_ONCE 64
/* Then the input is looked at again. */
#define REAP_PER_ROUND 1024

/* The elements of a BYTES tensor as an array of binaries. */
static int put_bytes(struct frame_writer *w, const libsched_tensor *tensor, libsched_error *err)
{
    const uint8_t *at = tensor->data;
    uint64_t left = tensor->size;
    int64_t n = libsched_shape_elements(tensor->shape, tensor->rank);

    if (n < 0 || (uint64_t)n > tensor->size / 4)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "output \"%s\": its shape is not that of its data", tensor->name);
    encode_array(w, (uint32_t)n);
    for (int64_t i = 0; i < n; i++) {
        uint32_t length = 0;
        if (left >= 4)
            memcpy(&length, at, 4);
        if (left < 4 || length > left - 4)
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "output \"%s\": element %" PRId64 " reaches beyond its data",
                                      tensor->name, i);
        encode_bin(w, at + 4, length);
        at += 4 + (size_t)length;
        left -= 4 + (uint64_t)length;
    }
    return LIBSCHED_OK;
}

static int put_tensor(struct frame_writer *w, const libsched_tensor *output, bool *referenced,
                      uint64_t *total, libsched_error *err)
{
    libsched_tensor tensor = *output;
    char name[LIBSCHED_NAME_SIZE];
    const char *datatype = libsched_datatype_name(tensor.datatype);

    memcpy(name, tensor.name, strnlen(tensor.name, sizeof(name) - 1) + 1);
    name[sizeof(name) - 1] = '\0';
    tensor.name = name;
    if (datatype == NULL || tensor.rank > LIBSCHED_MAX_RANK)
        return libsched_error_set(err, LIBSCHED_EENGINE, "output \"%s\": not a tensor", name);
    if (tensor.size > PORT_MAX_REPLY - *total)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "the outputs have more than %" PRIu64
                                  " bytes, which is as much as one answer carries; ask for less "
                                  "at once",
                                  PORT_MAX_REPLY);
    *total += tensor.size;

    encode_str(w, name);
    encode_map(w, 3);
    encode_key(w, "datatype");
    encode_str(w, datatype);
    encode_key(w, "shape");
    encode_array(w, tensor.rank);
    for (uint32_t i = 0; i < tensor.rank; i++)
        encode_int(w, tensor.shape[i]);
    encode_key(w, "data");
    if (tensor.datatype == LIBSCHED_BYTES)
        return put_bytes(w, &tensor, err);
    encode_bin_head(w, tensor.size);
    if (tensor.size < WRITER_REFERENCE_SIZE) {
        frame_writer_append(w, tensor.data, tensor.size);
        return LIBSCHED_OK;
    }
    frame_writer_reference(w, tensor.data, tensor.size);
    *referenced = true;
    return LIBSCHED_OK;
}

static int put_outputs(struct frame_writer *w, const libsched_completion *c, bool *referenced,
                       libsched_error *err)
{
    uint64_t total = 0;
    encode_key(w, "outputs");
    encode_map(w, c->n_outputs);
    for (uint32_t i = 0; i < c->n_outputs; i++) {
        int rc = put_tensor(w, &c->outputs[i], referenced, &total, err);
        if (rc < 0)
            return rc;
    }
    return LIBSCHED_OK;
}

/* The request of a completion, or REQUEST_NONE. */
static uint32_t request_of(const struct port *p, const libsched_completion *c)
{
    if (c->user >= p->requests.capacity)
        return REQUEST_NONE;
    const struct request *request = request_table_at(&p->requests, (uint32_t)c->user);
    return request->state == REQUEST_SUBMITTED && request->handle == c->id ? (uint32_t)c->user
                                                                           : REQUEST_NONE;
}

/* These answer whether the writer has taken the completion over. */

static bool answer_end(struct port *p, const libsched_completion *c)
{
    uint32_t index = request_of(p, c);
    if (index == REQUEST_NONE)
        return false;
    p->in_flight--;

    struct request *request = request_table_at(&p->requests, index);
    libsched_error err = {.status = c->status};
    if (request->failed_part != LIBSCHED_OK) {
        libsched_error_set(&err, request->failed_part,
                           "a part of the answer was too large, or no tensors");
        reply_error(p, index, &err);
        return false;
    }
    if (c->status < 0) {
        libsched_error_set(&err, c->status, "%s", c->message);
        reply_error(p, index, &err);
        return false;
    }

    struct frame_writer *w = &p->writer;
    bool referenced = false;
    reply_begin(p, index);
    encode_map(w, 6);
    if (put_outputs(w, c, &referenced, &err) < 0) {
        reply_abort(p);
        reply_error(p, index, &err);
        return false;
    }
    encode_key(w, "device");
    describe_device_name(p, c->device);
    encode_key(w, "batch");
    encode_uint(w, c->batch_size);
    encode_key(w, "queue_us");
    encode_uint(w, c->queue_ns / 1000);
    encode_key(w, "compute_us");
    encode_uint(w, c->compute_ns / 1000);
    encode_key(w, "attempts");
    encode_uint(w, c->attempts);
    if (referenced)
        frame_writer_hold(w, c);
    reply_end(p, index);
    return referenced;
}

static bool answer_part(struct port *p, const libsched_completion *c)
{
    uint32_t index = request_of(p, c);
    if (index == REQUEST_NONE)
        return false;
    struct request *request = request_table_at(&p->requests, index);
    if (request->failed_part != LIBSCHED_OK)
        return false;

    struct frame_writer *w = &p->writer;
    libsched_error err = {0};
    bool referenced = false;
    frame_writer_begin(w);
    frame_writer_append(w, "\x93\x02", 2);
    encode_str(w, "part");
    encode_array(w, 2);
    encode_uint(w, request->id);
    encode_map(w, 1);
    if (put_outputs(w, c, &referenced, &err) < 0) {
        /* The answer would have a hole: it ends here, and its end says so. */
        frame_writer_abort(w);
        request->failed_part = err.status;
        libsched_cancel(p->sched, request->handle);
        return false;
    }
    if (referenced)
        frame_writer_hold(w, c);
    frame_writer_end(w);
    p->counters.parts_out++;
    return referenced;
}

static void announce_model(struct port *p, const libsched_completion *c)
{
    struct frame_writer *w = &p->writer;
    notify_begin(p, "event");
    encode_map(w, 4);
    encode_key(w, "event");
    encode_str(w, "model");
    encode_key(w, "name");
    encode_str(w, c->name);
    encode_key(w, "state");
    encode_str(w, describe_model_state(c->state));
    encode_key(w, "error");
    if (c->status < 0)
        encode_error(w, c->status, c->message, 0);
    else
        encode_nil(w);
    notify_end(p);

    p->described.specs = NULL;
    waiters_model_changed(p, c->name, c->state, c->status, c->message);
    held_model_changed(p, c->name);
}

static void announce_device(struct port *p, const libsched_completion *c)
{
    struct frame_writer *w = &p->writer;
    notify_begin(p, "event");
    encode_map(w, 4);
    encode_key(w, "event");
    encode_str(w, "device");
    encode_key(w, "name");
    encode_str(w, c->name);
    encode_key(w, "state");
    encode_str(w, describe_device_state(c->state));
    encode_key(w, "reason");
    encode_words(w, c->message);
    notify_end(p);
}

static bool answer(struct port *p, const libsched_completion *c)
{
    switch (c->kind) {
    case LIBSCHED_END:
        return answer_end(p, c);
    case LIBSCHED_PART:
        return answer_part(p, c);
    case LIBSCHED_MODEL:
        announce_model(p, c);
        return false;
    case LIBSCHED_DEVICE:
        announce_device(p, c);
        return false;
    case LIBSCHED_JOB:
        notify_begin(p, "event");
        describe_job_event(p, c);
        notify_end(p);
        return false;
    default:
        return false;
    }
}

size_t completions_reap(struct port *p)
{
    libsched_completion done[REAP_AT_ONCE];
    size_t total = 0, n;

    while (total < REAP_PER_ROUND && frame_writer_backlog(&p->writer) < PORT_MAX_BACKLOG &&
           (n = libsched_reap(p->sched, done, REAP_AT_ONCE)) > 0) {
        size_t to_release = 0;
        for (size_t i = 0; i < n; i++)
            if (!answer(p, &done[i]))
                done[to_release++] = done[i];
        if (to_release > 0)
            libsched_release(p->sched, done, to_release);
        total += n;
        if (n < REAP_AT_ONCE)
            break;
    }
    if (total > 0)
        waiters_idle(p);
    return total;
}
