/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens at a time of its own: leases expire, and requests that libsched does not have miss
 * their deadlines.
 */
#include "port.h"

uint64_t timers_run(struct port *p)
{
    uint64_t next = lease_expire(&p->leases, p->now);
    uint64_t held = held_expire(p);
    uint64_t waiting = waiters_expire(p);
    if (held < next)
        next = held;
    return waiting < next ? waiting : next;
}
