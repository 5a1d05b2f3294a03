/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deadlines of requests that wait, in a 4-ary heap: shallower than a binary one, and the four
 * children of a node share a cache line. A request knows its position, so that any can be removed.
 * Equal deadlines are in the order of submission, so that the order never depends on the heap's
 * shape.
 */
#include "core/internal.h"

static bool deadline_before(const struct core *core, const struct core_deadline *a,
                            const struct core_deadline *b)
{
    if (a->at != b->at)
        return a->at < b->at;
    return core_id_before(core->requests[a->slot].id, core->requests[b->slot].id);
}

static void deadline_put(struct core *core, uint32_t position, struct core_deadline entry)
{
    core->deadlines[position] = entry;
    core->requests[entry.slot].heap = position;
}

static void deadline_up(struct core *core, uint32_t position, struct core_deadline entry)
{
    while (position > 0) {
        uint32_t parent = (position - 1) / 4;
        if (!deadline_before(core, &entry, &core->deadlines[parent]))
            break;
        deadline_put(core, position, core->deadlines[parent]);
        position = parent;
    }
    deadline_put(core, position, entry);
}

static void deadline_down(struct core *core, uint32_t position, struct core_deadline entry)
{
    for (;;) {
        uint32_t first = 4 * position + 1, best = first;
        if (first >= core->n_deadlines)
            break;
        for (uint32_t i = first + 1; i < first + 4 && i < core->n_deadlines; i++)
            if (deadline_before(core, &core->deadlines[i], &core->deadlines[best]))
                best = i;
        if (!deadline_before(core, &core->deadlines[best], &entry))
            break;
        deadline_put(core, position, core->deadlines[best]);
        position = best;
    }
    deadline_put(core, position, entry);
}

void core_deadline_add(struct core *core, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];

    if (r->deadline == 0 || r->heap != CORE_NONE)
        return;
    struct core_deadline entry = {.at = r->deadline, .slot = slot};
    deadline_up(core, core->n_deadlines++, entry);
}

void core_deadline_remove(struct core *core, uint32_t slot)
{
    uint32_t position = core->requests[slot].heap;

    if (position == CORE_NONE)
        return;
    core->requests[slot].heap = CORE_NONE;
    struct core_deadline last = core->deadlines[--core->n_deadlines];
    if (position == core->n_deadlines)
        return;
    if (position > 0 && deadline_before(core, &last, &core->deadlines[(position - 1) / 4]))
        deadline_up(core, position, last);
    else
        deadline_down(core, position, last);
}
