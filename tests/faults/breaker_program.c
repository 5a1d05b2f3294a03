/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program, "breaker", whose ranks add up a buffer in each of their "steps"; but in the second one
 * the last rank does what "fault" says:
 *
 * - "die": its process ends in the middle of it: what it called is with its device, or the others
 *   are in it;
 * - "absent": it does not come.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libsched/device.h>
#include <libsched/engine.h>

#define ROWS 4096u
#define COLUMNS 256u

struct libsched_program_rank {
    libsched_device *device;
    libsched_device_communicator *communicator;
    libsched_device_buffer *buffer;
    bool dies, absent;
    uint64_t steps;
};

static const libsched_parameter *find(const libsched_program_args *args, const char *name)
{
    return libsched_parameter_find(args->parameters, args->n_parameters, name);
}

static int breaker_check(const libsched_program_args *args, libsched_program_needs *out,
                         libsched_error *err)
{
    if (args->n_ranks < 2)
        return libsched_error_set(err, LIBSCHED_EINVAL, "the breaker takes several devices");
    out->memory_bytes = ROWS * COLUMNS * sizeof(float);
    strcpy(out->text, "a breaker");
    return LIBSCHED_OK;
}

static void breaker_close(libsched_program_rank *rank)
{
    rank->device->driver->buffer_destroy(rank->device, rank->buffer);
    free(rank);
}

static int breaker_start(libsched_program_rank **out, const libsched_program_args *args,
                         const libsched_program_host *host, void *host_data, libsched_error *err)
{
    const libsched_parameter *fault = find(args, "fault"), *steps = find(args, "steps");
    const char *what = fault != NULL && args->rank + 1 == args->n_ranks ? fault->value.string : "";
    libsched_program_rank *rank = calloc(1, sizeof(*rank));
    int status;

    (void)host;
    (void)host_data;
    if (rank == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    rank->device = args->device;
    rank->communicator = args->communicator;
    rank->dies = strcmp(what, "die") == 0;
    rank->absent = strcmp(what, "absent") == 0;
    rank->steps = steps != NULL ? (uint64_t)steps->value.integer : 3;
    status = args->device->driver->buffer_create(args->device, &rank->buffer, LIBSCHED_FP32, ROWS,
                                                 COLUMNS, err);
    if (status != LIBSCHED_OK) {
        breaker_close(rank);
        return status;
    }
    *out = rank;
    return LIBSCHED_OK;
}

/* Until the others have given up, and the host with them. */
static int stay_away(const libsched_program_host *host, void *host_data, libsched_error *err)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    while (!host->cancelled(host_data))
        nanosleep(&nap, NULL);
    return libsched_error_set(err, LIBSCHED_ECANCELED, "it stayed away");
}

static int breaker_step(libsched_program_rank *rank, uint64_t step, bool *finished,
                        const libsched_program_host *host, void *host_data, libsched_error *err)
{
    const libsched_device_driver *driver = rank->device->driver;
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .reduction = LIBSCHED_REDUCE_SUM,
        .count = ROWS * COLUMNS,
        .input = rank->buffer,
        .output = rank->buffer,
    };
    int status;

    if (step == 2 && rank->absent)
        return stay_away(host, host_data, err);
    /* There a call only returns when all have come. */
    if (step == 2 && rank->dies && strcmp(driver->name, "cpu") == 0)
        raise(SIGKILL);
    status = driver->all_reduce(rank->device, rank->communicator, &args, err);
    if (step == 2 && rank->dies)
        raise(SIGKILL);
    if (status == LIBSCHED_OK)
        status = driver->synchronize(rank->device, err);
    *finished = step >= rank->steps;
    return status;
}

LIBSCHED_API const libsched_program *libsched_program_entry(uint32_t abi)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "breaker",
        .check = breaker_check,
        .start = breaker_start,
        .step = breaker_step,
        .close = breaker_close,
    };
    return abi == LIBSCHED_PROGRAM_ABI ? &program : NULL;
}
