/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's ear: a thread that listens on the control socket while the worker computes.
 *
 * It maps the segments that the host passes, hears that a job is cancelled, and notices the host's
 * death: the socket's end, or the host's pidfd where a fork of the host still holds the socket. A
 * worker process then ends at once, whatever it is doing. (PR_SET_PDEATHSIG would not do: it speaks
 * of the thread that started the worker, which may end long before the host.)
 */
#ifndef WORKER_CONTROL_H
#define WORKER_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct control;

/* A segment, mapped read-only unless the host lets workers write to it. */
struct control_segment {
    uint32_t id;
    bool writable;
    bool lasting;        /* there as long as the host */
    unsigned char *data; /* NULL: it could not be mapped */
    uint64_t size;
    /* The worker's thread alone uses these: tensors that lie in it, and whether it goes with the
     * last of them. */
    uint32_t users;
    bool dropped;
    bool told; /* the device knows of it */
};

/* Called by the thread when the host cancels a job, or a load with others. */
typedef void control_cancel_fn(void *context, bool load, uint64_t id);

/* Starts the thread. `host` is a pidfd, or -1 where the worker is a thread of the host. The
 * descriptors stay the caller's. */
int control_start(struct control **out, int socket, int host, control_cancel_fn *cancel,
                  void *context, libsched_error *err);

/* Ends the thread and unmaps everything. NULL is allowed. */
void control_stop(struct control *control);

/* A segment that the host has passed, or will have in a moment. NULL and a message where it does
 * not come or could not be mapped. */
struct control_segment *control_find(struct control *control, uint32_t id, libsched_error *err);

/* Unmaps a segment without users. */
void control_forget(struct control *control, struct control_segment *segment);

#ifdef __cplusplus
}
#endif

#endif
