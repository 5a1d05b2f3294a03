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
        profile_device device;
        profile_device_init(&device);
        uint64_t now = 1, most = 0, least = UINT64_MAX;
        for (int i = 0; i < 500; i++) {
            uint64_t ns = 50000 + random() % 100000;
            most = std::max(most, ns);
            least = std::min(least, ns);
            now += ns + random() % 300000000; // in which some is forgotten
            profile_learn(&p, &device, now, units, ns);
            ASSERT_LE(profile_expect(&p, &device, units), 4 * most) << units << ", " << i;
            ASSERT_GE(profile_expect(&p, &device, units), least / 4) << units << ", " << i;
            ASSERT_LE(profile_bound(&p, &device, now, units), 16 * most) << units << ", " << i;
        }
    }
}

/* Nor is it thrown by the few of another size that came before. */
TEST(Profile, OfBatchesOfNearlyOneSizeStaysNearThem)
{
    std::mt19937_64 random(2);
    for (uint64_t units = 2; units <= 64; units++) {
        core_profile p = {};
        profile_device device;
        profile_device_init(&device);
        uint64_t now = 1;
        for (int i = 0; i < 500; i++) {
            uint64_t n = i < 3 || random() % 100 == 0 ? 1 : units, ns = 50000 + 1000 * n;
            now += ns;
            profile_learn(&p, &device, now, n, ns);
            ASSERT_LE(profile_bound(&p, &device, now, units), 16 * (50000 + 1000 * units))
                << units << ", " << i;
        }
    }
}

/* How far off one device's times are says nothing of those of another of its sort, once both are
 * known. */
TEST(Profile, TheMarginOfADeviceIsItsOwn)
{
    core_profile p = {};
    profile_device steady, erratic;
    profile_device_init(&steady);
    profile_device_init(&erratic);
    uint64_t now = 1;
    for (int i = 0; i < 400; i++) {
        now += 1000000;
        profile_learn(&p, &steady, now, 1, 1000000);
        profile_learn(&p, &erratic, now, 1, i % 8 == 0 ? 1100000 : 1000000);
    }
    EXPECT_LT(profile_bound(&p, &steady, now, 1), 1030000u);
    EXPECT_GT(profile_bound(&p, &erratic, now, 1), 1070000u);
    /* Of a new one nothing is known yet. */
    profile_device fresh;
    profile_device_init(&fresh);
    EXPECT_GT(profile_bound(&p, &fresh, now, 1), 1070000u);
}

/* A device that now and then stands still for ten batches' time is no slower for it. */
TEST(Profile, AStallNowAndThenTiltsNothing)
{
    auto cost = [](uint64_t units) { return 2000000 + 100000 * units; };
    std::mt19937_64 random(3);
    core_profile p = {};
    profile_device device;
    profile_device_init(&device);
    uint64_t now = 1;
    for (int i = 0; i < 4000; i++) {
        uint64_t units = 10 + random() % 23, ns = cost(units);
        if (i % 97 == 96)
            ns += 50000000;
        now += ns;
        profile_learn(&p, &device, now, units, ns);
        for (uint64_t n : {1, 16, 32}) {
            ASSERT_LT(profile_expect(&p, &device, n), 2 * cost(n)) << n << ", " << i;
            if (i >= 200) {
                ASSERT_NEAR(profile_expect(&p, &device, n), cost(n), cost(n) / 4) << n << ", " << i;
            }
        }
    }
}

/* One that is ten times as slow from now on is believed to be, after a few batches. */
TEST(Profile, StallsInARowAreASlowerDevice)
{
    core_profile p = {};
    profile_device device;
    profile_device_init(&device);
    uint64_t now = 1;
    for (int i = 0; i < 400; i++)
        profile_learn(&p, &device, now += 1000000, 1 + i % 8, 1000000);
    for (int i = 0; i < 60; i++)
        profile_learn(&p, &device, now += 10000000, 1 + i % 8, 10000000);
    EXPECT_NEAR(profile_expect(&p, &device, 4), 10000000, 2500000);
    EXPECT_GE(profile_bound(&p, &device, now, 4), 9000000u);
}

} // namespace
