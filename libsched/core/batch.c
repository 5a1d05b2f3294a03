/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device does next, and who is in it.
 *
 * A device that may begin a step has two kinds of choice: to go on with a session that is between
 * steps (the one that has waited longest), or to begin one, for the model whose oldest request was
 * submitted first. Where there are both they alternate; so neither a long generation nor a long
 * queue keeps the other waiting for more than a step. Within a session, members whose step limits
 * leave some out take turns.
 */
#include "core/internal.h"

static bool alone(const struct core_request *r)
{
    return (r->flags & CORE_ALONE) != 0;
}

/* The request that a device of this kind would begin with, or NULL. */
static struct core_request *batch_head(struct core *core, struct core_model_state *m, bool prepare)
{
    const struct core_list *list = prepare ? &m->unprepared : &m->ready;

    while (list->n > 0) {
        struct core_request *r = &core->requests[list->head];
        if (prepare || !(m->config.flags & CORE_MODEL_STEPS) || !core_request_stalled(r))
            return r;
        /* Its model has become one of steps since it was queued. */
        core_request_unqueue(core, r);
        core_request_wait(core, r);
    }
    return NULL;
}

/* Whether somebody older waits for memory there. */
static bool batch_claimed(const struct core_device_state *d, uint32_t model,
                          const struct core_request *r)
{
    return d->claim != CORE_NONE && d->claim != model && core_id_before(d->claim_since, r->id);
}

static bool batch_fits(struct core *core, const struct core_device_state *d,
                       uint64_t memory_per_unit, const struct core_request *r)
{
    if (memory_per_unit == 0 || core_multiply(r->units, memory_per_unit) <= core_device_free(d))
        return true;
    core->blocked = true;
    return false;
}

/* The next who may join a session, or NULL. */
static struct core_request *batch_joiner(struct core *core, uint32_t device,
                                         const struct core_session *s)
{
    struct core_model_state *m = core->models[s->model];

    if (m->removing || s->members.n >= CORE_MAX_BATCH || !(m->resident & core_bit(device)))
        return NULL;
    struct core_request *r = batch_head(core, m, s->prepare);
    if (r == NULL || alone(r) != s->alone || (s->alone && s->members.n > 0))
        return NULL;
    /* A claim lets a batch begin with all who wait for it, but not a session go on for ever. */
    if (s->step > 0 && batch_claimed(core->devices[device], s->model, r))
        return NULL;
    if (!batch_fits(core, core->devices[device], s->memory_per_unit, r))
        return NULL;
    return r;
}

/* The number of items and of units that a step may still take. */
struct room {
    uint32_t n, max_n;
    uint64_t units, max_units;
};

static bool room_take(struct room *room, const struct core_request *r)
{
    uint32_t max_n = room->max_n;

    if (r->batch_cap != 0 && r->batch_cap < max_n)
        max_n = r->batch_cap;
    if (room->n >= max_n || (room->n > 0 && (room->units > room->max_units ||
                                             r->units > room->max_units - room->units)))
        return false;
    room->max_n = max_n;
    room->n++;
    room->units += r->units;
    return true;
}

bool core_batch_compose(struct core *core, uint32_t device, struct core_session *s)
{
    const struct core_model *limits = &core->models[s->model]->config;
    struct room room = {
        .max_n = s->prepare ? limits->max_prepare_requests : limits->max_batch_requests,
        .max_units = s->prepare ? UINT64_MAX : limits->max_batch_units,
    };

    for (uint32_t i = s->members.n, slot = s->members.head; i > 0; i--) {
        struct core_request *r = &core->requests[slot];
        uint32_t next = r->next;
        if (!(r->flags & CORE_LEAVES)) {
            if (r->deadline != 0 && r->deadline <= core->now) {
                r->flags |= CORE_LEAVES;
                r->status = LIBSCHED_EDEADLINE;
                core_deadline_remove(core, slot);
            } else if (!core_request_stalled(r) && room_take(&room, r)) {
                r->flags |= CORE_IN_STEP;
                /* Behind those for whom there was no room. */
                core_list_remove(core, &s->members, slot);
                core_list_append(core, &s->members, slot);
            }
        }
        slot = next;
    }
    for (;;) {
        struct core_request *r = batch_joiner(core, device, s);
        if (r == NULL || !room_take(&room, r))
            break;
        core_session_join(core, device, s, r);
    }
    s->step_items = room.n;
    s->step_units = room.units;
    return room.n > 0;
}

/* ------------------------------------------------------------------------------------ whose turn
 */

/* The session that has waited longest of those that could go on, or NULL. */
static struct core_session *next_session(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];

    for (uint16_t i = d->parked_head; i != UINT16_MAX; i = d->sessions[i].next) {
        struct core_session *s = &d->sessions[i];
        if (core_action_linked(&s->action) || s->n_leaving == s->members.n)
            continue;
        if (s->n_runnable > 0 || (!s->alone && batch_joiner(core, device, s) != NULL))
            return s;
    }
    return NULL;
}

/* The oldest request for which a session may be begun, or NULL. An older one that finds no memory
 * is first to be thought about, before a younger one takes what there is. */
static struct core_request *next_request(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    bool prepare = d->config.kind == CORE_PREPARE;
    struct core_request *oldest = NULL, *blocked = NULL;

    for (uint32_t word = 0; word < CORE_MAX_MODELS / 64; word++) {
        for (uint64_t bits = core->waiting_models[word]; bits != 0; bits &= bits - 1) {
            uint32_t model = word * 64 + (uint32_t)__builtin_ctzll(bits);
            struct core_model_state *m = core->models[model];
            if (!(m->resident & core_bit(device)))
                continue;
            struct core_request *r = batch_head(core, m, prepare);
            if (r == NULL || (oldest != NULL && core_id_before(oldest->id, r->id)))
                continue;
            if (!alone(r) && m->placement[device].open != UINT16_MAX)
                continue; /* joins the model's session at its next step */
            if (alone(r) && d->n_alone >= CORE_MAX_ALONE)
                continue;
            if (batch_claimed(d, model, r))
                continue;
            if (batch_fits(core, d, prepare ? 0 : m->config.memory_per_unit, r))
                oldest = r;
            else if (blocked == NULL || core_id_before(r->id, blocked->id))
                blocked = r;
        }
    }
    if (blocked != NULL && !core->planned &&
        (oldest == NULL || core_id_before(blocked->id, oldest->id)))
        return NULL;
    return oldest;
}

static bool may_begin_step(const struct core_device_state *d)
{
    return d->up && !d->dying && !d->exclusive && !d->hold && d->in_flight < d->config.depth;
}

/* Ends the sessions in which nobody is left, and lets those go who leave the others. */
static void dismiss(struct core *core, uint32_t device, bool all)
{
    struct core_device_state *d = core->devices[device];

    for (uint16_t i = d->parked_head, next; i != UINT16_MAX; i = next) {
        struct core_session *s = &d->sessions[i];
        next = s->next;
        if (!core_action_linked(&s->action) &&
            (s->n_leaving == s->members.n || (all && s->n_leaving > 0)))
            core_session_dismiss(core, device, s);
    }
}

void core_batch_schedule(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    bool rested = d->rest;

    d->rest = false;
    dismiss(core, device, false);
    while (may_begin_step(d)) {
        struct core_session *s = next_session(core, device);
        struct core_request *r = next_request(core, device);
        if (s == NULL && r == NULL)
            break;
        bool go_on = s != NULL && (r == NULL || d->had_new);
        /* It wants no company: the device first comes to rest. */
        if ((go_on ? s->alone : alone(r)) && (d->in_flight > 0 || d->loads > 0)) {
            d->rest = true;
            break;
        }
        if (go_on) {
            core_session_unpark(d, s);
        } else {
            s = core_session_new(core, device, r->model, alone(r));
            if (s == NULL)
                break;
        }
        d->had_new = !go_on;
        if (core_batch_compose(core, device, s))
            core_session_begin_step(core, device, s);
        else
            core_session_park(core, device, s); /* its members' deadlines have passed */
    }
    /* Loads had to wait for that. */
    core->plan |= rested && !d->rest && !d->exclusive;
    core->dirty |= core->plan;
    dismiss(core, device, true);
}
