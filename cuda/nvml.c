/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml.h"

#include <dlfcn.h>
#include <string.h>

#include "library.h"

#ifndef CUDA_NVML_LIBRARY
#define CUDA_NVML_LIBRARY "libnvidia-ml.so.1"
#endif

static struct nvml table;

static void find(void *handle, const char *name, void *to)
{
    void *function = dlsym(handle, name);

    memcpy(to, &function, sizeof(function));
}

static int load(const char *name, libsched_error *err)
{
    struct nvml fresh = {0}, *out = &fresh;
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"nvmlInit_v2", &out->init},
        {"nvmlErrorString", &out->error_string},
        {"nvmlDeviceGetHandleByPciBusId_v2", &out->by_pci},
        {"nvmlDeviceGetUUID", &out->uuid},
        {"nvmlDeviceGetUtilizationRates", &out->utilization},
        {"nvmlDeviceGetMemoryInfo", &out->memory},
        {"nvmlDeviceGetTemperature", &out->temperature},
        {"nvmlDeviceGetPowerUsage", &out->power},
        {"nvmlDeviceGetEnforcedPowerLimit", &out->power_limit},
        {"nvmlDeviceGetTotalEnergyConsumption", &out->energy},
        {"nvmlDeviceGetCurrentClocksEventReasons", &out->clock_reasons},
        {"nvmlDeviceGetNvLinkState", &out->link_state},
        {"nvmlDeviceGetTotalEccErrors", &out->ecc},
        {"nvmlEventSetCreate", &out->events_create},
        {"nvmlDeviceRegisterEvents", &out->events_register},
        {"nvmlEventSetWait_v2", &out->events_wait},
        {"nvmlEventSetFree", &out->events_free},
    };
    /* Never closed: it may have threads. */
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    int code;

    if (handle == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "nothing is known of the GPU's load and temperature without "
                                  "NVML: %s (it comes with the driver; GPU_SCHED_NVML names it)",
                                  dlerror());
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        find(handle, symbols[i].name, symbols[i].to);
    /* Before driver 535 it had another name. */
    if (out->clock_reasons == NULL)
        find(handle, "nvmlDeviceGetCurrentClocksThrottleReasons", &out->clock_reasons);
    if (out->init == NULL || out->error_string == NULL || out->by_pci == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "%s is no NVML that can be used: it lacks nvmlInit_v2, "
                                  "nvmlErrorString or nvmlDeviceGetHandleByPciBusId_v2",
                                  name);
    code = out->init();
    if (code != NVML_OK)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "nvmlInit_v2: %s (%d)",
                                  out->error_string(code), code);
    table = fresh;
    return LIBSCHED_OK;
}

static struct cuda_library library = {
    .variable = "GPU_SCHED_NVML",
    .name = CUDA_NVML_LIBRARY,
    .load = load,
    .mutex = PTHREAD_MUTEX_INITIALIZER,
};

int nvml_get(const struct nvml **out, libsched_error *err)
{
    int status = cuda_library_need(&library, err);

    if (status == LIBSCHED_OK)
        *out = &table;
    return status;
}
