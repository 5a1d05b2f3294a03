/* SPDX-License-Identifier: Apache-2.0 */
/* What a GPU does by itself: bare loops of cuBLASLt and of copies, for the benchmark "gpu" to be
 * held against. */
#ifndef BENCH_GPU_BARE_H
#define BENCH_GPU_BARE_H

#include <stdbool.h>
#include <stdint.h>

struct gpu_bare;

/* The first GPU; NULL where the benchmark was built without the toolkit. */
struct gpu_bare *gpu_bare_open(void);
/* Seconds of a product of BF16, rows × inputs by inputs × outputs, of many in a row; and bytes a
 * second of copies of pinned memory. */
double gpu_bare_product(struct gpu_bare *bare, uint64_t rows, uint64_t inputs, uint64_t outputs);
double gpu_bare_copy(struct gpu_bare *bare, uint64_t bytes, bool up);
void gpu_bare_close(struct gpu_bare *bare);

#endif
