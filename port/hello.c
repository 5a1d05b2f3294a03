/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first message: who this is, and what it takes.
 */
#include <unistd.h>

#include "port.h"
#include "reply.h"

void hello_send(struct port *p)
{
    struct frame_writer *w = &p->writer;
    bool leases = p->options->lease_max_bytes > 0;

    notify_begin(p, "hello");
    encode_map(w, leases ? 12 : 11);
    encode_key(w, "protocol");
    encode_uint(w, PORT_PROTOCOL);
    encode_key(w, "version");
    encode_str(w, libsched_version());
    encode_key(w, "pid");
    encode_uint(w, (uint64_t)getpid());
    encode_key(w, "clock_ns");
    encode_uint(w, libsched_now());
    encode_key(w, "max_frame_bytes");
    encode_uint(w, p->options->max_frame_bytes);
    encode_key(w, "max_nesting");
    encode_uint(w, FRAME_MAX_NESTING);
    encode_key(w, "max_values");
    encode_uint(w, FRAME_MAX_VALUES);
    encode_key(w, "max_reply_bytes");
    encode_uint(w, PORT_MAX_REPLY);
    encode_key(w, "credit");
    encode_map(w, 2);
    encode_key(w, "requests");
    encode_uint(w, p->options->libsched.max_requests);
    /* Slots of the arena are somewhat larger than what lies in them. */
    encode_key(w, "bytes");
    encode_uint(w, p->options->libsched.arena_bytes / 4 * 3);
    if (leases) {
        encode_key(w, "lease_bytes");
        encode_map(w, 2);
        encode_key(w, "min");
        encode_uint(w, p->options->lease_min_bytes);
        encode_key(w, "max");
        encode_uint(w, p->options->lease_max_bytes);
    }
    encode_key(w, "devices");
    describe_devices(p);
    encode_key(w, "models");
    describe_models(p);
    notify_end(p);
}
