/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "worker/id_map.h"
#include "worker/memory.h"
#include "worker/protocol.h"

/* The host passes a segment before it names it, so one only waits for this thread's turn. */
#define PATIENCE_S 10

struct control {
    int socket, host;
    control_cancel_fn *cancel;
    void *context;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    bool stopping, ended;
    struct id_map segments; /* struct control_segment */
};

static void unmap(struct control_segment *segment)
{
    memory_unmap(segment->data, segment->size);
    free(segment);
}

static struct control_segment *map(const struct protocol_segment *message, int fd)
{
    struct control_segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL)
        return NULL;
    segment->id = message->id;
    segment->size = message->size;
    segment->writable = (message->flags & PROTOCOL_WRITABLE) != 0;
    segment->lasting = (message->flags & PROTOCOL_LASTING) != 0;
    struct stat st;
    void *data;
    if (fstat(fd, &st) == 0 && (uint64_t)st.st_size >= message->size &&
        memory_map(&data, fd, message->size, segment->writable, NULL) == 0)
        segment->data = data;
    return segment;
}

static void add(struct control *control, const struct protocol_segment *message, int fd)
{
    struct control_segment *segment = map(message, fd);
    close(fd);
    pthread_mutex_lock(&control->mutex);
    if (segment != NULL && id_map_find(&control->segments, segment->id) == NULL &&
        id_map_reserve(&control->segments, 1)) {
        id_map_add(&control->segments, segment->id, (uintptr_t)segment);
        segment = NULL;
    }
    pthread_cond_broadcast(&control->arrived);
    pthread_mutex_unlock(&control->mutex);
    if (segment != NULL)
        unmap(segment);
}

/* Reads one message; false at the socket's end. */
static bool receive(struct control *control)
{
    struct protocol_segment messages[PROTOCOL_MAX_SEGMENTS];
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PROTOCOL_MAX_SEGMENTS)];
        struct cmsghdr align;
    } ancillary;
    struct iovec io = {.iov_base = messages, .iov_len = sizeof(messages)};
    struct msghdr header = {
        .msg_iov = &io,
        .msg_iovlen = 1,
        .msg_control = &ancillary,
        .msg_controllen = sizeof(ancillary),
    };
    ssize_t length = recvmsg(control->socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0)
        return errno == EAGAIN || errno == EINTR;
    if (length == 0)
        return false;
    size_t n = (size_t)length / sizeof(messages[0]), next = 0;
    if (n == 1 && (messages[0].flags & (PROTOCOL_CANCEL | PROTOCOL_CANCEL_LOAD)) != 0) {
        control->cancel(control->context, (messages[0].flags & PROTOCOL_CANCEL_LOAD) != 0,
                        messages[0].size);
        return true;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < fds; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (next < n)
                add(control, &messages[next++], fd);
            else
                close(fd);
        }
    }
    return true;
}

static void *listen_thread(void *argument)
{
    struct control *control = argument;
    prctl(PR_SET_NAME, "sched-control");
    struct pollfd fds[2] = {
        {.fd = control->socket, .events = POLLIN | POLLRDHUP},
        {.fd = control->host, .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[1].revents != 0)
            break;
        if ((fds[0].revents & POLLIN) != 0) {
            if (!receive(control))
                break;
        } else if (fds[0].revents != 0) {
            break;
        }
    }
    pthread_mutex_lock(&control->mutex);
    bool abandoned = !control->stopping && control->host >= 0;
    control->ended = true;
    pthread_cond_broadcast(&control->arrived);
    pthread_mutex_unlock(&control->mutex);
    /* Nobody is left who would read what the worker computes. */
    if (abandoned)
        _exit(0);
    return NULL;
}

int control_start(struct control **out, int socket, int host, control_cancel_fn *cancel,
                  void *context, libsched_error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (control == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the control thread");
    control->socket = socket;
    control->host = host;
    control->cancel = cancel;
    control->context = context;
    pthread_mutex_init(&control->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&control->arrived, &attributes);
    pthread_condattr_destroy(&attributes);
    int error = pthread_create(&control->thread, NULL, listen_thread, control);
    if (error != 0) {
        pthread_cond_destroy(&control->arrived);
        pthread_mutex_destroy(&control->mutex);
        free(control);
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "starting the control thread: %s",
                                  strerror(error));
    }
    *out = control;
    return LIBSCHED_OK;
}

void control_stop(struct control *control)
{
    if (control == NULL)
        return;
    pthread_mutex_lock(&control->mutex);
    control->stopping = true;
    pthread_mutex_unlock(&control->mutex);
    shutdown(control->socket, SHUT_RDWR);
    pthread_join(control->thread, NULL);
    for (size_t i = 0; i < control->segments.capacity; i++)
        if (control->segments.entries[i].used)
            unmap((struct control_segment *)(uintptr_t)control->segments.entries[i].value);
    id_map_free(&control->segments);
    pthread_cond_destroy(&control->arrived);
    pthread_mutex_destroy(&control->mutex);
    free(control);
}

struct control_segment *control_find(struct control *control, uint32_t id, libsched_error *err)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_S;

    pthread_mutex_lock(&control->mutex);
    uint64_t *value;
    int error = 0;
    while ((value = id_map_find(&control->segments, id)) == NULL && !control->ended && error == 0)
        error = pthread_cond_timedwait(&control->arrived, &control->mutex, &until);
    struct control_segment *segment =
        value != NULL ? (struct control_segment *)(uintptr_t)*value : NULL;
    pthread_mutex_unlock(&control->mutex);

    if (segment == NULL) {
        libsched_error_set(err, LIBSCHED_EPROTOCOL, "segment %" PRIu32 " was not passed", id);
    } else if (segment->data == NULL) {
        libsched_error_set(err, LIBSCHED_ENOMEM,
                           "segment %" PRIu32 " of %" PRIu64 " bytes could not be mapped", id,
                           segment->size);
        segment = NULL;
    }
    return segment;
}

void control_forget(struct control *control, struct control_segment *segment)
{
    pthread_mutex_lock(&control->mutex);
    id_map_remove(&control->segments, segment->id);
    pthread_mutex_unlock(&control->mutex);
    unmap(segment);
}
