/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVML, as far as it is needed, declared here: its header is not everywhere where CUDA's is, and
 * the library comes with the driver, not with the toolkit.
 */
#ifndef CUDA_NVML_H
#define CUDA_NVML_H

#include <stdint.h>

#include <libsched/status.h>

struct nvml_device;
struct nvml_events;

/* What nvmlReturn_t has. */
enum {
    NVML_OK = 0,
    NVML_NOT_SUPPORTED = 3,
    NVML_TIMEOUT = 10,
};
enum { NVML_ON_DIE = 0 };                      /* nvmlTemperatureSensors_t */
enum { NVML_CORRECTED = 0, NVML_UNCORRECTED }; /* nvmlMemoryErrorType_t */
enum { NVML_VOLATILE = 0 };                    /* nvmlEccCounterType_t */
#define NVML_XID_EVENT 0x8ull                  /* nvmlEventTypeXidCriticalError */
#define NVML_MAX_LINKS 36u
#define NVML_UUID_SIZE 96u

/* Why the clock is low (nvmlClocksEventReason...). */
#define NVML_CLOCK_SETTING 0x002ull
#define NVML_CLOCK_POWER_CAP 0x004ull
#define NVML_CLOCK_HARDWARE 0x008ull
#define NVML_CLOCK_SYNC 0x010ull
#define NVML_CLOCK_THERMAL 0x020ull
#define NVML_CLOCK_HARDWARE_THERMAL 0x040ull
#define NVML_CLOCK_BRAKE 0x080ull
#define NVML_CLOCK_DISPLAY 0x100ull

struct nvml_utilization {
    unsigned int gpu, memory;
};

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_event {
    struct nvml_device *device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
};

/* The functions; those from `uuid` on may be NULL, where a driver is older or newer. */
struct nvml {
    int (*init)(void);
    const char *(*error_string)(int);
    int (*by_pci)(const char *, struct nvml_device **);

    int (*uuid)(struct nvml_device *, char *, unsigned int);
    int (*utilization)(struct nvml_device *, struct nvml_utilization *);
    int (*memory)(struct nvml_device *, struct nvml_memory *);
    int (*temperature)(struct nvml_device *, int, unsigned int *);
    int (*power)(struct nvml_device *, unsigned int *);
    int (*power_limit)(struct nvml_device *, unsigned int *);
    int (*energy)(struct nvml_device *, unsigned long long *);
    int (*clock_reasons)(struct nvml_device *, unsigned long long *);
    int (*link_state)(struct nvml_device *, unsigned int, int *);
    int (*ecc)(struct nvml_device *, int, int, unsigned long long *);
    int (*events_create)(struct nvml_events **);
    int (*events_register)(struct nvml_device *, unsigned long long, struct nvml_events *);
    int (*events_wait)(struct nvml_events *, struct nvml_event *, unsigned int);
    int (*events_free)(struct nvml_events *);
};

/* NVML, loaded and initialised once a process and never ended. LIBSCHED_ENOTSUP: there is none. */
int nvml_get(const struct nvml **out, libsched_error *err);

#endif
