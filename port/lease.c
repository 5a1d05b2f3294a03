/* SPDX-License-Identifier: Apache-2.0 */
#include "lease.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Descriptors that are asked for beyond those that libsched may need. */
#define WANTED_DESCRIPTORS 8192

/* The upper half of the descriptors that this process may have. */
static void reserve_numbers(struct lease_table *t)
{
    struct rlimit limit;
    rlim_t soft = 1024;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        if (limit.rlim_cur < WANTED_DESCRIPTORS) {
            struct rlimit wanted = limit;
            wanted.rlim_cur =
                limit.rlim_max < WANTED_DESCRIPTORS ? limit.rlim_max : WANTED_DESCRIPTORS;
            if (setrlimit(RLIMIT_NOFILE, &wanted) == 0)
                limit = wanted;
        }
        soft = limit.rlim_cur;
    }
    if (soft > WANTED_DESCRIPTORS)
        soft = WANTED_DESCRIPTORS;
    t->fd_first = t->next_fd = (int)(soft / 2);
    t->fd_last = (int)soft - 1;
}

int lease_table_init(struct lease_table *t, uint64_t max_bytes, uint64_t expiry_ns,
                     libsched_error *err)
{
    *t = (struct lease_table){.first_free = REQUEST_NONE,
                              .next_id = 1,
                              .max_bytes = max_bytes,
                              .expiry_ns = expiry_ns,
                              .next_expiry = UINT64_MAX};
    if (max_bytes == 0)
        return LIBSCHED_OK;
    t->leases = calloc(LEASE_MAX, sizeof(*t->leases));
    if (t->leases == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for leases");
    for (uint32_t i = LEASE_MAX; i-- > 0;) {
        t->leases[i].fd = -1;
        t->leases[i].next = t->first_free;
        t->first_free = i;
    }
    reserve_numbers(t);
    return LIBSCHED_OK;
}

void lease_table_free(struct lease_table *t)
{
    for (uint32_t i = 0; t->leases != NULL && i < LEASE_MAX; i++)
        if (t->leases[i].fd >= 0)
            close(t->leases[i].fd);
    free(t->leases);
    *t = (struct lease_table){.first_free = REQUEST_NONE};
}

/* Moves a descriptor into the range, to the next number in turn that is free. */
static int number_in_turn(struct lease_table *t, int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, t->next_fd);
    if ((moved < 0 || moved > t->fd_last) && t->next_fd > t->fd_first) {
        if (moved >= 0)
            close(moved);
        moved = fcntl(fd, F_DUPFD_CLOEXEC, t->fd_first);
    }
    int saved = errno;
    close(fd);
    errno = saved;
    if (moved >= 0)
        t->next_fd = moved < t->fd_last ? moved + 1 : t->fd_first;
    return moved;
}

static int make_memory(struct lease_table *t, uint64_t size, int *out, libsched_error *err)
{
    int fd = memfd_create("gpu_sched-lease", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "lease: memfd_create: %s",
                                  strerror(errno));
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        int saved = errno;
        close(fd);
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "lease: %" PRIu64 " bytes: %s", size,
                                  strerror(saved));
    }
    fd = number_in_turn(t, fd);
    if (fd < 0)
        return libsched_error_set(err, LIBSCHED_EBUSY, "lease: no descriptor is free: %s",
                                  strerror(errno));
    *out = fd;
    return LIBSCHED_OK;
}

/* Ids carry the lease's place in their low bits. */
static uint32_t make_id(struct lease_table *t, uint32_t index)
{
    uint32_t generation = t->next_id;
    t->next_id = generation < UINT32_MAX / LEASE_MAX ? generation + 1 : 1;
    return generation * LEASE_MAX + index;
}

int lease_open(struct lease_table *t, uint64_t size, uint64_t now, const struct lease **out,
               libsched_error *err)
{
    if (t->max_bytes == 0)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "this scheduler gives no leases");
    if (size == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "lease: size is 0, at least 1 is needed");
    if (size > t->max_bytes)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "lease: %" PRIu64 " bytes, at most %" PRIu64 " are given", size,
                                  t->max_bytes);
    if (size > t->max_bytes - t->bytes)
        return libsched_error_set(err, LIBSCHED_EBUSY,
                                  "lease: %" PRIu64 " bytes, of %" PRIu64 " for leases %" PRIu64
                                  " are taken",
                                  size, t->max_bytes, t->bytes);
    if (t->first_free == REQUEST_NONE)
        return libsched_error_set(err, LIBSCHED_EBUSY, "lease: all %d are taken", LEASE_MAX);

    int fd = -1;
    int rc = make_memory(t, size, &fd, err);
    if (rc < 0)
        return rc;

    uint32_t index = t->first_free;
    struct lease *lease = &t->leases[index];
    t->first_free = lease->next;
    *lease = (struct lease){.id = make_id(t, index),
                            .fd = fd,
                            .size = size,
                            .expires = now + t->expiry_ns,
                            .next = REQUEST_NONE};
    t->count++;
    t->bytes += size;
    if (lease->expires < t->next_expiry)
        t->next_expiry = lease->expires;
    *out = lease;
    return LIBSCHED_OK;
}

/* The lease of an id that has not been committed, or NULL. */
static struct lease *find(const struct lease_table *t, uint32_t id)
{
    if (t->leases == NULL || id == 0)
        return NULL;
    struct lease *lease = &t->leases[id % LEASE_MAX];
    return lease->id == id && lease->fd >= 0 ? lease : NULL;
}

static void forget(struct lease_table *t, struct lease *lease)
{
    if (lease->fd >= 0)
        close(lease->fd);
    t->bytes -= lease->size;
    t->count--;
    lease->id = 0;
    lease->fd = -1;
    lease->next = t->first_free;
    t->first_free = (uint32_t)(lease - t->leases);
}

void lease_write(struct lease_table *t, uint32_t id, uint64_t offset, const void *data,
                 uint32_t size)
{
    struct lease *lease = find(t, id);
    if (lease == NULL || lease->broken.status != LIBSCHED_OK)
        return;
    if (size > LEASE_MAX_PIECE) {
        libsched_error_set(&lease->broken, LIBSCHED_EINVAL,
                           "lease %" PRIu32 ": a piece of %" PRIu32 " bytes, at most %" PRIu32
                           " are taken",
                           id, size, LEASE_MAX_PIECE);
        return;
    }
    if (offset > lease->size || size > lease->size - offset) {
        libsched_error_set(&lease->broken, LIBSCHED_EINVAL,
                           "lease %" PRIu32 ": %" PRIu32 " bytes written at %" PRIu64
                           ", it has %" PRIu64,
                           id, size, offset, lease->size);
        return;
    }
    while (size > 0) {
        ssize_t put = pwrite(lease->fd, data, size, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            libsched_error_set(&lease->broken, LIBSCHED_ESYSTEM,
                               "lease %" PRIu32 ": writing at %" PRIu64 ": %s", id, offset,
                               put < 0 ? strerror(errno) : "nothing was written");
            return;
        }
        data = (const char *)data + put;
        offset += (uint64_t)put;
        size -= (uint32_t)put;
    }
}

void lease_refuse_piece(struct lease_table *t, uint32_t id, const char *why)
{
    struct lease *lease = find(t, id);
    if (lease != NULL && lease->broken.status == LIBSCHED_OK)
        libsched_error_set(&lease->broken, LIBSCHED_EINVAL, "lease %" PRIu32 ": %s", id, why);
}

void lease_give_back(struct lease_table *t, uint32_t id)
{
    struct lease *lease = find(t, id);
    if (lease != NULL && !lease->kept)
        forget(t, lease);
}

void lease_keep(struct lease_table *t, uint32_t id, uint32_t *list)
{
    struct lease *lease = find(t, id);
    if (lease == NULL || lease->kept)
        return;
    lease->kept = true;
    lease->next = *list;
    *list = (uint32_t)(lease - t->leases);
}

void lease_let_go(struct lease_table *t, uint32_t list)
{
    while (list != REQUEST_NONE) {
        struct lease *lease = &t->leases[list];
        list = lease->next;
        lease->kept = false;
        lease->next = REQUEST_NONE;
        if (lease->expires < t->next_expiry)
            t->next_expiry = lease->expires;
    }
}

static int seal(const struct lease *lease, libsched_error *err)
{
    if (fcntl(lease->fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
        return LIBSCHED_OK;
    int saved = errno;
    /* A client may have sealed it itself, which is as good. */
    int seals = fcntl(lease->fd, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_WRITE) != 0)
        return LIBSCHED_OK;
    if (saved == EBUSY)
        return libsched_error_set(
            err, LIBSCHED_EINVAL,
            "lease %" PRIu32 ": still mapped for writing; unmap it before the infer", lease->id);
    return libsched_error_set(err, LIBSCHED_EINVAL, "lease %" PRIu32 ": cannot be sealed: %s",
                              lease->id, strerror(saved));
}

int lease_commit(struct lease_table *t, libsched *sched, uint32_t id, uint32_t *list,
                 libsched_buffer **out, libsched_error *err)
{
    struct lease *lease = find(t, id);
    if (lease == NULL || lease->kept)
        return libsched_error_set(
            err, LIBSCHED_ENOENT,
            "lease %" PRIu32 ": there is none; it expired, was used, or was given back", id);
    int rc = lease->broken.status;
    if (rc < 0)
        *err = lease->broken;
    else
        rc = seal(lease, err);
    if (rc == LIBSCHED_OK)
        rc = libsched_buffer_import(sched, lease->fd, lease->size, out, err);
    if (rc < 0) {
        forget(t, lease);
        return rc;
    }
    close(lease->fd);
    lease->fd = -1;
    lease->next = *list;
    *list = (uint32_t)(lease - t->leases);
    return LIBSCHED_OK;
}

void lease_release_all(struct lease_table *t, uint32_t list)
{
    while (list != REQUEST_NONE) {
        struct lease *lease = &t->leases[list];
        list = lease->next;
        forget(t, lease);
    }
}

uint64_t lease_expire(struct lease_table *t, uint64_t now)
{
    if (now < t->next_expiry)
        return t->next_expiry;
    t->next_expiry = UINT64_MAX;
    for (uint32_t i = 0; t->count > 0 && i < LEASE_MAX; i++) {
        struct lease *lease = &t->leases[i];
        if (lease->fd < 0 || lease->kept)
            continue;
        if (lease->expires <= now)
            forget(t, lease);
        else if (lease->expires < t->next_expiry)
            t->next_expiry = lease->expires;
    }
    return t->next_expiry;
}
