/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Those who wait, in the order in which they are to be served: earliest key first, among those
 * whose class and client have not had more than their share.
 */
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"

/* Arrivals are counted in windows of a quarter of a second: 2^28 ns. */
#define WINDOW_BITS 28
#define WINDOW (UINT64_C(1) << WINDOW_BITS)

/* --------------------------------------------------------------------------- the heaps' nodes */

PAIR_INLINE struct core_pair *request_pair(struct core *core, uint32_t node)
{
    return &core->requests[node].pair;
}

PAIR_INLINE bool request_less(const struct core *core, uint32_t a, uint32_t b)
{
    const struct core_request *x = &core->requests[a], *y = &core->requests[b];
    return x->key != y->key ? x->key < y->key : core_id_before(x->id, y->id);
}

PAIR_INLINE struct core_pair *flow_pair(struct core *core, uint32_t node)
{
    return &core->flows[node].pair;
}

static uint32_t flow_first(const struct core *core, const struct core_flow *f)
{
    if (f->heap == CORE_NONE)
        return f->head;
    if (f->head == CORE_NONE || request_less(core, f->heap, f->head))
        return f->heap;
    return f->head;
}

PAIR_INLINE bool flow_due_less(const struct core *core, uint32_t a, uint32_t b)
{
    const struct core_flow *x = &core->flows[a], *y = &core->flows[b];
    if (x->key != y->key)
        return x->key < y->key;
    return core_id_before(core->requests[flow_first(core, x)].id,
                          core->requests[flow_first(core, y)].id);
}

PAIR_INLINE bool flow_ahead_less(const struct core *core, uint32_t a, uint32_t b)
{
    const struct core_flow *x = &core->flows[a], *y = &core->flows[b];
    return x->time != y->time ? x->time < y->time : a < b;
}

static uint64_t flow_time(const struct core *core, const struct core_flow *f)
{
    return core->clients[f->client].shares[f->priority].time;
}

static void flow_link(struct core *core, uint32_t index)
{
    struct core_flow *f = &core->flows[index];
    struct core_lane_class *c = &core->lanes[f->lane].classes[f->priority];

    f->key = core->requests[flow_first(core, f)].key;
    f->time = flow_time(core, f);
    if (f->ahead)
        c->ahead = pair_insert(core, flow_pair, flow_ahead_less, c->ahead, index);
    else
        c->due = pair_insert(core, flow_pair, flow_due_less, c->due, index);
}

static void flow_unlink(struct core *core, uint32_t index)
{
    struct core_flow *f = &core->flows[index];
    struct core_lane_class *c = &core->lanes[f->lane].classes[f->priority];

    if (f->ahead)
        c->ahead = pair_remove(core, flow_pair, flow_ahead_less, c->ahead, index);
    else
        c->due = pair_remove(core, flow_pair, flow_due_less, c->due, index);
}

/* --------------------------------------------------------------------------------------- set-up */

int core_flows_init(struct core *core)
{
    /* One for each request: who waits is never without. */
    uint32_t n = core->config.max_requests, buckets = 64;

    while (buckets < n)
        buckets *= 2;
    core->lanes = calloc(CORE_MAX_LANES, sizeof(core->lanes[0]));
    core->flows = calloc(n, sizeof(core->flows[0]));
    core->flow_buckets = malloc(buckets * sizeof(core->flow_buckets[0]));
    if (core->lanes == NULL || core->flows == NULL || core->flow_buckets == NULL)
        return LIBSCHED_ENOMEM;
    core->flow_mask = buckets - 1;
    for (uint32_t i = 0; i < buckets; i++)
        core->flow_buckets[i] = CORE_NONE;
    core->free_flow = CORE_NONE;
    for (uint32_t i = 0; i < CORE_MAX_LANES; i++)
        core->lanes[i].next = (uint16_t)(i + 1 < CORE_MAX_LANES ? i + 1 : UINT16_MAX);
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- lanes */

/* To what a length is padded: in ratio 1.25, rounded to 8. On real texts 8 to 11 % of such a batch
 * is padding. */
static uint64_t padded_length(uint64_t units)
{
    uint64_t length = 8;

    while (length < units) {
        uint64_t next = (length * 5 / 4 + 7) / 8 * 8;
        length = next > length ? next : length + 8;
    }
    return length;
}

uint16_t core_lane_open(struct core *core, uint32_t model, bool prepare, uint64_t batch_key,
                        uint64_t units)
{
    struct core_model_state *m = core->models[model];
    uint64_t length = !prepare && (m->config.flags & CORE_MODEL_PADS) ? padded_length(units) : 0;

    for (uint16_t i = m->lanes; i != UINT16_MAX; i = core->lanes[i].next) {
        struct core_lane *lane = &core->lanes[i];
        if (lane->prepare == prepare && lane->batch_key == batch_key && lane->length == length) {
            lane->users++;
            return i;
        }
    }
    uint16_t index = core->free_lane;
    if (index == UINT16_MAX)
        return index;
    struct core_lane *lane = &core->lanes[index];
    core->free_lane = lane->next;
    *lane = (struct core_lane){
        .batch_key = batch_key,
        .length = length,
        .users = 1,
        .model = (uint16_t)model,
        .next = m->lanes,
        .prepare = prepare,
        .since = core->now,
    };
    for (uint32_t i = 0; i < CORE_PRIORITIES; i++)
        lane->classes[i] = (struct core_lane_class){CORE_NONE, CORE_NONE, 0};
    m->lanes = index;
    return index;
}

uint16_t core_lane_join(struct core *core, uint32_t model, uint64_t batch_key, uint64_t units)
{
    const struct core_model_state *m = core->models[model];

    if (batch_key != 0 || (m->config.flags & CORE_MODEL_PADS))
        return core_lane_open(core, model, false, batch_key, units);
    core->lanes[m->lane].users++;
    return m->lane;
}

void core_lane_leave(struct core *core, uint16_t index)
{
    struct core_lane *lane = &core->lanes[index];

    if (--lane->users > 0)
        return;
    uint16_t *link = &core->models[lane->model]->lanes;
    while (*link != index)
        link = &core->lanes[*link].next;
    *link = lane->next;
    lane->next = core->free_lane;
    core->free_lane = index;
}

static void lane_arrival(struct core *core, struct core_lane *lane, const struct core_request *r)
{
    (void)core_lane_rate(core, lane);
    lane->arrived++;
    if (r->deadline != 0 && r->deadline > core->now) {
        uint64_t slack = r->deadline - core->now;
        if (lane->slack == 0)
            lane->slack = slack;
        else if (slack > lane->slack)
            lane->slack += (slack - lane->slack) / 16;
        else
            lane->slack -= (lane->slack - slack) / 16;
    }
}

uint64_t core_lane_rate(struct core *core, struct core_lane *lane)
{
    uint64_t age = core->now - lane->since;

    if (age >= 2 * WINDOW) {
        lane->arrived = lane->arrived_before = 0;
        lane->since = core->now;
        return 0;
    }
    if (age >= WINDOW) {
        lane->arrived_before = lane->arrived;
        lane->arrived = 0;
        lane->since += WINDOW;
        age -= WINDOW;
    }
    /* The window before counts for what of it lies within the last WINDOW. */
    uint64_t n = lane->arrived * WINDOW + lane->arrived_before * (WINDOW - age);
    return n >> (2 * WINDOW_BITS - 32);
}

/* --------------------------------------------------------------------------------------- flows */

static uint32_t *flow_bucket(struct core *core, uint16_t lane, uint32_t priority, uint32_t client)
{
    uint64_t hash =
        ((uint64_t)client << 20 ^ (uint64_t)lane << 4 ^ priority) * UINT64_C(0x9E3779B97F4A7C15);
    return &core->flow_buckets[(hash >> 32) & core->flow_mask];
}

static uint32_t flow_find(struct core *core, uint16_t lane, uint32_t priority, uint32_t client)
{
    for (uint32_t i = *flow_bucket(core, lane, priority, client); i != CORE_NONE;
         i = core->flows[i].next) {
        const struct core_flow *f = &core->flows[i];
        if (f->lane == lane && f->priority == priority && f->client == client)
            return i;
    }
    return CORE_NONE;
}

static uint32_t flow_open(struct core *core, const struct core_request *r)
{
    uint32_t index = flow_find(core, r->lane, r->priority, r->client);

    if (index != CORE_NONE)
        return index;
    index = core->free_flow;
    if (index != CORE_NONE)
        core->free_flow = core->flows[index].next;
    else
        index = core->flows_used++;
    struct core_flow *f = &core->flows[index];
    uint32_t *bucket = flow_bucket(core, r->lane, r->priority, r->client);
    *f = (struct core_flow){
        .head = CORE_NONE,
        .tail = CORE_NONE,
        .heap = CORE_NONE,
        .client = r->client,
        .next = *bucket,
        .lane = r->lane,
        .priority = r->priority,
    };
    *bucket = index;
    core->lanes[r->lane].flows++;
    return index;
}

static void flow_close(struct core *core, uint32_t index)
{
    struct core_flow *f = &core->flows[index];
    uint32_t *link = flow_bucket(core, f->lane, f->priority, f->client);

    while (*link != index)
        link = &core->flows[*link].next;
    *link = f->next;
    core->lanes[f->lane].flows--;
    f->next = core->free_flow;
    core->free_flow = index;
}

/* What is in order goes to the end of the list; what was taken out of it, back to its head; the
 * rest into the heap. */
static void flow_insert(struct core *core, struct core_flow *f, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];

    if (f->tail == CORE_NONE || !request_less(core, slot, f->tail)) {
        r->pair = (struct core_pair){CORE_LISTED, CORE_NONE, f->tail};
        if (f->tail == CORE_NONE)
            f->head = slot;
        else
            core->requests[f->tail].pair.next = slot;
        f->tail = slot;
    } else if (request_less(core, slot, f->head)) {
        r->pair = (struct core_pair){CORE_LISTED, f->head, CORE_NONE};
        core->requests[f->head].pair.prev = slot;
        f->head = slot;
    } else {
        f->heap = pair_insert(core, request_pair, request_less, f->heap, slot);
    }
    f->n++;
}

static void flow_take(struct core *core, struct core_flow *f, uint32_t slot)
{
    struct core_pair *p = &core->requests[slot].pair;

    f->n--;
    if (p->child != CORE_LISTED) {
        f->heap = pair_remove(core, request_pair, request_less, f->heap, slot);
        return;
    }
    if (p->prev == CORE_NONE)
        f->head = p->next;
    else
        core->requests[p->prev].pair.next = p->next;
    if (p->next == CORE_NONE)
        f->tail = p->prev;
    else
        core->requests[p->next].pair.prev = p->prev;
}

void core_flow_add(struct core *core, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];
    struct core_lane *lane = &core->lanes[r->lane];
    uint32_t index = flow_open(core, r);
    struct core_flow *f = &core->flows[index];
    uint32_t first = f->n == 0 ? CORE_NONE : flow_first(core, f);

    r->flow = index;
    bool leads = first == CORE_NONE || request_less(core, slot, first);
    if (first != CORE_NONE && leads)
        flow_unlink(core, index);
    flow_insert(core, f, slot);
    if (leads)
        flow_link(core, index);
    core_share_wait(core, r->client, r->priority);
    if (r->attempts == 0)
        lane_arrival(core, lane, r);
    lane->n++;
    lane->n_hard += r->deadline != 0;
    lane->units += r->units;
    if (lane->classes[r->priority].n++ == 0)
        lane->waiting |= (uint8_t)(1u << r->priority);
}

void core_flow_remove(struct core *core, uint32_t slot)
{
    struct core_request *r = &core->requests[slot];
    struct core_lane *lane = &core->lanes[r->lane];
    uint32_t index = r->flow;
    struct core_flow *f = &core->flows[index];
    bool leads = flow_first(core, f) == slot;

    if (leads)
        flow_unlink(core, index);
    flow_take(core, f, slot);
    if (f->n == 0)
        flow_close(core, index);
    else if (leads)
        flow_link(core, index);
    r->flow = CORE_NONE;
    core_share_unwait(core, r->client, r->priority);
    lane->n--;
    lane->n_hard -= r->deadline != 0;
    lane->units -= r->units;
    if (--lane->classes[r->priority].n == 0)
        lane->waiting &= (uint8_t) ~(1u << r->priority);
}

/* ------------------------------------------------------------------------------- who is next */

/* Flows whose client is ahead let the others pass; those whose are not any more come back. Their
 * times may have grown since they were put aside, but never fall: so the first is the least once
 * its time is up to date. */
static void class_sort_out(struct core *core, struct core_lane_class *c)
{
    while (c->ahead != CORE_NONE) {
        uint32_t index = c->ahead;
        struct core_flow *f = &core->flows[index];
        bool ahead = core_share_ahead(core, f->client, f->priority);
        if (ahead && f->time == flow_time(core, f))
            break;
        flow_unlink(core, index);
        f->ahead = ahead;
        flow_link(core, index);
    }
    while (c->due != CORE_NONE) {
        uint32_t index = c->due;
        struct core_flow *f = &core->flows[index];
        if (!core_share_ahead(core, f->client, f->priority))
            break;
        flow_unlink(core, index);
        f->ahead = true;
        flow_link(core, index);
    }
}

/* Whether those of a class come after those of others. */
static bool class_behind(const struct core *core, const struct core_lane *lane, uint32_t priority)
{
    return lane->classes[priority].due == CORE_NONE || core_class_ahead(core, priority);
}

/* The flow to be served next, or CORE_NONE. */
static uint32_t lane_flow(struct core *core, struct core_lane *lane)
{
    uint32_t best = CORE_NONE, late = CORE_NONE;

    for (uint32_t bits = lane->waiting; bits != 0; bits &= bits - 1) {
        uint32_t p = (uint32_t)__builtin_ctz(bits);
        struct core_lane_class *c = &lane->classes[p];
        class_sort_out(core, c);
        uint32_t flow = c->due != CORE_NONE ? c->due : c->ahead;
        uint32_t *chosen = class_behind(core, lane, p) ? &late : &best;
        if (*chosen == CORE_NONE || flow_due_less(core, flow, *chosen))
            *chosen = flow;
    }
    return best != CORE_NONE ? best : late;
}

struct core_request *core_lane_next(struct core *core, uint16_t index)
{
    struct core_lane *lane = &core->lanes[index];

    if (lane->n == 0)
        return NULL;
    return &core->requests[flow_first(core, &core->flows[lane_flow(core, lane)])];
}

bool core_lane_ahead(const struct core *core, const struct core_request *next)
{
    return core->flows[next->flow].ahead || core_class_ahead(core, next->priority);
}

/* A place in what is walked through in order: a flow, or one of its requests. */
struct cursor {
    uint64_t key;
    uint32_t node;
    bool flow;
};

/* Those that may come next, the first first: no more than are wanted yet, since what is behind so
 * many can't be among these. So a node with however many children costs little. */
struct walk {
    struct cursor places[3 * CORE_LANE_LIST];
    uint32_t head, end;
    uint32_t wanted;
};

static void walk_push(struct walk *walk, uint64_t key, uint32_t node, bool flow)
{
    uint32_t at;

    if (walk->end - walk->head == walk->wanted) {
        if (walk->wanted == 0 || walk->places[walk->end - 1].key <= key)
            return;
        walk->end--;
    }
    if (walk->end == sizeof(walk->places) / sizeof(walk->places[0])) {
        walk->end -= walk->head;
        memmove(walk->places, walk->places + walk->head, walk->end * sizeof(walk->places[0]));
        walk->head = 0;
    }
    for (at = walk->end++; at > walk->head && walk->places[at - 1].key > key; at--)
        walk->places[at] = walk->places[at - 1];
    walk->places[at] = (struct cursor){key, node, flow};
}

static void walk_request(const struct core *core, struct walk *walk, uint32_t slot)
{
    if (slot != CORE_NONE)
        walk_push(walk, core->requests[slot].key, slot, false);
}

static void walk_flow(const struct core *core, struct walk *walk, uint32_t flow)
{
    if (flow != CORE_NONE)
        walk_push(walk, core->flows[flow].key, flow, true);
}

uint32_t core_lane_list(struct core *core, uint16_t index, uint32_t *slots, uint32_t max)
{
    struct core_lane *lane = &core->lanes[index];
    struct walk walk;
    uint32_t n = 0;

    if (lane->n == 0)
        return 0;
    if (max > CORE_LANE_LIST)
        max = CORE_LANE_LIST;
    walk.head = walk.end = 0;
    walk.wanted = max;
    /* As lane_flow() chooses: first those that have not had more than their share. */
    uint32_t next = lane_flow(core, lane);
    bool behind = class_behind(core, lane, core->flows[next].priority);
    for (uint32_t bits = lane->waiting; bits != 0; bits &= bits - 1) {
        uint32_t p = (uint32_t)__builtin_ctz(bits);
        const struct core_lane_class *c = &lane->classes[p];
        if (class_behind(core, lane, p) == behind)
            walk_flow(core, &walk, c->due != CORE_NONE ? c->due : c->ahead);
    }
    while (n < max && walk.head < walk.end) {
        struct cursor at = walk.places[walk.head++];
        if (at.flow) {
            const struct core_flow *f = &core->flows[at.node];
            walk_request(core, &walk, f->head);
            walk_request(core, &walk, f->heap);
            for (uint32_t i = f->pair.child; i != CORE_NONE; i = core->flows[i].pair.next)
                walk_flow(core, &walk, i);
            continue;
        }
        const struct core_pair *p = &core->requests[at.node].pair;
        slots[n++] = at.node;
        walk.wanted--;
        if (p->child == CORE_LISTED) {
            walk_request(core, &walk, p->next);
            continue;
        }
        for (uint32_t i = p->child; i != CORE_NONE; i = core->requests[i].pair.next)
            walk_request(core, &walk, i);
    }
    return n;
}
