/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to frames: {packet, 4} framing over a non-blocking descriptor.
 *
 * Small frames come out of one buffer, many of them a read. One that carries a large payload is
 * read straight into the arena instead, all but what the read that found it had brought along, and
 * placed so that the payload is aligned there: its tensor is then submitted where it lies. A frame
 * longer than the limit is refused at its header, before anything is allocated for it, and passed
 * over.
 */
#ifndef PORT_FRAME_READER_H
#define PORT_FRAME_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched.h>

#define READER_BUFFER_SIZE ((size_t)1 << 20)
/* So much is read when nothing is known about what comes: what turns out to be a large payload has
 * to be copied out of the buffer. */
#define READER_AHEAD ((size_t)64 << 10)
/* From this size on a payload is not copied: see the design of the arena. */
#define READER_LARGE_PAYLOAD ((size_t)64 << 10)
#define READER_ALIGNMENT 64

struct frame {
    uint64_t number; /* frames are counted from 0, empty and bad ones included */
    const uint8_t *data;
    size_t size;
    libsched_buffer *buffer; /* the one the frame lies in, or NULL */
};

struct frame_reader {
    libsched *sched; /* whose arena; NULL: large frames lie on the heap (tests) */
    int fd;
    uint32_t max_frame;
    uint64_t next_number;
    uint64_t bytes; /* read so far */

    uint8_t *data; /* READER_BUFFER_SIZE bytes, of which start..end are unread */
    size_t start, end;
    size_t wanted; /* bytes that the frame at start still lacks, where it belongs into the buffer */

    uint64_t drain; /* bytes of a refused frame still to come */

    /* The large frame under way. */
    uint8_t *large;
    size_t large_size, large_filled;
    libsched_buffer *large_buffer; /* what it lies in: this, */
    uint8_t *large_heap;           /* or this */

    /* The large frame handed out last, until the next call. */
    libsched_buffer *lent_buffer;
    uint8_t *lent_heap;
};

/* -1 where there is no memory. The descriptor stays the caller's. */
int frame_reader_init(struct frame_reader *r, libsched *sched, int fd, uint32_t max_frame);
void frame_reader_free(struct frame_reader *r);

/* Reads once. The number of bytes; 0 where nothing is there now; -1 at the end of the input (or on
 * an error of it, which is an end as well). */
ptrdiff_t frame_reader_fill(struct frame_reader *r);

enum frame_reader_result {
    FRAME_READER_MORE,  /* nothing complete: fill again */
    FRAME_READER_FRAME, /* `out` is a frame, valid until the next call of any function here */
    FRAME_READER_BAD,   /* the frame out->number is refused: `reason` */
};

enum frame_reader_result frame_reader_next(struct frame_reader *r, struct frame *out, char *reason,
                                           size_t reason_size);

/* At the end of the input: whether it ended inside a frame; `number` and `reason` are then those of
 * the frame that was cut. */
bool frame_reader_cut(const struct frame_reader *r, uint64_t *number, char *reason,
                      size_t reason_size);

#endif
