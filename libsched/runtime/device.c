/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices: which there are, which of them can be used, and what callers are told of them.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/internal.h"

#define CUDA_PLUGIN "libsched-device-cuda.so"

/* Whether a file is in one of the folders of a path. */
static bool on_path(const char *path, const char *file)
{
    while (path != NULL && *path != '\0') {
        char full[4096];
        size_t length = strcspn(path, ":");
        int n = snprintf(full, sizeof(full), "%.*s/%s", (int)length, path, file);
        if (length > 0 && n > 0 && (size_t)n < sizeof(full) && access(full, R_OK) == 0)
            return true;
        path += length + (path[length] == ':');
    }
    return false;
}

/* Whether a GPU can be driven; else why not. */
static bool gpu_usable(libsched *s, struct runtime_device *device)
{
    if (!topology_is_this_machine(s->topology)) {
        snprintf(device->reason, sizeof(device->reason), "%s",
                 "it is in a recorded machine, not in this one");
        return false;
    }
    if (!on_path(s->options.plugin_path, CUDA_PLUGIN)) {
        libsched_error text;
        libsched_error_set(&text, LIBSCHED_ENODEVICE,
                           "no driver for it: " CUDA_PLUGIN
                           " was not built, or is not in plugin_path (%.120s)",
                           s->options.plugin_path != NULL ? s->options.plugin_path : "empty");
        memcpy(device->reason, text.message, sizeof(device->reason));
        return false;
    }
    return true;
}

/* So long before a step is expected to end the next is given: about what passes until its end is
 * known here, and the worker has heard what comes then. */
#define LEAD UINT64_C(250000)

static int add(libsched *s, struct runtime_device *device, libsched_error *err)
{
    device->sort = runtime_device_sort(s, device);
    struct core_device what = {.kind = device->prepares ? CORE_PREPARE : CORE_COMPUTE,
                               .sort = device->sort};
    if (!device->prepares) {
        what.depth = 2;
        what.lead_ns = LEAD;
    }
    /* What a CPU device takes is the machine's memory, which is not ours to divide. */
    if (device->topology != NULL && device->topology->kind == TOPOLOGY_GPU)
        what.memory_bytes = device->topology->memory_bytes;
    int rc = core_add_device(s->core, device->index, &what);
    if (rc < 0)
        return libsched_error_set(err, rc, "device %s: %s", device->name,
                                  rc == LIBSCHED_ENOMEM ? "no memory for it" : "not acceptable");
    device->in_core = true;
    device->state = LIBSCHED_DEVICE_STARTING;
    device->restart_at = 1; /* due */
    return LIBSCHED_OK;
}

static struct runtime_device *next(libsched *s)
{
    struct runtime_device *device = &s->devices[s->n_devices];
    device->index = s->n_devices++;
    device->worker_fd = -1;
    device->threads = 1;
    device->state = LIBSCHED_DEVICE_ABSENT;
    list_init(&device->running);
    return device;
}

static int add_listed(libsched *s, const struct topology_device *found, uint32_t ordinal,
                      libsched_error *err)
{
    struct runtime_device *device = next(s);
    s->n_listed = s->n_devices;
    device->topology = found;
    device->ordinal = ordinal;
    snprintf(device->name, sizeof(device->name), "%s", found->name);
    if (found->kind == TOPOLOGY_GPU) {
        device->driver = "cuda";
        return gpu_usable(s, device) ? add(s, device, err) : LIBSCHED_OK;
    }
    device->driver = "cpu";
    device->threads = found->n_cores > 0 ? found->n_cores : 1;
    if (!found->usable) {
        snprintf(device->reason, sizeof(device->reason), "%s", found->reason);
        return LIBSCHED_OK;
    }
    return add(s, device, err);
}

int runtime_devices_find(libsched *s, libsched_error *err)
{
    const struct topology_options options = {
        .xml_path = s->options.topology_xml,
        .cpu_devices = s->options.cpu_devices,
        .cpu_cores = s->options.cores_per_device,
        .devices_per_gpu = s->options.devices_per_gpu,
    };
    int rc = topology_open(&s->topology, &options, err);
    if (rc < 0)
        return rc;
    s->usable_cpus = topology_usable_cpus();

    size_t n = topology_n_devices(s->topology);
    uint32_t ordinals[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        const struct topology_device *found = topology_get_device(s->topology, i);
        if (s->n_devices + s->options.prepare_workers >= CORE_MAX_DEVICES) {
            runtime_log(s, LIBSCHED_LOG_WARNING, "%zu devices are left out, from %s on: too many",
                        n - i, found->name);
            break;
        }
        rc = add_listed(s, found, ordinals[found->kind == TOPOLOGY_GPU]++, err);
        if (rc < 0)
            return rc;
    }
    for (uint32_t i = 0; i < s->options.prepare_workers; i++) {
        struct runtime_device *device = next(s);
        device->prepares = true;
        snprintf(device->name, sizeof(device->name), "prepare:%u", i);
        rc = add(s, device, err);
        if (rc < 0)
            return rc;
    }
    return runtime_distances_set(s, err);
}

void runtime_device_announce(libsched *s, struct runtime_device *device)
{
    const libsched_completion what = {
        .kind = LIBSCHED_DEVICE,
        .status = device->state == LIBSCHED_DEVICE_DOWN ? LIBSCHED_EDEVICELOST : LIBSCHED_OK,
        .device = device->index,
        .state = device->state,
    };
    device->announce = !runtime_notice_queue(s, &what, device->name, device->reason);
    if (device->announce)
        s->announcements = true;
}

void runtime_device_set_state(libsched *s, struct runtime_device *device,
                              enum libsched_device_state state, const char *reason)
{
    libsched_error text;
    libsched_error_set(&text, LIBSCHED_OK, "%s", reason); /* UTF-8, whoever wrote it */
    memcpy(device->reason, text.message, sizeof(device->reason));
    if (device->state == state)
        return;
    device->state = state;
    if (!device->prepares)
        runtime_device_announce(s, device);
}

struct runtime_device *runtime_device_by_name(libsched *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_listed; i++)
        if (strcmp(s->devices[i].name, name) == 0)
            return &s->devices[i];
    return NULL;
}

bool runtime_device_usable(const struct runtime_device *device)
{
    return device->state == LIBSCHED_DEVICE_STARTING || device->state == LIBSCHED_DEVICE_UP ||
           device->state == LIBSCHED_DEVICE_HELD;
}

int runtime_devices_choose(libsched *s, const char *const *names, uint32_t n, uint64_t *out,
                           libsched_error *err)
{
    *out = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (names[i] == NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL, "device %u has no name", i);
        const struct runtime_device *device = runtime_device_by_name(s, names[i]);
        if (device == NULL)
            return libsched_error_set(err, LIBSCHED_ENODEVICE, "there is no device \"%.64s\"",
                                      names[i]);
        if (!runtime_device_usable(device))
            return libsched_error_set(err, LIBSCHED_ENODEVICE, "device \"%s\" can't be used: %s",
                                      device->name, device->reason);
        *out |= UINT64_C(1) << device->index;
    }
    if (n == 0)
        for (uint32_t i = 0; i < s->n_listed; i++)
            if (runtime_device_usable(&s->devices[i]))
                *out |= UINT64_C(1) << i;
    if (*out == 0)
        return libsched_error_set(err, LIBSCHED_ENODEVICE, "no device can be used");
    return LIBSCHED_OK;
}

uint32_t libsched_device_count(const libsched *s)
{
    return s->n_listed;
}

/* A list of cores, cut with "..." where it is longer than the field. */
static void copy_cpus(char *out, size_t size, const char *list)
{
    size_t length = strlen(list);
    if (length < size) {
        memcpy(out, list, length + 1);
        return;
    }
    size_t keep = size - 4;
    while (keep > 0 && list[keep] != ',')
        keep--;
    snprintf(out, size, "%.*s...", (int)(keep + 1), list);
}

int libsched_device_get(libsched *s, uint32_t index, libsched_device_info *out)
{
    if (index >= s->n_listed)
        return LIBSCHED_ENODEVICE;
    libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
    runtime_lock(s);
    const struct runtime_device *device = &s->devices[index];
    const struct topology_device *found = device->topology;
    info.kind = found->kind == TOPOLOGY_GPU ? LIBSCHED_DEVICE_GPU : LIBSCHED_DEVICE_CPU;
    info.state = device->state;
    snprintf(info.name, sizeof(info.name), "%s", device->name);
    snprintf(info.model, sizeof(info.model), "%s", found->model);
    snprintf(info.reason, sizeof(info.reason), "%s", device->reason);
    copy_cpus(info.cpus, sizeof(info.cpus), found->cpu_list);
    snprintf(info.pci, sizeof(info.pci), "%s", found->pci_bus_id);
    info.numa_node = found->numa_node;
    info.cores = found->n_cores;
    info.memory_bytes = found->memory_bytes;
    info.pid = device->worker != NULL ? worker_pid(device->worker) : 0;
    info.restarts = device->restarts;
    info.busy_ns = device->busy_ns;
    info.batches = device->batches;
    runtime_unlock(s);
    return runtime_struct_write(out, &info, sizeof(info));
}
