/* SPDX-License-Identifier: Apache-2.0 */
#include "hop.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct ring {
    _Alignas(64) atomic_uint head; /* the next to be written */
    _Alignas(64) atomic_uint tail; /* the next to be read */
    _Alignas(64) atomic_uint sleeps;
    _Alignas(64) uint32_t numbers[HOP_MAX];
};

struct shared {
    struct ring there, back;
};

struct hop {
    struct shared *shared;
    int there_fd, back_fd;
};

static void ring_put(struct ring *ring, int fd, uint32_t number)
{
    unsigned head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    ring->numbers[head % HOP_MAX] = number;
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring->sleeps, memory_order_relaxed) != 0) {
        uint64_t one = 1;
        atomic_store(&ring->sleeps, 0);
        if (write(fd, &one, sizeof(one)) != sizeof(one))
            abort();
    }
}

static bool ring_take(struct ring *ring, uint32_t *number)
{
    unsigned tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&ring->head, memory_order_acquire))
        return false;
    *number = ring->numbers[tail % HOP_MAX];
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return true;
}

static bool ring_arm(struct ring *ring)
{
    atomic_store(&ring->sleeps, 1);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load(&ring->tail) != atomic_load(&ring->head);
}

static void ring_awake(struct ring *ring, int fd)
{
    uint64_t count;
    atomic_store(&ring->sleeps, 0);
    ssize_t ignored = read(fd, &count, sizeof(count));
    (void)ignored;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void serve(struct hop *hop, uint32_t spin_us)
{
    struct ring *there = &hop->shared->there, *back = &hop->shared->back;
    uint64_t idle_since = now_ns();
    for (;;) {
        uint32_t number;
        if (ring_take(there, &number)) {
            ring_put(back, hop->back_fd, number);
            idle_since = 0;
            continue;
        }
        uint64_t now = now_ns();
        if (idle_since == 0)
            idle_since = now;
        if (now - idle_since < spin_us * UINT64_C(1000))
            continue;
        if (!ring_arm(there)) {
            struct pollfd p = {.fd = hop->there_fd, .events = POLLIN};
            poll(&p, 1, -1);
        }
        ring_awake(there, hop->there_fd);
    }
}

struct hop *hop_start(uint32_t spin_us)
{
    struct hop *hop = calloc(1, sizeof(*hop));
    if (hop == NULL)
        return NULL;
    hop->shared =
        mmap(NULL, sizeof(*hop->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    hop->there_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    hop->back_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (hop->shared == MAP_FAILED || hop->there_fd < 0 || hop->back_fd < 0)
        return NULL;

    pid_t parent = getpid(), child = fork();
    if (child < 0)
        return NULL;
    if (child > 0)
        return hop;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    /* The end of the node's pipes is the parent's to see. */
    close(3);
    close(4);
    serve(hop, spin_us);
}

void hop_send(struct hop *hop, uint32_t number)
{
    ring_put(&hop->shared->there, hop->there_fd, number);
}

bool hop_receive(struct hop *hop, uint32_t *number)
{
    return ring_take(&hop->shared->back, number);
}

bool hop_arm(struct hop *hop)
{
    return ring_arm(&hop->shared->back);
}

void hop_awake(struct hop *hop)
{
    ring_awake(&hop->shared->back, hop->back_fd);
}

int hop_fd(const struct hop *hop)
{
    return hop->back_fd;
}
