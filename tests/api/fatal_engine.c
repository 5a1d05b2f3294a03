/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine, "fatal", that does what an engine must not: its parameter "how" says what.
 *
 *   "open"          it ends its process when it is opened
 *   "open_prepare"  the same, but only where it is opened to prepare
 *   "garbage"       what it prepares is no tensor
 *   "prepare"       it ends its process where it prepares data that begins with a '!'
 *   "words"         it describes itself, and fails, in words that are not UTF-8
 */
#include <stdlib.h>
#include <string.h>

#include <libsched/engine.h>

struct libsched_engine_model {
    bool garbage, prepare, words;
};

static int fatal_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                      libsched_error *err)
{
    const libsched_parameter *how =
        libsched_parameter_find(args->parameters, args->n_parameters, "how");
    const char *what = how != NULL ? how->value.string : "";
    if (strcmp(what, "open") == 0 || (strcmp(what, "open_prepare") == 0 && args->prepare_only))
        abort();
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    (*out)->garbage = strcmp(what, "garbage") == 0;
    (*out)->prepare = strcmp(what, "prepare") == 0;
    (*out)->words = strcmp(what, "words") == 0;
    return LIBSCHED_OK;
}

static int fatal_describe(libsched_engine_model *model, libsched_engine_description *out,
                          libsched_error *err)
{
    (void)err;
    memset(out, 0, sizeof(*out));
    if (model->words)
        strcpy(out->text, "na\xefve");
    out->flags = LIBSCHED_ENGINE_PREPARES | LIBSCHED_ENGINE_WAITS;
    out->n_inputs = out->n_outputs = 1;
    strcpy(out->inputs[0].name, "data");
    out->inputs[0].datatype = LIBSCHED_UINT8;
    out->inputs[0].rank = 1;
    out->inputs[0].shape[0] = -1;
    strcpy(out->outputs[0].name, "data");
    out->outputs[0].datatype = LIBSCHED_UINT8;
    out->outputs[0].rank = 1;
    out->outputs[0].shape[0] = -1;
    out->max_batch_requests = 8;
    out->max_batch_units = out->max_request_units = 1000;
    out->units_fixed = 1;
    return LIBSCHED_OK;
}

static int fatal_prepare(libsched_engine_model *model, libsched_engine_batch *batch,
                         const libsched_engine_host *host, libsched_error *err)
{
    static const int64_t three[1] = {3};
    (void)err;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        libsched_item *item = batch->items[i];
        const libsched_tensor *data = &item->inputs[0];
        if (model->prepare && data->size > 0 && *(const char *)data->data == '!')
            abort();
        /* Three strings, of which the first claims to be longer than all there is. */
        void *room = host->output(batch->host, item, "strings",
                                  model->garbage ? LIBSCHED_BYTES : LIBSCHED_UINT8, 1, three,
                                  model->garbage ? 12 : 3);
        if (room == NULL)
            continue;
        memset(room, 0x7f, model->garbage ? 12 : 3);
        item->units = 1;
        host->end(batch->host, item, LIBSCHED_OK, NULL);
    }
    return LIBSCHED_OK;
}

static int fatal_step(libsched_engine_model *model, libsched_engine_batch *batch,
                      const libsched_engine_host *host, libsched_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < batch->n_items; i++)
        host->end(batch->host, batch->items[i], model->words ? LIBSCHED_EENGINE : LIBSCHED_OK,
                  model->words ? "it is na\xefve" : NULL);
    return LIBSCHED_OK;
}

static void fatal_close(libsched_engine_model *model)
{
    free(model);
}

const libsched_engine *libsched_engine_entry(uint32_t abi)
{
    static const libsched_engine engine = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "fatal",
        .open = fatal_open,
        .describe = fatal_describe,
        .close = fatal_close,
        .prepare = fatal_prepare,
        .step = fatal_step,
    };
    return abi == LIBSCHED_ENGINE_ABI ? &engine : NULL;
}
