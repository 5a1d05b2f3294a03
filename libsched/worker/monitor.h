/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's eye on its device: a thread that reads the device's instruments about once a second,
 * and leaves what they show in the channel. Reading may take long, or never end, where a device is
 * broken: so neither the worker's thread nor the host waits for it.
 */
#ifndef WORKER_MONITOR_H
#define WORKER_MONITOR_H

#include <stdint.h>

#include <libsched/device.h>
#include <libsched/status.h>

#include "worker/channel.h"

#ifdef __cplusplus
extern "C" {
#endif

struct monitor;

/* Starts the thread; *out is NULL where the device has no instruments, which the channel then
 * says. The device and the channel are there until monitor_stop(). */
int monitor_start(struct monitor **out, libsched_device *device, struct channel *channel,
                  libsched_error *err);

/* Lets it read once more, now, and waits for that so long at most: before a process ends because
 * of its device. NULL is allowed. */
void monitor_look(struct monitor *monitor, uint64_t wait_ns);

/* Ends the thread, after the reading it is at. NULL is allowed. */
void monitor_stop(struct monitor *monitor);

#ifdef __cplusplus
}
#endif

#endif
