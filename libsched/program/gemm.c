/* SPDX-License-Identifier: Apache-2.0 */
#include "program/gemm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <libsched/device.h>

#include "program/options.h"
#include "program/rank.h"
#include "program/reduce.h"

#define KNOWN "m, n, k, datatype, seconds and steps"
#define MAX_SIZE 65536
/* A step is so long, or one product where that takes longer. */
#define STEP_NS UINT64_C(50000000)
/* Products that are handed to the device before one looks at the clock: it may run behind. */
#define BURST_NS UINT64_C(5000000)

struct options {
    uint64_t m, n, k;
    uint32_t datatype;
    double seconds;
    uint64_t steps; /* 0: seconds */
};

struct libsched_program_rank {
    struct rank_head head;
    struct options options;
    libsched_device_buffer *input, *output;
    libsched_device_weight *weight;
    libsched_device_buffer *sums; /* what the ranks tell each other, in FP32 */
    uint64_t burst;               /* products between two looks at the clock */
    uint64_t products, ns;        /* counted, and the time they took */
};

/* --------------------------------------------------------------------------------------- check */

static int read_options(struct options *out, const libsched_program_args *args, libsched_error *err)
{
    struct option_reader reader;
    bool seconds, steps;

    *out =
        (struct options){.m = 1024, .n = 1024, .k = 1024, .datatype = LIBSCHED_FP32, .seconds = 5};
    options_begin(&reader, args, "gemm", err);
    options_integer(&reader, "m", 1, MAX_SIZE, &out->m);
    options_integer(&reader, "n", 1, MAX_SIZE, &out->n);
    options_integer(&reader, "k", 1, MAX_SIZE, &out->k);
    options_datatype(&reader, "datatype", &out->datatype);
    seconds = options_real(&reader, "seconds", 0.001, 1e6, &out->seconds);
    steps = options_integer(&reader, "steps", 1, UINT32_MAX, &out->steps);
    if (options_end(&reader, KNOWN) == LIBSCHED_OK && seconds && steps)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "gemm: \"seconds\" and \"steps\" exclude each other");
    return reader.status;
}

static int gemm_check(const libsched_program_args *args, libsched_program_needs *out,
                      libsched_error *err)
{
    struct options o;
    int status = read_options(&o, args, err);
    uint64_t elements;
    char duration[48];

    if (status != LIBSCHED_OK)
        return status;
    /* A device may keep the weight twice while it brings it into its own form. */
    elements = o.m * o.k + o.m * o.n + 2 * o.n * o.k;
    out->memory_bytes = elements * libsched_datatype_size(o.datatype);
    if (o.steps > 0)
        snprintf(duration, sizeof(duration), "%" PRIu64 " steps", o.steps);
    else
        snprintf(duration, sizeof(duration), "%g s", o.seconds);
    snprintf(out->text, sizeof(out->text),
             "products of [%" PRIu64 ", %" PRIu64 "] and [%" PRIu64 ", %" PRIu64 "] in %s, %s", o.m,
             o.k, o.k, o.n, o.datatype == LIBSCHED_BF16 ? "bf16" : "f32", duration);
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- start */

static void gemm_close(libsched_program_rank *rank)
{
    const libsched_device_driver *driver = rank->head.device->driver;

    driver->buffer_destroy(rank->head.device, rank->input);
    driver->buffer_destroy(rank->head.device, rank->output);
    driver->buffer_destroy(rank->head.device, rank->sums);
    driver->weight_destroy(rank->head.device, rank->weight);
    free(rank);
}

/* Small numbers of either sign, in the buffer's datatype: sums stay small as well. */
static void fill(void *values, uint32_t datatype, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        const int value = (int)(i * 2654435761u >> 16 & 7) - 3;
        if (datatype == LIBSCHED_FP32)
            ((float *)values)[i] = (float)value;
        else
            /* Small integers in BF16: the upper half of their FP32. */
            ((uint16_t *)values)[i] =
                (uint16_t[]){0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080}[value + 3];
    }
}

static int create(libsched_program_rank *rank, libsched_error *err)
{
    const struct options *o = &rank->options;
    libsched_device *device = rank->head.device;
    const libsched_device_driver *driver = device->driver;
    const uint64_t most = o->n > o->m ? o->n : o->m;
    void *values = malloc(most * o->k * libsched_datatype_size(o->datatype));
    int status;

    if (values == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for matrices");
    fill(values, o->datatype, most * o->k);
    const libsched_device_weight_args weight = {
        .struct_size = sizeof(weight),
        .kind = LIBSCHED_WEIGHT_LINEAR,
        .datatype = o->datatype,
        .source_datatype = o->datatype,
        .rows = o->n,
        .columns = o->k,
        .data = values,
    };
    status = driver->weight_create(device, &rank->weight, &weight, err);
    if (status == LIBSCHED_OK)
        status = driver->buffer_create(device, &rank->input, o->datatype, o->m, o->k, err);
    if (status == LIBSCHED_OK)
        status = driver->buffer_create(device, &rank->output, o->datatype, o->m, o->n, err);
    if (status == LIBSCHED_OK)
        status = driver->buffer_create(device, &rank->sums, LIBSCHED_FP32, 1, 1, err);
    if (status == LIBSCHED_OK)
        status = driver->upload(device, rank->input, 0, o->m, values, err);
    if (status == LIBSCHED_OK)
        status = driver->synchronize(device, err);
    free(values);
    return status;
}

static int open_rank(libsched_program_rank *rank, const libsched_program_args *args,
                     libsched_error *err)
{
    int status = read_options(&rank->options, args, err);

    return status == LIBSCHED_OK ? create(rank, err) : status;
}

static int gemm_start(libsched_program_rank **out, const libsched_program_args *args,
                      const libsched_program_host *host, void *host_data, libsched_error *err)
{
    (void)host;
    (void)host_data;
    return rank_start(out, sizeof(**out), args, open_rank, gemm_close, err);
}

/* ---------------------------------------------------------------------------------------- step */

static int run(libsched_program_rank *rank, uint64_t products, libsched_error *err)
{
    const libsched_device_linear_args args = {
        .struct_size = sizeof(args),
        .rows = rank->options.m,
        .input = rank->input,
        .weight = rank->weight,
        .output = rank->output,
    };
    libsched_device *device = rank->head.device;
    int status = LIBSCHED_OK;

    for (uint64_t i = 0; status == LIBSCHED_OK && i < products; i++)
        status = device->driver->linear(device, &args, err);
    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    return status;
}

/* The first product compiles what it needs, and the second tells how long one takes. */
static int warm_up(libsched_program_rank *rank, libsched_error *err)
{
    int status = run(rank, 1, err);
    const uint64_t begin = program_now();
    uint64_t ns;

    if (status == LIBSCHED_OK)
        status = run(rank, 1, err);
    ns = program_now() - begin;
    rank->burst = BURST_NS / (ns > 0 ? ns : 1);
    if (rank->burst == 0)
        rank->burst = 1;
    return status;
}

/* The sum over all ranks. */
static int sum(libsched_program_rank *rank, double *value, libsched_error *err)
{
    return program_reduce_number(&rank->head, rank->sums, LIBSCHED_REDUCE_SUM, value, err);
}

static double flops_per_s(const libsched_program_rank *rank)
{
    const struct options *o = &rank->options;

    if (rank->ns == 0)
        return 0;
    return 2.0 * (double)o->m * (double)o->n * (double)o->k * (double)rank->products /
           ((double)rank->ns * 1e-9);
}

/* All ranks end with the same step: that in which all of them have computed for long enough. */
static int decide(libsched_program_rank *rank, uint64_t step, bool *finished, libsched_error *err)
{
    double waiting = (double)rank->ns * 1e-9 < rank->options.seconds;
    int status;

    if (rank->options.steps > 0) {
        *finished = step >= rank->options.steps;
        return LIBSCHED_OK;
    }
    status = sum(rank, &waiting, err);
    *finished = waiting == 0;
    return status;
}

static void tell(const libsched_program_rank *rank, uint64_t step,
                 const libsched_program_host *host, void *host_data)
{
    const struct options *o = &rank->options;
    const uint64_t total = (uint64_t)(o->seconds * 1000), done = rank->ns / 1000000;
    char line[64];

    snprintf(line, sizeof(line), "%.1f GFLOP/s", flops_per_s(rank) * 1e-9);
    if (o->steps > 0)
        host->progress(host_data, step, o->steps, line);
    else
        host->progress(host_data, done < total ? done : total, total, line);
}

static int tell_results(libsched_program_rank *rank, const libsched_program_host *host,
                        void *host_data, libsched_error *err)
{
    double total = flops_per_s(rank);
    int status = sum(rank, &total, err);

    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, "flops_per_s", total);
    if (status == LIBSCHED_OK)
        status = result_integer(host, host_data, "products", rank->products);
    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, "seconds", (double)rank->ns * 1e-9);
    return status;
}

static int gemm_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                     const libsched_program_host *host, void *host_data, libsched_error *err)
{
    int status = step == 1 ? warm_up(rank, err) : LIBSCHED_OK;
    const uint64_t begin = program_now();
    uint64_t ns = 0;

    while (status == LIBSCHED_OK && ns < STEP_NS && !host->cancelled(host_data)) {
        status = run(rank, rank->burst, err);
        rank->products += rank->burst;
        ns = program_now() - begin;
    }
    rank->ns += ns;
    if (status == LIBSCHED_OK && host->cancelled(host_data))
        return libsched_error_set(err, LIBSCHED_ECANCELED, "cancelled");
    if (status == LIBSCHED_OK)
        status = decide(rank, step, finished, err);
    if (status != LIBSCHED_OK)
        return status;
    tell(rank, step, host, host_data);
    return *finished ? tell_results(rank, host, host_data, err) : LIBSCHED_OK;
}

const libsched_program *program_gemm(void)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "gemm",
        .check = gemm_check,
        .start = gemm_start,
        .step = gemm_step,
        .close = gemm_close,
    };
    return &program;
}
