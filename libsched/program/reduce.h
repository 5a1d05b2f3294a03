/* SPDX-License-Identifier: Apache-2.0 */
/* What programs tell each other between ranks, in a buffer's own place. */
#ifndef PROGRAM_REDUCE_H
#define PROGRAM_REDUCE_H

#include "program/rank.h"

/* All ranks' first `count` elements of a buffer, put together by one of LIBSCHED_REDUCE_*. */
int program_reduce(const struct rank_head *rank, libsched_device_buffer *buffer, uint64_t count,
                   uint32_t reduction, libsched_error *err);
/* The same of a number, with FP32's precision, by way of a buffer of one FP32; and it is waited
 * for. A rank that is alone keeps its own. */
int program_reduce_number(const struct rank_head *rank, libsched_device_buffer *buffer,
                          uint32_t reduction, double *inout, libsched_error *err);
/* How many pieces of work make a step, which takes some ten milliseconds or one piece where that
 * takes longer; from how long `done` of them took, and the same on all ranks. It says how often one
 * looks up from the work, not what comes out of it. The buffer is one FP32. */
int program_plan_step(const struct rank_head *rank, libsched_device_buffer *buffer, uint64_t ns,
                      uint64_t done, uint64_t *out, libsched_error *err);

#endif
