/* SPDX-License-Identifier: Apache-2.0 */
#include "waiters.h"

#include <stdlib.h>
#include <string.h>

#include "port.h"
#include "reply.h"

void waiters_init(struct waiters *w)
{
    *w = (struct waiters){.next_deadline = UINT64_MAX};
}

void waiters_free(struct waiters *w)
{
    free(w->items);
    waiters_init(w);
}

bool waiters_full(const struct waiters *w)
{
    return w->n == WAITERS_MAX;
}

void waiters_add(struct port *p, enum waiter_kind kind, uint32_t index, const char *model,
                 uint64_t deadline)
{
    struct waiters *w = &p->waiters;
    if (w->n == WAITERS_MAX) {
        reply_failure(p, index, LIBSCHED_EBUSY, "%d requests wait for models already", WAITERS_MAX);
        return;
    }
    if (w->n == w->capacity) {
        uint32_t capacity = w->capacity > 0 ? 2 * w->capacity : 16;
        struct waiter *items = realloc(w->items, capacity * sizeof(*items));
        if (items == NULL) {
            reply_failure(p, index, LIBSCHED_ENOMEM, "no memory to wait with");
            return;
        }
        w->items = items;
        w->capacity = capacity;
    }
    struct waiter *waiter = &w->items[w->n++];
    *waiter = (struct waiter){.kind = kind, .index = index, .deadline = deadline};
    if (model != NULL)
        strncpy(waiter->model, model, sizeof(waiter->model) - 1);
    if (deadline < w->next_deadline)
        w->next_deadline = deadline;
    request_table_at(&p->requests, index)->state = REQUEST_WAITING;
}

static struct waiter take(struct waiters *w, uint32_t i)
{
    struct waiter waiter = w->items[i];
    w->n--;
    memmove(&w->items[i], &w->items[i + 1], (w->n - i) * sizeof(*w->items));
    return waiter;
}

/* Whether a state of its model ends this wait. */
static bool concerns(const struct waiter *waiter, uint32_t state)
{
    switch (waiter->kind) {
    case WAITER_LOAD:
    case WAITER_READY:
        return state == LIBSCHED_MODEL_READY || state == LIBSCHED_MODEL_FAILED ||
               state == LIBSCHED_MODEL_GONE;
    case WAITER_UNLOAD:
        return state == LIBSCHED_MODEL_GONE;
    default:
        return false;
    }
}

static void answer(struct port *p, const struct waiter *waiter, uint32_t state, int status,
                   const char *message)
{
    if (waiter->kind == WAITER_UNLOAD) {
        reply_nil(p, waiter->index);
        return;
    }
    if (state == LIBSCHED_MODEL_READY) {
        reply_begin(p, waiter->index);
        if (describe_model(p, waiter->model) == 0) {
            reply_end(p, waiter->index);
            return;
        }
        reply_abort(p);
    }
    if (state == LIBSCHED_MODEL_FAILED && status < 0)
        reply_failure(p, waiter->index, status, "%s", message);
    else
        reply_failure(p, waiter->index, LIBSCHED_ENOMODEL,
                      "model \"%s\" was unloaded before it was ready", waiter->model);
}

void waiters_model_changed(struct port *p, const char *model, uint32_t state, int status,
                           const char *message)
{
    struct waiters *w = &p->waiters;
    for (uint32_t i = 0; i < w->n;) {
        if (!concerns(&w->items[i], state) || strcmp(w->items[i].model, model) != 0) {
            i++;
            continue;
        }
        struct waiter waiter = take(w, i);
        answer(p, &waiter, state, status, message);
    }
}

void waiters_idle(struct port *p)
{
    struct waiters *w = &p->waiters;
    if (!p->draining || p->in_flight > 0 || p->held.n > 0)
        return;
    for (uint32_t i = 0; i < w->n;) {
        if (w->items[i].kind != WAITER_DRAIN) {
            i++;
            continue;
        }
        reply_nil(p, take(w, i).index);
    }
}

void waiters_cancel(struct port *p, uint32_t index)
{
    struct waiters *w = &p->waiters;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->items[i].index != index || w->items[i].kind != WAITER_READY)
            continue;
        struct waiter waiter = take(w, i);
        reply_failure(p, index, LIBSCHED_ECANCELED, "cancelled while waiting for model \"%s\"",
                      waiter.model);
        return;
    }
}

uint64_t waiters_expire(struct port *p)
{
    struct waiters *w = &p->waiters;
    if (p->now < w->next_deadline)
        return w->next_deadline;
    w->next_deadline = UINT64_MAX;
    for (uint32_t i = 0; i < w->n;) {
        if (w->items[i].deadline > p->now) {
            if (w->items[i].deadline < w->next_deadline)
                w->next_deadline = w->items[i].deadline;
            i++;
            continue;
        }
        struct waiter waiter = take(w, i);
        reply_failure(p, waiter.index, LIBSCHED_EDEADLINE,
                      "model \"%s\" was not ready before the deadline", waiter.model);
    }
    return w->next_deadline;
}
