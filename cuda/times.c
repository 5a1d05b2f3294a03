/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches are timed by an event in front of the first of a batch that is computed and the event of
 * the mark behind it. Events with a time cost more than others, so it is done only where somebody
 * has named a file for it. What can't be told is left out: no batch fails for it.
 */
#include "times.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

static struct cuda_times *map(const char *path)
{
    void *memory = MAP_FAILED;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, sizeof(struct cuda_times)) == 0)
        memory = mmap(NULL, sizeof(struct cuda_times), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory != MAP_FAILED ? memory : NULL;
}

int cuda_times_open(struct cuda_device *device, libsched_error *err)
{
    const char *path = getenv(CUDA_TIMES_VARIABLE);
    int status = LIBSCHED_OK;

    if (path == NULL || path[0] == '\0')
        return LIBSCHED_OK;
    device->times = map(path);
    if (device->times == NULL) {
        cuda_note(device, CUDA_TIMES_VARIABLE " names %.200s, which can't be used: %s", path,
                  strerror(errno));
        return LIBSCHED_OK;
    }
    for (uint32_t i = 0; status == LIBSCHED_OK && i < CUDA_MARKS; i++)
        status =
            cuda_check(device, cudaEventCreateWithFlags(&device->marks[i].begin, cudaEventDefault),
                       "cudaEventCreateWithFlags", err);
    return status;
}

void cuda_times_close(struct cuda_device *device)
{
    for (uint32_t i = 0; i < CUDA_MARKS; i++) {
        if (device->marks[i].begin != NULL && device->lost == 0)
            cuda_check(device, cudaEventDestroy(device->marks[i].begin), "cudaEventDestroy", NULL);
        device->marks[i].begin = NULL;
    }
    if (device->times != NULL)
        munmap(device->times, sizeof(*device->times));
    device->times = NULL;
}

int cuda_times_begin(struct cuda_device *device, libsched_error *err)
{
    struct cuda_mark *next = &device->marks[(device->last_mark + 1) % CUDA_MARKS];
    int status;

    if (device->times == NULL || device->begun)
        return LIBSCHED_OK;
    /* With more marks under way than are remembered there is none for this batch. */
    if (device->last_mark + 1 > CUDA_MARKS && device->last_mark + 1 - CUDA_MARKS > device->reached)
        return LIBSCHED_OK;
    status = cuda_check(device, cudaEventRecord(next->begin, cuda_stream(device, CUDA_COMPUTE)),
                        "cudaEventRecord", err);
    device->begun = status == LIBSCHED_OK;
    return status;
}

void cuda_times_end(struct cuda_device *device, struct cuda_mark *mark)
{
    /* What was waited for already has no event behind it: the mark's is of long ago, or of never.
     */
    mark->timed = device->begun && mark->tickets[CUDA_COMPUTE] > device->lanes[CUDA_COMPUTE].ended;
    device->begun = false;
}

void cuda_times_reached(struct cuda_device *device, uint64_t until)
{
    if (device->times == NULL)
        return;
    for (uint64_t i = device->reached + 1; i <= until; i++) {
        struct cuda_mark *mark = &device->marks[i % CUDA_MARKS];
        float ms = 0;

        if (mark->timed && device->lost == 0 &&
            cuda_check(device, cudaEventElapsedTime(&ms, mark->begin, mark->events[CUDA_COMPUTE]),
                       "cudaEventElapsedTime", NULL) == LIBSCHED_OK) {
            __atomic_fetch_add(&device->times->batches, 1, __ATOMIC_RELAXED);
            __atomic_fetch_add(&device->times->busy_ns, (uint64_t)((double)ms * 1e6),
                               __ATOMIC_RELAXED);
        }
        mark->timed = false;
    }
}
