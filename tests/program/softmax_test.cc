// SPDX-License-Identifier: Apache-2.0
// The classifier: its gradient, and that its sums do not depend on who adds them up.
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "program/train_softmax.h"

namespace
{

struct Model {
    softmax raw = {};

    Model(uint32_t classes, uint32_t width, double largest)
    {
        libsched_error err = {};
        EXPECT_EQ(softmax_init(&raw, classes, width, largest, &err), 0) << err.message;
    }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;
    ~Model()
    {
        softmax_free(&raw);
    }
};

std::vector<std::vector<float>> examples(size_t n, size_t width, float scale)
{
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, scale);
    std::vector<std::vector<float>> all(n, std::vector<float>(width));
    for (auto &e : all)
        for (float &v : e)
            v = std::min(std::max(normal(random), -4 * scale), 4 * scale);
    return all;
}

TEST(Softmax, GoesDownItsGradient)
{
    const uint32_t classes = 3, width = 5;
    Model m(classes, width, 4);
    auto x = examples(1, width, 1);
    std::mt19937 random(3);
    for (uint64_t i = 0; i < classes * (width + 1); i++)
        m.raw.weight[i] = double(random() % 1000) / 500 - 1;
    auto loss = [&] {
        softmax_clear(&m.raw);
        softmax_add(&m.raw, x[0].data(), 1);
        return softmax_loss(&m.raw);
    };
    loss();
    std::vector<int64_t> sums(m.raw.sums, m.raw.sums + m.raw.n_sums);
    const double h = 1e-4;
    for (uint64_t i = 0; i < classes * (width + 1); i++) {
        const double kept = m.raw.weight[i];
        m.raw.weight[i] = kept + h;
        double above = loss();
        m.raw.weight[i] = kept - h;
        double below = loss();
        m.raw.weight[i] = kept;
        EXPECT_NEAR((above - below) / (2 * h), double(sums[i]) / m.raw.resolution, 1e-4);
    }
}

TEST(Softmax, LearnsWhatCanBeLearnt)
{
    Model m(2, 2, 1);
    const float left[] = {-1, 0.5f}, right[] = {1, 0.5f};
    for (int i = 0; i < 200; i++) {
        softmax_clear(&m.raw);
        softmax_add(&m.raw, left, 0);
        softmax_add(&m.raw, right, 1);
        softmax_update(&m.raw, 2, 1.0);
    }
    EXPECT_EQ(softmax_right(&m.raw), 2u);
    EXPECT_LT(softmax_loss(&m.raw), 0.1);
}

/* However the examples are shared: limbs are added up in FP32, as devices do, and give the very
 * integers that one rank would have. */
TEST(Softmax, HasTheSameSumsInAnyParts)
{
    const uint32_t classes = 4, width = 9;
    const size_t n = 1000;
    for (float scale : {0.05f, 1.0f, 300.0f}) {
        auto x = examples(n, width, scale);
        Model one(classes, width, 4 * scale);
        std::mt19937 random(11);
        for (uint64_t i = 0; i < classes * (width + 1); i++)
            one.raw.weight[i] = double(random() % 1000) / 500 - 1;
        softmax_clear(&one.raw);
        for (size_t i = 0; i < n; i++)
            softmax_add(&one.raw, x[i].data(), uint32_t(i % classes));
        for (size_t parts : {1, 2, 7, 1000}) {
            std::vector<float> sum(SOFTMAX_LIMBS * one.raw.n_sums), limbs(sum.size());
            Model part(classes, width, 4 * scale);
            for (uint64_t i = 0; i < classes * (width + 1); i++)
                part.raw.weight[i] = one.raw.weight[i];
            for (size_t p = 0; p < parts; p++) {
                softmax_clear(&part.raw);
                for (size_t i = p; i < n; i += parts)
                    softmax_add(&part.raw, x[i].data(), uint32_t(i % classes));
                softmax_split(&part.raw, limbs.data());
                for (size_t i = 0; i < sum.size(); i++)
                    sum[i] += limbs[i];
            }
            softmax_join(&part.raw, sum.data());
            for (uint64_t i = 0; i < one.raw.n_sums; i++)
                ASSERT_EQ(one.raw.sums[i], part.raw.sums[i]) << parts << " parts, sum " << i;
        }
    }
}

TEST(Softmax, BearsTheLargestSums)
{
    Model m(2, 1, 1);
    const float x[] = {1};
    /* As if all of a full batch were as wrong as can be. */
    softmax_clear(&m.raw);
    m.raw.sums[0] = int64_t(std::ldexp(1, 40)) * SOFTMAX_MAX_BATCH;
    m.raw.sums[1] = -m.raw.sums[0];
    m.raw.sums[2] = -1;
    m.raw.sums[3] = INT64_C(-4096);
    std::vector<int64_t> before(m.raw.sums, m.raw.sums + m.raw.n_sums);
    std::vector<float> limbs(SOFTMAX_LIMBS * m.raw.n_sums);
    softmax_split(&m.raw, limbs.data());
    softmax_join(&m.raw, limbs.data());
    EXPECT_EQ(before, std::vector<int64_t>(m.raw.sums, m.raw.sums + m.raw.n_sums));
    /* A loss beyond all measure is a large one. */
    m.raw.weight[0] = 1e300;
    softmax_clear(&m.raw);
    softmax_add(&m.raw, x, 1);
    EXPECT_EQ(softmax_loss(&m.raw), 1000);
}

} // namespace
