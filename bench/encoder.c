/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "encoder": how fast the encoder computes token ids that it is given, beside the
 * bare matrix products of the same shapes.
 *
 * A round runs all steps of a case on the encoder and then the products of the same numbers of
 * tokens; the result is the round whose ratio is the median, so that the noise of a shared machine
 * hits both alike. Lengths "mixed" are log-normal with a mean of 49 tokens, from a fixed seed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bare_products.h"
#include "catalog/encoder_config.h"
#include "device/cpu.h"
#include "report.h"
#include "steps.h"

/* In steps of several, or an eighth as many in steps of one. */
#define MIXED_SEQUENCES 256
#define MAX_ROUNDS 31
#define MIN_ROUNDS 3
/* A case takes about so long. */
#define CASE_SECONDS 4.0

static void die(const char *what, const libsched_error *err)
{
    fprintf(stderr, "bench-encoder: %s: %s\n", what, err->message);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ------------------------------------------------------------------------------------- rounds */

struct round {
    double encoder, bare; /* seconds */
};

static int compare_rounds(const void *left, const void *right)
{
    const struct round *a = left, *b = right;
    const double x = a->bare / a->encoder, y = b->bare / b->encoder;

    return (x > y) - (x < y);
}

static struct round run_round(libsched_engine_model *model, struct step_run *run,
                              struct bare_products *bare, const struct steps *c)
{
    struct round r;
    double start = now();

    for (int32_t i = 0; i < c->n; i++)
        steps_run(model, run, &c->all[i]);
    r.encoder = now() - start;
    start = now();
    for (int32_t i = 0; i < c->n; i++)
        bare_products_run(bare, c->all[i].tokens);
    r.bare = now() - start;
    return r;
}

static void measure(struct report *report, libsched_engine_model *model, struct bare_products *bare,
                    const char *precision, int32_t length, int32_t batch, uint32_t vocabulary)
{
    const int32_t n = length > 0 ? 1 : batch > 1 ? MIXED_SEQUENCES / batch : MIXED_SEQUENCES / 8;
    struct step_run run = {0};
    struct round rounds[MAX_ROUNDS], best;
    struct steps c;
    int n_rounds = 0;
    double start;

    steps_make(&c, length, batch, n, vocabulary);
    /* Compiles and warms. */
    run_round(model, &run, bare, &c);
    start = now();
    while (n_rounds < MAX_ROUNDS && (n_rounds < MIN_ROUNDS || now() - start < CASE_SECONDS))
        rounds[n_rounds++] = run_round(model, &run, bare, &c);
    qsort(rounds, (size_t)n_rounds, sizeof(rounds[0]), compare_rounds);
    best = rounds[n_rounds / 2];

    for (int metric = 0; metric < 2; metric++) {
        const double amount = (double)(metric == 0 ? c.sequences : c.tokens);
        json_t *params = json_pack("{s:o, s:s, s:i}", "length",
                                   length > 0 ? json_integer(length) : json_string("mixed"),
                                   "precision", precision, "batch", batch);
        report_add(report, metric == 0 ? "sequences_per_s" : "tokens_per_s", params,
                   amount / best.encoder, metric == 0 ? "sequences/s" : "tokens/s",
                   amount / best.bare);
    }
    steps_free_run(&run);
    steps_free(&c);
}

/* ---------------------------------------------------------------------------------------- main */

static void measure_precision(struct report *report, libsched_device *device, const char *folder,
                              const char *precision, uint32_t threads)
{
    static const int32_t lengths[] = {16, 128, 512, 0};
    static const int32_t batches[] = {1, 32};
    struct encoder_config config;
    struct bare_products *bare;
    libsched_engine_model *model;
    libsched_error err;

    if (encoder_config_load(&config, folder, &err) != LIBSCHED_OK)
        die(folder, &err);
    model = steps_open(folder, device, precision, threads);
    bare = bare_products_open(config.layers, config.hidden, config.intermediate,
                              strcmp(precision, "bf16") == 0 ? LIBSCHED_BF16 : LIBSCHED_FP32,
                              threads, (int64_t)STEPS_MAX_LENGTH * 32);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (size_t j = 0; j < sizeof(batches) / sizeof(batches[0]); j++)
            measure(report, model, bare, precision, lengths[i], batches[j], config.vocabulary);
    bare_products_close(bare);
    steps_close(model);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench-encoder [--json] [--threads N] [FOLDER]\n"
            "FOLDER holds a BERT model in Hugging Face layout; without it $GPU_SCHED_MINILM\n");
    return 64;
}

/* libgomp reads it before main(): as a worker is started, see worker/spawn.c. */
static void set_spinning(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") != NULL || getenv("OMP_WAIT_POLICY") != NULL)
        return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    set_spinning(argv);

    const char *folder = getenv("GPU_SCHED_MINILM");
    uint32_t threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    libsched_device_properties info = {.struct_size = sizeof(info)};
    libsched_device *device;
    libsched_error err;
    struct report *report;
    bool json = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0)
            threads = (uint32_t)atoi(argv[++i]);
        else if (argv[i][0] != '-')
            folder = argv[i];
        else
            return usage();
    }
    if (folder == NULL || *folder == '\0')
        return usage();
    const libsched_device_open_args args = {.struct_size = sizeof(args), .threads = threads};
    if (device_cpu_driver()->open(&device, &args, &err) != LIBSCHED_OK ||
        device->driver->info(device, &info, &err) != LIBSCHED_OK)
        die("the CPU device", &err);

    report = report_open("encoder", json);
    report_machine(report, "device", info.text);
    measure_precision(report, device, folder, "f32", threads);
    if ((info.flags & LIBSCHED_DEVICE_BF16) != 0)
        measure_precision(report, device, folder, "bf16", threads);
    report_close(report);
    device->driver->close(device);
    return 0;
}
