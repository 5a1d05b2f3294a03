/* SPDX-License-Identifier: Apache-2.0 */
#include "frame_reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "msgpack_skip.h"

#define HEADER_SIZE 4
/* The front of a large frame in which its payload is looked for: many small messages may go before
 * it, gathered into the same frame. */
#define PEEK_SIZE ((size_t)16 << 10)

int frame_reader_init(struct frame_reader *r, libsched *sched, int fd, uint32_t max_frame)
{
    *r = (struct frame_reader){.sched = sched, .fd = fd, .max_frame = max_frame};
    r->data = malloc(READER_BUFFER_SIZE);
    return r->data == NULL ? -1 : 0;
}

/* Takes back the frame that was handed out last. */
static void release_lent(struct frame_reader *r)
{
    libsched_buffer_release(r->lent_buffer);
    free(r->lent_heap);
    r->lent_buffer = NULL;
    r->lent_heap = NULL;
}

void frame_reader_free(struct frame_reader *r)
{
    release_lent(r);
    libsched_buffer_release(r->large_buffer);
    free(r->large_heap);
    free(r->data);
    *r = (struct frame_reader){.fd = -1};
}

/* Moves what is unread to the front of the buffer. */
static void compact(struct frame_reader *r)
{
    if (r->start == 0)
        return;
    memmove(r->data, r->data + r->start, r->end - r->start);
    r->end -= r->start;
    r->start = 0;
}

/* How much is read into the buffer. */
static size_t buffer_share(const struct frame_reader *r)
{
    size_t room = READER_BUFFER_SIZE - r->end;
    size_t share = r->wanted > READER_AHEAD ? r->wanted : READER_AHEAD;
    if (r->drain > 0) /* nothing of it is kept */
        share = room;
    return share < room ? share : room;
}

ptrdiff_t frame_reader_fill(struct frame_reader *r)
{
    release_lent(r);
    if (r->start == r->end)
        r->start = r->end = 0;
    else if (READER_BUFFER_SIZE - r->end < READER_AHEAD)
        compact(r);

    struct iovec iov[2];
    int n = 0;
    size_t direct = 0;
    if (r->large != NULL) {
        direct = r->large_size - r->large_filled;
        iov[n++] = (struct iovec){r->large + r->large_filled, direct};
    }
    iov[n++] = (struct iovec){r->data + r->end, buffer_share(r)};
    if (direct == 0 && r->end == READER_BUFFER_SIZE)
        return 0; /* full of complete frames: nothing is read before they are taken */

    ssize_t got;
    do
        got = readv(r->fd, iov, n);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (got <= 0)
        return -1;

    r->bytes += (uint64_t)got;
    size_t into_large = (size_t)got < direct ? (size_t)got : direct;
    r->large_filled += into_large;
    r->end += (size_t)got - into_large;
    return got;
}

/* Memory for a large frame whose payload begins `payload` bytes into it; -1 where there is none. */
static int begin_large(struct frame_reader *r, size_t size, int64_t payload)
{
    size_t pad = 0;
    if (payload >= 0 && r->sched != NULL) {
        pad = (READER_ALIGNMENT - (size_t)payload % READER_ALIGNMENT) % READER_ALIGNMENT;
        if (libsched_buffer_alloc(r->sched, size + pad, &r->large_buffer, NULL) == LIBSCHED_OK) {
            r->large = (uint8_t *)libsched_buffer_data(r->large_buffer) + pad;
            r->large_size = size;
            r->large_filled = 0;
            return 0;
        }
        /* The arena is full: the frame is read all the same, since its other messages may do
         * without it, and the one that needs it is answered with `overloaded`. */
        r->large_buffer = NULL;
    }
    r->large_heap = malloc(size);
    if (r->large_heap == NULL)
        return -1;
    r->large = r->large_heap;
    r->large_size = size;
    r->large_filled = 0;
    return 0;
}

static void lend_large(struct frame_reader *r, struct frame *out)
{
    *out = (struct frame){.number = r->next_number++,
                          .data = r->large,
                          .size = r->large_size,
                          .buffer = r->large_buffer};
    r->lent_buffer = r->large_buffer;
    r->lent_heap = r->large_heap;
    r->large = NULL;
    r->large_buffer = NULL;
    r->large_heap = NULL;
}

static enum frame_reader_result refuse(struct frame_reader *r, struct frame *out, uint32_t size)
{
    *out = (struct frame){.number = r->next_number++};
    r->drain = size;
    return FRAME_READER_BAD;
}

enum frame_reader_result frame_reader_next(struct frame_reader *r, struct frame *out, char *reason,
                                           size_t reason_size)
{
    release_lent(r);
    r->wanted = 0;
    for (;;) {
        size_t there = r->end - r->start;

        if (r->large != NULL) {
            if (r->large_filled < r->large_size)
                return FRAME_READER_MORE;
            lend_large(r, out);
            return FRAME_READER_FRAME;
        }
        if (r->drain > 0) {
            size_t n = there < r->drain ? there : (size_t)r->drain;
            r->start += n;
            r->drain -= n;
            if (r->drain > 0)
                return FRAME_READER_MORE;
            continue;
        }
        if (there < HEADER_SIZE)
            return FRAME_READER_MORE;

        const uint8_t *at = r->data + r->start;
        uint32_t size =
            (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
        if (size == 0) {
            r->start += HEADER_SIZE;
            r->next_number++;
            continue;
        }
        if (size > r->max_frame) {
            r->start += HEADER_SIZE;
            snprintf(reason, reason_size,
                     "%" PRIu32 " bytes, a frame may have %" PRIu32
                     "; send large tensors through a lease",
                     size, r->max_frame);
            return refuse(r, out, size);
        }
        there -= HEADER_SIZE;

        if (size >= READER_LARGE_PAYLOAD) {
            if (there < (size < PEEK_SIZE ? size : PEEK_SIZE)) {
                compact(r);
                return FRAME_READER_MORE;
            }
            int64_t payload = msgpack_find_payload(at + HEADER_SIZE, there < size ? there : size,
                                                   READER_LARGE_PAYLOAD);
            if (payload >= 0 || size > READER_BUFFER_SIZE - HEADER_SIZE) {
                r->start += HEADER_SIZE;
                if (begin_large(r, size, payload) < 0) {
                    snprintf(reason, reason_size, "no memory for a frame of %" PRIu32 " bytes",
                             size);
                    return refuse(r, out, size);
                }
                size_t n = there < size ? there : size;
                memcpy(r->large, r->data + r->start, n);
                r->large_filled = n;
                r->start += n;
                continue;
            }
        }
        if (there < size) {
            if (HEADER_SIZE + (size_t)size > READER_BUFFER_SIZE - r->start)
                compact(r);
            r->wanted = size - there;
            return FRAME_READER_MORE;
        }
        *out = (struct frame){.number = r->next_number++, .data = at + HEADER_SIZE, .size = size};
        r->start += HEADER_SIZE + (size_t)size;
        return FRAME_READER_FRAME;
    }
}

bool frame_reader_cut(const struct frame_reader *r, uint64_t *number, char *reason,
                      size_t reason_size)
{
    /* A refused frame has been answered already. */
    if (r->drain > 0 || (r->large == NULL && r->start == r->end))
        return false;
    *number = r->next_number;
    snprintf(reason, reason_size, "cut short: the input ended inside the frame");
    return true;
}
