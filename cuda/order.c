/* SPDX-License-Identifier: Apache-2.0 */
/* One order out of three streams. */
#include "internal.h"

void cuda_work_add(struct cuda_work *work, struct cuda_span *span)
{
    if (span != NULL && span->data != NULL)
        work->spans[work->n++] = span;
}

/* The last work on `other` that one of the spans was touched by. */
static uint64_t latest(struct cuda_span *const *spans, uint32_t n, enum cuda_stream other)
{
    uint64_t ticket = 0;

    for (uint32_t i = 0; i < n; i++)
        if (spans[i]->tickets[other] > ticket)
            ticket = spans[i]->tickets[other];
    return ticket;
}

static int wait_for(struct cuda_device *device, enum cuda_stream stream, enum cuda_stream other,
                    libsched_error *err)
{
    struct cuda_lane *lane = &device->lanes[stream], *source = &device->lanes[other];
    int status =
        cuda_check(device, cudaEventRecord(source->mark, source->stream), "cudaEventRecord", err);

    if (status == LIBSCHED_OK)
        status = cuda_check(device, cudaStreamWaitEvent(lane->stream, source->mark, 0),
                            "cudaStreamWaitEvent", err);
    /* The mark is behind all that the other stream was given so far. */
    if (status == LIBSCHED_OK)
        lane->waited[other] = source->ticket;
    return status;
}

int cuda_spans_wait(struct cuda_device *device, enum cuda_stream stream,
                    struct cuda_span *const *spans, uint32_t n, libsched_error *err)
{
    int status = LIBSCHED_OK;

    for (int other = 0; status == LIBSCHED_OK && other < CUDA_STREAMS; other++) {
        const uint64_t ticket = latest(spans, n, (enum cuda_stream)other);

        if (other == (int)stream || ticket <= device->lanes[other].ended ||
            ticket <= device->lanes[stream].waited[other])
            continue;
        status = wait_for(device, stream, (enum cuda_stream)other, err);
    }
    return status;
}

void cuda_spans_touched(struct cuda_device *device, enum cuda_stream stream,
                        struct cuda_span *const *spans, uint32_t n)
{
    const uint64_t ticket = ++device->lanes[stream].ticket;

    for (uint32_t i = 0; i < n; i++)
        spans[i]->tickets[stream] = ticket;
}

int cuda_work_begin(struct cuda_work *work, libsched_error *err)
{
    int status;

    if (work->device->recording != NULL) {
        cuda_recording_touches(work->device, work->spans, work->n);
        return LIBSCHED_OK;
    }
    status = cuda_spans_wait(work->device, work->stream, work->spans, work->n, err);
    if (status == LIBSCHED_OK && work->stream == CUDA_COMPUTE)
        status = cuda_times_begin(work->device, err);
    return status;
}

void cuda_work_end(struct cuda_work *work)
{
    if (work->device->recording == NULL)
        cuda_spans_touched(work->device, work->stream, work->spans, work->n);
}
