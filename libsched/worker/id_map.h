/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A map from 64-bit ids to 64-bit values (pointers, slots): open addressing with linear probing,
 * kept at most half full. Room is made by id_map_reserve(), so that adding cannot fail half way
 * through something.
 */
#ifndef WORKER_ID_MAP_H
#define WORKER_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct id_map_entry {
    uint64_t id, value;
    bool used;
};

/* All zero is an empty map. */
struct id_map {
    struct id_map_entry *entries;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

void id_map_free(struct id_map *map);

/* Makes room for `more` further ids; false where memory is short. */
bool id_map_reserve(struct id_map *map, size_t more);

/* Adds an id that is not there; the room was reserved. */
void id_map_add(struct id_map *map, uint64_t id, uint64_t value);

/* The place of an id's value, valid until the map changes, or NULL. */
uint64_t *id_map_find(const struct id_map *map, uint64_t id);

/* Removes an id; false where it is not there. */
bool id_map_remove(struct id_map *map, uint64_t id);

#ifdef __cplusplus
}
#endif

#endif
