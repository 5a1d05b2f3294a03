/* SPDX-License-Identifier: Apache-2.0 */
/* What collectives compute, with ranks that are threads; collectives_failure_test.cc has processes
 * and what goes wrong. */
#include <cmath>
#include <mutex>
#include <tuple>

#include "device/device_case.h"
#include "device/ranks.h"

using namespace gpu_sched_test;

namespace
{

/* One element, some, those around the piece's and the small path's ends, and several pieces. */
const uint64_t counts[] = {1, 3, 4096, 4097, 50001, 524289, 1100003};

/* Not exact in FP32 when it is added up in another order. */
float value_of(uint32_t r, uint64_t i)
{
    uint32_t h = (uint32_t)i * 2654435761u ^ (r + 1) * 0x9e3779b9u;
    h ^= h >> 15;
    return (float)(int32_t)h / (float)(1u << (h & 15));
}

std::vector<float> values_of(uint32_t r, uint64_t n)
{
    std::vector<float> values(n);
    for (uint64_t i = 0; i < n; i++)
        values[i] = value_of(r, i);
    return values;
}

std::vector<uint16_t> narrow(const std::vector<float> &wide)
{
    std::vector<uint16_t> values;
    for (float v : wide)
        values.push_back(bf16_of(v));
    return values;
}

/* A device, and how many ranks. */
using gang = std::tuple<device_case, uint32_t>;

class collectives : public testing::TestWithParam<gang>
{
  protected:
    const device_case &which() const
    {
        return std::get<0>(GetParam());
    }
    void run(const std::function<void(rank &)> &body) const
    {
        run_threads(which(), std::get<1>(GetParam()), body);
    }
    /* Kernels in the emulator and under a sanitizer take a thousand times as long. */
    std::vector<uint64_t> amounts() const
    {
        std::vector<uint64_t> all(std::begin(counts), std::end(counts));
#if defined(__SANITIZE_ADDRESS__)
        if (which().name == "emulated")
            all.resize(5);
#endif
        return all;
    }
    /* The same number, to the bit where the device promises that. */
    void same(float expected, float got, const std::string &where) const
    {
        if (which().exact)
            EXPECT_EQ(expected, got) << where;
        else
            EXPECT_NEAR(expected, got, 1e-5 * std::max(1.0f, std::fabs(expected))) << where;
    }
};

std::string gang_name(const testing::TestParamInfo<gang> &info)
{
    return std::get<0>(info.param).name + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(ranks, collectives,
                         testing::Combine(testing::ValuesIn(gang_devices()),
                                          testing::Values(1u, 2u, 3u, 5u)),
                         gang_name);

TEST_P(collectives, all_reduce_adds_up_in_the_order_of_the_ranks)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            auto *input = own.buffer(values_of(own.number, n));
            auto *output = own.buffer(LIBSCHED_FP32, n);
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, input, output, n))
                << own.err.message;
            std::vector<float> got = own.read<float>(output, n);
            for (uint64_t i = 0; i < n; i++) {
                volatile float sum = value_of(0, i);
                for (uint32_t r = 1; r < own.n_ranks; r++)
                    sum = sum + value_of(r, i);
                same(sum, got[i], std::to_string(n) + " elements, element " + std::to_string(i));
            }
            /* In place it is the same. */
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, input, input, n));
            ASSERT_EQ(got, own.read<float>(input, n));
        }
    });
}

TEST_P(collectives, all_reduce_of_bf16_carries_sums_in_fp32)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            auto *input = own.buffer(narrow(values_of(own.number, n)));
            auto *output = own.buffer(LIBSCHED_BF16, n);
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, input, output, n))
                << own.err.message;
            std::vector<uint16_t> got = own.read<uint16_t>(output, n);
            for (uint64_t i = 0; i < n; i++) {
                volatile float sum = (float)of_bf16(bf16_of(value_of(0, i)));
                for (uint32_t r = 1; r < own.n_ranks; r++)
                    sum = sum + (float)of_bf16(bf16_of(value_of(r, i)));
                /* Beside a tie, another order may round the other way. */
                if (which().exact)
                    ASSERT_EQ(bf16_of(sum), got[i]) << n << " elements, element " << i;
                else
                    ASSERT_NEAR(sum, of_bf16(got[i]), std::fabs(sum) / 200 + 1e-3);
            }
        }
    });
}

TEST_P(collectives, all_reduce_finds_the_largest)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            auto *input = own.buffer(values_of(own.number, n));
            auto *output = own.buffer(LIBSCHED_FP32, n);
            ASSERT_EQ(LIBSCHED_OK,
                      own.run(own.driver->all_reduce, input, output, n, LIBSCHED_REDUCE_MAX));
            std::vector<float> got = own.read<float>(output, n);
            for (uint64_t i = 0; i < n; i++) {
                float largest = value_of(0, i);
                for (uint32_t r = 1; r < own.n_ranks; r++)
                    largest = std::max(largest, value_of(r, i));
                ASSERT_EQ(largest, got[i]);
            }
        }
    });
}

TEST_P(collectives, what_is_not_finite_stays_so)
{
    run([&](rank &own) {
        const bool last = own.number + 1 == own.n_ranks;
        std::vector<float> values = {last ? NAN : 1, last ? INFINITY : 2, 3};
        auto *output = own.buffer(LIBSCHED_FP32, 3);
        auto *wide = own.buffer(values);
        for (uint32_t reduction : {LIBSCHED_REDUCE_SUM, LIBSCHED_REDUCE_MAX}) {
            /* The largest, to NCCL, is that of the numbers. */
            if (reduction == LIBSCHED_REDUCE_MAX && !which().exact)
                continue;
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, wide, output, 3, reduction));
            std::vector<float> got = own.read<float>(output, 3);
            EXPECT_TRUE(std::isnan(got[0]));
            EXPECT_TRUE(std::isinf(got[1]));
        }
        auto *half = own.buffer(LIBSCHED_BF16, 3);
        auto *thin = own.buffer(narrow(values));
        ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, thin, half, 3));
        std::vector<uint16_t> got = own.read<uint16_t>(half, 3);
        EXPECT_TRUE(std::isnan(of_bf16(got[0])));
        EXPECT_TRUE(std::isinf(of_bf16(got[1])));
    });
}

TEST_P(collectives, broadcast_gives_everybody_the_roots)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            for (uint32_t root = 0; root < own.n_ranks; root++) {
                auto *output = own.buffer(LIBSCHED_FP32, n);
                const libsched_device_buffer *input = nullptr;
                if (root == own.number)
                    input = own.buffer(values_of(root, n));
                ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->broadcast, input, output, n,
                                               LIBSCHED_REDUCE_SUM, root))
                    << own.err.message;
                ASSERT_EQ(values_of(root, n), own.read<float>(output, n));
            }
        }
    });
}

TEST_P(collectives, all_gather_keeps_the_order_of_the_ranks)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            auto *input = own.buffer(values_of(own.number, n));
            auto *output = own.buffer(LIBSCHED_FP32, n * own.n_ranks);
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->all_gather, input, output, n));
            std::vector<float> expected;
            for (uint32_t r = 0; r < own.n_ranks; r++) {
                std::vector<float> part = values_of(r, n);
                expected.insert(expected.end(), part.begin(), part.end());
            }
            ASSERT_EQ(expected, own.read<float>(output, n * own.n_ranks));
        }
    });
}

TEST_P(collectives, reduce_scatter_gives_each_its_share)
{
    run([&](rank &own) {
        for (uint64_t n : amounts()) {
            auto *input = own.buffer(values_of(own.number, n * own.n_ranks));
            auto *output = own.buffer(LIBSCHED_FP32, n);
            ASSERT_EQ(LIBSCHED_OK, own.run(own.driver->reduce_scatter, input, output, n));
            std::vector<float> got = own.read<float>(output, n);
            for (uint64_t i = 0; i < n; i++) {
                const uint64_t at = own.number * n + i;
                volatile float sum = value_of(0, at);
                for (uint32_t r = 1; r < own.n_ranks; r++)
                    sum = sum + value_of(r, at);
                same(sum, got[i], std::to_string(n) + " elements, element " + std::to_string(i));
            }
        }
    });
}

/* Nobody overwrites what another has not read yet, whichever operations follow each other. */
TEST_P(collectives, follow_each_other_without_a_pause)
{
    run([&](rank &own) {
        const uint64_t n = 5000;
        std::vector<float> ones(n * own.n_ranks);
        for (int round = 0; round < 100; round++) {
            std::fill(ones.begin(), ones.end(), (float)(round + own.number));
            auto *input = own.buffer(ones);
            auto *output = own.buffer(LIBSCHED_FP32, n * own.n_ranks);
            const float sum = (float)(own.n_ranks * round + own.n_ranks * (own.n_ranks - 1) / 2);
            float expected = sum;
            uint64_t count = round % 7 == 0 ? n : 100;
            switch (round % 5) {
            case 0:
                own.run(own.driver->all_reduce, input, output, count);
                break;
            case 1:
                own.run(own.driver->broadcast, input, output, count, 0,
                        (uint32_t)round % own.n_ranks);
                expected = (float)(round + (uint32_t)round % own.n_ranks);
                break;
            case 2:
                own.run(own.driver->all_gather, input, output, count);
                expected = (float)round;
                break;
            case 3:
                own.run(own.driver->reduce_scatter, input, output, count);
                break;
            default:
                own.barrier();
                continue;
            }
            ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
            std::vector<float> got = own.read<float>(output, n * own.n_ranks);
            ASSERT_EQ(expected, got[0]) << "round " << round;
            ASSERT_EQ(expected, got[count - 1]) << "round " << round;
        }
    });
}

TEST_P(collectives, nothing_is_an_amount_as_well)
{
    run([&](rank &own) {
        auto *input = own.buffer(LIBSCHED_FP32, 1), *output = own.buffer(LIBSCHED_FP32, 1);
        EXPECT_EQ(LIBSCHED_OK, own.run(own.driver->all_reduce, input, output, 0));
        EXPECT_EQ(LIBSCHED_OK, own.run(own.driver->broadcast, input, output, 0));
        EXPECT_EQ(LIBSCHED_OK, own.run(own.driver->all_gather, input, output, 0));
        EXPECT_EQ(LIBSCHED_OK, own.run(own.driver->reduce_scatter, input, output, 0));
    });
}

/* Refused before anything is written: the other ranks hear nothing of it. */
class collectives_arguments : public testing::TestWithParam<device_case>
{
};
INSTANTIATE_TEST_SUITE_P(devices, collectives_arguments, testing::ValuesIn(gang_devices()),
                         device_case_name);

TEST_P(collectives_arguments, are_checked)
{
    run_threads(GetParam(), 1, [](rank &own) {
        auto *small = own.buffer(LIBSCHED_FP32, 4), *large = own.buffer(LIBSCHED_FP32, 8);
        auto *half = own.buffer(LIBSCHED_BF16, 8);
        auto *reduce = own.driver->all_reduce;
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, nullptr, large, 4));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, large, nullptr, 4));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, large, small, 5)) << own.err.message;
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, small, large, 5));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, half, large, 4));
        EXPECT_STREQ("all_reduce: the input is BF16, the other buffer FP32", own.err.message);
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, small, large, 4, 9));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(reduce, small, large, UINT64_MAX));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(own.driver->broadcast, small, large, 4, 0, 1));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(own.driver->all_gather, small, small, 4));
        EXPECT_EQ(LIBSCHED_EINVAL, own.run(own.driver->reduce_scatter, small, small, 4));
        EXPECT_EQ(LIBSCHED_OK, own.run(reduce, small, large, 4)) << own.err.message;
    });
}

TEST_P(collectives_arguments, of_a_communicator_are_checked)
{
    shared_memory shared(2);
    rank alone(GetParam(), shared, 2, 2);
    EXPECT_EQ(LIBSCHED_EINVAL, alone.status);
    rank none(GetParam(), shared, 0, 0);
    EXPECT_EQ(LIBSCHED_EINVAL, none.status);
    rank many(GetParam(), shared, 0, 3);
    EXPECT_EQ(LIBSCHED_EINVAL, many.status);
    EXPECT_STREQ("a communicator of 3 ranks takes 16777216 bytes of shared memory at a page's "
                 "beginning, got 12582912",
                 many.err.message);
}

} // namespace
