/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pass over a whole frame before anything of it is carried out: is it msgpack, within the
 * limits, and made of messages? It allocates nothing but the list of messages, so what a frame
 * claims about itself costs nothing.
 */
#ifndef PORT_FRAME_CHECK_H
#define PORT_FRAME_CHECK_H

#include <stddef.h>
#include <stdint.h>

/* msgpack-c builds values of at most 32 levels; the deepest message there is uses 13. */
#define FRAME_MAX_NESTING 24
/* Values in one frame: a decoded value takes 24 bytes where one in the frame may take a single
 * one, so this bounds what decoding allocates at about 100 MiB. */
#define FRAME_MAX_VALUES (4u << 20)

enum message_kind { MESSAGE_REQUEST = 0, MESSAGE_NOTIFICATION = 2 };

/* Where a message lies in its frame. */
struct message_ref {
    uint32_t offset, size;
    uint32_t id; /* of a request */
    uint32_t kind;
};

/* The messages of a frame; kept and reused from frame to frame. */
struct message_list {
    struct message_ref *items;
    size_t n, capacity;
};

/*
 * Checks a frame and lists its messages. 0; or -1 with a sentence in `reason` (for people; at most
 * `reason_size` bytes with its NUL) where the frame is bad. `size` is at most UINT32_MAX.
 */
int frame_check(const uint8_t *data, size_t size, struct message_list *list, char *reason,
                size_t reason_size);

void message_list_free(struct message_list *list);

#endif
