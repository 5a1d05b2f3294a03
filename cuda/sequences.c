/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of packed sequences: all that kernels need to know of one goes over in one copy. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define ALIGN UINT64_C(16)

static uint64_t aligned(uint64_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* Each sequence has at most one block that is not full. */
static uint64_t max_blocks(uint64_t sequences, uint64_t tokens)
{
    return sequences + tokens / KERNEL_BLOCK_QUERIES;
}

/* A power of two, at least n. */
static uint64_t raised(uint64_t n)
{
    uint64_t power = 1;

    while (power < n)
        power *= 2;
    return power;
}

/* How many there are at most of what a recording has that these fit into. */
static struct cuda_counts pad(const struct cuda_device *device, uint32_t n, uint32_t tokens)
{
    struct cuda_counts padded = {0};

    if (!device->records || tokens == 0 || tokens > CUDA_RECORDED_TOKENS)
        return padded;
    padded.n = (uint32_t)raised(n);
    padded.tokens = (uint32_t)cuda_rung(tokens);
    padded.n_blocks = (uint32_t)max_blocks(padded.n, padded.tokens);
    return padded;
}

int cuda_sequences_create(libsched_device *base, libsched_device_sequences **out,
                          uint32_t max_sequences, uint64_t max_tokens, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_sequences *s;
    uint64_t size;
    int status = cuda_enter(device, err);

    if (status != LIBSCHED_OK)
        return status;
    if (max_tokens > CUDA_MAX_DIMENSION)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%" PRIu64 " tokens in a batch",
                                  max_tokens);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a batch");
    s->max_sequences = max_sequences;
    s->max_tokens = max_tokens;
    /* And what pads them. */
    size = aligned((raised(max_sequences) + 1) * sizeof(uint32_t)) +
           2 * aligned(cuda_rung(max_tokens) * sizeof(uint32_t)) +
           max_blocks(raised(max_sequences), cuda_rung(max_tokens)) * sizeof(struct kernel_block) +
           ALIGN;
    s->staged = malloc(size);
    if (s->staged == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM,
                                    "no memory for a batch of %" PRIu64 " tokens", max_tokens);
    else
        status = cuda_allocate(device, &s->span, size, "a batch's sequences", err);
    if (status != LIBSCHED_OK) {
        cuda_sequences_destroy(base, s);
        return status;
    }
    *out = s;
    return LIBSCHED_OK;
}

void cuda_sequences_destroy(libsched_device *device, libsched_device_sequences *s)
{
    if (s == NULL)
        return;
    cuda_release(cuda_device_of(device), &s->span);
    free(s->staged);
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

/* The longest sequences first: their blocks take the longest, and all should end together. */
static int compare_blocks(const void *left, const void *right)
{
    const struct kernel_block *a = left, *b = right;

    if (a->length != b->length)
        return a->length > b->length ? -1 : 1;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return (a->first > b->first) - (a->first < b->first);
}

/* What a recording has beyond them: it computes nothing that anybody reads. */
static void describe_padding(libsched_device_sequences *s)
{
    uint32_t *starts = (uint32_t *)(void *)s->staged;
    const size_t tokens = s->padded.tokens - s->tokens;

    if (s->padded.tokens == 0)
        return;
    for (uint32_t i = s->n + 1; i <= s->padded.n; i++)
        starts[i] = s->tokens;
    memset(s->staged + s->ids_offset + s->tokens * sizeof(int32_t), 0, tokens * sizeof(int32_t));
    memset(s->staged + s->positions_offset + s->tokens * sizeof(uint32_t), 0,
           tokens * sizeof(uint32_t));
    memset(s->staged + s->blocks_offset + s->n_blocks * sizeof(struct kernel_block), 0,
           (s->padded.n_blocks - s->n_blocks) * sizeof(struct kernel_block));
}

static void describe(libsched_device_sequences *s, const uint32_t *starts, const int32_t *ids)
{
    uint32_t *positions = (uint32_t *)(void *)(s->staged + s->positions_offset);
    struct kernel_block *blocks = (struct kernel_block *)(void *)(s->staged + s->blocks_offset);
    bool sorted = true;

    memcpy(s->staged, starts, ((size_t)s->n + 1) * sizeof(*starts));
    if (s->tokens > 0)
        memcpy(s->staged + s->ids_offset, ids, s->tokens * sizeof(*ids));
    s->n_blocks = 0;
    s->longest = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const uint32_t length = starts[i + 1] - starts[i];

        for (uint32_t t = 0; t < length; t++)
            positions[starts[i] + t] = t;
        for (uint32_t first = 0; first < length; first += KERNEL_BLOCK_QUERIES)
            blocks[s->n_blocks++] = (struct kernel_block){starts[i], first, length, 0};
        sorted = sorted && (i == 0 || length <= starts[i] - starts[i - 1]);
        if (length > s->longest)
            s->longest = length;
    }
    if (!sorted)
        qsort(blocks, s->n_blocks, sizeof(*blocks), compare_blocks);
    describe_padding(s);
}

int cuda_sequences_set(libsched_device *base, libsched_device_sequences *s, uint32_t n,
                       const uint32_t *starts, const int32_t *ids, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check_starts(s, n, starts, err);
    if (status != LIBSCHED_OK)
        return status;
    s->n = n;
    s->tokens = starts[n];
    s->padded = pad(device, n, s->tokens);
    const bool is_padded = s->padded.tokens > 0;
    const uint64_t all = is_padded ? s->padded.n : n,
                   tokens = is_padded ? s->padded.tokens : s->tokens;
    s->ids_offset = aligned((all + 1) * sizeof(uint32_t));
    s->positions_offset = s->ids_offset + aligned(tokens * sizeof(int32_t));
    s->blocks_offset = s->positions_offset + aligned(tokens * sizeof(uint32_t));
    describe(s, starts, ids);
    status = cuda_stage_upload(device, &s->span, 0,
                               s->blocks_offset + (is_padded ? s->padded.n_blocks : s->n_blocks) *
                                                      sizeof(struct kernel_block),
                               cuda_fill_copy, s->staged, err);
    /* Nothing is to be computed on what is only half there. */
    if (status != LIBSCHED_OK) {
        s->n = s->tokens = s->n_blocks = s->longest = 0;
        s->padded = (struct cuda_counts){0};
    }
    return status;
}

struct kernel_sequences cuda_sequences_view(struct cuda_device *device,
                                            const libsched_device_sequences *s)
{
    const libsched_device_sequences *recorded = cuda_recorded_sequences(device);
    const unsigned char *data = s->span.data;
    struct cuda_counts counts = {s->n, s->tokens, s->n_blocks};

    if (recorded == s)
        counts = s->padded;
    else if (recorded != NULL)
        cuda_recording_spoil(device);

    return (struct kernel_sequences){
        .starts = (const uint32_t *)(const void *)data,
        .ids = (const int32_t *)(const void *)(data + s->ids_offset),
        .positions = (const uint32_t *)(const void *)(data + s->positions_offset),
        .blocks = (const struct kernel_block *)(const void *)(data + s->blocks_offset),
        .n = counts.n,
        .tokens = counts.tokens,
        .n_blocks = counts.n_blocks,
    };
}
