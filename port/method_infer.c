/* SPDX-License-Identifier: Apache-2.0 */
/*
 * infer, and the notifications about one: cancel and grant.
 */
#include <inttypes.h>

#include "decode.h"
#include "port.h"
#include "reply.h"
#include "tensor_decode.h"

/* The time after which a request that could not be kept may come back. */
#define HELD_RETRY_NS (100 * UINT64_C(1000000))

struct infer {
    libsched_request request;
    const msgpack_object *inputs;
    uint64_t deadline; /* UINT64_MAX: none */
};

static int read_key(struct port *p, const msgpack_object_kv *kv, struct infer *out,
                    libsched_error *err)
{
    libsched_request *r = &out->request;
    struct text key = {0};
    uint64_t number;
    int rc;

    decode_text(&kv->key, &key);
    if (text_is(key, "model"))
        return decode_name(&p->zone, "model", &kv->val, &r->model, err);
    if (text_is(key, "inputs")) {
        out->inputs = &kv->val;
        return LIBSCHED_OK;
    }
    if (text_is(key, "client"))
        return decode_client(&p->zone, &kv->val, &r->client, err);
    if (text_is(key, "deadline")) {
        rc = decode_number("deadline", &kv->val, UINT64_MAX - 1, &out->deadline, err);
        return rc;
    }
    if (text_is(key, "priority")) {
        rc = decode_number("priority", &kv->val, LIBSCHED_PRIORITIES - 1, &number, err);
        if (rc == LIBSCHED_OK)
            r->priority = (uint32_t)number;
        return rc;
    }
    if (text_is(key, "parts")) {
        rc = decode_number("parts", &kv->val, UINT32_MAX, &number, err);
        if (rc == LIBSCHED_OK) {
            r->flags |= LIBSCHED_WANT_PARTS;
            r->part_credit = (uint32_t)number;
        }
        return rc;
    }
    if (text_is(key, "parameters"))
        return decode_parameters(&p->zone, "parameters", &kv->val, &r->parameters, &r->n_parameters,
                                 err);
    return decode_unknown_key(
        "infer", &kv->key, "model, inputs, parameters, client, priority, deadline and parts", err);
}

static int read_infer(struct port *p, const struct message *m, struct infer *out,
                      libsched_error *err)
{
    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        return libsched_error_set(err, LIBSCHED_EINVAL, "infer takes one map, got %s",
                                  m->n_params == 1 ? decode_kind(m->params)
                                                   : "another number of params");
    const msgpack_object_map *map = &m->params[0].via.map;
    for (uint32_t i = 0; i < map->size; i++) {
        int rc = read_key(p, &map->ptr[i], out, err);
        if (rc < 0)
            return rc;
    }
    if (out->request.model == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "infer: model is missing");
    if (out->inputs == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "infer: inputs is missing");
    return LIBSCHED_OK;
}

/* The leases it names do not expire while it waits: the time for writing them is over. */
static void keep_leases(struct port *p, uint32_t index, const msgpack_object_map *inputs)
{
    struct request *request = request_table_at(&p->requests, index);
    for (uint32_t i = 0; i < inputs->size; i++) {
        const msgpack_object *input = &inputs->ptr[i].val;
        for (uint32_t k = 0; input->type == MSGPACK_OBJECT_MAP && k < input->via.map.size; k++) {
            struct text key = {0};
            uint64_t id;
            decode_text(&input->via.map.ptr[k].key, &key);
            if (text_is(key, "lease") && decode_uint(&input->via.map.ptr[k].val, &id) &&
                id <= UINT32_MAX)
                lease_keep(&p->leases, (uint32_t)id, &request->leases);
        }
    }
}

/* The model's description is not known yet: the request is kept until it is. */
static void hold(struct port *p, const struct message *m, const struct infer *infer,
                 libsched_error *err)
{
    /* One that failed has no description to wait for. */
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    int rc = libsched_model_find(p->sched, infer->request.model, &info);
    if (rc == LIBSCHED_OK && info.state == LIBSCHED_MODEL_FAILED && info.error.status < 0) {
        reply_error(p, m->index, &info.error);
        return;
    }
    if (rc < 0 || info.state != LIBSCHED_MODEL_LOADING) {
        reply_error(p, m->index, err);
        return;
    }
    if (held_add(&p->held, m->index, infer->request.model, infer->deadline, m->data, m->size) ==
        0) {
        request_table_at(&p->requests, m->index)->state = REQUEST_HELD;
        keep_leases(p, m->index, &infer->inputs->via.map);
        return;
    }
    libsched_error_set(err, LIBSCHED_ENOTREADY,
                       "model \"%s\" is still loading, and no more requests can be kept for it",
                       infer->request.model);
    reply_error_retry(p, m->index, err, HELD_RETRY_NS);
}

static int submit(struct port *p, const struct message *m, struct infer *infer,
                  struct decoded_inputs *inputs, uint64_t *retry_ns, libsched_error *err)
{
    libsched_request *r = &infer->request;
    uint64_t handle = 0;

    r->inputs = inputs->tensors;
    r->buffers = inputs->buffers;
    r->n_inputs = inputs->n;
    r->user = m->index;
    int rc = libsched_submit(p->sched, r, &handle, err);
    if (rc < 0) {
        if (rc == LIBSCHED_EBUSY || rc == LIBSCHED_EQUEUEFULL || rc == LIBSCHED_ECLIENTFULL)
            *retry_ns = handle > 0 ? handle : 1;
        return rc;
    }
    struct request *request = request_table_at(&p->requests, m->index);
    request->state = REQUEST_SUBMITTED;
    request->handle = handle;
    p->in_flight++;
    return LIBSCHED_OK;
}

void method_infer(struct port *p, const struct message *m)
{
    struct infer infer = {.request = LIBSCHED_REQUEST_INIT, .deadline = UINT64_MAX};
    struct decoded_inputs inputs;
    libsched_error err;
    uint64_t retry_ns = 0;

    int rc = read_infer(p, m, &infer, &err);
    if (rc == LIBSCHED_OK && infer.deadline != UINT64_MAX) {
        uint64_t now = libsched_now();
        if (infer.deadline <= now)
            rc = libsched_error_set(&err, LIBSCHED_EDEADLINE,
                                    "its deadline had passed %" PRIu64 " us before it came",
                                    (now - infer.deadline) / 1000);
        else
            infer.request.timeout_ns = infer.deadline - now;
    }
    if (rc < 0) {
        reply_error(p, m->index, &err);
        return;
    }

    rc = inputs_decode(p, m, infer.request.model, infer.inputs, &inputs, &err);
    request_table_at(&p->requests, m->index)->leases = inputs.leases;
    if (rc == LIBSCHED_OK)
        rc = submit(p, m, &infer, &inputs, &retry_ns, &err);
    else if (rc == LIBSCHED_EBUSY)
        retry_ns = 1;
    inputs_release(&inputs);
    if (rc == LIBSCHED_ENOTREADY) {
        hold(p, m, &infer, &err);
    } else if (rc < 0) {
        reply_error_retry(p, m->index, &err, retry_ns);
        overload_count(p, err.status);
    }
}

/* The request that a notification is about; REQUEST_NONE where it is not in flight. */
static uint32_t subject(const struct port *p, const struct message *m, uint32_t n_params)
{
    uint64_t id;
    if (m->n_params != n_params || !decode_uint(&m->params[0], &id) || id > UINT32_MAX)
        return REQUEST_NONE;
    return request_table_find(&p->requests, (uint32_t)id);
}

void method_cancel(struct port *p, const struct message *m)
{
    uint32_t index = subject(p, m, 1);
    if (index == REQUEST_NONE)
        return;
    const struct request *request = request_table_at(&p->requests, index);
    if (request->state == REQUEST_SUBMITTED)
        libsched_cancel(p->sched, request->handle);
    else if (request->state == REQUEST_HELD)
        held_cancel(p, index);
    else if (request->state == REQUEST_WAITING)
        waiters_cancel(p, index);
}

void method_grant(struct port *p, const struct message *m)
{
    uint64_t n;
    uint32_t index = subject(p, m, 2);
    if (index == REQUEST_NONE || !decode_uint(&m->params[1], &n))
        return;
    const struct request *request = request_table_at(&p->requests, index);
    if (request->state == REQUEST_SUBMITTED)
        libsched_grant(p->sched, request->handle, n < UINT32_MAX ? (uint32_t)n : UINT32_MAX);
}
