/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that have not been answered, by the client's id and by an index of our own, which is
 * what libsched carries as `user`.
 *
 * It grows with what one frame may hold; how many requests may be in flight for longer is limited
 * by libsched and by the lists of what waits.
 */
#ifndef PORT_REQUEST_TABLE_H
#define PORT_REQUEST_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#define REQUEST_NONE UINT32_MAX

enum request_state {
    REQUEST_FREE,
    REQUEST_NEW,       /* listed, its frame is being carried out */
    REQUEST_SUBMITTED, /* libsched has it: `handle` */
    REQUEST_HELD,      /* waits for its model's description: see held.h */
    REQUEST_WAITING,   /* waits for a model or for all others: see waiters.h */
};

struct request {
    uint32_t id;
    uint32_t state;      /* request_state */
    uint64_t handle;     /* libsched's id */
    uint32_t leases;     /* committed or kept: the first of a list, see lease.h */
    int32_t failed_part; /* why a part of its answer could not be sent; LIBSCHED_OK */
    uint32_t next_free;
};

struct request_table {
    struct request *requests;
    uint32_t capacity, first_free;
    uint32_t count; /* in use */

    struct {
        uint32_t id, index; /* REQUEST_NONE: an empty slot */
    } * slots;
    uint32_t mask;
};

int request_table_init(struct request_table *t);
void request_table_free(struct request_table *t);

/* Lists an id. Its index; or REQUEST_NONE: `*in_use` then says whether it is listed already, or
 * else there is no memory. Pointers to requests become invalid. */
uint32_t request_table_add(struct request_table *t, uint32_t id, bool *in_use);

/* The index of an id, or REQUEST_NONE. */
uint32_t request_table_find(const struct request_table *t, uint32_t id);

void request_table_remove(struct request_table *t, uint32_t index);

static inline struct request *request_table_at(const struct request_table *t, uint32_t index)
{
    return &t->requests[index];
}

#endif
