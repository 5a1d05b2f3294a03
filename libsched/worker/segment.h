/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment: input memory that the scheduler's process can write (or not even that) and workers
 * can read. A memfd that cannot shrink, grow, or be mapped writable by anyone else.
 */
#ifndef WORKER_SEGMENT_H
#define WORKER_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct segment;

/* A new memfd of `size` bytes, taken as it is used, mapped writable here and then sealed against
 * growing, shrinking and further writers. */
int segment_create(struct segment **out, const char *name, uint64_t size, libsched_error *err);

/* A new memfd that the workers it is passed to can write to as well: the ranks of a job meet in it.
 * Nothing in it is to be trusted. */
int segment_create_shared(struct segment **out, const char *name, uint64_t size,
                          libsched_error *err);

/* Somebody else's memfd, which has to be sealed against shrinking and writing: mapped read-only.
 * The descriptor is duplicated. LIBSCHED_EINVAL says what is missing. */
int segment_import(struct segment **out, int fd, uint64_t size, libsched_error *err);

void segment_free(struct segment *segment);

void *segment_data(const struct segment *segment);
uint64_t segment_size(const struct segment *segment);
int segment_fd(const struct segment *segment);
/* Whether workers may write to it. */
bool segment_is_shared(const struct segment *segment);
/* Made by segment_create(): the host's own, and sealed by it. */
bool segment_is_own(const struct segment *segment);
/* Unlike any other segment's in this process. */
uint32_t segment_id(const struct segment *segment);

#ifdef __cplusplus
}
#endif

#endif
