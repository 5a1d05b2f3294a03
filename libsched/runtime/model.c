/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models: from libsched_model_load() to the last completion that tells they are gone.
 *
 * The core is told of a model at once, knowing nothing but its devices, so that it asks for its
 * loads. The first load that succeeds brings the description; the core is told, and the requests
 * that waited for it enter.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

struct runtime_model *runtime_model_by_name(const libsched *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_models; i++)
        if (strcmp(s->models[i]->name, name) == 0)
            return s->models[i];
    return NULL;
}

static void announce(libsched *s, struct runtime_model *model)
{
    const libsched_completion what = {
        .kind = LIBSCHED_MODEL,
        .status = model->state == LIBSCHED_MODEL_FAILED ? model->error.status : LIBSCHED_OK,
        .state = model->state,
        .device = UINT32_MAX,
    };
    const char *message = model->state == LIBSCHED_MODEL_FAILED ? model->error.message : "";
    model->announce = !runtime_notice_queue(s, &what, model->name, message);
    if (model->announce)
        s->announcements = true;
}

void runtime_model_free(struct runtime_model *model)
{
    if (model == NULL)
        return;
    free(model->path);
    free(model->library);
    free(model->parameters);
    free(model);
}

/* Out of the list of those that have a name. */
static void unlist(libsched *s, struct runtime_model *model)
{
    uint32_t i = 0;
    while (i < s->n_models && s->models[i] != model)
        i++;
    if (i == s->n_models)
        return;
    memmove(&s->models[i], &s->models[i + 1], (s->n_models - i - 1) * sizeof(s->models[0]));
    s->n_models--;
}

static void remove_from_core(libsched *s, struct runtime_model *model, int status)
{
    if (!model->in_core || model->removing)
        return;
    model->removing = true;
    s->n_leaving++;
    core_remove_model(s->core, s->now, model->index, status);
}

/* It can't be used any more; `model->error` says why. */
static void fail(libsched *s, struct runtime_model *model)
{
    if (model->state == LIBSCHED_MODEL_FAILED || model->state == LIBSCHED_MODEL_UNLOADING)
        return;
    runtime_log(s, LIBSCHED_LOG_ERROR, "model %s: %s", model->name, model->error.message);
    model->state = LIBSCHED_MODEL_FAILED;
    runtime_held_fail(s, model, &model->error);
    remove_from_core(s, model, model->error.status);
    announce(s, model);
}

/* ------------------------------------------------------------------------------------- loading */

static int check_options(libsched *s, const libsched_model_options *options, libsched_error *err)
{
    if (s->draining)
        return libsched_error_set(err, LIBSCHED_ECLOSING, "the scheduler is closing");
    if (options->name == NULL || options->name[0] == '\0')
        return libsched_error_set(err, LIBSCHED_EINVAL, "the model has no name");
    int rc = runtime_validate_name("the name", options->name, err);
    if (rc < 0)
        return rc;
    rc = runtime_validate_parameters(options->parameters, options->n_parameters, err);
    if (rc < 0)
        return rc;
    if (options->n_devices > 0 && options->devices == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "n_devices is %u, devices is NULL",
                                  options->n_devices);
    const struct runtime_model *model = runtime_model_by_name(s, options->name);
    if (model != NULL && model->state == LIBSCHED_MODEL_UNLOADING)
        return libsched_error_set(err, LIBSCHED_EEXIST, "model \"%s\" is still being unloaded",
                                  options->name);
    if (model != NULL && model->state != LIBSCHED_MODEL_FAILED)
        return libsched_error_set(err, LIBSCHED_EEXIST, "model \"%s\" is loaded already",
                                  options->name);
    return LIBSCHED_OK;
}

static int add_to_core(libsched *s, struct runtime_model *model, libsched_error *err)
{
    uint32_t index = 0;
    while (index < CORE_MAX_MODELS && s->by_index[index] != NULL)
        index++;
    if (index == CORE_MAX_MODELS)
        return libsched_error_set(err, LIBSCHED_EBUSY, "%d models are loaded, which is the limit",
                                  CORE_MAX_MODELS);
    struct core_model what;
    runtime_description_to_core(model, &what);
    int rc = core_add_model(s->core, s->now, index, &what);
    if (rc < 0)
        return libsched_error_set(err, rc, "model \"%s\" can't be added", model->name);
    model->index = index;
    model->in_core = true;
    s->by_index[index] = model;
    return LIBSCHED_OK;
}

static int load(libsched *s, const libsched_model_options *options, libsched_error *err)
{
    int rc = check_options(s, options, err);
    if (rc < 0)
        return rc;
    struct runtime_model *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
    snprintf(model->name, sizeof(model->name), "%s", options->name);
    list_init(&model->held);
    model->state = LIBSCHED_MODEL_LOADING;
    rc = runtime_model_source(model, options, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_devices_choose(s, options->devices, options->n_devices, &model->devices, err);
    if (rc == LIBSCHED_OK && s->n_models == CORE_MAX_MODELS)
        rc = libsched_error_set(err, LIBSCHED_EBUSY, "%d models are loaded, which is the limit",
                                CORE_MAX_MODELS);
    if (rc == LIBSCHED_OK)
        rc = add_to_core(s, model, err);
    if (rc < 0) {
        runtime_model_free(model);
        return rc;
    }
    struct runtime_model *before = runtime_model_by_name(s, model->name);
    if (before != NULL) {
        unlist(s, before);
        if (before->in_core)
            before->hidden = true;
        else
            runtime_model_free(before);
    }
    s->models[s->n_models++] = model;
    runtime_settle(s);
    return LIBSCHED_OK;
}

int libsched_model_load(libsched *s, const libsched_model_options *options, libsched_error *err)
{
    libsched_model_options given;
    int rc = runtime_struct_read(&given, sizeof(given), options, "libsched_model_options", err);
    if (rc < 0)
        return rc;
    runtime_lock(s);
    runtime_now(s);
    rc = load(s, &given, err);
    runtime_unlock(s);
    return rc;
}

/* --------------------------------------------------------------------------------- what happens */

static bool loaded_on(const libsched *s, const struct runtime_model *model, bool prepares)
{
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].prepares == prepares && model->loads[i] == RUNTIME_LOADED)
            return true;
    return false;
}

/* Whether it may yet be loaded on a device of the kind; else why not. */
static bool may_be_loaded(const libsched *s, const struct runtime_model *model, bool prepares,
                          libsched_error *why)
{
    uint64_t failed = core_model_failed(s->core, model->index);
    libsched_error_set(why, LIBSCHED_ENODEVICE, "there is no device for it");
    for (uint32_t i = 0; i < s->n_devices; i++) {
        const struct runtime_device *device = &s->devices[i];
        if (device->prepares != prepares || (!prepares && (model->devices >> i & 1) == 0))
            continue;
        if (device->state == LIBSCHED_DEVICE_DOWN) {
            libsched_error_set(why, LIBSCHED_ENODEVICE, "%s was %s", device->name, device->reason);
            continue;
        }
        if ((failed >> i & 1) == 0)
            return true;
        if (model->loads[i] != RUNTIME_FAILED)
            libsched_error_set(why, LIBSCHED_EBADMODEL,
                               "loading it ended the worker of %s each time: %.180s", device->name,
                               device->reason);
        else if (model->error.status != LIBSCHED_OK)
            *why = model->error;
    }
    return false;
}

static void review(libsched *s, struct runtime_model *model)
{
    libsched_error why = {0};
    bool prepares = model->described && (model->description.flags & LIBSCHED_ENGINE_PREPARES) != 0;
    if (model->state != LIBSCHED_MODEL_LOADING && model->state != LIBSCHED_MODEL_READY)
        return;
    if (!may_be_loaded(s, model, false, &why) ||
        (prepares && !may_be_loaded(s, model, true, &why))) {
        model->error = why;
        fail(s, model);
        return;
    }
    if (model->state == LIBSCHED_MODEL_LOADING && loaded_on(s, model, false) &&
        (!prepares || loaded_on(s, model, true))) {
        model->state = LIBSCHED_MODEL_READY;
        runtime_log(s, LIBSCHED_LOG_INFO, "model %s: ready: %s", model->name,
                    model->description.text);
        announce(s, model);
    }
}

void runtime_models_review(libsched *s)
{
    for (uint32_t i = 0; i < s->n_models; i++)
        review(s, s->models[i]);
}

/* The first time that it was loaded: what it is. */
static int learn(libsched *s, struct runtime_model *model,
                 const libsched_engine_description *description, libsched_error *err)
{
    if (description == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE, "the engine describes nothing");
    int rc = runtime_description_check(description, err);
    if (rc < 0 || model->described)
        return rc;
    struct core_model what;
    libsched_error text;
    model->description = *description;
    libsched_error_set(&text, LIBSCHED_OK, "%s", description->text); /* UTF-8, whoever wrote it */
    memcpy(model->description.text, text.message, sizeof(model->description.text));
    runtime_description_limit(model);
    model->described = true;
    runtime_description_to_core(model, &what);
    rc = core_update_model(s->core, s->now, model->index, &what);
    if (rc < 0)
        return libsched_error_set(err, rc, "what the engine describes is not acceptable");
    return LIBSCHED_OK;
}

void runtime_model_loaded(libsched *s, struct runtime_model *model, struct runtime_device *device,
                          const struct worker_event *event)
{
    libsched_error err = event->error;
    int status = event->status;
    bool known = model->described;
    if (status == LIBSCHED_OK && !model->removing)
        status = learn(s, model, event->description, &err);

    struct core_event loaded = {
        .type = CORE_LOADED,
        .device = device->index,
        .epoch = device->epoch,
        .u.loaded = {.model = model->index, .status = status, .memory_bytes = event->memory_bytes},
    };
    model->loads[device->index] = status == LIBSCHED_OK ? RUNTIME_LOADED : RUNTIME_FAILED;
    if (status < 0) {
        model->error = err;
        model->error.status = status;
        runtime_log(s, LIBSCHED_LOG_WARNING, "model %s can't be loaded on %s: %s", model->name,
                    device->name, err.message);
    } else {
        device->served = true;
    }
    core_handle(s->core, s->now, &loaded);
    if (!known && model->described)
        runtime_held_enter(s, model);
    review(s, model);
    runtime_spin_share(s);
}

void runtime_model_unloaded(libsched *s, struct runtime_model *model, struct runtime_device *device,
                            int status)
{
    struct core_event evicted = {
        .type = CORE_EVICTED,
        .device = device->index,
        .epoch = device->epoch,
        .u.loaded = {.model = model->index, .status = status},
    };
    model->loads[device->index] = RUNTIME_NOT_LOADED;
    core_handle(s->core, s->now, &evicted);
    runtime_spin_share(s);
}

/* ------------------------------------------------------------------------------------ unloading */

static void remember_counts(libsched *s, struct runtime_model *model)
{
    struct core_counts counts;
    core_get_counts(s->core, model->index, &counts);
    model->counters.retried = counts.retried;
    model->counters.batches = counts.batches;
    model->counters.batched_requests = counts.batched_requests;
    model->counters.batched_units = counts.batched_units;
}

static void gone(libsched *s, struct runtime_model *model)
{
    if (model->hidden) {
        runtime_model_free(model);
        return;
    }
    if (model->state != LIBSCHED_MODEL_UNLOADING)
        return; /* failed: it keeps its name */
    model->state = LIBSCHED_MODEL_GONE;
    announce(s, model);
    if (model->announce)
        return; /* told, and freed, when there is memory for it */
    unlist(s, model);
    runtime_model_free(model);
}

void runtime_models_collect(libsched *s)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct runtime_model *model = s->by_index[i];
        if (model == NULL || !model->removing)
            continue;
        if (!core_model_gone(s->core, i)) {
            remember_counts(s, model);
            continue;
        }
        s->by_index[i] = NULL;
        s->n_leaving--;
        model->in_core = false;
        gone(s, model);
    }
}

void runtime_models_announce(libsched *s)
{
    for (uint32_t i = 0; i < s->n_models;) {
        struct runtime_model *model = s->models[i];
        if (model->announce) {
            announce(s, model);
            if (!model->announce && model->state == LIBSCHED_MODEL_GONE) {
                unlist(s, model);
                runtime_model_free(model);
                continue;
            }
        }
        i++;
    }
}

static int unload(libsched *s, const char *name, libsched_error *err)
{
    struct runtime_model *model = name != NULL ? runtime_model_by_name(s, name) : NULL;
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMODEL, "no model is called \"%.64s\"",
                                  name != NULL ? name : "");
    if (model->state == LIBSCHED_MODEL_UNLOADING || model->state == LIBSCHED_MODEL_GONE)
        return libsched_error_set(err, LIBSCHED_ENOMODEL, "model \"%s\" is being unloaded already",
                                  name);
    model->state = LIBSCHED_MODEL_UNLOADING;
    libsched_error why = {.status = LIBSCHED_ENOMODEL};
    runtime_held_fail(s, model, &why);
    if (model->in_core)
        remove_from_core(s, model, LIBSCHED_ENOMODEL);
    else
        gone(s, model);
    runtime_settle(s);
    return LIBSCHED_OK;
}

int libsched_model_unload(libsched *s, const char *name, libsched_error *err)
{
    runtime_lock(s);
    runtime_now(s);
    int rc = unload(s, name, err);
    runtime_unlock(s);
    return rc;
}

void runtime_models_free(libsched *s)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++)
        if (s->by_index[i] != NULL && s->by_index[i]->hidden)
            runtime_model_free(s->by_index[i]);
    for (uint32_t i = 0; i < s->n_models; i++)
        runtime_model_free(s->models[i]);
    s->n_models = 0;
}
