/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking requests in. What can be known is checked before a byte is copied; a model that is still
 * loading holds its requests, and they are checked against its description when that is there.
 */
#include <string.h>

#include "runtime/internal.h"

uint64_t runtime_client_key(const char *client)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *client != '\0'; client++)
        hash = (hash ^ (unsigned char)*client) * UINT64_C(0x100000001b3);
    return hash;
}

static int refusal(libsched_error *err, int status, const struct runtime_request *request,
                   uint64_t retry_after)
{
    const struct runtime_model *model = request->model;
    unsigned long long ms = (retry_after + 999999) / 1000000;
    switch (status) {
    case LIBSCHED_EQUEUEFULL:
        return libsched_error_set(
            err, status, "the queue of model \"%s\" is full (%u requests): come back in %llu ms",
            model->name, model->queue_limit, ms);
    case LIBSCHED_ECLIENTFULL:
        return libsched_error_set(
            err, status,
            "its client has as many requests waiting as one may: come back in "
            "%llu ms",
            ms);
    case LIBSCHED_ETOOBIG:
        return libsched_error_set(err, status,
                                  "it costs %llu units, model \"%s\" takes at most %llu",
                                  (unsigned long long)request->units, model->name,
                                  (unsigned long long)model->description.max_request_units);
    case LIBSCHED_EDEADLINE:
        if (request->deadline > request->submitted_at)
            return libsched_error_set(err, status,
                                      "its deadline, in %.1f ms, can't be met: model \"%s\" would "
                                      "take longer even if it were next",
                                      (double)(request->deadline - request->submitted_at) / 1e6,
                                      model->name);
        return libsched_error_set(err, status, "its deadline has passed");
    case LIBSCHED_EBUSY:
        return libsched_error_set(
            err, status, "as many requests are in flight as may be: come back in %llu ms", ms);
    case LIBSCHED_ECLOSING:
        return libsched_error_set(err, status, "the scheduler is closing");
    case LIBSCHED_ENOMODEL:
        return libsched_error_set(err, status, "model \"%s\" is not loaded", model->name);
    }
    return libsched_error_set(err, status, "it is not acceptable");
}

int runtime_request_enter(libsched *s, struct runtime_request *request, uint64_t *retry_after,
                          libsched_error *err)
{
    const struct runtime_model *model = request->model;
    int rc = runtime_validate_inputs(model, request->inputs.tensors, request->inputs.n, err);
    if (rc < 0)
        return rc;
    request->units = runtime_units(&model->description, request->input_bytes);
    struct core_event event = {
        .type = CORE_SUBMIT,
        .u.submit = {.model = model->index,
                     .priority = request->priority,
                     .client = request->client,
                     .units = request->units,
                     .deadline = request->deadline,
                     .part_credit = request->part_credit,
                     .wants_parts = request->wants_parts},
    };
    rc = core_handle(s->core, s->now, &event);
    if (rc < 0) {
        *retry_after = event.u.submit.retry_after;
        return refusal(err, rc, request, *retry_after);
    }
    request->core_id = event.u.submit.id;
    s->by_core[request->core_id & RUNTIME_SLOT_MASK] = request;
    return LIBSCHED_OK;
}

/* ----------------------------------------------------------------------------- those that wait */

static int hold(libsched *s, struct runtime_request *request, uint64_t *retry_after,
                libsched_error *err)
{
    struct runtime_model *model = request->model;
    if (model->n_held >= model->queue_limit) {
        *retry_after = RUNTIME_RETRY_AFTER;
        return refusal(err, LIBSCHED_EQUEUEFULL, request, *retry_after);
    }
    list_append(&model->held, &request->held);
    model->n_held++;
    if (request->deadline != 0 && (s->hold_at == 0 || request->deadline < s->hold_at))
        s->hold_at = request->deadline;
    return LIBSCHED_OK;
}

void runtime_held_enter(libsched *s, struct runtime_model *model)
{
    LIST_EACH(&model->held, node, following)
    {
        struct runtime_request *request = LIST_ENTRY(node, struct runtime_request, held);
        libsched_error err = {0};
        uint64_t retry_after;
        int rc = runtime_request_enter(s, request, &retry_after, &err);
        if (rc < 0) {
            runtime_request_finish_held(s, request, rc, err.message);
            continue;
        }
        list_remove(node);
        model->n_held--;
    }
}

void runtime_held_fail(libsched *s, struct runtime_model *model, const libsched_error *why)
{
    LIST_EACH(&model->held, node, following)
    runtime_request_finish_held(s, LIST_ENTRY(node, struct runtime_request, held), why->status,
                                why->message[0] != '\0' ? why->message : NULL);
}

void runtime_held_expire(libsched *s, uint64_t now)
{
    s->hold_at = 0;
    for (uint32_t i = 0; i < s->n_models; i++) {
        LIST_EACH(&s->models[i]->held, node, following)
        {
            struct runtime_request *request = LIST_ENTRY(node, struct runtime_request, held);
            if (request->deadline == 0)
                continue;
            if (request->deadline <= now)
                runtime_request_finish_held(s, request, LIBSCHED_EDEADLINE, NULL);
            else if (s->hold_at == 0 || request->deadline < s->hold_at)
                s->hold_at = request->deadline;
        }
    }
}

/* --------------------------------------------------------------------------------- the function */

static int check_request(const libsched_request *request, libsched_error *err)
{
    if ((request->flags & ~(uint32_t)LIBSCHED_WANT_PARTS) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "flags are 0x%x, of which 0x%x is known",
                                  request->flags, LIBSCHED_WANT_PARTS);
    if (request->priority >= LIBSCHED_PRIORITIES)
        return libsched_error_set(err, LIBSCHED_EINVAL, "priority is %u, it may be from 0 to %d",
                                  request->priority, LIBSCHED_PRIORITIES - 1);
    int rc = runtime_validate_client(request->client, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_validate_tensors(request->inputs, request->n_inputs, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_validate_parameters(request->parameters, request->n_parameters, err);
    return rc;
}

static int find_model(libsched *s, const char *name, struct runtime_model **out,
                      libsched_error *err)
{
    if (name == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "model is NULL");
    struct runtime_model *model = runtime_model_by_name(s, name);
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMODEL, "no model is called \"%.64s\"", name);
    *out = model;
    if (s->draining)
        return libsched_error_set(err, LIBSCHED_ECLOSING, "the scheduler is closing");
    if (model->state == LIBSCHED_MODEL_FAILED)
        return libsched_error_set(err, model->error.status, "model \"%s\": %s", model->name,
                                  model->error.message);
    if (model->state != LIBSCHED_MODEL_LOADING && model->state != LIBSCHED_MODEL_READY)
        return libsched_error_set(err, LIBSCHED_ENOMODEL, "model \"%s\" is being unloaded",
                                  model->name);
    return LIBSCHED_OK;
}

/* What the model says is looked at before the inputs are copied, where it is known; their sizes
 * and what is inside them after that, as BYTES have to be read. */
static int check_contents(const libsched_request *given, libsched_error *err)
{
    for (uint32_t i = 0; i < given->n_inputs; i++) {
        libsched_error why = {0};
        int rc = libsched_tensor_check(&given->inputs[i], &why);
        if (rc < 0)
            return libsched_error_set(err, rc, "%s", why.message);
    }
    return LIBSCHED_OK;
}

static int submit(libsched *s, const libsched_request *given, struct runtime_model **model,
                  uint64_t *id, libsched_error *err)
{
    uint64_t now = runtime_now(s);
    uint64_t retry_after = RUNTIME_RETRY_AFTER;
    struct runtime_request *request;

    int rc = find_model(s, given->model, model, err);
    if (rc == LIBSCHED_OK)
        rc = check_request(given, err);
    if (rc == LIBSCHED_OK)
        rc = check_contents(given, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_request_new(&request, s, given, err);
    if (rc < 0) {
        *id = rc == LIBSCHED_EBUSY ? retry_after : 0;
        return rc;
    }
    request->model = *model;
    request->user = given->user;
    request->client = runtime_client_key(given->client != NULL ? given->client : "");
    request->priority = given->priority;
    request->wants_parts = (given->flags & LIBSCHED_WANT_PARTS) != 0;
    request->part_credit = request->wants_parts ? given->part_credit : UINT32_MAX;
    request->submitted_at = now;
    if (given->timeout_ns != 0 &&
        __builtin_add_overflow(now, given->timeout_ns, &request->deadline))
        request->deadline = 0; /* in 500 years */

    rc = (*model)->described ? runtime_request_enter(s, request, &retry_after, err)
                             : hold(s, request, &retry_after, err);
    if (rc < 0) {
        runtime_request_discard(s, request);
        bool later =
            rc == LIBSCHED_EBUSY || rc == LIBSCHED_EQUEUEFULL || rc == LIBSCHED_ECLIENTFULL;
        *id = later ? retry_after : 0;
        return rc;
    }
    *id = request->id;
    (*model)->counters.submitted++;
    s->counters.submitted++;
    runtime_settle(s);
    return LIBSCHED_OK;
}

int libsched_submit(libsched *s, const libsched_request *request, uint64_t *id, libsched_error *err)
{
    libsched_request given;
    struct runtime_model *model = NULL;
    uint64_t unused;

    if (id == NULL)
        id = &unused;
    *id = 0;
    int rc = runtime_struct_read(&given, sizeof(given), request, "libsched_request", err);
    runtime_lock(s);
    if (rc == LIBSCHED_OK)
        rc = submit(s, &given, &model, id, err);
    if (rc < 0) {
        s->counters.refused++;
        if (model != NULL)
            model->counters.refused++;
    }
    runtime_unlock(s);
    return rc;
}

int libsched_client_set(libsched *s, const char *client, uint32_t weight, uint32_t max_requests)
{
    if (client == NULL || strnlen(client, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return LIBSCHED_EINVAL;
    runtime_lock(s);
    int rc = core_set_client(s->core, runtime_client_key(client), weight, max_requests);
    runtime_unlock(s);
    return rc;
}

static int cancel(libsched *s, uint64_t id)
{
    struct runtime_request *request = runtime_request_find(s, id);
    if (request == NULL || request->ended)
        return LIBSCHED_ENOENT;
    if (request->core_id == 0) {
        runtime_request_finish_held(s, request, LIBSCHED_ECANCELED, NULL);
    } else {
        struct core_event event = {.type = CORE_CANCEL, .u.cancel.id = request->core_id};
        int rc = core_handle(s->core, s->now, &event);
        if (rc < 0)
            return rc;
    }
    runtime_settle(s);
    return LIBSCHED_OK;
}

int libsched_cancel(libsched *s, uint64_t id)
{
    runtime_lock(s);
    runtime_now(s);
    int rc = cancel(s, id);
    runtime_unlock(s);
    return rc;
}

static int grant(libsched *s, uint64_t id, uint32_t n)
{
    struct runtime_request *request = runtime_request_find(s, id);
    if (request == NULL || request->ended)
        return LIBSCHED_ENOENT;
    if (request->core_id == 0) {
        uint32_t sum;
        request->part_credit =
            __builtin_add_overflow(request->part_credit, n, &sum) ? UINT32_MAX : sum;
        return LIBSCHED_OK;
    }
    struct core_event event = {.type = CORE_GRANT, .u.grant = {.id = request->core_id, .parts = n}};
    int rc = core_handle(s->core, s->now, &event);
    runtime_settle(s);
    return rc;
}

int libsched_grant(libsched *s, uint64_t id, uint32_t n)
{
    runtime_lock(s);
    runtime_now(s);
    int rc = grant(s, id, n);
    runtime_unlock(s);
    return rc;
}
