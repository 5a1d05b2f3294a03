/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent_reach.h"

void agent_reach_open(struct agent_reach *reach)
{
    pthread_mutex_init(&reach->mutex, NULL);
}

void agent_reach_free(struct agent_reach *reach)
{
    pthread_mutex_destroy(&reach->mutex);
}

void agent_reach_enter(struct agent_reach *reach, uint64_t id)
{
    pthread_mutex_lock(&reach->mutex);
    reach->present = true;
    reach->id = id;
    __atomic_store_n(&reach->cancelled, reach->any_cancelled && reach->cancelled_id == id,
                     __ATOMIC_RELEASE);
    pthread_mutex_unlock(&reach->mutex);
}

void agent_reach_leave(struct agent_reach *reach)
{
    pthread_mutex_lock(&reach->mutex);
    reach->present = false;
    pthread_mutex_unlock(&reach->mutex);
}

bool agent_reach_is_cancelled(const struct agent_reach *reach)
{
    return __atomic_load_n(&reach->cancelled, __ATOMIC_ACQUIRE);
}

/* With the mutex held. */
static void abort_communicator(struct agent_reach *reach, const struct agent *agent)
{
    if (reach->communicator != NULL)
        agent->device->driver->communicator_abort(reach->communicator);
}

void agent_reach_cancel(struct agent_reach *reach, const struct agent *agent, uint64_t id)
{
    pthread_mutex_lock(&reach->mutex);
    reach->any_cancelled = true;
    reach->cancelled_id = id;
    if (reach->present && reach->id == id) {
        __atomic_store_n(&reach->cancelled, true, __ATOMIC_RELEASE);
        abort_communicator(reach, agent);
    }
    pthread_mutex_unlock(&reach->mutex);
}

void agent_reach_set(struct agent_reach *reach, const struct agent *agent,
                     libsched_device_communicator *communicator)
{
    pthread_mutex_lock(&reach->mutex);
    reach->communicator = communicator;
    if (reach->cancelled)
        abort_communicator(reach, agent);
    pthread_mutex_unlock(&reach->mutex);
}

void agent_reach_abort(struct agent_reach *reach, const struct agent *agent)
{
    pthread_mutex_lock(&reach->mutex);
    abort_communicator(reach, agent);
    pthread_mutex_unlock(&reach->mutex);
}

libsched_device_communicator *agent_reach_take(struct agent_reach *reach)
{
    pthread_mutex_lock(&reach->mutex);
    libsched_device_communicator *communicator = reach->communicator;
    reach->communicator = NULL;
    pthread_mutex_unlock(&reach->mutex);
    return communicator;
}
