/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "core": what the decisions cost a request, from its submission to its completion.
 *
 * So many requests are queued all the time. A round submits as many as the batch under way has,
 * ends that item by item, and takes the actions: the replies and the next batch. So each request
 * costs one submit, one item-done, its share of a step-done and a dispatch, and one reply.
 *
 *   ns_per_request            beside the bare limit of passing as many records of a request's size
 *                             through a ring, which no scheduler that remembers its requests can
 *                             do without
 *   bytes_per_queued_request  what the core's memory grows by with each request that it may hold;
 *                             beside the 128 bytes that are aimed at. It is all taken at the
 *                             beginning, so it does not depend on the rest
 *   instructions_per_request  as valgrind --tool=callgrind counts them, which runs this program
 *                             anew for some of the cases; beside those with 1000 queued
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "report.h"

#define BATCH 32
#define ROUND_REQUESTS 65536
#define ROUNDS 7
#define FAR UINT64_C(1000000000000)
/* Under callgrind. */
#define COUNTED_REQUESTS 8192
#define BYTES_AIMED_AT 128

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

struct params {
    uint32_t queued, models, clients;
    enum deadlines deadlines;
};

struct load {
    struct core *core;
    struct params params;
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
        .model = (uint32_t)(load->submitted / BATCH % load->params.models),
        .client = load->submitted % load->params.clients,
        .units = 1,
    };
    load->submitted++;
    load->clock += 100;
    if (load->params.deadlines == IN_ORDER)
        event.u.submit.deadline = load->clock + FAR;
    else if (load->params.deadlines == RANDOM)
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

static struct core *new_core(uint32_t queued, uint32_t clients)
{
    const struct core_config config = {.max_requests = queued + 4 * BATCH, .max_clients = clients};
    struct core *core = core_new(&config);

    if (core == NULL)
        die("no memory");
    return core;
}

static void set_up(struct load *load, const struct params *params)
{
    const struct core_device device = {.kind = CORE_COMPUTE};
    const struct core_model model = {
        .devices = 1,
        .max_batch_requests = BATCH,
        .max_batch_units = BATCH,
        .max_request_units = 1,
        .queue_limit = params->queued + 4 * BATCH,
    };
    *load = (struct load){.params = *params};
    load->core = new_core(params->queued, params->clients);
    if (core_add_device(load->core, 0, &device) != LIBSCHED_OK)
        die("no memory");
    struct core_event event = {.type = CORE_WORKER_UP, .epoch = 1};
    handle(load, &event);
    for (uint32_t i = 0; i < params->models; i++) {
        if (core_add_model(load->core, 0, i, &model) != LIBSCHED_OK)
            die("no memory");
        carry_out(load);
        event = (struct core_event){.type = CORE_LOADED, .epoch = 1};
        event.u.loaded.model = i;
        handle(load, &event);
    }
    for (uint32_t i = 0; i < params->queued + BATCH; i++)
        submit(load);
    carry_out(load);
}

/* Not inlined, as callgrind counts in it alone. Answers how many requests it was. */
__attribute__((noinline)) static uint32_t run_requests(struct load *load, uint32_t most)
{
    uint32_t done = 0;

    while (done < most) {
        uint32_t n = load->n;
        if (n == 0)
            die("nothing runs");
        for (uint32_t i = 0; i < n; i++)
            submit(load);
        end_batch(load);
        load->n = 0;
        carry_out(load);
        done += n;
    }
    return done;
}

static double measure(struct load *load)
{
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now();
        uint32_t n = run_requests(load, ROUND_REQUESTS);
        double took = (now() - begin) / n;
        if (round == 0 || took < best)
            best = took;
    }
    return best;
}

/* Records of 128 bytes, `queued` of them in a ring at any time. */
static double measure_ring(uint32_t queued)
{
    struct record {
        uint64_t words[16];
    } *ring = calloc(queued + BATCH, sizeof(*ring)), record = {{0}};
    uint64_t in = 0, out = 0, sum = 0, size = queued + BATCH;
    double best = 0;

    if (ring == NULL)
        die("no memory");
    for (; in < queued; in++)
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

/* ----------------------------------------------------------------------------------------- memory
 */

static size_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static double measure_bytes(uint32_t queued)
{
    size_t before = allocated(), least, most;
    struct core *core = new_core(0, 16);

    least = allocated() - before;
    core_free(core);
    before = allocated();
    core = new_core(queued, 16);
    most = allocated() - before;
    core_free(core);
    return (double)(most - least) / queued;
}

/* ------------------------------------------------------------------------------------ instructions
 */

/* What runs under valgrind: prints for how many requests it was counted. */
static int run_counted(char **argv)
{
    const struct params params = {
        .queued = (uint32_t)atoi(argv[0]),
        .models = (uint32_t)atoi(argv[1]),
        .clients = (uint32_t)atoi(argv[2]),
        .deadlines = (enum deadlines)atoi(argv[3]),
    };
    struct load load;

    set_up(&load, &params);
    printf("%u\n", run_requests(&load, COUNTED_REQUESTS));
    core_free(load.core);
    return 0;
}

/* Runs this program under callgrind; its output is in `counts`, callgrind's in `out`. */
static bool run_callgrind(const struct params *params, const char *counts, const char *out)
{
    char file[PATH_MAX], self[PATH_MAX], arguments[4][16];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    int status;
    pid_t pid = length > 0 ? fork() : -1;

    if (pid == 0) {
        self[length] = '\0';
        int log = open("/dev/null", O_WRONLY), fd = open(counts, O_WRONLY | O_TRUNC);
        if (log < 0 || fd < 0)
            _exit(127);
        dup2(fd, 1);
        dup2(log, 2);
        snprintf(file, sizeof(file), "--callgrind-out-file=%s", out);
        snprintf(arguments[0], 16, "%u", params->queued);
        snprintf(arguments[1], 16, "%u", params->models);
        snprintf(arguments[2], 16, "%u", params->clients);
        snprintf(arguments[3], 16, "%d", (int)params->deadlines);
        execlp("valgrind", "valgrind", "--tool=callgrind", "--toggle-collect=run_requests", file,
               self, "--counted", arguments[0], arguments[1], arguments[2], arguments[3],
               (char *)NULL);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

/* The number behind a word that begins a line; 0: there is none. */
static double read_number(const char *path, const char *word)
{
    char line[512];
    double number = 0;
    FILE *file = fopen(path, "re");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, word, strlen(word)) == 0)
            number = strtod(line + strlen(word), NULL);
    if (file != NULL)
        fclose(file);
    return number;
}

static double count_instructions(const struct params *params)
{
    char counts[] = "/tmp/bench-core-XXXXXX", out[] = "/tmp/bench-core-XXXXXX";
    int fds[] = {mkstemp(counts), mkstemp(out)};
    double n = 0, instructions = 0;

    if (fds[0] < 0 || fds[1] < 0)
        die(strerror(errno));
    if (run_callgrind(params, counts, out)) {
        n = read_number(counts, "");
        instructions = read_number(out, "totals:");
    }
    for (int i = 0; i < 2; i++)
        close(fds[i]);
    unlink(counts);
    unlink(out);
    return n > 0 ? instructions / n : 0;
}

/* ------------------------------------------------------------------------------------------- main
 */

static const uint32_t queued[] = {1000, 10000, 100000, 1000000};
static const uint32_t models[] = {1, 16, 256};
static const uint32_t clients[] = {1, 30, 1000};

#define N_OF(array) (sizeof(array) / sizeof(array[0]))

static json_t *json_params(const struct params *params)
{
    return json_pack("{s:i, s:i, s:i, s:s}", "queued", (int)params->queued, "models",
                     (int)params->models, "clients", (int)params->clients, "deadlines",
                     deadline_names[params->deadlines]);
}

static void report_times(struct report *report)
{
    for (size_t i = 0; i < N_OF(queued); i++) {
        double ring = measure_ring(queued[i]);
        for (size_t j = 0; j < N_OF(models) * N_OF(clients) * 3; j++) {
            const struct params params = {
                .queued = queued[i],
                .models = models[j / 3 / N_OF(clients)],
                .clients = clients[j / 3 % N_OF(clients)],
                .deadlines = (enum deadlines)(j % 3),
            };
            struct load load;
            set_up(&load, &params);
            double ns = measure(&load);
            core_free(load.core);
            report_add(report, "ns_per_request", json_params(&params), ns, "ns", ring);
        }
    }
}

static void report_bytes(struct report *report)
{
    for (size_t i = 0; i < N_OF(queued); i++) {
        const struct params params = {queued[i], 1, 16, NONE};
        report_add(report, "bytes_per_queued_request", json_params(&params),
                   measure_bytes(queued[i]), "B", BYTES_AIMED_AT);
    }
}

static void report_instructions(struct report *report)
{
    static const struct params cases[] = {
        {.models = 1, .clients = 1, .deadlines = NONE},
        {.models = 16, .clients = 30, .deadlines = RANDOM},
        {.models = 256, .clients = 1000, .deadlines = RANDOM},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        double first = 0;
        for (size_t j = 0; j < N_OF(queued); j++) {
            struct params params = cases[i];
            params.queued = queued[j];
            double instructions = count_instructions(&params);
            if (instructions == 0) {
                fprintf(stderr, "skipped: instructions_per_request, as valgrind cannot be run\n");
                return;
            }
            if (j == 0)
                first = instructions;
            report_add(report, "instructions_per_request", json_params(&params), instructions, "1",
                       first);
        }
    }
}

int main(int argc, char **argv)
{
    bool json = argc == 2 && strcmp(argv[1], "--json") == 0;

    if (argc == 6 && strcmp(argv[1], "--counted") == 0)
        return run_counted(argv + 2);
    if (argc > 2 || (argc == 2 && !json)) {
        fprintf(stderr, "usage: bench-core [--json]\n");
        return 2;
    }
    struct report *report = report_open("core", json);
    report_times(report);
    report_bytes(report);
    report_instructions(report);
    report_close(report);
    return 0;
}
