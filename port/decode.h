/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading decoded msgpack values: strings, numbers, maps by key.
 */
#ifndef PORT_DECODE_H
#define PORT_DECODE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <msgpack.h>

#include <libsched/status.h>
#include <libsched/tensor.h>

/* A str or a bin: where a string is expected both are taken. Not NUL-terminated. */
struct text {
    const char *data;
    uint32_t size;
};

static inline bool decode_text(const msgpack_object *o, struct text *out)
{
    if (o->type != MSGPACK_OBJECT_STR && o->type != MSGPACK_OBJECT_BIN)
        return false;
    /* str and bin have the same layout, but only one of them may be read. */
    if (o->type == MSGPACK_OBJECT_STR)
        *out = (struct text){o->via.str.ptr, o->via.str.size};
    else
        *out = (struct text){o->via.bin.ptr, o->via.bin.size};
    return true;
}

#define text_is(text, literal) \
    ((text).size == sizeof(literal) - 1 && memcmp((text).data, literal, sizeof(literal) - 1) == 0)

static inline bool decode_uint(const msgpack_object *o, uint64_t *out)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return false;
    *out = o->via.u64;
    return true;
}

/* What a value is, in words, with its article: "an array". */
const char *decode_kind(const msgpack_object *o);

/* Limits in ms; longer ones are none: 584 years of nanoseconds. */
#define MAX_LIMIT_MS (UINT64_MAX / 1000000)

/* A text as a C string in the zone; a NUL inside is refused. `what` names it in messages. */
int decode_string(msgpack_zone *zone, const char *what, const msgpack_object *o, const char **out,
                  libsched_error *err);
/* The same for a name: not empty and shorter than LIBSCHED_NAME_SIZE. */
int decode_name(msgpack_zone *zone, const char *what, const msgpack_object *o, const char **out,
                libsched_error *err);
/* The name of a client: it may be empty. */
int decode_client(msgpack_zone *zone, const msgpack_object *o, const char **out,
                  libsched_error *err);
/* An array of at most 64 names, in the zone. */
int decode_names(msgpack_zone *zone, const char *what, const msgpack_object *o,
                 const char *const **out, uint32_t *n, libsched_error *err);
/* A number from 0 to `max`. */
int decode_number(const char *what, const msgpack_object *o, uint64_t max, uint64_t *out,
                  libsched_error *err);

/* A map of parameters: their array in the zone. */
int decode_parameters(msgpack_zone *zone, const char *what, const msgpack_object *o,
                      const libsched_parameter **out, uint32_t *n, libsched_error *err);

/* Refuses a key that nothing is known about. */
int decode_unknown_key(const char *what, const msgpack_object *key, const char *known,
                       libsched_error *err);

#endif
