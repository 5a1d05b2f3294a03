/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the caller has to carry out: a FIFO of everything that has something to say. An action is
 * made from the state of its subject when it is handed out; only then is a slot free again, has a
 * session ended, has an item left.
 */
#include "core/internal.h"

static struct core_link *action_at(struct core *core, uint32_t node)
{
    if (node < CORE_NODE_SESSIONS)
        return &core->requests[node].action;
    if (node < CORE_NODE_PLACEMENTS) {
        node -= CORE_NODE_SESSIONS;
        struct core_device_state *d = core->devices[node / CORE_MAX_SESSIONS];
        return &d->sessions[node % CORE_MAX_SESSIONS].action;
    }
    if (node < CORE_NODE_DEVICES) {
        node -= CORE_NODE_PLACEMENTS;
        struct core_model_state *m = core->models[node / CORE_MAX_DEVICES];
        return &m->placement[node % CORE_MAX_DEVICES].action;
    }
    if (node < CORE_NODE_TIMER)
        return &core->devices[node - CORE_NODE_DEVICES]->action;
    if (node >= CORE_NODE_JOBS)
        return &core->jobs[node - CORE_NODE_JOBS].action;
    return &core->timer_action;
}

void core_action_unlink(struct core *core, uint32_t node)
{
    struct core_link *link = action_at(core, node);

    if (!core_action_linked(link))
        return;
    if (link->prev == CORE_NONE)
        core->action_head = link->next;
    else
        action_at(core, link->prev)->next = link->next;
    if (link->next == CORE_NONE)
        core->action_tail = link->prev;
    else
        action_at(core, link->next)->prev = link->prev;
    link->prev = CORE_UNLINKED;
    link->next = CORE_NONE;
}

void core_action_link(struct core *core, uint32_t node)
{
    struct core_link *link = action_at(core, node);

    core_action_unlink(core, node);
    link->prev = core->action_tail;
    link->next = CORE_NONE;
    if (core->action_tail == CORE_NONE)
        core->action_head = node;
    else
        action_at(core, core->action_tail)->next = node;
    core->action_tail = node;
}

/* A request says one thing at a time: abort, then its parts, then its end. */
static void request_action(struct core *core, uint32_t slot, struct core_action *out)
{
    struct core_request *r = &core->requests[slot];

    out->id = r->id;
    out->model = r->model == UINT16_MAX ? CORE_NONE : r->model;
    if (r->flags & CORE_SAY_ABORT) {
        r->flags &= (uint8_t)~CORE_SAY_ABORT;
        out->type = CORE_ABORT;
        out->device = r->device;
        out->epoch = core->devices[r->device]->epoch;
        out->batch = core_session_of(core, r)->batch;
    } else if (r->to_send > 0) {
        r->to_send--;
        out->type = CORE_REPLY_PART;
    } else {
        out->type = CORE_REPLY;
        out->status = r->status;
        out->attempts = r->attempts;
        out->dispatched = r->dispatched;
        out->batch_size = r->batch_size;
        out->device = r->device;
        core_action_unlink(core, slot);
        core_request_free(core, r);
        return;
    }
    if (r->to_send == 0 && r->state != CORE_ENDED)
        core_action_unlink(core, slot);
}

static void session_action(struct core *core, uint32_t device, uint32_t index,
                           struct core_action *out)
{
    struct core_device_state *d = core->devices[device];
    struct core_session *s = &d->sessions[index];
    uint32_t n = 0;

    core_action_unlink(core, core_session_node(device, index));
    out->type = s->step == 1 && s->in_flight ? CORE_DISPATCH : CORE_STEP;
    out->device = device;
    out->epoch = d->epoch;
    out->model = s->model;
    out->batch = s->batch;
    out->step = s->step;
    out->ends = s->ending;
    for (uint32_t slot = s->members.head, next; slot != CORE_NONE; slot = next) {
        struct core_request *r = &core->requests[slot];
        next = r->next;
        bool runs = (r->flags & CORE_IN_STEP) != 0;
        if (!runs && !(r->flags & CORE_LEAVES))
            continue;
        core->items[n++] = (struct core_action_item){
            .id = r->id,
            .units = r->units,
            .joins = (r->flags & CORE_JOINS) != 0,
            .leaves = !runs,
        };
        if (!runs) {
            if (!s->in_flight && !s->ending)
                s->n_leaving--;
            core_session_remove(core, s, r);
            core_request_end(core, r, r->status);
        }
    }
    out->items = core->items;
    out->n_items = n;
    if (s->ending)
        core_session_free(core, device, s);
}

static void placement_action(struct core *core, uint32_t model, uint32_t device,
                             struct core_action *out)
{
    struct core_placement *p = &core->models[model]->placement[device];

    core_action_unlink(core, core_placement_node(model, device));
    out->type = p->state == CORE_LOADING ? CORE_LOAD : CORE_EVICT;
    out->device = device;
    out->epoch = core->devices[device]->epoch;
    out->model = model;
}

/* A worker is ended before its device is vacated, and that before it is occupied again. */
static void device_action(struct core *core, uint32_t device, struct core_action *out)
{
    struct core_device_state *d = core->devices[device];

    out->device = device;
    out->epoch = d->epoch;
    if (d->say & CORE_SAY_KILL) {
        out->type = CORE_KILL;
        out->at = d->overrun;
        d->say &= (uint8_t)~CORE_SAY_KILL;
    } else if (d->say & CORE_SAY_VACATE) {
        out->type = CORE_VACATE;
        d->say &= (uint8_t)~CORE_SAY_VACATE;
        d->vacated = true;
    } else {
        out->type = CORE_OCCUPY;
        d->say &= (uint8_t)~CORE_SAY_OCCUPY;
        d->vacated = false;
    }
    if (d->say == 0)
        core_action_unlink(core, CORE_NODE_DEVICES + device);
}

/* False where the timer is set well. It is not taken back when nobody needs it any more: then it
 * fires once for nothing, which is cheaper than to set it anew with every reply. */
static bool timer_action(struct core *core, struct core_action *out)
{
    core_action_unlink(core, CORE_NODE_TIMER);
    uint64_t at = core_next_due(core);
    if (at == CORE_NEVER)
        return false;
    if (core->armed != 0 && core->armed <= at)
        return false;
    core->armed = at;
    out->type = CORE_ARM_TIMER;
    out->at = core->armed;
    return true;
}

bool core_next_action(struct core *core, struct core_action *action)
{
    for (;;) {
        while (core->action_head == CORE_NONE) {
            if (!core->dirty)
                return false;
            core_schedule(core);
        }
        uint32_t node = core->action_head;
        *action = (struct core_action){.device = CORE_NONE, .model = CORE_NONE};
        if (node < CORE_NODE_SESSIONS) {
            request_action(core, node, action);
        } else if (node < CORE_NODE_PLACEMENTS) {
            node -= CORE_NODE_SESSIONS;
            session_action(core, node / CORE_MAX_SESSIONS, node % CORE_MAX_SESSIONS, action);
        } else if (node < CORE_NODE_DEVICES) {
            node -= CORE_NODE_PLACEMENTS;
            placement_action(core, node / CORE_MAX_DEVICES, node % CORE_MAX_DEVICES, action);
        } else if (node < CORE_NODE_TIMER) {
            device_action(core, node - CORE_NODE_DEVICES, action);
        } else if (node >= CORE_NODE_JOBS) {
            if (!core_gang_action(core, node - CORE_NODE_JOBS, action))
                continue;
        } else if (!timer_action(core, action)) {
            continue;
        }
        action->seq = ++core->seq;
        return true;
    }
}
