/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doubly linked lists through a member of what is listed. A node that is in no list points to
 * itself, so taking it out twice does no harm.
 */
#ifndef RUNTIME_LIST_H
#define RUNTIME_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *node)
{
    node->next = node->prev = node;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

static inline void list_append(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* The struct that a node is a member of. */
#define LIST_ENTRY(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

/* Over all nodes; the present one may be taken out. */
#define LIST_EACH(head, node, following)                                            \
    for (struct list *node = (head)->next, *following = node->next; node != (head); \
         node = following, following = node->next)

#endif
