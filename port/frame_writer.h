/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From messages to bytes: what is ready is gathered into one frame and leaves in one writev.
 *
 * Large results are not copied into the frame: they are written from the memory they lie in, and
 * their completion is released once they have left. Frames wait in a queue while the reader is
 * slower; its owner looks at frame_writer_backlog() and makes no more messages while that is high.
 */
#ifndef PORT_FRAME_WRITER_H
#define PORT_FRAME_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched.h>

/* A frame takes no further message once it has this many bytes. */
#define WRITER_GATHER_SIZE ((size_t)1 << 20)
/* From this size on a result is written from where it lies. */
#define WRITER_REFERENCE_SIZE ((size_t)16 << 10)

struct out_frame;

struct frame_writer {
    libsched *sched; /* what the completions are released to */
    int fd;
    struct out_frame *open;         /* messages are added to it; NULL: none yet */
    struct out_frame *first, *last; /* complete, waiting to leave */
    struct out_frame *spare;        /* for use again */
    uint32_t n_spare;
    size_t backlog; /* bytes in complete frames that have not left */
    bool failed;    /* there was no memory for a message: the port cannot go on */

    /* Where the message under way began, to take it back. */
    struct {
        size_t size, referenced;
        uint32_t n_references, n_held;
    } mark;

    uint64_t frames, bytes; /* that have left */
};

void frame_writer_init(struct frame_writer *w, libsched *sched, int fd);
void frame_writer_free(struct frame_writer *w);

/* A message: begin, append, and end or abort (which takes back what was appended). */
void frame_writer_begin(struct frame_writer *w);
void frame_writer_append(struct frame_writer *w, const void *data, size_t size);
void frame_writer_end(struct frame_writer *w);
void frame_writer_abort(struct frame_writer *w);

/* Appends memory of a completion without copying it; frame_writer_hold() must follow before the
 * message ends. */
void frame_writer_reference(struct frame_writer *w, const void *data, size_t size);
/* Takes the completion over: it is released once the message has left. */
void frame_writer_hold(struct frame_writer *w, const libsched_completion *completion);

/* Bytes that wait to leave, those of the open frame included. */
size_t frame_writer_backlog(const struct frame_writer *w);

/* Writes what it can: 1 when something was written, 0 when not, -1 when there is no reader any
 * more. */
int frame_writer_flush(struct frame_writer *w);

#endif
