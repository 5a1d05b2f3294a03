/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a model comes from: a folder that says which engine runs it, or an engine by its name with
 * or without a folder or file. Loader's parameters go before the manifest's, and limits only lower
 * each other.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "catalog/file.h"
#include "catalog/manifest.h"
#include "runtime/internal.h"

#define DEFAULT_QUEUE_LIMIT 4096u

static uint64_t lower_limit(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static int copy_path(char **out, const char *path, const char *what, libsched_error *err)
{
    char real[PATH_MAX];
    if (realpath(path, real) == NULL)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s \"%.150s\": %s", what, path,
                                  strerror(errno));
    *out = strdup(real);
    return *out != NULL ? LIBSCHED_OK
                        : libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
}

/* Its engine is named: the folder need not say more than what the engine reads in it. */
static int read_folder(struct catalog_model **out, const libsched_model_options *options,
                       libsched_error *err)
{
    *out = NULL;
    if (options->path == NULL)
        return LIBSCHED_OK;
    if (options->engine != NULL && !catalog_file_exists(options->path, CATALOG_MANIFEST_FILE))
        return LIBSCHED_OK;
    return catalog_open(out, options->path, err);
}

static int fill(struct runtime_model *model, const libsched_model_options *options,
                const struct catalog_model *folder, libsched_error *err)
{
    const char *engine = options->engine != NULL ? options->engine : folder->engine;
    const char *library = options->library;
    if (library == NULL && folder != NULL && options->engine == NULL)
        library = folder->library;
    if (library == NULL && folder != NULL && strcmp(engine, folder->engine) == 0)
        library = folder->library;
    snprintf(model->engine, sizeof(model->engine), "%s", engine);
    model->limit_batch_requests = options->max_batch_requests;
    model->limit_batch_units = options->max_batch_units;
    model->limit_request_units = options->max_request_units;
    model->queue_limit = options->queue_limit;
    model->step_limit = options->step_limit_ns == 0            ? CORE_STEP_LEARNT
                        : options->step_limit_ns == UINT64_MAX ? 0
                                                               : options->step_limit_ns;
    if (folder != NULL) {
        model->limit_batch_requests =
            (uint32_t)lower_limit(model->limit_batch_requests, folder->max_batch_requests);
        model->limit_batch_units = lower_limit(model->limit_batch_units, folder->max_batch_units);
        model->limit_request_units =
            lower_limit(model->limit_request_units, folder->max_request_units);
        if (model->queue_limit == 0)
            model->queue_limit = folder->queue_limit;
    }
    if (model->queue_limit == 0)
        model->queue_limit = DEFAULT_QUEUE_LIMIT;

    int rc = LIBSCHED_OK;
    if (options->path != NULL)
        rc = copy_path(&model->path, options->path, "the model's path", err);
    if (rc == LIBSCHED_OK && library != NULL)
        rc = copy_path(&model->library, library, "the engine's library", err);
    if (rc == LIBSCHED_OK)
        rc = runtime_parameters_merge(&model->parameters, &model->n_parameters, options->parameters,
                                      options->n_parameters,
                                      folder != NULL ? folder->parameters : NULL,
                                      folder != NULL ? folder->n_parameters : 0, err);
    return rc;
}

int runtime_model_source(struct runtime_model *model, const libsched_model_options *options,
                         libsched_error *err)
{
    struct catalog_model *folder;

    if (options->engine == NULL && options->path == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "neither path nor engine is given: one of them has to say what "
                                  "the model is");
    if (options->engine != NULL &&
        (options->engine[0] == '\0' || strlen(options->engine) >= LIBSCHED_NAME_SIZE))
        return libsched_error_set(err, LIBSCHED_EINVAL, "engine is \"%.64s\", which is no name",
                                  options->engine);
    if (options->library != NULL && options->library[0] != '/')
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "library is \"%.150s\": give an absolute path", options->library);
    int rc = read_folder(&folder, options, err);
    if (rc < 0)
        return rc;
    rc = fill(model, options, folder, err);
    catalog_close(folder);
    return rc;
}
