/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruments of a GPU, read through NVML. A thread of its own does it, beside the one that
 * computes: nothing here calls CUDA, or touches what of the device is not in device->instruments.
 */
#include "readings.h"

#include <stdio.h>
#include <string.h>

#include "nvml.h"

/* More Xids than that at once are looked at the next time: a card that pours them out must not
 * keep its thread. */
#define MAX_EVENTS 1000

struct reader {
    const struct nvml *nvml;
    struct nvml_device *handle;
    libsched_device_readings *out;
};

/* Whether a value is there. Not supported is no fault: there is no such instrument. */
static bool there(struct reader *r, int code, const char *what)
{
    if (code == NVML_OK)
        return true;
    if (code != NVML_NOT_SUPPORTED && r->out->reason[0] == '\0')
        snprintf(r->out->reason, sizeof(r->out->reason), "%s: %.100s (%d)", what,
                 r->nvml->error_string(code), code);
    return false;
}

/* Calls a function that this NVML may lack. */
#define READ(r, function, ...)      \
    ((r)->nvml->function != NULL && \
     there(r, (r)->nvml->function((r)->handle, __VA_ARGS__), #function))

static void read_uuid(struct reader *r)
{
    char uuid[NVML_UUID_SIZE] = "";

    if (READ(r, uuid, uuid, sizeof(uuid)))
        snprintf(r->out->uuid, sizeof(r->out->uuid), "%.63s", uuid);
}

static void read_load(struct reader *r)
{
    struct nvml_utilization use;
    struct nvml_memory memory;

    if (READ(r, utilization, &use)) {
        r->out->has |= LIBSCHED_READING_UTILIZATION;
        r->out->utilization_percent = use.gpu;
        r->out->memory_busy_percent = use.memory;
    }
    if (READ(r, memory, &memory)) {
        r->out->has |= LIBSCHED_READING_MEMORY;
        r->out->memory_total = memory.total;
        r->out->memory_used = memory.used;
    }
}

static uint32_t throttle_of(unsigned long long reasons)
{
    static const struct {
        unsigned long long theirs;
        uint32_t ours;
    } table[] = {
        {NVML_CLOCK_POWER_CAP, LIBSCHED_THROTTLE_POWER},
        {NVML_CLOCK_THERMAL | NVML_CLOCK_HARDWARE_THERMAL, LIBSCHED_THROTTLE_THERMAL},
        {NVML_CLOCK_HARDWARE, LIBSCHED_THROTTLE_HARDWARE},
        {NVML_CLOCK_BRAKE, LIBSCHED_THROTTLE_BRAKE},
        {NVML_CLOCK_SETTING | NVML_CLOCK_DISPLAY, LIBSCHED_THROTTLE_SETTING},
        {NVML_CLOCK_SYNC, LIBSCHED_THROTTLE_SYNC},
    };
    uint32_t throttle = 0;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if ((reasons & table[i].theirs) != 0)
            throttle |= table[i].ours;
    return throttle;
}

static void read_power(struct reader *r)
{
    unsigned int temperature, power, limit;
    unsigned long long energy, reasons;

    if (READ(r, temperature, NVML_ON_DIE, &temperature)) {
        r->out->has |= LIBSCHED_READING_TEMPERATURE;
        r->out->temperature_c = (int32_t)temperature;
    }
    if (READ(r, power, &power)) {
        r->out->has |= LIBSCHED_READING_POWER;
        r->out->power_mw = power;
    }
    if (READ(r, power_limit, &limit)) {
        r->out->has |= LIBSCHED_READING_POWER_LIMIT;
        r->out->power_limit_mw = limit;
    }
    if (READ(r, energy, &energy)) {
        r->out->has |= LIBSCHED_READING_ENERGY;
        r->out->energy_mj = energy;
    }
    if (READ(r, clock_reasons, &reasons)) {
        r->out->has |= LIBSCHED_READING_THROTTLE;
        r->out->throttle = throttle_of(reasons);
    }
}

static void read_errors(struct reader *r)
{
    unsigned long long corrected, uncorrected;

    if (READ(r, ecc, NVML_CORRECTED, NVML_VOLATILE, &corrected) &&
        READ(r, ecc, NVML_UNCORRECTED, NVML_VOLATILE, &uncorrected)) {
        r->out->has |= LIBSCHED_READING_ECC;
        r->out->ecc_corrected = corrected;
        r->out->ecc_uncorrected = uncorrected;
    }
}

/* A link that a card does not have is an error or not supported, which is not told apart. */
static void read_links(struct reader *r)
{
    for (unsigned int i = 0; r->nvml->link_state != NULL && i < NVML_MAX_LINKS; i++) {
        int up = 0;

        if (r->nvml->link_state(r->handle, i, &up) != NVML_OK)
            continue;
        r->out->has |= LIBSCHED_READING_LINKS;
        r->out->links++;
        r->out->links_up += up != 0;
    }
}

static void watch_xids(struct reader *r, struct cuda_instruments *own)
{
    if (r->nvml->events_create == NULL || r->nvml->events_register == NULL ||
        r->nvml->events_wait == NULL || r->nvml->events_free == NULL)
        return;
    if (!there(r, r->nvml->events_create(&own->events), "nvmlEventSetCreate"))
        return;
    if (there(r, r->nvml->events_register(r->handle, NVML_XID_EVENT, own->events),
              "nvmlDeviceRegisterEvents"))
        return;
    (void)r->nvml->events_free(own->events);
    own->events = NULL;
}

static void read_xids(struct reader *r, struct cuda_instruments *own)
{
    struct nvml_event event;
    int code = NVML_OK;

    for (int i = 0; own->events != NULL && i < MAX_EVENTS && code == NVML_OK; i++) {
        memset(&event, 0, sizeof(event));
        code = r->nvml->events_wait(own->events, &event, 0);
        if (code == NVML_OK && event.type == NVML_XID_EVENT) {
            own->xid_count++;
            own->last_xid = (uint32_t)event.data;
        }
    }
    if (code != NVML_TIMEOUT)
        (void)there(r, code, "nvmlEventSetWait_v2");
    if (own->events != NULL)
        r->out->has |= LIBSCHED_READING_XID;
    r->out->xid_count = own->xid_count;
    r->out->last_xid = own->last_xid;
}

/* The first time: which of NVML's devices it is, by its place, as its numbers are others too. */
static int find_instruments(struct cuda_device *device, struct reader *r, libsched_error *err)
{
    struct cuda_instruments *own = &device->instruments;
    int code;

    if (own->handle == NULL) {
        code = r->nvml->by_pci(device->pci, &own->handle);
        if (code != NVML_OK) {
            own->handle = NULL;
            return libsched_error_set(err, LIBSCHED_ESYSTEM, "NVML does not find the GPU at %s: %s",
                                      device->pci, r->nvml->error_string(code));
        }
        r->handle = own->handle;
        watch_xids(r, own);
    }
    r->handle = own->handle;
    return LIBSCHED_OK;
}

int cuda_readings(libsched_device *base, libsched_device_readings *out, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_readings readings = {.struct_size = out->struct_size};
    struct reader r = {.out = &readings};
    int status;

    if (out->struct_size < offsetof(libsched_device_readings, age_ns))
        return libsched_error_set(err, LIBSCHED_EINVAL, "readings of %u bytes are too few",
                                  out->struct_size);
    status = nvml_get(&r.nvml, err);
    if (status == LIBSCHED_OK)
        status = find_instruments(device, &r, err);
    if (status != LIBSCHED_OK)
        return status;
    /* First, as they say what the rest may fail of. */
    read_xids(&r, &device->instruments);
    read_uuid(&r);
    read_load(&r);
    read_power(&r);
    read_errors(&r);
    read_links(&r);
    memcpy(out, &readings,
           out->struct_size < sizeof(readings) ? out->struct_size : sizeof(readings));
    return LIBSCHED_OK;
}

void cuda_readings_close(struct cuda_device *device)
{
    const struct nvml *nvml;

    if (device->instruments.events != NULL && nvml_get(&nvml, NULL) == LIBSCHED_OK)
        (void)nvml->events_free(device->instruments.events);
    device->instruments.events = NULL;
}
