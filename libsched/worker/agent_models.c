/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/registry.h"
#include "worker/agent_gang.h"
#include "worker/agent_share.h"
#include "worker/description.h"

struct agent_model *agent_model_find(const struct agent *agent, uint32_t key)
{
    uint64_t *value = id_map_find(&agent->models, key);
    return value != NULL ? (struct agent_model *)(uintptr_t)*value : NULL;
}

void agent_report_memory(struct agent *agent)
{
    libsched_device_properties info = {.struct_size = sizeof(info)};
    if (agent->device == NULL ||
        agent->device->driver->info(agent->device, &info, NULL) != LIBSCHED_OK ||
        info.memory_free == 0)
        return;
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, info.memory_free + agent_gang_bytes(agent));
    agent_send(agent, EVENT_MEMORY);
}

static void close_model(struct agent_model *model)
{
    if (model->model != NULL)
        model->engine->close(model->model);
    free(model);
}

static int open_model(struct agent *agent, struct agent_model *model, const struct agent_load *load,
                      libsched_device_communicator *communicator, libsched_error *err)
{
    int status =
        engine_resolve(&model->engine, load->engine, load->library, agent->plugin_path, err);
    if (status < 0)
        return status;
    libsched_engine_open_args args = {
        .struct_size = sizeof(args),
        .name = load->name,
        .path = load->path,
        .parameters = load->parameters,
        .n_parameters = load->n_parameters,
        .device = load->prepare_only ? NULL : agent->device,
        .threads = agent->threads,
        .prepare_only = load->prepare_only,
        .communicator = communicator,
        .rank = communicator != NULL ? load->share.rank : 0,
        .n_ranks = communicator != NULL ? load->share.n_ranks : 1,
    };
    status = model->engine->open(&model->model, &args, err);
    if (status < 0)
        return status;
    status = model->engine->describe(model->model, &model->description, err);
    if (status == 0)
        status = description_check(&model->description, err);
    if (status == 0 && (model->description.flags & LIBSCHED_ENGINE_PREPARES) != 0 &&
        model->engine->prepare == NULL)
        status = libsched_error_set(err, LIBSCHED_EENGINE,
                                    "engine \"%s\" says that it prepares, but can't", load->engine);
    if (status == 0 && !load->prepare_only && model->engine->warmup != NULL)
        status = model->engine->warmup(model->model, err);
    return status;
}

struct agent_model *agent_model_open(struct agent *agent, const struct agent_load *load,
                                     libsched_device_communicator *communicator,
                                     libsched_error *err)
{
    if (agent_model_find(agent, load->key) != NULL) {
        libsched_error_set(err, LIBSCHED_EEXIST, "model \"%s\" is loaded here already", load->name);
        return NULL;
    }
    struct agent_model *model = calloc(1, sizeof(*model));
    if (model == NULL || !id_map_reserve(&agent->models, 1)) {
        free(model);
        libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for model \"%s\"", load->name);
        return NULL;
    }
    model->key = load->key;
    model->prepare_only = load->prepare_only;
    snprintf(model->name, sizeof(model->name), "%s", load->name);
    *err = (libsched_error){0};
    int status = open_model(agent, model, load, communicator, err);
    if (status != LIBSCHED_OK) {
        /* An engine need not have found words, nor a status of ours. */
        if (status > 0 || strcmp(libsched_status_name(status), "unknown") == 0)
            status = LIBSCHED_EENGINE;
        err->status = status;
        if (err->message[0] == '\0')
            libsched_error_set(err, status, "engine \"%s\" could not load model \"%s\"",
                               load->engine, load->name);
        close_model(model);
        return NULL;
    }
    id_map_add(&agent->models, load->key, (uintptr_t)model);
    return model;
}

int agent_model_answer(struct agent *agent, struct agent_load *load,
                       const struct agent_model *model, const libsched_error *err)
{
    free(load->parameters);
    free(load->record);
    wire_reset(&agent->out);
    wire_put_u32(&agent->out, load->key);
    wire_put_u32(&agent->out, (uint32_t)(model != NULL ? LIBSCHED_OK : err->status));
    wire_put_string(&agent->out, model != NULL ? NULL : err->message);
    wire_put_u64(&agent->out, model != NULL ? model->description.memory_bytes : 0);
    if (model != NULL)
        wire_put(&agent->out, &model->description, sizeof(model->description));
    agent_send(agent, EVENT_LOADED);
    agent_report_memory(agent);
    /* A device that was lost while a model was loaded is of no use to the next one either. */
    if (model == NULL && err->status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, err->status, "%s", err->message);
    return LIBSCHED_OK;
}

int agent_model_load_alone(struct agent *agent, struct agent_load *load)
{
    libsched_error err;
    struct agent_model *model = agent_model_open(agent, load, NULL, &err);
    if (model == NULL && err.status == LIBSCHED_ENODEVMEM && agent_gang_forget(agent))
        model = agent_model_open(agent, load, NULL, &err);
    return agent_model_answer(agent, load, model, &err);
}

int agent_load(struct agent *agent, struct wire_reader *reader)
{
    struct agent_load load = {.key = wire_get_u32(reader)};
    load.name = wire_get_name(reader);
    load.engine = wire_get_name(reader);
    load.library = wire_get_string(reader);
    load.path = wire_get_string(reader);
    load.prepare_only = wire_get_u32(reader) != 0;
    load.n_parameters = wire_get_u32(reader);
    /* A parameter takes more bytes on the wire than this. */
    if (reader->failed || load.n_parameters > (size_t)(reader->end - reader->at))
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "a command to load can't be read");
    load.parameters = calloc(load.n_parameters + (size_t)1, sizeof(libsched_parameter));
    if (load.parameters == NULL)
        return agent_fail(agent, LIBSCHED_ENOMEM, "no memory for a model's parameters");
    wire_get_parameters(reader, load.parameters, load.n_parameters);
    wire_get(reader, &load.share, sizeof(load.share));
    if (!wire_ends(reader)) {
        free(load.parameters);
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "a command to load can't be read");
    }
    return load.share.n_ranks > 1 ? agent_share_load(agent, &load)
                                  : agent_model_load_alone(agent, &load);
}

int agent_unload(struct agent *agent, uint32_t key)
{
    struct agent_model *model = agent_model_find(agent, key);
    if (model != NULL) {
        agent_items_drop_model(agent, model);
        id_map_remove(&agent->models, key);
        close_model(model);
    }
    wire_reset(&agent->out);
    wire_put_u32(&agent->out, key);
    agent_send(agent, EVENT_UNLOADED);
    agent_report_memory(agent);
    return LIBSCHED_OK;
}

void agent_models_close(struct agent *agent)
{
    for (size_t i = 0; i < agent->models.capacity; i++) {
        if (!agent->models.entries[i].used)
            continue;
        struct agent_model *model = (struct agent_model *)(uintptr_t)agent->models.entries[i].value;
        close_model(model);
    }
}
