/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program "gemm": matrix products, one after the other, and how fast they were. Each rank
 * computes by itself.
 *
 * Parameters: m, n, k (1024 each): output [m, n] = input [m, k] · weight [n, k]ᵀ; datatype ("f32"
 * or "bf16"); seconds (5) of computing, or steps, of about 50 ms each.
 * Results: flops_per_s of all ranks together, of the time in which they computed; products, of
 * rank 0; seconds, of rank 0.
 */
#ifndef PROGRAM_GEMM_H
#define PROGRAM_GEMM_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

const libsched_program *program_gemm(void);

#ifdef __cplusplus
}
#endif

#endif
