/* SPDX-License-Identifier: Apache-2.0 */
/* The programs that measure, as jobs through libsched: gemm on one device, allreduce on several. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "served.h"

#define ITERATIONS 20
#define SIZES 3

struct result {
    int status;
    char message[LIBSCHED_MESSAGE_SIZE];
    double values[SIZES];
};

/* Runs a job and keeps those of its results that are wanted. */
static struct result run(struct served *served, const char *program,
                         const libsched_parameter *parameters, uint32_t n_parameters,
                         const char *const *devices, uint32_t n, const char *const *wanted)
{
    libsched_job_options options = LIBSCHED_JOB_OPTIONS_INIT;
    struct result result = {0};
    bool ended = false;
    libsched_error err;
    uint64_t id;

    options.program = program;
    options.parameters = parameters;
    options.n_parameters = n_parameters;
    options.devices = devices;
    options.n_device_names = options.n_devices = n;
    gpu_check(libsched_job_submit(served->s, &options, &id, &err), &err, program);
    while (!ended) {
        libsched_completion done[16];
        const size_t got = served_turn(served, done, 16);

        for (size_t i = 0; i < got; i++) {
            const libsched_completion *end = &done[i];

            if (end->kind != LIBSCHED_JOB || end->id != id || end->state != LIBSCHED_JOB_ENDED)
                continue;
            ended = true;
            result.status = end->status;
            snprintf(result.message, sizeof(result.message), "%s", end->message);
            for (uint32_t v = 0; v < end->n_values; v++)
                for (int w = 0; w < SIZES && wanted[w] != NULL; w++)
                    if (strcmp(end->values[v].name, wanted[w]) == 0 &&
                        end->values[v].type == LIBSCHED_PARAMETER_FLOAT)
                        result.values[w] = end->values[v].value.real;
        }
        libsched_release(served->s, done, got);
    }
    return result;
}

static void measure_gemm(struct gpu_bench *b)
{
    static const char *const wanted[SIZES] = {"flops_per_s"};
    const int64_t size = b->size;
    const libsched_parameter parameters[] = {
        {.name = "m", .type = LIBSCHED_PARAMETER_INT, .value.integer = size},
        {.name = "n", .type = LIBSCHED_PARAMETER_INT, .value.integer = size},
        {.name = "k", .type = LIBSCHED_PARAMETER_INT, .value.integer = size},
        {.name = "datatype", .type = LIBSCHED_PARAMETER_STRING, .value.string = b->precision},
        {.name = "seconds", .type = LIBSCHED_PARAMETER_FLOAT, .value.real = b->seconds},
    };
    const double flops = 2.0 * (double)size * (double)size * (double)size;
    libsched_device_info device;
    struct result result;
    struct served served;
    const char *name;
    double bare;

    served_open(&served, b, 1);
    served_device(&served, 0, &device);
    name = device.name;
    result = run(&served, "gemm", parameters, sizeof(parameters) / sizeof(parameters[0]), &name, 1,
                 wanted);
    served_close(&served);
    if (result.status != LIBSCHED_OK)
        gpu_die("the job gemm", result.message);
    bare = b->bare != NULL
               ? gpu_bare_product(b->bare, (uint64_t)size, (uint64_t)size, (uint64_t)size)
               : 0;
    report_add(b->report, "job_gemm_gflop_per_s",
               json_pack("{s:i, s:s}", "size", (int)size, "precision", b->precision),
               result.values[0] * 1e-9, "GFLOP/s", bare > 0 ? flops / bare * 1e-9 : 0);
}

/* The first device of each GPU, or where there is one GPU, both of it. */
static uint32_t choose(const struct served *served, libsched_device_info out[8], uint32_t *gpus)
{
    uint32_t n = 0;

    *gpus = 0;
    for (uint32_t i = 0; i < served->n && n < 8; i++) {
        libsched_device_info info;
        bool known = false;

        served_device(served, i, &info);
        for (uint32_t j = 0; j < n; j++)
            known = known || strcmp(out[j].pci, info.pci) == 0;
        if (known)
            continue;
        out[n++] = info;
        *gpus += info.kind == LIBSCHED_DEVICE_GPU;
    }
    if (n == 1) {
        for (n = 0; n < served->n && n < 2; n++)
            served_device(served, n, &out[n]);
    }
    return n;
}

static void measure_all_reduce(struct gpu_bench *b)
{
    const uint64_t most = b->all_reduce_bytes, least = most / 4;
    const libsched_parameter parameters[] = {
        {.name = "min_bytes", .type = LIBSCHED_PARAMETER_INT, .value.integer = (int64_t)least},
        {.name = "max_bytes", .type = LIBSCHED_PARAMETER_INT, .value.integer = (int64_t)most},
        {.name = "iterations", .type = LIBSCHED_PARAMETER_INT, .value.integer = ITERATIONS},
    };
    char names[SIZES][32];
    const char *wanted[SIZES], *devices[8], *places[8];
    uint64_t bytes[SIZES];
    double bare[SIZES] = {0};
    libsched_device_info infos[8];
    struct result result;
    struct served served;
    uint32_t n, gpus;

    for (int i = 0; i < SIZES; i++) {
        bytes[i] = least << i;
        snprintf(names[i], sizeof(names[i]), "busbw_%" PRIu64, bytes[i]);
        wanted[i] = names[i];
    }
    served_open(&served, b, 2);
    n = choose(&served, infos, &gpus);
    if (n < 2) {
        gpu_skip("allreduce", "it takes two devices");
        served_close(&served);
        return;
    }
    /* What NCCL needs for several ranks on one GPU; 2.30 is the first that can. Workers are there
     * already, so these are started anew. */
    if (gpus == 1) {
        served_close(&served);
        setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
        setenv("NCCL_MAX_CTAS", "4", 0);
        setenv("NCCL_NVLS_ENABLE", "0", 0);
        served_open(&served, b, 2);
        n = choose(&served, infos, &gpus);
    }
    for (uint32_t i = 0; i < n; i++) {
        devices[i] = infos[i].name;
        places[i] = infos[i].pci;
    }
    result = run(&served, "allreduce", parameters, sizeof(parameters) / sizeof(parameters[0]),
                 devices, n, wanted);
    served_close(&served);
    if (result.status != LIBSCHED_OK) {
        gpu_skip("allreduce", result.message);
        return;
    }
    if (b->bare != NULL && !gpu_bare_all_reduce(n, places, bytes, SIZES, bare))
        gpu_skip("NCCL by itself", "it failed, see above");
    for (int i = 0; i < SIZES; i++)
        report_add(b->report, "allreduce_busbw_gb_per_s",
                   json_pack("{s:i, s:i, s:f}", "ranks", (int)n, "gpus", (int)gpus, "mib",
                             (double)bytes[i] / (1 << 20)),
                   result.values[i], "GB/s",
                   bare[i] > 0 ? (double)bytes[i] * 1e-9 / bare[i] * 2 * (n - 1) / n : 0);
}

void gpu_jobs(struct gpu_bench *b)
{
    measure_gemm(b);
    measure_all_reduce(b);
}
