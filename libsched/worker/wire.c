/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/wire.h"

#include <stdlib.h>
#include <string.h>

#define NO_STRING UINT32_MAX

void wire_writer_free(struct wire_writer *writer)
{
    free(writer->data);
    *writer = (struct wire_writer){0};
}

void wire_reset(struct wire_writer *writer)
{
    writer->length = 0;
    writer->failed = false;
}

static bool reserve(struct wire_writer *writer, size_t more)
{
    if (writer->failed || more > SIZE_MAX / 2 - writer->length) {
        writer->failed = true;
        return false;
    }
    size_t need = writer->length + more;
    if (need <= writer->capacity)
        return true;
    size_t capacity = writer->capacity > 0 ? writer->capacity : 1024;
    while (capacity < need)
        capacity *= 2;
    unsigned char *data = realloc(writer->data, capacity);
    if (data == NULL) {
        writer->failed = true;
        return false;
    }
    writer->data = data;
    writer->capacity = capacity;
    return true;
}

void wire_put(struct wire_writer *writer, const void *bytes, size_t length)
{
    if (length == 0 || !reserve(writer, length))
        return;
    memcpy(writer->data + writer->length, bytes, length);
    writer->length += length;
}

void wire_put_u32(struct wire_writer *writer, uint32_t value)
{
    wire_put(writer, &value, sizeof(value));
}

void wire_put_u64(struct wire_writer *writer, uint64_t value)
{
    wire_put(writer, &value, sizeof(value));
}

void wire_put_string(struct wire_writer *writer, const char *string)
{
    if (string == NULL) {
        wire_put_u32(writer, NO_STRING);
        return;
    }
    size_t length = strlen(string);
    if (length >= NO_STRING) {
        writer->failed = true;
        return;
    }
    wire_put_u32(writer, (uint32_t)length);
    wire_put(writer, string, length + 1);
}

void wire_put_shape(struct wire_writer *writer, const int64_t *shape, uint32_t rank)
{
    wire_put_u32(writer, rank);
    wire_put(writer, shape, rank * sizeof(*shape));
}

void wire_put_parameters(struct wire_writer *writer, const libsched_parameter *parameters,
                         uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const libsched_parameter *p = &parameters[i];
        wire_put_string(writer, p->name);
        wire_put_u32(writer, p->type);
        switch (p->type) {
        case LIBSCHED_PARAMETER_BOOL:
            wire_put_u64(writer, p->value.boolean);
            break;
        case LIBSCHED_PARAMETER_STRING:
            wire_put_string(writer, p->value.string);
            break;
        default:
            wire_put(writer, &p->value, sizeof(uint64_t));
            break;
        }
    }
}

/* ------------------------------------------------------------------------------------ reading */

void wire_read(struct wire_reader *reader, const void *data, size_t length)
{
    *reader = (struct wire_reader){.at = data, .end = (const unsigned char *)data + length};
}

static const void *take(struct wire_reader *reader, size_t length)
{
    if (reader->failed || length > (size_t)(reader->end - reader->at)) {
        reader->failed = true;
        return NULL;
    }
    const void *bytes = reader->at;
    reader->at += length;
    return bytes;
}

void wire_get(struct wire_reader *reader, void *bytes, size_t length)
{
    const void *from = take(reader, length);
    if (from == NULL)
        memset(bytes, 0, length);
    else if (length > 0)
        memcpy(bytes, from, length);
}

uint32_t wire_get_u32(struct wire_reader *reader)
{
    uint32_t value;
    wire_get(reader, &value, sizeof(value));
    return value;
}

uint64_t wire_get_u64(struct wire_reader *reader)
{
    uint64_t value;
    wire_get(reader, &value, sizeof(value));
    return value;
}

const char *wire_get_string(struct wire_reader *reader)
{
    uint32_t length = wire_get_u32(reader);
    if (reader->failed || length == NO_STRING)
        return NULL;
    const char *string = take(reader, (size_t)length + 1);
    if (string == NULL || string[length] != '\0' || memchr(string, '\0', length) != NULL) {
        reader->failed = true;
        return NULL;
    }
    return string;
}

const char *wire_get_name(struct wire_reader *reader)
{
    const char *name = wire_get_string(reader);
    if (name != NULL && strlen(name) < LIBSCHED_NAME_SIZE)
        return name;
    reader->failed = true;
    return "";
}

uint32_t wire_get_shape(struct wire_reader *reader, int64_t *shape)
{
    uint32_t rank = wire_get_u32(reader);
    if (rank > LIBSCHED_MAX_RANK) {
        reader->failed = true;
        return 0;
    }
    wire_get(reader, shape, rank * sizeof(*shape));
    return rank;
}

void wire_get_parameters(struct wire_reader *reader, libsched_parameter *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        libsched_parameter *p = &out[i];
        *p = (libsched_parameter){.name = wire_get_string(reader), .type = wire_get_u32(reader)};
        switch (p->type) {
        case LIBSCHED_PARAMETER_BOOL:
            p->value.boolean = wire_get_u64(reader) != 0;
            break;
        case LIBSCHED_PARAMETER_STRING:
            p->value.string = wire_get_string(reader);
            if (p->value.string == NULL)
                reader->failed = true;
            break;
        default:
            wire_get(reader, &p->value, sizeof(uint64_t));
            break;
        }
        if (p->name == NULL)
            reader->failed = true;
    }
}

bool wire_ends(const struct wire_reader *reader)
{
    return !reader->failed && reader->at == reader->end;
}
