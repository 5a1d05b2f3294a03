/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which job is next, and on which devices.
 *
 * The order is that of fair share: of the classes that have jobs waiting the one with the least
 * virtual time (device time by its share), in it the client with the least (by its weight), of his
 * jobs the oldest. Who comes back is lifted to the time of the last whose turn it was, and who is
 * in debt stays so (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996). What a job will
 * take is not known when it begins: its client is charged for what jobs took of late, and that is
 * put right as it runs. And a client that waits ages, by 1/16 of the time: so those who always come
 * new cannot keep him waiting for ever.
 *
 * The first in line has the devices kept for it that it can have the soonest, by the time limits of
 * those who have them; others go first only on other devices, or where their own limit says that
 * they have ended by then (EASY backfill: Lifka, The ANL/IBM SP scheduling system, 1995). Whoever
 * can't have his devices because a worker is down or others keep the memory as long as they like
 * does not hold up those behind him.
 */
#include "core/internal.h"

/* ns that a unit of distance between two devices is worth. */
#define DISTANCE_NS UINT64_C(1000000)
/* ns that the eviction of models is worth. */
#define EVICTION_NS UINT64_C(20000000)
#define DEMAND_MOST UINT64_C(1000000000)
#define AGEING 16
/* Jobs behind the first that are looked at. */
#define BACKFILL_MOST 64
/* So long a worker that has ended is expected to be back. */
#define BACK_NS UINT64_C(60000000000)
/* Devices among which every choice is looked at. */
#define EXACT_MOST 16

/* -------------------------------------------------------------------------------------- shares */

static uint64_t gang_share(const struct core *core, const struct core_job *j, uint64_t ns)
{
    uint32_t client = core_client_find(core, core->job_clients[j->client].key);

    return client == CORE_NONE ? ns : ns / core_client_weight(core, client);
}

/* In 1/128, as requests' classes. */
static uint64_t gang_class_share(const struct core *core, const struct core_job *j, uint64_t ns)
{
    return core_multiply(ns, 128) / core->classes[j->priority].share;
}

uint32_t core_gang_enter(struct core *core, uint64_t key, uint32_t priority)
{
    uint32_t least = CORE_NONE;

    for (uint32_t i = 0; i < core->max_job_clients; i++) {
        struct core_job_client *c = &core->job_clients[i];
        if (c->used && c->key == key && c->priority == priority) {
            c->jobs++;
            return i;
        }
        /* There are more of them than jobs: one is free, or owes the least. */
        if (c->jobs == 0 &&
            (least == CORE_NONE || (core->job_clients[least].used &&
                                    (!c->used || c->time < core->job_clients[least].time))))
            least = i;
    }
    core->job_clients[least] = (struct core_job_client){
        .key = key, .priority = (uint8_t)priority, .jobs = 1, .used = true};
    return least;
}

void core_gang_leave(struct core *core, const struct core_job *j)
{
    core->job_clients[j->client].jobs--;
}

void core_gang_wait(struct core *core, struct core_job *j)
{
    struct core_job_client *client = &core->job_clients[j->client];
    struct core_job_class *class = &core->job_classes[j->priority];
    uint32_t slot = core_gang_slot(core, j), before = core->last_job;

    if (client->waiting++ == 0) {
        if (client->time < class->least)
            client->time = class->least;
        client->since = core->now;
    }
    if (class->waiting++ == 0 && class->time < core->job_least)
        class->time = core->job_least;
    /* One that waits anew has its place where it was. */
    while (before != CORE_NONE && core->jobs[before].id > j->id)
        before = core->jobs[before].prev;
    uint32_t after = before == CORE_NONE ? core->waiting_jobs : core->jobs[before].next;
    j->phase = CORE_JOB_WAITING;
    j->prev = before;
    j->next = after;
    if (before == CORE_NONE)
        core->waiting_jobs = slot;
    else
        core->jobs[before].next = slot;
    if (after == CORE_NONE)
        core->last_job = slot;
    else
        core->jobs[after].prev = slot;
    core->job_plan = true;
}

void core_gang_unwait(struct core *core, struct core_job *j)
{
    if (j->prev == CORE_NONE)
        core->waiting_jobs = j->next;
    else
        core->jobs[j->prev].next = j->next;
    if (j->next == CORE_NONE)
        core->last_job = j->prev;
    else
        core->jobs[j->next].prev = j->prev;
    core->job_clients[j->client].waiting--;
    core->job_classes[j->priority].waiting--;
    if (core->head_job == core_gang_slot(core, j))
        core->head_job = CORE_NONE;
    core->job_plan = true;
}

static void gang_charge_to(struct core *core, struct core_job *j, uint64_t ns)
{
    if (ns <= j->charged)
        return;
    core->job_clients[j->client].time += gang_share(core, j, ns - j->charged);
    core->job_classes[j->priority].time += gang_class_share(core, j, ns - j->charged);
    j->charged = ns;
}

void core_gang_charge(struct core *core, struct core_job *j)
{
    gang_charge_to(core, j, j->device_ns);
}

void core_gang_settle(struct core *core, struct core_job *j)
{
    struct core_job_client *client = &core->job_clients[j->client];
    struct core_job_class *class = &core->job_classes[j->priority];

    if (j->device_ns > 0)
        core->job_typical = core->job_typical == 0 ? j->device_ns / j->n_devices
                                                   : core->job_typical - core->job_typical / 8 +
                                                         j->device_ns / j->n_devices / 8;
    if (j->charged > j->device_ns) {
        uint64_t ns = gang_share(core, j, j->charged - j->device_ns);
        client->time -= ns < client->time ? ns : client->time;
        ns = gang_class_share(core, j, j->charged - j->device_ns);
        class->time -= ns < class->time ? ns : class->time;
    }
    j->charged = j->device_ns;
    core->job_plan = true;
}

/* What has been held until now. */
static void gang_accrue(struct core *core)
{
    for (uint64_t bits = core->job_devices; bits != 0; bits &= bits - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(bits);
        struct core_job *j = &core->jobs[core->devices[device]->gang];
        if (j->phase == CORE_JOB_HELD)
            core_gang_account(core, j, device);
    }
}

/* --------------------------------------------------------------------------------------- order */

/* Whether `a` is before `b`. */
static bool gang_before(const struct core *core, uint32_t a, uint32_t b)
{
    const struct core_job *j = &core->jobs[a], *k = &core->jobs[b];
    uint64_t x = core->job_classes[j->priority].time, y = core->job_classes[k->priority].time;

    /* Devices are kept for the head: it is first until it has them. */
    if (a == core->head_job || b == core->head_job)
        return a == core->head_job && a != b;
    if (j->priority != k->priority)
        return x != y ? x < y : j->priority < k->priority;
    const struct core_job_client *c = &core->job_clients[j->client],
                                 *d = &core->job_clients[k->client];
    /* Who has waited longer is before, by a part of it. */
    x = c->time + c->since / AGEING;
    y = d->time + d->since / AGEING;
    if (j->client != k->client && x != y)
        return x < y;
    return j->id < k->id;
}

uint32_t core_gang_first(const struct core *core)
{
    uint32_t first = core->waiting_jobs;

    for (uint32_t i = first; i != CORE_NONE; i = core->jobs[i].next)
        if (gang_before(core, i, first))
            first = i;
    return first;
}

/* Sifts down in a heap with the last on top. */
static void order_down(const struct core *core, uint32_t *order, uint32_t n, uint32_t at)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n && gang_before(core, order[child], order[child + 1]))
            child++;
        if (!gang_before(core, order[at], order[child]))
            return;
        uint32_t swap = order[at];
        order[at] = order[child];
        order[child] = swap;
        at = child;
    }
}

/* All that wait, in their order: a heapsort, as the library's may take memory. */
static uint32_t gang_order(struct core *core)
{
    uint32_t *order = core->job_order, n = 0;

    for (uint32_t i = core->waiting_jobs; i != CORE_NONE; i = core->jobs[i].next)
        order[n++] = i;
    for (uint32_t i = n / 2; i > 0; i--)
        order_down(core, order, n, i - 1);
    for (uint32_t end = n; end > 1; end--) {
        uint32_t swap = order[0];
        order[0] = order[end - 1];
        order[end - 1] = swap;
        order_down(core, order, end - 1, 0);
    }
    return n;
}

/* ------------------------------------------------------------------------------- which devices */

struct choice {
    uint64_t devices;
    uint64_t cost;
    uint64_t distance;
};

struct search {
    const struct core *core;
    uint32_t device[CORE_MAX_DEVICES]; /* candidates */
    uint64_t free_at[CORE_MAX_DEVICES];
    uint64_t penalty[CORE_MAX_DEVICES];
    uint32_t n, k;
    uint64_t worth; /* of a unit of distance, ns */
    struct choice best;
};

struct partial {
    uint64_t devices, free_at, penalty, distance;
};

static uint64_t partial_cost(const struct search *s, const struct partial *p)
{
    return core_add(core_add(p->free_at, p->penalty), core_multiply(p->distance, s->worth));
}

static struct partial partial_with(const struct search *s, const struct partial *p, uint32_t i)
{
    struct partial q = *p;

    for (uint64_t bits = p->devices; bits != 0; bits &= bits - 1)
        q.distance += s->core->distances[s->device[i]][__builtin_ctzll(bits)];
    q.devices |= core_bit(s->device[i]);
    if (s->free_at[i] > q.free_at)
        q.free_at = s->free_at[i];
    q.penalty = core_add(q.penalty, s->penalty[i]);
    return q;
}

static void search_take(struct search *s, const struct partial *p)
{
    uint64_t cost = partial_cost(s, p);

    if (s->best.devices == 0 || cost < s->best.cost)
        s->best = (struct choice){p->devices, cost, p->distance};
}

/* Every choice, but those that can't be better. */
static void search_exact(struct search *s, const struct partial *p, uint32_t from, uint32_t left)
{
    if (s->best.devices != 0 && partial_cost(s, p) >= s->best.cost)
        return;
    if (left == 0) {
        search_take(s, p);
        return;
    }
    for (uint32_t i = from; i + left <= s->n; i++) {
        struct partial q = partial_with(s, p, i);
        search_exact(s, &q, i + 1, left - 1);
    }
}

/* From each of them, always the one that adds the least. */
static void search_greedy(struct search *s)
{
    for (uint32_t seed = 0; seed < s->n; seed++) {
        struct partial p = partial_with(s, &(struct partial){0}, seed);
        for (uint32_t left = s->k - 1; left > 0; left--) {
            struct partial best = {0};
            for (uint32_t i = 0; i < s->n; i++) {
                if (p.devices & core_bit(s->device[i]))
                    continue;
                struct partial q = partial_with(s, &p, i);
                if (best.devices == 0 || partial_cost(s, &q) < partial_cost(s, &best))
                    best = q;
            }
            p = best;
        }
        search_take(s, &p);
    }
}

static struct choice search_run(struct search *s)
{
    s->best = (struct choice){0};
    if (s->n < s->k)
        return s->best;
    if (s->n <= EXACT_MOST)
        search_exact(s, &(struct partial){0}, 0, s->k);
    else
        search_greedy(s);
    return s->best;
}

/* The nearest that a job could have at all. */
static uint64_t least_distance(const struct core *core, const struct core_job *j)
{
    struct search s = {.core = core, .k = j->n_devices, .worth = 1};

    for (uint64_t bits = j->allowed; bits != 0; bits &= bits - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(bits);
        const struct core_device_state *d = core->devices[device];
        if (d->config.memory_bytes == 0 || j->memory <= d->config.memory_bytes)
            s.device[s.n++] = device;
    }
    return search_run(&s).distance;
}

/* ------------------------------------------------------------------------------- what they cost */

/* When a device will be without a job, by the limit of the one that has it; CORE_NEVER: it has
 * none. */
static uint64_t gang_free_at(const struct core *core, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];

    if (!d->reserved && (!d->up || d->dying))
        return CORE_NEVER;
    if (d->gang == CORE_NONE)
        return core_device_free_at(core, d);
    const struct core_job *j = &core->jobs[d->gang];
    if (j->phase == CORE_JOB_ENDING)
        return core->now;
    if (j->time_limit == 0)
        return CORE_NEVER;
    uint64_t end = core_add(j->started == 0 ? core->now : j->started, j->time_limit);
    return end > core->now ? end : core->now;
}

/* ns of inference that waits for what is loaded there: such a device is left to it where another
 * will do. */
static uint64_t gang_demand(const struct core *core, uint32_t device)
{
    uint64_t ns = 0;

    for (uint32_t word = 0; word < CORE_MAX_MODELS / 64; word++) {
        for (uint64_t bits = core->waiting_models[word]; bits != 0; bits &= bits - 1) {
            const struct core_model_state *m =
                core->models[word * 64 + (uint32_t)__builtin_ctzll(bits)];
            uint64_t devices = m->resident & m->config.devices;
            if (!(devices & core_bit(device)) || m->waiting_units == 0)
                continue;
            uint64_t units = m->waiting_units / (uint32_t)__builtin_popcountll(devices) + 1;
            ns = core_add(ns, core_model_bound(core, m, device, units));
        }
    }
    return ns < DEMAND_MOST ? ns : DEMAND_MOST;
}

static uint64_t gang_penalty(const struct core *core, const struct core_job *j, uint32_t device)
{
    const struct core_device_state *d = core->devices[device];
    bool evicts = !j->reserves && d->gang == CORE_NONE && j->memory > core_device_free(d);

    return gang_demand(core, device) + (evicts ? EVICTION_NS : 0);
}

static bool back_soon(const struct core *core, const struct core_device_state *d)
{
    return d->reserved || d->dying || (!d->up && d->ever_up && core->now - d->down_at < BACK_NS);
}

uint64_t core_gang_up(const struct core *core, const struct core_job *j, bool soon)
{
    uint64_t devices = 0;

    for (uint64_t bits = j->allowed; bits != 0; bits &= bits - 1) {
        const struct core_device_state *d = core->devices[__builtin_ctzll(bits)];
        if ((d->up && !d->dying) || (soon && back_soon(core, d)))
            devices |= bits & -bits;
    }
    return devices;
}

/* Memory that a rank could have on each device: what the rank of another has is counted, as it
 * comes back with its device. */
static void gang_rooms(const struct core *core, uint64_t *rooms)
{
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if (d != NULL && d->config.kind == CORE_COMPUTE)
            rooms[i] = core_add(core_residency_attainable(core, i), d->gang_memory);
    }
}

static uint64_t gang_fitting(const struct core_job *j, const uint64_t *rooms, uint64_t devices)
{
    uint64_t roomy = 0;

    for (; devices != 0; devices &= devices - 1)
        if (j->memory <= rooms[__builtin_ctzll(devices)])
            roomy |= devices & -devices;
    return roomy;
}

uint64_t core_gang_roomy(const struct core *core, const struct core_job *j, uint64_t devices)
{
    uint64_t rooms[CORE_MAX_DEVICES] = {0};

    if (j->memory == 0)
        return devices;
    gang_rooms(core, rooms);
    return gang_fitting(j, rooms, devices);
}

static struct choice gang_choose(const struct core *core, const struct core_job *j,
                                 uint64_t devices)
{
    struct search s = {.core = core, .k = j->n_devices, .worth = DISTANCE_NS};

    if ((uint32_t)__builtin_popcountll(devices) < j->n_devices)
        return (struct choice){0};
    for (; devices != 0; devices &= devices - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(devices);
        s.device[s.n] = device;
        uint64_t at = gang_free_at(core, device);
        /* What is not known is far away, but leaves room for what else differs. */
        s.free_at[s.n] = at == CORE_NEVER ? UINT64_C(1) << 62 : at - core->now;
        s.penalty[s.n++] = gang_penalty(core, j, device);
    }
    return search_run(&s);
}

/* ------------------------------------------------------------------------------------- deciding */

static void gang_take(struct core *core, struct core_job *j, const struct choice *choice,
                      bool in_turn)
{
    struct core_job_client *client = &core->job_clients[j->client];
    struct core_job_class *class = &core->job_classes[j->priority];

    /* Those that come now come when it began. */
    if (in_turn && client->time > class->least)
        class->least = client->time;
    if (in_turn && class->time > core->job_least)
        core->job_least = class->time;
    client->since = core->now;
    uint64_t typical = core->job_typical;
    if (j->time_limit != 0 && j->time_limit < typical)
        typical = j->time_limit;
    gang_charge_to(core, j, core_multiply(typical, j->n_devices));
    j->distance = choice->distance;
    j->least_distance = least_distance(core, j);
    core_gang_assign(core, j, choice->devices);
}

/* When all of these are without a job. */
static uint64_t gang_all_free_at(const struct core *core, uint64_t devices)
{
    uint64_t at = core->now;

    for (; devices != 0; devices &= devices - 1) {
        uint64_t each = gang_free_at(core, (uint32_t)__builtin_ctzll(devices));
        at = each > at ? each : at;
    }
    return at;
}

/* Whether it has certainly ended by then, if it begins now on these devices. */
static bool gang_ends_by(const struct core *core, const struct core_job *j, uint64_t devices,
                         uint64_t at)
{
    if (j->time_limit == 0 || at == CORE_NEVER)
        return false;
    uint64_t begin = gang_all_free_at(core, devices);
    return core_add(core_add(begin, j->time_limit), j->step_limit) <= at;
}

/* What is kept for the head of the line, while it is looked at. */
struct line {
    uint64_t rooms[CORE_MAX_DEVICES];
    uint64_t kept, until;
    uint32_t head;
    uint32_t chosen; /* so many were looked at behind the head */
    bool headed;
};

/* Looks at the next in line. True: it has its devices, and with it the order may have changed. */
static bool gang_try(struct core *core, struct line *line, uint32_t slot)
{
    struct core_job *j = &core->jobs[slot];
    uint64_t soon = core_gang_up(core, j, true), roomy = gang_fitting(j, line->rooms, soon);
    uint64_t unheld = roomy & core_gang_up(core, j, false) & ~core->job_devices;
    struct choice choice = {0};

    if ((uint32_t)__builtin_popcountll(roomy) < j->n_devices) {
        core->job_starved |= (uint32_t)__builtin_popcountll(soon) >= j->n_devices;
        return false;
    }
    if (!line->headed) {
        choice = gang_choose(core, j, roomy);
        if ((choice.devices & ~unheld) != 0) {
            line->headed = true;
            line->kept = choice.devices;
            line->until = gang_all_free_at(core, choice.devices);
            /* Where some are idle for it already, it stays the first, whoever else comes. */
            line->head = slot;
            core->head_job = (choice.devices & unheld) != 0 ? slot : CORE_NONE;
            return false;
        }
    } else {
        if ((uint32_t)__builtin_popcountll(unheld) < j->n_devices ||
            line->chosen++ >= BACKFILL_MOST)
            return false;
        choice = gang_choose(core, j, unheld & ~line->kept);
        if (choice.devices == 0) {
            choice = gang_choose(core, j, unheld);
            if (!gang_ends_by(core, j, choice.devices, line->until))
                return false;
        }
    }
    gang_take(core, j, &choice, !line->headed);
    return true;
}

/* One for whom a device is kept that does not come back is passed over then. */
static void gang_plan_again(struct core *core)
{
    core->job_plan_at = CORE_NEVER;
    for (uint32_t i = 0; core->waiting_jobs != CORE_NONE && i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if (d != NULL && !d->up && d->ever_up && core->now - d->down_at < BACK_NS &&
            core_add(d->down_at, BACK_NS) < core->job_plan_at)
            core->job_plan_at = core_add(d->down_at, BACK_NS);
    }
}

void core_gang_plan(struct core *core)
{
    struct line line = {.until = CORE_NEVER};
    uint32_t n = core->waiting_jobs == CORE_NONE ? 0 : 1;

    core->job_starved = false;
    if (n > 0) {
        gang_accrue(core);
        gang_rooms(core, line.rooms);
    }
    for (uint32_t i = 0; n > 0; i++) {
        if (i == 0)
            n = gang_order(core);
        if (i >= n)
            break;
        uint32_t slot = core->job_order[i];
        if (line.headed && slot == line.head)
            continue;
        bool was_head = slot == core->head_job;
        bool taken = gang_try(core, &line, slot);
        bool lost = was_head && (!line.headed || core->head_job != slot);
        if (lost && !taken) {
            /* Nothing is kept for it any more: it has no more than a place in line. */
            core->head_job = CORE_NONE;
            line.headed = false;
            line.kept = 0;
        }
        if (taken || lost)
            i = UINT32_MAX; /* the order has changed */
    }
    core->job_plan = false;
    gang_plan_again(core);
}
