/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Overload, announced: that requests begin to be refused for want of room, and that it is over. One
 * who watches need not be one who was refused.
 */
#ifndef PORT_OVERLOAD_H
#define PORT_OVERLOAD_H

#include <stdbool.h>
#include <stdint.h>

struct port;

struct overload {
    bool begun;
    uint64_t refused; /* since it began */
    uint64_t until;   /* it is over then, if none is refused before */
};

/* An infer was refused with this status. */
void overload_count(struct port *p, int status);
/* Announces its end where it is due; when to be called again (UINT64_MAX: not for its sake). */
uint64_t overload_run(struct port *p);

#endif
