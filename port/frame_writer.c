/* SPDX-License-Identifier: Apache-2.0 */
#include "frame_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEADER_SIZE 4
#define MAX_SPARE 4
#define MAX_SPARE_CAPACITY ((size_t)256 << 10)
#define MAX_IOV 64

/* Foreign memory that comes behind the first `at` bytes of a frame's own. */
struct reference {
    size_t at;
    const uint8_t *data;
    size_t size;
};

struct out_frame {
    struct out_frame *next;
    uint8_t *data; /* own bytes, the header first */
    size_t size, capacity;
    size_t referenced; /* bytes of the references */
    size_t written;    /* of both, in order */
    struct reference *references;
    uint32_t n_references, references_capacity;
    libsched_completion *held;
    uint32_t n_held, held_capacity;
};

void frame_writer_init(struct frame_writer *w, libsched *sched, int fd)
{
    *w = (struct frame_writer){.sched = sched, .fd = fd};
}

static void free_frame(struct out_frame *f)
{
    free(f->data);
    free(f->references);
    free(f->held);
    free(f);
}

static void free_list(struct frame_writer *w, struct out_frame *f)
{
    while (f != NULL) {
        struct out_frame *next = f->next;
        if (f->n_held > 0)
            libsched_release(w->sched, f->held, f->n_held);
        free_frame(f);
        f = next;
    }
}

void frame_writer_free(struct frame_writer *w)
{
    free_list(w, w->open);
    free_list(w, w->first);
    free_list(w, w->spare);
    *w = (struct frame_writer){.fd = -1};
}

static struct out_frame *new_frame(struct frame_writer *w)
{
    struct out_frame *f = w->spare;
    if (f != NULL) {
        w->spare = f->next;
        w->n_spare--;
        f->next = NULL;
    } else {
        f = calloc(1, sizeof(*f));
        if (f == NULL)
            return NULL;
        f->capacity = 4096;
        f->data = malloc(f->capacity);
        if (f->data == NULL) {
            free(f);
            return NULL;
        }
    }
    f->size = HEADER_SIZE;
    return f;
}

/* A frame that has left: its completions are released, itself is kept for the next. */
static void recycle(struct frame_writer *w, struct out_frame *f)
{
    if (f->n_held > 0)
        libsched_release(w->sched, f->held, f->n_held);
    if (w->n_spare == MAX_SPARE || f->capacity > MAX_SPARE_CAPACITY) {
        free_frame(f);
        return;
    }
    f->size = f->referenced = f->written = 0;
    f->n_references = f->n_held = 0;
    f->next = w->spare;
    w->spare = f;
    w->n_spare++;
}

/* Completes the open frame. */
static void seal(struct frame_writer *w)
{
    struct out_frame *f = w->open;
    if (f == NULL || f->size == HEADER_SIZE)
        return;
    size_t size = f->size - HEADER_SIZE + f->referenced;
    f->data[0] = (uint8_t)(size >> 24);
    f->data[1] = (uint8_t)(size >> 16);
    f->data[2] = (uint8_t)(size >> 8);
    f->data[3] = (uint8_t)size;
    if (w->last != NULL)
        w->last->next = f;
    else
        w->first = f;
    w->last = f;
    w->backlog += HEADER_SIZE + size;
    w->open = NULL;
}

void frame_writer_begin(struct frame_writer *w)
{
    if (w->open != NULL && w->open->size + w->open->referenced >= WRITER_GATHER_SIZE)
        seal(w);
    if (w->open == NULL) {
        w->open = new_frame(w);
        if (w->open == NULL) {
            w->failed = true;
            return;
        }
    }
    w->mark.size = w->open->size;
    w->mark.referenced = w->open->referenced;
    w->mark.n_references = w->open->n_references;
    w->mark.n_held = w->open->n_held;
}

void frame_writer_append(struct frame_writer *w, const void *data, size_t size)
{
    struct out_frame *f = w->open;
    if (w->failed)
        return;
    if (size > f->capacity - f->size) {
        size_t capacity = 2 * f->capacity;
        while (capacity - f->size < size)
            capacity *= 2;
        uint8_t *grown = realloc(f->data, capacity);
        if (grown == NULL) {
            w->failed = true;
            return;
        }
        f->data = grown;
        f->capacity = capacity;
    }
    if (size > 0)
        memcpy(f->data + f->size, data, size);
    f->size += size;
}

void frame_writer_end(struct frame_writer *w)
{
    struct out_frame *f = w->open;
    if (w->failed)
        return;
    /* A large message does not hold up the small ones gathered before it, nor take those behind
     * it along: it leaves in a frame of its own if it made this one too large. */
    size_t message = f->size - w->mark.size + f->referenced - w->mark.referenced;
    size_t before = w->mark.size + w->mark.referenced - HEADER_SIZE;
    if (before == 0 || message + before <= WRITER_GATHER_SIZE)
        return;

    struct out_frame *own = new_frame(w);
    if (own == NULL)
        return; /* then they do share a frame */
    w->open = own;
    frame_writer_append(w, f->data + w->mark.size, f->size - w->mark.size);
    for (uint32_t i = w->mark.n_references; i < f->n_references; i++) {
        size_t at = f->references[i].at - w->mark.size + HEADER_SIZE;
        frame_writer_reference(w, f->references[i].data, f->references[i].size);
        if (!w->failed)
            own->references[own->n_references - 1].at = at;
    }
    for (uint32_t i = w->mark.n_held; i < f->n_held; i++)
        frame_writer_hold(w, &f->held[i]);
    if (w->failed)
        return;
    f->size = w->mark.size;
    f->referenced = w->mark.referenced;
    f->n_references = w->mark.n_references;
    f->n_held = w->mark.n_held;
    w->open = f;
    seal(w);
    w->open = own;
}

void frame_writer_abort(struct frame_writer *w)
{
    struct out_frame *f = w->open;
    if (f == NULL || w->failed)
        return;
    f->size = w->mark.size;
    f->referenced = w->mark.referenced;
    f->n_references = w->mark.n_references;
    f->n_held = w->mark.n_held;
}

/* Room for one more in a small array. */
static void *grow(void *items, uint32_t n, uint32_t *capacity, size_t item_size)
{
    if (n < *capacity)
        return items;
    uint32_t wanted = *capacity > 0 ? 2 * *capacity : 8;
    void *grown = realloc(items, wanted * item_size);
    if (grown != NULL)
        *capacity = wanted;
    return grown;
}

void frame_writer_reference(struct frame_writer *w, const void *data, size_t size)
{
    struct out_frame *f = w->open;
    if (w->failed)
        return;
    void *grown =
        grow(f->references, f->n_references, &f->references_capacity, sizeof(*f->references));
    if (grown == NULL) {
        w->failed = true;
        return;
    }
    f->references = grown;
    f->references[f->n_references++] = (struct reference){f->size, data, size};
    f->referenced += size;
}

void frame_writer_hold(struct frame_writer *w, const libsched_completion *completion)
{
    struct out_frame *f = w->open;
    if (w->failed)
        return;
    void *grown = grow(f->held, f->n_held, &f->held_capacity, sizeof(*f->held));
    if (grown == NULL) {
        w->failed = true;
        return;
    }
    f->held = grown;
    f->held[f->n_held++] = *completion;
}

size_t frame_writer_backlog(const struct frame_writer *w)
{
    return w->backlog + (w->open != NULL ? w->open->size + w->open->referenced : 0);
}

/* The pieces of a frame that have not left, in order. */
static int frame_pieces(const struct out_frame *f, struct iovec *iov, int max)
{
    size_t skip = f->written, own = 0;
    int n = 0;

    for (uint32_t i = 0; i <= f->n_references && n < max; i++) {
        size_t until = i < f->n_references ? f->references[i].at : f->size;
        size_t size = until - own;
        if (skip < size)
            iov[n++] = (struct iovec){f->data + own + skip, size - skip};
        skip -= skip < size ? skip : size;
        own = until;
        if (i == f->n_references || n == max)
            break;
        size = f->references[i].size;
        if (skip < size)
            iov[n++] =
                (struct iovec){(void *)(uintptr_t)(f->references[i].data + skip), size - skip};
        skip -= skip < size ? skip : size;
    }
    return n;
}

int frame_writer_flush(struct frame_writer *w)
{
    int wrote = 0;

    seal(w);
    while (w->first != NULL) {
        struct iovec iov[MAX_IOV];
        int n = 0;
        size_t offered = 0;
        for (struct out_frame *f = w->first; f != NULL && n < MAX_IOV; f = f->next)
            n += frame_pieces(f, iov + n, MAX_IOV - n);
        for (int i = 0; i < n; i++)
            offered += iov[i].iov_len;

        ssize_t put = writev(w->fd, iov, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return wrote;
        if (put < 0)
            return -1;
        wrote = 1;
        w->bytes += (uint64_t)put;
        w->backlog -= (size_t)put;

        size_t left = (size_t)put;
        while (w->first != NULL) {
            struct out_frame *f = w->first;
            size_t rest = f->size + f->referenced - f->written;
            if (left < rest) {
                f->written += left;
                break;
            }
            left -= rest;
            w->first = f->next;
            if (w->first == NULL)
                w->last = NULL;
            w->frames++;
            recycle(w, f);
        }
        if ((size_t)put < offered)
            return wrote;
    }
    return wrote;
}
