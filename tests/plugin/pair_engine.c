/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine whose steps are over only when another was begun behind them, or when they are waited
 * for. Each answers how many were under way with it at most. A request with the parameter "fail"
 * lets its step fail at once; one with "room" takes so many bytes of result memory at once. With
 * "short" there is no memory when the step should be over: the first time (1), or whenever one was
 * begun behind it (2).
 */
#include <stdlib.h>
#include <string.h>

#include <libsched/engine.h>

struct step {
    libsched_engine_batch *batch;
    const libsched_engine_host *host;
    int64_t most;
};

struct libsched_engine_model {
    struct step steps[2];
    int n;
    bool was_short;
};

static int pair_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                     libsched_error *err)
{
    (void)args;
    (void)err;
    *out = calloc(1, sizeof(**out));
    return *out != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
}

static int pair_describe(libsched_engine_model *model, libsched_engine_description *out,
                         libsched_error *err)
{
    (void)model;
    (void)err;
    memset(out, 0, sizeof(*out));
    out->n_inputs = 1;
    out->n_outputs = 2;
    strcpy(out->inputs[0].name, "data");
    out->inputs[0].datatype = LIBSCHED_UINT8;
    out->inputs[0].rank = 1;
    out->inputs[0].shape[0] = -1;
    strcpy(out->outputs[0].name, "value");
    out->outputs[0].datatype = LIBSCHED_INT64;
    out->outputs[0].rank = 1;
    out->outputs[0].shape[0] = 1;
    strcpy(out->outputs[1].name, "room");
    out->outputs[1].datatype = LIBSCHED_UINT8;
    out->outputs[1].rank = 1;
    out->outputs[1].shape[0] = -1;
    out->max_batch_requests = 16;
    out->max_batch_units = out->max_request_units = 16;
    out->units_fixed = 1;
    strcpy(out->text, "pair");
    return LIBSCHED_OK;
}

static void pair_close(libsched_engine_model *model)
{
    free(model);
}

static int64_t parameter(const libsched_item *item, const char *name)
{
    for (uint32_t i = 0; i < item->n_parameters; i++)
        if (strcmp(item->parameters[i].name, name) == 0)
            return item->parameters[i].value.integer;
    return 0;
}

static void take_room(libsched_engine_batch *batch, const libsched_engine_host *host,
                      libsched_item *item)
{
    const int64_t bytes = parameter(item, "room");

    /* Where there is none the host has ended it. */
    if (bytes > 0)
        (void)host->output(batch->host, item, "room", LIBSCHED_UINT8, 1, &bytes, (uint64_t)bytes);
}

static int pair_begin(libsched_engine_model *model, libsched_engine_batch *batch,
                      const libsched_engine_host *host, bool *pending, libsched_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (parameter(batch->items[i], "fail") != 0)
            return LIBSCHED_EENGINE;
    for (uint32_t i = 0; i < batch->n_items; i++)
        take_room(batch, host, batch->items[i]);
    model->steps[model->n++] = (struct step){batch, host, model->n};
    for (int i = 0; i < model->n; i++)
        model->steps[i].most = model->n;
    *pending = true;
    return LIBSCHED_OK;
}

/* What the step at hand lacks memory for. */
static bool is_short(struct libsched_engine_model *model, const struct step *step)
{
    int64_t how = 0;

    for (uint32_t i = 0; how == 0 && i < step->batch->n_items; i++)
        how = parameter(step->batch->items[i], "short");
    if (how == 2)
        return step->most == 2;
    if (how == 0 || model->was_short)
        return false;
    model->was_short = true;
    return true;
}

static int pair_finish(libsched_engine_model *model, bool wait, bool *pending, libsched_error *err)
{
    struct step step = model->steps[0];
    const int64_t one = 1;

    (void)err;
    if (is_short(model, &step)) {
        *pending = false;
        model->steps[0] = model->steps[1];
        model->n--;
        return LIBSCHED_ENODEVMEM;
    }
    *pending = !wait && step.most < 2 && !model->was_short;
    if (*pending)
        return LIBSCHED_OK;
    model->steps[0] = model->steps[1];
    model->n--;
    for (uint32_t i = 0; i < step.batch->n_items; i++) {
        int64_t *to = step.host->output(step.batch->host, step.batch->items[i], "value",
                                        LIBSCHED_INT64, 1, &one, sizeof(*to));
        if (to == NULL)
            continue;
        *to = step.most;
        step.host->end(step.batch->host, step.batch->items[i], LIBSCHED_OK, NULL);
    }
    return LIBSCHED_OK;
}

static int pair_step(libsched_engine_model *model, libsched_engine_batch *batch,
                     const libsched_engine_host *host, libsched_error *err)
{
    bool pending = false;
    int status = pair_begin(model, batch, host, &pending, err);

    return status == LIBSCHED_OK ? pair_finish(model, true, &pending, err) : status;
}

const libsched_engine *libsched_engine_entry(uint32_t abi)
{
    static const libsched_engine engine = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "pair",
        .open = pair_open,
        .describe = pair_describe,
        .close = pair_close,
        .step = pair_step,
        .begin = pair_begin,
        .finish = pair_finish,
    };
    return abi == LIBSCHED_ENGINE_ABI ? &engine : NULL;
}
