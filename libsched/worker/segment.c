/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "worker/memory.h"

struct segment {
    uint32_t id;
    int fd;
    void *data;
    uint64_t size;
    bool shared, own;
};

static uint32_t next_id(void)
{
    static uint32_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

/* Takes `fd` over, also on failure. */
static int segment_open(struct segment **out, int fd, uint64_t size, bool writable,
                        libsched_error *err)
{
    struct segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL) {
        close(fd);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a segment");
    }
    segment->id = next_id();
    segment->fd = fd;
    segment->size = size;
    int status = memory_map(&segment->data, fd, size, writable, err);
    if (status < 0) {
        segment_free(segment);
        return status;
    }
    *out = segment;
    return LIBSCHED_OK;
}

/* A memfd of our own: mapped here, and then sealed. */
static int create(struct segment **out, const char *name, uint64_t size, unsigned int seals,
                  libsched_error *err)
{
    int fd;
    int status = memory_create(&fd, name, size, err);
    if (status < 0)
        return status;
    struct segment *segment;
    status = segment_open(&segment, fd, size, true, err);
    if (status < 0)
        return status;
    status = memory_seal(fd, seals | F_SEAL_SHRINK | F_SEAL_GROW, err);
    if (status < 0) {
        segment_free(segment);
        return status;
    }
    *out = segment;
    return LIBSCHED_OK;
}

int segment_create(struct segment **out, const char *name, uint64_t size, libsched_error *err)
{
    /* Ours is the last writable mapping: it was made before the seal that forbids them. */
    int status = create(out, name, size, F_SEAL_FUTURE_WRITE, err);
    if (status == LIBSCHED_OK)
        (*out)->own = true;
    return status;
}

int segment_create_shared(struct segment **out, const char *name, uint64_t size,
                          libsched_error *err)
{
    /* A seal that a worker could add would lock the others out. */
    int status = create(out, name, size, F_SEAL_SEAL, err);
    if (status == LIBSCHED_OK)
        (*out)->shared = true;
    return status;
}

/* Before Linux 6.7 memory that is sealed against writing can't be mapped shared through a
 * descriptor that would allow it, not even to be read. Nor has a worker any use for such a one. */
static int open_for_reading(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int segment_import(struct segment **out, int fd, uint64_t size, libsched_error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "descriptor %d is not a memfd that can be sealed: %m", fd);
    if ((seals & F_SEAL_SHRINK) == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the memfd is not sealed against shrinking: add F_SEAL_SHRINK");
    if ((seals & F_SEAL_WRITE) == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the memfd is not sealed against writing: add F_SEAL_WRITE");
    struct stat st;
    struct statfs system;
    if (fstat(fd, &st) < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "fstat: %m");
    if (fstatfs(fd, &system) < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "fstatfs: %m");
    /* No page is set aside for a hole in it, and who reads it where none is free gets SIGBUS. */
    if (system.f_type == HUGETLBFS_MAGIC)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the memfd is made of huge pages: make it without MFD_HUGETLB");
    if (size == 0 || (uint64_t)st.st_size < size)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the memfd has %" PRIu64 " bytes, %" PRIu64 " were announced",
                                  (uint64_t)st.st_size, size);
    int own = open_for_reading(fd);
    if (own < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "fcntl(F_DUPFD_CLOEXEC): %m");
    return segment_open(out, own, size, false, err);
}

void segment_free(struct segment *segment)
{
    if (segment == NULL)
        return;
    memory_unmap(segment->data, segment->size);
    close(segment->fd);
    free(segment);
}

void *segment_data(const struct segment *segment)
{
    return segment->data;
}

uint64_t segment_size(const struct segment *segment)
{
    return segment->size;
}

int segment_fd(const struct segment *segment)
{
    return segment->fd;
}

uint32_t segment_id(const struct segment *segment)
{
    return segment->id;
}

bool segment_is_shared(const struct segment *segment)
{
    return segment->shared;
}

bool segment_is_own(const struct segment *segment)
{
    return segment->own;
}
