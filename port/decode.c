/* SPDX-License-Identifier: Apache-2.0 */
#include "decode.h"

#include <inttypes.h>

const char *decode_kind(const msgpack_object *o)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return "nil";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "a string";
    case MSGPACK_OBJECT_BIN:
        return "a binary";
    case MSGPACK_OBJECT_ARRAY:
        return "an array";
    case MSGPACK_OBJECT_MAP:
        return "a map";
    default:
        return "an extension value";
    }
}

int decode_string(msgpack_zone *zone, const char *what, const msgpack_object *o, const char **out,
                  libsched_error *err)
{
    struct text text;
    if (!decode_text(o, &text))
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s has to be a string, got %s", what,
                                  decode_kind(o));
    if (text.size > 0 && memchr(text.data, '\0', text.size) != NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s contains a zero byte", what);
    char *copy = msgpack_zone_malloc_no_align(zone, (size_t)text.size + 1);
    if (copy == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %s", what);
    if (text.size > 0)
        memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    *out = copy;
    return LIBSCHED_OK;
}

int decode_name(msgpack_zone *zone, const char *what, const msgpack_object *o, const char **out,
                libsched_error *err)
{
    struct text text;
    if (decode_text(o, &text) && (text.size == 0 || text.size >= LIBSCHED_NAME_SIZE))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s has %" PRIu32 " bytes, 1 to %d are possible", what, text.size,
                                  LIBSCHED_NAME_SIZE - 1);
    return decode_string(zone, what, o, out, err);
}

int decode_client(msgpack_zone *zone, const msgpack_object *o, const char **out,
                  libsched_error *err)
{
    int rc = decode_string(zone, "client", o, out, err);
    if (rc == LIBSCHED_OK && strlen(*out) >= LIBSCHED_NAME_SIZE)
        rc = libsched_error_set(err, LIBSCHED_EINVAL,
                                "client has %zu bytes, at most %d are possible", strlen(*out),
                                LIBSCHED_NAME_SIZE - 1);
    return rc;
}

int decode_names(msgpack_zone *zone, const char *what, const msgpack_object *o,
                 const char *const **out, uint32_t *n, libsched_error *err)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > 64)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s has to be an array of at most 64 names, got %s", what,
                                  o->type != MSGPACK_OBJECT_ARRAY ? decode_kind(o) : "more");
    uint32_t size = o->via.array.size;
    const char **names = msgpack_zone_malloc(zone, (size + 1) * sizeof(*names));
    if (names == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %s", what);
    for (uint32_t i = 0; i < size; i++) {
        int rc = decode_name(zone, "the name of a device", &o->via.array.ptr[i], &names[i], err);
        if (rc < 0)
            return rc;
    }
    *out = names;
    *n = size;
    return LIBSCHED_OK;
}

int decode_number(const char *what, const msgpack_object *o, uint64_t max, uint64_t *out,
                  libsched_error *err)
{
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s has to be from 0 to %" PRIu64 ", got %" PRId64, what, max,
                                  o->via.i64);
    if (!decode_uint(o, out))
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s has to be an integer, got %s", what,
                                  decode_kind(o));
    if (*out > max)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s has to be from 0 to %" PRIu64 ", got %" PRIu64, what, max,
                                  *out);
    return LIBSCHED_OK;
}

static int decode_parameter(msgpack_zone *zone, const char *what, const msgpack_object_kv *kv,
                            libsched_parameter *out, libsched_error *err)
{
    int rc = decode_name(zone, "the name of a parameter", &kv->key, &out->name, err);
    if (rc < 0)
        return rc;
    switch (kv->val.type) {
    case MSGPACK_OBJECT_BOOLEAN:
        out->type = LIBSCHED_PARAMETER_BOOL;
        out->value.boolean = kv->val.via.boolean;
        return LIBSCHED_OK;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        if (kv->val.via.u64 > INT64_MAX)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%s.%s: %" PRIu64 " is above the largest int64", what,
                                      out->name, kv->val.via.u64);
        out->type = LIBSCHED_PARAMETER_INT;
        out->value.integer = (int64_t)kv->val.via.u64;
        return LIBSCHED_OK;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        out->type = LIBSCHED_PARAMETER_INT;
        out->value.integer = kv->val.via.i64;
        return LIBSCHED_OK;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        out->type = LIBSCHED_PARAMETER_FLOAT;
        out->value.real = kv->val.via.f64;
        return LIBSCHED_OK;
    case MSGPACK_OBJECT_STR:
    case MSGPACK_OBJECT_BIN:
        out->type = LIBSCHED_PARAMETER_STRING;
        return decode_string(zone, out->name, &kv->val, &out->value.string, err);
    default:
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s.%s has to be a boolean, a number or a string, got %s", what,
                                  out->name, decode_kind(&kv->val));
    }
}

int decode_parameters(msgpack_zone *zone, const char *what, const msgpack_object *o,
                      const libsched_parameter **out, uint32_t *n, libsched_error *err)
{
    if (o->type != MSGPACK_OBJECT_MAP)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s has to be a map, got %s", what,
                                  decode_kind(o));
    uint32_t size = o->via.map.size;
    if (size > LIBSCHED_MAX_PARAMETERS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %" PRIu32 ", at most %d are possible",
                                  what, size, LIBSCHED_MAX_PARAMETERS);
    libsched_parameter *items = msgpack_zone_malloc(zone, (size + 1) * sizeof(*items));
    if (items == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %s", what);
    for (uint32_t i = 0; i < size; i++) {
        int rc = decode_parameter(zone, what, &o->via.map.ptr[i], &items[i], err);
        if (rc < 0)
            return rc;
    }
    *out = items;
    *n = size;
    return LIBSCHED_OK;
}

int decode_unknown_key(const char *what, const msgpack_object *key, const char *known,
                       libsched_error *err)
{
    struct text text;
    if (!decode_text(key, &text))
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: a key is %s, a string is expected",
                                  what, decode_kind(key));
    return libsched_error_set(err, LIBSCHED_EINVAL, "%s: unknown key \"%.*s\"; there are %s", what,
                              (int)(text.size < 64 ? text.size : 64), text.data, known);
}
