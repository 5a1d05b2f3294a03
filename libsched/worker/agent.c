/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "device/loader.h"
#include "worker/affinity.h"
#include "worker/agent_gang.h"
#include "worker/agent_share.h"

/* So long a worker that has lost its device waits for its instruments, at most. */
#define LAST_LOOK_NS UINT64_C(200000000)
/* A device that computes is looked at for so long without a pause; and then at least so often. */
#define LOOK_NS UINT64_C(60000)
#define NAP_MAX_NS UINT64_C(500000)

uint64_t agent_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

bool agent_must_stop(const struct agent *agent)
{
    return __atomic_load_n(&agent->channel.header->stop, __ATOMIC_ACQUIRE) != 0;
}

int agent_fail(struct agent *agent, int status, const char *format, ...)
{
    char text[LIBSCHED_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    channel_speak(&agent->channel, status, text);
    return status;
}

/* -------------------------------------------------------------------------------------- waiting */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool something_to_do(const struct agent *agent)
{
    uint64_t head = __atomic_load_n(&agent->channel.header->commands.head, __ATOMIC_ACQUIRE);
    return head != agent->commands.at || agent_must_stop(agent);
}

static bool spin(const struct agent *agent)
{
    uint32_t spin_us = __atomic_load_n(&agent->channel.header->spin_us, __ATOMIC_RELAXED);
    if (spin_us == 0)
        return false;
    uint64_t until = agent_now() + (uint64_t)spin_us * 1000;
    do {
        for (int i = 0; i < 64; i++) {
            if (something_to_do(agent))
                return true;
            relax();
        }
    } while (agent_now() < until);
    return false;
}

static void wait_for_command(struct agent *agent)
{
    if (something_to_do(agent) || spin(agent))
        return;
    uint64_t due = agent_rank_due(agent);
    if (due != 0 && agent_now() >= due) {
        agent_rank_flush(agent);
        return;
    }
    if (!ring_sleep(&agent->commands) && !agent_must_stop(agent))
        agent_sleep(agent, due);
    ring_awake(&agent->commands);
}

/* ------------------------------------------------------------------------------------- commands */

/* What a device has to say. */
static void note(void *context, const char *text)
{
    struct agent *agent = context;

    agent_log(agent, "%s: %s", agent->name, text);
}

static int open_device(struct agent *agent, const char *driver, uint32_t ordinal,
                       const char *pci_bus_id)
{
    const libsched_device_driver *found;
    libsched_device_open_args args = {
        .struct_size = sizeof(args),
        .ordinal = ordinal,
        .threads = agent->threads,
        .pci_bus_id = pci_bus_id != NULL && pci_bus_id[0] != '\0' ? pci_bus_id : NULL,
        .note = note,
        .note_context = agent,
    };
    libsched_error err = {0};
    int status = device_find_driver(&found, driver, agent->plugin_path, &err);
    if (status == 0)
        status = found->open(&agent->device, &args, &err);
    if (status == 0)
        return LIBSCHED_OK;
    if (err.message[0] == '\0')
        libsched_error_set(&err, status, "driver \"%s\" can't open device %" PRIu32, driver,
                           ordinal);
    return agent_fail(agent, status, "%s", err.message);
}

int agent_tell_memory(struct agent *agent, void *memory, uint64_t size, bool writable)
{
    const libsched_device_host_args args = {
        .struct_size = sizeof(args),
        .flags = writable ? 0 : LIBSCHED_HOST_READ_ONLY,
        .memory = memory,
        .size = size,
    };
    libsched_error err = {0};

    if (agent->device == NULL || !device_has_host_memory(agent->device->driver))
        return LIBSCHED_OK;
    int status = agent->device->driver->host_register(agent->device, &args, &err);
    if (status == LIBSCHED_EDEVICELOST)
        return agent_fail(agent, status, "%s", err.message);
    /* It is slower without. */
    if (status != LIBSCHED_OK)
        agent_log(agent, "%s: %s", agent->name, err.message);
    return LIBSCHED_OK;
}

static int set_up(struct agent *agent, struct wire_reader *reader)
{
    snprintf(agent->name, sizeof(agent->name), "%s", wire_get_name(reader));
    const char *plugin_path = wire_get_string(reader);
    const char *driver = wire_get_string(reader);
    uint32_t ordinal = wire_get_u32(reader);
    const char *pci_bus_id = wire_get_string(reader);
    const char *cpus = wire_get_string(reader);
    agent->threads = wire_get_u32(reader);
    if (!wire_ends(reader))
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "the host's set-up can't be read");

    char thread_name[16];
    snprintf(thread_name, sizeof(thread_name), "sched:%.9s", agent->name);
    prctl(PR_SET_NAME, thread_name);
    if (plugin_path != NULL && (agent->plugin_path = strdup(plugin_path)) == NULL)
        return agent_fail(agent, LIBSCHED_ENOMEM, "no memory for the plugins' path");
    libsched_error err;
    /* Without its cores it is slower, not wrong. */
    if (cpus != NULL && affinity_bind(cpus, &err) < 0)
        agent_log(agent, "%s runs on any core: %s", agent->name, err.message);
    if (driver != NULL) {
        int status = open_device(agent, driver, ordinal, pci_bus_id);
        if (status == LIBSCHED_OK)
            status =
                agent_tell_memory(agent, agent->results, agent->channel.header->result_bytes, true);
        if (status < 0)
            return status;
    }
    if (agent->device != NULL &&
        monitor_start(&agent->monitor, agent->device, &agent->channel, &err) < 0)
        agent_log(agent, "%s", err.message);
    wire_reset(&agent->out);
    agent_send(agent, EVENT_UP);
    return LIBSCHED_OK;
}

static int handle(struct agent *agent, const struct ring_record *record)
{
    struct wire_reader reader;
    wire_read(&reader, agent->record, record->length);
    /* These look themselves for what they have to wait for. */
    const bool beside = record->type == COMMAND_RUN || record->type == COMMAND_DROP_SEGMENT;
    if (!beside && agent->n_steps > 0) {
        int status = agent_steps_finish(agent, 0);
        if (status < 0)
            return status;
    }
    switch (record->type) {
    case COMMAND_SETUP:
        return set_up(agent, &reader);
    case COMMAND_LOAD:
        return agent_load(agent, &reader);
    case COMMAND_UNLOAD:
        return agent_unload(agent, wire_get_u32(&reader));
    case COMMAND_RUN:
        return agent_step(agent, &reader);
    case COMMAND_DROP_SEGMENT:
        return agent_drop_segment(agent, wire_get_u32(&reader));
    case COMMAND_RANK_CHECK:
        return agent_rank_check(agent, &reader);
    case COMMAND_RANK_START:
        return agent_rank_start(agent, &reader);
    case COMMAND_RANK_ID:
        return agent_rank_id(agent, &reader);
    case COMMAND_RANK_GO:
        return agent_rank_go(agent, &reader);
    case COMMAND_LOAD_ID:
        return agent_share_id(agent, &reader);
    case COMMAND_RANK_STEP:
        return agent_rank_step(agent, &reader);
    case COMMAND_RANK_CLOSE:
        return agent_rank_close(agent, &reader);
    default:
        return agent_fail(agent, LIBSCHED_EPROTOCOL, "the host sent an unknown command %" PRIu32,
                          record->type);
    }
}

static bool reserve_record(struct agent *agent, size_t length)
{
    if (length <= agent->record_capacity && agent->record != NULL)
        return true;
    if (length <= agent->spare_capacity && agent->spare_record != NULL) {
        free(agent->record);
        agent->record = agent->spare_record;
        agent->record_capacity = agent->spare_capacity;
        agent->spare_record = NULL;
        agent->spare_capacity = 0;
        return true;
    }
    size_t capacity = 4096;
    while (capacity < length)
        capacity *= 2;
    free(agent->record);
    agent->record = malloc(capacity);
    agent->record_capacity = agent->record != NULL ? capacity : 0;
    return agent->record != NULL;
}

/* Waits for the device and for the next command, whichever comes first. The device can't ring: it
 * is looked at, at first all the time and then the less often the longer it takes. */
static int go_on(struct agent *agent)
{
    const uint64_t begin = agent_now();
    bool over = false;
    int status = agent_steps_go_on(agent, &over);

    while (status == LIBSCHED_OK && !over && !something_to_do(agent)) {
        const uint64_t waited = agent_now() - begin;
        if (waited < LOOK_NS) {
            relax();
        } else {
            const uint64_t nap = waited / 16 < NAP_MAX_NS ? waited / 16 : NAP_MAX_NS;
            if (!ring_sleep(&agent->commands) && !agent_must_stop(agent))
                agent_sleep(agent, agent_now() + nap);
            ring_awake(&agent->commands);
        }
        status = agent_steps_go_on(agent, &over);
    }
    /* One that is behind it may have ended items. */
    agent_wake_host(agent);
    return status;
}

static int serve(struct agent *agent)
{
    while (!agent_must_stop(agent)) {
        struct ring_record record;
        switch (ring_peek(&agent->commands, &record)) {
        case RING_EMPTY:
            if (agent->n_steps == 0) {
                wait_for_command(agent);
            } else {
                int status = go_on(agent);
                if (status < 0)
                    return status;
            }
            break;
        case RING_BROKEN:
            return agent_fail(agent, LIBSCHED_EPROTOCOL, "the ring of commands is damaged");
        case RING_RECORD:
            if (!reserve_record(agent, record.length))
                return agent_fail(agent, LIBSCHED_ENOMEM,
                                  "no memory for a command of %" PRIu32 " bytes", record.length);
            ring_take(&agent->commands, &record, agent->record);
            agent_results_collect(agent);
            int status = handle(agent, &record);
            /* A worker that is never idle tells what was held back all the same. */
            uint64_t due = agent_rank_due(agent);
            if (due != 0 && agent_now() >= due)
                agent_rank_flush(agent);
            agent_wake_host(agent);
            if (status < 0)
                return status;
            break;
        }
    }
    return LIBSCHED_OK;
}

static void release(struct agent *agent)
{
    /* What comes out of it is of use to nobody, but must not be written any more. */
    (void)agent_steps_finish(agent, 0);
    agent_rank_end(agent);
    agent_gang_drop(agent, NULL);
    agent_items_drop_all(agent);
    agent_models_close(agent);
    monitor_stop(agent->monitor);
    if (agent->device != NULL)
        agent->device->driver->close(agent->device);
    control_stop(agent->control);
    agent_rank_free(agent);
    agent_share_free(agent);
    agent_results_close(agent);
    wire_writer_free(&agent->out);
    free(agent->record);
    free(agent->spare_record);
    free(agent->plugin_path);
    agent_steps_free(agent);
    id_map_free(&agent->models);
    id_map_free(&agent->items);
}

static void hear_cancel(void *context, bool load, uint64_t id)
{
    if (load)
        agent_share_cancel(context, id);
    else
        agent_rank_cancel(context, id);
}

int agent_run(const struct agent_descriptors *descriptors, libsched_error *err)
{
    struct agent agent = {.fds = descriptors};
    *err = (libsched_error){0};
    int status = channel_attach(&agent.channel, descriptors->memory, err);
    if (status == 0) {
        struct channel_header *header = agent.channel.header;
        ring_attach(&agent.commands, &header->commands, agent.channel.command_data,
                    CHANNEL_COMMAND_BYTES);
        ring_attach(&agent.events, &header->events, agent.channel.event_data, CHANNEL_EVENT_BYTES);
        status = agent_results_open(&agent, err);
        if (status == 0)
            status = agent_rank_open(&agent, err);
        if (status == 0)
            status = agent_share_open(&agent, err);
        if (status == 0)
            status = control_start(&agent.control, descriptors->control, descriptors->host,
                                   hear_cancel, &agent, err);
    }
    if (status < 0) {
        if (agent.channel.header != NULL)
            channel_speak(&agent.channel, status, err->message);
    } else {
        status = serve(&agent);
        /* What NVIDIA's driver has to say of it is told to nobody who asks later. */
        if (status == LIBSCHED_EDEVICELOST)
            monitor_look(agent.monitor, LAST_LOOK_NS);
        if (status < 0)
            channel_read_last_words(&agent.channel, err);
    }
    /* A process that ends because of a fault ends as it is: what failed could hang on closing. */
    if (status == 0 || descriptors->host < 0) {
        release(&agent);
        if (agent.channel.header != NULL)
            channel_detach(&agent.channel);
    }
    return status;
}
