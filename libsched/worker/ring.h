/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of records in shared memory, with one producer and one consumer who need not trust each
 * other.
 *
 * head and tail count bytes since the beginning and never wrap; each is written by one side. A
 * side keeps its own counter in private memory, copies the other's before it checks it, and never
 * reads its own back. A record is a header (length, type) and its payload, padded to 8 bytes, and
 * becomes visible as a whole.
 *
 * When everything was consumed and the memory's beginning has been left well behind, the producer
 * goes back there: `rewind` says from which count on the bytes lie at offset 0 again. So a ring
 * that is seldom full uses few pages and stays in cache, however large it may be.
 *
 * Wake-ups. A consumer that is about to sleep says so (ring_sleep) and looks once more; a producer
 * that finds the flag set takes it back and owes one write to the consumer's eventfd. Likewise a
 * producer that waits for room (ring_block), and its consumer. The store of one side and the load
 * of the other are ordered by a full fence on both sides, so that no wake-up is lost.
 */
#ifndef WORKER_RING_H
#define WORKER_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In shared memory, all zero at the start. Each line is written by one side mainly. */
struct ring_control {
    uint64_t head __attribute__((aligned(64)));
    uint64_t rewind; /* the producer's too; valid where the consumer's counter is equal to it */
    uint64_t tail __attribute__((aligned(64)));
    uint32_t sleeping __attribute__((aligned(64))); /* the consumer wants to be woken */
    uint32_t blocked __attribute__((aligned(64)));  /* the producer wants to be woken */
};

struct ring_record {
    uint32_t length; /* of the payload */
    uint32_t type;   /* 1 .. RING_MAX_TYPE */
};

#define RING_MAX_TYPE 0xFFFFu

/* One side's view. */
struct ring {
    struct ring_control *control;
    unsigned char *data;
    uint64_t size; /* a power of two */
    uint64_t at;   /* this side's counter: head of the producer, tail of the consumer */
    uint64_t seen; /* the other side's counter, when it was last looked at */
    uint64_t base; /* the counter at which the offset was 0 */
};

/* A view for either side of a ring that was not used yet. */
void ring_attach(struct ring *ring, struct ring_control *control, void *data, uint64_t size);

/* ---------------------------------------------------------------------------------- producer */

/* The longest payload the ring can ever take. */
uint64_t ring_max_payload(const struct ring *ring);

/* Writes a record; false where there is no room for it now. */
bool ring_write(struct ring *ring, uint32_t type, const void *payload, uint32_t length);

/* After writing: whether the consumer sleeps and has to be woken by the caller. */
bool ring_must_wake_consumer(struct ring *ring);

/* Before sleeping for room: afterwards the caller tries once more. */
void ring_block(struct ring *ring);
void ring_unblock(struct ring *ring);

/* ---------------------------------------------------------------------------------- consumer */

enum ring_peek { RING_EMPTY, RING_RECORD, RING_BROKEN };

/* Looks at the next record. RING_BROKEN: the producer wrote what no producer writes. */
enum ring_peek ring_peek(struct ring *ring, struct ring_record *record);

/* Copies the payload of the record that ring_peek() told of, and takes it out of the ring. */
void ring_take(struct ring *ring, const struct ring_record *record, void *payload);

/* After taking: whether the producer waits for room and has to be woken by the caller. */
bool ring_must_wake_producer(struct ring *ring);

/* Before sleeping: true where something is waiting already (the flag stays set). */
bool ring_sleep(struct ring *ring);
/* After waking by oneself. True: the producer had taken the flag back, and a wake-up is owed. */
bool ring_awake(struct ring *ring);
/* Whether the flag is still set. */
bool ring_sleeps(const struct ring *ring);

#ifdef __cplusplus
}
#endif

#endif
