/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing a device, and what is told of it. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "open.h"
#include "readings.h"

/* bf16 products on tensor cores, and copies to shared memory that go on by themselves. */
#define MIN_CAPABILITY 80
#define RING_SIZE (UINT64_C(16) << 20)
/* What properties always had. */
#define MIN_PROPERTIES offsetof(libsched_device_properties, text)

/* The scheduler knows a GPU by its place in the machine; CUDA's order is another, and so are its
 * numbers where CUDA_VISIBLE_DEVICES hides some. */
static int find_ordinal(struct cuda_device *device, const libsched_device_open_args *args,
                        libsched_error *err)
{
    const bool has_place = LIBSCHED_HAS(libsched_device_open_args, args, pci_bus_id) &&
                           args->pci_bus_id != NULL && args->pci_bus_id[0] != '\0';
    int count = 0;
    int status;

    snprintf(device->pci, sizeof(device->pci), "%s", has_place ? args->pci_bus_id : "?");
    status = cuda_check(device, cudaGetDeviceCount(&count), "cudaGetDeviceCount", err);
    if (status != LIBSCHED_OK)
        return status;
    if (has_place) {
        cudaError_t code = cudaDeviceGetByPCIBusId(&device->ordinal, args->pci_bus_id);
        if (code == cudaErrorInvalidDevice || code == cudaErrorInvalidValue) {
            (void)cudaGetLastError();
            return libsched_error_set(err, LIBSCHED_ENODEVICE,
                                      "CUDA sees %d GPU%s, and none at %s: is it hidden by "
                                      "CUDA_VISIBLE_DEVICES, cut up by MIG, or not passed in?",
                                      count, count == 1 ? "" : "s", args->pci_bus_id);
        }
        return cuda_check(device, code, "cudaDeviceGetByPCIBusId", err);
    }
    if (args->ordinal >= (uint32_t)count)
        return libsched_error_set(err, LIBSCHED_ENODEVICE,
                                  "there is no GPU %" PRIu32 ": CUDA sees %d", args->ordinal,
                                  count);
    device->ordinal = (int)args->ordinal;
    return cuda_check(device,
                      cudaDeviceGetPCIBusId(device->pci, sizeof(device->pci), device->ordinal),
                      "cudaDeviceGetPCIBusId", err);
}

static int attribute(struct cuda_device *device, enum cudaDeviceAttr which, int *out,
                     libsched_error *err)
{
    return cuda_check(device, cudaDeviceGetAttribute(out, which, device->ordinal),
                      "cudaDeviceGetAttribute", err);
}

static int check_card(struct cuda_device *device, libsched_error *err)
{
    struct cudaDeviceProp properties;
    int major = 0, minor = 0;
    int status = attribute(device, cudaDevAttrComputeCapabilityMajor, &major, err);

    if (status == LIBSCHED_OK)
        status = attribute(device, cudaDevAttrComputeCapabilityMinor, &minor, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, cudaGetDeviceProperties(&properties, device->ordinal),
                            "cudaGetDeviceProperties", err);
    if (status != LIBSCHED_OK)
        return status;
    snprintf(device->name, sizeof(device->name), "%.100s", properties.name);
    device->capability = 10 * major + minor;
    if (device->capability < MIN_CAPABILITY)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "%s at %s has compute capability %d.%d, 8.0 (Ampere) is the "
                                  "least",
                                  device->name, device->pci, major, minor);
    return LIBSCHED_OK;
}

static int open_lanes(struct cuda_device *device, libsched_error *err)
{
    int status = LIBSCHED_OK;

    for (int i = 0; status == LIBSCHED_OK && i < CUDA_STREAMS; i++) {
        struct cuda_lane *lane = &device->lanes[i];

        status = cuda_check(device, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking),
                            "cudaStreamCreateWithFlags", err);
        if (status == LIBSCHED_OK)
            status =
                cuda_check(device, cudaEventCreateWithFlags(&lane->mark, cudaEventDisableTiming),
                           "cudaEventCreateWithFlags", err);
        if (status == LIBSCHED_OK)
            status = cuda_check(device,
                                cudaEventCreateWithFlags(&lane->end, cudaEventDisableTiming |
                                                                         cudaEventBlockingSync),
                                "cudaEventCreateWithFlags", err);
    }
    return status;
}

static void close_lanes(struct cuda_device *device)
{
    for (int i = 0; i < CUDA_STREAMS && device->lost == 0; i++) {
        struct cuda_lane *lane = &device->lanes[i];

        if (lane->mark != NULL)
            cuda_check(device, cudaEventDestroy(lane->mark), "cudaEventDestroy", NULL);
        if (lane->end != NULL && device->lost == 0)
            cuda_check(device, cudaEventDestroy(lane->end), "cudaEventDestroy", NULL);
        if (lane->stream != NULL && device->lost == 0) {
            const cudaStream_t stream = lane->stream;
            /* An error asks the compute stream how it is. */
            lane->stream = NULL;
            cuda_check(device, cudaStreamDestroy(stream), "cudaStreamDestroy", NULL);
        }
    }
}

void cuda_close(libsched_device *base)
{
    struct cuda_device *device = cuda_device_of(base);
    const bool usable = cuda_enter(device, NULL) == LIBSCHED_OK;

    cuda_readings_close(device);
    cuda_products_close(device);
    if (usable && device->lanes[CUDA_COMPUTE].stream != NULL)
        (void)cuda_synchronize(base, NULL);
    cuda_pinned_close(device);
    cuda_ring_close(device, &device->uploads);
    cuda_ring_close(device, &device->downloads);
    cuda_marks_close(device);
    cuda_times_close(device);
    if (device->pool != NULL && device->lost == 0)
        cuda_check(device, cudaMemPoolDestroy(device->pool), "cudaMemPoolDestroy", NULL);
    close_lanes(device);
    free(device);
}

static int open_parts(struct cuda_device *device, const libsched_device_open_args *args,
                      libsched_error *err)
{
    int status = find_ordinal(device, args, err);

    if (status == LIBSCHED_OK)
        status = cuda_enter(device, err);
    if (status == LIBSCHED_OK)
        status = check_card(device, err);
    if (status == LIBSCHED_OK)
        status = open_lanes(device, err);
    if (status == LIBSCHED_OK)
        status = cuda_pool_open(device, err);
    if (status == LIBSCHED_OK)
        status = cuda_ring_open(device, &device->uploads, RING_SIZE, err);
    if (status == LIBSCHED_OK)
        status = cuda_ring_open(device, &device->downloads, RING_SIZE, err);
    if (status == LIBSCHED_OK)
        status = cuda_times_open(device, err);
    if (status == LIBSCHED_OK)
        status = cuda_marks_open(device, err);
    if (status == LIBSCHED_OK)
        status = cuda_products_open(device, err);
    /* So that what is wrong with the device shows here and not in the first batch. */
    if (status == LIBSCHED_OK)
        status = cuda_synchronize(&device->base, err);
    return status;
}

int cuda_open(libsched_device **out, const libsched_device_open_args *args, libsched_error *err)
{
    struct cuda_device *device;
    int status;

    if (args->struct_size < offsetof(libsched_device_open_args, threads) + sizeof(args->threads))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a device is opened with too few arguments");
    device = calloc(1, sizeof(*device));
    if (device == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a device");
    device->base.driver = libsched_device_entry(LIBSCHED_DEVICE_ABI);
    device->threads = args->threads;
    device->ordinal = -1;
    if (LIBSCHED_HAS(libsched_device_open_args, args, note_context)) {
        device->note = args->note;
        device->note_context = args->note_context;
    }
    cuda_pinned_open(device);
    cuda_sections_open(device);
    status = open_parts(device, args, err);
    if (status != LIBSCHED_OK) {
        cuda_close(&device->base);
        return status;
    }
    *out = &device->base;
    return LIBSCHED_OK;
}

int cuda_info(libsched_device *base, libsched_device_properties *out, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_properties info = {.struct_size = out->struct_size};
    int runtime = 0, driver = 0;
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK && out->struct_size < MIN_PROPERTIES)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "properties of %" PRIu32 " bytes are too few", out->struct_size);
    if (status == LIBSCHED_OK)
        status = cuda_memory(device, &info.memory_total, &info.memory_free, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion", err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, cudaDriverGetVersion(&driver), "cudaDriverGetVersion", err);
    if (status != LIBSCHED_OK)
        return status;
    info.flags = LIBSCHED_DEVICE_BF16;
    info.threads = device->threads;
    snprintf(info.text, sizeof(info.text),
             "%s at %s, compute capability %d.%d, CUDA %d.%d (driver %d.%d)", device->name,
             device->pci, device->capability / 10, device->capability % 10, runtime / 1000,
             runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    memcpy(out, &info, out->struct_size < sizeof(info) ? out->struct_size : sizeof(info));
    return LIBSCHED_OK;
}
