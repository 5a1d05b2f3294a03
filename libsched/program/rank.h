/* SPDX-License-Identifier: Apache-2.0 */
/* What the ranks of all programs begin with: which one of how many it is, and on what it computes.
 */
#ifndef PROGRAM_RANK_H
#define PROGRAM_RANK_H

#include <stddef.h>

#include <libsched/device.h>
#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The first member of each program's struct libsched_program_rank. */
struct rank_head {
    uint32_t number, n; /* of n ranks */
    libsched_device *device;
    libsched_device_communicator *communicator; /* NULL where it is alone */
};

/* A program's own part of its start: a rank whose head is filled, and zeros behind it. */
typedef int (*rank_open_fn)(libsched_program_rank *rank, const libsched_program_args *args,
                            libsched_error *err);
/* Its end, also of one that was opened by half; free() is its last. */
typedef void (*rank_close_fn)(libsched_program_rank *rank);

/* Makes a rank of `size` bytes and opens it; one that can't be opened is closed again. */
int rank_start(libsched_program_rank **out, size_t size, const libsched_program_args *args,
               rank_open_fn open, rank_close_fn close, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
