/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that does what its parameters say, and computes nothing.
 *
 *   steps      it finishes with this step; 3
 *   step_us    a step takes so long; 0
 *   memory     bytes of memory that a rank needs; 0
 *   fault      what goes wrong: "check" and "check-kill" while it is checked; "start", "step" (it
 *              fails), "kill" (it ends its worker), "hang" (it never returns), "disagree" (it wants
 *              further steps when the others have finished), at the step `at` (1) of rank `rank`
 * (0) lie        it says that it has done more than all flood      progress that it tells of in
 * each step; 1 text       a string of its result
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libsched/engine.h>

struct libsched_program_rank {
    int64_t steps, step_us, at, flood;
    bool faulty, lies;
    char fault[32], text[64];
    uint32_t rank, n_ranks;
};

static const libsched_parameter *find(const libsched_program_args *args, const char *name)
{
    return libsched_parameter_find(args->parameters, args->n_parameters, name);
}

static int64_t integer(const libsched_program_args *args, const char *name, int64_t otherwise)
{
    const libsched_parameter *p = find(args, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_INT ? p->value.integer : otherwise;
}

static const char *string(const libsched_program_args *args, const char *name)
{
    const libsched_parameter *p = find(args, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "";
}

static int check(const libsched_program_args *args, libsched_program_needs *out,
                 libsched_error *err)
{
    const char *fault = string(args, "fault");
    if (strcmp(fault, "check-kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(fault, "check") == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "parameter \"fault\": it was to fail");
    out->memory_bytes = (uint64_t)integer(args, "memory", 0);
    strcpy(out->text, "a test");
    return LIBSCHED_OK;
}

static int start(libsched_program_rank **out, const libsched_program_args *args,
                 const libsched_program_host *host, void *host_data, libsched_error *err)
{
    (void)host;
    (void)host_data;
    libsched_program_rank *rank = calloc(1, sizeof(*rank));
    if (rank == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    rank->steps = integer(args, "steps", 3);
    rank->step_us = integer(args, "step_us", 0);
    rank->at = integer(args, "at", 1);
    rank->flood = integer(args, "flood", 1);
    rank->lies = find(args, "lie") != NULL;
    rank->faulty = args->rank == (uint32_t)integer(args, "rank", 0);
    strncpy(rank->fault, string(args, "fault"), sizeof(rank->fault) - 1);
    strncpy(rank->text, string(args, "text"), sizeof(rank->text) - 1);
    rank->rank = args->rank;
    rank->n_ranks = args->n_ranks;
    if (rank->faulty && strcmp(rank->fault, "start") == 0) {
        free(rank);
        return libsched_error_set(err, LIBSCHED_EENGINE, "it was not to start");
    }
    *out = rank;
    return LIBSCHED_OK;
}

static void result(libsched_program_rank *rank, const libsched_program_host *host, void *host_data)
{
    const libsched_parameter values[] = {
        {.name = "rank", .type = LIBSCHED_PARAMETER_INT, .value.integer = rank->rank},
        {.name = "ranks", .type = LIBSCHED_PARAMETER_INT, .value.integer = rank->n_ranks},
        {.name = "half", .type = LIBSCHED_PARAMETER_FLOAT, .value.real = 0.5},
        {.name = "yes", .type = LIBSCHED_PARAMETER_BOOL, .value.boolean = true},
        {.name = "text", .type = LIBSCHED_PARAMETER_STRING, .value.string = rank->text},
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        host->result(host_data, &values[i]);
}

static int step(libsched_program_rank *rank, uint64_t number, bool *finished,
                const libsched_program_host *host, void *host_data, libsched_error *err)
{
    struct timespec nap = {.tv_sec = rank->step_us / 1000000,
                           .tv_nsec = rank->step_us % 1000000 * 1000};
    bool now = rank->faulty && (int64_t)number == rank->at;
    if (now && strcmp(rank->fault, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (now && strcmp(rank->fault, "hang") == 0)
        for (;;)
            pause();
    if (now && strcmp(rank->fault, "step") == 0)
        return libsched_error_set(err, LIBSCHED_EENGINE, "it was to fail at step %llu",
                                  (unsigned long long)number);
    if (rank->step_us > 0)
        nanosleep(&nap, NULL);
    for (int64_t i = 0; i < rank->flood; i++)
        host->progress(host_data, number * (rank->lies ? 1000 : 1), (uint64_t)rank->steps,
                       "under way");
    *finished = (int64_t)number >= rank->steps;
    if (rank->faulty && strcmp(rank->fault, "disagree") == 0)
        *finished = false;
    if (*finished)
        result(rank, host, host_data);
    return LIBSCHED_OK;
}

static void close_rank(libsched_program_rank *rank)
{
    free(rank);
}

LIBSCHED_API const libsched_program *libsched_program_entry(uint32_t abi)
{
    static const libsched_program program = {
        .abi_version = LIBSCHED_PROGRAM_ABI,
        .struct_size = sizeof(libsched_program),
        .name = "tester",
        .check = check,
        .start = start,
        .step = step,
        .close = close_rank,
    };
    return abi == LIBSCHED_PROGRAM_ABI ? &program : NULL;
}
