/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "serve": what whoever asks gets of a device, through real workers. The device is
 * imitated: a batch of n requests takes 2 ms + 0.1 ms · n, n at most 32, so it could do 6154
 * requests a second. At most 64 requests wait, and each has 25 ms.
 *
 * Open loop: when requests come was drawn beforehand, and is kept to whatever becomes of those
 * before them. Everything is counted from when a request should have come, so that what the load
 * itself is late by is not forgotten. What comes in the first seconds is not counted: what batches
 * cost is learnt then.
 *
 *   goodput_per_s   answered in time; beside what the device could do, or what came, if less
 *   p50_ms, p99_ms  of what was answered well; beside the bare step of one request, and the 25 ms
 *   refused_per_s   not taken, as too many wait; beside what came
 *   deadline_per_s  answered, at once or later, that it can't be in time; likewise
 *   refusal_ms      the 99th percentile of how long it took to be told either; beside the 25 ms
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../report.h"
#include "path.h"

#define DEADLINE_NS UINT64_C(25000000)
#define DEADLINE_MS 25.0
#define ALONE_MS 2.1
#define CEILING (32 / 5.2e-3)
#define WARM_UP_SECONDS 2.0
/* For the last answers. */
#define PATIENCE_NS UINT64_C(5000000000)
#define WAITS INT_MAX

static const struct local_model model = {
    .name = "served",
    .a_us = 2000,
    .b_us = 100,
    .max_batch = 32,
    .queue_limit = 64,
};

static const struct {
    const char *name;
    struct path *(*open)(const struct local_model *model);
} paths[] = {{"process", path_open_process}, {"port", path_open_port}};

/* Requests: when they should have come, when they were answered, and how. */
struct run {
    uint64_t *arrivals, *answered;
    int *status;
    size_t n, submitted, ended;
};

static void *allocate(size_t n, size_t size)
{
    void *memory = calloc(n, size);
    if (memory == NULL)
        local_die("requests", "no memory");
    return memory;
}

static size_t turn(struct run *run, struct path *path, bool last)
{
    struct answer answers[256];
    size_t n = path->turn(path, last, answers, 256);
    uint64_t now = n > 0 ? libsched_now() : 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t user = answers[i].user;
        if (user >= run->submitted || run->status[user] != WAITS)
            local_die("an answer", "nobody waits for it");
        run->answered[user] = now;
        run->status[user] = answers[i].status;
    }
    run->ended += n;
    return n;
}

static void submit_due(struct run *run, struct path *path)
{
    uint64_t now = libsched_now();

    for (; run->submitted < run->n && run->arrivals[run->submitted] <= now; run->submitted++)
        path->submit(path, run->submitted, run->arrivals[run->submitted] + DEADLINE_NS);
}

static void drive(struct run *run, struct path *path)
{
    uint64_t idle_since = 0, end = run->arrivals[run->n - 1] + PATIENCE_NS;
    bool idle = false;

    while (run->ended < run->n) {
        uint64_t due = run->submitted < run->n ? run->arrivals[run->submitted] : end;
        uint64_t now = libsched_now();
        size_t submitted = run->submitted;

        if (now >= end)
            local_die("the answers", "they do not come");
        submit_due(run, path);
        if (turn(run, path, false) > 0 || run->submitted > submitted) {
            idle = false;
            continue;
        }
        if (!idle)
            idle_since = now;
        idle = true;
        if (now - idle_since < path->spin_ns)
            local_relax();
        else if (turn(run, path, true) > 0)
            idle = false;
        else if (!local_sleep(path->fd, due))
            local_relax();
    }
}

static json_t *params(const char *path, int offered)
{
    return json_pack("{s:i, s:s}", "offered", offered, "path", path);
}

static void tell(struct report *report, const struct run *run, uint64_t from, const char *path,
                 int offered, double seconds)
{
    double *served = allocate(run->n, sizeof(*served)), *told = allocate(run->n, sizeof(*told));
    size_t n_served = 0, n_told = 0, in_time = 0, expired = 0;

    for (size_t i = 0; i < run->n; i++) {
        double ms = (double)(run->answered[i] - run->arrivals[i]) / 1e6;
        int status = run->status[i];
        if (run->arrivals[i] < from)
            continue;
        if (status == LIBSCHED_OK)
            served[n_served++] = ms;
        else if (status == LIBSCHED_EQUEUEFULL || status == LIBSCHED_EDEADLINE)
            told[n_told++] = ms;
        else
            local_die("a request", libsched_status_name(status));
        in_time += status == LIBSCHED_OK && ms <= DEADLINE_MS;
        expired += status == LIBSCHED_EDEADLINE;
    }
    /* So many came: they were drawn. */
    double came = (double)(n_served + n_told) / seconds;
    report_add(report, "goodput_per_s", params(path, offered), (double)in_time / seconds, "1/s",
               came < CEILING ? came : CEILING);
    report_add(report, "p50_ms", params(path, offered), local_percentile(served, n_served, 50),
               "ms", ALONE_MS);
    report_add(report, "p99_ms", params(path, offered), local_percentile(served, n_served, 99),
               "ms", DEADLINE_MS);
    report_add(report, "refused_per_s", params(path, offered), (double)(n_told - expired) / seconds,
               "1/s", came);
    report_add(report, "deadline_per_s", params(path, offered), (double)expired / seconds, "1/s",
               came);
    if (n_told > 0)
        report_add(report, "refusal_ms", params(path, offered), local_percentile(told, n_told, 99),
                   "ms", DEADLINE_MS);
    free(served);
    free(told);
}

static void measure(struct report *report, size_t which, int offered, double seconds)
{
    struct path *path = paths[which].open(&model);
    struct run run = {0};
    uint64_t begin = libsched_now() + 10000000;

    run.arrivals = local_arrivals(offered, WARM_UP_SECONDS + seconds, begin, 20240229, &run.n);
    run.answered = allocate(run.n, sizeof(*run.answered));
    run.status = allocate(run.n, sizeof(*run.status));
    for (size_t i = 0; i < run.n; i++)
        run.status[i] = WAITS;
    drive(&run, path);
    path->close(path);
    tell(report, &run, begin + (uint64_t)(WARM_UP_SECONDS * 1e9), paths[which].name, offered,
         seconds);
    free(run.arrivals);
    free(run.answered);
    free(run.status);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench-serve [--json] [--seconds S] [--offered N] [--path process|port]\n");
    return 64;
}

int main(int argc, char **argv)
{
    static const int rates[] = {200, 1000, 2000, 4000, 6000, 8000};
    const char *only = NULL;
    double seconds = 5;
    int offered = 0;
    bool json = false;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
            continue;
        }
        if (strcmp(argv[i], "--seconds") == 0 && atof(value) > 0)
            seconds = atof(value);
        else if (strcmp(argv[i], "--offered") == 0 && atoi(value) > 0)
            offered = atoi(value);
        else if (strcmp(argv[i], "--path") == 0 &&
                 (strcmp(value, paths[0].name) == 0 || strcmp(value, paths[1].name) == 0))
            only = value;
        else
            return usage();
        i++;
    }
    local_be_punctual();
    struct report *report = report_open("serve", json);
    for (size_t p = 0; p < sizeof(paths) / sizeof(paths[0]); p++) {
        if (only != NULL && strcmp(only, paths[p].name) != 0)
            continue;
        if (offered > 0)
            measure(report, p, offered, seconds);
        for (size_t r = 0; offered == 0 && r < sizeof(rates) / sizeof(rates[0]); r++)
            measure(report, p, rates[r], seconds);
    }
    report_close(report);
    return 0;
}
