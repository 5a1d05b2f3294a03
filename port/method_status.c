/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats, devices, drain and ping.
 */
#include "port.h"
#include "reply.h"

static void put(struct frame_writer *w, const char *name, uint64_t value)
{
    encode_str(w, name);
    encode_uint(w, value);
}

static void put_models(struct port *p)
{
    uint32_t n = libsched_model_count(p->sched);
    encode_map(&p->writer, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
        libsched_model_get(p->sched, i, &info);
        encode_str(&p->writer, info.name);
        encode_map(&p->writer, DESCRIBE_COUNTERS);
        describe_counters(p, &info.counters, info.queued, info.running);
    }
}

static void put_devices(struct port *p)
{
    struct frame_writer *w = &p->writer;
    uint32_t n = libsched_device_count(p->sched);
    encode_map(w, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        libsched_device_get(p->sched, i, &info);
        encode_str(w, info.name);
        encode_map(w, 3);
        put(w, "batches", info.batches);
        put(w, "busy_us", info.busy_ns / 1000);
        put(w, "restarts", info.restarts);
    }
}

static void put_port(struct port *p)
{
    struct frame_writer *w = &p->writer;
    encode_map(w, 13);
    put(w, "frames_in", p->reader.next_number);
    put(w, "messages_in", p->counters.messages_in);
    put(w, "bytes_in", p->reader.bytes);
    put(w, "bad_frames", p->counters.bad_frames);
    put(w, "frames_out", p->writer.frames);
    put(w, "parts_out", p->counters.parts_out);
    put(w, "bytes_out", p->writer.bytes);
    put(w, "backlog_bytes", frame_writer_backlog(&p->writer));
    put(w, "in_flight", p->in_flight);
    put(w, "held", p->held.n);
    put(w, "leases", p->leases.count);
    put(w, "lease_bytes", p->leases.bytes);
    put(w, "sleeps", p->counters.sleeps);
}

void method_stats(struct port *p, const struct message *m)
{
    libsched_stats stats = LIBSCHED_STATS_INIT;
    struct frame_writer *w = &p->writer;

    libsched_get_stats(p->sched, &stats);
    p->described.specs = NULL;
    reply_begin(p, m->index);
    encode_map(w, 8);
    encode_key(w, "uptime_us");
    encode_uint(w, stats.uptime_ns / 1000);
    encode_key(w, "arena_bytes");
    encode_uint(w, stats.arena_bytes);
    encode_key(w, "arena_used");
    encode_uint(w, stats.arena_used);
    encode_key(w, "worker_deaths");
    encode_uint(w, stats.worker_deaths);
    encode_key(w, "requests");
    encode_map(w, DESCRIBE_COUNTERS);
    describe_counters(p, &stats.counters, stats.queued, stats.running);
    encode_key(w, "models");
    put_models(p);
    encode_key(w, "devices");
    put_devices(p);
    encode_key(w, "port");
    put_port(p);
    reply_end(p, m->index);
}

void method_devices(struct port *p, const struct message *m)
{
    reply_begin(p, m->index);
    describe_devices(p);
    reply_end(p, m->index);
}

void method_drain(struct port *p, const struct message *m)
{
    if (!p->draining)
        libsched_drain(p->sched);
    p->draining = true;
    held_refuse(p);
    waiters_add(p, WAITER_DRAIN, m->index, NULL, UINT64_MAX);
    waiters_idle(p);
}

void method_ping(struct port *p, const struct message *m)
{
    if (m->n_params != 1) {
        reply_failure(p, m->index, LIBSCHED_EINVAL, "ping takes one value, got %u",
                      (unsigned)m->n_params);
        return;
    }
    reply_begin(p, m->index);
    msgpack_packer pk = encode_packer(&p->writer);
    msgpack_pack_object(&pk, m->params[0]);
    reply_end(p, m->index);
}
