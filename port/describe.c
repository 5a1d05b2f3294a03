/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models, devices and counters as the maps that stand for them in messages.
 */
#include <string.h>

#include "port.h"
#include "reply.h"

const char *describe_model_state(uint32_t state)
{
    static const char *const names[] = {
        [LIBSCHED_MODEL_LOADING] = "loading", [LIBSCHED_MODEL_READY] = "ready",
        [LIBSCHED_MODEL_FAILED] = "failed",   [LIBSCHED_MODEL_UNLOADING] = "unloading",
        [LIBSCHED_MODEL_GONE] = "gone",
    };
    return state >= LIBSCHED_MODEL_LOADING && state <= LIBSCHED_MODEL_GONE ? names[state]
                                                                           : "unknown";
}

const char *describe_device_state(uint32_t state)
{
    static const char *const names[] = {
        [LIBSCHED_DEVICE_ABSENT] = "absent", [LIBSCHED_DEVICE_STARTING] = "starting",
        [LIBSCHED_DEVICE_UP] = "up",         [LIBSCHED_DEVICE_DOWN] = "down",
        [LIBSCHED_DEVICE_HELD] = "held",
    };
    return state >= LIBSCHED_DEVICE_ABSENT && state <= LIBSCHED_DEVICE_HELD ? names[state]
                                                                            : "unknown";
}

#define PUT_UINT(w, name, value) \
    do {                         \
        encode_key(w, name);     \
        encode_uint(w, value);   \
    } while (0)

#define PUT_STR(w, name, value) \
    do {                        \
        encode_key(w, name);    \
        encode_str(w, value);   \
    } while (0)

/* DESCRIBE_COUNTERS pairs of a map whose head is written already. */
void describe_counters(struct port *p, const libsched_counters *c, uint32_t queued,
                       uint32_t running)
{
    struct frame_writer *w = &p->writer;
    PUT_UINT(w, "submitted", c->submitted);
    PUT_UINT(w, "completed", c->completed);
    PUT_UINT(w, "failed", c->failed);
    PUT_UINT(w, "cancelled", c->cancelled);
    PUT_UINT(w, "expired", c->expired);
    PUT_UINT(w, "refused", c->refused);
    PUT_UINT(w, "retried", c->retried);
    PUT_UINT(w, "batches", c->batches);
    PUT_UINT(w, "batched_requests", c->batched_requests);
    PUT_UINT(w, "batched_units", c->batched_units);
    PUT_UINT(w, "queue_us", c->queue_ns / 1000);
    PUT_UINT(w, "compute_us", c->compute_ns / 1000);
    PUT_UINT(w, "queued", queued);
    PUT_UINT(w, "running", running);
}

static void put_specs(struct frame_writer *w, const libsched_tensor_spec *specs, uint32_t n)
{
    encode_array(w, n);
    for (uint32_t i = 0; i < n; i++) {
        const libsched_tensor_spec *spec = &specs[i];
        const char *datatype = libsched_datatype_name(spec->datatype);
        encode_map(w, 4);
        encode_key(w, "name");
        encode_words(w, spec->name); /* a plugin's */
        PUT_STR(w, "datatype", datatype != NULL ? datatype : "");
        encode_key(w, "shape");
        encode_array(w, spec->rank);
        for (uint32_t k = 0; k < spec->rank; k++)
            encode_int(w, spec->shape[k]);
        encode_key(w, "optional");
        encode_bool(w, spec->optional);
    }
}

void describe_device_name(struct port *p, uint32_t index)
{
    if (index >= PORT_NAMED_DEVICES) {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        libsched_device_get(p->sched, index, &info);
        encode_str(&p->writer, info.name);
        return;
    }
    if (p->device_names[index][0] == '\0') {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        libsched_device_get(p->sched, index, &info);
        memcpy(p->device_names[index], info.name, sizeof(info.name));
    }
    encode_str(&p->writer, p->device_names[index]);
}

void describe_device_names(struct port *p, uint64_t bits)
{
    encode_array(&p->writer, (uint32_t)__builtin_popcountll(bits));
    for (; bits != 0; bits &= bits - 1)
        describe_device_name(p, (uint32_t)__builtin_ctzll(bits));
}

static void put_model(struct port *p, const libsched_model_info *info)
{
    struct frame_writer *w = &p->writer;
    bool failed = info->error.status < 0;
    encode_map(w, 11 + DESCRIBE_COUNTERS + (failed ? 1 : 0));
    PUT_STR(w, "name", info->name);
    PUT_STR(w, "state", describe_model_state(info->state));
    encode_key(w, "engine");
    encode_words(w, info->engine); /* as a client said, where there is none */
    encode_key(w, "text");
    encode_words(w, info->text);
    if (failed) {
        encode_key(w, "error");
        encode_error(w, info->error.status, info->error.message, 0);
    }
    encode_key(w, "inputs");
    put_specs(w, info->inputs, info->n_inputs);
    encode_key(w, "outputs");
    put_specs(w, info->outputs, info->n_outputs);
    encode_key(w, "devices");
    describe_device_names(p, info->devices);
    PUT_UINT(w, "max_batch_requests", info->max_batch_requests);
    PUT_UINT(w, "max_batch_units", info->max_batch_units);
    PUT_UINT(w, "max_request_units", info->max_request_units);
    PUT_UINT(w, "queue_limit", info->queue_limit);
    describe_counters(p, &info->counters, info->queued, info->running);
}

int describe_model(struct port *p, const char *name)
{
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    p->described.specs = NULL;
    if (libsched_model_find(p->sched, name, &info) < 0)
        return -1;
    put_model(p, &info);
    return 0;
}

void describe_models(struct port *p)
{
    uint32_t n = libsched_model_count(p->sched);
    p->described.specs = NULL;
    encode_array(&p->writer, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
        libsched_model_get(p->sched, i, &info);
        put_model(p, &info);
    }
}

void describe_devices(struct port *p)
{
    struct frame_writer *w = &p->writer;
    uint32_t n = libsched_device_count(p->sched);
    encode_array(w, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        libsched_device_get(p->sched, i, &info);
        const bool gpu = info.kind == LIBSCHED_DEVICE_GPU;
        bool usable = info.state != LIBSCHED_DEVICE_ABSENT && info.state != LIBSCHED_DEVICE_DOWN;
        encode_map(w, 14 + (info.pci[0] != '\0') + gpu);
        PUT_STR(w, "name", info.name);
        PUT_STR(w, "kind", gpu ? "gpu" : "cpu");
        encode_key(w, "model");
        encode_words(w, info.model);
        encode_key(w, "usable");
        encode_bool(w, usable);
        encode_key(w, "reason");
        encode_words(w, info.reason);
        PUT_STR(w, "state", describe_device_state(info.state));
        encode_key(w, "numa_node");
        encode_int(w, info.numa_node);
        PUT_STR(w, "cpus", info.cpus);
        PUT_UINT(w, "cores", info.cores);
        PUT_UINT(w, "memory_bytes", info.memory_bytes);
        if (info.pci[0] != '\0')
            PUT_STR(w, "pci", info.pci);
        PUT_UINT(w, "pid", info.pid > 0 ? (uint64_t)info.pid : 0);
        PUT_UINT(w, "restarts", info.restarts);
        PUT_UINT(w, "busy_us", info.busy_ns / 1000);
        PUT_UINT(w, "batches", info.batches);
        if (gpu) {
            encode_key(w, "readings");
            describe_readings(p, i);
        }
    }
}
