/* SPDX-License-Identifier: Apache-2.0 */
#include "overload.h"

#include "port.h"
#include "reply.h"

/* So long nobody may be refused before it is over. */
#define QUIET_NS UINT64_C(1000000000)

static void announce(struct port *p, const char *state)
{
    struct frame_writer *w = &p->writer;
    notify_begin(p, "event");
    encode_map(w, 3);
    encode_key(w, "event");
    encode_str(w, "overload");
    encode_key(w, "state");
    encode_str(w, state);
    encode_key(w, "refused");
    encode_uint(w, p->overload.refused);
    notify_end(p);
}

void overload_count(struct port *p, int status)
{
    struct overload *o = &p->overload;
    if (status != LIBSCHED_EBUSY && status != LIBSCHED_EQUEUEFULL && status != LIBSCHED_ECLIENTFULL)
        return;
    o->refused++;
    o->until = p->now + QUIET_NS;
    if (o->begun)
        return;
    o->begun = true;
    announce(p, "begun");
}

uint64_t overload_run(struct port *p)
{
    struct overload *o = &p->overload;
    if (!o->begun)
        return UINT64_MAX;
    if (p->now < o->until)
        return o->until;
    announce(p, "over");
    o->begun = false;
    o->refused = 0;
    return UINT64_MAX;
}
