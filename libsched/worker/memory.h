/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that processes share: memfds and their mappings.
 *
 * Pages are taken as they are first touched. Mappings are left out of core dumps: they can be
 * larger than a disk, and hold what users sent.
 */
#ifndef WORKER_MEMORY_H
#define WORKER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A memfd of `size` bytes (close-on-exec, may be sealed); the caller closes it. */
int memory_create(int *out, const char *name, uint64_t size, libsched_error *err);

/* Adds seals (F_SEAL_...). */
int memory_seal(int fd, unsigned int seals, libsched_error *err);

/* Maps the first `size` bytes, shared. */
int memory_map(void **out, int fd, uint64_t size, bool writable, libsched_error *err);

void memory_unmap(void *address, uint64_t size);

#ifdef __cplusplus
}
#endif

#endif
