/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting on the host. For a short time it looks, which costs a core and gains the time that
 * falling asleep and waking take; then it sleeps until the driver wakes it. Beside a collective it
 * must not sleep there: what the others do may be that nobody comes.
 */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

/* About as long as it takes to be woken twice. */
#define LOOK_NS UINT64_C(60000)
/* Between two looks at a collective. */
#define NAP_MIN_NS UINT64_C(20000)
#define NAP_MAX_NS UINT64_C(500000)
/* How long a stream may take to its end after what it waited for was aborted. */
#define ABORTED_NS UINT64_C(10000000000)

uint64_t cuda_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void nap(uint64_t ns)
{
    const struct timespec time = {.tv_nsec = (long)ns};

    nanosleep(&time, NULL);
}

/* Looks until it has ended or the time is over: cudaErrorNotReady. */
static cudaError_t look(cudaEvent_t event, uint64_t ns)
{
    const uint64_t begin = cuda_now();
    cudaError_t code;

    do {
        code = cudaEventQuery(event);
        if (code != cudaErrorNotReady)
            break;
        relax();
    } while (cuda_now() - begin < ns);
    return code;
}

/* The rest of what is on the stream ends by itself, now that the collective has. */
static int drain(struct cuda_device *device, cudaEvent_t event)
{
    const uint64_t begin = cuda_now();
    cudaError_t code;

    while ((code = cudaEventQuery(event)) == cudaErrorNotReady) {
        if (cuda_now() - begin > ABORTED_NS)
            return cuda_give_up(device, "a collective that was given up does not end", NULL);
        nap(NAP_MAX_NS);
    }
    return cuda_check(device, code, "cudaEventQuery", NULL);
}

/* With collectives under way. */
static int watch(struct cuda_device *device, cudaEvent_t event, libsched_error *err)
{
    const uint64_t begin = cuda_now();
    uint64_t ns = NAP_MIN_NS;
    cudaError_t code;
    int status;

    while ((code = cudaEventQuery(event)) == cudaErrorNotReady) {
        status = cuda_communicator_look(device, cuda_now() - begin, err);
        if (status != LIBSCHED_OK) {
            if (status == LIBSCHED_EDEVICELOST || drain(device, event) != LIBSCHED_OK)
                return cuda_enter(device, err) != LIBSCHED_OK ? LIBSCHED_EDEVICELOST : status;
            return status;
        }
        nap(ns);
        ns = ns < NAP_MAX_NS / 2 ? ns * 2 : NAP_MAX_NS;
    }
    status = cuda_check(device, code, "cudaEventQuery", err);
    /* It may have ended because it was aborted. */
    return status == LIBSCHED_OK ? cuda_communicator_look(device, 0, err) : status;
}

int cuda_wait(struct cuda_device *device, cudaEvent_t event, libsched_error *err)
{
    cudaError_t code = look(event, LOOK_NS);

    if (device->collective != NULL && (code == cudaErrorNotReady || code == cudaSuccess))
        return watch(device, event, err);
    if (code == cudaErrorNotReady) {
        code = cudaEventSynchronize(event);
        return cuda_check(device, code, "cudaEventSynchronize", err);
    }
    return cuda_check(device, code, "cudaEventQuery", err);
}

int cuda_settle(struct cuda_device *device, libsched_error *err)
{
    struct cuda_lane *lane = &device->lanes[CUDA_DOWNLOAD];
    const uint64_t begin = cuda_now();
    uint32_t failures = 0;

    while (lane->direct > lane->ended) {
        const cudaError_t code = cudaStreamQuery(lane->stream);

        if (code == cudaSuccess) {
            lane->ended = lane->ticket;
        } else if (code == cudaErrorNotReady && cuda_now() - begin < ABORTED_NS) {
            nap(NAP_MIN_NS);
        } else if (code == cudaErrorNotReady) {
            return cuda_give_up(device, "a copy to the host's memory does not end", err);
        } else if (cuda_check(device, code, "cudaStreamQuery", err) == LIBSCHED_EDEVICELOST) {
            return LIBSCHED_EDEVICELOST;
        } else if (++failures > 1) {
            return cuda_give_up(device, "a copy to the host's memory can't be waited for", err);
        }
    }
    return LIBSCHED_OK;
}

static int finish_lane(struct cuda_device *device, struct cuda_lane *lane, libsched_error *err)
{
    const uint64_t ticket = lane->ticket;
    int status;

    if (lane->ended == ticket)
        return LIBSCHED_OK;
    status = cuda_check(device, cudaEventRecord(lane->end, lane->stream), "cudaEventRecord", err);
    if (status == LIBSCHED_OK)
        status = cuda_wait(device, lane->end, err);
    if (status == LIBSCHED_OK)
        lane->ended = ticket;
    /* With it the collectives that were on it. */
    if (status == LIBSCHED_OK && lane == &device->lanes[CUDA_COMPUTE])
        device->collective = NULL;
    return status;
}

int cuda_synchronize(libsched_device *base, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_error first = device->failure, other;
    int status = cuda_enter(device, err);

    if (status != LIBSCHED_OK) {
        cuda_stage_finish(device, true);
        return status;
    }
    device->failure.status = LIBSCHED_OK;
    /* All of them, whatever becomes of one: nothing may write to the caller's memory later. The
     * one that copies back comes last, since it waits for the others. */
    for (int i = 0; i < CUDA_STREAMS; i++) {
        status = finish_lane(device, &device->lanes[i], &other);
        if (status == LIBSCHED_EDEVICELOST) {
            cuda_stage_finish(device, true);
            if (err != NULL)
                *err = other;
            return status;
        }
        if (status != LIBSCHED_OK && first.status == LIBSCHED_OK)
            first = other;
    }
    if (first.status != LIBSCHED_OK) {
        if (cuda_settle(device, &other) != LIBSCHED_OK) {
            cuda_stage_finish(device, true);
            if (err != NULL)
                *err = other;
            return other.status;
        }
        cuda_marks_drop(device, device->last_mark, &first);
    }
    cuda_times_reached(device, device->last_mark);
    device->reached = device->last_mark;
    cuda_stage_finish(device, first.status != LIBSCHED_OK);
    if (first.status != LIBSCHED_OK && err != NULL)
        *err = first;
    return first.status;
}
