/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/fixed.h"

namespace sim
{

namespace
{

__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

constexpr fixed ln2 = 2977044472; /* of 2, in 1/2^32 */

uint64_t square_root(uint128 x)
{
    uint128 low = 0, high = uint128(1) << 64;
    while (high - low > 1) {
        uint128 middle = low + (high - low) / 2;
        if (middle * middle <= x)
            low = middle;
        else
            high = middle;
    }
    return static_cast<uint64_t>(low);
}

/* 2^(1/2), 2^(1/4), 2^(1/8) ... in 1/2^62. */
struct Roots {
    uint64_t root[32];
    Roots()
    {
        uint128 x = uint128(2) << 62;
        for (uint64_t &r : root) {
            r = square_root(x << 62);
            x = r;
        }
    }
};

} // namespace

fixed fixed_multiply(fixed a, fixed b)
{
    return static_cast<fixed>((static_cast<int128>(a) * b) / fixed_one);
}

fixed fixed_divide(fixed a, fixed b)
{
    return static_cast<fixed>(static_cast<int128>(a) * fixed_one / b);
}

fixed fixed_log2(uint64_t x)
{
    int whole = 63 - __builtin_clzll(x);
    uint128 rest = whole == 63 ? x >> 1 : x << (62 - whole); /* 1 <= rest < 2, in 1/2^62 */
    fixed fraction = 0;
    for (int i = 0; i < 32; i++) {
        rest = rest * rest >> 62;
        fraction <<= 1;
        if (rest >> 63 != 0) {
            fraction |= 1;
            rest >>= 1;
        }
    }
    return (static_cast<fixed>(whole) << 32) + fraction;
}

fixed fixed_ln(fixed x)
{
    return fixed_multiply(fixed_log2(static_cast<uint64_t>(x)) - (fixed(32) << 32), ln2);
}

fixed fixed_exp2(fixed x)
{
    static const Roots roots;
    int64_t whole = x >> 32; /* towards minus infinity */
    if (whole >= 31)
        return INT64_MAX;
    if (whole < -33)
        return 0;
    uint128 power = uint128(1) << 62;
    for (int i = 0; i < 32; i++)
        if ((x >> (31 - i) & 1) != 0)
            power = power * roots.root[i] >> 62;
    /* In 1/2^62, to 1/2^32. */
    return static_cast<fixed>(power >> (30 - whole));
}

} // namespace sim
