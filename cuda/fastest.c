/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of several ways to compute the same is the fastest, by doing it: once each to have it
 * loaded, and then some times in a row between two events. The host waits for that.
 */
#include <float.h>

#include "internal.h"

#define VARIABLE "GPU_SCHED_MEASURE_PRODUCTS"
#define TIMES 4

void cuda_fastest_open(struct cuda_device *device)
{
    device->measures = cuda_switch(device, VARIABLE, false, "nothing is measured");
}

/* Milliseconds of one way; FLT_MAX: it can't be done. */
static int measure(struct cuda_device *device, cudaEvent_t begin, cudaEvent_t end, int way,
                   cuda_way *go, void *context, float *ms, libsched_error *err)
{
    cudaStream_t stream = cuda_stream(device, CUDA_COMPUTE);
    int status = LIBSCHED_OK;

    *ms = FLT_MAX;
    for (int i = 0; i <= TIMES; i++) {
        if (i == 1)
            status = cuda_check(device, cudaEventRecord(begin, stream), "cudaEventRecord", err);
        if (status != LIBSCHED_OK || !go(context, way))
            return status;
    }
    status = cuda_check(device, cudaEventRecord(end, stream), "cudaEventRecord", err);
    /* Not by itself: there may be a collective in front of it, whose others do not come. */
    if (status == LIBSCHED_OK)
        status = cuda_wait(device, end, err);
    if (status == LIBSCHED_OK)
        status =
            cuda_check(device, cudaEventElapsedTime(ms, begin, end), "cudaEventElapsedTime", err);
    return status;
}

int cuda_fastest(struct cuda_device *device, int n, cuda_way *go, void *context, int *best,
                 libsched_error *err)
{
    cudaEvent_t events[2] = {NULL, NULL};
    float least = FLT_MAX;
    int status = LIBSCHED_OK;

    for (int i = 0; status == LIBSCHED_OK && i < 2; i++)
        status = cuda_check(device, cudaEventCreateWithFlags(&events[i], cudaEventBlockingSync),
                            "cudaEventCreateWithFlags", err);
    for (int i = 0; status == LIBSCHED_OK && i < n; i++) {
        float ms;

        status = measure(device, events[0], events[1], i, go, context, &ms, err);
        if (status == LIBSCHED_OK && ms < least) {
            least = ms;
            *best = i;
        }
    }
    for (int i = 0; i < 2; i++)
        if (events[i] != NULL && device->lost == 0)
            cuda_check(device, cudaEventDestroy(events[i]), "cudaEventDestroy", NULL);
    return status;
}
