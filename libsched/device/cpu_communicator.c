/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cpu_communicator.h"

#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* About as long as it takes to fall asleep and to be woken: looking for longer would gain nothing,
 * and would take a core from a rank that still computes. */
#define SPINS 512
/* While it is created, whoever gives it up can only set a flag. */
#define LOOK_NS UINT64_C(5000000)

/* Why the ranks do not go on, told by the first who found out. */
enum why { WHY_ABORTED = 1, WHY_TIMEOUT, WHY_DIFFERENT };

/* A rank's own lines: it alone writes them. */
struct slot {
    uint32_t meeting __attribute__((aligned(64))); /* the last one it came to */
    uint32_t taken;                                /* there is a rank behind this number */
    struct cpu_call calls[2] __attribute__((aligned(64)));
};

struct cpu_shared {
    /* Changes with everything that others may be waiting for; who sleeps, sleeps on it. */
    uint32_t bell __attribute__((aligned(64)));
    uint32_t sleepers;
    uint32_t ended; /* why << 16 | 1 + the rank that says so; 0: all is well */
    uint32_t n_ranks;
    struct slot slots[CPU_MAX_RANKS];
};

_Static_assert(sizeof(struct cpu_shared) <= 2 * CPU_COMMUNICATOR_HALF,
               "the header has to fit in front of the areas");

static const char *const operations[] = {
    [CPU_CREATE] = "communicator_create", [CPU_BARRIER] = "barrier",
    [CPU_ALL_REDUCE] = "all_reduce",      [CPU_BROADCAST] = "broadcast",
    [CPU_ALL_GATHER] = "all_gather",      [CPU_REDUCE_SCATTER] = "reduce_scatter",
};

static const char *operation_name(uint32_t operation)
{
    if (operation < CPU_CREATE || operation > CPU_REDUCE_SCATTER)
        return "something else";
    return operations[operation];
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Not private: the processes have the memory in common, not its addresses. */
static void futex_wait(uint32_t *word, uint32_t value, uint64_t ns)
{
    const struct timespec timeout = {.tv_sec = (time_t)(ns / 1000000000),
                                     .tv_nsec = (long)(ns % 1000000000)};

    syscall(SYS_futex, word, FUTEX_WAIT, value, ns != 0 ? &timeout : NULL, NULL, 0);
}

static void ring(struct cpu_shared *shared)
{
    __atomic_fetch_add(&shared->bell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&shared->sleepers, __ATOMIC_SEQ_CST) != 0)
        syscall(SYS_futex, &shared->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void end_for_all(libsched_device_communicator *c, enum why why)
{
    uint32_t none = 0;

    __atomic_compare_exchange_n(&c->shared->ended, &none, (uint32_t)why << 16 | (c->rank + 1),
                                false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    ring(c->shared);
}

/* ------------------------------------------------------------------------------------- waiting */

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* The first rank that has not come to the meeting yet, from `from` on; n_ranks: all have. */
static uint32_t missing(const libsched_device_communicator *c, uint32_t from)
{
    while (from < c->n_ranks && (int32_t)(load(&c->shared->slots[from].meeting) - c->meeting) >= 0)
        from++;
    return from;
}

static int explain_end(libsched_device_communicator *c, uint32_t operation, uint32_t ended,
                       libsched_error *err)
{
    const uint32_t by = (ended & 0xffff) - 1;

    c->failed = true;
    switch (ended >> 16) {
    case WHY_TIMEOUT:
        return libsched_error_set(err, LIBSCHED_EDEADLINE,
                                  "%s: rank %" PRIu32 " has waited too long for another",
                                  operation_name(operation), by);
    case WHY_DIFFERENT:
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: rank %" PRIu32
                                  " has found that not all ranks call the same operation",
                                  operation_name(operation), by);
    default:
        return libsched_error_set(err, LIBSCHED_ECANCELED, "%s: given up, first by rank %" PRIu32,
                                  operation_name(operation), by);
    }
}

static int time_is_over(libsched_device_communicator *c, uint32_t operation, uint32_t who,
                        libsched_error *err)
{
    end_for_all(c, WHY_TIMEOUT);
    c->failed = true;
    return libsched_error_set(err, LIBSCHED_EDEADLINE,
                              "%s: rank %" PRIu32 " did not come within %" PRIu64
                              " ms: its process has ended, or hangs",
                              operation_name(operation), who, c->timeout_ns / 1000000);
}

static bool is_cancelled(const libsched_device_communicator *c)
{
    return c->cancelled != NULL && __atomic_load_n(c->cancelled, __ATOMIC_ACQUIRE);
}

/* Whether all came while it looked. */
static bool spin(const libsched_device_communicator *c, uint32_t *who)
{
    for (uint32_t i = 0; i < c->spins; i++) {
        *who = missing(c, *who);
        if (*who == c->n_ranks || load(&c->shared->ended) != 0)
            break;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
    return *who == c->n_ranks;
}

static int wait_for_all(libsched_device_communicator *c, uint32_t operation, libsched_error *err)
{
    struct cpu_shared *shared = c->shared;
    const uint64_t begin = now_ns();
    uint32_t who = 0;

    spin(c, &who);
    for (;;) {
        const uint32_t bell = __atomic_load_n(&shared->bell, __ATOMIC_SEQ_CST);
        const uint32_t ended = load(&shared->ended);
        const uint64_t waited = now_ns() - begin;
        uint64_t left = 0;

        /* First: ranks that never wait for each other would not notice it otherwise. */
        if (ended != 0)
            return explain_end(c, operation, ended, err);
        who = missing(c, who);
        if (who == c->n_ranks)
            return LIBSCHED_OK;
        if (is_cancelled(c)) {
            end_for_all(c, WHY_ABORTED);
            continue;
        }
        if (c->timeout_ns != 0) {
            if (waited >= c->timeout_ns)
                return time_is_over(c, operation, who, err);
            left = c->timeout_ns - waited;
        }
        if (c->cancelled != NULL && (left == 0 || left > LOOK_NS))
            left = LOOK_NS;
        __atomic_fetch_add(&shared->sleepers, 1, __ATOMIC_SEQ_CST);
        futex_wait(&shared->bell, bell, left);
        __atomic_fetch_sub(&shared->sleepers, 1, __ATOMIC_SEQ_CST);
    }
}

/* ------------------------------------------------------------------------------------- meeting */

static int compare(libsched_device_communicator *c, const struct cpu_call *own, libsched_error *err)
{
    for (uint32_t r = 0; r < c->n_ranks; r++) {
        struct cpu_call other;

        memcpy(&other, &c->shared->slots[r].calls[c->meeting & 1], sizeof(other));
        if (memcmp(&other, own, sizeof(other)) == 0)
            continue;
        end_for_all(c, WHY_DIFFERENT);
        c->failed = true;
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "rank %" PRIu32 " calls %s of %" PRIu64 " elements, rank %" PRIu32 " %s of %" PRIu64
            ": all ranks have to call the same operations with the same arguments, in one order",
            r, operation_name(other.operation), other.count, c->rank,
            operation_name(own->operation), own->count);
    }
    return LIBSCHED_OK;
}

int cpu_meet(libsched_device_communicator *c, const struct cpu_call *call, libsched_error *err)
{
    struct slot *own = &c->shared->slots[c->rank];
    int status;

    if (c->failed)
        return libsched_error_set(
            err, LIBSCHED_ECANCELED,
            "%s: the communicator has failed before: it can only be destroyed",
            operation_name(call->operation));
    c->meeting++;
    own->calls[c->meeting & 1] = *call;
    __atomic_store_n(&own->meeting, c->meeting, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* Others wait for the last one only, and of two who come at once one at least sees both. */
    if (missing(c, 0) == c->n_ranks)
        ring(c->shared);
    status = wait_for_all(c, call->operation, err);
    return status == LIBSCHED_OK ? compare(c, call, err) : status;
}

unsigned char *cpu_area(const libsched_device_communicator *c, uint32_t rank)
{
    return c->areas + (uint64_t)rank * 2 * CPU_COMMUNICATOR_HALF +
           (c->piece & 1) * CPU_COMMUNICATOR_HALF;
}

/* ------------------------------------------------------------------------------ a communicator */

/* Only where ranks can be expected to run side by side, with a core to spare. */
static uint32_t choose_spins(uint32_t n_ranks)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0 || (uint32_t)CPU_COUNT(&cpus) <= n_ranks)
        return 0;
    return SPINS;
}

static int check(const libsched_device_communicator_args *args, libsched_error *err)
{
    if (args->struct_size < sizeof(*args) || args->n_ranks < 1 || args->n_ranks > CPU_MAX_RANKS ||
        args->rank >= args->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "rank %" PRIu32 " of %" PRIu32 ": 1 to %u ranks, counted from 0",
                                  args->rank, args->n_ranks, CPU_MAX_RANKS);
    if (args->shared == NULL || (uintptr_t)args->shared % 4096 != 0 ||
        args->shared_size < LIBSCHED_COMMUNICATOR_SHARED_SIZE(args->n_ranks))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a communicator of %" PRIu32 " ranks takes %" PRIu64
                                  " bytes of shared memory at a page's beginning, got %" PRIu64,
                                  args->n_ranks, LIBSCHED_COMMUNICATOR_SHARED_SIZE(args->n_ranks),
                                  args->shared != NULL ? args->shared_size : 0);
    return LIBSCHED_OK;
}

/* Takes the rank's place in the memory. */
static int enter(libsched_device_communicator *c, libsched_error *err)
{
    uint32_t n = 0;

    if (!__atomic_compare_exchange_n(&c->shared->n_ranks, &n, c->n_ranks, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST) &&
        n != c->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "rank %" PRIu32 " is one of %" PRIu32
                                  ", another one in the same memory is one of %" PRIu32,
                                  c->rank, c->n_ranks, n);
    if (__atomic_exchange_n(&c->shared->slots[c->rank].taken, 1, __ATOMIC_SEQ_CST) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "there is a rank %" PRIu32
                                  " in this memory already: each job needs memory of its own",
                                  c->rank);
    return LIBSCHED_OK;
}

int cpu_communicator_create(libsched_device *device, libsched_device_communicator **out,
                            const libsched_device_communicator_args *args, libsched_error *err)
{
    const struct cpu_call call = {.operation = CPU_CREATE, .count = args->n_ranks};
    libsched_device_communicator *c;
    int status = check(args, err);

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a communicator");
    c->rank = args->rank;
    c->n_ranks = args->n_ranks;
    c->timeout_ns = args->timeout_ns;
    c->spins = choose_spins(args->n_ranks);
    c->shared = args->shared;
    c->areas = (unsigned char *)args->shared + 2 * CPU_COMMUNICATOR_HALF;
    c->cancelled = args->cancelled;
    status = enter(c, err);
    if (status == LIBSCHED_OK)
        status = cpu_meet(c, &call, err);
    c->cancelled = NULL;
    if (status != LIBSCHED_OK) {
        free(c);
        return status;
    }
    *out = c;
    return LIBSCHED_OK;
}

void cpu_communicator_destroy(libsched_device *device, libsched_device_communicator *c)
{
    (void)device;
    free(c);
}

void cpu_communicator_abort(libsched_device_communicator *c)
{
    end_for_all(c, WHY_ABORTED);
}

/* A rank that calls what the others do not call waits for them: it comes to no end. */
uint64_t cpu_communicator_calls(const libsched_device_communicator *c)
{
    return c->meeting;
}
