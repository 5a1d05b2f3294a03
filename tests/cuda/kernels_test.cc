/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels by themselves, in the emulator: sizes that the table of operations does not reach, and
 * the two kernels of attention against each other. Memory is of exactly the size that is needed, so
 * AddressSanitizer finds what reaches beyond.
 */
#include <cmath>
#include <random>

#include "device/device_case.h"
#include "fake_cuda.h"
#include "kernels/kernels.h"

using namespace gpu_sched_test;

namespace
{

/* On the device, which is the host. */
template <class T> struct array {
    std::vector<T> values; /* nothing is behind its end */
    explicit array(size_t n) : values(n)
    {
        values.shrink_to_fit();
    }
};

struct kernels : testing::Test {
    cudaStream_t stream = nullptr;
    kernels()
    {
        EXPECT_EQ(cudaSuccess, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    ~kernels() override
    {
        EXPECT_EQ(cudaSuccess, cudaStreamDestroy(stream));
        fake_cuda_order(0, 1);
    }
    void finish()
    {
        while (cudaStreamQuery(stream) == cudaErrorNotReady) {
        }
    }
};

/* A batch with its blocks, as sequences.c describes it. */
struct batch {
    std::vector<uint32_t> starts = {0}, positions;
    std::vector<int32_t> ids;
    std::vector<kernel_block> blocks;
    explicit batch(const std::vector<uint32_t> &lengths)
    {
        for (uint32_t length : lengths) {
            for (uint32_t first = 0; first < length; first += KERNEL_BLOCK_QUERIES)
                blocks.push_back({starts.back(), first, length, 0});
            for (uint32_t t = 0; t < length; t++) {
                positions.push_back(t);
                ids.push_back((int32_t)t % 5);
            }
            starts.push_back(starts.back() + length);
        }
    }
    kernel_sequences view() const
    {
        return {starts.data(),
                ids.data(),
                positions.data(),
                blocks.data(),
                (uint32_t)starts.size() - 1,
                starts.back(),
                (uint32_t)blocks.size()};
    }
};

std::vector<uint16_t> random_halves(size_t n, uint32_t seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, 1.5);
    std::vector<uint16_t> values(n);
    for (uint16_t &v : values)
        v = bf16_of(normal(random));
    values.shrink_to_fit();
    return values;
}

TEST_F(kernels, attention_with_tensor_cores_is_that_without)
{
    const std::vector<uint32_t> lengths[] = {{1}, {64}, {65, 3}, {128, 17, 1}, {200}, {15, 16, 31}};
    int order = 0;
    for (uint32_t head_size : {1, 7, 8, 16, 24, 32, 33, 40, 64, 72, 96, 100, 128, 136, 256})
        for (const auto &l : lengths) {
            const batch b(l);
            const size_t tokens = b.starts.back(), heads = head_size > 64 ? 1 : 2;
            const std::vector<uint16_t> qkv = random_halves(tokens * 3 * heads * head_size, 1);
            array<uint16_t> tensor(tokens * heads * head_size), plain(tensor.values.size());
            kernel_attention_args args = {
                b.view(),        qkv.data(), tensor.values.data(),
                (uint32_t)heads, head_size,  1 / std::sqrt((float)head_size)};
            order++;
            fake_cuda_order(order % 3, (uint32_t)order);
            ASSERT_EQ(cudaSuccess, kernel_attention_bf16(&args, stream));
            args.output = plain.values.data();
            ASSERT_EQ(cudaSuccess, kernel_attention_bf16_plain(&args, stream));
            finish();
            double difference = 0;
            for (size_t i = 0; i < tensor.values.size(); i++)
                difference = std::max(
                    difference, std::fabs(of_bf16(tensor.values[i]) - of_bf16(plain.values[i])));
            /* Weights are rounded to BF16 in the one, and results in both. */
            EXPECT_LT(difference, 0.04) << "heads of " << head_size << ", " << l[0] << " tokens";
        }
}

/* A NaN among what others need is theirs as well, and nobody else's. */
TEST_F(kernels, attention_keeps_a_nan_where_it_belongs)
{
    const batch b({20, 30});
    std::vector<uint16_t> qkv = random_halves(50 * 96, 1);
    qkv[25 * 96 + 64 + 5] = 0x7fc0; /* a value of the second sequence */
    array<uint16_t> out(50 * 32);
    kernel_attention_args args = {b.view(), qkv.data(), out.values.data(), 1, 32, 0.2f};
    ASSERT_EQ(cudaSuccess, kernel_attention_bf16(&args, stream));
    finish();
    for (size_t t = 0; t < 50; t++)
        for (size_t c = 0; c < 32; c++)
            EXPECT_EQ(t >= 20 && c == 5, std::isnan(of_bf16(out.values[t * 32 + c])))
                << t << ", " << c;
}

TEST_F(kernels, norm_of_any_width)
{
    for (uint32_t columns : {1, 3, 4, 127, 128, 129, 256, 300, 384, 500, 512, 513, 640, 768, 1000,
                             1024, 1025, 1028, 3000})
        for (uint64_t rows : {1, 5}) {
            matrix x = random_matrix(rows, columns, 1, 3), r = random_matrix(rows, columns, 2);
            matrix gain = random_matrix(1, columns, 3), shift = random_matrix(1, columns, 4);
            std::vector<float> input(x.values.begin(), x.values.end());
            std::vector<float> residual(r.values.begin(), r.values.end());
            std::vector<float> g(gain.values.begin(), gain.values.end());
            std::vector<float> s(shift.values.begin(), shift.values.end());
            array<uint16_t> half(rows * columns);
            /* In place. */
            kernel_residual_args args = {
                input.data(),
                residual.data(),
                rows,
                {g.data(), s.data(), 1e-5f, columns, input.data(), half.values.data()}};
            ASSERT_EQ(cudaSuccess, kernel_residual(&args, stream));
            finish();
            for (size_t i = 0; i < rows; i++) {
                double mean = 0, square = 0;
                for (size_t c = 0; c < columns; c++)
                    mean += (x.at(i, c) + r.at(i, c)) / columns;
                for (size_t c = 0; c < columns; c++)
                    square += std::pow(x.at(i, c) + r.at(i, c) - mean, 2) / columns;
                for (size_t c = 0; c < columns; c++) {
                    const double y =
                        (x.at(i, c) + r.at(i, c) - mean) / std::sqrt(square + 1e-5) * g[c] + s[c];
                    ASSERT_NEAR(y, input[i * columns + c], 1e-4) << columns << " columns, " << c;
                    ASSERT_NEAR(y, of_bf16(half.values[i * columns + c]), 0.1);
                }
            }
        }
}

TEST_F(kernels, embedding_of_any_width_and_datatype)
{
    for (uint32_t columns : {5, 64, 130, 384, 1200})
        for (bool bf16 : {true, false}) {
            const batch b({3, 1, 6});
            const size_t tokens = b.starts.back();
            matrix words = random_matrix(5, columns, 1), positions = random_matrix(6, columns, 2);
            matrix types = random_matrix(1, columns, 3);
            auto pack = [&](const matrix &m) {
                std::vector<unsigned char> data;
                for (double v : m.values) {
                    const float f = (float)v;
                    const uint16_t h = bf16_of(v);
                    const auto *from = bf16 ? (const unsigned char *)&h : (const unsigned char *)&f;
                    data.insert(data.end(), from, from + (bf16 ? 2 : 4));
                }
                data.shrink_to_fit();
                return data;
            };
            const auto w = pack(words), p = pack(positions), t = pack(types);
            std::vector<float> ones(columns, 1), zeros(columns, 0);
            array<float> out(tokens * columns);
            kernel_embed_args args = {
                b.view(),
                {w.data(), bf16},
                {p.data(), bf16},
                {t.data(), bf16},
                {ones.data(), zeros.data(), 1e-12f, columns, out.values.data(), nullptr}};
            ASSERT_EQ(cudaSuccess, kernel_embed(&args, stream));
            finish();
            for (size_t i = 0; i < tokens; i++) {
                auto x = [&](size_t c) {
                    return words.at((size_t)b.ids[i], c) + positions.at(b.positions[i], c) +
                           types.at(0, c);
                };
                double mean = 0, square = 0;
                for (size_t c = 0; c < columns; c++)
                    mean += x(c) / columns;
                for (size_t c = 0; c < columns; c++)
                    square += std::pow(x(c) - mean, 2) / columns;
                for (size_t c = 0; c < columns; c++)
                    ASSERT_NEAR((x(c) - mean) / std::sqrt(square), out.values[i * columns + c],
                                1e-4)
                        << columns << " columns";
            }
        }
}

/* The square of what is pooled is neither too large nor too small for a float. */
TEST_F(kernels, pooling_normalises_what_is_very_large_or_small)
{
    const batch b({2, 1});
    for (float scale : {1e-25f, 1.0f, 1e25f}) {
        std::vector<float> input(3 * 300);
        for (size_t i = 0; i < input.size(); i++)
            input[i] = scale * (float)(i % 7 + 1);
        array<float> out(2 * 300);
        kernel_pool_args args = {b.view(), input.data(), out.values.data(), 300, KERNEL_MEAN, true};
        ASSERT_EQ(cudaSuccess, kernel_pool(&args, stream));
        finish();
        for (int r = 0; r < 2; r++) {
            double square = 0;
            for (int c = 0; c < 300; c++)
                square += std::pow(out.values[(size_t)(r * 300 + c)], 2);
            /* What is divided by 1e-12 at the least is not a length of 1. */
            if (scale > 1e-20f)
                EXPECT_NEAR(1, square, 1e-5) << scale;
            else
                EXPECT_LT(square, 1e-10);
        }
    }
}

TEST_F(kernels, conversions_go_forth_and_back)
{
    const std::vector<uint16_t> halves = random_halves(70001, 1);
    array<float> wide(halves.size());
    array<uint16_t> back(halves.size());
    ASSERT_EQ(cudaSuccess, kernel_widen(halves.data(), halves.size(), wide.values.data(), stream));
    ASSERT_EQ(cudaSuccess,
              kernel_narrow(wide.values.data(), halves.size(), back.values.data(), stream));
    finish();
    EXPECT_EQ(halves, back.values);
}

} // namespace
