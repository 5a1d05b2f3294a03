/* SPDX-License-Identifier: Apache-2.0 */
/* The rank of a job in this worker: what agent_rank.c and agent_rank_host.c share. */
#ifndef WORKER_AGENT_RANK_H
#define WORKER_AGENT_RANK_H

#include "worker/agent.h"
#include "worker/agent_gang.h"
#include "worker/agent_reach.h"
#include "worker/ledger.h"

#ifdef __cplusplus
extern "C" {
#endif

struct agent_rank {
    struct agent_reach reach; /* of its job, in the middle of a step */

    /* The rest is the worker's thread's. */
    bool waits_for_id, waits_to_go;
    uint64_t communicator_bytes; /* of device memory, as far as that was seen */
    struct protocol_rank head;
    char name[LIBSCHED_NAME_SIZE], program_name[LIBSCHED_NAME_SIZE];
    const char *library;
    libsched_parameter *parameters;
    unsigned char *record; /* their names and strings lie in it */
    unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE];
    struct control_segment *segment;
    bool finished, gave_up; /* all its steps; a collective, or all of it */
    const libsched_program *program;
    libsched_program_rank *rank; /* NULL: it has not been started */

    struct agent_gang gangs[AGENT_GANGS];

    struct ledger results;
    /* The latest progress, where it is held back. */
    bool held_back;
    uint64_t done, total, next_at;
    char message[LIBSCHED_MESSAGE_SIZE];
};

extern const libsched_program_host agent_program_host;

#ifdef __cplusplus
}
#endif

#endif
