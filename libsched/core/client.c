/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients: a hash table with chains, whose entries are taken with a client's first request and
 * given back with its last, unless something was set for it. When all are taken, further clients
 * share entry 0.
 *
 * And fairness: each class has a virtual time, its device time divided by its share, and so has
 * each client in a class, by its weight. Whoever is further ahead of the least of those that have
 * something waiting than half the longest batch lets the others pass; so no two of them that wait
 * are ever further apart than that and a batch. (After Virtual Token Counter: Sheng et al.,
 * Fairness in serving large language models, OSDI 2024.) Whoever comes begins where the batch that
 * runs began (as in start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996).
 */
#include <stdlib.h>

#include "core/internal.h"

/* Of class 0, and twice as much for each further. */
#define PATIENCE UINT64_C(1000000000)

int core_clients_init(struct core *core)
{
    uint32_t n = core->config.max_clients, buckets = 16;

    while (buckets < n && buckets < (UINT32_C(1) << 24))
        buckets *= 2;
    core->clients = calloc((size_t)n + 1, sizeof(core->clients[0]));
    core->client_buckets = malloc(buckets * sizeof(core->client_buckets[0]));
    if (core->clients == NULL || core->client_buckets == NULL)
        return LIBSCHED_ENOMEM;
    core->client_mask = buckets - 1;
    for (uint32_t i = 0; i < buckets; i++)
        core->client_buckets[i] = CORE_NONE;
    for (uint32_t i = 1; i <= n; i++)
        core->clients[i].next = i < n ? i + 1 : CORE_NONE;
    core->free_client = n > 0 ? 1 : CORE_NONE;
    bool given = false;
    for (uint32_t i = 0; i < CORE_PRIORITIES; i++)
        given |= core->config.class_shares[i] != 0;
    for (uint32_t i = 0; i < CORE_PRIORITIES; i++) {
        uint32_t share = given ? core->config.class_shares[i] : UINT32_C(128) >> i;
        core->classes[i] =
            (struct core_class){.share = share == 0 ? 1 : share, .clients = CORE_NONE};
        if (core->config.class_patience[i] == 0)
            core->config.class_patience[i] = PATIENCE << i;
    }
    return LIBSCHED_OK;
}

static uint32_t *client_bucket(struct core *core, uint64_t key)
{
    /* Fibonacci hashing: keys need not be well mixed. */
    uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15);
    return &core->client_buckets[(hash >> 32) & core->client_mask];
}

uint32_t core_client_find(const struct core *core, uint64_t key)
{
    for (uint32_t i = *client_bucket((struct core *)core, key); i != CORE_NONE;
         i = core->clients[i].next)
        if (core->clients[i].key == key)
            return i;
    return CORE_NONE;
}

/* The entry of a key, taken where there is none; 0: all are taken. */
static uint32_t client_take(struct core *core, uint64_t key)
{
    uint32_t i = core_client_find(core, key);

    if (i != CORE_NONE)
        return i;
    i = core->free_client;
    if (i == CORE_NONE)
        return 0;
    struct core_client *client = &core->clients[i];
    uint32_t *bucket = client_bucket(core, key);
    core->free_client = client->next;
    *client = (struct core_client){.key = key, .next = *bucket};
    *bucket = i;
    return i;
}

static void client_release(struct core *core, uint32_t index)
{
    struct core_client *client = &core->clients[index];

    if (index == 0 || client->requests > 0 || client->weight != 0 || client->max_waiting != 0)
        return;
    uint32_t *link = client_bucket(core, client->key);
    while (*link != index)
        link = &core->clients[*link].next;
    *link = client->next;
    client->next = core->free_client;
    core->free_client = index;
}

uint32_t core_client_enter(struct core *core, uint64_t key)
{
    uint32_t i = client_take(core, key);

    core->clients[i].requests++;
    return i;
}

void core_client_leave(struct core *core, uint32_t index)
{
    core->clients[index].requests--;
    client_release(core, index);
}

int core_set_client(struct core *core, uint64_t key, uint32_t weight, uint32_t max_requests)
{
    if (weight > (1u << 16))
        return LIBSCHED_EINVAL;
    uint32_t i =
        weight == 0 && max_requests == 0 ? core_client_find(core, key) : client_take(core, key);
    if (i == CORE_NONE)
        return LIBSCHED_OK;
    if (i == 0)
        return LIBSCHED_EBUSY;
    core->clients[i].weight = weight;
    core->clients[i].max_waiting = max_requests;
    client_release(core, i);
    return LIBSCHED_OK;
}

uint32_t core_client_weight(const struct core *core, uint32_t client)
{
    uint32_t weight = core->clients[client].weight;
    return weight == 0 ? 1 : weight;
}

uint32_t core_client_limit(const struct core *core, uint32_t client)
{
    uint32_t limit = core->clients[client].max_waiting;

    if (limit == 0)
        limit = core->config.max_client_requests;
    return limit == 0 ? UINT32_MAX : limit;
}

/* ------------------------------------------------------------------------------------ fairness */

/* The number of a client's part in a class. */
PAIR_INLINE uint32_t share_node(uint32_t client, uint32_t priority)
{
    return client * CORE_PRIORITIES + priority;
}

PAIR_INLINE struct core_share *share_at(struct core *core, uint32_t node)
{
    return &core->clients[node / CORE_PRIORITIES].shares[node % CORE_PRIORITIES];
}

PAIR_INLINE struct core_pair *share_pair(struct core *core, uint32_t node)
{
    return &share_at(core, node)->pair;
}

PAIR_INLINE bool share_less(const struct core *core, uint32_t a, uint32_t b)
{
    uint64_t s = share_at((struct core *)core, a)->time, t = share_at((struct core *)core, b)->time;
    return s != t ? s < t : a < b;
}

static void class_lift(struct core *core, struct core_class *c)
{
    if (c->time < core->class_least)
        c->time = core->class_least;
}

static uint64_t classes_least(const struct core *core)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t bits = core->class_waiting; bits != 0; bits &= bits - 1) {
        uint64_t time = core->classes[__builtin_ctz(bits)].time;
        if (time < least)
            least = time;
    }
    return least;
}

void core_share_wait(struct core *core, uint32_t client, uint32_t priority)
{
    struct core_class *c = &core->classes[priority];
    uint32_t node = share_node(client, priority);
    struct core_share *s = share_at(core, node);

    core->clients[client].waiting++;
    if (c->waiting++ == 0) {
        core->class_waiting |= 1u << priority;
        class_lift(core, c);
    }
    if (s->waiting++ > 0)
        return;
    if (s->time < c->least)
        s->time = c->least;
    c->clients = pair_insert(core, share_pair, share_less, c->clients, node);
}

void core_share_unwait(struct core *core, uint32_t client, uint32_t priority)
{
    struct core_class *c = &core->classes[priority];
    uint32_t node = share_node(client, priority);

    core->clients[client].waiting--;
    if (--share_at(core, node)->waiting == 0)
        c->clients = pair_remove(core, share_pair, share_less, c->clients, node);
    if (--c->waiting == 0)
        core->class_waiting &= ~(1u << priority);
}

static void share_charge(struct core *core, uint32_t client, uint32_t priority, uint64_t ns)
{
    struct core_class *c = &core->classes[priority];
    uint32_t node = share_node(client, priority);
    struct core_share *s = share_at(core, node);

    if (s->waiting > 0)
        c->clients = pair_remove(core, share_pair, share_less, c->clients, node);
    s->time += ns / core_client_weight(core, client);
    if (s->waiting > 0)
        c->clients = pair_insert(core, share_pair, share_less, c->clients, node);
    /* In 1/128, which is the share of the first class unless something else is configured. */
    c->time += core_multiply(ns, 128) / c->share;
}

/* Whoever comes while a batch runs begins where the least of those in it began. */
static void shares_begin(struct core *core, const struct core_session *s)
{
    uint64_t clients[CORE_PRIORITIES], classes = UINT64_MAX;
    uint32_t priorities = 0;

    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next) {
        const struct core_request *r = &core->requests[slot];
        if (!(r->flags & CORE_IN_STEP))
            continue;
        uint64_t time = core->clients[r->client].shares[r->priority].time;
        if (!(priorities >> r->priority & 1) || time < clients[r->priority])
            clients[r->priority] = time;
        priorities |= 1u << r->priority;
    }
    for (; priorities != 0; priorities &= priorities - 1) {
        uint32_t p = (uint32_t)__builtin_ctz(priorities);
        struct core_class *c = &core->classes[p];
        if (clients[p] > c->least)
            c->least = clients[p];
        if (c->time < classes)
            classes = c->time;
    }
    if (classes != UINT64_MAX && classes > core->class_least)
        core->class_least = classes;
}

void core_shares_charge(struct core *core, const struct core_session *s, uint64_t ns)
{
    shares_begin(core, s);
    for (uint32_t slot = s->members.head; slot != CORE_NONE; slot = core->requests[slot].next) {
        const struct core_request *r = &core->requests[slot];
        if (r->flags & CORE_IN_STEP)
            share_charge(core, r->client, r->priority, ns);
    }
}

/* By so much somebody may be ahead: less than a batch, so that one who floods the scheduler is as
 * soon as his next batch is given, and lets those pass who have come meanwhile. */
static uint64_t allowance(const struct core *core)
{
    return core->longest / 2;
}

bool core_share_ahead(const struct core *core, uint32_t client, uint32_t priority)
{
    const struct core_class *c = &core->classes[priority];

    if (c->clients == CORE_NONE)
        return false;
    uint64_t least = share_at((struct core *)core, c->clients)->time;
    return core->clients[client].shares[priority].time > least + allowance(core);
}

bool core_class_ahead(const struct core *core, uint32_t priority)
{
    uint64_t least = classes_least(core);
    return least != UINT64_MAX && core->classes[priority].time > least + allowance(core);
}
