/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame is carried out as a whole or not at all: it is checked, then the ids of its requests are
 * listed, and only then is each message decoded and handed to its method.
 *
 * A frame of a few megabytes holds hundreds of thousands of messages whose answers are larger than
 * they are. So it is left in the middle, and the loop given its turn, when enough has been done or
 * enough waits to be read.
 */
#include <stdio.h>

#include "decode.h"
#include "port.h"
#include "reply.h"

/* Messages of one frame that are carried out before libsched and the output get their turn. */
#define MESSAGES_AT_ONCE 4096

typedef void method_fn(struct port *p, const struct message *m);

struct method {
    const char *name;
    method_fn *run;
};

static const struct method requests[] = {
    {"infer", method_infer},
    {"stats", method_stats},
    {"histograms", method_histograms},
    {"lease", method_lease},
    {"models", method_models},
    {"load", method_load},
    {"unload", method_unload},
    {"devices", method_devices},
    {"drain", method_drain},
    {"wait_ready", method_wait_ready},
    {"ping", method_ping},
    {"submit", method_submit},
    {"reserve", method_reserve},
    {"release", method_release},
    {"cancel_job", method_cancel_job},
    {"job", method_job},
    {"jobs", method_jobs},
    {NULL, NULL},
};

static const struct method notifications[] = {
    {"cancel", method_cancel},
    {"grant", method_grant},
    {"lease_write", method_lease_write},
    {"lease_release", method_lease_release},
    {NULL, NULL},
};

static method_fn *find_method(const struct method *methods, struct text name)
{
    for (; methods->name != NULL; methods++)
        if (strlen(methods->name) == name.size && memcmp(methods->name, name.data, name.size) == 0)
            return methods->run;
    return NULL;
}

/* Decodes a message that frame_check() has passed, and runs its method. */
static void run_message(struct port *p, const struct frame *frame, const uint8_t *data, size_t size,
                        uint32_t index)
{
    msgpack_object object;
    size_t used = 0;
    msgpack_unpack_return rc = msgpack_unpack((const char *)data, size, &used, &p->zone, &object);
    if (rc != MSGPACK_UNPACK_SUCCESS && rc != MSGPACK_UNPACK_EXTRA_BYTES) {
        /* The frame is well-formed, so this is memory. A notification has nobody to tell. */
        if (index != REQUEST_NONE)
            reply_failure(p, index, LIBSCHED_ENOMEM, "no memory to read the request with");
        return;
    }
    p->counters.messages_in++;

    const msgpack_object *fields = object.via.array.ptr;
    uint32_t n = object.via.array.size;
    const msgpack_object *params = &fields[n - 1];
    struct message m = {.frame = frame,
                        .data = data,
                        .size = size,
                        .index = index,
                        .n_params = params->via.array.size,
                        .params = params->via.array.ptr};
    struct text name = {0};
    decode_text(&fields[n - 2], &name);

    method_fn *run = find_method(index != REQUEST_NONE ? requests : notifications, name);
    if (run != NULL)
        run(p, &m);
    else if (index != REQUEST_NONE)
        reply_failure(p, index, LIBSCHED_ENOTSUP, "there is no method \"%.*s\"",
                      (int)(name.size < 64 ? name.size : 64), name.data);
}

/* Lists the requests of a frame; their index takes the place of their id. */
static int list_requests(struct port *p, char *reason, size_t reason_size)
{
    struct message_list *list = &p->messages;
    for (size_t i = 0; i < list->n; i++) {
        struct message_ref *ref = &list->items[i];
        if (ref->kind != MESSAGE_REQUEST)
            continue;
        bool in_use;
        uint32_t id = ref->id;
        ref->id = request_table_add(&p->requests, id, &in_use);
        if (ref->id != REQUEST_NONE)
            continue;
        snprintf(reason, reason_size,
                 in_use ? "id %u is in use: its request has not been answered"
                        : "no memory to list request %u",
                 (unsigned)id);
        while (i-- > 0)
            if (list->items[i].kind == MESSAGE_REQUEST)
                request_table_remove(&p->requests, list->items[i].id);
        return -1;
    }
    return 0;
}

bool dispatch_frame(struct port *p, const struct frame *frame)
{
    struct message_list *list = &p->messages;
    char reason[LIBSCHED_MESSAGE_SIZE];

    p->next_message = 0;
    if (frame_check(frame->data, frame->size, list, reason, sizeof(reason)) < 0 ||
        list_requests(p, reason, sizeof(reason)) < 0) {
        list->n = 0;
        notify_bad_frame(p, frame->number, reason);
        return true;
    }
    p->frame = *frame;
    return dispatch_rest(p);
}

bool dispatch_rest(struct port *p)
{
    const struct message_list *list = &p->messages;
    const struct frame *frame = &p->frame;

    for (int n = 0; p->next_message < list->n; n++) {
        if (n == MESSAGES_AT_ONCE || frame_writer_backlog(&p->writer) >= PORT_MAX_BACKLOG)
            return false;
        const struct message_ref *ref = &list->items[p->next_message++];
        run_message(p, frame, frame->data + ref->offset, ref->size,
                    ref->kind == MESSAGE_REQUEST ? ref->id : REQUEST_NONE);
        msgpack_zone_clear(&p->zone);
    }
    return true;
}

void dispatch_held(struct port *p, uint32_t index, const uint8_t *data, size_t size)
{
    struct request *request = request_table_at(&p->requests, index);
    request->state = REQUEST_NEW;
    lease_let_go(&p->leases, request->leases);
    request->leases = REQUEST_NONE;
    run_message(p, NULL, data, size, index);
    msgpack_zone_clear(&p->zone);
}
