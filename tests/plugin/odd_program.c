/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that does what its job's parameter "do" asks of it: right and wrong things that a
 * program may do to its host. It needs nothing but the public headers.
 */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libsched/device.h>
#include <libsched/engine.h>

struct libsched_program_rank {
    char what[64];
    int64_t steps; /* "steps": the number of the last */
    int64_t only;  /* "rank": of which rank it is asked; -1: of all */
    uint32_t rank, n_ranks;
    struct libsched_device *device;
    struct libsched_device_communicator *communicator;
};

static const libsched_parameter *find(const libsched_program_args *args, const char *name)
{
    for (uint32_t i = 0; i < args->n_parameters; i++)
        if (strcmp(args->parameters[i].name, name) == 0)
            return &args->parameters[i];
    return NULL;
}

static int fail(libsched_error *err, int status, const char *message)
{
    snprintf(err->message, sizeof(err->message), "%s", message);
    err->status = status;
    return status;
}

static int odd_check(const libsched_program_args *args, libsched_program_needs *out,
                     libsched_error *err)
{
    const libsched_parameter *what = find(args, "do");
    if (what != NULL && strcmp(what->value.string, "refuse") == 0)
        return fail(err, LIBSCHED_EINVAL, "the odd program does not feel like it");
    if (what != NULL && strcmp(what->value.string, "no_status") == 0)
        return 7;
    out->memory_bytes = 1000 * (uint64_t)args->n_ranks;
    if (what != NULL && strcmp(what->value.string, "endless_text") == 0)
        memset(out->text, 't', sizeof(out->text));
    else
        snprintf(out->text, sizeof(out->text), "odd job \"%s\" of %u", args->name, args->n_ranks);
    return LIBSCHED_OK;
}

static void nap(void)
{
    struct timespec millisecond = {0, 1000000};
    nanosleep(&millisecond, NULL);
}

static int odd_start(libsched_program_rank **out, const libsched_program_args *args,
                     const libsched_program_host *host, void *h, libsched_error *err)
{
    const libsched_parameter *what = find(args, "do"), *steps = find(args, "steps"),
                             *only = find(args, "rank");
    struct libsched_program_rank *rank = calloc(1, sizeof(*rank));
    if (rank == NULL)
        return LIBSCHED_ENOMEM;
    snprintf(rank->what, sizeof(rank->what), "%s", what != NULL ? what->value.string : "");
    rank->steps = steps != NULL ? steps->value.integer : 3;
    rank->only = only != NULL ? only->value.integer : -1;
    rank->rank = args->rank;
    rank->n_ranks = args->n_ranks;
    rank->device = args->device;
    rank->communicator = args->communicator;
    if (rank->only >= 0 && rank->only != args->rank)
        snprintf(rank->what, sizeof(rank->what), "barrier");
    if (strcmp(rank->what, "fail_start") == 0) {
        free(rank);
        return fail(err, LIBSCHED_EENGINE, "it failed to start");
    }
    if (strcmp(rank->what, "hang_start") == 0) {
        while (!host->cancelled(h))
            nap();
        free(rank);
        return fail(err, LIBSCHED_ECANCELED, "it saw that it was cancelled");
    }
    if (strcmp(rank->what, "early") == 0)
        host->progress(h, 1, 2, "before the first step");
    *out = rank;
    return LIBSCHED_OK;
}

static int put(const libsched_program_host *host, void *h, const char *name, const char *text)
{
    libsched_parameter p = {.name = name, .type = LIBSCHED_PARAMETER_STRING};
    p.value.string = text;
    return host->result(h, &p);
}

static void put_results(const libsched_program_host *host, void *h)
{
    static char large[40000];
    libsched_parameter number = {.name = "number", .type = LIBSCHED_PARAMETER_INT};
    char codes[64];
    memset(large, 'x', sizeof(large) - 1);
    number.value.integer = 42;
    int a = host->result(h, &number);
    int b = put(host, h, "large", large);
    int c = put(host, h, "larger", large); /* no room beside the other */
    int d = put(host, h, "large", "small now");
    int e = put(host, h, "larger", large);
    int f = put(host, h, "", "no name");
    number.type = 77;
    int g = host->result(h, &number);
    snprintf(codes, sizeof(codes), "%d %d %d %d %d %d %d %d", a, b, c, d, e, f, g,
             host->result(h, NULL));
    put(host, h, "codes", codes);
}

/* As the others, but at the end it calls what they do not. It comes back from it, since it is about
 * nothing. */
static int step_with_extra(libsched_program_rank *rank, bool last, libsched_error *err)
{
    const struct libsched_device_driver *driver = rank->device->driver;
    libsched_device_collective_args args = {.struct_size = sizeof(args),
                                            .reduction = LIBSCHED_REDUCE_SUM};
    int status = driver->barrier(rank->device, rank->communicator, err);
    if (!last || status != LIBSCHED_OK)
        return status;
    status = driver->buffer_create(rank->device, &args.output, LIBSCHED_FP32, 1, 1, err);
    args.input = args.output;
    if (status == LIBSCHED_OK)
        status = driver->all_reduce(rank->device, rank->communicator, &args, err);
    driver->buffer_destroy(rank->device, args.output);
    return status;
}

static int odd_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                    const libsched_program_host *host, void *h, libsched_error *err)
{
    const char *what = rank->what;
    const struct libsched_device_driver *driver = rank->device->driver;
    *finished = step >= (uint64_t)rank->steps;
    if (strcmp(what, "extra") == 0)
        return step_with_extra(rank, *finished, err);
    if (strcmp(what, "barrier") == 0 && rank->n_ranks > 1)
        return driver->barrier(rank->device, rank->communicator, err);
    if (strcmp(what, "skip") == 0) /* what the others wait for */
        return LIBSCHED_OK;
    if (strcmp(what, "die") == 0 && step == 2)
        raise(SIGKILL);
    if (strcmp(what, "hang") == 0)
        for (;;)
            nap();
    if (strcmp(what, "until_cancelled") == 0) {
        host->log(h, "in the middle");
        while (!host->cancelled(h))
            nap();
        return fail(err, LIBSCHED_ECANCELED, "it saw that it was cancelled");
    }
    if (strcmp(what, "fail_step") == 0 && step == 2)
        return fail(err, LIBSCHED_EENGINE, "it failed in step 2");
    if (strcmp(what, "no_status") == 0)
        return 7;
    if (strcmp(what, "no_words") == 0)
        return LIBSCHED_EENGINE;
    if (strcmp(what, "device_lost") == 0)
        return fail(err, LIBSCHED_EDEVICELOST, "it lost its device");
    if (strcmp(what, "progress") == 0)
        for (uint64_t i = 1; i <= 100000; i++)
            host->progress(h, i, 100000, "counting");
    if (strcmp(what, "slow_progress") == 0)
        host->progress(h, step, 0, NULL);
    if (strcmp(what, "lie") == 0)
        host->progress(h, 1000, 10, "more than everything");
    if (strcmp(what, "results") == 0)
        put_results(host, h);
    return LIBSCHED_OK;
}

static void odd_close(libsched_program_rank *rank)
{
    free(rank);
}

#ifndef ABI_VERSION
#define ABI_VERSION LIBSCHED_PROGRAM_ABI
#endif

const libsched_program *libsched_program_entry(uint32_t abi)
{
    static const libsched_program table = {
        .abi_version = ABI_VERSION,
        .struct_size = sizeof(libsched_program),
        .name = "odd",
        .check = odd_check,
        .start = odd_start,
#ifndef INCOMPLETE
        .step = odd_step,
#endif
        .close = odd_close,
    };
#ifdef INCOMPLETE
    (void)odd_step;
#endif
    return abi == LIBSCHED_PROGRAM_ABI ? &table : NULL;
}
