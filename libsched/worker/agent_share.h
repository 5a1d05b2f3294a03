/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model that several workers load at the same time: they find each other as the ranks of a job
 * do, so that the engine can let one of them read it for all. Where they do not, or where something
 * goes wrong with that, each loads it as if it were alone: nothing fails because of the others.
 */
#ifndef WORKER_AGENT_SHARE_H
#define WORKER_AGENT_SHARE_H

#include "worker/agent.h"
#include "worker/agent_reach.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What was asked for, as it came. */
struct agent_load {
    uint32_t key;
    const char *name, *engine, *library, *path;
    libsched_parameter *parameters; /* the load's own */
    uint32_t n_parameters;
    bool prepare_only;
    struct protocol_share share;
    unsigned char *record; /* in which its strings lie, where it waits; else NULL */
};

struct agent_share {
    struct agent_reach reach; /* of the load under way */

    /* The rest is the worker's thread's. */
    bool waits; /* for what rank 0 makes */
    struct agent_load load;
};

int agent_share_open(struct agent *agent, libsched_error *err);
void agent_share_free(struct agent *agent);
/* Loads a model with others, or begins to: the load is this one's from here on. */
int agent_share_load(struct agent *agent, struct agent_load *load);
int agent_share_id(struct agent *agent, struct wire_reader *reader);
/* For the ear: the host has given up a load that is shared. */
void agent_share_cancel(struct agent *agent, uint64_t id);

/* agent_models.c: opens a model, with a communicator or NULL; NULL and `err` where that fails. */
struct agent_model *agent_model_open(struct agent *agent, const struct agent_load *load,
                                     libsched_device_communicator *communicator,
                                     libsched_error *err);
/* Loads it as if nobody else did, and answers. */
int agent_model_load_alone(struct agent *agent, struct agent_load *load);
/* Answers a load, and frees what it has. */
int agent_model_answer(struct agent *agent, struct agent_load *load,
                       const struct agent_model *model, const libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
