/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: memory that a client writes itself, so that a large tensor goes round the pipe.
 *
 * A lease is a memfd. Its size is sealed when it is made, its contents when an infer names it, and
 * only then does anybody here look at it: so nothing a client does to it, at any time, changes
 * bytes under a reader or takes pages away. Sealing fails while somebody has it mapped for writing.
 *
 * Their descriptors have numbers of a range of their own that are used in turn, not the lowest that
 * is free: a client that comes too late finds no file rather than that of the next lease.
 */
#ifndef PORT_LEASE_H
#define PORT_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched.h>

#include "request_table.h"

#define LEASE_MAX 1024
/* Of a piece that comes through the pipe, so that others pass between two of them. */
#define LEASE_MAX_PIECE ((uint32_t)256 << 10)

struct lease {
    uint32_t id;   /* 0: free */
    int fd;        /* -1 once it is committed */
    uint64_t size; /* counts until the request it was committed to ends */
    uint64_t expires;
    bool kept;             /* for a request that waits: it does not expire */
    uint32_t next;         /* of the same request, or free; REQUEST_NONE ends the list */
    libsched_error broken; /* status: what a lease_write had done wrong */
};

struct lease_table {
    struct lease *leases; /* LEASE_MAX */
    uint32_t first_free;
    uint32_t count;   /* in use */
    uint32_t next_id; /* its generation */
    uint64_t bytes, max_bytes;
    uint64_t expiry_ns;
    int next_fd, fd_first, fd_last;
    uint64_t next_expiry; /* not later than the next expiry; UINT64_MAX: none */
};

/* max_bytes 0: no leases. 0 or a negative status. */
int lease_table_init(struct lease_table *t, uint64_t max_bytes, uint64_t expiry_ns,
                     libsched_error *err);
void lease_table_free(struct lease_table *t);

/* Makes one: its id and descriptor. LIBSCHED_ETOOBIG, LIBSCHED_EBUSY, LIBSCHED_ESYSTEM,
 * LIBSCHED_ENOTSUP where there are none. */
int lease_open(struct lease_table *t, uint64_t size, uint64_t now, const struct lease **out,
               libsched_error *err);

/* Writes a piece for a client that cannot open the file. What is wrong with it is kept for the
 * commit; an id that is none is ignored. */
void lease_write(struct lease_table *t, uint32_t id, uint64_t offset, const void *data,
                 uint32_t size);
/* A piece that cannot be written as it is: likewise kept for the commit. */
void lease_refuse_piece(struct lease_table *t, uint32_t id, const char *why);

/* Gives one back that was not committed; an id that is none is ignored. */
void lease_give_back(struct lease_table *t, uint32_t id);

/* A request that waits for its model has named a lease: it is kept for it, in the request's list,
 * and given back when the request ends. An id that is none, or kept already, is ignored. */
void lease_keep(struct lease_table *t, uint32_t id, uint32_t *list);
/* The request is carried out now: its leases can be committed, and expire again. */
void lease_let_go(struct lease_table *t, uint32_t list);

/*
 * Seals a lease and makes it a buffer (the caller's reference). It is gone for any other infer
 * then, also where this failed; what it held counts until lease_release_all(). `list` is the
 * request's list of leases, to which it is added.
 */
int lease_commit(struct lease_table *t, libsched *sched, uint32_t id, uint32_t *list,
                 libsched_buffer **out, libsched_error *err);

/* The request has ended: the leases that were committed to it, or kept for it, stop counting. */
void lease_release_all(struct lease_table *t, uint32_t list);

/* Takes away what nobody committed in time; when to look again (UINT64_MAX: there are none). */
uint64_t lease_expire(struct lease_table *t, uint64_t now);

#endif
