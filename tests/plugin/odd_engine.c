/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine that does what a request's parameter "do" asks of it: right and wrong things that an
 * engine may do to its host. It needs nothing but the public headers.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libsched/engine.h>

struct libsched_engine_model {
    const char *mode; /* of the model: "steps", "bad_description", ... */
    int in_session;   /* items that were seen and are neither ended nor left */
    int left;         /* items that left */
    bool was_short;   /* of memory, once */
};

static const libsched_parameter *find(const libsched_parameter *parameters, uint32_t n,
                                      const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(parameters[i].name, name) == 0)
            return &parameters[i];
    return NULL;
}

static int odd_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                    libsched_error *err)
{
    const libsched_parameter *mode = find(args->parameters, args->n_parameters, "mode");
    const char *name = mode != NULL ? mode->value.string : "";
    if (strcmp(name, "refuse") == 0) {
        snprintf(err->message, sizeof(err->message), "the odd engine does not feel like it");
        err->status = LIBSCHED_EBADMODEL;
        return LIBSCHED_EBADMODEL;
    }
    if (strcmp(name, "refuse_without_words") == 0)
        return LIBSCHED_ENODEVMEM;
    if (strcmp(name, "no_status") == 0)
        return -1;
    struct libsched_engine_model *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return LIBSCHED_ENOMEM;
    static const char *const modes[] = {"steps", "bad_description", "bad_rank"};
    model->mode = "";
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (strcmp(name, modes[i]) == 0)
            model->mode = modes[i];
    *out = model;
    return LIBSCHED_OK;
}

static int odd_describe(libsched_engine_model *model, libsched_engine_description *out,
                        libsched_error *err)
{
    (void)err;
    memset(out, 0, sizeof(*out));
    out->n_inputs = 1;
    strcpy(out->inputs[0].name, "data");
    out->inputs[0].datatype = LIBSCHED_UINT8;
    out->inputs[0].rank = 1;
    out->inputs[0].shape[0] = -1;
    out->n_outputs = 2;
    strcpy(out->outputs[0].name, "value");
    out->outputs[0].datatype = LIBSCHED_INT64;
    out->outputs[0].rank = 1;
    out->outputs[0].shape[0] = 1;
    strcpy(out->outputs[1].name, "bytes");
    out->outputs[1].datatype = LIBSCHED_UINT8;
    out->outputs[1].rank = 1;
    out->outputs[1].shape[0] = -1;
    out->max_batch_requests = 4096;
    out->max_batch_units = 1u << 20;
    out->max_request_units = 1u << 20;
    out->units_fixed = 1;
    out->flags = LIBSCHED_ENGINE_PREPARES;
    if (strcmp(model->mode, "steps") == 0)
        out->flags |= LIBSCHED_ENGINE_STEPS;
    if (strcmp(model->mode, "bad_description") == 0)
        out->n_outputs = LIBSCHED_MAX_TENSORS + 1;
    if (strcmp(model->mode, "bad_rank") == 0)
        out->inputs[0].rank = 99;
    strcpy(out->text, "odd");
    return LIBSCHED_OK;
}

static void odd_close(libsched_engine_model *model)
{
    free(model);
}

static void nap(void)
{
    struct timespec millisecond = {0, 1000000};
    nanosleep(&millisecond, NULL);
}

static int put(const libsched_engine_host *host, void *h, libsched_item *item, int64_t value)
{
    const int64_t shape[1] = {1};
    int64_t *out = host->output(h, item, "value", LIBSCHED_INT64, 1, shape, sizeof(value));
    if (out != NULL)
        *out = value;
    return out != NULL;
}

static void *put_bytes(const libsched_engine_host *host, void *h, libsched_item *item, int64_t n)
{
    unsigned char *out = host->output(h, item, "bytes", LIBSCHED_UINT8, 1, &n, (uint64_t)n);
    /* All of it is the item's own. */
    for (int64_t i = 0; out != NULL && i < n; i++)
        out[i] = (unsigned char)(item->id + (uint64_t)i);
    return out;
}

static int64_t number(const libsched_item *item, const char *name)
{
    const libsched_parameter *p = find(item->parameters, item->n_parameters, name);
    return p != NULL ? p->value.integer : 0;
}

/* Answers the step's status. */
static int act(libsched_engine_model *model, const libsched_engine_host *host, void *h,
               libsched_item *item, const char *what)
{
    const int64_t one[1] = {1};
    if (item->joined)
        model->in_session++;
    item->user = model;
    if (strcmp(what, "never_end") == 0)
        return LIBSCHED_OK;
    if (strcmp(what, "until_cancelled") == 0) {
        /* Parts are made in the middle of the step, and each call looks at the flag. */
        for (int64_t i = 0; !item->cancelled; i++) {
            if (!put(host, h, item, i))
                break;
            host->part(h, item);
            nap();
        }
        model->in_session--;
        host->end(h, item, LIBSCHED_ECANCELED, "cancelled, as it saw");
        return LIBSCHED_OK;
    }
    if (strcmp(what, "count") == 0) {
        model->in_session--;
        put(host, h, item, model->in_session * 1000 + model->left);
        host->end(h, item, LIBSCHED_OK, NULL);
        return LIBSCHED_OK;
    }
    if (strcmp(what, "no_memory_once") == 0)
        put(host, h, item, 1);
    if (strcmp(what, "fill") == 0)
        while (put_bytes(host, h, item, number(item, "bytes")) != NULL)
            host->part(h, item);
    if (strcmp(what, "bytes") == 0)
        put_bytes(host, h, item, number(item, "bytes"));
    if (strcmp(what, "undescribed") == 0)
        host->output(h, item, "surprise", LIBSCHED_INT64, 1, one, 8);
    if (strcmp(what, "other_type") == 0)
        host->output(h, item, "value", LIBSCHED_FP64, 1, one, 8);
    if (strcmp(what, "other_size") == 0)
        host->output(h, item, "value", LIBSCHED_INT64, 1, one, 16);
    if (strcmp(what, "no_name") == 0)
        host->output(h, item, NULL, LIBSCHED_INT64, 1, one, 8);
    if (strcmp(what, "rank") == 0)
        host->output(h, item, "value", LIBSCHED_INT64, 100, one, 8);
    if (strcmp(what, "many") == 0)
        while (put(host, h, item, 1))
            ;
    if (strcmp(what, "no_status") == 0)
        host->end(h, item, -12345, "what?");
    if (strcmp(what, "no_message") == 0)
        host->end(h, item, LIBSCHED_EINVAL, NULL);
    if (strcmp(what, "long_message") == 0) {
        char message[1000];
        memset(message, 'm', sizeof(message));
        message[sizeof(message) - 1] = '\0';
        host->end(h, item, LIBSCHED_EINVAL, message);
    }
    if (strcmp(what, "twice") == 0) {
        put(host, h, item, 1);
        host->end(h, item, LIBSCHED_OK, NULL);
        put(host, h, item, 2);
        host->part(h, item);
        host->end(h, item, LIBSCHED_EINVAL, "the second end");
    }
    if (strcmp(what, "unfinished") == 0) {
        put(host, h, item, 1);
        host->part(h, item);
        put(host, h, item, 2);
        host->end(h, item, LIBSCHED_EINVAL, "after a part and a half");
    }
    if (strcmp(what, "print") == 0) {
        printf("printed by an engine\n");
        fflush(stdout);
        host->log(h, "logged by an engine");
    }
    if (strcmp(what, "device_lost") == 0)
        return LIBSCHED_EDEVICELOST;
    if (strcmp(what, "step_status") == 0)
        return -12345;
    if (strcmp(what, "no_words") == 0)
        return LIBSCHED_EENGINE;
    model->in_session--;
    /* Ignored where it has ended. */
    host->end(h, item, LIBSCHED_OK, NULL);
    return LIBSCHED_OK;
}

static int act_on_all(libsched_engine_model *model, libsched_engine_batch *batch,
                      const libsched_engine_host *host)
{
    int status = LIBSCHED_OK;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        libsched_item *item = batch->items[i];
        const libsched_parameter *what = find(item->parameters, item->n_parameters, "do");
        int s = act(model, host, batch->host, item, what != NULL ? what->value.string : "");
        if (s < status)
            status = s;
    }
    return status;
}

static int odd_prepare(libsched_engine_model *model, libsched_engine_batch *batch,
                       const libsched_engine_host *host, libsched_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        const libsched_parameter *what =
            find(batch->items[i]->parameters, batch->items[i]->n_parameters, "do");
        batch->items[i]->batch_key = (uint64_t)number(batch->items[i], "key");
        if (what != NULL && strcmp(what->value.string, "part") == 0)
            host->part(batch->host, batch->items[i]);
    }
    return act_on_all(model, batch, host);
}

/* Whether a batch finds no memory, as its first item says: never, or not at first. */
static bool is_short(libsched_engine_model *model, const libsched_engine_batch *batch)
{
    const libsched_item *item = batch->items[0];
    const libsched_parameter *p = find(item->parameters, item->n_parameters, "do");
    const char *what = p != NULL ? p->value.string : "";
    const bool was = model->was_short;
    model->was_short |= strcmp(what, "no_memory_once") == 0;
    return strcmp(what, "no_memory") == 0 || (model->was_short && !was);
}

static int odd_step(libsched_engine_model *model, libsched_engine_batch *batch,
                    const libsched_engine_host *host, libsched_error *err)
{
    (void)err;
    if (is_short(model, batch)) {
        for (uint32_t i = 0; i < batch->n_items; i++) {
            model->in_session += batch->items[i]->joined;
            batch->items[i]->user = model;
            put(host, batch->host, batch->items[i], -1);
        }
        return LIBSCHED_ENODEVMEM;
    }
    return act_on_all(model, batch, host);
}

static void odd_leave(libsched_engine_model *model, libsched_item *item)
{
    /* What it put there is still there. */
    if (item->user != model)
        abort();
    model->in_session--;
    model->left++;
}

const libsched_engine *libsched_engine_entry(uint32_t abi)
{
    static const libsched_engine table = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "odd",
        .open = odd_open,
        .describe = odd_describe,
        .close = odd_close,
        .prepare = odd_prepare,
        .step = odd_step,
        .leave = odd_leave,
    };
    return abi == LIBSCHED_ENGINE_ABI ? &table : NULL;
}
