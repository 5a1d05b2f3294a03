/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device does next, and who is in it.
 *
 * A device that may begin a step has two kinds of choice: to go on with a session that is between
 * steps (the one that has waited longest), or to begin one, as plan.c chooses. Where there are both
 * they alternate; so neither a long generation nor a long queue keeps the other waiting for more
 * than a step. Within a session, members whose step limits leave some out take turns.
 */
#include "core/internal.h"

#define BEHIND_MOST 32 /* so many of a lane are looked at when its first is left to others */

static bool alone(const struct core_request *r)
{
    return (r->flags & CORE_ALONE) != 0;
}

/* Who is next in a lane, or NULL. */
static struct core_request *batch_head(struct core *core, uint16_t lane)
{
    const struct core_model_state *m = core->models[core->lanes[lane].model];

    for (;;) {
        struct core_request *r = core_lane_next(core, lane);
        if (r == NULL || core->lanes[lane].prepare || !(m->config.flags & CORE_MODEL_STEPS) ||
            !core_request_stalled(r))
            return r;
        /* Its model has become one of steps since it was queued. */
        core_request_unqueue(core, r);
        core_request_wait(core, r);
    }
}

/* Whether somebody waits for memory there who came before all that wait for the model. */
static bool batch_claimed(const struct core *core, const struct core_device_state *d,
                          uint32_t model)
{
    const struct core_model_state *m = core->models[model];
    const struct core_list *list = d->config.kind == CORE_PREPARE ? &m->unprepared : &m->ready;

    return d->claim != CORE_NONE && d->claim != model && list->n > 0 &&
           core_id_before(d->claim_since, core->requests[list->head].id);
}

static bool batch_fits(struct core *core, const struct core_device_state *d,
                       uint64_t memory_per_unit, const struct core_request *r)
{
    if (memory_per_unit == 0 || core_multiply(r->units, memory_per_unit) <= core_device_free(d))
        return true;
    core->blocked = true;
    return false;
}

/* The most urgent of those that would not make a padded batch longer, or NULL. */
static struct core_request *batch_shorter(struct core *core, uint16_t of)
{
    const struct core_lane *lane = &core->lanes[of];
    struct core_request *best = NULL;

    for (uint16_t i = core->models[lane->model]->lanes; i != UINT16_MAX; i = core->lanes[i].next) {
        const struct core_lane *other = &core->lanes[i];
        if (other->prepare || other->batch_key != lane->batch_key ||
            other->length >= lane->length || other->n == 0)
            continue;
        struct core_request *r = batch_head(core, i);
        if (r != NULL && (best == NULL || r->key < best->key))
            best = r;
    }
    return best;
}

/* In how long a step that is given now and takes so many ns is done; 0: not known. */
static uint64_t ends_in(const struct core *core, uint32_t device, uint64_t ns)
{
    return ns == 0 ? 0 : core_device_begins(core, core->devices[device]) - core->now + ns;
}

/* In how long a step of so many units that is given now is done, but rarely later. */
static uint64_t done_in(const struct core *core, const struct core_model_state *m, uint32_t device,
                        uint64_t units)
{
    return ends_in(core, device, core_model_bound(core, m, device, units));
}

/* In how long it is expected to be. */
static uint64_t expected_in(const struct core *core, const struct core_model_state *m,
                            uint32_t device, uint64_t units)
{
    return ends_in(core, device, core_model_expect(core, m, device, units));
}

/* Whether a device can't serve somebody in time: it is left to others. Behind steps that are under
 * way that may be the same one; and where none can, it is told so when the clock gets there. */
static bool too_slow(const struct core *core, uint32_t device, const struct core_request *r)
{
    const struct core_model_state *m = core->models[r->model];

    if (r->deadline == 0 || (r->flags & CORE_PROBES) || r->state != CORE_READY ||
        (m->config.flags & CORE_MODEL_STEPS) ||
        ((m->resident & m->config.devices) == core_bit(device) &&
         core_device_begins(core, core->devices[device]) == core->now))
        return false;
    return core->now + expected_in(core, m, device, r->units) > r->deadline;
}

/* The next who may join a session, or NULL. */
static struct core_request *batch_joiner(struct core *core, uint32_t device,
                                         const struct core_session *s)
{
    struct core_model_state *m = core->models[s->model];

    if (m->removing || s->members.n >= CORE_MAX_BATCH || !(m->resident & core_bit(device)) ||
        core->devices[device]->closed)
        return NULL;
    struct core_request *r = batch_head(core, s->lane);
    if (r == NULL && core->lanes[s->lane].length != 0)
        r = batch_shorter(core, s->lane);
    if (r == NULL || alone(r) != s->alone || (s->alone && s->members.n > 0))
        return NULL;
    /* A claim lets a batch begin with all who wait for it, but not a session go on for ever. */
    if (s->step > 0 && batch_claimed(core, core->devices[device], s->model))
        return NULL;
    if (!batch_fits(core, core->devices[device], s->memory_per_unit, r))
        return NULL;
    return r;
}

/* The number of items and of units that a step may still take, and by when it has to end. */
struct room {
    uint32_t n, max_n;
    uint64_t units, max_units;
    uint64_t longest; /* item; 0: the units of a batch are the sum of its items' */
    uint64_t begin;   /* when the step will */
    bool timed;       /* it has to end by `deadline`, of those in it the earliest */
    uint64_t deadline;
    uint64_t until; /* when a job wants the device */
};

static bool room_take(struct core *core, struct room *room, const struct core_model_state *m,
                      uint32_t device, const struct core_request *r)
{
    uint32_t max_n = room->max_n;
    uint64_t units = room->units + r->units, longest = room->longest;
    uint64_t deadline = room->deadline;

    if (m->config.flags & CORE_MODEL_PADS) {
        longest = longest > r->units ? longest : r->units;
        units = core_multiply(longest, room->n + 1);
    }
    if (r->batch_cap != 0 && r->batch_cap < max_n)
        max_n = r->batch_cap;
    if (room->n >= max_n || (room->n > 0 && units > room->max_units))
        return false;
    if (room->until != CORE_NEVER && room->n > 0 &&
        room->begin + core_model_bound(core, m, device, units) > room->until)
        return false;
    if (room->timed) {
        if (r->deadline != 0 && r->deadline < deadline)
            deadline = r->deadline;
        if (room->n > 0 && deadline != UINT64_MAX &&
            room->begin + core_model_bound(core, m, device, units) > deadline)
            return false;
    }
    room->max_n = max_n;
    room->n++;
    room->units = units;
    room->longest = longest;
    room->deadline = deadline;
    return true;
}

/* Chooses who runs in the next step of a session: members whose turn it is, then `first`, if there
 * is one, then those who wait and may join; `n` at most (0: as many as fit). False: nobody. */
static bool compose(struct core *core, uint32_t device, struct core_session *s,
                    struct core_request *first, uint32_t n)
{
    const struct core_model_state *m = core->models[s->model];
    const struct core_model *limits = &m->config;
    struct room room = {
        .max_n = s->prepare ? limits->max_prepare_requests : limits->max_batch_requests,
        .max_units = s->prepare ? UINT64_MAX : core_model_most(m, device),
        /* Those of a session of steps are judged between its steps. */
        .timed = !s->prepare && !(limits->flags & CORE_MODEL_STEPS),
        .deadline = UINT64_MAX,
        .until = core_gang_until(core, device),
        .begin = core_device_begins(core, core->devices[device]),
    };
    if (n != 0 && n < room.max_n)
        room.max_n = n;

    for (uint32_t i = s->members.n, slot = s->members.head; i > 0; i--) {
        struct core_request *r = &core->requests[slot];
        uint32_t next = r->next;
        if (!(r->flags & CORE_LEAVES)) {
            if (r->deadline != 0 && r->deadline <= core->now) {
                r->flags |= CORE_LEAVES;
                r->status = LIBSCHED_EDEADLINE;
                core_deadline_remove(core, slot);
            } else if (!core_request_stalled(r) && room_take(core, &room, m, device, r)) {
                r->flags |= CORE_IN_STEP;
                /* Behind those for whom there was no room. */
                core_list_remove(core, &s->members, slot);
                core_list_append(core, &s->members, slot);
            }
        }
        slot = next;
    }
    for (;;) {
        struct core_request *r = first != NULL ? first : batch_joiner(core, device, s);
        first = NULL;
        /* Those before it may have been given up since the session was decided on. */
        if (r == NULL || (room.n == 0 && too_slow(core, device, r)) ||
            !room_take(core, &room, m, device, r))
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
        /* Its next step takes as long as its last. */
        if (d->gang != CORE_NONE &&
            !core_gang_admits(core, device,
                              done_in(core, core->models[s->model], device, s->step_units)))
            continue;
        if (s->n_runnable > 0 || (!s->alone && batch_joiner(core, device, s) != NULL))
            return s;
    }
    return NULL;
}

/* Whether a session may be begun with one who is next in its lane, memory apart. */
static bool may_begin(struct core *core, uint32_t device, const struct core_request *r)
{
    const struct core_device_state *d = core->devices[device];
    const struct core_model_state *m = core->models[r->model];

    if (d->gang != CORE_NONE && !core_gang_admits(core, device, done_in(core, m, device, r->units)))
        return false;
    if (alone(r))
        return d->n_alone < CORE_MAX_ALONE;
    /* It joins the model's session at its next step. */
    return m->placement[device].open == UINT16_MAX;
}

/* Whether memory makes no batch of a lane smaller. */
static bool all_fit(const struct core_device_state *d, const struct core_model_state *m,
                    const struct core_lane *lane)
{
    uint64_t units = m->config.max_batch_units;

    if (lane->units < units)
        units = lane->units;
    return m->config.memory_per_unit == 0 ||
           core_multiply(units, m->config.memory_per_unit) <= core_device_free(d);
}

/* Who is passed over: they want what there isn't now. */
struct passed {
    const struct core_request *blocked; /* the first of those that find no memory */
    bool slow;                          /* some are left to faster devices */
    bool later; /* some had better begin when what is under way has ended, and not ahead of that */
};

/* Those who a session may be begun with, each the next of its lane; how many there are. */
static uint32_t gather(struct core *core, uint32_t device, struct core_candidate *candidates,
                       struct passed *passed)
{
    const struct core_device_state *d = core->devices[device];
    bool prepare = d->config.kind == CORE_PREPARE;
    bool ahead = d->in_flight > 0, led = d->config.lead_ns > 0;
    uint32_t n = 0;

    for (uint32_t word = 0; word < CORE_MAX_MODELS / 64; word++) {
        for (uint64_t bits = core->waiting_models[word]; bits != 0; bits &= bits - 1) {
            uint32_t model = word * 64 + (uint32_t)__builtin_ctzll(bits);
            struct core_model_state *m = core->models[model];
            if (!(m->resident & core_bit(device)) || batch_claimed(core, d, model))
                continue;
            for (uint16_t i = m->lanes; i != UINT16_MAX && n < CORE_MAX_MODELS;
                 i = core->lanes[i].next) {
                if (core->lanes[i].prepare != prepare || core->lanes[i].n == 0)
                    continue;
                struct core_request *r = batch_head(core, i);
                if (r == NULL || !may_begin(core, device, r))
                    continue;
                bool slow = too_slow(core, device, r);
                passed->slow |= slow;
                if (ahead && (slow || (led && !all_fit(d, m, &core->lanes[i]))))
                    passed->later = true;
                else if (slow)
                    continue;
                else if (batch_fits(core, d, prepare ? 0 : m->config.memory_per_unit, r))
                    candidates[n++] = (struct core_candidate){.next = r, .lane = i};
                else if (passed->blocked == NULL || core_id_before(r->id, passed->blocked->id))
                    passed->blocked = r;
            }
        }
    }
    return n;
}

static bool in_time(const struct core *core, uint32_t device, const struct core_request *r)
{
    const struct core_model_state *m = core->models[r->model];

    return r->deadline == 0 || (r->deadline > core->now &&
                                core->now + expected_in(core, m, device, r->units) <= r->deadline);
}

/* Where all who are next are left to faster devices: the most urgent of those behind them that this
 * one can serve, by itself. */
static struct core_choice choose_behind(struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];
    struct core_choice best = {.next = NULL, .n = 1};
    uint32_t slots[BEHIND_MOST];

    for (uint32_t word = 0; word < CORE_MAX_MODELS / 64; word++) {
        for (uint64_t bits = core->waiting_models[word]; bits != 0; bits &= bits - 1) {
            uint32_t model = word * 64 + (uint32_t)__builtin_ctzll(bits);
            struct core_model_state *m = core->models[model];
            if (!(m->resident & core_bit(device)) || batch_claimed(core, d, model))
                continue;
            for (uint16_t i = m->lanes; i != UINT16_MAX; i = core->lanes[i].next) {
                struct core_request *r = core->lanes[i].prepare ? NULL : batch_head(core, i);
                if (r == NULL || !too_slow(core, device, r))
                    continue;
                uint32_t n = core_lane_list(core, i, slots, BEHIND_MOST);
                for (uint32_t k = 1; k < n; k++) {
                    r = &core->requests[slots[k]];
                    if (alone(r) || !in_time(core, device, r) || !may_begin(core, device, r) ||
                        !batch_fits(core, d, m->config.memory_per_unit, r))
                        continue;
                    if (best.next == NULL || r->key < best.next->key) {
                        best.next = r;
                        best.lane = i;
                    }
                    break;
                }
            }
        }
    }
    return best;
}

/* Puts those first who have not had more than their share; answers how many are to be chosen among:
 * these, or all if there are none. */
static uint32_t leave_ahead(const struct core *core, struct core_candidate *candidates, uint32_t n)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; n > 1 && i < n; i++) {
        if (core_lane_ahead(core, candidates[i].next))
            continue;
        struct core_candidate candidate = candidates[i];
        candidates[i] = candidates[kept];
        candidates[kept++] = candidate;
    }
    return kept == 0 ? n : kept;
}

/* The most urgent lane is passed over once more where another is preferred to it. */
static void note_passed(struct core *core, const struct core_choice *choice)
{
    if (choice->urgent != choice->lane)
        core->lanes[choice->urgent].passed++;
    core->lanes[choice->lane].passed = 0;
}

/* Those who are given up for the sake of the batch: they are told at once. */
static void give_up(struct core *core, uint16_t lane, uint32_t n)
{
    for (; n > 0; n--) {
        struct core_request *r = core_lane_next(core, lane);
        if (r == NULL || r->deadline == 0 || alone(r))
            return;
        core_request_unqueue(core, r);
        core_request_end(core, r, LIBSCHED_EDEADLINE);
    }
}

static bool may_begin_step(const struct core *core, const struct core_device_state *d)
{
    return d->up && !d->dying && !d->exclusive && !d->hold && core_device_bears(core, d);
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
    core->passed_over &= ~core_bit(device);
    dismiss(core, device, false);
    while (may_begin_step(core, d)) {
        struct core_candidate candidates[CORE_MAX_MODELS];
        struct passed passed = {.blocked = NULL};
        struct core_choice choice = {.next = NULL};
        struct core_request *behind = NULL;
        struct core_session *s = next_session(core, device);
        uint32_t n = d->closed ? 0 : gather(core, device, candidates, &passed);
        if (n == 0 && passed.later && !d->had_new)
            break; /* it is their turn */
        bool go_on = s != NULL && (n == 0 || d->had_new);
        if (!go_on && n > 0) {
            n = leave_ahead(core, candidates, n);
            choice = core_plan_choose(core, device, candidates, n);
            /* One who finds no memory is to be thought about before somebody who comes later takes
             * what there is. */
            if (passed.blocked != NULL && !core->planned &&
                core_id_before(passed.blocked->id, choice.next->id))
                choice.next = NULL;
            go_on = choice.next == NULL && s != NULL;
        } else if ((!go_on || !d->had_new) && passed.slow && passed.blocked == NULL &&
                   d->in_flight == 0) {
            choice = choose_behind(core, device);
            behind = choice.next;
            go_on = go_on && behind == NULL;
        }
        if (!go_on && choice.next == NULL) {
            /* May be whoever is behind those comes to be the first. */
            if (passed.slow && d->in_flight == 0)
                core->passed_over |= core_bit(device);
            break;
        }
        /* It wants no company: the device first comes to rest. */
        if ((go_on ? s->alone : alone(choice.next)) && (d->in_flight > 0 || d->loads > 0)) {
            d->rest = true;
            break;
        }
        if (go_on) {
            core_session_unpark(d, s);
        } else {
            s = core_session_new(core, device, choice.next->model, choice.lane, alone(choice.next));
            if (s == NULL)
                break;
            if (behind == NULL)
                note_passed(core, &choice);
            give_up(core, choice.lane, choice.drop);
        }
        d->had_new = !go_on;
        if (compose(core, device, s, behind, choice.n)) {
            core_session_begin_step(core, device, s);
        } else if (go_on) {
            core_session_park(core, device, s); /* its members' deadlines have passed */
        } else {
            /* Whoever comes after those that were given up can't run now. */
            core_session_free(core, device, s);
            if (choice.drop == 0)
                break;
        }
    }
    /* Loads had to wait for that. */
    core->plan |= rested && !d->rest && !d->exclusive;
    core->dirty |= core->plan;
    dismiss(core, device, true);
    core_device_await_lead(core, device);
}
