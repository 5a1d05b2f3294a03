/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent_gang.h"

#include "worker/agent_rank.h"

bool agent_gang_keep(struct agent *agent, const struct agent_gang *gang)
{
    struct agent_gang *gangs = agent->rank->gangs;
    for (uint32_t i = 0; i < AGENT_GANGS; i++) {
        if (gangs[i].segment != NULL)
            continue;
        gangs[i] = *gang;
        return true;
    }
    return false;
}

libsched_device_communicator *agent_gang_take(struct agent *agent, struct control_segment *segment,
                                              uint32_t rank, uint32_t n_ranks)
{
    struct agent_gang *gangs = agent->rank->gangs;
    for (uint32_t i = 0; i < AGENT_GANGS; i++) {
        if (gangs[i].segment != segment || gangs[i].rank != rank || gangs[i].n_ranks != n_ranks)
            continue;
        gangs[i].segment = NULL;
        agent_release_segment(agent, segment);
        return gangs[i].communicator;
    }
    return NULL;
}

bool agent_gang_has(const struct agent *agent, const struct control_segment *segment)
{
    for (uint32_t i = 0; i < AGENT_GANGS; i++)
        if (agent->rank->gangs[i].segment == segment)
            return true;
    return false;
}

void agent_gang_drop(struct agent *agent, const struct control_segment *segment)
{
    struct agent_gang *gangs = agent->rank->gangs;
    for (uint32_t i = 0; i < AGENT_GANGS; i++) {
        struct control_segment *kept = gangs[i].segment;
        if (kept == NULL || (segment != NULL && kept != segment))
            continue;
        gangs[i].segment = NULL;
        /* The others may be gone: nothing is to be waited for. */
        agent->device->driver->communicator_abort(gangs[i].communicator);
        agent->device->driver->communicator_destroy(agent->device, gangs[i].communicator);
        agent_release_segment(agent, kept);
    }
}
