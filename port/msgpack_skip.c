/* SPDX-License-Identifier: Apache-2.0 */
#include "msgpack_skip.h"

static uint64_t read_be(const uint8_t *at, uint32_t bytes)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

/* The heads of 0xc0 to 0xdf: how many bytes of number follow the first, and what they mean. */
static const struct {
    uint8_t kind;
    uint8_t bytes; /* of the number that follows */
    uint8_t extra; /* bytes of the head behind that number (an ext's type), or of a float */
    uint8_t fixed; /* a value that is not in the head */
} heads[32] = {
    /* c0 */ {MSGPACK_KIND_NIL, 0, 0, 0},
    /* c1, which msgpack never uses */ {0xff, 0, 0, 0},
    /* c2 */ {MSGPACK_KIND_BOOL, 0, 0, 0},
    /* c3 */ {MSGPACK_KIND_BOOL, 0, 0, 1},
    /* c4 */ {MSGPACK_KIND_BIN, 1, 0, 0},
    /* c5 */ {MSGPACK_KIND_BIN, 2, 0, 0},
    /* c6 */ {MSGPACK_KIND_BIN, 4, 0, 0},
    /* c7 */ {MSGPACK_KIND_EXT, 1, 1, 0},
    /* c8 */ {MSGPACK_KIND_EXT, 2, 1, 0},
    /* c9 */ {MSGPACK_KIND_EXT, 4, 1, 0},
    /* ca */ {MSGPACK_KIND_FLOAT, 0, 4, 0},
    /* cb */ {MSGPACK_KIND_FLOAT, 0, 8, 0},
    /* cc */ {MSGPACK_KIND_UINT, 1, 0, 0},
    /* cd */ {MSGPACK_KIND_UINT, 2, 0, 0},
    /* ce */ {MSGPACK_KIND_UINT, 4, 0, 0},
    /* cf */ {MSGPACK_KIND_UINT, 8, 0, 0},
    /* d0 */ {MSGPACK_KIND_NINT, 1, 0, 0},
    /* d1 */ {MSGPACK_KIND_NINT, 2, 0, 0},
    /* d2 */ {MSGPACK_KIND_NINT, 4, 0, 0},
    /* d3 */ {MSGPACK_KIND_NINT, 8, 0, 0},
    /* d4 */ {MSGPACK_KIND_EXT, 0, 1, 1},
    /* d5 */ {MSGPACK_KIND_EXT, 0, 1, 2},
    /* d6 */ {MSGPACK_KIND_EXT, 0, 1, 4},
    /* d7 */ {MSGPACK_KIND_EXT, 0, 1, 8},
    /* d8 */ {MSGPACK_KIND_EXT, 0, 1, 16},
    /* d9 */ {MSGPACK_KIND_STR, 1, 0, 0},
    /* da */ {MSGPACK_KIND_STR, 2, 0, 0},
    /* db */ {MSGPACK_KIND_STR, 4, 0, 0},
    /* dc */ {MSGPACK_KIND_ARRAY, 2, 0, 0},
    /* dd */ {MSGPACK_KIND_ARRAY, 4, 0, 0},
    /* de */ {MSGPACK_KIND_MAP, 2, 0, 0},
    /* df */ {MSGPACK_KIND_MAP, 4, 0, 0},
};

int msgpack_head_read(const uint8_t *at, size_t left, struct msgpack_head *out)
{
    if (left == 0)
        return -1;
    uint8_t first = at[0];
    out->size = 1;
    if (first < 0x80) {
        out->kind = MSGPACK_KIND_UINT;
        out->value = first;
        return 0;
    }
    if (first < 0x90) {
        out->kind = MSGPACK_KIND_MAP;
        out->value = first & 0x0f;
        return 0;
    }
    if (first < 0xa0) {
        out->kind = MSGPACK_KIND_ARRAY;
        out->value = first & 0x0f;
        return 0;
    }
    if (first < 0xc0) {
        out->kind = MSGPACK_KIND_STR;
        out->value = first & 0x1f;
        return 0;
    }
    if (first >= 0xe0) {
        out->kind = MSGPACK_KIND_NINT;
        out->value = first;
        return 0;
    }

    uint32_t i = first - 0xc0u;
    if (heads[i].kind == 0xff)
        return -2;
    uint32_t size = 1u + heads[i].bytes + heads[i].extra;
    if (left < size)
        return -1;
    out->kind = heads[i].kind;
    out->size = size;
    out->value = heads[i].bytes > 0 ? read_be(at + 1, heads[i].bytes) : heads[i].fixed;
    /* A positive number in a signed form is as good as one in an unsigned form. */
    if (out->kind == MSGPACK_KIND_NINT && (at[1] & 0x80) == 0)
        out->kind = MSGPACK_KIND_UINT;
    return 0;
}

int64_t msgpack_find_payload(const uint8_t *data, size_t size, uint64_t threshold)
{
    size_t at = 0;
    struct msgpack_head head;

    while (at < size && msgpack_head_read(data + at, size - at, &head) == 0) {
        at += head.size;
        if (head.kind != MSGPACK_KIND_STR && head.kind != MSGPACK_KIND_BIN &&
            head.kind != MSGPACK_KIND_EXT)
            continue;
        if (head.kind != MSGPACK_KIND_EXT && head.value >= threshold)
            return (int64_t)at;
        if (head.value > size - at)
            return -1;
        at += head.value;
    }
    return -1;
}
