/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device memory, from a pool of our own, in the order of the compute stream: what is freed may be
 * in use still, and what is allocated again next is only used after that.
 */
#include <inttypes.h>
#include <string.h>

#include "internal.h"

#define MIB(bytes) ((bytes) >> 20)

int cuda_pool_open(struct cuda_device *device, libsched_error *err)
{
    struct cudaMemPoolProps props;
    uint64_t keep = UINT64_MAX;
    int supported = 0;
    int status;

    status = cuda_check(
        device,
        cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device->ordinal),
        "cudaDeviceGetAttribute", err);
    if (status == LIBSCHED_OK && supported == 0)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "the GPU at %s has no memory pools: some virtual GPUs don't, and "
                                  "can't be used",
                                  device->pci);
    memset(&props, 0, sizeof(props));
    props.allocType = cudaMemAllocationTypePinned;
    props.handleTypes = cudaMemHandleTypeNone;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = device->ordinal;
    if (status == LIBSCHED_OK)
        status =
            cuda_check(device, cudaMemPoolCreate(&device->pool, &props), "cudaMemPoolCreate", err);
    /* Else each synchronization would give back what the next batch takes again. */
    if (status == LIBSCHED_OK)
        status = cuda_check(
            device, cudaMemPoolSetAttribute(device->pool, cudaMemPoolAttrReleaseThreshold, &keep),
            "cudaMemPoolSetAttribute", err);
    return status;
}

int cuda_memory(struct cuda_device *device, uint64_t *total, uint64_t *free, libsched_error *err)
{
    size_t all = 0, unused = 0;
    uint64_t reserved = 0, used = 0;
    int status = cuda_check(device, cudaMemGetInfo(&unused, &all), "cudaMemGetInfo", err);

    if (status == LIBSCHED_OK)
        status = cuda_check(
            device,
            cudaMemPoolGetAttribute(device->pool, cudaMemPoolAttrReservedMemCurrent, &reserved),
            "cudaMemPoolGetAttribute", err);
    if (status == LIBSCHED_OK)
        status = cuda_check(
            device, cudaMemPoolGetAttribute(device->pool, cudaMemPoolAttrUsedMemCurrent, &used),
            "cudaMemPoolGetAttribute", err);
    *total = all;
    *free = unused + (reserved > used ? reserved - used : 0);
    return status;
}

static cudaError_t take(struct cuda_device *device, void **out, uint64_t size)
{
    return cudaMallocFromPoolAsync(out, size, device->pool, cuda_stream(device, CUDA_COMPUTE));
}

int cuda_trim(struct cuda_device *device, libsched_error *err)
{
    libsched_error ignored;
    /* What is free only once the stream comes to it. */
    int status = cuda_synchronize(&device->base, &ignored);

    if (status == LIBSCHED_EDEVICELOST) {
        if (err != NULL)
            *err = ignored;
        return status;
    }
    /* It is what the next synchronize() would have said. */
    if (status != LIBSCHED_OK && device->failure.status == LIBSCHED_OK)
        device->failure = ignored;
    return cuda_check(device, cudaMemPoolTrimTo(device->pool, 0), "cudaMemPoolTrimTo", err);
}

int cuda_allocate(struct cuda_device *device, struct cuda_span *out, uint64_t size,
                  const char *what, libsched_error *err)
{
    struct cuda_lane *compute = &device->lanes[CUDA_COMPUTE];
    cudaError_t code;
    int status = LIBSCHED_OK;

    memset(out, 0, sizeof(*out));
    if (size == 0)
        size = 1;
    code = take(device, &out->data, size);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        status = cuda_trim(device, err);
        if (status != LIBSCHED_OK)
            return status;
        code = take(device, &out->data, size);
    }
    if (code == cudaErrorMemoryAllocation) {
        uint64_t total = 0, left = 0;

        (void)cudaGetLastError();
        out->data = NULL;
        status = cuda_memory(device, &total, &left, err);
        if (status != LIBSCHED_OK)
            return status;
        return libsched_error_set(err, LIBSCHED_ENODEVMEM,
                                  "no memory on the GPU at %s for %s: %" PRIu64
                                  " MiB are needed, %" PRIu64 " of %" PRIu64 " MiB are free",
                                  device->pci, what, MIB(size + (1 << 20) - 1), MIB(left),
                                  MIB(total));
    }
    status = cuda_check(device, code, "cudaMallocFromPoolAsync", err);
    if (status != LIBSCHED_OK) {
        out->data = NULL;
        return status;
    }
    out->size = size;
    /* The other streams may use it once this one has come to its allocation. */
    out->tickets[CUDA_COMPUTE] = ++compute->ticket;
    return LIBSCHED_OK;
}

void cuda_release(struct cuda_device *device, struct cuda_span *span)
{
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status;

    if (span->data == NULL)
        return;
    /* The process ends; so does what it has of the device. */
    status = cuda_enter(device, NULL);
    cuda_work_add(&work, span);
    if (status == LIBSCHED_OK)
        status = cuda_work_begin(&work, NULL);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, cudaFreeAsync(span->data, cuda_stream(device, CUDA_COMPUTE)),
                            "cudaFreeAsync", NULL);
    if (status == LIBSCHED_OK)
        cuda_work_end(&work);
    memset(span, 0, sizeof(*span));
}
