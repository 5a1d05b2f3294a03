/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which bytes of a segment are taken: a two-level segregated fit (TLSF; M. Masmano et al., 2004)
 * over offsets. Taking and giving back are O(1), neighbours that are free are joined at once, and
 * nothing is ever written to the memory itself, so pages that were never used are never touched.
 */
#ifndef RUNTIME_ARENA_H
#define RUNTIME_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RUNTIME_ARENA_ALIGNMENT 64u

struct runtime_arena;
struct runtime_arena_block;

/* Over `size` bytes, all free; rounded down to the alignment. NULL where memory is short or there
 * is not one unit of it. */
struct runtime_arena *runtime_arena_new(uint64_t size);
/* Blocks still taken become invalid. NULL is allowed. */
void runtime_arena_free(struct runtime_arena *arena);

/* `size` bytes (0 counts as 1) at an offset aligned to 64. NULL where there is no room, or no
 * memory to keep account of it. */
struct runtime_arena_block *runtime_arena_take(struct runtime_arena *arena, uint64_t size);
/* NULL is allowed. */
void runtime_arena_give(struct runtime_arena *arena, struct runtime_arena_block *block);

uint64_t runtime_arena_offset(const struct runtime_arena_block *block);

/* The largest that it could ever hold, and what is taken now. */
uint64_t runtime_arena_size(const struct runtime_arena *arena);
uint64_t runtime_arena_used(const struct runtime_arena *arena);

/* Whether its lists and sums fit together: for tests. */
bool runtime_arena_check(const struct runtime_arena *arena);

#ifdef __cplusplus
}
#endif

#endif
