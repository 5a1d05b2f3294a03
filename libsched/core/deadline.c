/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When those who wait are to be looked at because of the clock, in a 4-ary heap: shallower than a
 * binary one, and the children of a node share a cache line. The position of each request is known,
 * apart from the request so that moving one touches little memory, and any can be removed. Times
 * are coarse, to keep it small; those within 2^10 ns are in the order of their deadlines and of
 * submission, so that the order never depends on the heap's shape.
 *
 * Whoever is ready is looked at when it can just not make its deadline any more, as far as is
 * known: it is answered then, not when its deadline has passed.
 */
#include "core/internal.h"

#define TICK_BITS 10                 /* a tick of the heap's clock is 2^10 ns */
#define FURTHEST (UINT64_C(1) << 40) /* ns: what is further away is looked at earlier, in vain */

uint64_t core_deadline_due(const struct core *core, const struct core_request *r)
{
    if (r->state != CORE_READY || (r->flags & CORE_PROBES))
        return r->deadline;
    uint64_t least = core_model_least(core, core->models[r->model], r->units);
    return least < r->deadline ? r->deadline - least : 0;
}

static uint32_t coarse(const struct core *core, uint64_t at)
{
    if (at < core->now)
        at = core->now;
    if (at - core->now > FURTHEST)
        at = core->now + FURTHEST;
    return (uint32_t)(at >> TICK_BITS);
}

static bool deadline_before(const struct core *core, const struct core_deadline *a,
                            const struct core_deadline *b)
{
    if (a->at != b->at)
        return (int32_t)(a->at - b->at) < 0;
    const struct core_request *x = &core->requests[a->slot], *y = &core->requests[b->slot];
    return x->deadline != y->deadline ? x->deadline < y->deadline : core_id_before(x->id, y->id);
}

static void deadline_put(struct core *core, uint32_t position, struct core_deadline entry)
{
    core->deadlines[position] = entry;
    core->positions[entry.slot] = position;
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

    if (r->deadline == 0 || core->positions[slot] != CORE_NONE)
        return;
    struct core_deadline entry = {.at = coarse(core, core_deadline_due(core, r)), .slot = slot};
    deadline_up(core, core->n_deadlines++, entry);
}

void core_deadline_remove(struct core *core, uint32_t slot)
{
    uint32_t position = core->positions[slot];

    if (position == CORE_NONE)
        return;
    core->positions[slot] = CORE_NONE;
    struct core_deadline last = core->deadlines[--core->n_deadlines];
    if (position == core->n_deadlines)
        return;
    if (position > 0 && deadline_before(core, &last, &core->deadlines[(position - 1) / 4]))
        deadline_up(core, position, last);
    else
        deadline_down(core, position, last);
}

/* Ticks from now to that of the first. */
static int32_t ticks_to_first(const struct core *core)
{
    return (int32_t)(core->deadlines[0].at - (uint32_t)(core->now >> TICK_BITS));
}

/* The slot of the first that is due now, taken out; CORE_NONE: nobody is. */
uint32_t core_deadline_pop(struct core *core)
{
    while (core->n_deadlines > 0 && ticks_to_first(core) <= 0 &&
           core_deadline_first(core) <= core->now) {
        uint32_t slot = core->deadlines[0].slot;
        core_deadline_remove(core, slot);
        if (core_deadline_due(core, &core->requests[slot]) <= core->now)
            return slot;
        core_deadline_add(core, slot); /* what is known has changed */
    }
    return CORE_NONE;
}

/* When the first is to be looked at. */
uint64_t core_deadline_first(const struct core *core)
{
    const struct core_deadline *first = &core->deadlines[0];
    int32_t ticks = ticks_to_first(core);

    if (ticks < 0)
        return core->now;
    uint64_t at = ((core->now >> TICK_BITS) + (uint32_t)ticks) << TICK_BITS;
    uint64_t due = core_deadline_due(core, &core->requests[first->slot]);
    /* Within its tick it is known to the ns. */
    return due >> TICK_BITS == at >> TICK_BITS ? due : at > core->now ? at : core->now;
}
