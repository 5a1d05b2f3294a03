/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptors that a caller sleeps on: one epoll set of the workers' descriptors, a timer, and
 * an eventfd for work that was left behind.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "runtime/internal.h"

int runtime_wakeup_open(libsched *s, libsched_error *err)
{
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll_fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "epoll_create1 failed: %s",
                                  strerror(errno));
    s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (s->timer_fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "timerfd_create failed: %s",
                                  strerror(errno));
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "eventfd failed: %s", strerror(errno));
    int rc = runtime_wakeup_watch(s, s->timer_fd, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_wakeup_watch(s, s->wake_fd, err);
    if (rc == LIBSCHED_OK && (s->options.flags & LIBSCHED_OWN_THREAD) != 0) {
        s->reap_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (s->reap_fd < 0)
            rc = libsched_error_set(err, LIBSCHED_ESYSTEM, "eventfd failed: %s", strerror(errno));
    }
    return rc;
}

void runtime_wakeup_close(libsched *s)
{
    int *fds[] = {&s->reap_fd, &s->wake_fd, &s->timer_fd, &s->epoll_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

int runtime_wakeup_watch(libsched *s, int fd, libsched_error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "epoll_ctl failed: %s", strerror(errno));
    return LIBSCHED_OK;
}

void runtime_wakeup_forget(libsched *s, int fd)
{
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* An eventfd's counter can't come near its limit here, so neither call fails but by EINTR, and
 * non-blocking they don't do that either. */
static void ring(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));
    (void)n;
}

static void hush(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n;
}

void runtime_wake(libsched *s)
{
    if (s->woken)
        return;
    s->woken = true;
    ring(s->wake_fd);
}

void runtime_wake_taken(libsched *s)
{
    if (!s->woken)
        return;
    s->woken = false;
    hush(s->wake_fd);
}

void runtime_reap_signal(libsched *s)
{
    if (s->reap_fd < 0 || s->reap_signalled)
        return;
    s->reap_signalled = true;
    ring(s->reap_fd);
}

void runtime_reap_taken(libsched *s)
{
    if (!s->reap_signalled)
        return;
    s->reap_signalled = false;
    hush(s->reap_fd);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

void runtime_timer_arm(libsched *s)
{
    uint64_t at = earlier(s->core_at, s->hold_at);
    at = earlier(at, s->checks_at);
    at = earlier(at, runtime_workers_restart_at(s));
    /* A timer that fires too early costs one look; moving it with each deadline costs a system
     * call a request. */
    if (at == 0 || (s->timer_at != 0 && s->timer_at <= at))
        return;
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)},
    };
    if (timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0)
        s->timer_at = at;
    else
        runtime_log(s, LIBSCHED_LOG_ERROR, "timerfd_settime failed: %s", strerror(errno));
}

void runtime_timer_taken(libsched *s, uint64_t now)
{
    if (s->timer_at == 0 || now < s->timer_at)
        return;
    s->timer_at = 0;
    hush(s->timer_fd);
}

void runtime_settle(libsched *s)
{
    if (s->own_thread) {
        runtime_decide(s);
        runtime_timer_arm(s);
    } else if (!s->spinning) {
        runtime_wake(s);
    }
}
