/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions, and what a worker says of them. A prepare batch is a session of one step.
 *
 * A session is free, in flight (a step of it is under way), parked (between steps: it waits for
 * its turn, or for somebody's credit), or ending.
 */
#include "core/internal.h"

uint32_t core_session_index(const struct core_device_state *d, const struct core_session *s)
{
    return (uint32_t)(s - d->sessions);
}

struct core_session *core_session_of(const struct core *core, const struct core_request *r)
{
    return &core->devices[r->device]->sessions[r->session];
}

struct core_session *core_session_find(const struct core *core, uint32_t device, uint64_t batch)
{
    uint32_t index = batch & ((1u << CORE_SESSION_BITS) - 1);

    if (batch == 0 || index >= CORE_MAX_SESSIONS)
        return NULL;
    struct core_session *s = &core->devices[device]->sessions[index];
    return s->batch == batch ? s : NULL;
}

/* ------------------------------------------------------------------------------ from and to free
 */

struct core_session *core_session_new(struct core *core, uint32_t device, uint32_t model,
                                      uint16_t lane, bool alone)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core->models[model];
    struct core_placement *p = &m->placement[device];
    uint16_t index = d->free_session;

    if (index == UINT16_MAX)
        return NULL;
    struct core_session *s = &d->sessions[index];
    d->free_session = s->next;
    if (index >= d->sessions_used)
        d->sessions_used = index + 1u;
    bool prepare = d->config.kind == CORE_PREPARE;
    *s = (struct core_session){
        .action = {.next = CORE_NONE, .prev = CORE_UNLINKED},
        .batch = ++core->batches << CORE_SESSION_BITS | index,
        .memory_per_unit = prepare ? 0 : m->config.memory_per_unit,
        .model = model,
        .next = UINT16_MAX,
        .prev = UINT16_MAX,
        .lane = lane,
        .prepare = prepare,
        .steps = !prepare && (m->config.flags & CORE_MODEL_STEPS),
        .alone = alone,
    };
    core_list_init(&s->members);
    m->sessions++;
    p->sessions++;
    p->used = ++core->ticks;
    d->n_sessions++;
    if (alone)
        d->n_alone++;
    else if (s->steps)
        p->open = index;
    return s;
}

void core_session_free(struct core *core, uint32_t device, struct core_session *s)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core->models[s->model];
    struct core_placement *p = &m->placement[device];
    uint16_t index = (uint16_t)core_session_index(d, s);

    core_action_unlink(core, core_session_node(device, index));
    m->sessions--;
    p->sessions--;
    d->n_sessions--;
    if (s->alone)
        d->n_alone--;
    if (p->open == index)
        p->open = UINT16_MAX;
    s->batch = 0;
    s->in_flight = s->ending = false;
    s->next = d->free_session;
    d->free_session = index;
    core->look_at |= core_bit(device);
    core->dirty = true;
    /* Nothing pins it any more. */
    core->plan |= m->removing;
}

/* ------------------------------------------------------------------------------------- members */

void core_session_join(struct core *core, uint32_t device, struct core_session *s,
                       struct core_request *r)
{
    uint64_t memory = core_multiply(r->units, s->memory_per_unit);

    core_request_unqueue(core, r);
    core_request_enter(core, r, s->prepare ? CORE_PREPARING : CORE_RUNNING);
    core_list_append(core, &s->members, core_request_slot(core, r));
    r->device = (uint8_t)device;
    r->session = (uint16_t)core_session_index(core->devices[device], s);
    r->flags |= CORE_JOINS | CORE_IN_STEP;
    s->memory += memory;
    core_device_take(core->devices[device], memory);
    if (!s->prepare) {
        r->attempts++;
        r->dispatched = core->now;
    }
}

void core_session_remove(struct core *core, struct core_session *s, struct core_request *r)
{
    uint64_t memory = core_multiply(r->units, s->memory_per_unit);

    core_list_remove(core, &s->members, core_request_slot(core, r));
    core_deadline_remove(core, core_request_slot(core, r));
    s->memory -= memory;
    core_device_give(core->devices[r->device], memory);
    if (memory > 0)
        core->dirty = true;
}

/* --------------------------------------------------------------------------------------- steps */

/* What the step takes is taken from the shares of those who run in it, who are told how many they
 * are. */
static void session_charge(struct core *core, const struct core_session *s, uint64_t ns)
{
    core->longest -= core->longest / 1024;
    if (core->longest < ns)
        core->longest = ns;
    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next)
        if (core->requests[slot].flags & CORE_IN_STEP)
            core->requests[slot].batch_size = (uint16_t)s->step_items;
    if (ns > 0)
        core_shares_charge(core, s, ns / s->step_items);
}

void core_session_begin_step(struct core *core, uint32_t device, struct core_session *s)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core->models[s->model];

    s->step++;
    s->in_flight = true;
    s->step_bound = s->prepare ? 0 : core_model_bound(core, m, device, s->step_units);
    s->step_expected = s->prepare ? 0 : core_model_expect(core, m, device, s->step_units);
    core_device_begin(core, d, s);
    d->exclusive |= s->alone;
    if (!s->prepare) {
        session_charge(core, s, s->step_expected);
        struct core_counts *counts[2] = {&core->counts, &m->counts};
        for (int i = 0; i < 2; i++) {
            counts[i]->batches++;
            counts[i]->batched_requests += s->step_items;
            counts[i]->batched_units += s->step_units;
        }
        m->placement[device].used = ++core->ticks;
        m->tried = core->now;
    }
    core_action_link(core, core_session_node(device, core_session_index(d, s)));
}

/* The step is over, one way or another. */
static void session_land(struct core *core, uint32_t device, struct core_session *s)
{
    struct core_device_state *d = core->devices[device];

    core->look_at |= core_bit(device);
    if (!s->in_flight)
        return;
    s->in_flight = false;
    core_gang_served(core, device, core->now - d->busy_since);
    core_device_end(core, d, s);
    if (s->alone) {
        d->exclusive = false;
        core->plan = true; /* loads and evictions had to wait for it */
    }
    core->plan |= d->hold;
}

void core_session_park(struct core *core, uint32_t device, struct core_session *s)
{
    struct core_device_state *d = core->devices[device];
    struct core_model_state *m = core->models[s->model];
    uint16_t index = (uint16_t)core_session_index(d, s);

    s->n_runnable = s->n_leaving = 0;
    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next) {
        struct core_request *r = &core->requests[slot];
        bool stalled = core_request_stalled(r);
        if (stalled && m->removing && !(r->flags & CORE_LEAVES)) {
            r->flags |= CORE_LEAVES;
            r->status = (int16_t)m->status;
        }
        if (r->flags & CORE_LEAVES) {
            core_deadline_remove(core, slot);
            s->n_leaving++;
        } else if (stalled) {
            core_deadline_add(core, slot);
        } else {
            s->n_runnable++;
        }
    }
    s->next = UINT16_MAX;
    s->prev = d->parked_tail;
    if (d->parked_tail == UINT16_MAX)
        d->parked_head = index;
    else
        d->sessions[d->parked_tail].next = index;
    d->parked_tail = index;
}

void core_session_unpark(struct core_device_state *d, struct core_session *s)
{
    if (s->prev == UINT16_MAX)
        d->parked_head = s->next;
    else
        d->sessions[s->prev].next = s->next;
    if (s->next == UINT16_MAX)
        d->parked_tail = s->prev;
    else
        d->sessions[s->next].prev = s->prev;
}

void core_session_dismiss(struct core *core, uint32_t device, struct core_session *s)
{
    struct core_device_state *d = core->devices[device];
    struct core_placement *p = &core->models[s->model]->placement[device];
    uint16_t index = (uint16_t)core_session_index(d, s);

    s->step++;
    if (s->n_leaving == s->members.n) {
        core_session_unpark(d, s);
        s->ending = true;
        if (p->open == index)
            p->open = UINT16_MAX;
    }
    core_action_link(core, core_session_node(device, index));
}

/* -------------------------------------------------------------------------------- what has ended
 */

/* The member that an event speaks of, or NULL where it speaks of nobody who runs now. */
static struct core_request *session_member(struct core *core, uint32_t device, uint64_t batch,
                                           uint64_t id, struct core_session **out)
{
    struct core_session *s = core_session_find(core, device, batch);
    struct core_request *r = core_request_find(core, id);

    *out = s;
    if (s == NULL || r == NULL || (r->state != CORE_RUNNING && r->state != CORE_PREPARING) ||
        !s->in_flight || core_action_linked(&s->action) || r->device != device ||
        core_session_of(core, r) != s || !(r->flags & CORE_IN_STEP))
        return NULL;
    return r;
}

/* It runs in no step now, so there is nothing to abort. */
static void session_unmark(struct core *core, struct core_request *r)
{
    if ((r->flags & CORE_SAY_ABORT) && r->to_send == 0)
        core_action_unlink(core, core_request_slot(core, r));
    r->flags &= (uint8_t) ~(CORE_IN_STEP | CORE_JOINS | CORE_SAY_ABORT);
}

/* Leaves the session, and what belongs to it, behind. */
static void session_release(struct core *core, struct core_session *s, struct core_request *r)
{
    core_session_remove(core, s, r);
    session_unmark(core, r);
}

void core_session_prepared(struct core *core, uint32_t device, const struct core_event *event)
{
    struct core_session *s;
    struct core_request *r =
        session_member(core, device, event->u.prepared.batch, event->u.prepared.id, &s);

    if (r == NULL || !s->prepare)
        return;
    const struct core_model_state *m = core->models[r->model];
    uint64_t units = event->u.prepared.units == 0 ? 1 : event->u.prepared.units;
    session_release(core, s, r);
    if (r->flags & CORE_LEAVES) {
        core_request_end(core, r, r->status);
    } else if (m->removing) {
        core_request_end(core, r, m->status);
    } else if (event->u.prepared.status != LIBSCHED_OK) {
        core_request_end(core, r, event->u.prepared.status);
    } else if (units > m->config.max_request_units ||
               core_multiply(units, m->config.memory_per_unit) > m->max_item_memory) {
        core_request_end(core, r, LIBSCHED_ETOOBIG);
    } else {
        uint16_t lane = core_lane_join(core, r->model, event->u.prepared.batch_key, units);
        if (lane == UINT16_MAX) {
            core_request_end(core, r, LIBSCHED_EBUSY);
            return;
        }
        core_lane_leave(core, r->lane);
        r->lane = lane;
        r->flags |= CORE_PREPARED_ONCE;
        r->flags &= (uint8_t)~CORE_ALONE;
        r->batch_cap = 0;
        core_request_set_units(core, r, units);
        core_request_wait(core, r);
    }
}

void core_session_part(struct core *core, uint32_t device, struct core_event *event)
{
    struct core_session *s;
    struct core_request *r =
        session_member(core, device, event->u.part.batch, event->u.part.id, &s);

    event->u.part.drop = r == NULL || s->prepare || !core_request_part(core, r);
}

void core_session_item_done(struct core *core, uint32_t device, struct core_event *event)
{
    struct core_session *s;
    struct core_request *r =
        session_member(core, device, event->u.item_done.batch, event->u.item_done.id, &s);

    event->u.item_done.drop = true;
    if (r == NULL || s->prepare)
        return;
    /* Given ahead, it waited until the step before it had ended. */
    if (s->step == 1 && r->dispatched < core->devices[device]->busy_since)
        r->dispatched = core->devices[device]->busy_since;
    session_release(core, s, r);
    if (r->flags & CORE_LEAVES) {
        core_request_end(core, r, r->status);
        return;
    }
    event->u.item_done.drop = false;
    if (event->u.item_done.status == LIBSCHED_OK)
        core_request_finish(core, r);
    else
        core_request_end(core, r, event->u.item_done.status);
}

/* ------------------------------------------------------------------------------- steps that ended
 */

/* Had been chosen for a step that the worker never heard of. */
static void session_unjoin(struct core_request *r)
{
    if (--r->attempts == 0)
        r->dispatched = 0;
}

/* The session is over, and not as it should: its members are tried again or fail. */
static void session_fail(struct core *core, uint32_t device, struct core_session *s, int status)
{
    bool given = !core_action_linked(&s->action);
    uint32_t tried = s->in_flight && given ? s->step_items : 0;

    if (status == LIBSCHED_ENODEVMEM && tried > 1 && !s->prepare)
        core_model_fitted(core->models[s->model], device, s->step_units, false);
    session_land(core, device, s);
    /* From the end, so that each goes to the very head of its queue. */
    while (s->members.n > 0) {
        struct core_request *r = &core->requests[s->members.tail];
        bool ran = given && (r->flags & CORE_IN_STEP);
        bool met = given || !(r->flags & CORE_JOINS);
        session_release(core, s, r);
        if (!met && !s->prepare)
            session_unjoin(r);
        if (r->flags & CORE_LEAVES) {
            core_request_end(core, r, r->status);
        } else if (!met) {
            core_request_retry(core, r, status);
        } else if (status != LIBSCHED_ENODEVMEM || (ran && tried == 1)) {
            core_request_end(core, r, status);
        } else {
            if (ran)
                r->batch_cap = (uint16_t)(tried / 2);
            core_request_retry(core, r, status);
        }
    }
    core_session_free(core, device, s);
}

void core_session_step_done(struct core *core, uint32_t device, const struct core_event *event)
{
    struct core_session *s = core_session_find(core, device, event->u.step_done.batch);
    int status = event->u.step_done.status;

    if (s == NULL || s->ending)
        return;
    if (event->type == CORE_BATCH_DONE && !s->prepare && status != LIBSCHED_EDEVICELOST) {
        if (s->step == 1 && s->in_flight && core_action_linked(&s->action))
            return; /* it has not begun */
        if (!s->in_flight)
            core_session_unpark(core->devices[device], s);
        session_fail(core, device, s, status == LIBSCHED_OK ? LIBSCHED_EENGINE : status);
        return;
    }
    if (core_action_linked(&s->action))
        return;
    if (status == LIBSCHED_EDEVICELOST) {
        core_device_kill(core, device);
        return;
    }
    if (!s->in_flight || (event->type == CORE_STEP_DONE && event->u.step_done.step != s->step))
        return;
    if (status != LIBSCHED_OK) {
        session_fail(core, device, s, status);
        return;
    }
    if (!s->prepare)
        core_model_fitted(core->models[s->model], device, s->step_units, true);
    if (!s->prepare && !event->u.step_done.warm_up &&
        event->u.step_done.end > event->u.step_done.begin)
        core_model_learn(core, core->models[s->model], device, s->step_units,
                         event->u.step_done.end - event->u.step_done.begin);
    if (!s->steps) {
        /* Whoever has not ended was forgotten by the engine. */
        session_fail(core, device, s, LIBSCHED_EENGINE);
        return;
    }
    session_land(core, device, s);
    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next)
        session_unmark(core, &core->requests[slot]);
    core_session_park(core, device, s);
}

/* --------------------------------------------------------------------------------------- deaths */

void core_sessions_lost(struct core *core, uint32_t device)
{
    struct core_device_state *d = core->devices[device];
    uint32_t steps = 0, lone = 0, loads = 0;

    /* What the worker was at when it died. What it had not heard of is innocent. */
    for (uint32_t i = 0; i < d->sessions_used; i++) {
        const struct core_session *s = &d->sessions[i];
        if (s->batch != 0 && s->in_flight && !core_action_linked(&s->action)) {
            steps++;
            lone = s->step_items == 1;
        }
    }
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m != NULL && !core_action_linked(&m->placement[device].action) &&
            (m->placement[device].state == CORE_LOADING ||
             m->placement[device].state == CORE_EVICTING))
            loads++;
    }
    bool strike = steps == 1 && lone && loads == 0 && !d->vacated;

    /* First, so that nobody finds room on it. */
    core_residency_lost(core, device, steps == 0 && loads == 1 && !core_gang_busy(core, device));
    for (uint32_t i = 0; i < d->sessions_used; i++) {
        struct core_session *s = &d->sessions[i];
        if (s->batch == 0)
            continue;
        bool given = !core_action_linked(&s->action);
        if (!s->in_flight && !s->ending)
            core_session_unpark(d, s);
        while (s->members.n > 0) {
            struct core_request *r = &core->requests[s->members.tail];
            bool ran = given && s->in_flight && (r->flags & CORE_IN_STEP);
            bool met = given || !(r->flags & CORE_JOINS);
            session_release(core, s, r);
            if (ran && !d->vacated) /* then it ended as it was told */
                r->flags |= CORE_ALONE;
            if (ran && strike)
                r->strikes++;
            if (met && !d->vacated)
                r->deaths++;
            else if (!met && !s->prepare)
                session_unjoin(r);
            if (r->flags & CORE_LEAVES)
                core_request_end(core, r, r->status);
            else if (r->strikes >= core->config.max_strikes)
                core_request_end(core, r, LIBSCHED_EPOISON);
            else if (r->deaths >= CORE_MAX_DEATHS)
                core_request_end(core, r, LIBSCHED_EDEVICELOST);
            else
                core_request_retry(core, r, LIBSCHED_EDEVICELOST);
        }
        core_session_free(core, device, s);
    }
    d->in_flight = d->n_unknown = 0;
    d->bound = d->expected = 0;
}
