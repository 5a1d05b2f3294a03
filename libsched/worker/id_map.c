/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/id_map.h"

#include <stdlib.h>

#define MIN_CAPACITY 64

/* The ids count up from somewhere: a multiplication spreads them. */
static size_t home(const struct id_map *map, uint64_t id)
{
    return (size_t)((id * UINT64_C(0x9E3779B97F4A7C15)) >> 20) & (map->capacity - 1);
}

void id_map_free(struct id_map *map)
{
    free(map->entries);
    *map = (struct id_map){0};
}

bool id_map_reserve(struct id_map *map, size_t more)
{
    if (more > SIZE_MAX / 4 / sizeof(struct id_map_entry) - map->count)
        return false;
    size_t need = (map->count + more) * 2;
    if (need <= map->capacity)
        return true;
    struct id_map grown = {.capacity = map->capacity > 0 ? map->capacity : MIN_CAPACITY};
    while (grown.capacity < need)
        grown.capacity *= 2;
    grown.entries = calloc(grown.capacity, sizeof(*grown.entries));
    if (grown.entries == NULL)
        return false;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->entries[i].used)
            id_map_add(&grown, map->entries[i].id, map->entries[i].value);
    free(map->entries);
    *map = grown;
    return true;
}

void id_map_add(struct id_map *map, uint64_t id, uint64_t value)
{
    size_t at = home(map, id);
    while (map->entries[at].used)
        at = (at + 1) & (map->capacity - 1);
    map->entries[at] = (struct id_map_entry){.id = id, .value = value, .used = true};
    map->count++;
}

static struct id_map_entry *find(const struct id_map *map, uint64_t id)
{
    if (map->count == 0)
        return NULL;
    for (size_t at = home(map, id); map->entries[at].used; at = (at + 1) & (map->capacity - 1))
        if (map->entries[at].id == id)
            return &map->entries[at];
    return NULL;
}

uint64_t *id_map_find(const struct id_map *map, uint64_t id)
{
    struct id_map_entry *entry = find(map, id);
    return entry != NULL ? &entry->value : NULL;
}

bool id_map_remove(struct id_map *map, uint64_t id)
{
    struct id_map_entry *entry = find(map, id);
    if (entry == NULL)
        return false;
    /* What was pushed on by the entry moves back, so that no search ends too early. */
    size_t hole = (size_t)(entry - map->entries);
    for (size_t at = (hole + 1) & (map->capacity - 1); map->entries[at].used;
         at = (at + 1) & (map->capacity - 1)) {
        size_t distance = (at - home(map, map->entries[at].id)) & (map->capacity - 1);
        if (distance >= ((at - hole) & (map->capacity - 1))) {
            map->entries[hole] = map->entries[at];
            hole = at;
        }
    }
    map->entries[hole].used = false;
    map->count--;
    return true;
}
