/* SPDX-License-Identifier: Apache-2.0 */
#include "request_table.h"

#include <stdlib.h>
#include <string.h>

#define INITIAL_CAPACITY 1024u

/* Ids are counters mostly: multiplying spreads what they share (Knuth, volume 3, 6.4). */
static uint32_t slot_of(const struct request_table *t, uint32_t id)
{
    return (id * 2654435769u) >> 7 & t->mask;
}

static void put(struct request_table *t, uint32_t id, uint32_t index)
{
    uint32_t at = slot_of(t, id);
    while (t->slots[at].index != REQUEST_NONE)
        at = (at + 1) & t->mask;
    t->slots[at].id = id;
    t->slots[at].index = index;
}

/* Doubles both the requests and the slots, of which a half at most are taken. */
static int grow(struct request_table *t, uint32_t capacity)
{
    struct request *requests = realloc(t->requests, capacity * sizeof(*requests));
    if (requests == NULL)
        return -1;
    t->requests = requests;
    void *slots = realloc(t->slots, 2 * (size_t)capacity * sizeof(*t->slots));
    if (slots == NULL)
        return -1;
    t->slots = slots;
    t->mask = 2 * capacity - 1;
    memset(t->slots, 0xff, 2 * (size_t)capacity * sizeof(*t->slots));

    for (uint32_t i = t->capacity; i < capacity; i++)
        t->requests[i] = (struct request){.state = REQUEST_FREE,
                                          .next_free = i + 1 < capacity ? i + 1 : t->first_free};
    t->first_free = t->capacity;
    uint32_t before = t->capacity;
    t->capacity = capacity;
    for (uint32_t i = 0; i < before; i++)
        if (t->requests[i].state != REQUEST_FREE)
            put(t, t->requests[i].id, i);
    return 0;
}

int request_table_init(struct request_table *t)
{
    *t = (struct request_table){.first_free = REQUEST_NONE};
    return grow(t, INITIAL_CAPACITY);
}

void request_table_free(struct request_table *t)
{
    free(t->requests);
    free(t->slots);
    *t = (struct request_table){.first_free = REQUEST_NONE};
}

uint32_t request_table_add(struct request_table *t, uint32_t id, bool *in_use)
{
    *in_use = request_table_find(t, id) != REQUEST_NONE;
    if (*in_use)
        return REQUEST_NONE;
    if (t->first_free == REQUEST_NONE &&
        (t->capacity >= UINT32_MAX / 4 || grow(t, 2 * t->capacity) < 0))
        return REQUEST_NONE;

    uint32_t index = t->first_free;
    t->first_free = t->requests[index].next_free;
    t->requests[index] = (struct request){.id = id, .state = REQUEST_NEW, .leases = REQUEST_NONE};
    t->count++;
    put(t, id, index);
    return index;
}

static uint32_t find_slot(const struct request_table *t, uint32_t id)
{
    uint32_t at = slot_of(t, id);
    while (t->slots[at].index != REQUEST_NONE && t->slots[at].id != id)
        at = (at + 1) & t->mask;
    return at;
}

uint32_t request_table_find(const struct request_table *t, uint32_t id)
{
    return t->slots[find_slot(t, id)].index;
}

void request_table_remove(struct request_table *t, uint32_t index)
{
    struct request *request = &t->requests[index];
    uint32_t hole = find_slot(t, request->id);

    /* What probing had pushed beyond the hole moves back into it. */
    for (uint32_t at = (hole + 1) & t->mask; t->slots[at].index != REQUEST_NONE;
         at = (at + 1) & t->mask) {
        uint32_t home = slot_of(t, t->slots[at].id);
        if (((at - home) & t->mask) >= ((at - hole) & t->mask)) {
            t->slots[hole] = t->slots[at];
            hole = at;
        }
    }
    t->slots[hole].index = REQUEST_NONE;

    request->state = REQUEST_FREE;
    request->next_free = t->first_free;
    t->first_free = index;
    t->count--;
}
