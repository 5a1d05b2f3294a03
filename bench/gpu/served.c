/* SPDX-License-Identifier: Apache-2.0 */
#include "served.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../steps.h"

#define PATIENCE_NS UINT64_C(120000000000)
/* More than are ever under way. */
#define QUEUE_LIMIT 32768
/* The most that there may be: one sequence a request, they fill the device. */
#define BATCH_REQUESTS 4096

static void tell(void *payload, int level, const char *line)
{
    (void)payload;
    if (level <= LIBSCHED_LOG_WARNING)
        fprintf(stderr, "bench-gpu: the scheduler: %s\n", line);
}

void served_device(const struct served *served, uint32_t which, libsched_device_info *out)
{
    *out = (libsched_device_info)LIBSCHED_DEVICE_INFO_INIT;
    libsched_device_get(served->s, served->devices[which], out);
}

size_t served_turn(struct served *served, libsched_completion *out, size_t max)
{
    const bool spin = libsched_spin_budget(served->s) > 0;
    struct pollfd readable = {.fd = libsched_fd(served->s), .events = POLLIN};
    size_t n;

    if (libsched_process(served->s, spin ? LIBSCHED_SPINNING : 0) < 0)
        gpu_die("the scheduler", "it can't go on");
    n = libsched_reap(served->s, out, max);
    if (n == 0 && !spin)
        poll(&readable, 1, 100);
    return n;
}

static void wait_a_turn(struct served *served)
{
    libsched_completion done[16];
    struct pollfd readable = {.fd = libsched_fd(served->s), .events = POLLIN};

    if (libsched_process(served->s, 0) < 0)
        gpu_die("the scheduler", "it can't go on");
    libsched_release(served->s, done, libsched_reap(served->s, done, 16));
    poll(&readable, 1, 100);
}

/* The one that the bare loops are on comes first: the scheduler's order need not be CUDA's. */
static void add(struct served *out, uint32_t index, const char *pci, const char *first)
{
    const bool is_first = pci[0] != '\0' && strcasestr(first, pci) != NULL;

    out->devices[out->n] = index;
    if (is_first && out->n > 0) {
        out->devices[out->n] = out->devices[0];
        out->devices[0] = index;
    }
    out->n++;
}

/* Whether none is starting any more. */
static bool find(struct served *out, const struct gpu_bench *b, char *why, size_t size)
{
    const uint32_t kind = b->cuda ? LIBSCHED_DEVICE_GPU : LIBSCHED_DEVICE_CPU;
    bool settled = true;

    out->n = 0;
    for (uint32_t i = 0; i < libsched_device_count(out->s); i++) {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;

        libsched_device_get(out->s, i, &info);
        if (info.kind != kind)
            continue;
        settled = settled && info.state != LIBSCHED_DEVICE_STARTING;
        if (info.state == LIBSCHED_DEVICE_UP && out->n < 16)
            add(out, i, info.pci, b->text);
        else
            snprintf(why, size, "%.60s: %.400s", info.name, info.reason);
    }
    return settled;
}

void served_open(struct served *out, struct gpu_bench *b, uint32_t devices_each)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const uint64_t until = libsched_now() + PATIENCE_NS;
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    char why[LIBSCHED_MESSAGE_SIZE + 64] = "hwloc sees no GPU";
    libsched_error err;

    options.cpu_devices = b->cuda ? 1 : devices_each;
    options.cores_per_device = b->cuda || devices_each > 1 ? 1 : 0;
    options.devices_per_gpu = devices_each;
    options.prepare_workers = cores >= 16 ? 4 : cores >= 8 ? 2 : 1;
    options.plugin_path = b->plugins;
    /* Where it was built, unless it was packed. */
    options.worker_path = getenv("GPU_SCHED_WORKER") == NULL ? SCHED_WORKER_PATH : NULL;
    options.log = tell;
    gpu_check(libsched_open(&out->s, &options, &err), &err, "the scheduler");
    while (!find(out, b, why, sizeof(why)) && libsched_now() < until)
        wait_a_turn(out);
    if (out->n == 0)
        gpu_die("the scheduler has no device to measure", why);
}

void served_load(struct served *served, struct gpu_bench *b)
{
    const libsched_parameter parameters[] = {
        {.name = "precision", .type = LIBSCHED_PARAMETER_STRING, .value.string = b->precision},
        {.name = "max_length", .type = LIBSCHED_PARAMETER_INT, .value.integer = STEPS_MAX_LENGTH},
        {.name = "max_batch_requests",
         .type = LIBSCHED_PARAMETER_INT,
         .value.integer = BATCH_REQUESTS},
        {.name = "max_batch_units", .type = LIBSCHED_PARAMETER_INT, .value.integer = b->tokens},
    };
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    const uint64_t until = libsched_now() + PATIENCE_NS;
    libsched_device_info device;
    libsched_error err;
    const char *name;

    served_device(served, 0, &device);
    name = device.name;
    options.name = "bench";
    options.path = b->folder;
    options.parameters = parameters;
    options.n_parameters = sizeof(parameters) / sizeof(parameters[0]);
    options.devices = &name;
    options.n_devices = 1;
    options.queue_limit = QUEUE_LIMIT;
    gpu_check(libsched_model_load(served->s, &options, &err), &err, "the model");
    do {
        wait_a_turn(served);
        libsched_model_find(served->s, "bench", &info);
    } while (info.state == LIBSCHED_MODEL_LOADING && libsched_now() < until);
    if (info.state != LIBSCHED_MODEL_READY)
        gpu_die("the model", info.error.message);
}

void served_close(struct served *served)
{
    libsched_close(served->s);
}
