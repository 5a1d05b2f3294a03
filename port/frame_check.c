/* SPDX-License-Identifier: Apache-2.0 */
#include "frame_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "msgpack_skip.h"

struct checker {
    const uint8_t *data;
    size_t size, at;
    uint32_t values;
    char *reason;
    size_t reason_size;
};

#define REFUSE(c, ...)                                        \
    do {                                                      \
        snprintf((c)->reason, (c)->reason_size, __VA_ARGS__); \
        return -1;                                            \
    } while (0)

/* Reads a head and counts it; an array or map cannot claim more values than bytes are left. */
static int next_head(struct checker *c, struct msgpack_head *head)
{
    int rc = msgpack_head_read(c->data + c->at, c->size - c->at, head);
    if (rc == -1)
        REFUSE(c, "cut short: a value begins at byte %zu of %zu and does not end", c->at, c->size);
    if (rc < 0)
        REFUSE(c, "not msgpack: byte 0x%02x at %zu", c->data[c->at], c->at);
    if (++c->values > FRAME_MAX_VALUES)
        REFUSE(c, "more than %u values in a frame; send large tensors as binaries",
               FRAME_MAX_VALUES);

    uint64_t left = c->size - c->at - head->size;
    uint64_t need = head->kind == MSGPACK_KIND_MAP   ? 2 * head->value
                    : head->kind >= MSGPACK_KIND_STR ? head->value
                                                     : 0;
    if (need > left)
        REFUSE(c,
               "cut short: the value at byte %zu takes %" PRIu64 " more bytes, %" PRIu64
               " are left",
               c->at, need, left);
    c->at += head->size;
    return 0;
}

/* Passes over one value, which is the `level`-th inside the others. */
static int skip_value(struct checker *c, uint32_t level)
{
    uint32_t left[FRAME_MAX_NESTING]; /* values still to come, for each level that is open */
    uint32_t open = 0;
    struct msgpack_head head;

    for (;;) {
        if (next_head(c, &head) < 0)
            return -1;
        switch (head.kind) {
        case MSGPACK_KIND_STR:
        case MSGPACK_KIND_BIN:
        case MSGPACK_KIND_EXT:
            c->at += head.value;
            break;
        case MSGPACK_KIND_ARRAY:
        case MSGPACK_KIND_MAP:
            if (level + open >= FRAME_MAX_NESTING)
                REFUSE(c, "nested deeper than %d levels", FRAME_MAX_NESTING);
            if (head.value > 0) {
                /* next_head() has compared it with the bytes left, so it fits. */
                left[open++] =
                    (uint32_t)(head.kind == MSGPACK_KIND_MAP ? 2 * head.value : head.value);
                continue;
            }
            break;
        default:
            break;
        }
        while (open > 0 && --left[open - 1] == 0)
            open--;
        if (open == 0)
            return 0;
    }
}

static int check_message(struct checker *c, struct message_ref *out)
{
    struct msgpack_head head;
    size_t start = c->at;

    if (next_head(c, &head) < 0)
        return -1;
    if (head.kind != MSGPACK_KIND_ARRAY || (head.value != 3 && head.value != 4))
        REFUSE(c,
               "not a message: an array of 4 (request) or 3 (notification) has to be at byte "
               "%zu",
               start);
    uint64_t fields = head.value;

    if (next_head(c, &head) < 0)
        return -1;
    if (head.kind != MSGPACK_KIND_UINT ||
        head.value != (uint64_t)(fields == 4 ? MESSAGE_REQUEST : MESSAGE_NOTIFICATION))
        REFUSE(c,
               "not a message: at byte %zu neither [0, id, method, params] nor [2, method, "
               "params]",
               start);
    out->kind = (uint32_t)head.value;
    out->id = 0;

    if (out->kind == MESSAGE_REQUEST) {
        if (next_head(c, &head) < 0)
            return -1;
        if (head.kind != MSGPACK_KIND_UINT || head.value > UINT32_MAX)
            REFUSE(c, "not a message: the id of the one at byte %zu is no uint32", start);
        out->id = (uint32_t)head.value;
    }

    if (next_head(c, &head) < 0)
        return -1;
    if (head.kind != MSGPACK_KIND_STR && head.kind != MSGPACK_KIND_BIN)
        REFUSE(c, "not a message: the method of the one at byte %zu is no string", start);
    c->at += head.value;

    size_t params = c->at;
    if (msgpack_head_read(c->data + c->at, c->size - c->at, &head) == 0 &&
        head.kind != MSGPACK_KIND_ARRAY)
        REFUSE(c, "not a message: the params at byte %zu are no array", params);
    if (skip_value(c, 1) < 0)
        return -1;

    out->offset = (uint32_t)start;
    out->size = (uint32_t)(c->at - start);
    return 0;
}

int frame_check(const uint8_t *data, size_t size, struct message_list *list, char *reason,
                size_t reason_size)
{
    struct checker c = {.data = data, .size = size, .reason = reason, .reason_size = reason_size};

    list->n = 0;
    while (c.at < size) {
        if (list->n == list->capacity) {
            size_t capacity = list->capacity > 0 ? 2 * list->capacity : 256;
            struct message_ref *items = realloc(list->items, capacity * sizeof(*items));
            if (items == NULL)
                REFUSE(&c, "no memory to read the frame with");
            list->items = items;
            list->capacity = capacity;
        }
        if (check_message(&c, &list->items[list->n]) < 0)
            return -1;
        list->n++;
    }
    return 0;
}

void message_list_free(struct message_list *list)
{
    free(list->items);
    *list = (struct message_list){0};
}
