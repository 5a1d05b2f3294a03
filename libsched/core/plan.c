/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which batch to run next when not everybody can be served in time.
 *
 * Two simple policies are each good where the other is not. One takes as many as the first in line
 * allows without missing its deadline, so it gives nobody up who could be served; near saturation
 * its batches get small, and it collapses. The other gives up the first in line until the batch is
 * as large as may be ("window drop"): best in overload, and wasteful below it, the more so the
 * more devices there are.
 *
 * So before each batch some policies are tried out: the requests that wait, those expected to
 * arrive (at the rate of late), and the devices with the times when they will be free are played
 * forward for as long as a request may wait, under each policy in turn; the one that serves the
 * most in time says what is done now. (Policy switching, a form of rollout: Bertsekas, Tsitsiklis,
 * Wu: Rollout algorithms for combinatorial optimization, 1997.) It costs some microseconds for a
 * batch of milliseconds, and is left out where a batch is so short that it would matter, and where
 * everybody can be served at once.
 */
#include <stdlib.h>

#include "core/internal.h"

#define PLAN_LANES 16     /* so many are looked at, that of the most urgent first */
#define PLAN_BATCHES 32   /* so far a plan looks */
#define PLAN_LEAST 200000 /* ns: a batch that is shorter is not worth one */
#define PASSED_MOST 4 /* times that the most urgent lane is passed over, its batch being small */
#define NEVER (UINT64_MAX / 4)
#define TIME_MOST (UINT64_C(1) << 46) /* ns: so that products stay within 64 bits */

struct plan_lane {
    struct core_request *next;
    uint16_t lane;
    uint64_t devices;     /* on which its model is loaded */
    uint64_t base, slope; /* ns of a batch, and of a unit in it in 1/2^16, on this device */
    uint32_t cap;         /* requests in a batch, */
    uint64_t most;        /* units in it, */
    uint32_t typical;     /* requests in the largest, of the mean size, */
    uint32_t window;      /* and requests in one that can be done within the slack */
    uint64_t each;        /* units of one that is not known */
    uint32_t n;           /* known each by itself, */
    uint32_t all;         /* and with those behind them */
    uint64_t step;        /* between the deadlines of the latter */
    uint32_t droppable;   /* of the first, so many may be given up */
    uint64_t gap, slack;  /* between arrivals that are expected, and from one to its deadline */
    uint64_t factor[CORE_MAX_DEVICES]; /* of the devices below, in 1/2^16 */
    uint64_t deadlines[CORE_LANE_LIST];
    uint64_t units[CORE_LANE_LIST + 1]; /* of all before one */
};

struct core_plan {
    struct plan_lane lanes[PLAN_LANES];
    uint32_t n_lanes;
    uint32_t n_devices;
    uint32_t device[CORE_MAX_DEVICES]; /* the first is the one to begin on */
    uint64_t free_at[CORE_MAX_DEVICES];
    uint64_t now, horizon;
    uint64_t begin; /* when what is given now does */
    uint32_t slots[CORE_LANE_LIST];
};

enum rule {
    RULE_ALL,    /* as many as the first allows */
    RULE_WINDOW, /* the first are given up until all the others fit */
    RULE_LARGE,  /* likewise, until the batch is as large as it gets */
};

struct policy {
    enum rule first, then; /* for this batch, and for those that follow */
    bool dense;            /* the batch of the most requests a time first, not the most urgent */
};

static const struct policy policies[] = {
    {RULE_ALL, RULE_ALL, false},      {RULE_WINDOW, RULE_WINDOW, false},
    {RULE_WINDOW, RULE_WINDOW, true}, {RULE_ALL, RULE_LARGE, false},
    {RULE_LARGE, RULE_LARGE, false},
};

struct batch {
    uint32_t drop, n;
};

int core_plan_init(struct core *core)
{
    core->planner = calloc(1, sizeof(*core->planner));
    return core->planner == NULL ? LIBSCHED_ENOMEM : LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------- what is known
 */

static uint64_t units_cost(const struct plan_lane *l, uint64_t units)
{
    return l->base + (l->slope * units >> 16);
}

/* So many that a batch of them takes `ns`. */
static uint64_t cost_units(const struct plan_lane *l, uint64_t ns)
{
    if (ns < l->base)
        return 0;
    uint64_t left = ns - l->base < TIME_MOST ? ns - l->base : TIME_MOST;
    return l->slope == 0 ? UINT64_MAX : (left << 16) / l->slope;
}

/* Units of all before the i-th. */
static uint64_t lane_units(const struct plan_lane *l, uint32_t i)
{
    return i <= l->n ? l->units[i] : l->units[l->n] + (i - l->n) * l->each;
}

/* What a batch costs of `n` from `from` on. */
static uint64_t lane_cost(const struct plan_lane *l, uint32_t device, uint32_t from, uint32_t n)
{
    uint64_t ns = units_cost(l, lane_units(l, from + n) - lane_units(l, from));
    return l->factor[device] == PROFILE_ONE ? ns : ns * l->factor[device] >> 16;
}

/* The largest batch from `from` on that is done within `ns`. */
static uint32_t lane_largest(const struct plan_lane *l, uint32_t device, uint32_t from, uint64_t ns)
{
    if (l->factor[device] != PROFILE_ONE)
        ns = ((ns < TIME_MOST ? ns : TIME_MOST) << 16) / l->factor[device];
    uint64_t before = lane_units(l, from), room = cost_units(l, ns);
    if (lane_units(l, from + 1) - before > room)
        return 0;
    if (room > l->most)
        room = l->most;
    /* The last that is within it, among those that are known. */
    uint32_t least = from, beyond = from + l->cap < l->n ? from + l->cap + 1 : l->n + 1;
    while (least + 1 < beyond) {
        uint32_t middle = least + (beyond - least) / 2;
        if (l->units[middle] - before <= room)
            least = middle;
        else
            beyond = middle;
    }
    uint64_t n = least - from;
    if (least >= l->n)
        n += (room - (lane_units(l, least) - before)) / l->each;
    return n == 0 ? 1 : n < l->cap ? (uint32_t)n : l->cap;
}

static uint64_t lane_deadline(const struct core_plan *plan, const struct plan_lane *l, uint32_t i)
{
    if (i < l->n)
        return l->deadlines[i];
    if (i < l->all)
        return l->deadlines[l->n - 1] + (i - l->n + 1) * l->step;
    return plan->now + (i - l->all + 1) * l->gap + l->slack;
}

/* Those who have come by `at`, the first `from` of which are dealt with. */
static uint32_t lane_waiting(const struct core_plan *plan, const struct plan_lane *l, uint32_t from,
                             uint64_t at)
{
    uint64_t n = l->all + (at - plan->now) / l->gap;
    return n > from ? (uint32_t)(n - from) : 0;
}

/* Whether somebody has so little waiting, beside the others of the lane, that none of it is given
 * up for the sake of theirs. */
static bool protected(const struct core *core, const struct core_lane *lane,
                      const struct core_request *r)
{
    const struct core_flow *f = &core->flows[r->flow];
    uint64_t weight = core_client_weight(core, f->client);
    return 2 * (uint64_t)f->n * lane->flows < lane->n * weight;
}

/* What a batch of a lane costs on a device: a line through one request and as many as there are.
 * False: that is not known. */
static bool lane_learnt(const struct core *core, struct plan_lane *l, uint32_t device,
                        const struct core_lane *lane)
{
    const struct core_model_state *m = core->models[lane->model];
    l->each = lane->length != 0 ? lane->length : (lane->units + lane->n - 1) / lane->n;
    l->cap = m->config.max_batch_requests;
    l->most = core_model_most(m, device);
    l->typical = l->most / l->each < l->cap ? (uint32_t)(l->most / l->each) : l->cap;
    if (l->typical == 0)
        l->typical = 1;
    uint64_t one = core_model_bound(core, m, device, l->each);
    if (one == 0)
        return false;
    uint32_t far = lane->n > 1 ? lane->n : 16;
    far = far < l->typical ? far : l->typical;
    uint64_t many = far > 1 ? core_model_bound(core, m, device, far * l->each) : one;
    uint64_t more = many > one ? many - one : 0, units = far > 1 ? (far - 1) * l->each : 1;
    l->slope = ((more < TIME_MOST ? more : TIME_MOST) << 16) / units;
    l->base = one - (one < (l->slope * l->each >> 16) ? one : l->slope * l->each >> 16);
    return true;
}

/* Whether another device can begin with a model's sooner: its first are not for this one to give
 * up, ahead of what is under way. */
static bool sooner_elsewhere(const struct core_plan *plan, uint64_t devices)
{
    for (uint32_t i = 1; i < plan->n_devices; i++)
        if ((devices & core_bit(plan->device[i])) && plan->free_at[i] < plan->begin)
            return true;
    return false;
}

/* Adds a lane whose cost was learnt into the plan's next place. */
static void plan_lane(struct core *core, struct core_plan *plan, uint32_t device,
                      const struct core_candidate *candidate)
{
    struct core_lane *lane = &core->lanes[candidate->lane];
    const struct core_model_state *m = core->models[lane->model];
    struct plan_lane *l = &plan->lanes[plan->n_lanes];

    l->next = candidate->next;
    l->lane = candidate->lane;
    l->devices = m->resident & m->config.devices;
    uint64_t rate = core_lane_rate(core, lane);
    l->gap = rate == 0 ? NEVER : (UINT64_C(1) << 32) / rate;
    if (l->gap == 0)
        l->gap = 1;
    l->slack = lane->n_hard * 2 < lane->n || lane->slack == 0 ? NEVER : lane->slack;
    uint64_t within = l->slack == NEVER ? l->typical : cost_units(l, l->slack) / l->each;
    l->window = within > 0 && within < l->typical ? (uint32_t)within : l->typical;
    l->n = core_lane_list(core, candidate->lane, plan->slots, CORE_LANE_LIST);
    l->droppable = sooner_elsewhere(plan, l->devices) ? 0 : l->n;
    l->units[0] = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        const struct core_request *r = &core->requests[plan->slots[i]];
        l->deadlines[i] = r->deadline == 0 ? NEVER : r->deadline;
        l->units[i + 1] = l->units[i] + (lane->length != 0 ? lane->length : r->units);
        if (i < l->droppable &&
            (r->deadline == 0 || (r->flags & CORE_ALONE) || protected(core, lane, r)))
            l->droppable = i;
    }
    /* Those of whom there are too many to look at each: up to the deadline of one who comes now. */
    uint64_t last = l->deadlines[l->n - 1], end = plan->now + l->slack;
    l->all = lane->n;
    l->step = l->slack != NEVER && end > last ? (end - last) / (l->all - l->n + 1) : 0;
    for (uint32_t i = 0; i < plan->n_devices; i++) {
        uint32_t own = m->placement[device].speed.factor;
        uint32_t other = m->placement[plan->device[i]].speed.factor;
        l->factor[i] = own == other ? PROFILE_ONE : ((uint64_t)other << 16) / own;
    }
    if (l->slack != NEVER && plan->now + l->slack > plan->horizon)
        plan->horizon = plan->now + l->slack;
    plan->n_lanes++;
}

static void plan_devices(struct core *core, struct core_plan *plan, uint32_t device)
{
    plan->device[0] = device;
    plan->free_at[0] = plan->begin;
    plan->n_devices = 1;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if (i == device || d == NULL || !d->up || d->dying || d->config.kind != CORE_COMPUTE)
            continue;
        plan->device[plan->n_devices] = i;
        plan->free_at[plan->n_devices++] = core_device_free_at(core, d);
    }
}

/* ------------------------------------------------------------------------------------ trying out
 */

/* The largest batch of those who are left when so many are given up, that is in time for its
 * first. */
static struct batch batch_after(const struct core_plan *plan, const struct plan_lane *l,
                                uint32_t device, uint32_t from, uint32_t n, uint64_t at,
                                uint32_t drop)
{
    uint64_t deadline = lane_deadline(plan, l, from + drop);
    uint32_t most = lane_largest(l, device, from + drop, deadline > at ? deadline - at : 0);
    return (struct batch){drop, most < n - drop ? most : n - drop};
}

/* Of `n` who wait, the first `from` being dealt with. */
static struct batch choose_batch(const struct core_plan *plan, const struct plan_lane *l,
                                 uint32_t device, uint32_t from, uint32_t n, uint64_t at,
                                 enum rule rule, uint32_t droppable)
{
    struct batch all = batch_after(plan, l, device, from, n, at, 0);
    uint32_t drop = 0;

    /* The first may be expected in time, and yet not be sure to be. */
    if (all.n == 0)
        all.n = 1;
    if (rule == RULE_ALL)
        return all;
    for (; drop < n; drop++) {
        uint32_t rest = n - drop < l->window ? n - drop : l->window;
        if (lane_deadline(plan, l, from + drop) >= at + lane_cost(l, device, from + drop, rest))
            break;
    }
    if (drop > droppable)
        drop = droppable;
    if (drop >= n)
        return all;
    struct batch best = batch_after(plan, l, device, from, n, at, drop);
    if (rule == RULE_LARGE && drop > 0) {
        /* One given up less, for a batch that is as large. */
        struct batch other = batch_after(plan, l, device, from, n, at, drop - 1);
        if (other.n >= best.n)
            best = other;
    }
    return best.n > 0 ? best : all;
}

/* Plays it forward. Answers what is served in time, in 1/256 of a request, and the first batch. */
static uint64_t play(const struct core_plan *plan, const struct policy *policy,
                     struct core_choice *first)
{
    uint64_t free_at[CORE_MAX_DEVICES], served = 0;
    uint32_t from[PLAN_LANES] = {0};
    bool begun = false;

    for (uint32_t i = 0; i < plan->n_devices; i++)
        free_at[i] = plan->free_at[i];
    for (uint32_t turn = 0; turn < PLAN_BATCHES; turn++) {
        uint32_t device = 0;
        for (uint32_t i = 1; begun && i < plan->n_devices; i++)
            if (free_at[i] < free_at[device])
                device = i;
        uint64_t at = free_at[device], arrival = NEVER;
        if (at >= plan->horizon)
            break;
        uint32_t best = PLAN_LANES;
        struct batch chosen = {0, 0};
        int64_t best_latest = INT64_MAX;
        uint64_t best_ns = 1;
        for (uint32_t i = 0; i < plan->n_lanes; i++) {
            const struct plan_lane *l = &plan->lanes[i];
            if (!(l->devices & core_bit(plan->device[device])))
                continue;
            /* Who comes between now and the first's begin can't be in it: it is given now. */
            uint32_t n = lane_waiting(plan, l, from[i], begun ? at : plan->now);
            while (begun && n > 0 &&
                   lane_deadline(plan, l, from[i]) < at + lane_cost(l, device, from[i], 1)) {
                from[i]++;
                n--;
            }
            if (n == 0) {
                uint64_t next = plan->now + (from[i] - l->all + 1) * l->gap;
                if (from[i] >= l->all && l->gap != NEVER && next < arrival)
                    arrival = next;
                continue;
            }
            struct batch b =
                choose_batch(plan, l, device, from[i], n, at, begun ? policy->then : policy->first,
                             begun ? n : l->droppable);
            uint64_t ns = lane_cost(l, device, from[i] + b.drop, b.n);
            int64_t latest = (int64_t)(lane_deadline(plan, l, from[i] + b.drop) - ns);
            if (best == PLAN_LANES ||
                (policy->dense ? (unsigned __int128)b.n * best_ns > (unsigned __int128)chosen.n * ns
                               : latest < best_latest)) {
                best = i;
                chosen = b;
                best_latest = latest;
                best_ns = ns;
            }
        }
        if (best == PLAN_LANES) {
            if (!begun)
                return 0;
            if (arrival == NEVER)
                free_at[device] = plan->horizon;
            else
                free_at[device] = arrival > at ? arrival : at + 1;
            continue;
        }
        if (!begun) {
            const struct plan_lane *l = &plan->lanes[best];
            first->next = l->next;
            first->lane = l->lane;
            first->drop = chosen.drop;
            first->n = chosen.n;
            begun = true;
        }
        from[best] += chosen.drop + chosen.n;
        free_at[device] = at + best_ns;
        served += at + best_ns <= plan->horizon
                      ? (uint64_t)chosen.n << 8
                      : ((uint64_t)chosen.n << 8) * (plan->horizon - at) / best_ns;
    }
    return served;
}

/* --------------------------------------------------------------------------------------- deciding
 */

/* How urgent one is: when it has to begin at the latest. */
static uint64_t urgency(const struct core *core, uint32_t device, const struct core_request *r)
{
    uint64_t ns = core_model_bound(core, core->models[r->model], device, r->units);
    return r->key > ns ? r->key - ns : 0;
}

static const struct core_candidate *most_urgent(const struct core *core, uint32_t device,
                                                const struct core_candidate *candidates, uint32_t n)
{
    const struct core_candidate *best = candidates;

    if (n == 1)
        return best;
    uint64_t least = urgency(core, device, best->next);
    for (const struct core_candidate *c = candidates + 1; c < candidates + n; c++) {
        uint64_t at = urgency(core, device, c->next);
        if (at < least || (at == least && core_id_before(c->next->id, best->next->id))) {
            best = c;
            least = at;
        }
    }
    return best;
}

/* Whether all of a lane can go in one batch, in time. */
static bool fits_at_once(const struct core_plan *plan, const struct plan_lane *l)
{
    if (l->n > l->cap || l->n == CORE_LANE_LIST || l->units[l->n] > l->most)
        return false;
    uint64_t end = plan->begin + lane_cost(l, 0, 0, l->n);
    for (uint32_t i = 0; i < l->n; i++)
        if (l->deadlines[i] < end)
            return false;
    return true;
}

static void plan_reset(struct core_plan *plan, uint64_t now, uint64_t begin)
{
    plan->n_lanes = plan->n_devices = 0;
    plan->now = now;
    plan->begin = begin;
    plan->horizon = 0;
}

struct core_choice core_plan_choose(struct core *core, uint32_t device,
                                    const struct core_candidate *candidates, uint32_t n)
{
    struct core_plan *plan = core->planner;
    const struct core_candidate *urgent = most_urgent(core, device, candidates, n);
    struct core_choice choice = {urgent->next, urgent->lane, urgent->lane, 0, 0};
    const struct core_model_state *m = core->models[urgent->next->model];

    if (core->lanes[urgent->lane].prepare || (m->config.flags & CORE_MODEL_STEPS) ||
        (urgent->next->flags & CORE_ALONE))
        return choice;
    const struct core_lane *lane = &core->lanes[urgent->lane];
    uint32_t hard = 0;
    for (uint32_t i = 0; i < n && hard == 0; i++)
        hard = core->lanes[candidates[i].lane].n_hard;
    if (hard == 0)
        return choice;
    /* Nobody is passed over for ever because others have the larger batches; and as what its own
     * cost is learnt from these turns alone, they are for batches as large as can be. */
    bool turn = lane->passed >= PASSED_MOST;

    struct plan_lane *l = &plan->lanes[0];
    if (!lane_learnt(core, l, device, lane))
        return choice;
    uint64_t largest = units_cost(l, lane->units < l->most ? lane->units : l->most);
    uint64_t begin = core_device_begins(core, core->devices[device]);
    /* Where the first has time for the largest batch, that is what every policy begins with. */
    bool alone = n == 1 || turn;
    if ((alone || largest < PLAN_LEAST) &&
        (urgent->next->deadline == 0 || begin + largest <= urgent->next->deadline))
        return choice;
    plan_reset(plan, core->now, begin);
    plan_devices(core, plan, device);
    plan_lane(core, plan, device, urgent);
    if (alone && fits_at_once(plan, l))
        return choice;
    if (turn || largest < PLAN_LEAST) {
        struct batch b = choose_batch(plan, l, 0, 0, l->n, plan->begin, RULE_LARGE, l->droppable);
        choice.drop = b.drop;
        choice.n = b.n;
        return choice;
    }
    for (uint32_t i = 0; i < n && plan->n_lanes < PLAN_LANES; i++)
        if (&candidates[i] != urgent && lane_learnt(core, &plan->lanes[plan->n_lanes], device,
                                                    &core->lanes[candidates[i].lane]))
            plan_lane(core, plan, device, &candidates[i]);
    uint64_t most = 0;
    for (uint32_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        struct core_choice first = choice;
        uint64_t served = play(plan, &policies[i], &first);
        if (served > most) {
            most = served;
            choice = first;
        }
    }
    return choice;
}
