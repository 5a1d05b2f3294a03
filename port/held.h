/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests whose tensors are nested arrays, for a model that is still loading: what datatype they
 * become is not known before its description is, so their messages are kept until then.
 */
#ifndef PORT_HELD_H
#define PORT_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched.h>

struct port;

#define HELD_MAX 4096
#define HELD_MAX_BYTES ((size_t)64 << 20)

struct held_request {
    uint32_t index; /* of the request */
    char model[LIBSCHED_NAME_SIZE];
    uint64_t deadline; /* on libsched's clock; UINT64_MAX: none */
    uint8_t *data;     /* its message */
    size_t size;
};

struct held {
    struct held_request *items; /* in the order in which they came */
    uint32_t n, capacity;
    size_t bytes;
    uint64_t next_deadline; /* not later than the next; UINT64_MAX: none */
};

void held_init(struct held *h);
void held_free(struct held *h);

/* Keeps a request; -1 where the limits, or the memory, are reached. */
int held_add(struct held *h, uint32_t index, const char *model, uint64_t deadline,
             const uint8_t *data, size_t size);

/* Something became of a model: the requests that waited for it are carried out. */
void held_model_changed(struct port *p, const char *model);

/* Answers one as cancelled; false where it is not here. */
bool held_cancel(struct port *p, uint32_t index);

/* Answers all: the scheduler is closing. */
void held_refuse(struct port *p);

/* Answers those whose deadline passed; when the next one does. */
uint64_t held_expire(struct port *p);

#endif
