/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/ring.h"

#include <string.h>

#define HEADER sizeof(struct ring_record)
/* Behind this many bytes an empty ring starts anew. */
#define REWIND_AFTER (64u * 1024)

static uint64_t padded(uint64_t length)
{
    return (length + 7) & ~UINT64_C(7);
}

void ring_attach(struct ring *ring, struct ring_control *control, void *data, uint64_t size)
{
    *ring = (struct ring){.control = control, .data = data, .size = size};
}

static void copy_in(struct ring *ring, uint64_t at, const void *from, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t offset = (at - ring->base) & (ring->size - 1);
    uint64_t first = ring->size - offset < length ? ring->size - offset : length;
    memcpy(ring->data + offset, from, first);
    memcpy(ring->data, (const unsigned char *)from + first, length - first);
}

static void copy_out(const struct ring *ring, uint64_t at, void *to, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t offset = (at - ring->base) & (ring->size - 1);
    uint64_t first = ring->size - offset < length ? ring->size - offset : length;
    memcpy(to, ring->data + offset, first);
    memcpy((unsigned char *)to + first, ring->data, length - first);
}

/* ---------------------------------------------------------------------------------- producer */

uint64_t ring_max_payload(const struct ring *ring)
{
    return ring->size - HEADER;
}

/* Bytes that may be written. A consumer that counts past the producer, or back, gets nothing. */
static uint64_t room(struct ring *ring)
{
    ring->seen = __atomic_load_n(&ring->control->tail, __ATOMIC_ACQUIRE);
    uint64_t used = ring->at - ring->seen;
    return used <= ring->size ? ring->size - used : 0;
}

bool ring_write(struct ring *ring, uint32_t type, const void *payload, uint32_t length)
{
    uint64_t need = HEADER + padded(length);
    if (length > ring_max_payload(ring))
        return false;
    /* The consumer's counter is looked at only when what is known of it does not suffice, or it is
     * time to go back to the beginning. */
    bool far = ring->at - ring->base >= REWIND_AFTER;
    uint64_t used = ring->at - ring->seen;
    if (far || used > ring->size || ring->size - used < need) {
        if (room(ring) < need)
            return false;
        if (far && ring->at == ring->seen) {
            ring->base = ring->at;
            __atomic_store_n(&ring->control->rewind, ring->at, __ATOMIC_RELAXED);
        }
    }
    struct ring_record record = {.length = length, .type = type};
    copy_in(ring, ring->at, &record, HEADER);
    copy_in(ring, ring->at + HEADER, payload, length);
    ring->at += need;
    __atomic_store_n(&ring->control->head, ring->at, __ATOMIC_RELEASE);
    return true;
}

/* Takes a flag back that the other side may have set before it sleeps. */
static bool take_flag(uint32_t *flag)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(flag, __ATOMIC_RELAXED) == 0)
        return false;
    return __atomic_exchange_n(flag, 0, __ATOMIC_SEQ_CST) != 0;
}

static void set_flag(uint32_t *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool ring_must_wake_consumer(struct ring *ring)
{
    return take_flag(&ring->control->sleeping);
}

void ring_block(struct ring *ring)
{
    set_flag(&ring->control->blocked);
}

void ring_unblock(struct ring *ring)
{
    __atomic_store_n(&ring->control->blocked, 0, __ATOMIC_SEQ_CST);
}

/* ---------------------------------------------------------------------------------- consumer */

enum ring_peek ring_peek(struct ring *ring, struct ring_record *record)
{
    uint64_t available = ring->seen - ring->at;
    if (available == 0) {
        ring->seen = __atomic_load_n(&ring->control->head, __ATOMIC_ACQUIRE);
        available = ring->seen - ring->at;
        if (available == 0)
            return RING_EMPTY;
        /* The producer goes back only where the consumer has just caught up: here. */
        if (__atomic_load_n(&ring->control->rewind, __ATOMIC_RELAXED) == ring->at)
            ring->base = ring->at;
    }
    if (available > ring->size || available < HEADER)
        return RING_BROKEN;
    copy_out(ring, ring->at, record, HEADER);
    uint64_t total = HEADER + padded(record->length);
    if (total > available || record->type == 0 || record->type > RING_MAX_TYPE)
        return RING_BROKEN;
    return RING_RECORD;
}

void ring_take(struct ring *ring, const struct ring_record *record, void *payload)
{
    copy_out(ring, ring->at + HEADER, payload, record->length);
    ring->at += HEADER + padded(record->length);
    __atomic_store_n(&ring->control->tail, ring->at, __ATOMIC_RELEASE);
}

bool ring_must_wake_producer(struct ring *ring)
{
    return take_flag(&ring->control->blocked);
}

bool ring_sleep(struct ring *ring)
{
    set_flag(&ring->control->sleeping);
    return __atomic_load_n(&ring->control->head, __ATOMIC_ACQUIRE) != ring->at;
}

bool ring_awake(struct ring *ring)
{
    return __atomic_exchange_n(&ring->control->sleeping, 0, __ATOMIC_SEQ_CST) == 0;
}

bool ring_sleeps(const struct ring *ring)
{
    return __atomic_load_n(&ring->control->sleeping, __ATOMIC_RELAXED) != 0;
}
