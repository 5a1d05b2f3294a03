/* SPDX-License-Identifier: Apache-2.0 */
#include "runtime/arena.h"

#include <stdlib.h>

/* Sizes are counted in units of the alignment. Class `first` holds sizes whose highest bit is
 * `first`, each split in 16 ranges by the four bits below. */
#define SECOND_BITS 4u
#define SECOND_COUNT (1u << SECOND_BITS)
#define FIRST_COUNT 40u
#define SLAB_BLOCKS 126u

struct runtime_arena_block {
    uint64_t offset, size;                      /* units */
    struct runtime_arena_block *before, *after; /* in memory */
    struct runtime_arena_block *next, *prev;    /* among the free of its class; or spare */
    bool taken;
};

struct slab {
    struct slab *next;
    struct runtime_arena_block blocks[SLAB_BLOCKS];
};

struct runtime_arena {
    uint64_t size, used; /* units */
    uint64_t first_map;
    uint32_t second_map[FIRST_COUNT];
    struct runtime_arena_block *free[FIRST_COUNT][SECOND_COUNT];
    struct runtime_arena_block *spare;
    struct runtime_arena_block *lowest;
    struct slab *slabs;
};

static unsigned highest_bit(uint64_t value)
{
    return 63u - (unsigned)__builtin_clzll(value);
}

/* The class that a block of `size` units belongs to. */
static void class_of(uint64_t size, unsigned *first, unsigned *second)
{
    unsigned bit = highest_bit(size);
    if (bit < SECOND_BITS) {
        *first = 0;
        *second = (unsigned)size;
    } else {
        *first = bit - SECOND_BITS + 1;
        *second = (unsigned)(size >> (bit - SECOND_BITS)) - SECOND_COUNT;
    }
}

static void list_free_block(struct runtime_arena *arena, struct runtime_arena_block *block)
{
    unsigned first, second;
    class_of(block->size, &first, &second);
    struct runtime_arena_block **head = &arena->free[first][second];
    block->prev = NULL;
    block->next = *head;
    if (*head != NULL)
        (*head)->prev = block;
    *head = block;
    arena->first_map |= UINT64_C(1) << first;
    arena->second_map[first] |= 1u << second;
}

static void unlist_free_block(struct runtime_arena *arena, struct runtime_arena_block *block)
{
    unsigned first, second;
    class_of(block->size, &first, &second);
    if (block->next != NULL)
        block->next->prev = block->prev;
    if (block->prev != NULL) {
        block->prev->next = block->next;
        return;
    }
    arena->free[first][second] = block->next;
    if (block->next == NULL) {
        arena->second_map[first] &= ~(1u << second);
        if (arena->second_map[first] == 0)
            arena->first_map &= ~(UINT64_C(1) << first);
    }
}

static struct runtime_arena_block *record_new(struct runtime_arena *arena)
{
    if (arena->spare == NULL) {
        struct slab *slab = malloc(sizeof(*slab));
        if (slab == NULL)
            return NULL;
        slab->next = arena->slabs;
        arena->slabs = slab;
        for (unsigned i = 0; i < SLAB_BLOCKS; i++) {
            slab->blocks[i].next = arena->spare;
            arena->spare = &slab->blocks[i];
        }
    }
    struct runtime_arena_block *block = arena->spare;
    arena->spare = block->next;
    return block;
}

static void record_free(struct runtime_arena *arena, struct runtime_arena_block *block)
{
    block->next = arena->spare;
    arena->spare = block;
}

struct runtime_arena *runtime_arena_new(uint64_t size)
{
    uint64_t units = size / RUNTIME_ARENA_ALIGNMENT;
    if (units == 0 || highest_bit(units) >= FIRST_COUNT + SECOND_BITS - 1)
        return NULL;
    struct runtime_arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL)
        return NULL;
    struct runtime_arena_block *all = record_new(arena);
    if (all == NULL) {
        free(arena);
        return NULL;
    }
    *all = (struct runtime_arena_block){.size = units};
    arena->size = units;
    arena->lowest = all;
    list_free_block(arena, all);
    return arena;
}

void runtime_arena_free(struct runtime_arena *arena)
{
    if (arena == NULL)
        return;
    while (arena->slabs != NULL) {
        struct slab *slab = arena->slabs;
        arena->slabs = slab->next;
        free(slab);
    }
    free(arena);
}

/* A free block of at least `units`, the first of the smallest class all of whose blocks are large
 * enough; else, so that an arena can be filled to its end, one of the class below that happens
 * to be. */
static struct runtime_arena_block *find(struct runtime_arena *arena, uint64_t units)
{
    unsigned first, second;
    uint64_t rounded = units;
    if (units >= SECOND_COUNT)
        rounded += (UINT64_C(1) << (highest_bit(units) - SECOND_BITS)) - 1;
    class_of(rounded, &first, &second);
    if (first < FIRST_COUNT) {
        uint32_t seconds = arena->second_map[first] & (~UINT32_C(0) << second);
        uint64_t firsts =
            first + 1 < FIRST_COUNT ? arena->first_map & (~UINT64_C(0) << (first + 1)) : 0;
        if (seconds == 0 && firsts != 0) {
            first = (unsigned)__builtin_ctzll(firsts);
            seconds = arena->second_map[first];
        }
        if (seconds != 0)
            return arena->free[first][__builtin_ctz(seconds)];
    }
    class_of(units, &first, &second);
    struct runtime_arena_block *block = arena->free[first][second];
    for (unsigned looked = 0; block != NULL && looked < 32; block = block->next, looked++)
        if (block->size >= units)
            return block;
    return NULL;
}

struct runtime_arena_block *runtime_arena_take(struct runtime_arena *arena, uint64_t size)
{
    if (size > arena->size * RUNTIME_ARENA_ALIGNMENT)
        return NULL;
    uint64_t units = size == 0 ? 1 : (size + RUNTIME_ARENA_ALIGNMENT - 1) / RUNTIME_ARENA_ALIGNMENT;
    struct runtime_arena_block *block = find(arena, units);
    if (block == NULL)
        return NULL;
    struct runtime_arena_block *rest = NULL;
    if (block->size > units) {
        rest = record_new(arena);
        if (rest == NULL)
            return NULL;
    }
    unlist_free_block(arena, block);
    if (rest != NULL) {
        *rest = (struct runtime_arena_block){
            .offset = block->offset + units,
            .size = block->size - units,
            .before = block,
            .after = block->after,
        };
        if (block->after != NULL)
            block->after->before = rest;
        block->after = rest;
        block->size = units;
        list_free_block(arena, rest);
    }
    block->taken = true;
    arena->used += units;
    return block;
}

/* Joins `block` with the one after it, whose record it frees. */
static void absorb(struct runtime_arena *arena, struct runtime_arena_block *block)
{
    struct runtime_arena_block *after = block->after;
    block->size += after->size;
    block->after = after->after;
    if (block->after != NULL)
        block->after->before = block;
    record_free(arena, after);
}

void runtime_arena_give(struct runtime_arena *arena, struct runtime_arena_block *block)
{
    if (block == NULL)
        return;
    arena->used -= block->size;
    block->taken = false;
    if (block->after != NULL && !block->after->taken) {
        unlist_free_block(arena, block->after);
        absorb(arena, block);
    }
    if (block->before != NULL && !block->before->taken) {
        block = block->before;
        unlist_free_block(arena, block);
        absorb(arena, block);
    }
    list_free_block(arena, block);
}

uint64_t runtime_arena_offset(const struct runtime_arena_block *block)
{
    return block->offset * RUNTIME_ARENA_ALIGNMENT;
}

uint64_t runtime_arena_size(const struct runtime_arena *arena)
{
    return arena->size * RUNTIME_ARENA_ALIGNMENT;
}

uint64_t runtime_arena_used(const struct runtime_arena *arena)
{
    return arena->used * RUNTIME_ARENA_ALIGNMENT;
}

bool runtime_arena_check(const struct runtime_arena *arena)
{
    uint64_t at = 0, used = 0, n_free = 0, n_listed = 0;
    const struct runtime_arena_block *before = NULL;
    for (const struct runtime_arena_block *b = arena->lowest; b != NULL; b = b->after) {
        if (b->offset != at || b->size == 0 || b->before != before)
            return false;
        if (before != NULL && !before->taken && !b->taken)
            return false;
        at += b->size;
        used += b->taken ? b->size : 0;
        n_free += !b->taken;
        before = b;
    }
    for (unsigned i = 0; i < FIRST_COUNT; i++)
        for (unsigned j = 0; j < SECOND_COUNT; j++) {
            bool listed = (arena->second_map[i] >> j & 1) != 0;
            if (listed != (arena->free[i][j] != NULL))
                return false;
            for (const struct runtime_arena_block *b = arena->free[i][j]; b != NULL; b = b->next) {
                unsigned first, second;
                class_of(b->size, &first, &second);
                if (b->taken || first != i || second != j)
                    return false;
                n_listed++;
            }
        }
    return at == arena->size && used == arena->used && n_free == n_listed;
}
