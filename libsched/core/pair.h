/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pairing heap, linked through its nodes: inserting takes a few instructions, taking the least or
 * any other one out O(log n) amortized, and no memory is needed beyond three links in a node.
 * (Fredman, Sedgewick, Sleator, Tarjan: The pairing heap, Algorithmica 1986.)
 *
 * Nodes are numbers; `at` finds the links of one, `less` orders two. Both are inlined.
 */
#ifndef CORE_PAIR_H
#define CORE_PAIR_H

#include <stdbool.h>
#include <stdint.h>

struct core;

#define PAIR_NONE UINT32_MAX

struct core_pair {
    uint32_t child; /* its first */
    uint32_t next;  /* sibling */
    uint32_t prev;  /* sibling, or the parent of a first child; PAIR_NONE: the root */
};

typedef struct core_pair *core_pair_at(struct core *core, uint32_t node);
typedef bool core_pair_less(const struct core *core, uint32_t a, uint32_t b);

#define PAIR_INLINE static inline __attribute__((always_inline))

PAIR_INLINE uint32_t pair_merge(struct core *core, core_pair_at *at, core_pair_less *less,
                                uint32_t a, uint32_t b)
{
    if (a == PAIR_NONE)
        return b;
    if (b == PAIR_NONE)
        return a;
    if (less(core, b, a)) {
        uint32_t swap = a;
        a = b;
        b = swap;
    }
    struct core_pair *top = at(core, a), *below = at(core, b);
    below->next = top->child;
    below->prev = a;
    if (top->child != PAIR_NONE)
        at(core, top->child)->prev = b;
    top->child = b;
    top->next = top->prev = PAIR_NONE;
    return a;
}

/* One heap of siblings: in pairs from the left, then these from the right. */
PAIR_INLINE uint32_t pair_gather(struct core *core, core_pair_at *at, core_pair_less *less,
                                 uint32_t first)
{
    uint32_t pairs = PAIR_NONE, root = PAIR_NONE;

    while (first != PAIR_NONE) {
        uint32_t a = first, b = at(core, a)->next;
        first = b == PAIR_NONE ? PAIR_NONE : at(core, b)->next;
        at(core, a)->next = at(core, a)->prev = PAIR_NONE;
        if (b != PAIR_NONE)
            at(core, b)->next = at(core, b)->prev = PAIR_NONE;
        a = pair_merge(core, at, less, a, b);
        at(core, a)->next = pairs;
        pairs = a;
    }
    while (pairs != PAIR_NONE) {
        uint32_t next = at(core, pairs)->next;
        at(core, pairs)->next = PAIR_NONE;
        root = pair_merge(core, at, less, root, pairs);
        pairs = next;
    }
    return root;
}

/* Both answer the new root. */
PAIR_INLINE uint32_t pair_insert(struct core *core, core_pair_at *at, core_pair_less *less,
                                 uint32_t root, uint32_t node)
{
    *at(core, node) = (struct core_pair){PAIR_NONE, PAIR_NONE, PAIR_NONE};
    return pair_merge(core, at, less, root, node);
}

PAIR_INLINE uint32_t pair_remove(struct core *core, core_pair_at *at, core_pair_less *less,
                                 uint32_t root, uint32_t node)
{
    struct core_pair *p = at(core, node);

    if (node == root)
        return pair_gather(core, at, less, p->child);
    struct core_pair *before = at(core, p->prev);
    if (before->child == node)
        before->child = p->next;
    else
        before->next = p->next;
    if (p->next != PAIR_NONE)
        at(core, p->next)->prev = p->prev;
    return pair_merge(core, at, less, root, pair_gather(core, at, less, p->child));
}

#endif
