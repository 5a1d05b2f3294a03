/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker_main.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/agent.h"

/* Where memory runs out, a worker is a better victim than the scheduler that can start it anew. */
static void offer_to_oom_killer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    static const char score[] = "500";
    if (write(fd, score, sizeof(score) - 1) < 0) {
        /* It is then as good a victim as any other. */
    }
    close(fd);
}

static bool started_by_host(void)
{
    struct stat st;
    int type;
    socklen_t length = sizeof(type);
    for (int fd = CHANNEL_FD_CONTROL; fd < CHANNEL_FD_END; fd++)
        if (fstat(fd, &st) < 0)
            return false;
    return getsockopt(CHANNEL_FD_CONTROL, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
           type == SOCK_SEQPACKET;
}

int libsched_worker_main(int argc, char **argv)
{
    if (argc != 2 || !started_by_host()) {
        fprintf(stderr, "%s: a worker of libsched, which starts it; it does nothing by itself\n",
                argc > 0 ? argv[0] : "sched-worker");
        return WORKER_EXIT_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    offer_to_oom_killer();
    /* A program that an engine starts gets none of it. */
    for (int fd = CHANNEL_FD_CONTROL; fd < CHANNEL_FD_END; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);

    struct agent_descriptors descriptors = {
        .control = CHANNEL_FD_CONTROL,
        .memory = CHANNEL_FD_MEMORY,
        .results = CHANNEL_FD_RESULTS,
        .wake_worker = CHANNEL_FD_WAKE_WORKER,
        .wake_host = CHANNEL_FD_WAKE_HOST,
        .host = CHANNEL_FD_HOST,
    };
    libsched_error err;
    if (agent_run(&descriptors, &err) == LIBSCHED_OK)
        return 0;
    fprintf(stderr, "sched-worker %s: %s\n", argv[1], err.message);
    fflush(stderr);
    /* No destructors: what failed could hang in them. */
    _exit(WORKER_EXIT_FAULT);
}
