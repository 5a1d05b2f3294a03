/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sections: rows of operations that are given again and again are recorded as a CUDA graph, and
 * given as one.
 *
 * Of a batch only its sizes are part of what is recorded, so these are rounded up: tokens as
 * products round rows, sequences to a power of two. What is beyond the batch are empty sequences,
 * empty blocks of attention, and rows of no sequence, of which each operation makes rows of none.
 * All else about a batch is in the memory of its sequences, where sequences_set() has written the
 * padding as well.
 *
 * A recording is made when its sizes come a second time: by then kernels are loaded and products
 * have their plans, and sizes that come once cost nothing. Where recording fails in any way, the
 * operations are called once more, and these sizes are not recorded again.
 */
#include <stdlib.h>

#include "internal.h"

#define VARIABLE "GPU_SCHED_GRAPHS"
/* Sizes that a section remembers. */
#define SIZES 48u
/* One is forgotten for another only after so many runs without it. Or those that come in turn would
 * all be recorded for nothing. */
#define AGE (4 * SIZES)
/* On the device, about: some hundred nodes of one to a few KiB. */
#define RECORDING_BYTES (UINT64_C(256) << 10)
/* After so many nothing is recorded any more. */
#define MAX_FAILURES 4u

struct recording {
    uint32_t variant;
    struct cuda_counts counts;
    uint64_t last; /* run */
    bool seen;     /* before */
    bool refused;
    uint64_t longest;         /* that a sequence may be, as its operations have positions */
    cudaGraphExec_t graph;    /* NULL: none */
    struct cuda_span **spans; /* that it touches */
    uint32_t n_spans, capacity;
};

struct libsched_device_section {
    const libsched_device_sequences *sequences;
    struct recording recordings[SIZES];
    uint32_t n;
    uint64_t runs;
    struct recording *current; /* being made; NULL: none */
    bool spoilt;               /* nothing comes of it */
};

void cuda_sections_open(struct cuda_device *device)
{
    device->records = cuda_switch(device, VARIABLE, true, "graphs are used");
}

int cuda_section_create(libsched_device *base, libsched_device_section **out,
                        const libsched_device_sequences *sequences, uint64_t *bytes,
                        libsched_error *err)
{
    libsched_device_section *section;
    int status = cuda_enter(cuda_device_of(base), err);

    if (status != LIBSCHED_OK)
        return status;
    section = calloc(1, sizeof(*section));
    if (section == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a section");
    section->sequences = sequences;
    *bytes = cuda_device_of(base)->records ? SIZES * RECORDING_BYTES : 0;
    *out = section;
    return LIBSCHED_OK;
}

static void clear(struct cuda_device *device, struct recording *recording)
{
    /* One that is under way ends before the driver frees it. */
    if (recording->graph != NULL && device->lost == 0)
        cuda_check(device, cudaGraphExecDestroy(recording->graph), "cudaGraphExecDestroy", NULL);
    free(recording->spans);
    recording->graph = NULL;
    recording->spans = NULL;
    recording->n_spans = recording->capacity = 0;
}

void cuda_section_destroy(libsched_device *base, libsched_device_section *section)
{
    struct cuda_device *device = cuda_device_of(base);

    if (section == NULL)
        return;
    (void)cuda_enter(device, NULL);
    for (uint32_t i = 0; i < section->n; i++)
        clear(device, &section->recordings[i]);
    free(section);
}

/* ------------------------------------------------------------------------- while one is recorded
 */

void cuda_recording_spoil(struct cuda_device *device)
{
    if (device->recording != NULL)
        device->recording->spoilt = true;
}

void cuda_recording_drop(struct cuda_device *device)
{
    cudaGraph_t graph = NULL;

    device->recording->spoilt = true;
    device->recording = NULL;
    if (device->lost != 0)
        return;
    cuda_check(device, cudaStreamEndCapture(cuda_stream(device, CUDA_COMPUTE), &graph),
               "cudaStreamEndCapture", NULL);
    if (graph != NULL && device->lost == 0)
        cuda_check(device, cudaGraphDestroy(graph), "cudaGraphDestroy", NULL);
}

static bool touches(const struct recording *recording, const struct cuda_span *span)
{
    for (uint32_t i = 0; i < recording->n_spans; i++)
        if (recording->spans[i] == span)
            return true;
    return false;
}

void cuda_recording_touches(struct cuda_device *device, struct cuda_span *const *spans, uint32_t n)
{
    struct recording *recording = device->recording->current;

    for (uint32_t i = 0; i < n; i++) {
        if (touches(recording, spans[i]))
            continue;
        if (recording->n_spans == recording->capacity) {
            const uint32_t capacity = recording->capacity == 0 ? 64 : 2 * recording->capacity;
            struct cuda_span **grown = realloc(recording->spans, capacity * sizeof(*grown));

            if (grown == NULL) {
                cuda_recording_spoil(device);
                return;
            }
            recording->spans = grown;
            recording->capacity = capacity;
        }
        recording->spans[recording->n_spans++] = spans[i];
    }
}

void cuda_recording_positions(struct cuda_device *device, uint64_t n)
{
    if (device->recording != NULL && device->recording->current->longest > n)
        device->recording->current->longest = n;
}

const libsched_device_sequences *cuda_recorded_sequences(const struct cuda_device *device)
{
    return device->recording != NULL ? device->recording->sequences : NULL;
}

uint64_t cuda_rows(struct cuda_device *device, uint64_t rows)
{
    const libsched_device_sequences *s = cuda_recorded_sequences(device);

    if (s == NULL)
        return rows;
    if (rows == s->tokens)
        return s->padded.tokens;
    /* Nobody knows how many it will be the next time. */
    cuda_recording_spoil(device);
    return rows;
}

/* ------------------------------------------------------------------------------- its recordings */

/* What is remembered of these sizes; NULL: nothing, and there is no room for it. */
static struct recording *find(struct cuda_device *device, libsched_device_section *section,
                              uint32_t variant)
{
    const struct cuda_counts *counts = &section->sequences->padded;
    struct recording *oldest = NULL;

    for (uint32_t i = 0; i < section->n; i++) {
        struct recording *r = &section->recordings[i];

        /* n_blocks follows from them. */
        if (r->variant == variant && r->counts.n == counts->n && r->counts.tokens == counts->tokens)
            return r;
        if (oldest == NULL || r->last < oldest->last)
            oldest = r;
    }
    if (section->n < SIZES)
        oldest = &section->recordings[section->n++];
    else if (oldest->graph != NULL && section->runs - oldest->last < AGE)
        return NULL;
    clear(device, oldest);
    *oldest = (struct recording){.variant = variant, .counts = *counts, .longest = UINT64_MAX};
    return oldest;
}

/* For good. LIBSCHED_OK, unless the device is lost. */
static int refuse(struct cuda_device *device, struct recording *recording,
                  const libsched_error *why, libsched_error *err)
{
    clear(device, recording);
    recording->refused = true;
    if (device->lost != 0)
        return cuda_enter(device, err);
    if (device->recording_failures == 0)
        cuda_note(device,
                  "a batch of up to %u tokens can't be given as one graph, and is given operation "
                  "by operation: %.300s",
                  recording->counts.tokens, why->message);
    if (++device->recording_failures == MAX_FAILURES) {
        device->records = false;
        cuda_note(device, "graphs have failed %u times, and are used no more: %.300s", MAX_FAILURES,
                  why->message);
    }
    return LIBSCHED_OK;
}

static int give(struct cuda_device *device, const struct recording *recording, libsched_error *err)
{
    int status = cuda_spans_wait(device, CUDA_COMPUTE, recording->spans, recording->n_spans, err);

    if (status == LIBSCHED_OK)
        status = cuda_times_begin(device, err);
    if (status == LIBSCHED_OK)
        status =
            cuda_check(device, cudaGraphLaunch(recording->graph, cuda_stream(device, CUDA_COMPUTE)),
                       "cudaGraphLaunch", err);
    if (status == LIBSCHED_OK)
        cuda_spans_touched(device, CUDA_COMPUTE, recording->spans, recording->n_spans);
    return status;
}

int cuda_section_begin(libsched_device *base, libsched_device_section *section, uint32_t variant,
                       bool *given, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct recording *recording;
    libsched_error why = {0};
    int status = cuda_enter(device, err);

    *given = false;
    section->current = NULL;
    if (status != LIBSCHED_OK || !device->records || section->sequences->padded.tokens == 0)
        return status;
    section->runs++;
    recording = find(device, section, variant);
    if (recording == NULL)
        return cuda_enter(device, err);
    recording->last = section->runs;
    /* Who calls for a sequence that is too long is told so by the operation. */
    if (recording->refused || !recording->seen ||
        section->sequences->longest > recording->longest) {
        recording->seen = true;
        return cuda_enter(device, err);
    }
    if (recording->graph != NULL) {
        status = give(device, recording, &why);
        *given = status == LIBSCHED_OK;
        return *given ? status : refuse(device, recording, &why, err);
    }
    /* Other threads may call what they like meanwhile. */
    status = cuda_check(
        device,
        cudaStreamBeginCapture(cuda_stream(device, CUDA_COMPUTE), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture", &why);
    if (status != LIBSCHED_OK)
        return refuse(device, recording, &why, err);
    section->current = recording;
    section->spoilt = false;
    device->recording = section;
    return LIBSCHED_OK;
}

/* Makes the recording of what was called. */
static int finish(struct cuda_device *device, libsched_device_section *section, libsched_error *err)
{
    cudaGraph_t graph = NULL;
    int status;

    device->recording = NULL;
    status = cuda_check(device, cudaStreamEndCapture(cuda_stream(device, CUDA_COMPUTE), &graph),
                        "cudaStreamEndCapture", err);
    if (status == LIBSCHED_OK && section->spoilt)
        status = libsched_error_set(err, LIBSCHED_ENOTSUP,
                                    "its operations are not such that they can be recorded");
    if (status == LIBSCHED_OK) {
        status = cuda_check(device, cudaGraphInstantiate(&section->current->graph, graph, 0),
                            "cudaGraphInstantiate", err);
        if (status != LIBSCHED_OK)
            section->current->graph = NULL;
    }
    if (graph != NULL && device->lost == 0)
        cuda_check(device, cudaGraphDestroy(graph), "cudaGraphDestroy", NULL);
    return status;
}

int cuda_section_end(libsched_device *base, libsched_device_section *section, int status,
                     bool *again, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct recording *recording = section->current;
    libsched_error why = {0};

    *again = false;
    if (recording == NULL || device->lost != 0)
        return cuda_enter(device, err);
    if (device->recording != section) {
        /* Something else was called meanwhile, which ended it. */
        status = libsched_error_set(&why, LIBSCHED_ENOTSUP,
                                    "something else was called in the middle of it");
    } else if (status != LIBSCHED_OK) {
        libsched_error_set(&why, status, "one of its operations answered %s",
                           libsched_status_name(status));
        cuda_recording_drop(device);
    } else {
        status = finish(device, section, &why);
    }
    section->current = NULL;
    if (status == LIBSCHED_OK)
        status = give(device, recording, &why);
    if (status == LIBSCHED_OK)
        return LIBSCHED_OK;
    *again = true;
    return refuse(device, recording, &why, err);
}
