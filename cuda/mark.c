/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marks: waiting for a part of what was given, while the rest goes on. A mark is an event on each
 * stream that has something to do. There are a few of them, used again in turn: enough for the
 * batches that are under way.
 */
#include "internal.h"

int cuda_marks_open(struct cuda_device *device, libsched_error *err)
{
    int status = LIBSCHED_OK;

    for (uint32_t i = 0; status == LIBSCHED_OK && i < CUDA_MARKS * CUDA_STREAMS; i++) {
        const bool timed = device->times != NULL && i % CUDA_STREAMS == CUDA_COMPUTE;

        status = cuda_check(
            device,
            cudaEventCreateWithFlags(&device->marks[i / CUDA_STREAMS].events[i % CUDA_STREAMS],
                                     (timed ? 0 : cudaEventDisableTiming) | cudaEventBlockingSync),
            "cudaEventCreateWithFlags", err);
    }
    return status;
}

void cuda_marks_close(struct cuda_device *device)
{
    for (uint32_t i = 0; i < CUDA_MARKS * CUDA_STREAMS; i++) {
        cudaEvent_t *event = &device->marks[i / CUDA_STREAMS].events[i % CUDA_STREAMS];

        if (*event != NULL && device->lost == 0)
            cuda_check(device, cudaEventDestroy(*event), "cudaEventDestroy", NULL);
        *event = NULL;
    }
}

void cuda_marks_drop(struct cuda_device *device, uint64_t until, const libsched_error *why)
{
    struct cuda_dropped *dropped = &device->dropped;

    if (until == device->reached)
        return;
    if (dropped->until != device->reached)
        dropped->after = device->reached;
    dropped->until = until;
    dropped->why = *why;
}

int cuda_mark(libsched_device *base, uint64_t *out, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const uint64_t number = device->last_mark + 1;
    struct cuda_mark *mark = &device->marks[number % CUDA_MARKS];
    int status = cuda_enter(device, err);

    /* The one whose events it takes. */
    if (status == LIBSCHED_OK && number > CUDA_MARKS && number - CUDA_MARKS > device->reached)
        status = cuda_reached(base, number - CUDA_MARKS, true, err);
    for (int i = 0; status == LIBSCHED_OK && i < CUDA_STREAMS; i++) {
        mark->tickets[i] = device->lanes[i].ticket;
        if (mark->tickets[i] > device->lanes[i].ended)
            status = cuda_check(device, cudaEventRecord(mark->events[i], device->lanes[i].stream),
                                "cudaEventRecord", err);
    }
    if (status != LIBSCHED_OK)
        return status;
    cuda_times_end(device, mark);
    mark->uploads = device->uploads.pushed;
    mark->downloads = device->downloads.pushed;
    *out = device->last_mark = number;
    return LIBSCHED_OK;
}

/* What a stream was given before the mark. */
static int lane_reached(struct cuda_device *device, const struct cuda_mark *mark, int which,
                        bool wait, libsched_error *err)
{
    struct cuda_lane *lane = &device->lanes[which];
    cudaError_t code;
    int status;

    if (mark->tickets[which] <= lane->ended)
        return LIBSCHED_OK;
    /* Somebody has to look at collectives while they go on. */
    if (!wait && device->collective == NULL) {
        code = cudaEventQuery(mark->events[which]);
        if (code == cudaErrorNotReady)
            return LIBSCHED_EBUSY;
        status = cuda_check(device, code, "cudaEventQuery", err);
    } else {
        status = cuda_wait(device, mark->events[which], err);
    }
    if (status != LIBSCHED_OK)
        return status;
    lane->ended = mark->tickets[which];
    if (which == CUDA_COMPUTE && lane->ended == lane->ticket)
        device->collective = NULL;
    return LIBSCHED_OK;
}

int cuda_reached(libsched_device *base, uint64_t number, bool wait, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const struct cuda_mark *mark = &device->marks[number % CUDA_MARKS];
    libsched_error first = {0}, other;
    int status = cuda_enter(device, err);

    if (status != LIBSCHED_OK) {
        cuda_stage_finish(device, true);
        return status;
    }
    if (number == 0 || number > device->last_mark)
        return libsched_error_set(err, LIBSCHED_EINVAL, "there is no such mark");
    if (number > device->dropped.after && number <= device->dropped.until) {
        if (err != NULL)
            *err = device->dropped.why;
        return device->dropped.why.status;
    }
    if (number <= device->reached)
        return LIBSCHED_OK;
    /* All of them, whatever becomes of one: nothing may write to the caller's memory later. */
    for (int i = 0; i < CUDA_STREAMS; i++) {
        status = lane_reached(device, mark, i, wait || first.status != LIBSCHED_OK, &other);
        if (status == LIBSCHED_EBUSY)
            return status;
        if (status == LIBSCHED_EDEVICELOST) {
            cuda_stage_finish(device, true);
            if (err != NULL)
                *err = other;
            return status;
        }
        if (status != LIBSCHED_OK && first.status == LIBSCHED_OK)
            first = other;
    }
    if (first.status == LIBSCHED_OK) {
        first = device->failure;
        device->failure.status = LIBSCHED_OK;
    }
    if (first.status != LIBSCHED_OK) {
        if (cuda_settle(device, &other) != LIBSCHED_OK) {
            cuda_stage_finish(device, true);
            if (err != NULL)
                *err = other;
            return other.status;
        }
        cuda_marks_drop(device, number, &first);
    }
    cuda_times_reached(device, number);
    device->reached = number;
    cuda_stage_finish_until(device, mark->uploads, mark->downloads, first.status != LIBSCHED_OK);
    if (first.status != LIBSCHED_OK && err != NULL)
        *err = first;
    return first.status;
}
