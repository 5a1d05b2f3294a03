/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/synthetic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define MANY_UNITS (INT64_C(1) << 32)
#define MAX_PARTS 1000000
/* Steps that begin so soon after the one before follow it at once. */
#define AT_ONCE_NS 500000

struct libsched_engine_model {
    int64_t a_ns, b_ns; /* of a step, and of a unit */
    int64_t prepare_ns, spin_ns, load_ns;
    int64_t units, units_per_kib;
    int64_t max_batch_requests, max_batch_units, max_request_units;
    int64_t memory_bytes, memory_per_unit, fit_units;
    bool prepares, stream;
    char *fault_folder;
    /* Of the step before: when it should have ended, and when it did. */
    int64_t planned_end, actual_end;
};

/* ----------------------------------------------------------------------------------- parameters */

enum kind { COUNT, MICROSECONDS, FLAG, TEXT };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    int64_t least, most; /* of a COUNT, or of MICROSECONDS */
};

#define FIELD(name) offsetof(struct libsched_engine_model, name)
#define HOUR_US INT64_C(3600000000)

static const struct option options[] = {
    {"a_us", MICROSECONDS, FIELD(a_ns), 0, HOUR_US},
    {"b_us", MICROSECONDS, FIELD(b_ns), 0, HOUR_US},
    {"prepare_us", MICROSECONDS, FIELD(prepare_ns), 0, HOUR_US},
    {"spin_us", MICROSECONDS, FIELD(spin_ns), 0, 1000},
    {"load_us", MICROSECONDS, FIELD(load_ns), 0, HOUR_US},
    {"units", COUNT, FIELD(units), 1, MANY_UNITS},
    {"units_per_kib", COUNT, FIELD(units_per_kib), 0, MANY_UNITS},
    {"max_batch_requests", COUNT, FIELD(max_batch_requests), 1, 4096},
    {"max_batch_units", COUNT, FIELD(max_batch_units), 1, MANY_UNITS},
    {"max_request_units", COUNT, FIELD(max_request_units), 1, MANY_UNITS},
    {"memory_bytes", COUNT, FIELD(memory_bytes), 0, INT64_C(1) << 50},
    {"memory_per_unit", COUNT, FIELD(memory_per_unit), 0, INT64_C(1) << 40},
    {"fit_units", COUNT, FIELD(fit_units), 0, MANY_UNITS},
    {"stream", FLAG, FIELD(stream), 0, 0},
    {"fault_folder", TEXT, FIELD(fault_folder), 0, 0},
};

static int set_number(void *field, const struct option *option, const libsched_parameter *p,
                      libsched_error *err)
{
    double scale = option->kind == MICROSECONDS ? 1000 : 1;
    double value;
    if (p->type == LIBSCHED_PARAMETER_INT)
        value = (double)p->value.integer;
    else if (p->type == LIBSCHED_PARAMETER_FLOAT && option->kind == MICROSECONDS)
        value = p->value.real;
    else
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "parameter \"%s\" has to be a number",
                                  p->name);
    /* Also refuses what is not a number. */
    if (!(value >= (double)option->least && value <= (double)option->most))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "parameter \"%s\" is %g, it may be %" PRId64 " to %" PRId64,
                                  p->name, value, option->least, option->most);
    *(int64_t *)field = (int64_t)(value * scale);
    return LIBSCHED_OK;
}

static int set_option(libsched_engine_model *model, const libsched_parameter *p,
                      libsched_error *err)
{
    const struct option *option = NULL;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (strcmp(options[i].name, p->name) == 0)
            option = &options[i];
    if (option == NULL)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "a synthetic model has no parameter \"%s\"", p->name);
    void *field = (char *)model + option->offset;
    switch (option->kind) {
    case COUNT:
    case MICROSECONDS:
        return set_number(field, option, p, err);
    case FLAG:
        if (p->type != LIBSCHED_PARAMETER_BOOL)
            return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                      "parameter \"%s\" has to be true or false", p->name);
        *(bool *)field = p->value.boolean;
        return LIBSCHED_OK;
    case TEXT:
        if (p->type != LIBSCHED_PARAMETER_STRING)
            return libsched_error_set(err, LIBSCHED_EBADMODEL, "parameter \"%s\" has to be a text",
                                      p->name);
        free(*(char **)field);
        *(char **)field = strdup(p->value.string);
        if (*(char **)field == NULL)
            return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a parameter");
        return LIBSCHED_OK;
    }
    return LIBSCHED_EINVAL;
}

/* ----------------------------------------------------------------------------------------- time */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void sleep_until(int64_t time)
{
    struct timespec until = {.tv_sec = time / 1000000000, .tv_nsec = time % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

/* Lets `cost` pass, from the time at which the step before should have ended where this one
 * follows it at once. */
static void let_pass(libsched_engine_model *model, int64_t cost)
{
    if (cost <= 0)
        return;
    int64_t now = now_ns();
    int64_t gap = now - model->actual_end;
    int64_t begin = gap <= AT_ONCE_NS ? model->planned_end + gap : now;
    model->planned_end = begin + cost;
    if (model->planned_end - model->spin_ns > now)
        sleep_until(model->planned_end - model->spin_ns);
    do {
        model->actual_end = now_ns();
    } while (model->actual_end < model->planned_end);
}

/* -------------------------------------------------------------------------------------- loading */

static void synthetic_close(libsched_engine_model *model)
{
    free(model->fault_folder);
    free(model);
}

static int synthetic_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                          libsched_error *err)
{
    libsched_engine_model *model = malloc(sizeof(*model));
    if (model == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model");
    *model = (libsched_engine_model){
        .units = 1,
        .max_batch_requests = 64,
        .max_batch_units = MANY_UNITS,
        .max_request_units = MANY_UNITS,
        .stream = true,
        .prepares =
            libsched_parameter_find(args->parameters, args->n_parameters, "prepare_us") != NULL,
    };
    for (uint32_t i = 0; i < args->n_parameters; i++) {
        int status = set_option(model, &args->parameters[i], err);
        if (status < 0) {
            synthetic_close(model);
            return status;
        }
    }
    /* The shortest sleeps the kernel can do; it stays with this thread, the worker's. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    if (model->load_ns > 0)
        sleep_until(now_ns() + model->load_ns);
    *out = model;
    return LIBSCHED_OK;
}

static libsched_tensor_spec spec(const char *name, uint32_t datatype, int64_t elements,
                                 bool optional)
{
    libsched_tensor_spec out = {
        .datatype = datatype, .rank = 1, .shape = {elements}, .optional = optional};
    snprintf(out.name, sizeof(out.name), "%s", name);
    return out;
}

static int synthetic_describe(libsched_engine_model *model, libsched_engine_description *out,
                              libsched_error *err)
{
    (void)err;
    *out = (libsched_engine_description){
        .flags = LIBSCHED_ENGINE_WAITS | LIBSCHED_ENGINE_REPEATABLE |
                 (model->prepares ? LIBSCHED_ENGINE_PREPARES : 0) |
                 (model->stream ? LIBSCHED_ENGINE_STEPS : 0),
        .n_inputs = 1,
        .inputs = {spec("data", LIBSCHED_UINT8, -1, false)},
        .n_outputs = 3,
        .outputs = {spec("checksum", LIBSCHED_UINT64, 1, false),
                    spec("part", LIBSCHED_UINT32, 1, true), spec("data", LIBSCHED_UINT8, -1, true)},
        .max_batch_requests = (uint32_t)model->max_batch_requests,
        .max_batch_units = (uint64_t)model->max_batch_units,
        .max_request_units = (uint64_t)model->max_request_units,
        .units_fixed = (uint64_t)model->units,
        .units_per_kib = (uint64_t)model->units_per_kib,
        .memory_bytes = (uint64_t)model->memory_bytes,
        .memory_per_unit = (uint64_t)model->memory_per_unit,
    };
    snprintf(out->text, sizeof(out->text), "synthetic, %g ms + %g ms a unit",
             (double)model->a_ns / 1e6, (double)model->b_ns / 1e6);
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------- requests */

/* An integer of a request: `otherwise` where it is absent; ends the item where it is out of range.
 */
static bool request_int(const libsched_engine_host *host, void *h, libsched_item *item,
                        const char *name, int64_t most, int64_t otherwise, int64_t *out)
{
    const libsched_parameter *p =
        libsched_parameter_find(item->parameters, item->n_parameters, name);
    *out = otherwise;
    if (p == NULL)
        return true;
    if (p->type == LIBSCHED_PARAMETER_INT && p->value.integer >= 1 && p->value.integer <= most) {
        *out = p->value.integer;
        return true;
    }
    char message[LIBSCHED_MESSAGE_SIZE];
    snprintf(message, sizeof(message),
             "parameter \"%s\" has to be a whole number from 1 to %" PRId64, name, most);
    host->end(h, item, LIBSCHED_EINVAL, message);
    return false;
}

static const char *request_text(const libsched_item *item, const char *name)
{
    const libsched_parameter *p =
        libsched_parameter_find(item->parameters, item->n_parameters, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : NULL;
}

static bool request_flag(const libsched_item *item, const char *name)
{
    const libsched_parameter *p =
        libsched_parameter_find(item->parameters, item->n_parameters, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_BOOL && p->value.boolean;
}

/* --------------------------------------------------------------------------------------- faults */

enum fault { NONE, ITEM_ENDED, STEP_FAILS, STEP_DOES_NOT_FIT, DEVICE_LOST };

static _Noreturn void end_by_signal(int number)
{
    signal(number, SIG_DFL);
    raise(number);
    _exit(128 + number);
}

/* Whether a fault that strikes once still has to: it leaves its mark. */
static bool first_time(const libsched_engine_model *model, const char *mark)
{
    if (mark == NULL)
        return true;
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", model->fault_folder, mark);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static enum fault refuse(const libsched_engine_host *host, void *h, libsched_item *item,
                         const char *why)
{
    host->end(h, item, LIBSCHED_EINVAL, why);
    return ITEM_ENDED;
}

static enum fault strike(libsched_engine_model *model, const libsched_engine_host *host, void *h,
                         libsched_item *item, int64_t part)
{
    const char *fault = request_text(item, "fault");
    if (fault == NULL)
        return NONE;
    int64_t when;
    if (!request_int(host, h, item, "fault_part", MAX_PARTS, 1, &when))
        return ITEM_ENDED;
    if (part != when)
        return NONE;
    const char *mark = request_text(item, "fault_once");
    if (mark != NULL && (model->fault_folder == NULL || mark[0] == '.' || mark[0] == '\0' ||
                         strchr(mark, '/') != NULL))
        return refuse(host, h, item,
                      "\"fault_once\" has to be a file's name, and the model needs fault_folder");
    if (!first_time(model, mark))
        return NONE;
    if (strcmp(fault, "exit") == 0)
        _exit(3);
    if (strcmp(fault, "abort") == 0)
        end_by_signal(SIGABRT);
    if (strcmp(fault, "segv") == 0)
        end_by_signal(SIGSEGV);
    if (strcmp(fault, "kill") == 0)
        end_by_signal(SIGKILL);
    if (strcmp(fault, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(fault, "fail") == 0)
        return STEP_FAILS;
    if (strcmp(fault, "no_memory") == 0)
        return STEP_DOES_NOT_FIT;
    if (strcmp(fault, "device_lost") == 0)
        return DEVICE_LOST;
    if (strcmp(fault, "error") != 0)
        return refuse(host, h, item, "there is no such \"fault\"");
    host->end(h, item, LIBSCHED_EENGINE, "the request asked for an error");
    return ITEM_ENDED;
}

/* ---------------------------------------------------------------------------------------- steps */

uint64_t synthetic_checksum(const void *data, uint64_t size)
{
    const unsigned char *at = data;
    uint64_t sum = size, factor = 1, left = size;
    for (; left >= 8; left -= 8, at += 8, factor += 2) {
        uint64_t word;
        memcpy(&word, at, 8);
        sum += word * factor;
    }
    if (left > 0) {
        uint64_t word = 0;
        memcpy(&word, at, left);
        sum += word * factor;
    }
    return sum;
}

/* Makes the outputs of an item's part; false where there was no room, and the item has ended. */
static bool answer(const libsched_engine_host *host, void *h, libsched_item *item, uint32_t part)
{
    static const int64_t one[1] = {1};
    const libsched_tensor *data = &item->inputs[0];
    uint64_t *checksum =
        host->output(h, item, "checksum", LIBSCHED_UINT64, 1, one, sizeof(*checksum));
    if (checksum == NULL)
        return false;
    *checksum = synthetic_checksum(data->data, data->size);
    if (libsched_parameter_find(item->parameters, item->n_parameters, "parts") != NULL) {
        uint32_t *number = host->output(h, item, "part", LIBSCHED_UINT32, 1, one, sizeof(*number));
        if (number == NULL)
            return false;
        *number = part;
    }
    if (request_flag(item, "echo")) {
        void *copy = host->output(h, item, "data", LIBSCHED_UINT8, 1, data->shape, data->size);
        if (copy == NULL)
            return false;
        if (data->size > 0)
            memcpy(copy, data->data, data->size);
    }
    return true;
}

/* The part an item makes in this step: counted in its `user`, which has no other use. */
static uint32_t part_of(const libsched_item *item)
{
    return (uint32_t)(uintptr_t)item->user + 1;
}

static void advance(libsched_engine_model *model, const libsched_engine_host *host, void *h,
                    libsched_item *item)
{
    int64_t parts;
    if (!request_int(host, h, item, "parts", MAX_PARTS, 1, &parts))
        return;
    if (parts > 1 && !model->stream) {
        host->end(h, item, LIBSCHED_EINVAL,
                  "this model answers in one part: load it with the parameter stream = true");
        return;
    }
    uint32_t part = part_of(item);
    if (!answer(host, h, item, part))
        return;
    item->user = (void *)(uintptr_t)part;
    if (part >= parts)
        host->end(h, item, LIBSCHED_OK, NULL);
    else
        host->part(h, item);
}

static int check_input(const libsched_engine_host *host, void *h, libsched_item *item)
{
    if (item->n_inputs == 1 && strcmp(item->inputs[0].name, "data") == 0 &&
        item->inputs[0].datatype == LIBSCHED_UINT8 && item->inputs[0].rank == 1)
        return LIBSCHED_OK;
    host->end(h, item, LIBSCHED_EINVAL, "a synthetic model takes one input: data, UINT8 [-1]");
    return LIBSCHED_EINVAL;
}

static int synthetic_step(libsched_engine_model *model, libsched_engine_batch *batch,
                          const libsched_engine_host *host, libsched_error *err)
{
    int64_t units = 0;
    enum fault worst = NONE;
    /* Items that end here are left out of what follows: their place in the batch stays, so it is
     * remembered in `user`, which nobody reads again. */
    static char ended;
    for (uint32_t i = 0; i < batch->n_items; i++) {
        libsched_item *item = batch->items[i];
        int64_t cost;
        enum fault fault = ITEM_ENDED;
        if (check_input(host, batch->host, item) == LIBSCHED_OK &&
            request_int(host, batch->host, item, "units", MANY_UNITS, (int64_t)item->units, &cost))
            fault = strike(model, host, batch->host, item, part_of(item));
        if (fault == ITEM_ENDED) {
            item->user = &ended;
            continue;
        }
        units += cost;
        if (fault > worst)
            worst = fault;
    }
    if (worst == DEVICE_LOST)
        return libsched_error_set(err, LIBSCHED_EDEVICELOST, "a request asked for a lost device");
    if (worst == STEP_DOES_NOT_FIT || (model->fit_units > 0 && units > model->fit_units))
        return libsched_error_set(err, LIBSCHED_ENODEVMEM,
                                  "a step of %" PRId64 " units does not fit", units);
    if (worst == STEP_FAILS)
        return libsched_error_set(err, LIBSCHED_EENGINE, "a request asked for a step that fails");
    if (units > 0)
        let_pass(model, model->a_ns + model->b_ns * units);
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (batch->items[i]->user != &ended)
            advance(model, host, batch->host, batch->items[i]);
    return LIBSCHED_OK;
}

/* Counts a request's units, and hands its data on as it is. */
static int synthetic_prepare(libsched_engine_model *model, libsched_engine_batch *batch,
                             const libsched_engine_host *host, libsched_error *err)
{
    (void)err;
    let_pass(model, model->prepare_ns);
    for (uint32_t i = 0; i < batch->n_items; i++) {
        libsched_item *item = batch->items[i];
        int64_t units;
        if (check_input(host, batch->host, item) < 0)
            continue;
        const libsched_tensor *data = &item->inputs[0];
        int64_t rule = model->units + (int64_t)(data->size / 1024) * model->units_per_kib +
                       (int64_t)(data->size % 1024) * model->units_per_kib / 1024;
        if (!request_int(host, batch->host, item, "units", MANY_UNITS, rule, &units))
            continue;
        item->units = (uint64_t)units;
        void *copy =
            host->output(batch->host, item, "data", LIBSCHED_UINT8, 1, data->shape, data->size);
        if (copy == NULL)
            continue;
        if (data->size > 0)
            memcpy(copy, data->data, data->size);
        host->end(batch->host, item, LIBSCHED_OK, NULL);
    }
    return LIBSCHED_OK;
}

const libsched_engine *engine_synthetic(void)
{
    static const libsched_engine table = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "synthetic",
        .open = synthetic_open,
        .describe = synthetic_describe,
        .close = synthetic_close,
        .prepare = synthetic_prepare,
        .step = synthetic_step,
    };
    return &table;
}
