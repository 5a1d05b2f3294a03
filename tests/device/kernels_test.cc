/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's own kernels: every instruction set that this machine has gives what the plainest one
 * does, and the ladder of rows keeps its promises. */
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
#include "device/cpu_kernels.h"
#include "device/cpu_products.h"
}

namespace
{

std::vector<const cpu_kernels *> all_kernels()
{
    std::vector<const cpu_kernels *> all = {&cpu_kernels_generic};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        all.push_back(&cpu_kernels_avx2);
    if (cpu_kernels_select() == &cpu_kernels_avx512)
        all.push_back(&cpu_kernels_avx512);
#endif
    return all;
}

std::vector<float> random_floats(size_t n, uint32_t seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> v(n);
    for (float &x : v)
        x = normal(random);
    return v;
}

std::vector<float> attend(const cpu_kernels *kernels, const std::vector<float> &qkv, size_t n,
                          size_t first, size_t count, size_t d)
{
    size_t bytes = (kernels->attention_scratch(count, n, d) + 63) / 64 * 64;
    void *scratch = aligned_alloc(64, bytes);
    std::vector<float> out(count * d);
    cpu_attention_task task = {};
    task.queries = qkv.data() + first * 3 * d;
    task.keys = qkv.data() + d;
    task.values = qkv.data() + 2 * d;
    task.stride = 3 * d;
    task.n_queries = count;
    task.n_keys = n;
    task.head_size = d;
    task.scale = 0.3f;
    task.output = out.data();
    task.output_stride = d;
    task.scratch = scratch;
    kernels->attention(&task);
    free(scratch);
    return out;
}

TEST(kernels, attention_is_alike_on_all_instruction_sets)
{
    for (size_t d : {5, 16, 32, 64})
        for (size_t n : {1, 15, 16, 31, 100}) {
            std::vector<float> qkv = random_floats(n * 3 * d, (uint32_t)(n * d));
            std::vector<float> plain = attend(&cpu_kernels_generic, qkv, n, n / 2, n - n / 2, d);
            for (const cpu_kernels *kernels : all_kernels()) {
                std::vector<float> got = attend(kernels, qkv, n, n / 2, n - n / 2, d);
                for (size_t i = 0; i < got.size(); i++)
                    ASSERT_NEAR(plain[i], got[i], 2e-6)
                        << kernels->name << " d " << d << " n " << n;
            }
        }
}

TEST(kernels, attention_keeps_a_nan)
{
    for (const cpu_kernels *kernels : all_kernels()) {
        std::vector<float> qkv = random_floats(20 * 3 * 32, 1);
        qkv[7 * 96 + 32] = NAN; /* a key */
        std::vector<float> got = attend(kernels, qkv, 20, 0, 20, 32);
        EXPECT_TRUE(std::isnan(got[0])) << kernels->name;
    }
}

TEST(kernels, bf16_rounds_to_nearest_even)
{
    const uint32_t bits[] = {0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff,
                             0xff800000, 0x7f800001, 0x00000001, 0x80000000, 0x40490fdb};
    const uint16_t expected[] = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x7f80,
                                 0xff80, 0x7fc0, 0x0000, 0x8000, 0x4049};
    std::vector<float> in(40);
    for (size_t i = 0; i < in.size(); i++)
        memcpy(&in[i], &bits[i % 10], 4);
    for (const cpu_kernels *kernels : all_kernels())
        for (size_t n : {1, 10, 37, 40}) {
            std::vector<uint16_t> out(n);
            kernels->to_bf16(in.data(), n, out.data());
            for (size_t i = 0; i < n; i++)
                EXPECT_EQ(expected[i % 10], out[i]) << kernels->name << " element " << i;
            std::vector<float> back(n);
            kernels->from_bf16(out.data(), n, back.data());
            for (size_t i = 0; i < n; i++) {
                uint32_t wide;
                memcpy(&wide, &back[i], 4);
                EXPECT_EQ((uint32_t)expected[i % 10] << 16, wide);
            }
        }
}

TEST(ladder, rungs_are_near)
{
    int64_t below = 0;
    for (int64_t rows = 1; rows <= CPU_LADDER_TOP; rows++) {
        int64_t rung = cpu_ladder_rung(rows);
        ASSERT_GE(rung, rows);
        ASSERT_LE(rung - rows, 15);
        ASSERT_LE((double)rung, 1.25 * (double)rows + 1) << rows;
        ASSERT_EQ(rung, cpu_ladder_rung(rung)) << rows;
        ASSERT_GE(rung, below);
        below = rung;
    }
    EXPECT_EQ(CPU_LADDER_TOP, cpu_ladder_rung(CPU_LADDER_TOP));
}

} // namespace
