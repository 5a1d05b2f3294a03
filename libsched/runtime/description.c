/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's description as its engine gives it, which may be a plugin's: checked before anything
 * is built on it; and what the core is told of a model.
 */
#include <string.h>

#include "runtime/internal.h"

/* No more than the core counts. */
#define MAX_UNITS (UINT64_C(1) << 38)
#define MAX_PREPARE_REQUESTS 64u

static int check_spec(const char *what, const libsched_tensor_spec *spec, libsched_error *err)
{
    if (spec->name[0] == '\0' || memchr(spec->name, '\0', sizeof(spec->name)) == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes %s whose name is not one", what);
    if (libsched_datatype_name(spec->datatype) == NULL || spec->rank > LIBSCHED_MAX_RANK)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes %s \"%s\" with datatype %u and %u "
                                  "dimensions",
                                  what, spec->name, spec->datatype, spec->rank);
    for (uint32_t i = 0; i < spec->rank; i++)
        if (spec->shape[i] < -1)
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "the engine describes %s \"%s\" with the dimension %lld",
                                      what, spec->name, (long long)spec->shape[i]);
    return LIBSCHED_OK;
}

int runtime_description_check(const libsched_engine_description *d, libsched_error *err)
{
    if (d->n_inputs > LIBSCHED_MAX_TENSORS || d->n_outputs > LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes %u inputs and %u outputs, at most %d each "
                                  "are taken",
                                  d->n_inputs, d->n_outputs, LIBSCHED_MAX_TENSORS);
    for (uint32_t i = 0; i < d->n_inputs; i++) {
        int rc = check_spec("an input", &d->inputs[i], err);
        if (rc < 0)
            return rc;
    }
    for (uint32_t i = 0; i < d->n_outputs; i++) {
        int rc = check_spec("an output", &d->outputs[i], err);
        if (rc < 0)
            return rc;
    }
    if (d->max_batch_requests == 0)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes batches of no request at all");
    if ((d->flags & LIBSCHED_ENGINE_PADS) != 0 && (d->flags & LIBSCHED_ENGINE_STEPS) != 0)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine pads its batches and works in steps, which does not "
                                  "go together");
    if (memchr(d->text, '\0', sizeof(d->text)) == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes itself in a text without an end");
    return LIBSCHED_OK;
}

static uint64_t lower(uint64_t value, uint64_t limit)
{
    return limit != 0 && (value == 0 || limit < value) ? limit : value;
}

void runtime_description_limit(struct runtime_model *model)
{
    libsched_engine_description *d = &model->description;
    d->max_batch_requests = (uint32_t)lower(d->max_batch_requests, model->limit_batch_requests);
    d->max_batch_requests = (uint32_t)lower(d->max_batch_requests, CORE_MAX_BATCH);
    d->max_batch_units = lower(lower(d->max_batch_units, model->limit_batch_units), MAX_UNITS);
    d->max_request_units =
        lower(lower(d->max_request_units, model->limit_request_units), MAX_UNITS);
}

void runtime_description_to_core(const struct runtime_model *model, struct core_model *out)
{
    const libsched_engine_description *d = &model->description;
    *out = (struct core_model){
        .devices = model->devices,
        .max_batch_requests = 1,
        .max_batch_units = MAX_UNITS,
        .max_request_units = MAX_UNITS,
        .max_prepare_requests = MAX_PREPARE_REQUESTS,
        .queue_limit = model->queue_limit,
        .step_limit = model->step_limit,
    };
    if (!model->described)
        return;
    out->flags = ((d->flags & LIBSCHED_ENGINE_PREPARES) != 0 ? CORE_MODEL_PREPARES : 0) |
                 ((d->flags & LIBSCHED_ENGINE_STEPS) != 0 ? CORE_MODEL_STEPS : 0) |
                 ((d->flags & LIBSCHED_ENGINE_REPEATABLE) != 0 ? CORE_MODEL_REPEATABLE : 0) |
                 ((d->flags & LIBSCHED_ENGINE_PADS) != 0 ? CORE_MODEL_PADS : 0);
    out->max_batch_requests = d->max_batch_requests;
    out->max_batch_units = d->max_batch_units;
    out->max_request_units = d->max_request_units;
    out->memory_bytes = d->memory_bytes;
    out->memory_per_unit = d->memory_per_unit;
}
