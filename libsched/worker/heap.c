/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/heap.h"

#include <stddef.h>
#include <stdlib.h>

/* The class of a number of alignment units: itself below 8, else its three bits below the highest
 * one, counted on from there. */
static uint32_t class_of(uint64_t units)
{
    if (units < 8)
        return (uint32_t)units;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units);
    return (log - 2) * 8 + (uint32_t)((units >> (log - 3)) & 7);
}

/* Units raised to where a class begins, so that each block of that class or above is enough. */
static uint64_t class_round_up(uint64_t units)
{
    if (units < 8)
        return units;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units);
    uint64_t step = UINT64_C(1) << (log - 3);
    return (units + step - 1) & ~(step - 1);
}

static void link_free(struct heap *heap, struct heap_block *block)
{
    uint32_t class = class_of(block->size / HEAP_ALIGNMENT);
    block->free = true;
    block->previous = NULL;
    block->next = heap->classes[class];
    if (block->next != NULL)
        block->next->previous = block;
    heap->classes[class] = block;
    heap->occupied[class / 64] |= UINT64_C(1) << (class % 64);
}

static void unlink_free(struct heap *heap, struct heap_block *block)
{
    uint32_t class = class_of(block->size / HEAP_ALIGNMENT);
    if (block->next != NULL)
        block->next->previous = block->previous;
    if (block->previous != NULL)
        block->previous->next = block->next;
    else
        heap->classes[class] = block->next;
    if (heap->classes[class] == NULL)
        heap->occupied[class / 64] &= ~(UINT64_C(1) << (class % 64));
    block->free = false;
}

/* A block that describes nothing yet, or NULL. */
static struct heap_block *take_spare(struct heap *heap)
{
    struct heap_block *block = heap->spare;
    if (block == NULL)
        return malloc(sizeof(*block));
    heap->spare = block->next;
    return block;
}

bool heap_init(struct heap *heap, uint64_t size)
{
    *heap = (struct heap){.size = size / HEAP_ALIGNMENT * HEAP_ALIGNMENT};
    heap->first = calloc(1, sizeof(*heap->first));
    if (heap->first == NULL)
        return false;
    heap->first->size = heap->size;
    if (heap->size > 0)
        link_free(heap, heap->first);
    return true;
}

void heap_destroy(struct heap *heap)
{
    for (struct heap_block *block = heap->first, *behind; block != NULL; block = behind) {
        behind = block->behind;
        free(block);
    }
    for (struct heap_block *block = heap->spare, *next; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    *heap = (struct heap){0};
}

/* The first free block of class `from` or above. */
static struct heap_block *find_from(struct heap *heap, uint32_t from)
{
    if (from >= HEAP_CLASSES)
        return NULL;
    uint64_t word = heap->occupied[from / 64] & (UINT64_MAX << (from % 64));
    for (uint32_t i = from / 64;;) {
        if (word != 0)
            return heap->classes[i * 64 + (uint32_t)__builtin_ctzll(word)];
        if (++i == HEAP_CLASSES / 64)
            return NULL;
        word = heap->occupied[i];
    }
}

static struct heap_block *find(struct heap *heap, uint64_t units)
{
    struct heap_block *block = find_from(heap, class_of(class_round_up(units)));
    if (block != NULL)
        return block;
    /* Its own class may hold one that is just large enough. */
    for (block = heap->classes[class_of(units)]; block != NULL; block = block->next)
        if (block->size >= units * HEAP_ALIGNMENT)
            return block;
    return NULL;
}

struct heap_block *heap_alloc(struct heap *heap, uint64_t size)
{
    if (size > heap->size)
        return NULL;
    uint64_t units = size > 0 ? (size + HEAP_ALIGNMENT - 1) / HEAP_ALIGNMENT : 1;
    struct heap_block *block = find(heap, units);
    if (block == NULL)
        return NULL;
    uint64_t need = units * HEAP_ALIGNMENT;
    if (block->size > need) {
        struct heap_block *rest = take_spare(heap);
        if (rest == NULL)
            return NULL;
        unlink_free(heap, block);
        *rest = (struct heap_block){
            .offset = block->offset + need,
            .size = block->size - need,
            .before = block,
            .behind = block->behind,
        };
        if (rest->behind != NULL)
            rest->behind->before = rest;
        block->behind = rest;
        block->size = need;
        link_free(heap, rest);
    } else {
        unlink_free(heap, block);
    }
    block->sibling = NULL;
    heap->used += block->size;
    return block;
}

/* Puts `block`, whose neighbour before it is free, into that neighbour. */
static struct heap_block *merge(struct heap *heap, struct heap_block *block)
{
    struct heap_block *into = block->before;
    into->size += block->size;
    into->behind = block->behind;
    if (into->behind != NULL)
        into->behind->before = into;
    block->next = heap->spare;
    heap->spare = block;
    return into;
}

void heap_free(struct heap *heap, struct heap_block *block)
{
    heap->used -= block->size;
    if (block->before != NULL && block->before->free) {
        unlink_free(heap, block->before);
        block = merge(heap, block);
    }
    if (block->behind != NULL && block->behind->free) {
        unlink_free(heap, block->behind);
        block = merge(heap, block->behind);
    }
    link_free(heap, block);
}
