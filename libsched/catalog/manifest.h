/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model on disk: which engine runs it, with what parameters, within which limits.
 *
 * A folder is a model in one of two ways, or both:
 *
 *   gpu_sched.json    our manifest, an object with these keys, all optional but "engine" (and that
 *                     too where the folder is in Hugging Face layout); an unknown key is refused:
 *
 *                       {"engine": "encoder",
 *                        "library": "engine.so",               a plugin inside the folder
 *                        "parameters": {"precision": "bf16"},  booleans, numbers and strings
 *                        "batch": {"max_requests": 64, "max_units": 8192},
 *                        "max_request_units": 512,
 *                        "queue_limit": 1024}
 *
 *   Hugging Face      config.json with "model_type": "bert", model.safetensors, and tokenizer.json
 *   layout            or vocab.txt: a model for the engine "encoder".
 *
 * Here the files are found and the manifest is read; what is in the weights, the tokenizer and the
 * rest of the configuration is the engine's to judge when it loads them.
 */
#ifndef CATALOG_MANIFEST_H
#define CATALOG_MANIFEST_H

#include <stdint.h>

#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CATALOG_MANIFEST_FILE "gpu_sched.json"

struct catalog_model {
    char engine[LIBSCHED_NAME_SIZE];
    const char *path;                     /* the folder, absolute, without links */
    const char *library;                  /* the plugin, absolute; NULL: none is named */
    const libsched_parameter *parameters; /* in the manifest's order */
    uint32_t n_parameters;

    /* Limits; 0: the manifest does not say. */
    uint32_t max_batch_requests;
    uint64_t max_batch_units;
    uint64_t max_request_units;
    uint32_t queue_limit;
};

/*
 * Finds out what the folder `path` holds. `*out` is the caller's, to be closed. Fails with
 * LIBSCHED_EBADMODEL where it is not there, not readable, not a folder or not a model, saying
 * which file and key; LIBSCHED_ENOMEM; LIBSCHED_ESYSTEM.
 */
int catalog_open(struct catalog_model **out, const char *path, libsched_error *err);
/* Frees the model and all it points to. NULL is allowed. */
void catalog_close(struct catalog_model *model);

#ifdef __cplusplus
}
#endif

#endif
