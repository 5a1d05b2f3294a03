/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine, "breaker", that computes something small on its device and answers how much of the
 * device's memory is free; and does to the device what a request asks for:
 *
 * - "fault": "illegal", "endless" (weapon.h); "memory": it asks for more than there is; "crowd":
 * the same in a batch of more than two; "stays": the batch is never done;
 * - "mark": a file that it makes when the request begins: it strikes only where there was none yet.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libsched/device.h>
#include <libsched/engine.h>

#include "weapon.h"

#define N 64u

struct libsched_engine_model {
    libsched_device *device;
    libsched_device_buffer *input, *output;
    libsched_device_weight *weight, *gain, *shift;
    float numbers[N * N];
};

static void breaker_close(libsched_engine_model *m)
{
    const libsched_device_driver *driver = m->device->driver;

    driver->buffer_destroy(m->device, m->input);
    driver->buffer_destroy(m->device, m->output);
    driver->weight_destroy(m->device, m->weight);
    driver->weight_destroy(m->device, m->gain);
    driver->weight_destroy(m->device, m->shift);
    free(m);
}

static int make_weight(libsched_engine_model *m, libsched_device_weight **out, uint32_t kind,
                       uint64_t rows, libsched_error *err)
{
    const libsched_device_weight_args args = {
        .struct_size = sizeof(args),
        .kind = kind,
        .datatype = LIBSCHED_FP32,
        .source_datatype = LIBSCHED_FP32,
        .rows = rows,
        .columns = N,
        .data = m->numbers,
    };

    return m->device->driver->weight_create(m->device, out, &args, err);
}

static int breaker_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                        libsched_error *err)
{
    libsched_engine_model *m = calloc(1, sizeof(*m));
    int status;

    if (m == NULL || args->device == NULL) {
        free(m);
        return libsched_error_set(err, LIBSCHED_EINVAL, "the breaker needs a device");
    }
    m->device = args->device;
    for (uint32_t i = 0; i < N * N; i++)
        m->numbers[i] = (float)(i % 7);
    status = make_weight(m, &m->weight, LIBSCHED_WEIGHT_LINEAR, N, err);
    if (status == LIBSCHED_OK)
        status = make_weight(m, &m->gain, LIBSCHED_WEIGHT_VECTOR, 1, err);
    if (status == LIBSCHED_OK)
        status = make_weight(m, &m->shift, LIBSCHED_WEIGHT_VECTOR, 1, err);
    if (status == LIBSCHED_OK)
        status = m->device->driver->buffer_create(m->device, &m->input, LIBSCHED_FP32, N, N, err);
    if (status == LIBSCHED_OK)
        status = m->device->driver->buffer_create(m->device, &m->output, LIBSCHED_FP32, N, N, err);
    if (status != LIBSCHED_OK) {
        breaker_close(m);
        return status;
    }
    *out = m;
    return LIBSCHED_OK;
}

static int breaker_describe(libsched_engine_model *m, libsched_engine_description *out,
                            libsched_error *err)
{
    (void)m;
    (void)err;
    memset(out, 0, sizeof(*out));
    out->n_inputs = out->n_outputs = 1;
    strcpy(out->inputs[0].name, "data");
    out->inputs[0].datatype = LIBSCHED_UINT8;
    out->inputs[0].rank = 1;
    out->inputs[0].shape[0] = -1;
    strcpy(out->outputs[0].name, "free");
    out->outputs[0].datatype = LIBSCHED_UINT64;
    out->outputs[0].rank = 1;
    out->outputs[0].shape[0] = 1;
    out->max_batch_requests = 8;
    out->max_batch_units = out->max_request_units = 1000;
    out->units_fixed = 1;
    strcpy(out->text, "a breaker");
    return LIBSCHED_OK;
}

/* ---------------------------------------------------------------------------------------- step */

static const char *text(const libsched_item *item, const char *name)
{
    const libsched_parameter *p =
        libsched_parameter_find(item->parameters, item->n_parameters, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : NULL;
}

/* Whether it is not there yet. */
static bool make_mark(const char *path)
{
    const int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static int strike(libsched_engine_model *m, const char *fault, libsched_error *err)
{
    libsched_device_buffer *large = NULL;
    int status = LIBSCHED_OK;

    if (strcmp(fault, "illegal") == 0)
        weapon_illegal();
    else if (strcmp(fault, "endless") == 0)
        weapon_endless();
    else if (strcmp(fault, "stays") == 0)
        for (;;)
            pause();
    else if (strcmp(fault, "memory") == 0)
        /* 256 TiB. */
        status = m->device->driver->buffer_create(m->device, &large, LIBSCHED_FP32,
                                                  (uint64_t)1 << 26, (uint64_t)1 << 20, err);
    m->device->driver->buffer_destroy(m->device, large);
    return status;
}

static int compute(libsched_engine_model *m, uint64_t *free_bytes, libsched_error *err)
{
    const libsched_device_driver *driver = m->device->driver;
    const libsched_device_linear_args linear = {
        .struct_size = sizeof(linear),
        .rows = N,
        .input = m->input,
        .weight = m->weight,
        .output = m->output,
    };
    const libsched_device_norm_args norm = {
        .struct_size = sizeof(norm),
        .rows = N,
        .input = m->output,
        .gain = m->gain,
        .shift = m->shift,
        .epsilon = 1e-5f,
        .output = m->output,
    };
    libsched_device_properties info = {.struct_size = sizeof(info)};
    float out[N];
    int status = driver->upload(m->device, m->input, 0, N, m->numbers, err);

    if (status == LIBSCHED_OK)
        status = driver->linear(m->device, &linear, err);
    if (status == LIBSCHED_OK)
        status = driver->norm(m->device, &norm, err);
    if (status == LIBSCHED_OK)
        status = driver->download(m->device, m->output, 0, 1, out, err);
    if (status == LIBSCHED_OK)
        status = driver->synchronize(m->device, err);
    if (status == LIBSCHED_OK)
        status = driver->info(m->device, &info, err);
    *free_bytes = info.memory_free;
    return status;
}

static int breaker_step(libsched_engine_model *m, libsched_engine_batch *batch,
                        const libsched_engine_host *host, libsched_error *err)
{
    static const int64_t one[1] = {1};
    uint64_t free_bytes = 0;
    int status = LIBSCHED_OK;

    for (uint32_t i = 0; status == LIBSCHED_OK && i < batch->n_items; i++) {
        const char *fault = text(batch->items[i], "fault"), *mark = text(batch->items[i], "mark");
        const bool first = mark == NULL || make_mark(mark);

        if (fault != NULL && strcmp(fault, "crowd") == 0)
            fault = batch->n_items > 2 ? "memory" : NULL;
        if (fault != NULL && first)
            status = strike(m, fault, err);
    }
    if (status == LIBSCHED_OK)
        status = compute(m, &free_bytes, err);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < batch->n_items; i++) {
        uint64_t *to = host->output(batch->host, batch->items[i], "free", LIBSCHED_UINT64, 1, one,
                                    sizeof(*to));
        if (to == NULL)
            continue;
        *to = free_bytes;
        host->end(batch->host, batch->items[i], LIBSCHED_OK, NULL);
    }
    return status;
}

LIBSCHED_API const libsched_engine *libsched_engine_entry(uint32_t abi)
{
    static const libsched_engine engine = {
        .abi_version = LIBSCHED_ENGINE_ABI,
        .struct_size = sizeof(libsched_engine),
        .name = "breaker",
        .open = breaker_open,
        .describe = breaker_describe,
        .close = breaker_close,
        .step = breaker_step,
    };
    return abi == LIBSCHED_ENGINE_ABI ? &engine : NULL;
}
