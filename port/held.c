/* SPDX-License-Identifier: Apache-2.0 */
#include "held.h"

#include <stdlib.h>
#include <string.h>

#include "port.h"
#include "reply.h"

void held_init(struct held *h)
{
    *h = (struct held){.next_deadline = UINT64_MAX};
}

void held_free(struct held *h)
{
    for (uint32_t i = 0; i < h->n; i++)
        free(h->items[i].data);
    free(h->items);
    held_init(h);
}

int held_add(struct held *h, uint32_t index, const char *model, uint64_t deadline,
             const uint8_t *data, size_t size)
{
    if (h->n == HELD_MAX || size > HELD_MAX_BYTES - h->bytes)
        return -1;
    if (h->n == h->capacity) {
        uint32_t capacity = h->capacity > 0 ? 2 * h->capacity : 16;
        struct held_request *items = realloc(h->items, capacity * sizeof(*items));
        if (items == NULL)
            return -1;
        h->items = items;
        h->capacity = capacity;
    }
    struct held_request *request = &h->items[h->n];
    request->data = malloc(size);
    if (request->data == NULL)
        return -1;
    memcpy(request->data, data, size);
    request->size = size;
    request->index = index;
    request->deadline = deadline;
    strncpy(request->model, model, sizeof(request->model) - 1);
    request->model[sizeof(request->model) - 1] = '\0';
    h->n++;
    h->bytes += size;
    if (deadline < h->next_deadline)
        h->next_deadline = deadline;
    return 0;
}

/* Takes the i-th out, keeping the order; its message is the caller's then. */
static struct held_request take(struct held *h, uint32_t i)
{
    struct held_request request = h->items[i];
    h->n--;
    memmove(&h->items[i], &h->items[i + 1], (h->n - i) * sizeof(*h->items));
    h->bytes -= request.size;
    return request;
}

void held_model_changed(struct port *p, const char *model)
{
    struct held *h = &p->held;

    /* One that has to wait again goes behind these. */
    uint32_t n = h->n;
    for (uint32_t i = 0; n > 0; n--) {
        if (strcmp(h->items[i].model, model) != 0) {
            i++;
            continue;
        }
        struct held_request request = take(h, i);
        dispatch_held(p, request.index, request.data, request.size);
        free(request.data);
    }
}

bool held_cancel(struct port *p, uint32_t index)
{
    struct held *h = &p->held;
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->items[i].index != index)
            continue;
        struct held_request request = take(h, i);
        free(request.data);
        reply_failure(p, index, LIBSCHED_ECANCELED, "cancelled while model \"%s\" was loading",
                      request.model);
        return true;
    }
    return false;
}

void held_refuse(struct port *p)
{
    while (p->held.n > 0) {
        struct held_request request = take(&p->held, p->held.n - 1);
        free(request.data);
        reply_failure(p, request.index, LIBSCHED_ECLOSING,
                      "the scheduler is shutting down, and model \"%s\" is still loading",
                      request.model);
    }
}

uint64_t held_expire(struct port *p)
{
    struct held *h = &p->held;
    if (p->now < h->next_deadline)
        return h->next_deadline;
    h->next_deadline = UINT64_MAX;
    for (uint32_t i = 0; i < h->n;) {
        if (h->items[i].deadline > p->now) {
            if (h->items[i].deadline < h->next_deadline)
                h->next_deadline = h->items[i].deadline;
            i++;
            continue;
        }
        struct held_request request = take(h, i);
        free(request.data);
        reply_failure(p, request.index, LIBSCHED_EDEADLINE,
                      "its deadline passed while model \"%s\" was loading", request.model);
    }
    return h->next_deadline;
}
