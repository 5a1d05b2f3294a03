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

bool agent_gang_take(struct agent *agent, struct agent_gang *out, struct control_segment *segment,
                     uint32_t rank, uint32_t n_ranks)
{
    struct agent_gang *gangs = agent->rank->gangs;
    for (uint32_t i = 0; i < AGENT_GANGS; i++) {
        if (gangs[i].segment != segment || gangs[i].rank != rank || gangs[i].n_ranks != n_ranks)
            continue;
        *out = gangs[i];
        gangs[i].segment = NULL;
        agent_release_segment(agent, segment);
        return true;
    }
    return false;
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

uint64_t agent_gang_bytes(const struct agent *agent)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < AGENT_GANGS; i++)
        if (agent->rank->gangs[i].segment != NULL)
            bytes += agent->rank->gangs[i].bytes;
    return bytes;
}

bool agent_gang_forget(struct agent *agent)
{
    bool any = false;
    for (uint32_t i = 0; i < AGENT_GANGS; i++)
        any = any || agent->rank->gangs[i].segment != NULL;
    if (!any)
        return false;
    agent_gang_drop(agent, NULL);
    wire_reset(&agent->out);
    agent_send(agent, EVENT_FORGOT);
    return true;
}
