/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU device's table, and its opening and closing. */
#include "device/cpu.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu_communicator.h"
#include "device/cpu_memory.h"
#include "device/cpu_products.h"

/* What properties always had. */
#define MIN_PROPERTIES offsetof(libsched_device_properties, text)

static void cpu_close(libsched_device *base)
{
    struct cpu_device *device = (struct cpu_device *)base;

    cpu_products_destroy(device->products);
    onednn_close(device->dnn);
    cpu_free(device->scratch, device->scratch_size);
    free(device);
}

/* A process has one CPU device, whichever its ordinal: the cores it is bound to. */
static int cpu_open(libsched_device **out, const libsched_device_open_args *args,
                    libsched_error *err)
{
    struct cpu_device *device;
    int status;

    if (args->struct_size < offsetof(libsched_device_open_args, pci_bus_id) || args->threads < 1 ||
        args->threads > INT32_MAX)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a CPU device takes at least one thread, got %" PRIu32,
                                  args->threads);
    device = calloc(1, sizeof(*device));
    if (device == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a CPU device");
    device->base.driver = device_cpu_driver();
    device->threads = args->threads;
    device->kernels = cpu_kernels_select();
    status = onednn_open(&device->dnn, err);
    if (status == LIBSCHED_OK)
        status = cpu_products_create(&device->products, err);
    if (status != LIBSCHED_OK) {
        cpu_close(&device->base);
        return status;
    }
    *out = &device->base;
    return LIBSCHED_OK;
}

/* Total and available memory of the machine. */
static void read_meminfo(uint64_t *total, uint64_t *available)
{
    char line[128];
    uint64_t kib;
    FILE *file = fopen("/proc/meminfo", "re");

    *total = *available = 0;
    if (file == NULL)
        return;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
            *total = kib * 1024;
        else if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            *available = kib * 1024;
    }
    fclose(file);
}

static int cpu_info(libsched_device *base, libsched_device_properties *out, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    libsched_device_properties info = {.struct_size = out->struct_size};
    char version[64];

    if (out->struct_size < MIN_PROPERTIES)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "properties of %" PRIu32 " bytes are too few", out->struct_size);
    info.flags = LIBSCHED_DEVICE_UNIFIED | (cpu_has_bf16() ? LIBSCHED_DEVICE_BF16 : 0u);
    info.threads = device->threads;
    read_meminfo(&info.memory_total, &info.memory_free);
    onednn_version_text(version, sizeof(version));
    snprintf(info.text, sizeof(info.text), "%s, %s%s, %" PRIu32 " thread%s", version,
             device->kernels->name, cpu_has_bf16() ? " with bf16" : "", device->threads,
             device->threads == 1 ? "" : "s");
    memcpy(out, &info, out->struct_size < sizeof(info) ? out->struct_size : sizeof(info));
    return LIBSCHED_OK;
}

/* Every operation has ended when it returned. */
static int cpu_synchronize(libsched_device *base, libsched_error *err)
{
    (void)base;
    (void)err;
    return LIBSCHED_OK;
}

void *cpu_scratch(struct cpu_device *device, size_t size)
{
    if (size > device->scratch_size) {
        void *larger = cpu_alloc(size);
        if (larger == NULL)
            return NULL;
        cpu_free(device->scratch, device->scratch_size);
        device->scratch = larger;
        device->scratch_size = size;
    }
    return device->scratch;
}

const libsched_device_driver *device_cpu_driver(void)
{
    static const libsched_device_driver driver = {
        .abi_version = LIBSCHED_DEVICE_ABI,
        .struct_size = sizeof(libsched_device_driver),
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .info = cpu_info,
        .buffer_create = cpu_buffer_create,
        .buffer_destroy = cpu_buffer_destroy,
        .upload = cpu_upload,
        .download = cpu_download,
        .weight_create = cpu_weight_create,
        .weight_destroy = cpu_weight_destroy,
        .sequences_create = cpu_sequences_create,
        .sequences_destroy = cpu_sequences_destroy,
        .sequences_set = cpu_sequences_set,
        .embed = cpu_embed,
        .linear = cpu_linear,
        .norm = cpu_norm,
        .attention = cpu_attention,
        .pool = cpu_pool,
        .synchronize = cpu_synchronize,
        .communicator_create = cpu_communicator_create,
        .communicator_destroy = cpu_communicator_destroy,
        .communicator_abort = cpu_communicator_abort,
        .all_reduce = cpu_all_reduce,
        .broadcast = cpu_broadcast,
        .all_gather = cpu_all_gather,
        .reduce_scatter = cpu_reduce_scatter,
        .barrier = cpu_barrier,
        .communicator_calls = cpu_communicator_calls,
    };
    return &driver;
}
