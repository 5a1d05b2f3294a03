/* SPDX-License-Identifier: Apache-2.0 */
/* How long GPUs computed, by their own clock: what workers tell of it (cuda/times.h). */
#ifndef BENCH_GPU_BUSY_H
#define BENCH_GPU_BUSY_H

#include <stdint.h>

/* To be called before the workers are started, which inherit it. */
void busy_open(void);
/* Seconds, over all batches so far; 0 where nothing tells of it, as on a CPU. */
double busy_seconds(void);
void busy_close(void);

#endif
