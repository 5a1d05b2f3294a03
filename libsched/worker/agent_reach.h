/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the worker's thread does with the workers of other devices, and how the ear reaches it
 * there: that thread may wait for them in a collective, and hear of nothing. All but what is said
 * is the worker's thread's.
 */
#ifndef WORKER_AGENT_REACH_H
#define WORKER_AGENT_REACH_H

#include <pthread.h>

#include "worker/agent.h"

#ifdef __cplusplus
extern "C" {
#endif

struct agent_reach {
    pthread_mutex_t mutex; /* guards all of it */
    bool present;          /* also read without it by the worker's thread, which alone changes it */
    uint64_t id;           /* of what is under way */
    libsched_device_communicator *communicator; /* likewise */
    bool any_cancelled;
    uint64_t cancelled_id; /* the last one: it may be heard of before its begin is */
    bool cancelled;        /* what is under way; read atomically, without the mutex too */
};

void agent_reach_open(struct agent_reach *reach);
void agent_reach_free(struct agent_reach *reach);

/* Something begins: from here on the ear reaches it. */
void agent_reach_enter(struct agent_reach *reach, uint64_t id);
void agent_reach_leave(struct agent_reach *reach);
bool agent_reach_is_cancelled(const struct agent_reach *reach);
/* For the ear: the host has given it up. */
void agent_reach_cancel(struct agent_reach *reach, const struct agent *agent, uint64_t id);

/* The communicator is aborted if it was cancelled meanwhile. */
void agent_reach_set(struct agent_reach *reach, const struct agent *agent,
                     libsched_device_communicator *communicator);
/* What has failed here lets the others fail where they wait for it. */
void agent_reach_abort(struct agent_reach *reach, const struct agent *agent);
/* The ear does not reach it any more. NULL: there is none. */
libsched_device_communicator *agent_reach_take(struct agent_reach *reach);

#ifdef __cplusplus
}
#endif

#endif
