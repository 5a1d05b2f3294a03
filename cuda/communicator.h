/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CUDA_COMMUNICATOR_H
#define CUDA_COMMUNICATOR_H

#include "meeting.h"
#include "nccl.h"

struct libsched_device_communicator {
    struct cuda_device *device;
    const struct nccl *nccl;
    struct nccl_communicator *handle; /* NULL: aborted, or not there yet */
    struct meeting meeting;
    uint64_t timeout_ns; /* 0: none */
    uint32_t operation;  /* the latest: for messages */
    bool failed;
    bool aborted;          /* atomic: by another thread */
    const bool *cancelled; /* while it is created */
    struct cuda_span word; /* of barriers */
};

/* Says what comes next, and whether all is well so far. */
int cuda_communicator_announce(libsched_device_communicator *c, const struct meeting_call *call,
                               libsched_error *err);
/* Brings the bytes of a piece of memory to those of the same size on the other ranks. */
int cuda_communicator_spread(libsched_device_communicator *c, uint32_t root, struct cuda_span *span,
                             libsched_error *err);
/* After a function of NCCL answered `result`: waits until what it began is with the stream. */
int cuda_communicator_settle(libsched_device_communicator *c, int result, const char *what,
                             libsched_error *err);

#endif
