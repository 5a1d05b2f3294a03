/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators that were kept after their job, for the next one on the same devices: to make one
 * takes NCCL a second.
 *
 * What is kept is known by the segment that the ranks share. The host keeps the segment where all
 * ranks have finished well, and drops it when one of their workers has ended or there are too many:
 * so all workers keep the same ones, and none asks another.
 */
#ifndef WORKER_AGENT_GANG_H
#define WORKER_AGENT_GANG_H

#include "worker/agent.h"

#ifdef __cplusplus
extern "C" {
#endif

/* More than any host keeps. */
#define AGENT_GANGS 8u

struct agent_gang {
    struct control_segment *segment; /* NULL: nothing is kept here */
    libsched_device_communicator *communicator;
    uint32_t rank, n_ranks;
};

/* Keeps a communicator, and with it the caller's use of the segment. False: there is no room. */
bool agent_gang_keep(struct agent *agent, const struct agent_gang *gang);
/* The communicator that was kept, which is the caller's again. NULL: there is none. */
libsched_device_communicator *agent_gang_take(struct agent *agent, struct control_segment *segment,
                                              uint32_t rank, uint32_t n_ranks);
/* Whether something is kept with a segment. */
bool agent_gang_has(const struct agent *agent, const struct control_segment *segment);
/* Destroys what was kept with a segment; of all with NULL. */
void agent_gang_drop(struct agent *agent, const struct control_segment *segment);

#ifdef __cplusplus
}
#endif

#endif
