/* SPDX-License-Identifier: Apache-2.0 */
/* A scheduler in this process with real workers, as a program in C has it. */
#ifndef BENCH_GPU_SERVED_H
#define BENCH_GPU_SERVED_H

#include <libsched.h>

#include "gpu.h"

struct served {
    libsched *s;
    uint32_t devices[16]; /* indices of those of the sort that is measured, and that are up */
    uint32_t n;
};

/* Opens it, with so many devices on each GPU (or as many on the CPU), and waits for them. Ends the
 * program where none comes up. */
void served_open(struct served *out, struct gpu_bench *b, uint32_t devices_each);
/* Loads the encoder on the first device, as "bench", and waits until it is ready. */
void served_load(struct served *served, struct gpu_bench *b);
void served_device(const struct served *served, uint32_t which, libsched_device_info *out);
/* Does what is pending and moves what has ended to `out`. Where there is nothing it waits, and
 * looks rather than sleeps where the library says that there are cores for it. */
size_t served_turn(struct served *served, libsched_completion *out, size_t max);
void served_close(struct served *served);

#endif
