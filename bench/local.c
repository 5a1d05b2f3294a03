/* SPDX-License-Identifier: Apache-2.0 */
#include "local.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

/* What a worker does not sleep of a step, so that it ends in time. */
#define WORKER_SPIN_US 100
#define LOAD_NS UINT64_C(20000000000)
#define LEAD_NS UINT64_C(150000)
#define SHORTEST_NS UINT64_C(10000)

void local_die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void local_parameters(const struct local_model *model, libsched_parameter out[LOCAL_PARAMETERS])
{
    const libsched_parameter parameters[LOCAL_PARAMETERS] = {
        {.name = "a_us", .type = LIBSCHED_PARAMETER_INT, .value.integer = model->a_us},
        {.name = "b_us", .type = LIBSCHED_PARAMETER_INT, .value.integer = model->b_us},
        {.name = "max_batch_requests",
         .type = LIBSCHED_PARAMETER_INT,
         .value.integer = model->max_batch},
        {.name = "spin_us", .type = LIBSCHED_PARAMETER_INT, .value.integer = WORKER_SPIN_US},
        {.name = "stream", .type = LIBSCHED_PARAMETER_BOOL, .value.boolean = model->stream},
    };
    memcpy(out, parameters, sizeof(parameters));
}

void local_be_punctual(void)
{
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}

libsched *local_open(uint32_t cpu_devices)
{
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    libsched_error err;
    libsched *s;

    options.cpu_devices = cpu_devices;
    options.cores_per_device = 1;
    if (libsched_open(&s, &options, &err) != LIBSCHED_OK)
        local_die("the scheduler", err.message);
    return s;
}

void local_load(libsched *s, const struct local_model *model)
{
    libsched_parameter parameters[LOCAL_PARAMETERS];
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    uint64_t end = libsched_now() + LOAD_NS;
    libsched_error err;

    local_parameters(model, parameters);
    options.name = model->name;
    options.engine = "synthetic";
    options.parameters = parameters;
    options.n_parameters = LOCAL_PARAMETERS;
    options.queue_limit = model->queue_limit;
    if (libsched_model_load(s, &options, &err) != LIBSCHED_OK)
        local_die("the model", err.message);
    do {
        libsched_completion done[16];
        local_sleep(libsched_fd(s), libsched_now() + 100000000);
        libsched_process(s, 0);
        libsched_release(s, done, libsched_reap(s, done, 16));
        libsched_model_find(s, model->name, &info);
    } while (info.state == LIBSCHED_MODEL_LOADING && libsched_now() < end);
    if (info.state != LIBSCHED_MODEL_READY)
        local_die("the model", info.error.message);
}

void local_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool local_sleep(int fd, uint64_t until)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    uint64_t now = libsched_now();
    uint64_t ns = until > now ? until - now : 0;
    struct timespec timeout;

    /* Not more of a short wait than a quarter: who computes all the time is soon made to pause. */
    ns -= ns / 4 < LEAD_NS ? ns / 4 : LEAD_NS;
    if (ns < SHORTEST_NS)
        return false;
    timeout.tv_sec = (time_t)(ns / 1000000000);
    timeout.tv_nsec = (long)(ns % 1000000000);
    ppoll(&readable, 1, &timeout, NULL);
    return true;
}

uint64_t *local_arrivals(double per_s, double seconds, uint64_t begin, uint64_t seed, size_t *n)
{
    size_t room = (size_t)(per_s * seconds * 1.5) + 100;
    uint64_t *times = malloc(room * sizeof(*times));
    double at = 0;

    if (times == NULL)
        local_die("arrivals", "no memory");
    for (*n = 0; *n < room; times[(*n)++] = begin + (uint64_t)(at * 1e9)) {
        /* xorshift64*; 53 bits of it, never 0. */
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        at -= log((double)((seed * 0x2545f4914f6cdd1du >> 11) + 1) * 0x1p-53) / per_s;
        if (at >= seconds)
            break;
    }
    return times;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double local_percentile(double *values, size_t n, double p)
{
    size_t i = (size_t)((double)n * p / 100);

    if (n == 0)
        return 0;
    qsort(values, n, sizeof(*values), compare);
    return values[i < n ? i : n - 1];
}
