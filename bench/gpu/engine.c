/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../steps.h"
#include "device/loader.h"

#define UNDER_WAY 2
#define MAX_SINGLES 100000u
#define GRAPHS "GPU_SCHED_GRAPHS"

/* Results go where workers have them too: to memory that the device was told of. */
static void give_room(struct gpu_bench *b, libsched_device *device, struct step_run *run,
                      uint64_t bytes)
{
    libsched_device_host_args memory = {.struct_size = sizeof(memory), .size = bytes};
    libsched_error err;

    run->output = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run->output == MAP_FAILED)
        gpu_die("memory for results", strerror(errno));
    run->room = bytes;
    run->given = true;
    memory.memory = run->output;
    if (device_has_host_memory(b->driver))
        gpu_check(b->driver->host_register(device, &memory, &err), &err, "memory for results");
}

static void take_room(struct gpu_bench *b, libsched_device *device, struct step_run *run)
{
    if (device_has_host_memory(b->driver))
        b->driver->host_unregister(device, run->output);
    munmap(run->output, run->room);
}

double engine_sequences_per_s(struct gpu_bench *b, int32_t length)
{
    libsched_engine_model *model = steps_open(b->folder, b->device, b->precision, b->threads);
    const int32_t batch = gpu_batch(length, b->tokens);
    struct step_run runs[UNDER_WAY] = {{0}};
    struct steps steps;
    double begin, seconds = 0;
    uint64_t ended = 0;

    steps_make(&steps, length, batch, 1, b->config.vocabulary);
    for (int i = 0; i < UNDER_WAY; i++) {
        give_room(b, b->device, &runs[i], (uint64_t)batch * b->config.hidden * sizeof(float));
        /* Compiles and warms. */
        steps_run(model, &runs[i], &steps.all[0]);
    }
    begin = gpu_now();
    for (uint64_t i = 0; seconds < b->seconds; i++) {
        struct step_run *oldest = &runs[(i + 1) % UNDER_WAY];

        steps_begin(model, &runs[i % UNDER_WAY], &steps.all[0]);
        /* The first of all has none before it. */
        if (i + 1 < UNDER_WAY)
            continue;
        steps_finish(model, oldest);
        ended++;
        seconds = gpu_now() - begin;
    }
    for (int i = 0; i < UNDER_WAY; i++)
        steps_finish(model, &runs[i]);
    for (int i = 0; i < UNDER_WAY; i++)
        take_room(b, b->device, &runs[i]);
    steps_free(&steps);
    steps_close(model);
    return (double)ended * batch / seconds;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double *engine_single(struct gpu_bench *b, int32_t length, bool graphs, size_t *n)
{
    const char *before = getenv(GRAPHS);
    char *kept = before != NULL ? strdup(before) : NULL;
    libsched_device *device;
    libsched_engine_model *model;
    struct step_run run = {0};
    double *times = gpu_allocate(MAX_SINGLES, sizeof(*times));
    struct steps steps;
    double begin;

    if (!graphs)
        setenv(GRAPHS, "0", 1);
    device = gpu_open(b);
    if (kept != NULL)
        setenv(GRAPHS, kept, 1);
    else
        unsetenv(GRAPHS);
    free(kept);
    model = steps_open(b->folder, device, b->precision, b->threads);
    steps_make(&steps, length, 1, 1, b->config.vocabulary);
    give_room(b, device, &run, b->config.hidden * sizeof(float));
    /* Until it is recorded. */
    for (int i = 0; i < 5; i++)
        steps_run(model, &run, &steps.all[0]);
    begin = gpu_now();
    for (*n = 0; *n < MAX_SINGLES && gpu_now() - begin < b->seconds;) {
        const double from = gpu_now();

        steps_run(model, &run, &steps.all[0]);
        times[(*n)++] = gpu_now() - from;
    }
    qsort(times, *n, sizeof(*times), compare);
    take_room(b, device, &run);
    steps_free(&steps);
    steps_close(model);
    b->driver->close(device);
    return times;
}

double engine_bare_sequences_per_s(struct gpu_bench *b, int32_t length)
{
    const uint64_t rows =
        (uint64_t)b->tokens < GPU_CHUNK_TOKENS ? (uint64_t)b->tokens : GPU_CHUNK_TOKENS;
    uint64_t shapes[GPU_PRODUCTS][2];
    struct steps steps;
    double seconds = 0, sequences, tokens;

    if (b->bare == NULL)
        return 0;
    gpu_shapes(&b->config, shapes);
    for (int p = 0; p < GPU_PRODUCTS; p++)
        seconds += b->config.layers * gpu_bare_product(b->bare, rows, shapes[p][1], shapes[p][0]);
    /* How many tokens the same sequences have. */
    steps_make(&steps, length, gpu_batch(length, b->tokens), 1, b->config.vocabulary);
    sequences = (double)steps.sequences;
    tokens = (double)steps.tokens;
    steps_free(&steps);
    return sequences / (seconds * tokens / (double)rows);
}

void gpu_graphs(struct gpu_bench *b)
{
    for (int i = 0; i < GPU_LENGTHS; i++) {
        double us[2];

        if (b->lengths[i] == 0)
            continue;
        for (int graphs = 0; graphs < 2; graphs++) {
            size_t n;
            double *times = engine_single(b, b->lengths[i], graphs != 0, &n);

            us[graphs] = times[n / 2] * 1e6;
            free(times);
        }
        report_add(b->report, "graph_batch_us",
                   json_pack("{s:i, s:i, s:s}", "length", (int)b->lengths[i], "batch", 1,
                             "precision", b->precision),
                   us[1], "us", us[0]);
    }
}
