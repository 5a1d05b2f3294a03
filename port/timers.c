/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens at a time of its own: leases expire, requests that libsched does not have miss their
 * deadlines, and an overload is over.
 */
#include "port.h"

uint64_t timers_run(struct port *p)
{
    uint64_t next = lease_expire(&p->leases, p->now);
    uint64_t held = held_expire(p);
    uint64_t waiting = waiters_expire(p);
    uint64_t overload = overload_run(p);
    if (held < next)
        next = held;
    if (overload < next)
        next = overload;
    return waiting < next ? waiting : next;
}
