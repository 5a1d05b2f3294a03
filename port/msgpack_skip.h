/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the head of a msgpack value without building it: for the pass that checks a frame before
 * anything of it is allocated, and for finding a large payload in the front of a frame.
 *
 * The format: https://github.com/msgpack/msgpack/blob/master/spec.md
 */
#ifndef PORT_MSGPACK_SKIP_H
#define PORT_MSGPACK_SKIP_H

#include <stddef.h>
#include <stdint.h>

enum msgpack_kind {
    MSGPACK_KIND_NIL,
    MSGPACK_KIND_BOOL,
    MSGPACK_KIND_UINT, /* any integer that is not negative: `value` */
    MSGPACK_KIND_NINT, /* a negative integer */
    MSGPACK_KIND_FLOAT,
    MSGPACK_KIND_STR,   /* `value` payload bytes follow the head */
    MSGPACK_KIND_BIN,   /* likewise */
    MSGPACK_KIND_EXT,   /* likewise; its type byte counts as head */
    MSGPACK_KIND_ARRAY, /* `value` values follow */
    MSGPACK_KIND_MAP,   /* twice `value` values follow */
};

struct msgpack_head {
    enum msgpack_kind kind;
    uint32_t size; /* bytes of the head, a number's own bytes included */
    uint64_t value;
};

/* Reads the head at `at`, of which `left` bytes are there. 0; -1 where the head is cut short; -2
 * where the first byte is none that msgpack uses (0xc1). */
int msgpack_head_read(const uint8_t *at, size_t left, struct msgpack_head *out);

/*
 * Looks for the first str or bin of at least `threshold` bytes whose head lies within the `size`
 * bytes at `data`, the front of a frame: the offset of its payload, or -1. What is not msgpack is
 * not judged here, the search only ends.
 */
int64_t msgpack_find_payload(const uint8_t *data, size_t size, uint64_t threshold);

#endif
