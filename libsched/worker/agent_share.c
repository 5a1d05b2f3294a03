/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent_share.h"

#include <stdlib.h>
#include <string.h>

#include "device/loader.h"

int agent_share_open(struct agent *agent, libsched_error *err)
{
    agent->share = calloc(1, sizeof(*agent->share));
    if (agent->share == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a load");
    agent_reach_open(&agent->share->reach);
    return LIBSCHED_OK;
}

void agent_share_free(struct agent *agent)
{
    if (agent->share == NULL)
        return;
    free(agent->share->load.parameters);
    free(agent->share->load.record);
    agent_reach_free(&agent->share->reach);
    free(agent->share);
}

void agent_share_cancel(struct agent *agent, uint64_t id)
{
    agent_reach_cancel(&agent->share->reach, agent, id);
}

/* -------------------------------------------------------------------------------- the loading */

/* What goes wrong here lets the others go on by themselves. */
static void leave(struct agent *agent, bool well)
{
    struct agent_reach *reach = &agent->share->reach;
    if (!well)
        agent_reach_abort(reach, agent);
    agent_reach_leave(reach);
    libsched_device_communicator *communicator = agent_reach_take(reach);
    if (communicator != NULL)
        agent->device->driver->communicator_destroy(agent->device, communicator);
}

static bool can_share(const libsched_device_driver *driver)
{
    return device_has_collectives(driver) && driver->communicator_id != NULL &&
           LIBSCHED_HAS(libsched_device_driver, driver, weight_share) &&
           driver->weight_share != NULL;
}

static int join(struct agent *agent, const struct protocol_share *how, const unsigned char *id,
                struct control_segment *segment, libsched_error *err)
{
    const libsched_device_communicator_args args = {
        .struct_size = sizeof(args),
        .rank = how->rank,
        .n_ranks = how->n_ranks,
        .timeout_ns = how->timeout_ns,
        .shared = segment->data,
        .shared_size = segment->size,
        .id = id,
        .cancelled = &agent->share->reach.cancelled,
    };
    libsched_device_communicator *communicator;
    int status =
        agent->device->driver->communicator_create(agent->device, &communicator, &args, err);
    if (status == LIBSCHED_OK)
        agent_reach_set(&agent->share->reach, agent, communicator);
    return status;
}

/* With the others, as soon as all are there. NULL: it has to be loaded alone. */
static struct agent_model *load_together(struct agent *agent, const struct agent_load *load,
                                         const unsigned char *id, libsched_error *err)
{
    struct control_segment *segment = control_find(agent->control, load->share.segment, err);
    struct agent_model *model = NULL;
    if (segment == NULL)
        return NULL;
    segment->users++;
    if (!segment->writable)
        libsched_error_set(err, LIBSCHED_EPROTOCOL,
                           "the memory of the loaders can't be written to");
    else if (join(agent, &load->share, id, segment, err) == LIBSCHED_OK)
        model = agent_model_open(agent, load, agent->share->reach.communicator, err);
    leave(agent, model != NULL);
    agent_release_segment(agent, segment);
    return model;
}

/* `id` is NULL where they can't find each other. */
static int load(struct agent *agent, struct agent_load *what, const unsigned char *id,
                libsched_error *err)
{
    struct agent_model *model = NULL;
    if (id != NULL)
        model = load_together(agent, what, id, err);
    else
        leave(agent, false);
    if (model != NULL)
        return agent_model_answer(agent, what, model, err);
    if (err->status == LIBSCHED_EDEVICELOST)
        return agent_model_answer(agent, what, NULL, err);
    agent_log(agent, "%s loads \"%s\" by itself: %s", agent->name, what->name, err->message);
    return agent_model_load_alone(agent, what);
}

static void send_id(struct agent *agent, uint32_t key, int status, const unsigned char *id)
{
    wire_reset(&agent->out);
    wire_put_u32(&agent->out, key);
    wire_put_u32(&agent->out, (uint32_t)status);
    wire_put(&agent->out, id, LIBSCHED_COMMUNICATOR_ID_SIZE);
    agent_send(agent, EVENT_LOAD_ID);
    /* The others are waiting for it, and this one will wait for them. */
    agent_wake_host(agent);
}

int agent_share_load(struct agent *agent, struct agent_load *what)
{
    struct agent_share *share = agent->share;
    const libsched_device_driver *driver = agent->device != NULL ? agent->device->driver : NULL;
    unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE] = {0};
    libsched_error err = {0};
    int status = LIBSCHED_OK;
    if (share->waits) {
        free(what->parameters);
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "the host begins a second load with others");
    }
    agent_reach_enter(&share->reach, what->share.id);
    if (driver == NULL || !can_share(driver))
        status = libsched_error_set(&err, LIBSCHED_ENOTSUP, "its device can't share weights");
    if (what->share.rank == 0) {
        if (status == LIBSCHED_OK)
            status = driver->communicator_id(agent->device, id, &err);
        send_id(agent, what->key, status, id);
    }
    if (status < 0 || what->share.rank == 0)
        return load(agent, what, status < 0 ? NULL : id, &err);
    share->waits = true;
    share->load = *what;
    share->load.record = agent->record;
    agent->record = NULL;
    agent->record_capacity = 0;
    return LIBSCHED_OK;
}

int agent_share_id(struct agent *agent, struct wire_reader *reader)
{
    struct agent_share *share = agent->share;
    unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE];
    uint32_t key = wire_get_u32(reader);
    int status = (int)wire_get_u32(reader);
    wire_get(reader, id, sizeof(id));
    if (!wire_ends(reader))
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "a command for a load can't be read");
    if (!share->waits || share->load.key != key)
        return LIBSCHED_OK;
    struct agent_load what = share->load;
    libsched_error err = {0};
    share->waits = false;
    memset(&share->load, 0, sizeof(share->load));
    /* Whatever befell that one's device, nothing is wrong with this one. */
    if (status < 0)
        libsched_error_set(&err, LIBSCHED_ECANCELED, "who was to read it can't: %s",
                           libsched_status_name(status));
    return load(agent, &what, status < 0 ? NULL : id, &err);
}
