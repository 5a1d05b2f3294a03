/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of models. */
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"

uint32_t libsched_model_count(const libsched *s)
{
    libsched *unlocked = (libsched *)(uintptr_t)s; /* the lock is not part of what is read */
    runtime_lock(unlocked);
    uint32_t n = s->n_models;
    runtime_unlock(unlocked);
    return n;
}

static void fill(const libsched *s, const struct runtime_model *model, libsched_model_info *info)
{
    const libsched_engine_description *d = &model->description;
    info->state = model->state;
    snprintf(info->name, sizeof(info->name), "%s", model->name);
    snprintf(info->engine, sizeof(info->engine), "%s", model->engine);
    if (model->state == LIBSCHED_MODEL_FAILED)
        info->error = model->error;
    info->queue_limit = model->queue_limit;
    if (model->described) {
        snprintf(info->text, sizeof(info->text), "%s", d->text);
        info->n_inputs = d->n_inputs;
        info->n_outputs = d->n_outputs;
        memcpy(info->inputs, d->inputs, d->n_inputs * sizeof(d->inputs[0]));
        memcpy(info->outputs, d->outputs, d->n_outputs * sizeof(d->outputs[0]));
        info->max_batch_requests = d->max_batch_requests;
        info->max_batch_units = d->max_batch_units;
        info->max_request_units = d->max_request_units;
    }
    info->counters = model->counters;
    if (!model->in_core)
        return;
    struct core_counts counts;
    core_get_counts(s->core, model->index, &counts);
    info->queued = runtime_counters_waiting(&model->counters, counts.running);
    info->running = counts.running;
    info->counters.retried = counts.retried;
    info->counters.batches = counts.batches;
    info->counters.batched_requests = counts.batched_requests;
    info->counters.batched_units = counts.batched_units;
    info->devices = core_model_devices(s->core, model->index) & model->devices;
}

static int answer(libsched *s, const struct runtime_model *model, libsched_model_info *out)
{
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    fill(s, model, &info);
    return runtime_struct_write(out, &info, sizeof(info));
}

int libsched_model_get(libsched *s, uint32_t index, libsched_model_info *out)
{
    runtime_lock(s);
    int rc = index < s->n_models ? answer(s, s->models[index], out) : LIBSCHED_ENOMODEL;
    runtime_unlock(s);
    return rc;
}

int libsched_model_find(libsched *s, const char *name, libsched_model_info *out)
{
    runtime_lock(s);
    const struct runtime_model *model = name != NULL ? runtime_model_by_name(s, name) : NULL;
    int rc = model != NULL ? answer(s, model, out) : LIBSCHED_ENOMODEL;
    runtime_unlock(s);
    return rc;
}

int libsched_model_inputs(libsched *s, const char *name, const libsched_tensor_spec **specs,
                          uint32_t *n_specs)
{
    int rc = LIBSCHED_OK;
    runtime_lock(s);
    const struct runtime_model *model = name != NULL ? runtime_model_by_name(s, name) : NULL;
    *specs = NULL;
    *n_specs = 0;
    if (model == NULL) {
        rc = LIBSCHED_ENOMODEL;
    } else if (!model->described) {
        rc = LIBSCHED_ENOTREADY;
    } else {
        *specs = model->description.inputs;
        *n_specs = model->description.n_inputs;
    }
    runtime_unlock(s);
    return rc;
}
