/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encoder at saturation: through libsched with its scheduler and a real worker, beside a bare
 * loop over the engine, and that beside bare matrix products.
 */
#include <string.h>

#include "../steps.h"
#include "busy.h"
#include "engine.h"
#include "served.h"

/* Requests differ, but are used again and again. */
#define TEMPLATES 16
/* So much more than a batch waits all the time. */
#define BATCHES_WAITING 4
#define MAX_WAITING 16384

struct template
{
    libsched_tensor inputs[2];
    libsched_buffer *buffers[2];
    uint32_t n_inputs;
    int32_t sequences;
};

struct load {
    struct served *served;
    struct template templates[TEMPLATES];
    uint64_t submitted, waiting, most;
    uint64_t sequences; /* answered */
};

static void *add_input(struct load *load, struct template *t, const char *name, int64_t n,
                       int64_t length)
{
    const uint64_t size = (uint64_t)(n * length) * sizeof(int32_t);
    libsched_buffer **buffer = &t->buffers[t->n_inputs];
    libsched_error err;

    gpu_check(libsched_buffer_alloc(load->served->s, size, buffer, &err), &err, "a request");
    t->inputs[t->n_inputs++] = (libsched_tensor){
        .name = name,
        .datatype = LIBSCHED_INT32,
        .rank = 2,
        .shape = {n, length},
        .data = libsched_buffer_data(*buffer),
        .size = size,
    };
    memset(libsched_buffer_data(*buffer), 0, size);
    return libsched_buffer_data(*buffer);
}

/* Ids as rows of one length, with a mask where that is not everybody's. */
static void make_template(struct load *load, struct template *t, const struct step *step)
{
    int32_t longest = 0, at = 0, *ids, *mask = NULL;

    for (int32_t i = 0; i < step->n; i++)
        longest = step->lengths[i] > longest ? step->lengths[i] : longest;
    t->sequences = step->n;
    ids = add_input(load, t, "input_ids", step->n, longest);
    if ((int64_t)longest * step->n != step->tokens)
        mask = add_input(load, t, "attention_mask", step->n, longest);
    for (int32_t i = 0; i < step->n; i++) {
        for (int32_t j = 0; j < step->lengths[i]; j++) {
            ids[i * longest + j] = step->ids[at++];
            if (mask != NULL)
                mask[i * longest + j] = 1;
        }
    }
}

static void fill(struct load *load)
{
    for (; load->waiting < load->most; load->waiting++) {
        const uint64_t which = load->submitted++ % TEMPLATES;
        struct template *t = &load->templates[which];
        libsched_request request = LIBSCHED_REQUEST_INIT;
        libsched_error err;
        uint64_t id;

        request.model = "bench";
        request.user = which;
        request.inputs = t->inputs;
        request.buffers = t->buffers;
        request.n_inputs = t->n_inputs;
        gpu_check(libsched_submit(load->served->s, &request, &id, &err), &err, "a request");
    }
}

static void turn(struct load *load)
{
    libsched_completion done[256];
    const size_t n = served_turn(load->served, done, 256);

    for (size_t i = 0; i < n; i++) {
        if (done[i].kind != LIBSCHED_END)
            continue;
        if (done[i].status != LIBSCHED_OK)
            gpu_die("a request", done[i].message);
        load->sequences += (uint64_t)load->templates[done[i].user].sequences;
        load->waiting--;
    }
    libsched_release(load->served->s, done, n);
}

/* What came of a load. */
struct rate {
    double sequences_per_s;
    double busy;       /* of the time, the GPU by its own clock; 0: nobody tells */
    double in_batches; /* of the time, as the scheduler sees it */
};

/* So long, and so many sequences at least. */
static void run_for(struct load *load, double seconds, uint64_t sequences)
{
    const double begin = gpu_now();
    const uint64_t least = load->sequences + sequences;

    while (gpu_now() - begin < seconds || load->sequences < least) {
        fill(load);
        turn(load);
    }
}

static struct rate measure(struct gpu_bench *b, struct served *served, int32_t length,
                           int32_t per_request)
{
    const int64_t each = (int64_t)per_request * (length > 0 ? length : STEPS_MIXED_MEAN);
    struct load load = {.served = served};
    libsched_device_info before, after;
    /* Some batches. */
    const uint64_t least = 2 * (uint64_t)gpu_batch(length, b->tokens);
    struct steps steps;
    struct rate rate;
    double begin, busy, seconds;
    uint64_t sequences;

    load.most = (uint64_t)(BATCHES_WAITING * b->tokens / each) + 1;
    load.most = load.most < MAX_WAITING ? load.most : MAX_WAITING;
    steps_make(&steps, length, per_request, TEMPLATES, b->config.vocabulary);
    for (int i = 0; i < TEMPLATES; i++)
        make_template(&load, &load.templates[i], &steps.all[i]);
    /* The scheduler learns what batches cost, and the device's graphs are recorded. */
    run_for(&load, b->seconds / 2, least);

    served_device(served, 0, &before);
    sequences = load.sequences;
    busy = busy_seconds();
    begin = gpu_now();
    run_for(&load, b->seconds, least);
    seconds = gpu_now() - begin;
    served_device(served, 0, &after);
    rate.sequences_per_s = (double)(load.sequences - sequences) / seconds;
    rate.busy = (busy_seconds() - busy) / seconds;
    rate.in_batches = (double)(after.busy_ns - before.busy_ns) * 1e-9 / seconds;

    while (load.waiting > 0)
        turn(&load);
    for (int i = 0; i < TEMPLATES; i++)
        for (uint32_t j = 0; j < load.templates[i].n_inputs; j++)
            libsched_buffer_release(load.templates[i].buffers[j]);
    steps_free(&steps);
    return rate;
}

void gpu_encoder(struct gpu_bench *b)
{
    const int32_t per_request[] = {1, b->several};
    double engine[GPU_LENGTHS];
    struct served served;

    for (int i = 0; i < GPU_LENGTHS; i++) {
        engine[i] = engine_sequences_per_s(b, b->lengths[i]);
        report_add(b->report, "engine_sequences_per_s",
                   json_pack("{s:o, s:i, s:s}", "length", gpu_length(b->lengths[i]), "batch",
                             (int)gpu_batch(b->lengths[i], b->tokens), "precision", b->precision),
                   engine[i], "sequences/s", engine_bare_sequences_per_s(b, b->lengths[i]));
    }
    busy_open();
    served_open(&served, b, 1);
    served_load(&served, b);
    for (int i = 0; i < GPU_LENGTHS; i++) {
        for (int j = 0; j < 2; j++) {
            const struct rate rate = measure(b, &served, b->lengths[i], per_request[j]);
            json_t *params = json_pack("{s:o, s:i, s:s}", "length", gpu_length(b->lengths[i]),
                                       "request", (int)per_request[j], "precision", b->precision);

            report_add(b->report, "sequences_per_s", json_incref(params), rate.sequences_per_s,
                       "sequences/s", engine[i]);
            if (rate.busy > 0)
                report_add(b->report, "device_busy_percent", json_incref(params), 100 * rate.busy,
                           "%", 100);
            report_add(b->report, "in_batches_percent", params, 100 * rate.in_batches, "%", 100);
        }
    }
    served_close(&served);
    busy_close();
}
