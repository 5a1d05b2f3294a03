/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load, unload, wait_ready and models.
 */
#include "decode.h"
#include "port.h"
#include "reply.h"

static int read_load_key(struct port *p, const msgpack_object_kv *kv, libsched_model_options *out,
                         libsched_error *err)
{
    struct text key = {0};
    uint64_t number;
    int rc;

    decode_text(&kv->key, &key);
    if (text_is(key, "name"))
        return decode_name(&p->zone, "name", &kv->val, &out->name, err);
    if (text_is(key, "path"))
        return decode_string(&p->zone, "path", &kv->val, &out->path, err);
    if (text_is(key, "engine"))
        return decode_name(&p->zone, "engine", &kv->val, &out->engine, err);
    if (text_is(key, "library"))
        return decode_string(&p->zone, "library", &kv->val, &out->library, err);
    if (text_is(key, "parameters"))
        return decode_parameters(&p->zone, "parameters", &kv->val, &out->parameters,
                                 &out->n_parameters, err);
    if (text_is(key, "devices"))
        return decode_names(&p->zone, "devices", &kv->val, &out->devices, &out->n_devices, err);
    if (text_is(key, "max_batch_requests")) {
        rc = decode_number("max_batch_requests", &kv->val, UINT32_MAX, &number, err);
        if (rc == LIBSCHED_OK)
            out->max_batch_requests = (uint32_t)number;
        return rc;
    }
    if (text_is(key, "max_batch_units"))
        return decode_number("max_batch_units", &kv->val, UINT64_MAX, &out->max_batch_units, err);
    if (text_is(key, "max_request_units"))
        return decode_number("max_request_units", &kv->val, UINT64_MAX, &out->max_request_units,
                             err);
    if (text_is(key, "queue_limit")) {
        rc = decode_number("queue_limit", &kv->val, UINT32_MAX, &number, err);
        if (rc == LIBSCHED_OK)
            out->queue_limit = (uint32_t)number;
        return rc;
    }
    if (text_is(key, "step_limit_ms")) {
        rc = decode_number("step_limit_ms", &kv->val, MAX_LIMIT_MS, &number, err);
        if (rc == LIBSCHED_OK)
            out->step_limit_ns = number == 0 ? UINT64_MAX : number * 1000000;
        return rc;
    }
    return decode_unknown_key("load", &kv->key,
                              "name, path, engine, library, parameters, devices, "
                              "max_batch_requests, max_batch_units, max_request_units, "
                              "queue_limit and step_limit_ms",
                              err);
}

void method_load(struct port *p, const struct message *m)
{
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    libsched_error err;
    int rc = LIBSCHED_OK;

    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "load takes one map");
    for (uint32_t i = 0; rc == LIBSCHED_OK && i < m->params[0].via.map.size; i++)
        rc = read_load_key(p, &m->params[0].via.map.ptr[i], &options, &err);
    if (rc == LIBSCHED_OK && options.name == NULL)
        rc = libsched_error_set(&err, LIBSCHED_EINVAL, "load: name is missing");
    if (rc == LIBSCHED_OK && waiters_full(&p->waiters))
        rc = libsched_error_set(&err, LIBSCHED_EBUSY, "too many requests wait for models");
    if (rc == LIBSCHED_OK) {
        p->described.specs = NULL;
        rc = libsched_model_load(p->sched, &options, &err);
    }
    if (rc < 0)
        reply_error(p, m->index, &err);
    else
        waiters_add(p, WAITER_LOAD, m->index, options.name, UINT64_MAX);
}

/* [{"name", "deadline"}]; a deadline only where `deadline` is not NULL. */
static int read_name(struct port *p, const struct message *m, const char *method, const char **name,
                     uint64_t *deadline, libsched_error *err)
{
    *name = NULL;
    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s takes one map", method);
    const msgpack_object_map *map = &m->params[0].via.map;
    for (uint32_t i = 0; i < map->size; i++) {
        struct text key = {0};
        int rc;
        decode_text(&map->ptr[i].key, &key);
        if (text_is(key, "name"))
            rc = decode_name(&p->zone, "name", &map->ptr[i].val, name, err);
        else if (deadline != NULL && text_is(key, "deadline"))
            rc = decode_number("deadline", &map->ptr[i].val, UINT64_MAX - 1, deadline, err);
        else
            rc = decode_unknown_key(method, &map->ptr[i].key,
                                    deadline != NULL ? "name and deadline" : "name", err);
        if (rc < 0)
            return rc;
    }
    if (*name == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: name is missing", method);
    return LIBSCHED_OK;
}

void method_unload(struct port *p, const struct message *m)
{
    libsched_error err;
    const char *name;
    int rc = read_name(p, m, "unload", &name, NULL, &err);
    if (rc == LIBSCHED_OK && waiters_full(&p->waiters))
        rc = libsched_error_set(&err, LIBSCHED_EBUSY, "too many requests wait for models");
    if (rc == LIBSCHED_OK) {
        p->described.specs = NULL;
        rc = libsched_model_unload(p->sched, name, &err);
    }
    if (rc < 0)
        reply_error(p, m->index, &err);
    else
        waiters_add(p, WAITER_UNLOAD, m->index, name, UINT64_MAX);
}

void method_wait_ready(struct port *p, const struct message *m)
{
    libsched_error err;
    const char *name;
    uint64_t deadline = UINT64_MAX;
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;

    int rc = read_name(p, m, "wait_ready", &name, &deadline, &err);
    if (rc < 0) {
        reply_error(p, m->index, &err);
        return;
    }
    p->described.specs = NULL;
    if (libsched_model_find(p->sched, name, &info) < 0) {
        reply_failure(p, m->index, LIBSCHED_ENOMODEL, "no model \"%s\" is loaded", name);
        return;
    }
    if (info.state == LIBSCHED_MODEL_FAILED && info.error.status < 0) {
        reply_error(p, m->index, &info.error);
        return;
    }
    if (info.state == LIBSCHED_MODEL_READY) {
        reply_begin(p, m->index);
        describe_model(p, name);
        reply_end(p, m->index);
        return;
    }
    waiters_add(p, WAITER_READY, m->index, name, deadline);
}

void method_models(struct port *p, const struct message *m)
{
    reply_begin(p, m->index);
    describe_models(p);
    reply_end(p, m->index);
}
