/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

void agent_wake_host(struct agent *agent)
{
    if (!agent->unannounced)
        return;
    agent->unannounced = false;
    if (ring_must_wake_consumer(&agent->events))
        channel_wake(agent->fds->wake_host);
}

void agent_sleep(struct agent *agent, uint64_t until)
{
    int fd = agent->fds->wake_worker;
    if (until != 0) {
        uint64_t now = agent_now();
        uint64_t left = until > now ? until - now : 0;
        struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000),
                                   .tv_nsec = (long)(left % 1000000000)};
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (ppoll(&poll_fd, 1, &timeout, NULL) <= 0)
            return;
    }
    uint64_t count;
    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

void agent_send(struct agent *agent, enum protocol_event type)
{
    const struct wire_writer *out = &agent->out;
    agent->unannounced = true;
    while (!ring_write(&agent->events, type, out->data, (uint32_t)out->length)) {
        if (agent_must_stop(agent))
            return;
        agent->unannounced = true;
        agent_wake_host(agent);
        ring_block(&agent->events);
        bool written = ring_write(&agent->events, type, out->data, (uint32_t)out->length);
        if (!written && !agent_must_stop(agent))
            agent_sleep(agent, 0);
        ring_unblock(&agent->events);
        if (written)
            return;
    }
}

void agent_log(struct agent *agent, const char *format, ...)
{
    char line[LIBSCHED_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    struct wire_writer out = {0};
    wire_put_string(&out, line);
    /* A line that finds no room is not worth waiting for. */
    if (!out.failed && ring_write(&agent->events, EVENT_LOG, out.data, (uint32_t)out.length))
        agent->unannounced = true;
    wire_writer_free(&out);
}
