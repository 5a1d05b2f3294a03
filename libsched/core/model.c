/* SPDX-License-Identifier: Apache-2.0 */
/* Models: their limits, their removal, what was learnt and counted of them. */
#include <stdlib.h>

#include "core/internal.h"

/* When nothing is known yet, and the bounds of what is answered, in ns. */
#define RETRY_UNKNOWN UINT64_C(50000000)
#define RETRY_LEAST UINT64_C(1000000)
#define RETRY_MOST UINT64_C(10000000000)
/* Full steps, after one did not fit, until more is tried: the first time, and at most. */
#define FITS_TRY_AFTER 64
#define FITS_TRY_MOST 4096

struct core_model_state *core_model_get(const struct core *core, uint32_t index)
{
    if (index >= CORE_MAX_MODELS)
        return NULL;
    struct core_model_state *m = core->models[index];
    return m != NULL && m->used ? m : NULL;
}

void core_model_note(struct core *core, uint32_t index)
{
    const struct core_model_state *m = core->models[index];
    uint64_t bit = core_bit(index % 64);

    if (m->ready.n > 0 || m->unprepared.n > 0)
        core->waiting_models[index / 64] |= bit;
    else
        core->waiting_models[index / 64] &= ~bit;
}

static int model_check(const struct core *core, const struct core_model *config)
{
    const uint32_t known =
        CORE_MODEL_PREPARES | CORE_MODEL_STEPS | CORE_MODEL_REPEATABLE | CORE_MODEL_PADS;

    if ((config->flags & ~known) != 0 || config->devices == 0 || config->max_batch_requests == 0 ||
        config->max_batch_requests > CORE_MAX_BATCH || config->max_batch_units == 0 ||
        config->max_request_units == 0 || config->queue_limit == 0)
        return LIBSCHED_EINVAL;
    if ((config->flags & CORE_MODEL_PADS) && (config->flags & CORE_MODEL_STEPS))
        return LIBSCHED_EINVAL;
    if ((config->flags & CORE_MODEL_PREPARES) &&
        (config->max_prepare_requests == 0 || config->max_prepare_requests > CORE_MAX_BATCH))
        return LIBSCHED_EINVAL;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if ((config->devices & core_bit(i)) && (d == NULL || d->config.kind != CORE_COMPUTE))
            return LIBSCHED_EINVAL;
    }
    return LIBSCHED_OK;
}

static void model_configure(struct core *core, struct core_model_state *m,
                            const struct core_model *config)
{
    m->config = *config;
    if (m->config.max_batch_units > CORE_MAX_UNITS)
        m->config.max_batch_units = CORE_MAX_UNITS;
    if (m->config.max_request_units > CORE_MAX_UNITS)
        m->config.max_request_units = CORE_MAX_UNITS;
    core_model_measure(core, m);
}

void core_model_measure(struct core *core, struct core_model_state *m)
{
    m->max_item_memory = 0;
    m->unfit = true;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        if (!(m->config.devices & core_bit(i)))
            continue;
        uint64_t all = core->devices[i]->config.memory_bytes;
        uint64_t left = UINT64_MAX;
        if (all != 0) {
            if (m->config.memory_bytes > all)
                continue;
            left = all - m->config.memory_bytes;
        }
        m->unfit = false;
        if (left > m->max_item_memory)
            m->max_item_memory = left;
    }
}

/* The lanes that are always there, and a profile for each sort of its devices. */
static int model_take(struct core *core, struct core_model_state *m, uint32_t index)
{
    m->lane = core_lane_open(core, index, false, 0, 1);
    m->prepare_lane = core_lane_open(core, index, true, 0, 1);
    if (m->lane == UINT16_MAX || m->prepare_lane == UINT16_MAX)
        return LIBSCHED_EBUSY;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        if (!(m->config.devices & core_bit(i)))
            continue;
        struct core_profile **p = &m->profiles[core->devices[i]->config.sort];
        if (*p == NULL)
            *p = calloc(1, sizeof(**p));
        if (*p == NULL)
            return LIBSCHED_ENOMEM;
    }
    return LIBSCHED_OK;
}

static void model_give(struct core *core, struct core_model_state *m)
{
    if (m->lane != UINT16_MAX)
        core_lane_leave(core, m->lane);
    if (m->prepare_lane != UINT16_MAX)
        core_lane_leave(core, m->prepare_lane);
    m->lane = m->prepare_lane = UINT16_MAX;
    core_model_free(m);
}

void core_model_free(struct core_model_state *m)
{
    for (uint32_t i = 0; i < CORE_MAX_SORTS; i++) {
        free(m->profiles[i]);
        m->profiles[i] = NULL;
    }
}

int core_add_model(struct core *core, uint64_t now, uint32_t index, const struct core_model *config)
{
    if (index >= CORE_MAX_MODELS || config == NULL)
        return LIBSCHED_EINVAL;
    struct core_model_state *m = core->models[index];
    if (m != NULL && m->used)
        return LIBSCHED_EEXIST;
    int status = model_check(core, config);
    if (status != LIBSCHED_OK)
        return status;
    if (m == NULL) {
        m = malloc(sizeof(*m));
        if (m == NULL)
            return LIBSCHED_ENOMEM;
        core->models[index] = m;
    }
    *m = (struct core_model_state){
        .claim = CORE_NONE,
        .since = core->generation,
        .lanes = UINT16_MAX,
        .lane = UINT16_MAX,
        .prepare_lane = UINT16_MAX,
    };
    core_list_init(&m->unprepared);
    core_list_init(&m->ready);
    core_list_init(&m->uncredited);
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        m->placement[i] = (struct core_placement){
            .action = {.next = CORE_NONE, .prev = CORE_UNLINKED},
            .open = UINT16_MAX,
        };
        profile_device_init(&m->placement[i].speed);
    }
    model_configure(core, m, config);
    if (m->unfit)
        return LIBSCHED_ENODEVMEM;
    status = model_take(core, m, index);
    if (status != LIBSCHED_OK) {
        model_give(core, m);
        return status;
    }
    m->used = true;
    core_residency_want(core, index, true);
    if (now > core->now)
        core->now = now;
    core->plan = core->dirty = true;
    return LIBSCHED_OK;
}

/* Requests that wait go to the queue where they belong since the model's flags have changed. */
static void model_requeue(struct core *core, struct core_model_state *m)
{
    struct core_list old[3] = {m->unprepared, m->ready, m->uncredited};

    core_list_init(&m->unprepared);
    core_list_init(&m->ready);
    core_list_init(&m->uncredited);
    for (int i = 0; i < 3; i++) {
        while (old[i].n > 0) {
            struct core_request *r = &core->requests[old[i].head];
            if (r->flow != CORE_NONE)
                core_flow_remove(core, old[i].head);
            core_deadline_remove(core, old[i].head);
            core_list_remove(core, &old[i], old[i].head);
            core_request_wait(core, r);
        }
    }
}

int core_update_model(struct core *core, uint64_t now, uint32_t index,
                      const struct core_model *config)
{
    struct core_model_state *m = core_model_get(core, index);

    if (m == NULL || m->removing)
        return LIBSCHED_ENOMODEL;
    if (config == NULL)
        return LIBSCHED_EINVAL;
    struct core_model changed = *config;
    changed.devices = m->config.devices;
    int status = model_check(core, &changed);
    if (status != LIBSCHED_OK)
        return status;
    uint32_t flags = m->config.flags;
    model_configure(core, m, &changed);
    if (flags != changed.flags) {
        core_residency_want(core, index, false);
        model_requeue(core, m);
    }
    if (now > core->now)
        core->now = now;
    core->look_at |= m->resident;
    core->plan = core->dirty = true;
    return LIBSCHED_OK;
}

void core_model_fail_waiting(struct core *core, struct core_model_state *m, int status)
{
    struct core_list *lists[3] = {&m->unprepared, &m->ready, &m->uncredited};

    for (int i = 0; i < 3; i++) {
        while (lists[i]->n > 0) {
            struct core_request *r = &core->requests[lists[i]->head];
            core_request_unqueue(core, r);
            core_request_end(core, r, status);
        }
    }
}

/* Those who wait in a session for credit would keep a model that is to go for as long as they
 * like. */
static void model_dismiss_stalled(struct core *core, struct core_model_state *m, uint32_t index)
{
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        struct core_device_state *d = core->devices[i];
        if (m->placement[i].sessions == 0)
            continue;
        for (uint32_t j = 0; j < d->sessions_used; j++) {
            struct core_session *s = &d->sessions[j];
            if (s->batch == 0 || s->model != index || !s->steps || s->ending)
                continue;
            for (uint32_t slot = s->members.head; slot != CORE_NONE;
                 slot = core->requests[slot].next) {
                struct core_request *r = &core->requests[slot];
                if (core_request_stalled(r) && !(r->flags & CORE_IN_STEP))
                    core_request_leave(core, r, m->status);
            }
        }
    }
}

int core_remove_model(struct core *core, uint64_t now, uint32_t index, int status)
{
    struct core_model_state *m = core_model_get(core, index);

    if (m == NULL || m->removing)
        return LIBSCHED_ENOMODEL;
    m->removing = true;
    m->status = status == LIBSCHED_OK ? LIBSCHED_ENOMODEL : status;
    core_model_fail_waiting(core, m, m->status);
    model_dismiss_stalled(core, m, index);
    core_residency_unwant(core, index);
    if (now > core->now)
        core->now = now;
    core->plan = core->dirty = true;
    return LIBSCHED_OK;
}

void core_model_finish(struct core *core, uint32_t index)
{
    struct core_model_state *m = core->models[index];

    if (m->sessions > 0)
        return;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (m->placement[i].state != CORE_ABSENT)
            return;
    m->used = false;
    model_give(core, m);
    /* Those who have ended and wait for credit need the model no more. */
    if (m->counts.running > 0)
        for (uint32_t slot = 0; slot < core->config.max_requests; slot++)
            if (core->requests[slot].state == CORE_HELD && core->requests[slot].model == index)
                core->requests[slot].model = UINT16_MAX;
}

bool core_model_gone(const struct core *core, uint32_t index)
{
    return core_model_get(core, index) == NULL;
}

/* ------------------------------------------------------------------------------------ learning */

uint64_t core_model_bound(const struct core *core, const struct core_model_state *m,
                          uint32_t device, uint64_t units)
{
    const struct core_profile *p = m->profiles[core->devices[device]->config.sort];
    return p == NULL ? 0 : profile_bound(p, &m->placement[device].speed, core->now, units);
}

uint64_t core_model_expect(const struct core *core, const struct core_model_state *m,
                           uint32_t device, uint64_t units)
{
    const struct core_profile *p = m->profiles[core->devices[device]->config.sort];
    return p == NULL ? 0 : profile_expect(p, &m->placement[device].speed, units);
}

uint64_t core_model_least(const struct core *core, const struct core_model_state *m, uint64_t units)
{
    uint64_t least = UINT64_MAX;

    for (uint64_t bits = m->resident & m->config.devices; bits != 0; bits &= bits - 1) {
        uint64_t ns = core_model_expect(core, m, (uint32_t)__builtin_ctzll(bits), units);
        if (ns < least)
            least = ns;
    }
    return least == UINT64_MAX ? 0 : least;
}

void core_model_learn(struct core *core, struct core_model_state *m, uint32_t device,
                      uint64_t units, uint64_t ns)
{
    struct core_placement *p = &m->placement[device];

    /* What runs first has caches to fill and code to load. */
    if (!p->warm) {
        p->warm = true;
        return;
    }
    struct core_profile *profile = m->profiles[core->devices[device]->config.sort];
    if (m->probes)
        profile_refresh(profile, &p->speed, core->now, units, ns);
    m->probes = false;
    profile_learn(profile, &p->speed, core->now, units, ns);
}

uint64_t core_model_most(const struct core_model_state *m, uint32_t device)
{
    const uint64_t fits = m->placement[device].fits, most = m->config.max_batch_units;

    return fits != 0 && fits < most ? fits : most;
}

/* Half of what did not fit, or twice as much as has fitted for long: it may have been another
 * program that had the memory. Where more never fits it is tried less and less often. */
void core_model_fitted(struct core_model_state *m, uint32_t device, uint64_t units, bool fitted)
{
    struct core_placement *p = &m->placement[device];

    if (!fitted) {
        p->patience = p->fits == 0                  ? FITS_TRY_AFTER
                      : p->patience < FITS_TRY_MOST ? (uint16_t)(2 * p->patience)
                                                    : FITS_TRY_MOST;
        p->fits = units > 1 ? units / 2 : 1;
        p->fitted = 0;
    } else if (p->fits != 0 && units > p->fits / 2 && ++p->fitted >= p->patience) {
        p->fits = core_multiply(p->fits, 2);
        p->fitted = 0;
    }
}

bool core_model_untried(const struct core *core, const struct core_model_state *m, uint64_t units)
{
    uint64_t after = core_multiply(core_model_least(core, m, units), PROFILE_TRY_EVERY);

    if (after < PROFILE_TRY_LEAST)
        after = PROFILE_TRY_LEAST;
    return core->now - m->tried >= (after < PROFILE_STALE ? after : PROFILE_STALE);
}

/* The time in which a quarter of what waits will have been worked off: there is room well before
 * the queue is empty, but not for everybody at once. */
uint64_t core_model_retry_after(const struct core *core, const struct core_model_state *m)
{
    uint64_t most = m->config.max_batch_units, units = m->waiting_units;
    uint32_t devices = (uint32_t)__builtin_popcountll(m->resident & m->config.devices);

    if (units == 0)
        return RETRY_LEAST;
    /* In batches as large as may be. */
    uint64_t by_requests = core_multiply(units / m->waiting + 1, m->config.max_batch_requests);
    uint64_t batch = by_requests < most ? by_requests : most;
    batch = batch < units ? batch : units;
    uint64_t each = core_model_least(core, m, batch);
    if (each == 0)
        return RETRY_UNKNOWN;
    uint64_t ns = core_multiply(units / batch + 1, each) / 4;
    if (devices > 1)
        ns /= devices;
    return ns < RETRY_LEAST ? RETRY_LEAST : ns > RETRY_MOST ? RETRY_MOST : ns;
}

/* ------------------------------------------------------------------------------------- looking */

void core_get_counts(const struct core *core, uint32_t model, struct core_counts *out)
{
    const struct core_model_state *m = core_model_get(core, model);

    if (model == UINT32_MAX)
        *out = core->counts;
    else if (m != NULL)
        *out = m->counts;
    else
        *out = (struct core_counts){0};
}

uint64_t core_model_devices(const struct core *core, uint32_t model)
{
    const struct core_model_state *m = core_model_get(core, model);

    return m == NULL ? 0 : m->resident;
}

uint64_t core_model_failed(const struct core *core, uint32_t model)
{
    const struct core_model_state *m = core_model_get(core, model);
    uint64_t devices = 0;

    if (m == NULL)
        return 0;
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++)
        if (m->placement[i].state == CORE_FAILED)
            devices |= core_bit(i);
    return devices;
}
