/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators that were kept after their job, for the next one on the same devices: to make one
 * takes NCCL a second.
 *
 * What is kept is known by the segment that the ranks share. The host keeps the segment where all
 * ranks have finished well, and drops it when one of their workers has ended or there are too many.
 * A worker may lack one all the same: it is asked before it is used. What the device's memory is
 * wanted for goes before: so what a kept one holds counts as free.
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
    uint64_t bytes; /* of device memory, as far as that was seen */
};

/* Keeps a communicator, and with it the caller's use of the segment. False: there is no room. */
bool agent_gang_keep(struct agent *agent, const struct agent_gang *gang);
/* What was kept, which is the caller's again, but for the use of the segment. False: it is not
 * there. */
bool agent_gang_take(struct agent *agent, struct agent_gang *out, struct control_segment *segment,
                     uint32_t rank, uint32_t n_ranks);
/* Whether something is kept with a segment. */
bool agent_gang_has(const struct agent *agent, const struct control_segment *segment);
/* Destroys what was kept with a segment; of all with NULL. */
void agent_gang_drop(struct agent *agent, const struct control_segment *segment);
/* Device memory that would be free without them. */
uint64_t agent_gang_bytes(const struct agent *agent);
/* There is no memory: all go, and the host hears of it. False where none was there. No step is
 * under way. */
bool agent_gang_forget(struct agent *agent);

#ifdef __cplusplus
}
#endif

#endif
