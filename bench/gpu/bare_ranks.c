/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL by itself. Each rank is this program once more, called with what it has to know:
 *
 *   bench-gpu --bare-rank RANK RANKS ID PLACE BYTES...
 *
 * Rank 0 prints the seconds of each size.
 */
#include "bare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAG "--bare-rank"

#ifdef HAS_CUDA

#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../cuda/nccl.h"

#define MAX_RANKS 8
#define MAX_SIZES 8
#define WARM_UPS 5
#define ITERATIONS 20
/* A rank that waits for one that does not come ends itself. */
#define PATIENCE_SECONDS 60
#define ID_DIGITS (2 * sizeof(nccl_id))

extern char **environ;

/* ---------------------------------------------------------------------------------- a rank */

static void check(int code, const char *what)
{
    if (code == 0)
        return;
    fprintf(stderr, "bench-gpu: a rank of NCCL: %s answered %d\n", what, code);
    exit(1);
}

static void settle(const struct nccl *nccl, struct nccl_communicator *communicator, int result,
                   const char *what)
{
    while (result == NCCL_IN_PROGRESS && communicator != NULL &&
           nccl->get_async_error(communicator, &result) == NCCL_SUCCESS &&
           result == NCCL_IN_PROGRESS)
        ;
    if (result != NCCL_SUCCESS) {
        fprintf(stderr, "bench-gpu: a rank of NCCL: %s: %s (%d)\n", what,
                nccl->get_error_string(result), result);
        exit(1);
    }
}

static void from_digits(nccl_id *id, const char *digits)
{
    for (size_t i = 0; i < sizeof(*id); i++) {
        char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};

        id->bytes[i] = (char)strtoul(pair, NULL, 16);
    }
}

struct rank {
    const struct nccl *nccl;
    struct nccl_communicator *communicator;
    cudaStream_t stream;
    void *from, *to;
};

static void join(struct rank *rank, int number, int n, const char *digits, const char *place)
{
    struct nccl_config config = NCCL_CONFIG_INIT;
    libsched_error err;
    nccl_id id;
    int ordinal = 0, result;

    if (nccl_get(&rank->nccl, &err) != LIBSCHED_OK) {
        fprintf(stderr, "bench-gpu: %s\n", err.message);
        exit(1);
    }
    check(cudaDeviceGetByPCIBusId(&ordinal, place), "cudaDeviceGetByPCIBusId");
    check(cudaSetDevice(ordinal), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&rank->stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    from_digits(&id, digits);
    result = rank->nccl->init(&rank->communicator, n, id, number, &config);
    settle(rank->nccl, rank->communicator, result, "ncclCommInitRankConfig");
}

static void reduce(struct rank *rank, uint64_t bytes, int times)
{
    cudaEvent_t end;

    check(cudaEventCreateWithFlags(&end, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    for (int i = 0; i < times; i++)
        settle(rank->nccl, rank->communicator,
               rank->nccl->all_reduce(rank->from, rank->to, bytes / sizeof(float), NCCL_FLOAT32,
                                      NCCL_SUM, rank->communicator, rank->stream),
               "ncclAllReduce");
    check(cudaEventRecord(end, rank->stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    check(cudaEventDestroy(end), "cudaEventDestroy");
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run_rank(int argc, char **argv)
{
    const int number = atoi(argv[2]), n = atoi(argv[3]);
    struct rank rank = {0};

    alarm(PATIENCE_SECONDS);
    join(&rank, number, n, argv[4], argv[5]);
    for (int i = 6; i < argc; i++) {
        const uint64_t bytes = strtoull(argv[i], NULL, 10);
        double begin;

        check(cudaMalloc(&rank.from, bytes), "cudaMalloc");
        check(cudaMalloc(&rank.to, bytes), "cudaMalloc");
        check(cudaMemset(rank.from, 0, bytes), "cudaMemset");
        reduce(&rank, bytes, WARM_UPS);
        begin = now();
        reduce(&rank, bytes, ITERATIONS);
        if (number == 0)
            printf("%.9f\n", (now() - begin) / ITERATIONS);
        check(cudaFree(rank.from), "cudaFree");
        check(cudaFree(rank.to), "cudaFree");
    }
    settle(rank.nccl, rank.communicator, rank.nccl->finalize(rank.communicator),
           "ncclCommFinalize");
    (void)rank.nccl->destroy(rank.communicator);
    check(cudaStreamDestroy(rank.stream), "cudaStreamDestroy");
    return fflush(stdout) == 0 ? 0 : 1;
}

/* --------------------------------------------------------------------------------- all of them */

static bool make_id(char digits[ID_DIGITS + 1])
{
    const struct nccl *nccl;
    libsched_error err;
    nccl_id id;

    if (nccl_get(&nccl, &err) != LIBSCHED_OK) {
        fprintf(stderr, "bench-gpu: %s\n", err.message);
        return false;
    }
    if (nccl->get_unique_id(&id) != NCCL_SUCCESS) {
        fprintf(stderr, "bench-gpu: ncclGetUniqueId failed\n");
        return false;
    }
    for (size_t i = 0; i < sizeof(id); i++)
        snprintf(digits + 2 * i, 3, "%02x", (unsigned)(unsigned char)id.bytes[i]);
    return true;
}

static pid_t spawn(uint32_t number, uint32_t n, char *digits, const char *place, char sizes[][24],
                   size_t n_sizes, int output)
{
    char own[16], all[16], there[64];
    char *arguments[6 + MAX_SIZES + 1] = {
        (char[]){"bench-gpu"}, (char[]){FLAG}, own, all, digits, there};
    posix_spawn_file_actions_t actions;
    pid_t pid = -1;

    snprintf(own, sizeof(own), "%u", number);
    snprintf(all, sizeof(all), "%u", n);
    snprintf(there, sizeof(there), "%s", place);
    for (size_t i = 0; i < n_sizes; i++)
        arguments[6 + i] = sizes[i];
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (posix_spawn(&pid, "/proc/self/exe", &actions, NULL, arguments, environ) != 0)
        pid = -1;
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

bool gpu_bare_all_reduce(uint32_t n, const char *const *places, const uint64_t *bytes, size_t sizes,
                         double *seconds)
{
    char digits[ID_DIGITS + 1], texts[MAX_SIZES][24];
    pid_t pids[MAX_RANKS];
    bool good = true;
    int ends[2];
    FILE *output;

    if (n > MAX_RANKS || sizes > MAX_SIZES || !make_id(digits) || pipe(ends) != 0)
        return false;
    for (size_t i = 0; i < sizes; i++)
        snprintf(texts[i], sizeof(texts[i]), "%llu", (unsigned long long)bytes[i]);
    for (uint32_t i = 0; i < n; i++)
        pids[i] = spawn(i, n, digits, places[i], texts, sizes, ends[1]);
    close(ends[1]);
    output = fdopen(ends[0], "r");
    for (size_t i = 0; i < sizes; i++)
        good = output != NULL && fscanf(output, "%lf", &seconds[i]) == 1 && good;
    if (output != NULL)
        fclose(output);
    for (uint32_t i = 0; i < n; i++) {
        int status = -1;

        good = pids[i] > 0 && waitpid(pids[i], &status, 0) == pids[i] && status == 0 && good;
    }
    for (size_t i = 0; i < sizes && !good; i++)
        seconds[i] = 0;
    return good;
}

bool gpu_bare_is_rank(int argc, char **argv, int *code)
{
    if (argc < 7 || strcmp(argv[1], FLAG) != 0)
        return false;
    if (strlen(argv[4]) != ID_DIGITS) {
        fprintf(stderr, "bench-gpu: " FLAG " is what it calls itself with\n");
        *code = 64;
        return true;
    }
    *code = run_rank(argc, argv);
    return true;
}

#else

bool gpu_bare_all_reduce(uint32_t n, const char *const *places, const uint64_t *bytes, size_t sizes,
                         double *seconds)
{
    (void)n;
    (void)places;
    (void)bytes;
    (void)sizes;
    (void)seconds;
    return false;
}

bool gpu_bare_is_rank(int argc, char **argv, int *code)
{
    if (argc < 2 || strcmp(argv[1], FLAG) != 0)
        return false;
    fprintf(stderr, "bench-gpu: built without the CUDA toolkit: there are no ranks of NCCL\n");
    *code = 1;
    return true;
}

#endif
