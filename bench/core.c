/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "core": what the decisions cost, beside the bare limit of passing as many records
 * of a request's size through a ring, which no scheduler that remembers its requests can do
 * without.
 *
 * The queue holds `depth` requests all the time. A round submits as many as a batch takes, ends
 * the batch under way item by item, and takes the actions: the replies and the next batch. So each
 * request costs one submit, one item-done, its share of a step-done and a dispatch, and one reply.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "report.h"

#define BATCH 32
#define ROUND_REQUESTS 65536
#define ROUNDS 7
#define FAR UINT64_C(1000000000000)

static void die(const char *why)
{
    fprintf(stderr, "bench-core: %s\n", why);
    exit(1);
}

/* Nanoseconds this thread has computed. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static uint64_t random_state = 20240229;

/* xorshift64* */
static uint64_t random_next(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1du;
}

enum deadlines { NONE, IN_ORDER, RANDOM };
static const char *const deadline_names[] = {"none", "in order", "random"};

struct load {
    struct core *core;
    enum deadlines deadlines;
    uint32_t models;
    uint64_t clock;
    uint64_t submitted;
    /* The batch under way. */
    uint64_t batch;
    uint32_t step, n;
    uint64_t ids[BATCH];
};

static void carry_out(struct load *load)
{
    struct core_action action;
    while (core_next_action(load->core, &action)) {
        if (action.type != CORE_DISPATCH)
            continue;
        load->batch = action.batch;
        load->step = action.step;
        load->n = action.n_items;
        for (uint32_t i = 0; i < action.n_items; i++)
            load->ids[i] = action.items[i].id;
    }
}

static void handle(struct load *load, struct core_event *event)
{
    if (core_handle(load->core, load->clock, event) != LIBSCHED_OK)
        die("the core refused an event");
}

static void submit(struct load *load)
{
    struct core_event event = {.type = CORE_SUBMIT};
    event.u.submit = (struct core_submit){
        .model = (uint32_t)(load->submitted++ / BATCH % load->models),
        .client = load->submitted % 16,
        .units = 1,
    };
    load->clock += 100;
    if (load->deadlines == IN_ORDER)
        event.u.submit.deadline = load->clock + FAR;
    else if (load->deadlines == RANDOM)
        event.u.submit.deadline = load->clock + FAR + random_next() % FAR;
    handle(load, &event);
}

static void end_batch(struct load *load)
{
    for (uint32_t i = 0; i < load->n; i++) {
        struct core_event event = {.type = CORE_ITEM_DONE, .epoch = 1};
        event.u.item_done.id = load->ids[i];
        event.u.item_done.batch = load->batch;
        handle(load, &event);
    }
    struct core_event event = {.type = CORE_STEP_DONE, .epoch = 1};
    event.u.step_done.batch = load->batch;
    event.u.step_done.step = load->step;
    event.u.step_done.begin = load->clock - 1000;
    event.u.step_done.end = load->clock;
    handle(load, &event);
}

static void set_up(struct load *load, uint32_t depth)
{
    const struct core_config config = {.max_requests = depth + 4 * BATCH, .max_clients = 16};
    const struct core_device device = {.kind = CORE_COMPUTE};
    const struct core_model model = {
        .devices = 1,
        .max_batch_requests = BATCH,
        .max_batch_units = BATCH,
        .max_request_units = 1,
        .queue_limit = depth + 4 * BATCH,
    };
    load->core = core_new(&config);
    if (load->core == NULL || core_add_device(load->core, 0, &device) != LIBSCHED_OK)
        die("no memory");
    struct core_event event = {.type = CORE_WORKER_UP, .epoch = 1};
    handle(load, &event);
    for (uint32_t i = 0; i < load->models; i++) {
        if (core_add_model(load->core, 0, i, &model) != LIBSCHED_OK)
            die("no memory");
        carry_out(load);
        event = (struct core_event){.type = CORE_LOADED, .epoch = 1};
        event.u.loaded.model = i;
        handle(load, &event);
    }
    for (uint32_t i = 0; i < depth + BATCH; i++)
        submit(load);
    carry_out(load);
}

static double measure(struct load *load)
{
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now();
        for (uint32_t n = 0; n < ROUND_REQUESTS; n += BATCH) {
            for (uint32_t i = 0; i < BATCH; i++)
                submit(load);
            end_batch(load);
            carry_out(load);
            if (load->n != BATCH)
                die("a batch was not full");
        }
        double took = (now() - begin) / ROUND_REQUESTS;
        if (round == 0 || took < best)
            best = took;
    }
    return best;
}

/* Records of 128 bytes, `depth` of them in a ring at any time. */
static double measure_ring(uint32_t depth)
{
    struct record {
        uint64_t words[16];
    } *ring = calloc(depth + BATCH, sizeof(*ring)), record = {{0}};
    uint64_t in = 0, out = 0, sum = 0, size = depth + BATCH;
    double best = 0;

    if (ring == NULL)
        die("no memory");
    for (; in < depth; in++)
        ring[in % size].words[0] = in;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now();
        for (uint32_t n = 0; n < ROUND_REQUESTS; n += BATCH) {
            for (uint32_t i = 0; i < BATCH; i++) {
                record.words[i % 16] = in;
                ring[in++ % size] = record;
            }
            for (uint32_t i = 0; i < BATCH; i++) {
                const struct record *r = &ring[out++ % size];
                for (int word = 0; word < 16; word++)
                    sum += r->words[word];
            }
        }
        double took = (now() - begin) / ROUND_REQUESTS;
        if (round == 0 || took < best)
            best = took;
    }
    static volatile uint64_t sink;
    sink = sum;
    (void)sink;
    free(ring);
    return best;
}

int main(int argc, char **argv)
{
    static const uint32_t depths[] = {0, 1024, 65536, 1048576};
    static const uint32_t models[] = {1, 64};
    bool json = argc == 2 && strcmp(argv[1], "--json") == 0;

    if (argc > 2 || (argc == 2 && !json)) {
        fprintf(stderr, "usage: bench-core [--json]\n");
        return 2;
    }
    struct report *report = report_open("core", json);
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        double ring = measure_ring(depths[i]);
        for (size_t j = 0; j < sizeof(models) / sizeof(models[0]); j++) {
            for (int deadlines = NONE; deadlines <= RANDOM; deadlines++) {
                struct load load = {.deadlines = (enum deadlines)deadlines, .models = models[j]};
                set_up(&load, depths[i]);
                double ns = measure(&load);
                core_free(load.core);
                report_add(report, "request_ns",
                           json_pack("{s:i, s:i, s:s}", "depth", (int)depths[i], "models",
                                     (int)models[j], "deadlines", deadline_names[deadlines]),
                           ns, "ns", ring);
            }
        }
    }
    report_close(report);
    return 0;
}
