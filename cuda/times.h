/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long GPUs compute, by their own clock: for who measures how busy they are. The file that
 * GPU_SCHED_CUDA_TIMES names has it, mapped by all workers that were told of it.
 */
#ifndef CUDA_TIMES_H
#define CUDA_TIMES_H

#include <stdint.h>

#define CUDA_TIMES_VARIABLE "GPU_SCHED_CUDA_TIMES"

/* Both only grow. A batch is what was given between two marks; its time is that from the first of
 * it until the last, as CUDA events tell it. */
struct cuda_times {
    uint64_t batches, busy_ns;
};

#endif
