/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logarithms and powers in fixed point, of integers alone: what is made from them is the same to
 * the last bit whatever compiler, optimization or mathematical library there is.
 */
#ifndef SIM_FIXED_H
#define SIM_FIXED_H

#include <cstdint>

namespace sim
{

/* A number in 1/2^32. */
using fixed = int64_t;
constexpr fixed fixed_one = fixed(1) << 32;

fixed fixed_multiply(fixed a, fixed b);
fixed fixed_divide(fixed a, fixed b);
/* Of x > 0. */
fixed fixed_log2(uint64_t x);
fixed fixed_ln(fixed x);
/* 2^x; 0 where that is too small to be told, the largest number where it is too large. */
fixed fixed_exp2(fixed x);

} // namespace sim

#endif
