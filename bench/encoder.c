/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "encoder": how fast the encoder computes token ids that it is given, beside the
 * bare matrix products of the same shapes.
 *
 * A round runs all steps of a case on the encoder and then the products of the same numbers of
 * tokens; the result is the round whose ratio is the median, so that the noise of a shared machine
 * hits both alike. Lengths "mixed" are log-normal with a mean of 49 tokens, from a fixed seed.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bare_products.h"
#include "catalog/encoder_config.h"
#include "device/cpu.h"
#include "engine/encoder.h"
#include "report.h"

#define MAX_LENGTH 512
#define MIXED_MEAN 49.0
#define MIXED_SIGMA 0.8
#define MIXED_SEQUENCES 256
#define MIXED_SEED 20240
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

/* ------------------------------------------------------------------------------------ lengths */

static uint64_t random_state;

/* xorshift64*, uniform in (0, 1). */
static double random_uniform(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return ((double)((random_state * 0x2545f4914f6cdd1du) >> 11) + 0.5) / 0x1p53;
}

static int32_t mixed_length(void)
{
    const double normal =
        sqrt(-2 * log(random_uniform())) * cos(6.283185307179586 * random_uniform());
    const double mu = log(MIXED_MEAN) - MIXED_SIGMA * MIXED_SIGMA / 2;
    const double length = round(exp(mu + MIXED_SIGMA * normal));

    return length < 2 ? 2 : length > MAX_LENGTH ? MAX_LENGTH : (int32_t)length;
}

/* --------------------------------------------------------------------------------------- cases */

/* One step: what prepare() would have made of the texts. */
struct step {
    int32_t n, *lengths, *ids;
    int64_t tokens;
};

struct bench_case {
    int32_t length; /* 0: mixed */
    int32_t batch;  /* sequences in a step */
    int32_t n_steps;
    struct step *steps;
    int64_t sequences, tokens; /* of all steps */
};

static void *allocate(size_t n, size_t size)
{
    void *memory = calloc(n, size);
    if (memory == NULL) {
        fprintf(stderr, "bench-encoder: no memory\n");
        exit(1);
    }
    return memory;
}

static void make_case(struct bench_case *c, int32_t length, int32_t batch)
{
    memset(c, 0, sizeof(*c));
    c->length = length;
    c->batch = batch;
    c->n_steps = length > 0 ? 1 : (batch > 1 ? MIXED_SEQUENCES / batch : MIXED_SEQUENCES / 8);
    c->steps = allocate((size_t)c->n_steps, sizeof(*c->steps));
    random_state = MIXED_SEED;
    for (int32_t i = 0; i < c->n_steps; i++) {
        struct step *s = &c->steps[i];
        s->n = batch;
        s->lengths = allocate((size_t)batch, sizeof(*s->lengths));
        for (int32_t j = 0; j < batch; j++) {
            s->lengths[j] = length > 0 ? length : mixed_length();
            s->tokens += s->lengths[j];
        }
        s->ids = allocate((size_t)s->tokens, sizeof(*s->ids));
        for (int64_t t = 0; t < s->tokens; t++)
            s->ids[t] = 1000 + (int32_t)(t * 7919 % 20000);
        c->sequences += batch;
        c->tokens += s->tokens;
    }
}

static void free_case(struct bench_case *c)
{
    for (int32_t i = 0; i < c->n_steps; i++) {
        free(c->steps[i].lengths);
        free(c->steps[i].ids);
    }
    free(c->steps);
}

/* --------------------------------------------------------------------------------- the encoder */

/* What a step's only item yields, or why it does not. */
struct bench_host {
    void *output;
    uint64_t room;
    libsched_error err;
};

static void *host_output(void *host, libsched_item *item, const char *name, uint32_t datatype,
                         uint32_t rank, const int64_t *shape, uint64_t size)
{
    struct bench_host *h = host;

    (void)item;
    (void)name;
    (void)datatype;
    (void)rank;
    (void)shape;
    if (size > h->room) {
        free(h->output);
        h->output = allocate(1, size);
        h->room = size;
    }
    return h->output;
}

static void host_end(void *host, libsched_item *item, int status, const char *message)
{
    (void)item;
    if (status != LIBSCHED_OK) {
        libsched_error_set(&((struct bench_host *)host)->err, status, "%s", message);
        die("a step", &((struct bench_host *)host)->err);
    }
}

static void run_step(libsched_engine_model *model, struct bench_host *h, const struct step *s)
{
    static const libsched_engine_host host = {
        .struct_size = sizeof(host), .output = host_output, .end = host_end};
    const libsched_tensor inputs[] = {
        {.name = "ids",
         .datatype = LIBSCHED_INT32,
         .rank = 1,
         .shape = {s->tokens},
         .data = s->ids,
         .size = (uint64_t)s->tokens * sizeof(int32_t)},
        {.name = "lengths",
         .datatype = LIBSCHED_INT32,
         .rank = 1,
         .shape = {s->n},
         .data = s->lengths,
         .size = (uint64_t)s->n * sizeof(int32_t)},
    };
    libsched_item item = {.id = 1, .joined = true, .n_inputs = 2, .inputs = inputs};
    libsched_item *items[] = {&item};
    libsched_engine_batch batch = {
        .struct_size = sizeof(batch), .n_items = 1, .items = items, .host = h};
    libsched_error err;

    if (engine_encoder()->step(model, &batch, &host, &err) != LIBSCHED_OK)
        die("a step", &err);
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

static struct round run_round(libsched_engine_model *model, struct bench_host *host,
                              struct bare_products *bare, const struct bench_case *c)
{
    struct round r;
    double start = now();

    for (int32_t i = 0; i < c->n_steps; i++)
        run_step(model, host, &c->steps[i]);
    r.encoder = now() - start;
    start = now();
    for (int32_t i = 0; i < c->n_steps; i++)
        bare_products_run(bare, c->steps[i].tokens);
    r.bare = now() - start;
    return r;
}

static void measure(struct report *report, libsched_engine_model *model, struct bare_products *bare,
                    const char *precision, int32_t length, int32_t batch)
{
    struct bench_host host = {0};
    struct round rounds[MAX_ROUNDS], best;
    struct bench_case c;
    int n = 0;
    double start;

    make_case(&c, length, batch);
    /* Compiles and warms. */
    run_round(model, &host, bare, &c);
    start = now();
    while (n < MAX_ROUNDS && (n < MIN_ROUNDS || now() - start < CASE_SECONDS))
        rounds[n++] = run_round(model, &host, bare, &c);
    qsort(rounds, (size_t)n, sizeof(rounds[0]), compare_rounds);
    best = rounds[n / 2];

    for (int metric = 0; metric < 2; metric++) {
        const double amount = (double)(metric == 0 ? c.sequences : c.tokens);
        json_t *params = json_pack("{s:o, s:s, s:i}", "length",
                                   length > 0 ? json_integer(length) : json_string("mixed"),
                                   "precision", precision, "batch", batch);
        report_add(report, metric == 0 ? "sequences_per_s" : "tokens_per_s", params,
                   amount / best.encoder, metric == 0 ? "sequences/s" : "tokens/s",
                   amount / best.bare);
    }
    free(host.output);
    free_case(&c);
}

/* ---------------------------------------------------------------------------------------- main */

static libsched_engine_model *open_model(const char *folder, libsched_device *device,
                                         const char *precision, uint32_t threads)
{
    const libsched_parameter parameters[] = {
        {.name = "precision", .type = LIBSCHED_PARAMETER_STRING, .value.string = precision},
        {.name = "max_length", .type = LIBSCHED_PARAMETER_INT, .value.integer = MAX_LENGTH},
    };
    const libsched_engine_open_args args = {
        .struct_size = sizeof(args),
        .name = "bench",
        .path = folder,
        .parameters = parameters,
        .n_parameters = sizeof(parameters) / sizeof(parameters[0]),
        .device = device,
        .threads = threads,
    };
    libsched_engine_model *model;
    libsched_error err;

    if (engine_encoder()->open(&model, &args, &err) != LIBSCHED_OK)
        die(folder, &err);
    return model;
}

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
    model = open_model(folder, device, precision, threads);
    bare = bare_products_open(config.layers, config.hidden, config.intermediate,
                              strcmp(precision, "bf16") == 0 ? LIBSCHED_BF16 : LIBSCHED_FP32,
                              threads, (int64_t)MAX_LENGTH * 32);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (size_t j = 0; j < sizeof(batches) / sizeof(batches[0]); j++)
            measure(report, model, bare, precision, lengths[i], batches[j]);
    bare_products_close(bare);
    engine_encoder()->close(model);
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
