/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "fairness": who waits how long where two sides want the same devices, beside the
 * same side alone. Real workers; devices that are imitated, but for the gang, which computes.
 *
 *   flood    a client that keeps 1000 requests in line, and one that sends 50 a second
 *   gang     a job (gemm) that has both of two devices, and 100 requests a second
 *   stream   an answer of 2000 parts, and 100 requests a second to another model
 *   joined   the same, to the same model: they run in its steps
 *
 * Metrics, each beside what it is with nobody else there:
 *
 *   p50_ms, p99_ms   of the requests of `who`, from when each should have come to its answer
 *   per_s            what `who` got done: answers, parts, or steps of the job
 *   gap_ms           the longest that a part or a step came after the one before
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "local.h"
#include "report.h"

#define WARM_UP_NS UINT64_C(1000000000)
#define PATIENCE_NS UINT64_C(20000000000)
#define FLOOD 1000
#define PARTS 1000000
#define JOB_STEPS 1000000

/* Whom a completion belongs to, in the upper half of its `user`. */
enum who { QUIET, FLOODER, STREAM };

struct scenario {
    const char *name;
    double per_s; /* of the requests that come by themselves */
    const char *model;
    const char *greedy; /* who the other side is */
    uint32_t devices;
    bool flood, stream, gang;
};

static const struct scenario scenarios[] = {
    {"flood", 50, "short", "flood", .devices = 1, .flood = true},
    {"gang", 100, "short", "gang", .devices = 2, .gang = true},
    {"stream", 100, "short", "stream", .devices = 1, .stream = true},
    {"joined", 100, "stream", "stream", .devices = 1, .stream = true},
};

static const struct local_model models[] = {
    {.name = "short", .a_us = 2000, .b_us = 100, .max_batch = 32},
    {.name = "stream", .a_us = 2000, .b_us = 100, .max_batch = 32, .stream = true},
};

/* What comes again and again: answers, parts, steps. */
struct beat {
    uint64_t n, last, longest;
};

struct run {
    const struct scenario *scenario;
    libsched *s;
    uint64_t begin, end;
    uint64_t *arrivals;
    double *ms;
    size_t n, submitted, answered, counted;
    uint64_t stream, job, step;
    struct beat beat;
};

struct figures {
    double p50, p99, per_s; /* of the requests */
    double greedy_per_s, greedy_gap;
};

static void submit(struct run *run, enum who who, uint64_t index)
{
    static const uint8_t bytes[64];
    const libsched_tensor data = {
        .name = "data",
        .datatype = LIBSCHED_UINT8,
        .rank = 1,
        .shape = {sizeof(bytes)},
        .data = bytes,
        .size = sizeof(bytes),
    };
    const libsched_parameter parts = {
        .name = "parts", .type = LIBSCHED_PARAMETER_INT, .value.integer = PARTS};
    static const char *const clients[] = {"quiet", "flood", "stream"};
    libsched_request request = LIBSCHED_REQUEST_INIT;
    libsched_error err;
    uint64_t id;

    request.model = who == QUIET ? run->scenario->model : who == STREAM ? "stream" : "short";
    request.client = clients[who];
    request.user = (uint64_t)who << 32 | index;
    request.inputs = &data;
    request.n_inputs = 1;
    if (who == STREAM) {
        request.flags = LIBSCHED_WANT_PARTS;
        request.part_credit = UINT32_MAX;
        request.parameters = &parts;
        request.n_parameters = 1;
    }
    if (libsched_submit(run->s, &request, &id, &err) != LIBSCHED_OK)
        local_die("a request", err.message);
    if (who == STREAM)
        run->stream = id;
}

static void submit_job(struct run *run)
{
    const libsched_parameter parameters[] = {
        {.name = "m", .type = LIBSCHED_PARAMETER_INT, .value.integer = 256},
        {.name = "n", .type = LIBSCHED_PARAMETER_INT, .value.integer = 256},
        {.name = "k", .type = LIBSCHED_PARAMETER_INT, .value.integer = 256},
        {.name = "steps", .type = LIBSCHED_PARAMETER_INT, .value.integer = JOB_STEPS},
    };
    libsched_job_options options = LIBSCHED_JOB_OPTIONS_INIT;
    libsched_error err;

    options.program = "gemm";
    options.n_devices = run->scenario->devices;
    options.parameters = parameters;
    options.n_parameters = 4;
    options.client = "gang";
    if (libsched_job_submit(run->s, &options, &run->job, &err) != LIBSCHED_OK)
        local_die("the job", err.message);
}

static void count(struct run *run, uint64_t n, uint64_t now)
{
    struct beat *beat = &run->beat;

    if (now >= run->begin && now < run->end) {
        beat->n += n;
        if (beat->last != 0 && now - beat->last > beat->longest)
            beat->longest = now - beat->last;
        beat->last = now;
    }
}

/* Of a job's steps only the number is told, and that not of each. */
static void look_at_job(struct run *run, uint64_t now)
{
    libsched_job_info info = LIBSCHED_JOB_INFO_INIT;

    if (run->job == 0 || libsched_job_find(run->s, run->job, &info) != LIBSCHED_OK)
        return;
    if (info.step > run->step)
        count(run, info.step - run->step, now);
    run->step = info.step;
}

static size_t turn(struct run *run, uint32_t flags)
{
    libsched_completion done[64];

    if (libsched_process(run->s, flags) < 0)
        local_die("the scheduler", "it cannot go on");
    size_t n = libsched_reap(run->s, done, 64);
    uint64_t now = libsched_now();
    for (size_t i = 0; i < n; i++) {
        enum who who = (enum who)(done[i].user >> 32);
        uint32_t index = (uint32_t)done[i].user;

        if (done[i].kind == LIBSCHED_PART)
            count(run, 1, now);
        if (done[i].kind == LIBSCHED_JOB && done[i].state == LIBSCHED_JOB_ENDED &&
            done[i].status != LIBSCHED_ECANCELED)
            local_die("the job", done[i].message);
        if (done[i].kind != LIBSCHED_END)
            continue;
        if (done[i].status != LIBSCHED_OK && done[i].status != LIBSCHED_ECANCELED)
            local_die("a request", done[i].message);
        if (who == QUIET) {
            run->answered++;
            if (run->arrivals[index] >= run->begin)
                run->ms[run->counted++] = (double)(now - run->arrivals[index]) / 1e6;
        } else if (who == FLOODER) {
            count(run, 1, now);
            if (now < run->end)
                submit(run, FLOODER, 0);
        }
    }
    libsched_release(run->s, done, n);
    look_at_job(run, now);
    return n;
}

static void begin_greedy(struct run *run)
{
    const struct scenario *scenario = run->scenario;

    for (int i = 0; scenario->flood && i < FLOOD; i++)
        submit(run, FLOODER, 0);
    if (scenario->stream)
        submit(run, STREAM, 0);
    if (scenario->gang)
        submit_job(run);
}

static void end_greedy(struct run *run)
{
    if (run->stream != 0)
        libsched_cancel(run->s, run->stream);
    if (run->job != 0)
        libsched_job_cancel(run->s, run->job);
}

static void drive(struct run *run)
{
    bool ended = false;

    for (;;) {
        uint64_t now = libsched_now();
        uint64_t due = run->submitted < run->n ? run->arrivals[run->submitted] : run->end;

        if (now >= run->end + PATIENCE_NS)
            local_die("the answers", "they do not come");
        if (now >= run->end && !ended) {
            end_greedy(run);
            ended = true;
        }
        if (ended && run->answered == run->n)
            return;
        for (; run->submitted < run->n && run->arrivals[run->submitted] <= now; run->submitted++)
            submit(run, QUIET, run->submitted);
        if (turn(run, LIBSCHED_SPINNING) == 0 && turn(run, 0) == 0 &&
            !local_sleep(libsched_fd(run->s), due > now ? due : now + 1000000))
            local_relax();
    }
}

static struct figures measure(const struct scenario *scenario, bool quiet, bool greedy,
                              double seconds)
{
    struct run run = {.scenario = scenario};
    struct figures figures;
    uint64_t start;

    run.s = local_open(scenario->devices);
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
        local_load(run.s, &models[i]);
    start = libsched_now();
    run.begin = start + WARM_UP_NS;
    run.end = run.begin + (uint64_t)(seconds * 1e9);
    run.arrivals = local_arrivals(quiet ? scenario->per_s : 1e-9,
                                  seconds + (double)WARM_UP_NS / 1e9, start, 20240229, &run.n);
    run.ms = calloc(run.n + 1, sizeof(*run.ms));
    if (run.ms == NULL)
        local_die("requests", "no memory");
    if (greedy)
        begin_greedy(&run);
    drive(&run);
    figures.p50 = local_percentile(run.ms, run.counted, 50);
    figures.p99 = local_percentile(run.ms, run.counted, 99);
    figures.per_s = (double)run.counted / seconds;
    figures.greedy_per_s = (double)run.beat.n / seconds;
    figures.greedy_gap = (double)run.beat.longest / 1e6;
    libsched_close(run.s);
    free(run.arrivals);
    free(run.ms);
    return figures;
}

static json_t *params(const struct scenario *scenario, const char *who)
{
    return json_pack("{s:s, s:s}", "scenario", scenario->name, "who", who);
}

static void compare(struct report *report, const struct scenario *scenario, double seconds)
{
    struct figures quiet = measure(scenario, true, false, seconds);
    struct figures greedy = measure(scenario, false, true, seconds);
    struct figures both = measure(scenario, true, true, seconds);

    report_add(report, "p50_ms", params(scenario, "quiet"), both.p50, "ms", quiet.p50);
    report_add(report, "p99_ms", params(scenario, "quiet"), both.p99, "ms", quiet.p99);
    report_add(report, "per_s", params(scenario, "quiet"), both.per_s, "1/s", quiet.per_s);
    report_add(report, "per_s", params(scenario, scenario->greedy), both.greedy_per_s, "1/s",
               greedy.greedy_per_s);
    report_add(report, "gap_ms", params(scenario, scenario->greedy), both.greedy_gap, "ms",
               greedy.greedy_gap);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench-fairness [--json] [--seconds S] [--only SCENARIO]\n");
    return 64;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    double seconds = 5;
    bool json = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc && atof(argv[i + 1]) > 0)
            seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else
            return usage();
    }
    local_be_punctual();
    struct report *report = report_open("fairness", json);
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
        if (only == NULL || strcmp(only, scenarios[i].name) == 0)
            compare(report, &scenarios[i], seconds);
    report_close(report);
    return 0;
}
