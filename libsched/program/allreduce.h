/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program "allreduce": sums over all ranks, of sizes from min_bytes to max_bytes, each twice
 * the one before, and how fast they were.
 *
 * Parameters: min_bytes (1 KiB), max_bytes (64 MiB), iterations (20) of each size, datatype ("f32"
 * or "bf16").
 * Results, for each size N in bytes, in 10⁹ bytes per second, as nccl-tests define them:
 * algbw_N = N / time, and busbw_N = algbw_N · 2 (ranks − 1) / ranks; max_busbw, the largest of the
 * latter. Time is the mean of rank 0's iterations. The last sum of each size is checked.
 */
#ifndef PROGRAM_ALLREDUCE_H
#define PROGRAM_ALLREDUCE_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

const libsched_program *program_allreduce(void);

#ifdef __cplusplus
}
#endif

#endif
