/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of packed sequences, and how their attention is cut into pieces for the threads. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu.h"

int cpu_sequences_create(libsched_device *device, libsched_device_sequences **out,
                         uint32_t max_sequences, uint64_t max_tokens, libsched_error *err)
{
    libsched_device_sequences *s;

    if (max_tokens > UINT32_MAX / 2)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%" PRIu64 " tokens in a batch",
                                  max_tokens);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a batch");
    s->max_sequences = max_sequences;
    s->max_tokens = max_tokens;
    s->starts = calloc((size_t)max_sequences + 1, sizeof(*s->starts));
    s->ids = calloc(max_tokens + 1, sizeof(*s->ids));
    s->positions = calloc(max_tokens + 1, sizeof(*s->positions));
    /* Each sequence has at most one block that is not full. */
    s->blocks =
        calloc((size_t)max_sequences + max_tokens / CPU_QUERY_BLOCK + 1, sizeof(*s->blocks));
    if (s->starts == NULL || s->ids == NULL || s->positions == NULL || s->blocks == NULL) {
        cpu_sequences_destroy(device, s);
        return libsched_error_set(err, LIBSCHED_ENODEVMEM,
                                  "no memory for a batch of %" PRIu64 " tokens", max_tokens);
    }
    *out = s;
    return LIBSCHED_OK;
}

void cpu_sequences_destroy(libsched_device *device, libsched_device_sequences *s)
{
    (void)device;
    if (s == NULL)
        return;
    free(s->starts);
    free(s->ids);
    free(s->positions);
    free(s->blocks);
    free(s);
}

static int check_starts(const libsched_device_sequences *s, uint32_t n, const uint32_t *starts,
                        libsched_error *err)
{
    if (n > s->max_sequences)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%" PRIu32 " sequences where %" PRIu32 " have room", n,
                                  s->max_sequences);
    if (starts[0] != 0 || starts[n] > s->max_tokens)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%" PRIu32 " tokens from %" PRIu32 " where %" PRIu64 " have room",
                                  starts[n], starts[0], s->max_tokens);
    for (uint32_t i = 0; i < n; i++)
        if (starts[i + 1] < starts[i])
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "sequence %" PRIu32 " begins behind its end", i);
    return LIBSCHED_OK;
}

static void add_blocks(libsched_device_sequences *s, uint32_t sequence)
{
    uint32_t length = s->starts[sequence + 1] - s->starts[sequence];

    for (uint32_t first = 0; first < length; first += CPU_QUERY_BLOCK) {
        uint32_t left = length - first;
        s->blocks[s->n_blocks++] = (struct cpu_query_block){
            .sequence = sequence,
            .first = first,
            .count = left < CPU_QUERY_BLOCK ? left : CPU_QUERY_BLOCK,
        };
    }
}

static uint64_t block_cost(const libsched_device_sequences *s, const struct cpu_query_block *b)
{
    return (uint64_t)b->count * (s->starts[b->sequence + 1] - s->starts[b->sequence]);
}

/* The dearest first, so that the threads end together; else in order. */
static int compare_blocks(const void *left, const void *right, void *payload)
{
    const libsched_device_sequences *s = payload;
    const struct cpu_query_block *a = left, *b = right;
    uint64_t cost_a = block_cost(s, a), cost_b = block_cost(s, b);

    if (cost_a != cost_b)
        return cost_a > cost_b ? -1 : 1;
    if (a->sequence != b->sequence)
        return a->sequence < b->sequence ? -1 : 1;
    return (a->first > b->first) - (a->first < b->first);
}

int cpu_sequences_set(libsched_device *device, libsched_device_sequences *s, uint32_t n,
                      const uint32_t *starts, const int32_t *ids, libsched_error *err)
{
    int status = check_starts(s, n, starts, err);

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    s->n = n;
    memcpy(s->starts, starts, ((size_t)n + 1) * sizeof(*starts));
    if (starts[n] > 0)
        memcpy(s->ids, ids, starts[n] * sizeof(*ids));
    s->n_blocks = 0;
    s->longest = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t t = starts[i]; t < starts[i + 1]; t++)
            s->positions[t] = t - starts[i];
        if (starts[i + 1] - starts[i] > s->longest)
            s->longest = starts[i + 1] - starts[i];
        add_blocks(s, i);
    }
    qsort_r(s->blocks, s->n_blocks, sizeof(*s->blocks), compare_blocks, s);
    return LIBSCHED_OK;
}
