/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LIBSCHED_OWN_THREAD. One lock around the whole scheduler, held while anything is done and given
 * back to sleep; who submits decides and dispatches on the spot, the library's thread takes in
 * what workers and timers say.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "runtime/internal.h"

void runtime_lock(libsched *s)
{
    if (s->own_thread)
        pthread_mutex_lock(&s->mutex);
}

void runtime_unlock(libsched *s)
{
    if (s->own_thread)
        pthread_mutex_unlock(&s->mutex);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Looks for work as long as the cores allow it and some comes. */
static void spin(libsched *s)
{
    uint64_t budget = libsched_spin_budget(s);
    if (budget == 0)
        return;
    uint64_t until = libsched_now() + budget;
    while (!__atomic_load_n(&s->thread_ends, __ATOMIC_ACQUIRE)) {
        runtime_lock(s);
        int n = runtime_process(s, true);
        runtime_unlock(s);
        uint64_t now = libsched_now();
        if (n > 0)
            until = now + budget;
        else if (now >= until)
            return;
        relax();
    }
}

static void *run(void *payload)
{
    libsched *s = payload;
    for (;;) {
        spin(s);
        runtime_lock(s);
        runtime_process(s, false);
        runtime_unlock(s);
        /* Looked at after the wake-up that came with it was taken. */
        if (__atomic_load_n(&s->thread_ends, __ATOMIC_ACQUIRE))
            break;
        struct epoll_event event;
        if (epoll_wait(s->epoll_fd, &event, 1, -1) < 0 && errno != EINTR) {
            runtime_log(s, LIBSCHED_LOG_ERROR, "epoll_wait failed: %s", strerror(errno));
            break;
        }
    }
    return NULL;
}

int runtime_thread_start(libsched *s, libsched_error *err)
{
    if ((s->options.flags & LIBSCHED_OWN_THREAD) == 0)
        return LIBSCHED_OK;
    int rc = pthread_mutex_init(&s->mutex, NULL);
    if (rc != 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "pthread_mutex_init failed: %s",
                                  strerror(rc));
    s->own_thread = true;
    rc = pthread_create(&s->thread, NULL, run, s);
    if (rc != 0) {
        s->own_thread = false;
        pthread_mutex_destroy(&s->mutex);
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "pthread_create failed: %s", strerror(rc));
    }
    return LIBSCHED_OK;
}

void runtime_thread_stop(libsched *s)
{
    if (!s->own_thread)
        return;
    __atomic_store_n(&s->thread_ends, true, __ATOMIC_RELEASE);
    runtime_lock(s);
    runtime_wake(s);
    runtime_unlock(s);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->mutex);
    s->own_thread = false;
}
