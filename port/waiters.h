/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that wait for something to happen: a model to be ready (load, wait_ready) or gone
 * (unload), or all requests to be answered (drain).
 */
#ifndef PORT_WAITERS_H
#define PORT_WAITERS_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched.h>

struct port;

#define WAITERS_MAX 4096

enum waiter_kind { WAITER_LOAD, WAITER_READY, WAITER_UNLOAD, WAITER_DRAIN };

struct waiter {
    uint32_t kind;
    uint32_t index; /* of the request */
    char model[LIBSCHED_NAME_SIZE];
    uint64_t deadline; /* UINT64_MAX: none */
};

struct waiters {
    struct waiter *items;
    uint32_t n, capacity;
    uint64_t next_deadline;
};

void waiters_init(struct waiters *w);
void waiters_free(struct waiters *w);

/* The request waits from now on; where too many do already it is answered so. */
void waiters_add(struct port *p, enum waiter_kind kind, uint32_t index, const char *model,
                 uint64_t deadline);
/* Whether one more can wait: asked before doing what cannot be undone. */
bool waiters_full(const struct waiters *w);

/* Answers those who waited for this state of the model. */
void waiters_model_changed(struct port *p, const char *model, uint32_t state, int status,
                           const char *message);
/* Answers drains, when nothing is in flight. */
void waiters_idle(struct port *p);

/* Answers a wait_ready as cancelled; the others go on. */
void waiters_cancel(struct port *p, uint32_t index);

/* Answers those whose deadline passed; when the next one does. */
uint64_t waiters_expire(struct port *p);

#endif
