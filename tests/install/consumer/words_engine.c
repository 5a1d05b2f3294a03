/* SPDX-License-Identifier: Apache-2.0 */
/* An engine of somebody else's: counts the words of each text that it is given. */
#include <stdlib.h>
#include <string.h>

#include <libsched/engine.h>

struct libsched_engine_model {
    char separator;
};

static int words_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                      libsched_error *err)
{
    const libsched_parameter *separator =
        libsched_parameter_find(args->parameters, args->n_parameters, "separator");
    if (separator != NULL &&
        (separator->type != LIBSCHED_PARAMETER_STRING || strlen(separator->value.string) != 1))
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "separator has to be one character");
    *out = malloc(sizeof(**out));
    if (*out == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    (*out)->separator = separator != NULL ? separator->value.string[0] : ' ';
    return LIBSCHED_OK;
}

static int words_describe(libsched_engine_model *model, libsched_engine_description *out,
                          libsched_error *err)
{
    (void)model;
    (void)err;
    memset(out, 0, sizeof(*out));
    out->n_inputs = out->n_outputs = 1;
    strcpy(out->inputs[0].name, "text");
    out->inputs[0].datatype = LIBSCHED_BYTES;
    out->inputs[0].rank = 1;
    out->inputs[0].shape[0] = -1;
    strcpy(out->outputs[0].name, "words");
    out->outputs[0].datatype = LIBSCHED_INT32;
    out->outputs[0].rank = 1;
    out->outputs[0].shape[0] = -1;
    out->max_batch_requests = 16;
    out->max_batch_units = out->max_request_units = 1000;
    out->units_fixed = 1;
    strcpy(out->text, "counts words");
    return LIBSCHED_OK;
}

static int32_t count_words(const unsigned char *text, uint32_t length, char separator)
{
    int32_t n = 0;
    for (uint32_t i = 0; i < length; i++)
        n += text[i] != (unsigned char)separator &&
             (i == 0 || text[i - 1] == (unsigned char)separator);
    return n;
}

static int words_step(libsched_engine_model *model, libsched_engine_batch *batch,
                      const libsched_engine_host *host, libsched_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        libsched_item *item = batch->items[i];
        const libsched_tensor *text = &item->inputs[0];
        int32_t *words = host->output(batch->host, item, "words", LIBSCHED_INT32, 1, text->shape,
                                      (uint64_t)text->shape[0] * sizeof(*words));
        if (words == NULL)
            continue;
        const unsigned char *at = text->data;
        for (int64_t k = 0; k < text->shape[0]; k++) {
            uint32_t length;
            memcpy(&length, at, sizeof(length));
            words[k] = count_words(at + sizeof(length), length, model->separator);
            at += sizeof(length) + length;
        }
        host->end(batch->host, item, LIBSCHED_OK, NULL);
    }
    return LIBSCHED_OK;
}

static void words_close(libsched_engine_model *model)
{
    free(model);
}

const libsched_engine *libsched_engine_entry(uint32_t abi)
{
    static const libsched_engine engine = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "words",
        .open = words_open,
        .describe = words_describe,
        .close = words_close,
        .step = words_step,
    };
    return abi == LIBSCHED_ENGINE_ABI ? &engine : NULL;
}
