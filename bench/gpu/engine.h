/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder as an engine, without a scheduler: what there would be to do if nothing else was. */
#ifndef BENCH_GPU_ENGINE_H
#define BENCH_GPU_ENGINE_H

#include "gpu.h"

/* Sequences a second, of steps that fill the device, with two of them under way. */
double engine_sequences_per_s(struct gpu_bench *b, int32_t length);
/* Seconds of a step of one sequence, from the call until its answer is there: many, sorted; to be
 * freed. Without graphs where `graphs` is false. */
double *engine_single(struct gpu_bench *b, int32_t length, bool graphs, size_t *n);
/* The same amount of work in bare products: sequences a second; 0: not known. */
double engine_bare_sequences_per_s(struct gpu_bench *b, int32_t length);

#endif
