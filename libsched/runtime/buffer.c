/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that workers read: pieces of the arena, and memfds of somebody else's.
 */
#include <stdlib.h>

#include "runtime/internal.h"

static int add(libsched *s, libsched_buffer **out, libsched_buffer what, libsched_error *err)
{
    libsched_buffer *buffer = malloc(sizeof(*buffer));
    if (buffer == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a buffer");
    *buffer = what;
    buffer->s = s;
    buffer->references = 1;
    list_append(&s->buffers, &buffer->link);
    *out = buffer;
    return LIBSCHED_OK;
}

static int alloc(libsched *s, uint64_t size, libsched_buffer **out, libsched_error *err)
{
    if (size > runtime_arena_size(s->arena))
        return libsched_error_set(
            err, LIBSCHED_ETOOBIG, "a buffer of %llu bytes, the arena has %llu in all",
            (unsigned long long)size, (unsigned long long)runtime_arena_size(s->arena));
    struct runtime_arena_block *block = runtime_arena_take(s->arena, size);
    if (block == NULL)
        return libsched_error_set(
            err, LIBSCHED_EBUSY,
            "a buffer of %llu bytes: the arena has no such piece free, %llu of %llu bytes are "
            "taken; come back when requests have ended",
            (unsigned long long)size, (unsigned long long)runtime_arena_used(s->arena),
            (unsigned long long)runtime_arena_size(s->arena));
    uint64_t offset = runtime_arena_offset(block);
    int rc = add(s, out,
                 (libsched_buffer){
                     .block = block,
                     .segment = s->segment,
                     .offset = offset,
                     .size = size,
                     .data = (unsigned char *)segment_data(s->segment) + offset,
                 },
                 err);
    if (rc < 0)
        runtime_arena_give(s->arena, block);
    return rc;
}

int libsched_buffer_alloc(libsched *s, uint64_t size, libsched_buffer **out, libsched_error *err)
{
    *out = NULL;
    runtime_lock(s);
    int rc = alloc(s, size, out, err);
    runtime_unlock(s);
    return rc;
}

int libsched_buffer_import(libsched *s, int fd, uint64_t size, libsched_buffer **out,
                           libsched_error *err)
{
    struct segment *segment;
    *out = NULL;
    int rc = segment_import(&segment, fd, size, err);
    if (rc < 0)
        return rc;
    runtime_lock(s);
    rc = add(s, out,
             (libsched_buffer){.segment = segment, .size = size, .data = segment_data(segment)},
             err);
    runtime_unlock(s);
    if (rc < 0)
        segment_free(segment);
    return rc;
}

static void free_buffer(libsched_buffer *buffer)
{
    libsched *s = buffer->s;
    list_remove(&buffer->link);
    if (buffer->block != NULL) {
        runtime_arena_give(s->arena, buffer->block);
    } else {
        runtime_segment_drop(s, buffer->segment);
        segment_free(buffer->segment);
    }
    free(buffer);
}

void runtime_buffer_put(libsched_buffer *buffer)
{
    if (--buffer->references == 0)
        free_buffer(buffer);
}

void *libsched_buffer_data(const libsched_buffer *buffer)
{
    return buffer->data;
}

uint64_t libsched_buffer_size(const libsched_buffer *buffer)
{
    return buffer->size;
}

void libsched_buffer_retain(libsched_buffer *buffer)
{
    runtime_lock(buffer->s);
    buffer->references++;
    runtime_unlock(buffer->s);
}

void libsched_buffer_release(libsched_buffer *buffer)
{
    if (buffer == NULL)
        return;
    libsched *s = buffer->s;
    runtime_lock(s);
    runtime_buffer_put(buffer);
    runtime_unlock(s);
}

void runtime_buffers_free(libsched *s)
{
    LIST_EACH(&s->buffers, node, following)
    free_buffer(LIST_ENTRY(node, libsched_buffer, link));
}
