/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a GPU does by itself: bare loops of cuBLASLt, of copies and of NCCL, for the benchmark "gpu"
 * to be held against.
 */
#ifndef BENCH_GPU_BARE_H
#define BENCH_GPU_BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gpu_bare;

/* On the first GPU; NULL where the benchmark was built without the toolkit. A measurement takes at
 * least so long. */
struct gpu_bare *gpu_bare_open(double seconds);
/* Seconds of a product of BF16, rows × inputs by inputs × outputs, of many in a row. */
double gpu_bare_product(struct gpu_bare *bare, uint64_t rows, uint64_t inputs, uint64_t outputs);
/* Bytes a second of copies between pinned memory and the device; and within the device, where each
 * byte is read and written. */
double gpu_bare_copy(struct gpu_bare *bare, uint64_t bytes, bool up);
double gpu_bare_device_copy(struct gpu_bare *bare, uint64_t bytes);
void gpu_bare_close(struct gpu_bare *bare);

/* Seconds of an all-reduce of FP32 by NCCL, of each size, by n ranks on the GPUs at these places, a
 * process each. False where that can't be: stderr says why. */
bool gpu_bare_all_reduce(uint32_t n, const char *const *places, const uint64_t *bytes, size_t sizes,
                         double *seconds);
/* What such a process does, where the program was called as one: answers whether it was, and how
 * main() is to end. */
bool gpu_bare_is_rank(int argc, char **argv, int *code);

#endif
