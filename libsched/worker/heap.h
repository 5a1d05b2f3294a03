/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allocator of a worker's result memory.
 *
 * Blocks of multiples of 64 bytes, aligned to 64, kept in classes of size (eight to each power of
 * two) with a bitmap over the classes: two-level segregated fit, after Masmano, Ripoll, Crespo and
 * Real, "TLSF: a new dynamic memory allocator for real-time systems" (2004). Neighbours that are
 * free are merged at once. What the allocator knows of a block lies beside the memory, not in it:
 * the memory is shared with those who read the results.
 */
#ifndef WORKER_HEAP_H
#define WORKER_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HEAP_ALIGNMENT 64u
#define HEAP_CLASSES 512u

struct heap_block {
    uint64_t offset, size;
    struct heap_block *before, *behind; /* its neighbours in memory */
    struct heap_block *previous, *next; /* in its class, while it is free */
    struct heap_block *sibling;         /* the owner's, while it is in use */
    bool free;
};

/* All zero before heap_init(). */
struct heap {
    uint64_t size; /* of the memory */
    uint64_t used;
    struct heap_block *classes[HEAP_CLASSES];
    uint64_t occupied[HEAP_CLASSES / 64];
    struct heap_block *spare; /* blocks that describe nothing */
    struct heap_block *first; /* at offset 0 */
};

/* Begins with `size` free bytes (rounded down to the alignment); false where memory is short. */
bool heap_init(struct heap *heap, uint64_t size);
void heap_destroy(struct heap *heap);

/* A block of at least `size` bytes (0: one byte), or NULL where none is free or memory is short. */
struct heap_block *heap_alloc(struct heap *heap, uint64_t size);
void heap_free(struct heap *heap, struct heap_block *block);

#ifdef __cplusplus
}
#endif

#endif
