/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msgpack values into the message under way, by msgpack-c, and without a copy in between.
 */
#ifndef PORT_ENCODE_H
#define PORT_ENCODE_H

#include <string.h>

#include <msgpack.h>

#include "frame_writer.h"

static inline int encode_write(void *payload, const char *data, size_t size)
{
    frame_writer_append(payload, data, size);
    return 0; /* a failure is kept in the writer, which ends the port */
}

static inline msgpack_packer encode_packer(struct frame_writer *w)
{
    return (msgpack_packer){.data = w, .callback = encode_write};
}

static inline void encode_nil(struct frame_writer *w)
{
    frame_writer_append(w, "\xc0", 1);
}

static inline void encode_bool(struct frame_writer *w, bool value)
{
    frame_writer_append(w, value ? "\xc3" : "\xc2", 1);
}

static inline void encode_uint(struct frame_writer *w, uint64_t value)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_uint64(&pk, value);
}

static inline void encode_int(struct frame_writer *w, int64_t value)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_int64(&pk, value);
}

static inline void encode_array(struct frame_writer *w, uint32_t n)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_array(&pk, n);
}

static inline void encode_map(struct frame_writer *w, uint32_t n)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_map(&pk, n);
}

static inline void encode_strn(struct frame_writer *w, const char *text, size_t size)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_str(&pk, size);
    frame_writer_append(w, text, size);
}

static inline void encode_str(struct frame_writer *w, const char *text)
{
    encode_strn(w, text, strlen(text));
}

/* The head of a binary; its `size` bytes are appended or referenced next. */
static inline void encode_bin_head(struct frame_writer *w, size_t size)
{
    msgpack_packer pk = encode_packer(w);
    msgpack_pack_bin(&pk, size);
}

static inline void encode_bin(struct frame_writer *w, const void *data, size_t size)
{
    encode_bin_head(w, size);
    frame_writer_append(w, data, size);
}

/* A key that is a literal of less than 32 bytes: its head is known when this is compiled. */
#define encode_key(w, literal)                                                              \
    do {                                                                                    \
        static const struct {                                                               \
            uint8_t head;                                                                   \
            char text[sizeof(literal) - 1];                                                 \
        } encode_key_bytes = {0xa0 | (sizeof(literal) - 1), literal};                       \
        _Static_assert(sizeof(literal) <= 32, "a key that needs more than a byte of head"); \
        frame_writer_append(w, &encode_key_bytes, sizeof(literal));                         \
    } while (0)

#endif
