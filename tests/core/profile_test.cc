// SPDX-License-Identifier: Apache-2.0
// What is learnt of the cost of batches, by itself.
#include <algorithm>
#include <random>

#include <gtest/gtest.h>

extern "C" {
#include "core/profile.h"
}

namespace
{

/* A line through batches of one size is none, whichever way its sums are rounded. */
TEST(Profile, OfBatchesOfOneSizeStaysNearThem)
{
    std::mt19937_64 random(1);
    for (uint64_t units = 1; units <= 64; units++) {
        core_profile p = {};
        uint32_t factor = PROFILE_ONE;
        uint64_t now = 1, most = 0, least = UINT64_MAX;
        for (int i = 0; i < 500; i++) {
            uint64_t ns = 50000 + random() % 100000;
            most = std::max(most, ns);
            least = std::min(least, ns);
            now += ns + random() % 300000000; // in which some is forgotten
            profile_learn(&p, &factor, now, units, ns);
            ASSERT_LE(profile_expect(&p, factor, units), 4 * most) << units << ", " << i;
            ASSERT_GE(profile_expect(&p, factor, units), least / 4) << units << ", " << i;
            ASSERT_LE(profile_bound(&p, factor, units), 16 * most) << units << ", " << i;
        }
    }
}

/* Nor is it thrown by the few of another size that came before. */
TEST(Profile, OfBatchesOfNearlyOneSizeStaysNearThem)
{
    std::mt19937_64 random(2);
    for (uint64_t units = 2; units <= 64; units++) {
        core_profile p = {};
        uint32_t factor = PROFILE_ONE;
        uint64_t now = 1;
        for (int i = 0; i < 500; i++) {
            uint64_t n = i < 3 || random() % 100 == 0 ? 1 : units, ns = 50000 + 1000 * n;
            now += ns;
            profile_learn(&p, &factor, now, n, ns);
            ASSERT_LE(profile_bound(&p, factor, units), 16 * (50000 + 1000 * units))
                << units << ", " << i;
        }
    }
}

} // namespace
