/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of requests, doubly linked through the slab. A request is in one list at most. */
#include "core/internal.h"

void core_list_init(struct core_list *list)
{
    list->head = list->tail = CORE_NONE;
    list->n = 0;
}

/* Behind `before`, or in front of all where it is CORE_NONE. */
static void list_link(struct core *core, struct core_list *list, uint32_t before, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];
    uint32_t after = before == CORE_NONE ? list->head : core->requests[before].next;

    r->prev = before;
    r->next = after;
    if (before == CORE_NONE)
        list->head = slot;
    else
        core->requests[before].next = slot;
    if (after == CORE_NONE)
        list->tail = slot;
    else
        core->requests[after].prev = slot;
    list->n++;
}

void core_list_append(struct core *core, struct core_list *list, uint32_t slot)
{
    list_link(core, list, list->tail, slot);
}

void core_list_remove(struct core *core, struct core_list *list, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];

    if (r->prev == CORE_NONE)
        list->head = r->next;
    else
        core->requests[r->prev].next = r->next;
    if (r->next == CORE_NONE)
        list->tail = r->prev;
    else
        core->requests[r->next].prev = r->prev;
    r->next = r->prev = CORE_NONE;
    list->n--;
}

void core_list_insert(struct core *core, struct core_list *list, uint32_t slot)
{
    uint64_t id = core->requests[slot].id;

    /* From both ends at a time: what is put back belongs near the head, what was prepared near
     * the tail. */
    uint32_t front = list->head, back = list->tail;
    for (;;) {
        if (back == CORE_NONE || core_id_before(core->requests[back].id, id)) {
            list_link(core, list, back, slot);
            return;
        }
        if (core_id_before(id, core->requests[front].id)) {
            list_link(core, list, core->requests[front].prev, slot);
            return;
        }
        back = core->requests[back].prev;
        front = core->requests[front].next;
    }
}
