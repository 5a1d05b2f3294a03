/* SPDX-License-Identifier: Apache-2.0 */
#include "meeting.h"

#include <inttypes.h>
#include <string.h>

/* Calls that are remembered of each rank: one may be ahead of the others by as many before a
 * difference goes unnoticed, which the time limit then finds. */
#define REMEMBERED 16u

struct entry {
    uint64_t number; /* of the call, from 1; written last */
    struct meeting_call call;
};

/* A rank's own lines: it alone writes them. */
struct slot {
    uint32_t taken __attribute__((aligned(64)));
    uint64_t calls;
    struct entry entries[REMEMBERED];
};

struct meeting_memory {
    uint32_t ended __attribute__((aligned(64))); /* why << 16 | 1 + the rank that says so; 0: not */
    uint32_t n_ranks;
    struct slot slots[MEETING_MAX_RANKS];
};

_Static_assert(sizeof(struct meeting_memory) <= LIBSCHED_COMMUNICATOR_SHARED_SIZE(1) / 2,
               "it has to fit in what is the least");

static const char *const names[] = {
    [MEETING_CREATE] = "communicator_create", [MEETING_BARRIER] = "barrier",
    [MEETING_ALL_REDUCE] = "all_reduce",      [MEETING_BROADCAST] = "broadcast",
    [MEETING_ALL_GATHER] = "all_gather",      [MEETING_REDUCE_SCATTER] = "reduce_scatter",
};

const char *meeting_operation_name(uint32_t operation)
{
    if (operation < MEETING_CREATE || operation > MEETING_REDUCE_SCATTER)
        return "something else";
    return names[operation];
}

int meeting_enter(struct meeting *m, const libsched_device_communicator_args *args,
                  libsched_error *err)
{
    struct meeting_memory *memory = args->shared;
    uint32_t n = 0;

    *m = (struct meeting){.rank = args->rank, .n_ranks = args->n_ranks};
    if (memory == NULL)
        return LIBSCHED_OK;
    if ((uintptr_t)args->shared % 4096 != 0 ||
        args->shared_size < LIBSCHED_COMMUNICATOR_SHARED_SIZE(args->n_ranks))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a communicator of %" PRIu32 " ranks takes %" PRIu64
                                  " bytes of shared memory at a page's beginning, got %" PRIu64,
                                  args->n_ranks, LIBSCHED_COMMUNICATOR_SHARED_SIZE(args->n_ranks),
                                  args->shared_size);
    if (!__atomic_compare_exchange_n(&memory->n_ranks, &n, m->n_ranks, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST) &&
        n != m->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "rank %" PRIu32 " is one of %" PRIu32
                                  ", another one in the same memory is one of %" PRIu32,
                                  m->rank, m->n_ranks, n);
    if (__atomic_exchange_n(&memory->slots[m->rank].taken, 1, __ATOMIC_SEQ_CST) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "there is a rank %" PRIu32
                                  " in this memory already: each job needs memory of its own",
                                  m->rank);
    m->memory = memory;
    return LIBSCHED_OK;
}

void meeting_end(struct meeting *m, enum meeting_end why)
{
    uint32_t none = 0;

    if (m->memory != NULL)
        __atomic_compare_exchange_n(&m->memory->ended, &none, (uint32_t)why << 16 | (m->rank + 1),
                                    false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

int meeting_look(const struct meeting *m, uint32_t operation, libsched_error *err)
{
    const char *name = meeting_operation_name(operation);
    uint32_t ended, by;

    if (m->memory == NULL)
        return LIBSCHED_OK;
    ended = __atomic_load_n(&m->memory->ended, __ATOMIC_ACQUIRE);
    by = (ended & 0xffff) - 1;
    switch (ended >> 16) {
    case 0:
        return LIBSCHED_OK;
    case MEETING_TIMEOUT:
        return libsched_error_set(err, LIBSCHED_EDEADLINE,
                                  "%s: rank %" PRIu32 " has waited too long for another", name, by);
    case MEETING_DIFFERENT:
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "%s: rank %" PRIu32 " has found that not all ranks call the same operation", name, by);
    default:
        return libsched_error_set(err, LIBSCHED_ECANCELED, "%s: given up, first by rank %" PRIu32,
                                  name, by);
    }
}

/* A rank's call of a number, if it is known. */
static bool recall(const struct meeting *m, uint32_t rank, uint64_t number,
                   struct meeting_call *out)
{
    const struct entry *entry = &m->memory->slots[rank].entries[number % REMEMBERED];

    if (__atomic_load_n(&entry->number, __ATOMIC_SEQ_CST) != number)
        return false;
    memcpy(out, &entry->call, sizeof(*out));
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&entry->number, __ATOMIC_RELAXED) == number;
}

int meeting_announce(struct meeting *m, const struct meeting_call *call, libsched_error *err)
{
    const uint64_t number = ++m->calls;
    struct slot *own;
    struct entry *entry;

    if (m->memory == NULL)
        return LIBSCHED_OK;
    own = &m->memory->slots[m->rank];
    entry = &own->entries[number % REMEMBERED];
    __atomic_store_n(&entry->number, 0, __ATOMIC_SEQ_CST);
    entry->call = *call;
    __atomic_store_n(&entry->number, number, __ATOMIC_SEQ_CST);
    __atomic_store_n(&own->calls, number, __ATOMIC_SEQ_CST);
    /* Of two that come at once, one at least sees the other. */
    for (uint32_t r = 0; r < m->n_ranks; r++) {
        struct meeting_call other;

        if (r == m->rank || !recall(m, r, number, &other) ||
            memcmp(&other, call, sizeof(other)) == 0)
            continue;
        meeting_end(m, MEETING_DIFFERENT);
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "rank %" PRIu32 " calls %s of %" PRIu64 " elements, rank %" PRIu32 " %s of %" PRIu64
            ": all ranks have to call the same operations with the same arguments, in one order",
            r, meeting_operation_name(other.operation), other.count, m->rank,
            meeting_operation_name(call->operation), call->count);
    }
    return LIBSCHED_OK;
}

uint32_t meeting_missing(const struct meeting *m)
{
    uint32_t r = 0;

    if (m->memory == NULL)
        return m->n_ranks;
    while (r < m->n_ranks && (r == m->rank || __atomic_load_n(&m->memory->slots[r].calls,
                                                              __ATOMIC_ACQUIRE) >= m->calls))
        r++;
    return r;
}
