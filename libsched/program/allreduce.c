/* SPDX-License-Identifier: Apache-2.0 */
#include "program/allreduce.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libsched/device.h>

#include "program/options.h"
#include "program/rank.h"

#define KNOWN "min_bytes, max_bytes, iterations and datatype"
#define MAX_BYTES ((uint64_t)16 << 30)
#define MAX_ITERATIONS 1000000
/* Of each size before the clock runs. */
#define WARM_UPS 2
/* Iterations of a step together move about so much: some ten milliseconds on a CPU, a few on what
 * is faster. Every rank comes to the same number. */
#define STEP_BYTES ((uint64_t)32 << 20)
#define STEP_ITERATIONS 100
/* Columns of the buffers, whose rows are then as many as are needed. */
#define COLUMNS 256

struct options {
    uint64_t min_bytes, max_bytes, iterations;
    uint32_t datatype;
};

struct libsched_program_rank {
    struct rank_head head;
    struct options options;
    libsched_device_buffer *input, *output;
    void *values;      /* of the largest size, on the host */
    uint64_t bytes;    /* the size that is under way */
    uint64_t index;    /* its number, from 0 on */
    uint64_t iterated; /* with it, the warm-ups included */
    uint64_t ns;
    double max_busbw;
};

static uint64_t count_sizes(const struct options *o)
{
    uint64_t n = 0;

    for (uint64_t bytes = o->min_bytes; bytes <= o->max_bytes; bytes *= 2)
        n++;
    return n;
}

/* --------------------------------------------------------------------------------------- check */

static int read_options(struct options *out, const libsched_program_args *args, libsched_error *err)
{
    struct option_reader reader;
    uint64_t element;

    *out = (struct options){.min_bytes = 1024,
                            .max_bytes = (uint64_t)64 << 20,
                            .iterations = 20,
                            .datatype = LIBSCHED_FP32};
    options_begin(&reader, args, "allreduce", err);
    options_datatype(&reader, "datatype", &out->datatype);
    element = libsched_datatype_size(out->datatype);
    options_integer(&reader, "min_bytes", element, MAX_BYTES, &out->min_bytes);
    options_integer(&reader, "max_bytes", element, MAX_BYTES, &out->max_bytes);
    options_integer(&reader, "iterations", 1, MAX_ITERATIONS, &out->iterations);
    if (options_end(&reader, KNOWN) != LIBSCHED_OK)
        return reader.status;
    if (out->min_bytes % element != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "allreduce: \"min_bytes\" has to be a multiple of %" PRIu64
                                  ", got %" PRIu64,
                                  element, out->min_bytes);
    if (out->min_bytes > out->max_bytes)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "allreduce: \"min_bytes\" is %" PRIu64
                                  ", more than \"max_bytes\", %" PRIu64,
                                  out->min_bytes, out->max_bytes);
    if (args->n_ranks < 2)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "allreduce: it takes at least 2 devices, got %" PRIu32,
                                  args->n_ranks);
    return LIBSCHED_OK;
}

static int allreduce_check(const libsched_program_args *args, libsched_program_needs *out,
                           libsched_error *err)
{
    struct options o;
    char from[32], to[32];
    int status = read_options(&o, args, err);

    if (status != LIBSCHED_OK)
        return status;
    out->memory_bytes = 2 * o.max_bytes;
    options_bytes_text(from, sizeof(from), o.min_bytes);
    options_bytes_text(to, sizeof(to), o.min_bytes << (count_sizes(&o) - 1));
    snprintf(out->text, sizeof(out->text), "all-reduce of %s to %s in %s, %" PRIu64 " times each",
             from, to, o.datatype == LIBSCHED_BF16 ? "bf16" : "f32", o.iterations);
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- start */

static uint64_t rows_of(uint64_t elements)
{
    return (elements + COLUMNS - 1) / COLUMNS;
}

static void allreduce_close(libsched_program_rank *rank)
{
    rank->head.device->driver->buffer_destroy(rank->head.device, rank->input);
    rank->head.device->driver->buffer_destroy(rank->head.device, rank->output);
    free(rank->values);
    free(rank);
}

/* What a rank brings for an element: integers that stay exact in FP32 when they are added up. */
static float value_of(uint32_t rank, uint64_t i)
{
    return (float)(i % 17 + rank % 16);
}

static uint16_t narrow(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static int create(libsched_program_rank *rank, libsched_error *err)
{
    const struct options *o = &rank->options;
    libsched_device *device = rank->head.device;
    const libsched_device_driver *driver = device->driver;
    const uint64_t elements = o->max_bytes / libsched_datatype_size(o->datatype);
    const uint64_t rows = rows_of(elements);
    int status;

    rank->values = malloc(rows * COLUMNS * libsched_datatype_size(o->datatype));
    if (rank->values == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %" PRIu64 " numbers",
                                  elements);
    for (uint64_t i = 0; i < rows * COLUMNS; i++) {
        if (o->datatype == LIBSCHED_FP32)
            ((float *)rank->values)[i] = value_of(rank->head.number, i);
        else
            ((uint16_t *)rank->values)[i] = narrow(value_of(rank->head.number, i));
    }
    status = driver->buffer_create(device, &rank->input, o->datatype, rows, COLUMNS, err);
    if (status == LIBSCHED_OK)
        status = driver->buffer_create(device, &rank->output, o->datatype, rows, COLUMNS, err);
    if (status == LIBSCHED_OK)
        status = driver->upload(device, rank->input, 0, rows, rank->values, err);
    return status == LIBSCHED_OK ? driver->synchronize(device, err) : status;
}

static int open_rank(libsched_program_rank *rank, const libsched_program_args *args,
                     libsched_error *err)
{
    int status = read_options(&rank->options, args, err);

    rank->bytes = rank->options.min_bytes;
    return status == LIBSCHED_OK ? create(rank, err) : status;
}

static int allreduce_start(libsched_program_rank **out, const libsched_program_args *args,
                           const libsched_program_host *host, void *host_data, libsched_error *err)
{
    (void)host;
    (void)host_data;
    return rank_start(out, sizeof(**out), args, open_rank, allreduce_close, err);
}

/* ---------------------------------------------------------------------------------------- step */

static int iterate(libsched_program_rank *rank, uint64_t iterations, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .reduction = LIBSCHED_REDUCE_SUM,
        .count = rank->bytes / libsched_datatype_size(rank->options.datatype),
        .input = rank->input,
        .output = rank->output,
    };
    /* Nobody's time begins while another does something else. */
    int status = device->driver->barrier(device, rank->head.communicator, err);
    uint64_t begin = program_now();

    for (uint64_t i = 0; status == LIBSCHED_OK && i < iterations; i++)
        status = device->driver->all_reduce(device, rank->head.communicator, &args, err);
    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    if (rank->iterated >= WARM_UPS)
        rank->ns += program_now() - begin;
    rank->iterated += iterations;
    return status;
}

static int check_sums(libsched_program_rank *rank, libsched_error *err)
{
    libsched_device *device = rank->head.device;
    const bool bf16 = rank->options.datatype == LIBSCHED_BF16;
    const uint64_t n = rank->bytes / libsched_datatype_size(rank->options.datatype);
    int status = device->driver->download(device, rank->output, 0, rows_of(n), rank->values, err);

    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    for (uint64_t i = 0; status == LIBSCHED_OK && i < n; i++) {
        float expected = 0, got;
        for (uint32_t r = 0; r < rank->head.n; r++)
            expected += value_of(r, i);
        if (bf16) {
            const uint32_t bits[2] = {(uint32_t)((uint16_t *)rank->values)[i] << 16,
                                      (uint32_t)narrow(expected) << 16};
            memcpy(&got, &bits[0], sizeof(got));
            memcpy(&expected, &bits[1], sizeof(expected));
        } else {
            got = ((float *)rank->values)[i];
        }
        if (got != expected)
            status = libsched_error_set(err, LIBSCHED_EENGINE,
                                        "allreduce: element %" PRIu64 " of %" PRIu64
                                        " bytes is %g, not %g, on rank %" PRIu32,
                                        i, rank->bytes, got, expected, rank->head.number);
    }
    return status;
}

static int tell_size(libsched_program_rank *rank, const libsched_program_host *host,
                     void *host_data)
{
    const double seconds = (double)rank->ns * 1e-9 / (double)rank->options.iterations;
    const double algbw = seconds > 0 ? (double)rank->bytes * 1e-9 / seconds : 0;
    const double busbw = algbw * 2 * (rank->head.n - 1) / rank->head.n;
    char name[LIBSCHED_NAME_SIZE];
    int status;

    if (busbw > rank->max_busbw)
        rank->max_busbw = busbw;
    snprintf(name, sizeof(name), "algbw_%" PRIu64, rank->bytes);
    status = result_real(host, host_data, name, algbw);
    snprintf(name, sizeof(name), "busbw_%" PRIu64, rank->bytes);
    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, name, busbw);
    if (status == LIBSCHED_OK)
        status = result_real(host, host_data, "max_busbw", rank->max_busbw);
    return status;
}

static void tell_progress(const libsched_program_rank *rank, const libsched_program_host *host,
                          void *host_data)
{
    const uint64_t each = rank->options.iterations + WARM_UPS;
    char size[32], line[80];

    options_bytes_text(size, sizeof(size), rank->bytes);
    snprintf(line, sizeof(line), "%s, busbw up to %.2f GB/s", size, rank->max_busbw);
    host->progress(host_data, rank->index * each + rank->iterated,
                   count_sizes(&rank->options) * each, line);
}

static int allreduce_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                          const libsched_program_host *host, void *host_data, libsched_error *err)
{
    const uint64_t total = rank->options.iterations + WARM_UPS;
    uint64_t n = STEP_BYTES / rank->bytes;
    int status;

    (void)step;
    n = n < 1 ? 1 : n > STEP_ITERATIONS ? STEP_ITERATIONS : n;
    /* The warm-ups are a step of their own where they take long, and no part of one that counts. */
    if (rank->iterated < WARM_UPS)
        n = n < WARM_UPS - rank->iterated ? n : WARM_UPS - rank->iterated;
    status = iterate(rank, n < total - rank->iterated ? n : total - rank->iterated, err);
    if (status == LIBSCHED_OK && rank->iterated == total) {
        status = check_sums(rank, err);
        if (status == LIBSCHED_OK)
            status = tell_size(rank, host, host_data);
    }
    if (status != LIBSCHED_OK)
        return status;
    tell_progress(rank, host, host_data);
    if (rank->iterated == total) {
        *finished = rank->bytes > rank->options.max_bytes / 2;
        rank->bytes *= 2;
        rank->index++;
        rank->iterated = 0;
        rank->ns = 0;
    }
    return LIBSCHED_OK;
}

const libsched_program *program_allreduce(void)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "allreduce",
        .check = allreduce_check,
        .start = allreduce_start,
        .step = allreduce_step,
        .close = allreduce_close,
    };
    return &program;
}
