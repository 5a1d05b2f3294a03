/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies straight from and to the caller's memory, where it was told of for long: no core copies it
 * to a ring first.
 *
 * Such memory is large and most of it is never touched, but what is pinned is all there, and
 * pinning takes a third of a second a gigabyte. So it is pinned in chunks, each when something is
 * first copied from or to it, and no more than a limit in all. What is not pinned goes through the
 * rings.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define VARIABLE "GPU_SCHED_PINNED_MIB"
#define DEFAULT_MIB UINT64_C(256)
#define PAGE ((uintptr_t)4096)

void cuda_pinned_open(struct cuda_device *device)
{
    const char *text = getenv(VARIABLE);
    uint64_t mib = DEFAULT_MIB;

    if (text != NULL && text[0] != '\0') {
        char *end;
        const unsigned long long given = strtoull(text, &end, 10);

        if (*end == '\0' && text[0] != '-' && given <= UINT64_MAX >> 20)
            mib = given;
        else
            cuda_note(device,
                      VARIABLE " is \"%.40s\", which is no number of MiB: %" PRIu64 " are pinned",
                      text, mib);
    }
    device->pinned_limit = mib << 20;
}

static uint64_t chunk_size(const struct cuda_range *range, uint64_t chunk)
{
    const uint64_t left = range->size - chunk * CUDA_PINNED_CHUNK;

    return left < CUDA_PINNED_CHUNK ? left : CUDA_PINNED_CHUNK;
}

static uint64_t n_chunks(const struct cuda_range *range)
{
    return (range->size + CUDA_PINNED_CHUNK - 1) / CUDA_PINNED_CHUNK;
}

static void free_range(struct cuda_device *device, struct cuda_range *range)
{
    for (uint64_t i = 0; i < n_chunks(range) && device->lost == 0; i++)
        if (range->pinned[i]) {
            cuda_check(device, cudaHostUnregister(range->memory + i * CUDA_PINNED_CHUNK),
                       "cudaHostUnregister", NULL);
            device->pinned_bytes -= chunk_size(range, i);
        }
    free(range->pinned);
    free(range);
}

void cuda_pinned_close(struct cuda_device *device)
{
    while (device->ranges != NULL) {
        struct cuda_range *range = device->ranges;

        device->ranges = range->next;
        free_range(device, range);
    }
}

int cuda_host_register(libsched_device *base, const libsched_device_host_args *args,
                       libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_range *range;
    int supported = 1;
    int status = cuda_enter(device, err);

    if (status != LIBSCHED_OK)
        return status;
    if (args->struct_size < sizeof(*args) || args->memory == NULL || args->size == 0 ||
        (uintptr_t)args->memory % PAGE != 0 || args->size > UINTPTR_MAX - (uintptr_t)args->memory)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "memory of the host begins at a page, and is not empty");
    for (range = device->ranges; range != NULL; range = range->next)
        if ((uintptr_t)args->memory < (uintptr_t)range->memory + range->size &&
            (uintptr_t)range->memory < (uintptr_t)args->memory + args->size)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "a part of this memory was told of before");
    if (device->pinned_limit == 0)
        return LIBSCHED_OK;
    if ((args->flags & LIBSCHED_HOST_READ_ONLY) != 0) {
        status =
            cuda_check(device,
                       cudaDeviceGetAttribute(&supported, cudaDevAttrHostRegisterReadOnlySupported,
                                              device->ordinal),
                       "cudaDeviceGetAttribute", err);
        if (status != LIBSCHED_OK)
            return status;
        if (supported == 0) {
            cuda_note(device, "the driver can't pin memory that is only to be read: inputs are "
                              "copied twice");
            return LIBSCHED_OK;
        }
    }
    range = calloc(1, sizeof(*range));
    if (range != NULL) {
        range->size = args->size;
        range->pinned = calloc(n_chunks(range), 1);
    }
    if (range == NULL || range->pinned == NULL) {
        free(range);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to keep account of memory");
    }
    range->memory = args->memory;
    range->read_only = (args->flags & LIBSCHED_HOST_READ_ONLY) != 0;
    range->next = device->ranges;
    device->ranges = range;
    return LIBSCHED_OK;
}

static bool copies_straight(const struct cuda_lane *lane)
{
    return lane->direct > lane->ended;
}

void cuda_host_unregister(libsched_device *base, const void *memory)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_error failure;

    for (struct cuda_range **at = &device->ranges; *at != NULL; at = &(*at)->next) {
        struct cuda_range *range = *at;

        if (range->memory != memory)
            continue;
        /* It may be unmapped next. */
        if (cuda_enter(device, NULL) == LIBSCHED_OK &&
            (copies_straight(&device->lanes[CUDA_UPLOAD]) ||
             copies_straight(&device->lanes[CUDA_DOWNLOAD])) &&
            cuda_synchronize(base, &failure) != LIBSCHED_OK &&
            device->failure.status == LIBSCHED_OK)
            device->failure = failure;
        *at = range->next;
        free_range(device, range);
        return;
    }
}

/* --------------------------------------------------------------------------------------- chunks */

/* Whether a chunk is pinned, or can be now. An error only where the device is lost. */
static int pin(struct cuda_device *device, struct cuda_range *range, uint64_t chunk, bool *pinned,
               libsched_error *err)
{
    const uint64_t size = chunk_size(range, chunk);
    libsched_error why = {0};
    int status;

    *pinned = range->pinned[chunk];
    if (*pinned || range->refused)
        return LIBSCHED_OK;
    if (size > device->pinned_limit - device->pinned_bytes) {
        if (!device->said_limit)
            cuda_note(device,
                      "%" PRIu64 " MiB of the memory of inputs and results are pinned, no more "
                      "may be (" VARIABLE "): the rest is copied twice",
                      device->pinned_bytes >> 20);
        device->said_limit = true;
        return LIBSCHED_OK;
    }
    status = cuda_check(
        device,
        cudaHostRegister(range->memory + chunk * CUDA_PINNED_CHUNK, size,
                         range->read_only ? cudaHostRegisterReadOnly : cudaHostRegisterDefault),
        "cudaHostRegister", &why);
    if (status == LIBSCHED_EDEVICELOST) {
        if (err != NULL)
            *err = why;
        return status;
    }
    if (status != LIBSCHED_OK) {
        range->refused = true;
        if (!device->said_refused)
            cuda_note(device,
                      "the memory of %s can't be pinned, and is copied twice: %.300s: is "
                      "RLIMIT_MEMLOCK too small (docker: --ulimit memlock=-1)?",
                      range->read_only ? "inputs" : "results", why.message);
        device->said_refused = true;
        return LIBSCHED_OK;
    }
    range->pinned[chunk] = 1;
    *pinned = true;
    device->pinned_bytes += size;
    return LIBSCHED_OK;
}

/* How many of `size` bytes from `at` on are of one kind: in one chunk, which is pinned or not, or
 * in none. A copy does not go beyond what was pinned in one call. */
static int find_run(struct cuda_device *device, const void *at, uint64_t *size, bool write,
                    bool *pinned, libsched_error *err)
{
    const uintptr_t address = (uintptr_t)at;

    *pinned = false;
    for (struct cuda_range *range = device->ranges; range != NULL; range = range->next) {
        const uintptr_t begin = (uintptr_t)range->memory;

        if (address >= begin && address - begin < range->size) {
            const uint64_t chunk = (address - begin) / CUDA_PINNED_CHUNK;
            const uint64_t left =
                chunk * CUDA_PINNED_CHUNK + chunk_size(range, chunk) - (address - begin);

            if (*size > left)
                *size = left;
            if (write && range->read_only)
                return LIBSCHED_OK;
            return pin(device, range, chunk, pinned, err);
        }
        if (begin > address && begin - address < *size)
            *size = begin - address;
    }
    return LIBSCHED_OK;
}

static int copy_straight(struct cuda_device *device, enum cuda_stream stream,
                         struct cuda_span *span, void *to, const void *from, uint64_t size,
                         libsched_error *err)
{
    struct cuda_work work = {.device = device, .stream = stream};
    int status;

    cuda_work_add(&work, span);
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(
            device,
            cudaMemcpyAsync(to, from, size,
                            stream == CUDA_UPLOAD ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost,
                            cuda_stream(device, stream)),
            "cudaMemcpyAsync", err);
    if (status == LIBSCHED_OK) {
        cuda_work_end(&work);
        device->lanes[stream].direct = device->lanes[stream].ticket;
    }
    return status;
}

int cuda_copy_in(struct cuda_device *device, struct cuda_span *span, uint64_t offset, uint64_t size,
                 const void *source, libsched_error *err)
{
    const unsigned char *from = source;
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && size > 0) {
        uint64_t n = size;
        bool pinned;

        status = find_run(device, from, &n, false, &pinned, err);
        if (status == LIBSCHED_OK && pinned)
            status = copy_straight(device, CUDA_UPLOAD, span, (unsigned char *)span->data + offset,
                                   from, n, err);
        else if (status == LIBSCHED_OK)
            status = cuda_stage_upload(device, span, offset, n, cuda_fill_copy, from, err);
        from += n;
        offset += n;
        size -= n;
    }
    return status;
}

int cuda_copy_out(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                  uint64_t size, void *target, libsched_error *err)
{
    unsigned char *to = target;
    int status = LIBSCHED_OK;

    while (status == LIBSCHED_OK && size > 0) {
        uint64_t n = size;
        bool pinned;

        status = find_run(device, to, &n, true, &pinned, err);
        if (status == LIBSCHED_OK && pinned)
            status = copy_straight(device, CUDA_DOWNLOAD, span, to,
                                   (unsigned char *)span->data + offset, n, err);
        else if (status == LIBSCHED_OK)
            status = cuda_stage_download(device, span, offset, n, to, err);
        to += n;
        offset += n;
        size -= n;
    }
    return status;
}
