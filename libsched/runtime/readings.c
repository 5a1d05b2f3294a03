/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the instruments of devices show. The workers read them (worker/monitor.h); here it is only
 * looked at what they left, so that nobody who asks waits for a device.
 */
#include <stdio.h>

#include "runtime/internal.h"

static const char *why_none(const struct runtime_device *device)
{
    switch (device->state) {
    case LIBSCHED_DEVICE_HELD:
        return "no worker of ours watches the device: it is reserved";
    case LIBSCHED_DEVICE_STARTING:
    case LIBSCHED_DEVICE_UP:
        return "they were not read yet";
    case LIBSCHED_DEVICE_ABSENT:
    case LIBSCHED_DEVICE_DOWN:
        break;
    }
    return "the device can't be used";
}

/* Of a worker that is gone nothing is as it was but its errors. */
void runtime_readings_keep(libsched *s, struct runtime_device *device)
{
    libsched_device_readings last;
    if (!worker_readings(device->worker, &last) || last.xid_count == 0)
        return;
    device->xid_count += last.xid_count;
    device->last_xid = last.last_xid;
    runtime_log(s, LIBSCHED_LOG_WARNING,
                "%s: NVIDIA's driver told %llu error%s while its worker ran, the last one Xid %u",
                device->name, (unsigned long long)last.xid_count, last.xid_count == 1 ? "" : "s",
                last.last_xid);
}

int libsched_device_get_readings(libsched *s, uint32_t index, libsched_device_readings *out)
{
    if (index >= s->n_listed)
        return LIBSCHED_ENODEVICE;
    libsched_device_readings readings = LIBSCHED_DEVICE_READINGS_INIT;
    runtime_lock(s);
    const struct runtime_device *device = &s->devices[index];
    if (device->worker == NULL || !worker_readings(device->worker, &readings))
        snprintf(readings.reason, sizeof(readings.reason), "%s", why_none(device));
    readings.xid_count += device->xid_count;
    if (readings.last_xid == 0)
        readings.last_xid = device->last_xid;
    if (readings.xid_count != 0)
        readings.has |= LIBSCHED_READING_XID;
    runtime_unlock(s);
    return runtime_struct_write(out, &readings, sizeof(readings));
}
