/* SPDX-License-Identifier: Apache-2.0 */
/* A request's life, from submit to reply. */
#include "core/internal.h"

uint32_t core_request_slot(const struct core *core, const struct core_request *r)
{
    return (uint32_t)(r - core->requests);
}

struct core_request *core_request_find(struct core *core, uint64_t id)
{
    uint64_t slot = id & CORE_SLOT_MASK;

    if (slot >= core->config.max_requests)
        return NULL;
    struct core_request *r = &core->requests[slot];
    return r->id == id && r->state != CORE_FREE && r->state != CORE_ENDED ? r : NULL;
}

/* ----------------------------------------------------------------------------------- counting */

static bool state_waits(uint8_t state)
{
    return state == CORE_UNPREPARED || state == CORE_PREPARING || state == CORE_READY ||
           state == CORE_UNCREDITED;
}

static bool state_runs(uint8_t state)
{
    return state == CORE_RUNNING || state == CORE_HELD;
}

/* NULL: the model was removed while its last parts waited for credit. */
static struct core_model_state *request_model(const struct core *core, const struct core_request *r)
{
    return r->model == UINT16_MAX ? NULL : core->models[r->model];
}

void core_request_enter(struct core *core, struct core_request *r, enum core_request_state state)
{
    struct core_model_state *m = request_model(core, r);
    int waits = (int)state_waits(state) - (int)state_waits(r->state);
    int runs = (int)state_runs(state) - (int)state_runs(r->state);

    core->counts.queued += (uint32_t)waits;
    core->counts.running += (uint32_t)runs;
    if (m != NULL) {
        m->counts.queued += (uint32_t)waits;
        m->counts.running += (uint32_t)runs;
        m->waiting += (uint32_t)waits;
        if (waits > 0)
            m->waiting_units += r->units;
        else if (waits < 0)
            m->waiting_units -= r->units;
    }
    r->state = (uint8_t)state;
}

void core_request_set_units(struct core *core, struct core_request *r, uint64_t units)
{
    struct core_model_state *m = core->models[r->model];

    m->waiting_units += units - r->units;
    r->units = units;
}

static void count_end(struct core_counts *counts, int status)
{
    switch (status) {
    case LIBSCHED_OK:
        counts->completed++;
        break;
    case LIBSCHED_ECANCELED:
        counts->cancelled++;
        break;
    case LIBSCHED_EDEADLINE:
        counts->expired++;
        break;
    default:
        counts->failed++;
    }
}

/* ------------------------------------------------------------------------------------- queues */

bool core_request_stalled(const struct core_request *r)
{
    return (r->flags & CORE_WANTS_PARTS) && r->credit == 0 && r->skip == 0;
}

/* The list of a state, or NULL. */
static struct core_list *request_list(struct core *core, const struct core_request *r)
{
    struct core_model_state *m = request_model(core, r);

    switch (r->state) {
    case CORE_UNPREPARED:
        return &m->unprepared;
    case CORE_READY:
        return &m->ready;
    case CORE_UNCREDITED:
        return &m->uncredited;
    default:
        return NULL;
    }
}

/* Where it is not in the right one, or in none yet. There always is one: the model's own. */
static void request_enter_lane(struct core *core, struct core_request *r, bool prepare)
{
    struct core_model_state *m = core->models[r->model];

    if (r->lane != UINT16_MAX && core->lanes[r->lane].prepare != prepare) {
        core_lane_leave(core, r->lane);
        r->lane = UINT16_MAX;
    }
    if (r->lane != UINT16_MAX)
        return;
    r->lane = prepare ? m->prepare_lane : m->lane;
    core->lanes[r->lane].users++;
}

void core_request_wait(struct core *core, struct core_request *r)
{
    struct core_model_state *m = core->models[r->model];
    enum core_request_state state = CORE_READY;

    if ((m->config.flags & CORE_MODEL_PREPARES) && !(r->flags & CORE_PREPARED_ONCE))
        state = CORE_UNPREPARED;
    else if ((m->config.flags & CORE_MODEL_STEPS) && core_request_stalled(r))
        state = CORE_UNCREDITED;
    uint32_t slot = core_request_slot(core, r);
    core_request_enter(core, r, state);
    core_list_insert(core, request_list(core, r), slot);
    if (state != CORE_UNCREDITED) {
        request_enter_lane(core, r, state == CORE_UNPREPARED);
        core_flow_add(core, slot);
    }
    core_deadline_add(core, slot);
    core_model_note(core, r->model);
    /* Nobody can serve it as things are: somebody may have to make room. */
    core->plan |= (m->resident & m->config.devices) == 0;
    core->look_at |= m->resident;
}

void core_request_unqueue(struct core *core, struct core_request *r)
{
    core_list_remove(core, request_list(core, r), core_request_slot(core, r));
    if (r->flow != CORE_NONE)
        core_flow_remove(core, core_request_slot(core, r));
    core_deadline_remove(core, core_request_slot(core, r));
    core_model_note(core, r->model);
    core->look_at |= core->passed_over & core->models[r->model]->resident;
    if (r->flags & CORE_ALONE) {
        /* A device may have come to rest for it. */
        core->look_at |= core->models[r->model]->resident;
        core->dirty = true;
    }
}

/* ------------------------------------------------------------------------------------- submit */

/* Whether it would be late even if it were next, as far as is known and that can be relied on. */
static bool submit_hopeless(const struct core *core, const struct core_model_state *m,
                            const struct core_submit *submit)
{
    uint64_t devices = m->resident & m->config.devices;

    if ((m->config.flags & CORE_MODEL_PREPARES) || devices == 0 ||
        core_model_untried(core, m, submit->units))
        return false;
    for (; devices != 0; devices &= devices - 1) {
        uint32_t device = (uint32_t)__builtin_ctzll(devices);
        uint64_t begin = core_device_begins(core, core->devices[device]);
        if (begin + core_model_expect(core, m, device, submit->units) <= submit->deadline)
            return false;
    }
    return true;
}

static int submit_check(struct core *core, struct core_submit *submit)
{
    int status = LIBSCHED_OK;

    if (core->draining)
        return LIBSCHED_ECLOSING;
    struct core_model_state *m = core_model_get(core, submit->model);
    if (m == NULL || m->removing)
        return LIBSCHED_ENOMODEL;
    if (submit->priority >= CORE_PRIORITIES || submit->units == 0)
        return LIBSCHED_EINVAL;
    if (m->config.flags & CORE_MODEL_PREPARES) {
        /* A bound only: what it really costs is checked when it is prepared. */
        if (submit->units > m->config.max_request_units)
            submit->units = m->config.max_request_units;
    } else if (submit->units > m->config.max_request_units ||
               core_multiply(submit->units, m->config.memory_per_unit) > m->max_item_memory) {
        return LIBSCHED_ETOOBIG;
    }
    if (submit->deadline != 0 && submit->deadline <= core->now)
        return LIBSCHED_EDEADLINE;
    if (submit->deadline != 0 && submit_hopeless(core, m, submit))
        return LIBSCHED_EDEADLINE;
    uint32_t client = core_client_find(core, submit->client);
    if (m->waiting >= m->config.queue_limit)
        status = LIBSCHED_EQUEUEFULL;
    else if (client != CORE_NONE &&
             core->clients[client].waiting >= core_client_limit(core, client))
        status = LIBSCHED_ECLIENTFULL;
    else if (core->free_head == CORE_NONE)
        status = LIBSCHED_EBUSY;
    if (status != LIBSCHED_OK)
        submit->retry_after = core_model_retry_after(core, m);
    return status;
}

/* The lane of a new request, with it among its users; UINT16_MAX: there is no room for it. */
static uint16_t submit_lane(struct core *core, const struct core_submit *submit)
{
    struct core_model_state *m = core->models[submit->model];

    if (!(m->config.flags & CORE_MODEL_PREPARES))
        return core_lane_join(core, submit->model, submit->batch_key, submit->units);
    core->lanes[m->prepare_lane].users++;
    return m->prepare_lane;
}

int core_request_submit(struct core *core, struct core_submit *submit)
{
    submit->id = 0;
    submit->retry_after = 0;
    int status = submit_check(core, submit);
    struct core_model_state *m = core_model_get(core, submit->model);
    uint16_t lane = status == LIBSCHED_OK ? submit_lane(core, submit) : UINT16_MAX;
    if (lane == UINT16_MAX) {
        if (status == LIBSCHED_OK) {
            status = LIBSCHED_EBUSY;
            submit->retry_after = core_model_retry_after(core, m);
        }
        core->counts.refused++;
        if (m != NULL)
            m->counts.refused++;
        return status;
    }
    uint64_t patient = core->now + core->config.class_patience[submit->priority];
    uint32_t slot = core->free_head;
    struct core_request *r = &core->requests[slot];
    core->free_head = r->next;
    core->n_requests++;
    core->generation += UINT64_C(1) << CORE_SLOT_BITS;
    if (core->generation == 0) /* 2^40 requests later; and no id is 0 */
        core->generation = UINT64_C(1) << CORE_SLOT_BITS;
    *r = (struct core_request){
        .id = core->generation | slot,
        .deadline = submit->deadline,
        .key = submit->deadline != 0 && submit->deadline < patient ? submit->deadline : patient,
        .units = submit->units,
        .flow = CORE_NONE,
        .lane = lane,
        .next = CORE_NONE,
        .prev = CORE_NONE,
        .action = {.next = CORE_NONE, .prev = CORE_UNLINKED},
        .client = core_client_enter(core, submit->client),
        .credit = submit->part_credit,
        .model = (uint16_t)submit->model,
        .session = UINT16_MAX,
        .state = CORE_FREE,
        .flags = submit->wants_parts ? CORE_WANTS_PARTS : 0,
        .priority = (uint8_t)submit->priority,
    };
    core->counts.submitted++;
    m->counts.submitted++;
    core_request_wait(core, r);
    submit->id = r->id;
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------ the end */

static void request_leave_lane(struct core *core, struct core_request *r)
{
    if (r->lane == UINT16_MAX)
        return;
    core_lane_leave(core, r->lane);
    r->lane = UINT16_MAX;
}

void core_request_end(struct core *core, struct core_request *r, int status)
{
    struct core_model_state *m = request_model(core, r);
    uint32_t slot = core_request_slot(core, r);

    core_deadline_remove(core, slot);
    core_request_enter(core, r, CORE_ENDED);
    count_end(&core->counts, status);
    if (m != NULL)
        count_end(&m->counts, status);
    request_leave_lane(core, r);
    r->status = (int16_t)status;
    r->held = 0;
    r->flags &= (uint8_t)~CORE_SAY_ABORT;
    /* Behind what is decided already: a step by which it leaves goes first. */
    core_action_link(core, slot);
}

void core_request_free(struct core *core, struct core_request *r)
{
    uint32_t slot = core_request_slot(core, r);

    core_client_leave(core, r->client);
    r->state = CORE_FREE;
    r->next = core->free_head;
    core->free_head = slot;
    core->n_requests--;
}

void core_request_finish(struct core *core, struct core_request *r)
{
    if (r->held == 0) {
        core_request_end(core, r, LIBSCHED_OK);
        return;
    }
    request_leave_lane(core, r);
    core_request_enter(core, r, CORE_HELD);
    core_deadline_add(core, core_request_slot(core, r));
}

void core_request_leave(struct core *core, struct core_request *r, int status)
{
    struct core_session *s = core_session_of(core, r);

    if (r->flags & CORE_LEAVES)
        return;
    if (!s->in_flight && !s->ending) {
        s->n_leaving++;
        if (!(s->steps && core_request_stalled(r)))
            s->n_runnable--;
    }
    r->flags |= CORE_LEAVES;
    r->status = (int16_t)status;
    core_deadline_remove(core, core_request_slot(core, r));
    core->look_at |= core_bit(r->device);
}

int core_request_cancel(struct core *core, uint64_t id)
{
    struct core_request *r = core_request_find(core, id);

    if (r == NULL)
        return LIBSCHED_ENOENT;
    switch (r->state) {
    case CORE_PREPARING:
    case CORE_RUNNING:
        if (!(r->flags & CORE_LEAVES) && (r->flags & CORE_IN_STEP)) {
            r->flags |= CORE_SAY_ABORT;
            if (!core_action_linked(&r->action))
                core_action_link(core, core_request_slot(core, r));
        }
        core_request_leave(core, r, LIBSCHED_ECANCELED);
        break;
    case CORE_HELD:
        core_request_end(core, r, LIBSCHED_ECANCELED);
        break;
    default:
        core_request_unqueue(core, r);
        core_request_end(core, r, LIBSCHED_ECANCELED);
    }
    return LIBSCHED_OK;
}

/* -------------------------------------------------------------------------------------- parts */

static void request_send_part(struct core *core, struct core_request *r)
{
    if (r->credit != UINT32_MAX)
        r->credit--;
    r->sent++;
    r->to_send++;
    if (!core_action_linked(&r->action))
        core_action_link(core, core_request_slot(core, r));
}

/* A part of a running item; false: it is nothing to anybody. */
bool core_request_part(struct core *core, struct core_request *r)
{
    if (!(r->flags & CORE_WANTS_PARTS) || (r->flags & CORE_LEAVES))
        return false;
    if (r->skip > 0) {
        r->skip--;
        return false;
    }
    if (r->credit > 0)
        request_send_part(core, r);
    else
        r->held++;
    return true;
}

int core_request_grant(struct core *core, uint64_t id, uint32_t parts)
{
    struct core_request *r = core_request_find(core, id);

    if (r == NULL)
        return LIBSCHED_ENOENT;
    bool stalled = core_request_stalled(r);
    r->credit = parts > UINT32_MAX - r->credit ? UINT32_MAX : r->credit + parts;
    while (r->held > 0 && r->credit > 0) {
        r->held--;
        request_send_part(core, r);
    }
    if (r->state == CORE_HELD && r->held == 0) {
        core_request_end(core, r, LIBSCHED_OK);
    } else if (stalled && !core_request_stalled(r)) {
        if (r->state == CORE_UNCREDITED) {
            core_request_unqueue(core, r);
            core_request_wait(core, r);
        } else if (r->state == CORE_RUNNING) {
            struct core_session *s = core_session_of(core, r);
            core_deadline_remove(core, core_request_slot(core, r));
            if (s->steps && !s->in_flight && !s->ending && !(r->flags & CORE_LEAVES))
                s->n_runnable++;
            core->look_at |= core_bit(r->device);
        }
    }
    return LIBSCHED_OK;
}

/* -------------------------------------------------------------------------------------- again */

void core_request_retry(struct core *core, struct core_request *r, int status)
{
    struct core_model_state *m = core->models[r->model];

    r->flags &= (uint8_t)~CORE_SAY_ABORT;
    if (core_action_linked(&r->action) && r->to_send == 0)
        core_action_unlink(core, core_request_slot(core, r));
    if (r->flags & CORE_LEAVES) {
        core_request_end(core, r, r->status);
    } else if (m->removing) {
        core_request_end(core, r, m->status);
    } else if (r->sent > 0 && !(m->config.flags & CORE_MODEL_REPEATABLE)) {
        core_request_end(core, r, status);
    } else {
        r->held = 0;
        r->skip = r->sent;
        r->flags &= (uint8_t) ~(CORE_IN_STEP | CORE_JOINS);
        m->counts.retried++;
        core->counts.retried++;
        core_request_wait(core, r);
    }
}

/* Where nobody could be in time as far as is known, nothing would run any more, and nothing be
 * learnt: now and then one is let through, to see whether that is still so. */
static bool request_probes(struct core *core, struct core_request *r)
{
    struct core_model_state *m = request_model(core, r);

    if (r->state != CORE_READY || r->deadline <= core->now ||
        !core_model_untried(core, m, r->units))
        return false;
    m->tried = core->now;
    m->probes = true;
    r->flags |= CORE_PROBES;
    core_deadline_add(core, core_request_slot(core, r));
    core->look_at |= m->resident;
    return true;
}

void core_requests_expire(struct core *core)
{
    for (uint32_t slot; (slot = core_deadline_pop(core)) != CORE_NONE;) {
        struct core_request *r = &core->requests[slot];
        if (r->state == CORE_RUNNING) {
            core_request_leave(core, r, LIBSCHED_EDEADLINE);
        } else if (!request_probes(core, r)) {
            if (r->state != CORE_HELD)
                core_request_unqueue(core, r);
            core_request_end(core, r, LIBSCHED_EDEADLINE);
        }
    }
}
