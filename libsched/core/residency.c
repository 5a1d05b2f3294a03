/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which model is loaded where.
 *
 * A model is loaded on each of its devices as long as there is memory for it. Beyond that, memory
 * is asked for: by a model that is loaded nowhere and has requests waiting (or was never loaded),
 * and by one whose oldest request needs more to run than is free. Those who ask are served in the
 * order of their oldest request; each claims one device, on which nothing younger begins any more,
 * and whose idle models are evicted, the longest unused first, until it fits. A model that has an
 * older request than the claim has its turn before it is evicted, so nobody starves, and two
 * models that only fit one at a time are swapped as seldom as their requests' order allows.
 *
 * Memory that items without credit hold comes back when their owners please. A claim that could
 * not be met without it isn't made, so that it holds up nobody.
 */
#include "core/internal.h"

struct want {
    uint64_t since; /* an id */
    uint64_t need;  /* to be free now */
    uint64_t whole; /* in the end, for it to be of any use: a load, and its oldest request */
    uint32_t model;
    bool load;
};

static bool may_begin(const struct core_device_state *d)
{
    return d->up && !d->dying && !d->exclusive && !d->rest;
}

/* Whether it may be loaded on, and not only evicted from. */
static bool may_load(const struct core_device_state *d)
{
    return may_begin(d) && !d->closed;
}

static void residency_load(struct core *core, uint32_t device, uint32_t model)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core->models[model];
    struct core_placement *p = &m->placement[device];

    p->state = CORE_LOADING;
    p->memory = d->config.kind == CORE_COMPUTE ? m->config.memory_bytes : 0;
    p->used = ++core->ticks;
    core_device_take(d, p->memory);
    d->loads++;
    d->exclusive |= p->suspect;
    core_action_link(core, core_placement_node(model, device));
}

static void residency_evict(struct core *core, uint32_t device, uint32_t model)
{
    struct core_model_state *m = core->models[model];

    m->placement[device].state = CORE_EVICTING;
    m->resident &= ~core_bit(device);
    core->devices[device]->loads++;
    core_action_link(core, core_placement_node(model, device));
}

void core_residency_want(struct core *core, uint32_t model, bool compute)
{
    struct core_model_state *m = core->models[model];

    if (m->removing)
        return;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if (d == NULL || m->placement[i].state != CORE_ABSENT)
            continue;
        if (d->config.kind == CORE_PREPARE ? (m->config.flags & CORE_MODEL_PREPARES) != 0
                                           : compute && (m->config.devices & core_bit(i)))
            m->placement[i].state = CORE_WANTED;
    }
    core->plan = true;
}

void core_residency_unwant(struct core *core, uint32_t model)
{
    struct core_model_state *m = core->models[model];

    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (m->placement[i].state == CORE_WANTED || m->placement[i].state == CORE_FAILED)
            m->placement[i].state = CORE_ABSENT;
}

/* ------------------------------------------------------------------------------------- events */

void core_residency_loaded(struct core *core, uint32_t device, uint32_t model, int status,
                           uint64_t memory_bytes)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core_model_get(core, model);
    struct core_placement *p = m == NULL ? NULL : &m->placement[device];

    if (p == NULL || p->state != CORE_LOADING || core_action_linked(&p->action))
        return;
    if (status == LIBSCHED_EDEVICELOST) {
        core_device_kill(core, device);
        return;
    }
    core_device_loaded(core, d);
    if (p->suspect)
        d->exclusive = false;
    core_device_give(d, p->memory);
    p->memory = 0;
    if (status == LIBSCHED_OK) {
        p->state = CORE_RESIDENT;
        p->warm = false;
        p->fits = 0;
        p->suspect = false;
        p->strikes = 0;
        m->resident |= core_bit(device);
        if (d->config.kind == CORE_COMPUTE) {
            m->loaded_once = true;
            if (d->config.memory_bytes != 0) {
                p->memory =
                    memory_bytes < d->config.memory_bytes ? memory_bytes : d->config.memory_bytes;
                core_device_take(d, p->memory);
            }
            if (memory_bytes != 0) {
                m->config.memory_bytes = memory_bytes;
                core_model_measure(core, m);
            }
        }
    } else {
        p->state = m->removing ? CORE_ABSENT : CORE_FAILED;
    }
    core->plan = true;
    core->look_at |= core_bit(device);
}

void core_residency_evicted(struct core *core, uint32_t device, uint32_t model)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core_model_get(core, model);
    struct core_placement *p = m == NULL ? NULL : &m->placement[device];

    if (p == NULL || p->state != CORE_EVICTING || core_action_linked(&p->action))
        return;
    core_device_loaded(core, d);
    core_device_give(d, p->memory);
    p->memory = 0;
    p->state = CORE_ABSENT;
    core->plan = true;
    core->look_at |= core_bit(device);
}

void core_residency_lost(struct core *core, uint32_t device, bool strike)
{
    struct core_device_state *d = core->devices[device];

    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        if (m == NULL)
            continue;
        struct core_placement *p = &m->placement[device];
        switch (p->state) {
        case CORE_LOADING:
            if (!core_action_linked(&p->action) && !d->vacated) {
                p->suspect = true;
                if (strike && ++p->strikes >= core->config.max_strikes)
                    p->given_up = true;
            }
            p->state = p->given_up ? CORE_FAILED : CORE_WANTED;
            break;
        case CORE_RESIDENT:
            p->state = CORE_WANTED;
            break;
        case CORE_EVICTING:
            p->state = CORE_ABSENT;
            break;
        default:
            continue;
        }
        core_action_unlink(core, core_placement_node(i, device));
        core_device_give(d, p->memory);
        p->memory = 0;
        m->resident &= ~core_bit(device);
        if (m->removing)
            p->state = CORE_ABSENT;
    }
    d->loads = 0;
}

void core_residency_renew(struct core *core, uint32_t device)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        if (m == NULL)
            continue;
        struct core_placement *p = &m->placement[device];
        if (p->state == CORE_FAILED && !p->given_up)
            p->state = CORE_WANTED;
    }
}

/* ------------------------------------------------------------------------------------ planning */

static void plan_removals(struct core *core)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        if (m == NULL || !m->removing)
            continue;
        for (uint32_t j = 0; j < CORE_MAX_DEVICES; j++)
            if (m->placement[j].state == CORE_RESIDENT && m->placement[j].sessions == 0 &&
                may_begin(core->devices[j]))
                residency_evict(core, j, i);
        core_model_finish(core, i);
    }
}

/* What is suspected of killing workers is loaded one by one, before anything else: when a worker
 * comes up there is nothing else to do, and a second death then has one culprit. */
static void plan_suspects(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];

    d->hold = false;
    if (!may_load(d))
        return;
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        if (m == NULL || m->placement[device].state != CORE_WANTED ||
            !m->placement[device].suspect || m->config.memory_bytes > core_device_free(d))
            continue;
        if (d->in_flight == 0 && d->loads == 0 && !core_gang_busy(core, device))
            residency_load(core, device, i);
        else
            d->hold = true;
        return;
    }
}

/* Loads what fits, where nobody older waits for the memory. */
static void plan_wanted(struct core *core)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        if (m == NULL || m->removing)
            continue;
        for (uint32_t j = 0; j < CORE_MAX_DEVICES; j++) {
            const struct core_device_state *d = core->devices[j];
            const struct core_placement *p = &m->placement[j];
            if (p->state != CORE_WANTED || p->suspect || !may_load(d) || d->hold ||
                d->claim != CORE_NONE)
                continue;
            if (d->config.kind == CORE_PREPARE || m->config.memory_bytes <= core_device_free(d))
                residency_load(core, j, i);
        }
    }
}

/* What a model (CORE_NONE: a job) could have on a device, if all went that goes by itself or can be
 * evicted: all but what items without credit hold, a job's rank, and what it holds itself. */
static uint64_t attainable(const struct core *core, uint32_t device, uint32_t model)
{
    const struct core_device_state *d = core->devices[device];
    uint64_t kept = d->external + d->gang_memory;
    uint64_t counted[CORE_MAX_MODELS / 64] = {0};

    if (d->config.memory_bytes == 0)
        return UINT64_MAX;
    const struct core_placement *own =
        model == CORE_NONE ? NULL : &core->models[model]->placement[device];
    if (own != NULL && own->state == CORE_RESIDENT) {
        kept += own->memory;
        counted[model / 64] |= core_bit(model % 64);
    }
    for (uint32_t i = 0; i < d->sessions_used; i++) {
        const struct core_session *s = &d->sessions[i];
        if (s->batch == 0 || !s->steps)
            continue;
        for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next) {
            const struct core_request *r = &core->requests[slot];
            if ((r->flags & (CORE_LEAVES | CORE_IN_STEP)) || !core_request_stalled(r))
                continue;
            kept += core_multiply(r->units, s->memory_per_unit);
            if (!(counted[s->model / 64] & core_bit(s->model % 64))) {
                counted[s->model / 64] |= core_bit(s->model % 64);
                kept += core->models[s->model]->placement[device].memory;
            }
        }
    }
    return kept >= d->config.memory_bytes ? 0 : d->config.memory_bytes - kept;
}

uint64_t core_residency_attainable(const struct core *core, uint32_t device)
{
    return attainable(core, device, CORE_NONE);
}

/* The oldest request that needs the model on a compute device: one that is ready, or will be. Those
 * that nobody can prepare now need nothing yet. */
static bool oldest_waiting(const struct core *core, const struct core_model_state *m, uint64_t *id)
{
    bool prepares = m->unprepared.n > 0 && (m->resident & ~m->config.devices) != 0;

    if (m->ready.n == 0 && !prepares)
        return false;
    if (m->ready.n > 0)
        *id = core->requests[m->ready.head].id;
    if (prepares) {
        uint64_t unprepared = core->requests[m->unprepared.head].id;
        if (m->ready.n == 0 || core_id_before(unprepared, *id))
            *id = unprepared;
    }
    return true;
}

/* Whether a model may be evicted for somebody who has waited since `since`. */
static bool evictable(const struct core *core, uint32_t device, uint32_t model, uint64_t since)
{
    const struct core_model_state *m = core->models[model];
    const struct core_placement *p = &m->placement[device];

    if (p->state != CORE_RESIDENT || p->sessions > 0)
        return false;
    uint64_t oldest;
    return m->stuck || !oldest_waiting(core, m, &oldest) || core_id_before(since, oldest);
}

/* Memory that is free, or evictable at once. */
static uint64_t room_at_once(const struct core *core, uint32_t device, const struct want *want)
{
    uint64_t room = core_device_free(core->devices[device]);

    if (room == UINT64_MAX)
        return room;
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++)
        if (i != want->model && core_model_get(core, i) != NULL &&
            (core->models[i]->placement[device].state == CORE_EVICTING ||
             evictable(core, device, i, want->since)))
            room += core->models[i]->placement[device].memory;
    return room;
}

/* Evicts until `need` will be free: not more than has to be, and nothing as long as that is not
 * enough, for a sacrifice that helps nobody might be loaded again. */
static void make_room(struct core *core, uint32_t device, const struct want *want)
{
    struct core_device_state *d = core->devices[device];
    uint64_t room = core_device_free(d);

    if (room_at_once(core, device, want) < want->need)
        return;
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m != NULL && m->placement[device].state == CORE_EVICTING)
            room += m->placement[device].memory;
    }
    while (room < want->need) {
        uint32_t victim = CORE_NONE;
        for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
            if (i == want->model || core_model_get(core, i) == NULL ||
                !evictable(core, device, i, want->since))
                continue;
            if (victim == CORE_NONE || core->models[i]->placement[device].used <
                                           core->models[victim]->placement[device].used)
                victim = i;
        }
        if (victim == CORE_NONE)
            return;
        room += core->models[victim]->placement[device].memory;
        residency_evict(core, device, victim);
    }
}

uint64_t core_residency_yield(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    uint64_t excess = core_device_excess(d);

    for (uint32_t i = 0; i < CORE_MAX_MODELS && excess > 0; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m != NULL && m->placement[device].state == CORE_EVICTING)
            excess -= m->placement[device].memory < excess ? m->placement[device].memory : excess;
    }
    while (excess > 0 && may_begin(d)) {
        uint32_t victim = CORE_NONE;
        for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
            const struct core_model_state *m = core_model_get(core, i);
            if (m == NULL || m->placement[device].state != CORE_RESIDENT ||
                m->placement[device].sessions > 0 || m->placement[device].memory == 0)
                continue;
            const struct core_model_state *best = victim == CORE_NONE ? NULL : core->models[victim];
            if (best == NULL || (m->waiting == 0 && best->waiting > 0) ||
                ((m->waiting > 0) == (best->waiting > 0) &&
                 m->placement[device].used < best->placement[device].used))
                victim = i;
        }
        if (victim == CORE_NONE)
            break;
        uint64_t memory = core->models[victim]->placement[device].memory;
        residency_evict(core, device, victim);
        excess -= memory < excess ? memory : excess;
    }
    return excess;
}

/* Whether room might be made for it there. */
static bool claimable(const struct core *core, uint32_t device, const struct want *want)
{
    const struct core_device_state *d = core->devices[device];
    const struct core_model_state *m = core->models[want->model];
    uint8_t state = m->placement[device].state;

    if (!(m->config.devices & core_bit(device)) || !d->up || d->dying || d->claim != CORE_NONE ||
        d->closed)
        return false;
    if (want->load ? state != CORE_WANTED && state != CORE_ABSENT : state != CORE_RESIDENT)
        return false;
    return attainable(core, device, want->model) >= want->whole;
}

static void plan_want(struct core *core, const struct want *want)
{
    struct core_model_state *m = core->models[want->model];
    uint32_t best = CORE_NONE;
    uint64_t most = 0;

    if (want->load) {
        for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
            const struct core_device_state *d = core->devices[i];
            const struct core_placement *p = &m->placement[i];
            if (!(m->config.devices & core_bit(i)) || !may_load(d) || d->hold ||
                d->claim != CORE_NONE || p->suspect ||
                (p->state != CORE_WANTED && p->state != CORE_ABSENT) ||
                want->need > core_device_free(d) || attainable(core, i, want->model) < want->whole)
                continue;
            residency_load(core, i, want->model);
            m->claim = CORE_NONE;
            return;
        }
    }
    /* It stays with the device it has begun to make room on. */
    if (m->claim != CORE_NONE && claimable(core, m->claim, want)) {
        best = m->claim;
    } else {
        for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
            if (!claimable(core, i, want))
                continue;
            uint64_t room = room_at_once(core, i, want);
            if (best == CORE_NONE || room > most) {
                best = i;
                most = room;
            }
        }
    }
    m->claim = best;
    core->pressure = true;
    if (best == CORE_NONE) {
        m->stuck = true;
        return;
    }
    struct core_device_state *d = core->devices[best];
    d->claim = want->model;
    d->claim_since = want->since;
    if (may_begin(d))
        make_room(core, best, want);
}

/* Whether a model that is loaded somewhere has an oldest request that finds no memory. */
static bool starved(const struct core *core, const struct core_model_state *m, uint64_t need)
{
    bool loaded = false;

    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        if (!(m->resident & m->config.devices & core_bit(i)))
            continue;
        loaded = true;
        if (core_device_free(core->devices[i]) >= need)
            return false;
    }
    return loaded;
}

static bool attainable_where_loaded(const struct core *core, uint32_t model, uint64_t need)
{
    const struct core_model_state *m = core->models[model];

    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if ((m->config.devices & core_bit(i)) &&
            (m->placement[i].state == CORE_RESIDENT || m->placement[i].state == CORE_LOADING) &&
            attainable(core, i, model) >= need)
            return true;
    return false;
}

/* The memory that whoever is next to run needs, the most of all its lanes. What will never fit does
 * not wait; with `unfit` nothing does. */
static uint64_t needed_by_next(struct core *core, struct core_model_state *m, bool unfit)
{
    uint64_t most = 0;

    for (uint16_t i = m->lanes, next; i != UINT16_MAX; i = next) {
        next = core->lanes[i].next; /* a lane is closed with its last request */
        while (!core->lanes[i].prepare && core->lanes[i].n > 0) {
            struct core_request *r = core_lane_next(core, i);
            uint64_t memory = core_multiply(r->units, m->config.memory_per_unit);
            if (!unfit && memory <= m->max_item_memory) {
                most = memory > most ? memory : most;
                break;
            }
            bool last = core->lanes[i].n == 1;
            core_request_unqueue(core, r);
            core_request_end(core, r, LIBSCHED_ENODEVMEM);
            if (last)
                break;
        }
    }
    return most;
}

static bool find_want(struct core *core, uint32_t model, struct want *out)
{
    struct core_model_state *m = core->models[model];
    bool there = false, possible = false;

    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        /* What a reservation is about to end, or has ended, is of no use to anybody. */
        if (!(m->config.devices & core_bit(i)) || core->devices[i]->reserved)
            continue;
        uint8_t state = m->placement[i].state;
        there |= state == CORE_RESIDENT || state == CORE_LOADING;
        possible |= state != CORE_FAILED && core->devices[i]->up;
    }
    uint64_t item = needed_by_next(core, m, m->unfit && !there);
    /* Where it is loaded there may never be room for whoever is next. */
    bool elsewhere = there && item > 0 && !attainable_where_loaded(core, model, item);
    *out = (struct want){.model = model, .load = !there || elsewhere};
    if (out->load) {
        if (!possible || m->unfit)
            return false;
        out->need = out->whole = m->config.memory_bytes;
        if (__builtin_add_overflow(out->need, item, &out->whole))
            out->whole = UINT64_MAX;
        if (!m->loaded_once) {
            out->since = m->since;
            return true;
        }
        return oldest_waiting(core, m, &out->since);
    }
    if (m->ready.n == 0 || m->config.memory_per_unit == 0)
        return false;
    out->since = core->requests[m->ready.head].id;
    out->need = out->whole = item;
    /* Room that was made is kept until it is used: nobody younger is loaded into it meanwhile. */
    return starved(core, m, out->need) || m->claim != CORE_NONE;
}

void core_residency_plan(struct core *core)
{
    struct want wants[CORE_MAX_MODELS];
    uint32_t n = 0;

    core->plan = core->pressure = false;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (core->devices[i] != NULL)
            core->devices[i]->claim = CORE_NONE;
    plan_removals(core);
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (core->devices[i] != NULL)
            plan_suspects(core, i);
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        struct core_model_state *m = core_model_get(core, i);
        struct want want;
        if (m == NULL || m->removing)
            continue;
        m->stuck = false;
        if (!find_want(core, i, &want)) {
            m->claim = CORE_NONE;
            continue;
        }
        uint32_t at = n++;
        while (at > 0 && core_id_before(want.since, wants[at - 1].since)) {
            wants[at] = wants[at - 1];
            at--;
        }
        wants[at] = want;
    }
    for (uint32_t i = 0; i < n; i++)
        plan_want(core, &wants[i]);
    plan_wanted(core);
    /* A claim that came or went changes what may begin. */
    core->look_at = UINT64_MAX;
}
