/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program may call during start() and step().
 */
#include "worker/agent_rank.h"

#include <string.h>

/* Progress is sent at most so often; what comes in between is held back, the latest of it. */
#define PROGRESS_NS UINT64_C(20000000)

uint64_t agent_rank_due(const struct agent *agent)
{
    return agent->rank->held_back ? agent->rank->next_at : 0;
}

void agent_rank_flush(struct agent *agent)
{
    struct agent_rank *rank = agent->rank;
    if (!rank->held_back)
        return;
    rank->held_back = false;
    rank->next_at = agent_now() + PROGRESS_NS;
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, rank->head.job);
    wire_put_u64(&agent->out, rank->done);
    wire_put_u64(&agent->out, rank->total);
    wire_put_string(&agent->out, rank->message);
    agent_send(agent, EVENT_PROGRESS);
    agent_wake_host(agent);
}

static void host_progress(void *host, uint64_t done, uint64_t total, const char *message)
{
    struct agent *agent = host;
    struct agent_rank *rank = agent->rank;
    if (rank->head.rank != 0)
        return;
    libsched_error line;
    libsched_error_set(&line, LIBSCHED_OK, "%s", message != NULL ? message : "");
    memcpy(rank->message, line.message, sizeof(rank->message));
    rank->done = total != 0 && done > total ? total : done;
    rank->total = total;
    rank->held_back = true;
    if (agent_now() >= rank->next_at)
        agent_rank_flush(agent);
}

static int host_result(void *host, const libsched_parameter *value)
{
    struct agent *agent = host;
    if (value == NULL)
        return LIBSCHED_EINVAL;
    int status = ledger_put(&agent->rank->results, value, NULL);
    if (status < 0 || agent->rank->head.rank != 0)
        return status;
    wire_reset(&agent->out);
    wire_put_u64(&agent->out, agent->rank->head.job);
    wire_put_parameters(&agent->out, value, 1);
    agent_send(agent, EVENT_RESULT);
    return LIBSCHED_OK;
}

static bool host_cancelled(void *host)
{
    struct agent *agent = host;
    return agent_reach_is_cancelled(&agent->rank->reach) || agent_must_stop(agent);
}

static void host_log(void *host, const char *message)
{
    struct agent *agent = host;
    agent_log(agent, "%s", message != NULL ? message : "");
    agent_wake_host(agent);
}

const libsched_program_host agent_program_host = {
    .struct_size = sizeof(libsched_program_host),
    .progress = host_progress,
    .result = host_result,
    .cancelled = host_cancelled,
    .log = host_log,
};
