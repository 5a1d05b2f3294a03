/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether everything fits together. Nothing here trusts a count or a link: lists are walked with
 * a bound, each request is found in exactly the place its state names, and sums are made anew.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "core/internal.h"

#define CHECK(condition, ...)                                      \
    do {                                                           \
        if (!(condition)) {                                        \
            libsched_error_set(err, LIBSCHED_EINVAL, __VA_ARGS__); \
            return false;                                          \
        }                                                          \
    } while (0)

/* What is counted on the way, to be compared with what the core says. */
struct tally {
    uint8_t *seen; /* of each slot: times it was met in a list */
    uint32_t deadlines;
    uint32_t queued, running, requests;
    uint32_t model_queued[CORE_MAX_MODELS], model_running[CORE_MAX_MODELS];
    uint64_t model_units[CORE_MAX_MODELS];
    uint32_t model_sessions[CORE_MAX_MODELS];
    struct lane_tally {
        uint32_t n, n_hard, users, flows;
        uint64_t units;
        uint32_t classes[CORE_PRIORITIES];
    } * lanes; /* as far as models have any */
    uint32_t n_lanes;
    uint32_t *flows;  /* requests that name each */
    uint32_t *shares; /* requests that wait, of each client in each class */
};

static bool check_list(const struct core *core, const struct core_list *list, uint32_t state,
                       struct tally *tally, libsched_error *err)
{
    uint32_t n = 0, previous = CORE_NONE;

    for (uint32_t slot = list->head; slot != CORE_NONE; slot = core->requests[slot].next) {
        CHECK(slot < core->config.max_requests, "a list names slot %" PRIu32, slot);
        const struct core_request *r = &core->requests[slot];
        CHECK(++n <= list->n, "a list of %" PRIu32 " requests is longer", list->n);
        CHECK(r->prev == previous, "slot %" PRIu32 " does not link back", slot);
        CHECK(r->state == state,
              "slot %" PRIu32 " is in a list of state %" PRIu32 ", but in state %d", slot, state,
              r->state);
        tally->seen[slot]++;
        previous = slot;
    }
    CHECK(n == list->n, "a list of %" PRIu32 " requests has %" PRIu32, list->n, n);
    CHECK(list->tail == previous, "a list ends elsewhere than it says");
    return true;
}

/* Those who wait are in the order of submission. */
static bool check_order(const struct core *core, const struct core_list *list, libsched_error *err)
{
    for (uint32_t slot = list->head; slot != CORE_NONE; slot = core->requests[slot].next) {
        uint32_t next = core->requests[slot].next;
        CHECK(next == CORE_NONE || core_id_before(core->requests[slot].id, core->requests[next].id),
              "slot %" PRIu32 " waits before an older one", slot);
    }
    return true;
}

static bool check_models(const struct core *core, struct tally *tally, libsched_error *err)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        bool waits = (core->waiting_models[i / 64] & core_bit(i % 64)) != 0;
        if (m == NULL) {
            CHECK(!waits, "model %" PRIu32 " is not there, but has requests waiting", i);
            continue;
        }
        if (!check_list(core, &m->unprepared, CORE_UNPREPARED, tally, err) ||
            !check_list(core, &m->ready, CORE_READY, tally, err) ||
            !check_list(core, &m->uncredited, CORE_UNCREDITED, tally, err) ||
            !check_order(core, &m->unprepared, err) || !check_order(core, &m->ready, err))
            return false;
        CHECK(waits == (m->unprepared.n > 0 || m->ready.n > 0),
              "model %" PRIu32 " is not known to wait, or not to", i);
        CHECK(!m->removing || m->unprepared.n + m->ready.n + m->uncredited.n == 0,
              "requests wait for model %" PRIu32 ", which is being removed", i);
    }
    return true;
}

static bool check_session(const struct core *core, uint32_t device, uint32_t index,
                          struct tally *tally, libsched_error *err)
{
    const struct core_device_state *d = core->devices[device];
    const struct core_session *s = &d->sessions[index];
    const struct core_model_state *m = core_model_get(core, s->model);
    uint64_t memory = 0, units = 0;
    uint32_t runs = 0, runnable = 0, leaving = 0;

    CHECK(m != NULL, "a session of model %" PRIu32 ", which is not there", s->model);
    CHECK((s->batch & ((1u << CORE_SESSION_BITS) - 1)) == index,
          "a batch id names another session");
    CHECK(s->prepare == (d->config.kind == CORE_PREPARE), "a session on a device of another kind");
    if (!check_list(core, &s->members, s->prepare ? CORE_PREPARING : CORE_RUNNING, tally, err))
        return false;
    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next) {
        const struct core_request *r = &core->requests[slot];
        CHECK(r->device == device && r->session == index && r->model == s->model,
              "slot %" PRIu32 " is in a session that it doesn't name", slot);
        memory += core_multiply(r->units, s->memory_per_unit);
        if (r->flags & CORE_IN_STEP) {
            runs++;
            units += r->units;
            CHECK(s->in_flight, "slot %" PRIu32 " runs in no step", slot);
            CHECK(core->positions[slot] == CORE_NONE, "slot %" PRIu32 " runs against the clock",
                  slot);
        } else if (r->flags & CORE_LEAVES) {
            leaving++;
        } else if (!core_request_stalled(r)) {
            runnable++;
        }
        CHECK(!(r->flags & CORE_ALONE) || s->alone, "slot %" PRIu32 " is not alone", slot);
    }
    CHECK(memory == s->memory, "the memory of batch %" PRIu64 " does not add up", s->batch);
    CHECK(s->members.n <= CORE_MAX_BATCH, "batch %" PRIu64 " is too large", s->batch);
    CHECK(!s->alone || s->members.n <= 1, "batch %" PRIu64 " is to be alone", s->batch);
    CHECK(!(s->in_flight && s->ending), "batch %" PRIu64 " goes on and ends", s->batch);
    if (s->in_flight) {
        CHECK(runs <= s->step_items && units <= s->step_units, "a step grew");
        CHECK(s->step_items == 1 || s->prepare || s->step_units <= CORE_MAX_UNITS, "a large step");
    } else if (s->ending) {
        CHECK(leaving == s->members.n, "batch %" PRIu64 " ends with members", s->batch);
    } else {
        CHECK(s->steps, "batch %" PRIu64 " of a one-shot model waits for a turn", s->batch);
        CHECK(runnable == s->n_runnable, "batch %" PRIu64 ": %" PRIu32 " may run, not %" PRIu32,
              s->batch, runnable, s->n_runnable);
        CHECK(leaving == s->n_leaving, "batch %" PRIu64 ": %" PRIu32 " leave, not %" PRIu32,
              s->batch, leaving, s->n_leaving);
    }
    tally->model_sessions[s->model]++;
    return true;
}

static bool check_device(const struct core *core, uint32_t device, struct tally *tally,
                         libsched_error *err)
{
    const struct core_device_state *d = core->devices[device];
    uint32_t in_flight = 0, sessions = 0, alone = 0, parked = 0, idle = 0, loads = 0;
    uint64_t memory = d->gang_memory, bound = 0, expected = 0;
    uint32_t unknown = 0;
    bool exclusive = false;
    uint32_t of_model[CORE_MAX_MODELS] = {0};

    for (uint32_t i = 0; i < d->sessions_used; i++) {
        const struct core_session *s = &d->sessions[i];
        if (s->batch == 0)
            continue;
        if (!check_session(core, device, i, tally, err))
            return false;
        sessions++;
        of_model[s->model]++;
        in_flight += s->in_flight;
        bound += s->in_flight ? s->step_bound : 0;
        expected += s->in_flight ? s->step_expected : 0;
        unknown += s->in_flight && s->step_expected == 0;
        idle += !s->in_flight && !s->ending;
        alone += s->alone;
        exclusive |= s->alone && s->in_flight;
        memory += s->memory;
    }
    for (uint16_t i = d->parked_head; i != UINT16_MAX; i = d->sessions[i].next) {
        const struct core_session *s = &d->sessions[i];
        CHECK(s->batch != 0 && !s->in_flight && !s->ending && ++parked <= idle,
              "device %" PRIu32 ": session %d is not between steps", device, i);
    }
    CHECK(parked == idle, "device %" PRIu32 ": a session is between steps and forgotten", device);
    CHECK(sessions == d->n_sessions && alone == d->n_alone && in_flight == d->in_flight,
          "device %" PRIu32 " counts its sessions wrongly", device);
    CHECK(bound == d->bound && expected == d->expected && unknown == d->n_unknown,
          "device %" PRIu32 " counts on other times than its steps'", device);
    CHECK(in_flight <= d->config.depth, "device %" PRIu32 " is given too much", device);
    CHECK(d->up || sessions == 0, "device %" PRIu32 " is down, with sessions", device);
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m == NULL)
            continue;
        const struct core_placement *p = &m->placement[device];
        CHECK(p->sessions == of_model[i], "model %" PRIu32 " has other sessions on %" PRIu32, i,
              device);
        CHECK(of_model[i] == 0 || p->state == CORE_RESIDENT,
              "model %" PRIu32 " has sessions on %" PRIu32 ", but isn't loaded", i, device);
        CHECK((p->state == CORE_RESIDENT) == ((m->resident & core_bit(device)) != 0),
              "model %" PRIu32 " is loaded on %" PRIu32 ", or isn't", i, device);
        bool there =
            p->state == CORE_LOADING || p->state == CORE_RESIDENT || p->state == CORE_EVICTING;
        CHECK(!there || d->up, "model %" PRIu32 " on %" PRIu32 ", which is down", i, device);
        CHECK(there || p->memory == 0, "model %" PRIu32 " keeps memory on %" PRIu32, i, device);
        CHECK(!core_action_linked(&p->action) || p->state == CORE_LOADING ||
                  p->state == CORE_EVICTING,
              "model %" PRIu32 " has nothing to say on %" PRIu32, i, device);
        loads += p->state == CORE_LOADING || p->state == CORE_EVICTING;
        exclusive |= p->state == CORE_LOADING && p->suspect;
        memory += p->memory;
    }
    CHECK(loads == d->loads, "device %" PRIu32 ": %" PRIu32 " loads, not %" PRIu32, device, loads,
          d->loads);
    CHECK(exclusive == d->exclusive, "device %" PRIu32 " is, or isn't, to be left alone", device);
    CHECK(!exclusive || in_flight + loads == 1, "device %" PRIu32 " has company", device);
    CHECK(d->config.memory_bytes == 0 || memory == d->memory,
          "device %" PRIu32 ": %" PRIu64 " bytes are taken, not %" PRIu64, device, memory,
          d->memory);
    return true;
}

static bool check_deadlines(const struct core *core, const struct tally *tally, libsched_error *err)
{
    CHECK(core->n_deadlines == tally->deadlines, "%" PRIu32 " deadlines, not %" PRIu32,
          tally->deadlines, core->n_deadlines);
    for (uint32_t i = 0; i < core->n_deadlines; i++) {
        const struct core_deadline *entry = &core->deadlines[i];
        CHECK(core->positions[entry->slot] == i, "the deadline of slot %" PRIu32 " is lost",
              entry->slot);
        CHECK(i == 0 || (int32_t)(core->deadlines[(i - 1) / 4].at - entry->at) <= 0,
              "deadline %" PRIu32 " is above an earlier one", i);
    }
    /* When all is decided, somebody wakes us for the first. */
    CHECK(core->dirty || core_next_due(core) == CORE_NEVER ||
              core_action_linked(&core->timer_action) ||
              (core->armed != 0 && core->armed <= core_next_due(core)),
          "nobody waits for the first deadline");
    return true;
}

/* Those who wait to be begun with are in a flow of their own lane, class and client. */
static bool check_place(const struct core *core, uint32_t slot, struct tally *tally,
                        libsched_error *err)
{
    const struct core_request *r = &core->requests[slot];
    bool placed = r->state == CORE_UNPREPARED || r->state == CORE_READY;

    CHECK(placed == (r->flow != CORE_NONE), "slot %" PRIu32 " is in a flow, or isn't", slot);
    if (r->lane != UINT16_MAX) {
        CHECK(r->lane < tally->n_lanes, "slot %" PRIu32 " is in a lane of no model", slot);
        const struct core_lane *lane = &core->lanes[r->lane];
        CHECK(lane->model == r->model, "slot %" PRIu32 " is in another model's lane", slot);
        tally->lanes[r->lane].users++;
    }
    if (!placed)
        return true;
    CHECK(r->flow < core->flows_used && r->lane != UINT16_MAX, "slot %" PRIu32 " is in no lane",
          slot);
    const struct core_flow *f = &core->flows[r->flow];
    const struct core_lane *lane = &core->lanes[r->lane];
    CHECK(f->lane == r->lane && f->priority == r->priority && f->client == r->client,
          "slot %" PRIu32 " is in somebody else's flow", slot);
    CHECK(lane->prepare == (r->state == CORE_UNPREPARED), "slot %" PRIu32 " is in the wrong lane",
          slot);
    CHECK(f->key <= r->key, "slot %" PRIu32 " comes before the first of its flow", slot);
    struct lane_tally *t = &tally->lanes[r->lane];
    t->n++;
    t->n_hard += r->deadline != 0;
    t->units += r->units;
    t->classes[r->priority]++;
    t->flows += tally->flows[r->flow]++ == 0;
    tally->shares[r->client * CORE_PRIORITIES + r->priority]++;
    return true;
}

static bool check_lanes(const struct core *core, const struct tally *tally, libsched_error *err)
{
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m == NULL)
            continue;
        uint32_t lanes = 0;
        for (uint16_t j = m->lanes; j != UINT16_MAX; j = core->lanes[j].next) {
            const struct core_lane *lane = &core->lanes[j];
            const struct lane_tally *t = &tally->lanes[j];
            CHECK(++lanes <= CORE_MAX_LANES && lane->model == i, "the lanes of model %" PRIu32, i);
            bool own = j == m->lane || j == m->prepare_lane;
            CHECK(lane->users == t->users + own, "lane %d has %" PRIu32 " users, not %" PRIu32, j,
                  t->users + own, lane->users);
            CHECK(lane->n == t->n && lane->n_hard == t->n_hard && lane->units == t->units &&
                      lane->flows == t->flows,
                  "lane %d counts those who wait wrongly", j);
            for (uint32_t p = 0; p < CORE_PRIORITIES; p++)
                CHECK(lane->classes[p].n == t->classes[p] &&
                          (t->classes[p] > 0) == (lane->waiting >> p & 1) &&
                          (t->classes[p] > 0) == (lane->classes[p].due != CORE_NONE ||
                                                  lane->classes[p].ahead != CORE_NONE),
                      "lane %d counts its class %" PRIu32 " wrongly", j, p);
        }
    }
    return true;
}

static bool check_shares(const struct core *core, const struct tally *tally, libsched_error *err)
{
    uint32_t classes[CORE_PRIORITIES] = {0};

    for (uint32_t i = 0; i < core->flows_used; i++)
        CHECK(tally->flows[i] == 0 || core->flows[i].n == tally->flows[i],
              "flow %" PRIu32 " has %" PRIu32 " requests, not %" PRIu32, i, tally->flows[i],
              core->flows[i].n);
    for (uint32_t i = 0; i <= core->config.max_clients; i++) {
        uint32_t waiting = 0;
        for (uint32_t p = 0; p < CORE_PRIORITIES; p++) {
            uint32_t n = tally->shares[i * CORE_PRIORITIES + p];
            CHECK(core->clients[i].shares[p].waiting == n || core->clients[i].requests == 0,
                  "client %" PRIu32 " has other requests waiting in class %" PRIu32, i, p);
            waiting += n;
            classes[p] += n;
        }
        CHECK(core->clients[i].waiting == waiting || core->clients[i].requests == 0,
              "client %" PRIu32 " counts those who wait wrongly", i);
    }
    for (uint32_t p = 0; p < CORE_PRIORITIES; p++)
        CHECK(core->classes[p].waiting == classes[p] &&
                  (classes[p] > 0) == (core->class_waiting >> p & 1) &&
                  (classes[p] > 0) == (core->classes[p].clients != CORE_NONE),
              "class %" PRIu32 " counts those who wait wrongly", p);
    return true;
}

static bool check_requests(const struct core *core, struct tally *tally, libsched_error *err)
{
    uint64_t clients = 0;

    for (uint32_t slot = 0; slot < core->config.max_requests; slot++) {
        const struct core_request *r = &core->requests[slot];
        bool listed = r->state == CORE_UNPREPARED || r->state == CORE_PREPARING ||
                      r->state == CORE_READY || r->state == CORE_UNCREDITED ||
                      r->state == CORE_RUNNING || r->state == CORE_FREE;
        CHECK(tally->seen[slot] == (listed ? 1 : 0), "slot %" PRIu32 " of state %d is in %d lists",
              slot, r->state, tally->seen[slot]);
        if (r->state == CORE_FREE) {
            CHECK(core->positions[slot] == CORE_NONE && !core_action_linked(&r->action),
                  "slot %" PRIu32 " is free, but known", slot);
            continue;
        }
        tally->requests++;
        if (!check_place(core, slot, tally, err))
            return false;
        CHECK((r->id & CORE_SLOT_MASK) == slot && r->id >> CORE_SLOT_BITS != 0,
              "slot %" PRIu32 " has another's id", slot);
        bool waits = r->state == CORE_UNPREPARED || r->state == CORE_PREPARING ||
                     r->state == CORE_READY || r->state == CORE_UNCREDITED;
        bool runs = r->state == CORE_RUNNING || r->state == CORE_HELD;
        tally->queued += waits;
        tally->running += runs;
        tally->deadlines += core->positions[slot] != CORE_NONE;
        CHECK(r->model != UINT16_MAX || r->state == CORE_HELD || r->state == CORE_ENDED,
              "slot %" PRIu32 " has no model", slot);
        if (r->model != UINT16_MAX) {
            tally->model_queued[r->model] += waits;
            tally->model_running[r->model] += runs;
            if (waits)
                tally->model_units[r->model] += r->units;
        }
        if (r->deadline != 0 && (r->state == CORE_UNPREPARED || r->state == CORE_READY ||
                                 r->state == CORE_UNCREDITED || r->state == CORE_HELD))
            CHECK(core->positions[slot] != CORE_NONE,
                  "slot %" PRIu32 " waits with no eye on the clock", slot);
        CHECK(r->state != CORE_HELD || (r->held > 0 && r->credit == 0),
              "slot %" PRIu32 " is held for nothing", slot);
        CHECK(r->held == 0 || r->credit == 0, "slot %" PRIu32 " has credit and does not send",
              slot);
        CHECK((r->flags & CORE_WANTS_PARTS) || r->sent + r->held + r->to_send == 0,
              "slot %" PRIu32 " sends parts nobody wants", slot);
        bool says = r->state == CORE_ENDED || r->to_send > 0 || (r->flags & CORE_SAY_ABORT);
        CHECK(says == core_action_linked(&r->action),
              "slot %" PRIu32 " (state %d) has something to say, or hasn't", slot, r->state);
        CHECK(!(r->flags & CORE_SAY_ABORT) || (r->flags & CORE_IN_STEP),
              "slot %" PRIu32 " aborts what does not run", slot);
        CHECK(r->strikes < core->config.max_strikes || r->state == CORE_ENDED,
              "slot %" PRIu32 " is poison, and tried again", slot);
    }
    for (uint32_t i = 0; i <= core->config.max_clients; i++)
        clients += core->clients[i].requests;
    CHECK(clients == tally->requests, "clients have %" PRIu64 " requests, not %" PRIu32, clients,
          tally->requests);
    return true;
}

static bool check_counts(const struct core *core, const struct tally *tally, libsched_error *err)
{
    const struct core_counts *all = &core->counts;

    CHECK(core->n_requests == tally->requests, "%" PRIu32 " requests, not %" PRIu32,
          tally->requests, core->n_requests);
    CHECK(all->queued == tally->queued && all->running == tally->running,
          "%" PRIu32 " wait and %" PRIu32 " run, not %" PRIu32 " and %" PRIu32, tally->queued,
          tally->running, all->queued, all->running);
    CHECK(all->submitted == all->completed + all->failed + all->cancelled + all->expired +
                                all->queued + all->running,
          "requests were lost, or ended twice");
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        if (m == NULL)
            continue;
        const struct core_counts *c = &m->counts;
        CHECK(c->queued == tally->model_queued[i] && c->running == tally->model_running[i] &&
                  m->waiting == c->queued && m->waiting_units == tally->model_units[i] &&
                  m->sessions == tally->model_sessions[i],
              "model %" PRIu32 " counts its requests wrongly", i);
        CHECK(c->submitted ==
                  c->completed + c->failed + c->cancelled + c->expired + c->queued + c->running,
              "model %" PRIu32 " lost requests, or ended them twice", i);
    }
    return true;
}

static bool check_actions(const struct core *core, libsched_error *err)
{
    uint32_t requests = 0, linked = 0;

    for (uint32_t slot = 0; slot < core->config.max_requests; slot++)
        linked += core_action_linked(&core->requests[slot].action);
    /* Requests are met once each, and link back: then there is no ring. */
    uint32_t previous = CORE_NONE;
    for (uint32_t node = core->action_head; node != CORE_NONE;) {
        const struct core_link *link;
        if (node < CORE_NODE_SESSIONS) {
            link = &core->requests[node].action;
            CHECK(++requests <= linked, "the actions run in a ring");
        } else if (node < CORE_NODE_PLACEMENTS) {
            uint32_t i = node - CORE_NODE_SESSIONS;
            const struct core_session *s =
                &core->devices[i / CORE_MAX_SESSIONS]->sessions[i % CORE_MAX_SESSIONS];
            CHECK(s->batch != 0, "a session that is free has something to say");
            link = &s->action;
        } else if (node < CORE_NODE_DEVICES) {
            uint32_t i = node - CORE_NODE_PLACEMENTS;
            link = &core->models[i / CORE_MAX_DEVICES]->placement[i % CORE_MAX_DEVICES].action;
        } else if (node < CORE_NODE_TIMER) {
            link = &core->devices[node - CORE_NODE_DEVICES]->action;
        } else if (node >= CORE_NODE_JOBS) {
            link = &core->jobs[node - CORE_NODE_JOBS].action;
        } else {
            link = &core->timer_action;
        }
        CHECK(link->prev == previous, "action %" PRIu32 " does not link back", node);
        previous = node;
        node = link->next;
    }
    CHECK(core->action_tail == previous, "the actions end elsewhere than they say");
    CHECK(requests == linked, "a request has something to say that is not heard");
    return true;
}

static bool check_all(const struct core *core, struct tally *tally, libsched_error *err)
{
    uint32_t n_free = 0;

    for (uint32_t slot = core->free_head; slot != CORE_NONE; slot = core->requests[slot].next) {
        CHECK(slot < core->config.max_requests && ++n_free <= core->config.max_requests,
              "the free slots run in a ring");
        tally->seen[slot]++;
    }
    CHECK(n_free + core->n_requests == core->config.max_requests, "slots were lost");
    if (!check_models(core, tally, err))
        return false;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (core->devices[i] != NULL && !check_device(core, i, tally, err))
            return false;
    return check_requests(core, tally, err) && check_lanes(core, tally, err) &&
           check_shares(core, tally, err) && check_deadlines(core, tally, err) &&
           check_counts(core, tally, err) && check_actions(core, err) && core_gang_check(core, err);
}

/* One more than the highest lane of any model. */
static uint32_t count_lanes(const struct core *core)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const struct core_model_state *m = core_model_get(core, i);
        uint32_t walked = 0;
        if (m == NULL)
            continue;
        for (uint16_t j = m->lanes; j < CORE_MAX_LANES && walked++ < CORE_MAX_LANES;
             j = core->lanes[j].next)
            n = j >= n ? j + 1u : n;
    }
    return n;
}

bool core_check(const struct core *core, libsched_error *err)
{
    struct tally *tally = calloc(1, sizeof(*tally));
    bool right = false;

    if (tally == NULL)
        goto no_memory;
    tally->n_lanes = count_lanes(core);
    tally->lanes = calloc((size_t)tally->n_lanes + 1, sizeof(tally->lanes[0]));
    tally->seen = calloc(core->config.max_requests, 1);
    tally->flows = calloc((size_t)core->flows_used + 1, sizeof(tally->flows[0]));
    tally->shares =
        calloc(((size_t)core->config.max_clients + 1) * CORE_PRIORITIES, sizeof(tally->shares[0]));
    if (tally->lanes == NULL || tally->seen == NULL || tally->flows == NULL ||
        tally->shares == NULL)
        goto no_memory;
    right = check_all(core, tally, err);
    goto done;
no_memory:
    libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to check with");
done:
    if (tally != NULL) {
        free(tally->lanes);
        free(tally->seen);
        free(tally->flows);
        free(tally->shares);
    }
    free(tally);
    return right;
}
