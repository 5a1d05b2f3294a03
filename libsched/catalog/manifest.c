/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/encoder_config.h"
#include "catalog/file.h"
#include "catalog/json.h"
#include "catalog/safetensors.h"

#define MANIFEST CATALOG_MANIFEST_FILE
#define ENCODER "encoder"

/* Limits that nobody means seriously beyond. */
#define MAX_BATCH_REQUESTS 65536
#define MAX_UNITS ((uint64_t)1 << 48)
#define MAX_QUEUE (1u << 24)

/* A catalog_model and what it points to. */
struct model {
    struct catalog_model public;
    char *path, *library;
    json_t *manifest; /* owns the names and strings of the parameters */
    libsched_parameter parameters[LIBSCHED_MAX_PARAMETERS];
};

/* -------------------------------------------------------------------------------- the manifest */

/* What may be the name of an engine or a parameter. */
static bool is_name(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-";
    size_t length = strlen(text);
    return length > 0 && length < LIBSCHED_NAME_SIZE && strspn(text, allowed) == length;
}

static int read_engine(struct model *model, libsched_error *err)
{
    const char *engine = NULL;
    int status = catalog_json_string(model->manifest, MANIFEST, "engine", &engine, err);
    if (status != LIBSCHED_OK || engine == NULL)
        return status;
    char quoted[CATALOG_QUOTE_SIZE];
    if (!is_name(engine))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": \"engine\" is \"%s\", expected 1 to %d letters, "
                                           "digits, '.', '_' or '-'",
                                  catalog_quote(quoted, engine), LIBSCHED_NAME_SIZE - 1);
    memcpy(model->public.engine, engine, strlen(engine) + 1);
    return LIBSCHED_OK;
}

static int read_parameter(libsched_parameter *out, const char *name, const json_t *value,
                          libsched_error *err)
{
    char quoted[CATALOG_QUOTE_SIZE];
    if (!is_name(name))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST
                                  ": a parameter is named \"%s\", expected 1 to %d letters, "
                                  "digits, '.', '_' or '-'",
                                  catalog_quote(quoted, name), LIBSCHED_NAME_SIZE - 1);
    out->name = name;
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE:
        out->type = LIBSCHED_PARAMETER_BOOL;
        out->value.boolean = json_is_true(value);
        return LIBSCHED_OK;
    case JSON_INTEGER:
        out->type = LIBSCHED_PARAMETER_INT;
        out->value.integer = json_integer_value(value);
        return LIBSCHED_OK;
    case JSON_REAL:
        out->type = LIBSCHED_PARAMETER_FLOAT;
        out->value.real = json_real_value(value);
        return LIBSCHED_OK;
    case JSON_STRING:
        out->type = LIBSCHED_PARAMETER_STRING;
        out->value.string = json_string_value(value);
        return LIBSCHED_OK;
    default:
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST
                                  ": parameter \"%s\" is neither a boolean, a number nor a "
                                  "string",
                                  name);
    }
}

static int read_parameters(struct model *model, libsched_error *err)
{
    json_t *parameters = json_object_get(model->manifest, "parameters");
    if (parameters == NULL || json_is_null(parameters))
        return LIBSCHED_OK;
    if (!json_is_object(parameters))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": \"parameters\" is not an object");
    if (json_object_size(parameters) > LIBSCHED_MAX_PARAMETERS)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": %zu parameters, at most %d are accepted",
                                  json_object_size(parameters), LIBSCHED_MAX_PARAMETERS);
    const char *name;
    json_t *value;
    json_object_foreach(parameters, name, value)
    {
        int status =
            read_parameter(&model->parameters[model->public.n_parameters], name, value, err);
        if (status != LIBSCHED_OK)
            return status;
        model->public.n_parameters++;
    }
    return LIBSCHED_OK;
}

static int read_limits(struct model *model, libsched_error *err)
{
    static const char *const known[] = {"max_requests", "max_units", NULL};
    struct catalog_model *public = &model->public;
    uint64_t requests = 0, queue = 0;

    const json_t *batch = json_object_get(model->manifest, "batch");
    if (json_is_null(batch))
        batch = NULL;
    if (batch != NULL && !json_is_object(batch))
        return libsched_error_set(err, LIBSCHED_EBADMODEL, MANIFEST ": \"batch\" is not an object");
    int status = LIBSCHED_OK;
    if (batch != NULL)
        status = catalog_json_only(batch, MANIFEST ", \"batch\"", known, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(batch, MANIFEST ", \"batch\"", "max_requests", 1,
                                   MAX_BATCH_REQUESTS, &requests, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(batch, MANIFEST ", \"batch\"", "max_units", 1, MAX_UNITS,
                                   &public->max_batch_units, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(model->manifest, MANIFEST, "max_request_units", 1, MAX_UNITS,
                                   &public->max_request_units, err);
    if (status == LIBSCHED_OK)
        status =
            catalog_json_uint(model->manifest, MANIFEST, "queue_limit", 1, MAX_QUEUE, &queue, err);
    public->max_batch_requests = (uint32_t)requests;
    public->queue_limit = (uint32_t)queue;
    return status;
}

/* A plugin has to lie inside the folder, also once links are followed: a manifest cannot make the
 * worker load what is elsewhere. */
static int read_library(struct model *model, libsched_error *err)
{
    const char *relative = NULL;
    int status = catalog_json_string(model->manifest, MANIFEST, "library", &relative, err);
    if (status != LIBSCHED_OK || relative == NULL)
        return status;
    char quoted[CATALOG_QUOTE_SIZE];
    catalog_quote(quoted, relative);
    if (*relative == '\0' || *relative == '/')
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": \"library\" is \"%s\", expected a path relative to "
                                           "the model's folder",
                                  quoted);
    char *joined = catalog_file_join(model->path, relative);
    if (joined == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    model->library = realpath(joined, NULL);
    free(joined);
    if (model->library == NULL)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, MANIFEST ": \"library\" \"%s\": %m",
                                  quoted);
    size_t length = strlen(model->path);
    if (strncmp(model->library, model->path, length) != 0 || model->library[length] != '/')
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": \"library\" \"%s\" leads out of the model's folder",
                                  quoted);
    struct stat info;
    if (stat(model->library, &info) != 0 || !S_ISREG(info.st_mode))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MANIFEST ": \"library\" \"%s\" is not a regular file", quoted);
    model->public.library = model->library;
    return LIBSCHED_OK;
}

static int read_manifest(struct model *model, libsched_error *err)
{
    static const char *const known[] = {
        "engine", "library", "parameters", "batch", "max_request_units", "queue_limit", NULL,
    };
    int status = catalog_json_load_optional(&model->manifest, model->path, MANIFEST,
                                            CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK || model->manifest == NULL)
        return status;
    status = catalog_json_only(model->manifest, MANIFEST, known, err);
    if (status == LIBSCHED_OK)
        status = read_engine(model, err);
    if (status == LIBSCHED_OK)
        status = read_parameters(model, err);
    if (status == LIBSCHED_OK)
        status = read_limits(model, err);
    if (status == LIBSCHED_OK)
        status = read_library(model, err);
    return status;
}

/* ------------------------------------------------------------------------- Hugging Face layout */

/* Whether the files that the encoder reads are there. */
static int check_encoder_files(const char *folder, libsched_error *err)
{
    int status = encoder_config_check_type(folder, err);
    if (status != LIBSCHED_OK)
        return status;
    if (!catalog_file_exists(folder, SAFETENSORS_WEIGHTS)) {
        const char *hint = "";
        if (catalog_file_exists(folder, SAFETENSORS_WEIGHTS ".index.json"))
            hint = ": it is split into several files, which is not supported; merge them";
        else if (catalog_file_exists(folder, "pytorch_model.bin"))
            hint = ": pytorch_model.bin is not read; convert it to safetensors";
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "there is no " SAFETENSORS_WEIGHTS "%s",
                                  hint);
    }
    if (!catalog_file_exists(folder, "tokenizer.json") && !catalog_file_exists(folder, "vocab.txt"))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "there is neither tokenizer.json nor vocab.txt");
    return LIBSCHED_OK;
}

static int choose_engine(struct model *model, libsched_error *err)
{
    char *engine = model->public.engine;
    if (*engine == '\0') {
        if (!catalog_file_exists(model->path, "config.json"))
            return libsched_error_set(
                err, LIBSCHED_EBADMODEL,
                model->manifest != NULL
                    ? MANIFEST ": \"engine\" is missing, and the folder is not in Hugging Face "
                               "layout, which would say it"
                    : "not a model: neither " MANIFEST " nor config.json is there");
        memcpy(engine, ENCODER, sizeof(ENCODER));
    }
    if (strcmp(engine, ENCODER) != 0 || model->library != NULL)
        return LIBSCHED_OK;
    return check_encoder_files(model->path, err);
}

static int open_folder(struct model *model, const char *path, libsched_error *err)
{
    model->path = realpath(path, NULL);
    if (model->path == NULL)
        return libsched_error_set(err, errno == ENOMEM ? LIBSCHED_ENOMEM : LIBSCHED_EBADMODEL,
                                  errno == ENOENT ? "there is no such folder" : "%m");
    struct stat info;
    if (stat(model->path, &info) != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%m");
    if (!S_ISDIR(info.st_mode))
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "not a folder");
    if (access(model->path, R_OK | X_OK) != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "the folder is not readable: %m");
    model->public.path = model->path;
    model->public.parameters = model->parameters;
    return LIBSCHED_OK;
}

int catalog_open(struct catalog_model **out, const char *path, libsched_error *err)
{
    *out = NULL;
    struct model *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");

    libsched_error cause = {0};
    int status = open_folder(model, path, &cause);
    if (status == LIBSCHED_OK)
        status = read_manifest(model, &cause);
    if (status == LIBSCHED_OK)
        status = choose_engine(model, &cause);
    if (status != LIBSCHED_OK) {
        catalog_close(&model->public);
        char quoted[CATALOG_QUOTE_SIZE];
        return libsched_error_set(err, status, "%s: %s", catalog_quote(quoted, path),
                                  cause.message);
    }
    *out = &model->public;
    return LIBSCHED_OK;
}

void catalog_close(struct catalog_model *public)
{
    if (public == NULL)
        return;
    struct model *model = (struct model *)public; /* its first member */
    json_decref(model->manifest);
    free(model->path);
    free(model->library);
    free(model);
}
