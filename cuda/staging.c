/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies between the host's memory and the device's, through rings of pinned memory: a copy from
 * or to pageable memory would hold the caller up until all before it has ended. What lies in pinned
 * memory already needs no ring (pinned.c).
 */
#include <string.h>

#include "internal.h"

/* Pieces begin at a line of the cache, and are no larger than a part of the ring: so that one is
 * filled while the one before is copied. */
#define ALIGN UINT64_C(256)
#define PARTS 4

int cuda_ring_open(struct cuda_device *device, struct cuda_ring *ring, uint64_t size,
                   libsched_error *err)
{
    int status;

    memset(ring, 0, sizeof(*ring));
    status = cuda_check(device, cudaHostAlloc((void **)&ring->memory, size, cudaHostAllocDefault),
                        "cudaHostAlloc", err);
    if (status == LIBSCHED_ENODEVMEM)
        return libsched_error_set(err, LIBSCHED_ENOMEM,
                                  "no %llu MiB of host memory that can be pinned: is "
                                  "RLIMIT_MEMLOCK too small (docker: --ulimit memlock=-1)?",
                                  (unsigned long long)(size >> 20));
    ring->size = size;
    for (uint32_t i = 0; status == LIBSCHED_OK && i < CUDA_RING_PIECES; i++)
        status =
            cuda_check(device,
                       cudaEventCreateWithFlags(&ring->pieces[i].event,
                                                cudaEventDisableTiming | cudaEventBlockingSync),
                       "cudaEventCreateWithFlags", err);
    return status;
}

void cuda_ring_close(struct cuda_device *device, struct cuda_ring *ring)
{
    for (uint32_t i = 0; i < CUDA_RING_PIECES; i++)
        if (ring->pieces[i].event != NULL && device->lost == 0)
            cuda_check(device, cudaEventDestroy(ring->pieces[i].event), "cudaEventDestroy", NULL);
    if (ring->memory != NULL && device->lost == 0)
        cuda_check(device, cudaFreeHost(ring->memory), "cudaFreeHost", NULL);
    memset(ring, 0, sizeof(*ring));
}

/* ------------------------------------------------------------------------------------ the ring */

static void pop(struct cuda_ring *ring, bool drop)
{
    struct cuda_piece *piece = &ring->pieces[ring->first];

    if (piece->target != NULL && !drop)
        memcpy(piece->target, ring->memory + piece->offset, piece->size);
    piece->target = NULL;
    ring->first = (ring->first + 1) % CUDA_RING_PIECES;
    ring->n--;
    if (ring->n == 0)
        ring->head = 0;
}

/* Waits for the oldest piece. */
static int reclaim(struct cuda_device *device, struct cuda_ring *ring, libsched_error *err)
{
    int status = cuda_wait(device, ring->pieces[ring->first].event, err);

    if (status == LIBSCHED_OK)
        pop(ring, false);
    return status;
}

/* Where a piece of this size can begin now. */
static bool find_room(const struct cuda_ring *ring, uint64_t size, uint64_t *at)
{
    const uint64_t tail = ring->pieces[ring->first].offset;

    if (ring->n == CUDA_RING_PIECES)
        return false;
    if (ring->n == 0 || ring->head > tail) {
        if (ring->size - ring->head >= size) {
            *at = ring->head;
            return true;
        }
        /* At the beginning again, if the oldest piece is not there. */
        *at = 0;
        return ring->n > 0 && size < tail;
    }
    *at = ring->head;
    return size < tail - ring->head;
}

/* The next piece; it is in the ring once push() was called. */
static int reserve(struct cuda_device *device, struct cuda_ring *ring, uint64_t size,
                   struct cuda_piece **out, libsched_error *err)
{
    const uint64_t room = (size + ALIGN - 1) / ALIGN * ALIGN;
    uint64_t at;

    while (!find_room(ring, room, &at)) {
        int status = reclaim(device, ring, err);
        if (status != LIBSCHED_OK)
            return status;
    }
    *out = &ring->pieces[(ring->first + ring->n) % CUDA_RING_PIECES];
    (*out)->offset = at;
    (*out)->size = size;
    (*out)->target = NULL;
    return LIBSCHED_OK;
}

/* Behind its copy in the stream. */
static int push(struct cuda_device *device, struct cuda_ring *ring, struct cuda_piece *piece,
                enum cuda_stream stream, libsched_error *err)
{
    ring->n++;
    ring->pushed++;
    ring->head = piece->offset + (piece->size + ALIGN - 1) / ALIGN * ALIGN;
    return cuda_check(device, cudaEventRecord(piece->event, cuda_stream(device, stream)),
                      "cudaEventRecord", err);
}

static uint64_t piece_size(const struct cuda_ring *ring, uint64_t left)
{
    const uint64_t most = ring->size / PARTS;

    return left < most ? left : most;
}

/* -------------------------------------------------------------------------------------- copies */

void cuda_fill_copy(void *to, uint64_t offset, uint64_t size, const void *context)
{
    memcpy(to, (const unsigned char *)context + offset, size);
}

int cuda_stage_upload(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                      uint64_t size, cuda_fill fill, const void *context, libsched_error *err)
{
    struct cuda_ring *ring = &device->uploads;
    struct cuda_work work = {.device = device, .stream = CUDA_UPLOAD};
    uint64_t done = 0;
    int status;

    cuda_work_add(&work, span);
    status = cuda_work_begin(&work, err);
    while (status == LIBSCHED_OK && done < size) {
        const uint64_t n = piece_size(ring, size - done);
        struct cuda_piece *piece;

        status = reserve(device, ring, n, &piece, err);
        if (status != LIBSCHED_OK)
            break;
        fill(ring->memory + piece->offset, done, n, context);
        status = cuda_check(device,
                            cudaMemcpyAsync((unsigned char *)span->data + offset + done,
                                            ring->memory + piece->offset, n, cudaMemcpyHostToDevice,
                                            cuda_stream(device, CUDA_UPLOAD)),
                            "cudaMemcpyAsync", err);
        if (status == LIBSCHED_OK) {
            cuda_work_end(&work);
            status = push(device, ring, piece, CUDA_UPLOAD, err);
        }
        done += n;
    }
    return status;
}

int cuda_stage_download(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                        uint64_t size, void *target, libsched_error *err)
{
    struct cuda_ring *ring = &device->downloads;
    struct cuda_work work = {.device = device, .stream = CUDA_DOWNLOAD};
    uint64_t done = 0;
    int status;

    cuda_work_add(&work, span);
    status = cuda_work_begin(&work, err);
    while (status == LIBSCHED_OK && done < size) {
        const uint64_t n = piece_size(ring, size - done);
        struct cuda_piece *piece;

        status = reserve(device, ring, n, &piece, err);
        if (status != LIBSCHED_OK)
            break;
        status =
            cuda_check(device,
                       cudaMemcpyAsync(ring->memory + piece->offset,
                                       (unsigned char *)span->data + offset + done, n,
                                       cudaMemcpyDeviceToHost, cuda_stream(device, CUDA_DOWNLOAD)),
                       "cudaMemcpyAsync", err);
        if (status == LIBSCHED_OK) {
            cuda_work_end(&work);
            piece->target = (unsigned char *)target + done;
            status = push(device, ring, piece, CUDA_DOWNLOAD, err);
        }
        done += n;
    }
    return status;
}

static void finish_until(struct cuda_ring *ring, uint64_t pushed, bool drop)
{
    while (ring->n > 0 && ring->pushed - ring->n < pushed)
        pop(ring, drop);
}

void cuda_stage_finish_until(struct cuda_device *device, uint64_t uploads, uint64_t downloads,
                             bool drop)
{
    finish_until(&device->downloads, downloads, drop);
    finish_until(&device->uploads, uploads, true);
}

void cuda_stage_finish(struct cuda_device *device, bool drop)
{
    while (device->downloads.n > 0)
        pop(&device->downloads, drop);
    while (device->uploads.n > 0)
        pop(&device->uploads, true);
}
