/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/monitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "device/loader.h"

#define PERIOD_NS UINT64_C(1000000000)

struct monitor {
    libsched_device *device;
    struct channel *channel;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping, ended;
    uint64_t asked, read; /* looks that were asked for, and of those done */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void say_none(struct channel *channel, const char *why)
{
    libsched_device_readings none = {.struct_size = sizeof(none)};
    snprintf(none.reason, sizeof(none.reason), "%s", why);
    channel_put_readings(channel, &none, now_ns());
}

/* False: there will never be any. */
static bool read_once(struct monitor *monitor)
{
    libsched_device_readings readings = {.struct_size = sizeof(readings)};
    libsched_error err = {0};
    int status = monitor->device->driver->readings(monitor->device, &readings, &err);
    if (status < 0)
        say_none(monitor->channel, err.message);
    else
        channel_put_readings(monitor->channel, &readings, now_ns());
    return status != LIBSCHED_ENOTSUP;
}

/* Until `until`, or until it is to do something before that. */
static void rest(struct monitor *monitor, uint64_t until, uint64_t asked)
{
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000),
                                .tv_nsec = (long)(until % 1000000000)};
    int error = 0;
    while (!monitor->stopping && monitor->asked == asked && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&monitor->changed, &monitor->mutex, &at);
}

static void *watch(void *argument)
{
    struct monitor *monitor = argument;
    prctl(PR_SET_NAME, "sched-monitor");
    pthread_mutex_lock(&monitor->mutex);
    bool more = true;
    while (more && !monitor->stopping) {
        uint64_t asked = monitor->asked;
        uint64_t next = now_ns() + PERIOD_NS;
        pthread_mutex_unlock(&monitor->mutex);
        more = read_once(monitor);
        pthread_mutex_lock(&monitor->mutex);
        monitor->read = asked;
        pthread_cond_broadcast(&monitor->changed);
        if (more)
            rest(monitor, next, asked);
    }
    monitor->ended = true;
    pthread_cond_broadcast(&monitor->changed);
    pthread_mutex_unlock(&monitor->mutex);
    return NULL;
}

int monitor_start(struct monitor **out, libsched_device *device, struct channel *channel,
                  libsched_error *err)
{
    *out = NULL;
    if (!device_has_readings(device->driver)) {
        say_none(channel, "the device has no instruments");
        return LIBSCHED_OK;
    }
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    if (monitor == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to watch the device");
    monitor->device = device;
    monitor->channel = channel;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&monitor->mutex, NULL);
    pthread_cond_init(&monitor->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int error = pthread_create(&monitor->thread, NULL, watch, monitor);
    if (error == 0) {
        *out = monitor;
        return LIBSCHED_OK;
    }
    pthread_cond_destroy(&monitor->changed);
    pthread_mutex_destroy(&monitor->mutex);
    free(monitor);
    return libsched_error_set(err, LIBSCHED_ESYSTEM, "starting a thread to watch the device: %s",
                              strerror(error));
}

void monitor_look(struct monitor *monitor, uint64_t wait_ns)
{
    if (monitor == NULL)
        return;
    uint64_t until = now_ns() + wait_ns;
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000),
                                .tv_nsec = (long)(until % 1000000000)};
    int error = 0;
    pthread_mutex_lock(&monitor->mutex);
    uint64_t asked = ++monitor->asked;
    pthread_cond_broadcast(&monitor->changed);
    while (!monitor->ended && monitor->read < asked && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&monitor->changed, &monitor->mutex, &at);
    pthread_mutex_unlock(&monitor->mutex);
}

void monitor_stop(struct monitor *monitor)
{
    if (monitor == NULL)
        return;
    pthread_mutex_lock(&monitor->mutex);
    monitor->stopping = true;
    pthread_cond_broadcast(&monitor->changed);
    pthread_mutex_unlock(&monitor->mutex);
    pthread_join(monitor->thread, NULL);
    pthread_cond_destroy(&monitor->changed);
    pthread_mutex_destroy(&monitor->mutex);
    free(monitor);
}
