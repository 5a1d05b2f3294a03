/* SPDX-License-Identifier: Apache-2.0 */
/* What devices other than the CPU offer beyond the operations: rows of them that are recorded, and
 * copies straight from and to the host's memory. */
#include <algorithm>

#include <sys/mman.h>
#include <unistd.h>

#include "device/arguments.h"
#include "device/device_case.h"

using namespace gpu_sched_test;

namespace
{

std::vector<device_case> accelerators()
{
    std::vector<device_case> all = all_devices();
    all.erase(std::remove_if(all.begin(), all.end(),
                             [](const device_case &c) { return c.driver == "cpu"; }),
              all.end());
    return all;
}

constexpr uint32_t hidden = 64, heads = 2, middle = 128, vocabulary = 50, longest = 100;

/* A layer of an encoder. */
struct sections : device_test {
    void make(uint32_t precision_)
    {
        precision = precision_;
        const auto table = LIBSCHED_WEIGHT_TABLE, product = LIBSCHED_WEIGHT_LINEAR,
                   vector = LIBSCHED_WEIGHT_VECTOR;
        words = weight(table, precision, random_matrix(vocabulary, hidden, 1));
        positions = weight(table, precision, random_matrix(longest, hidden, 2));
        gain = weight(vector, LIBSCHED_FP32, random_matrix(1, hidden, 3));
        shift = weight(vector, LIBSCHED_FP32, random_matrix(1, hidden, 4));
        to_qkv = weight(product, precision, random_matrix(3 * hidden, hidden, 5, 0.2));
        to_states = weight(product, precision, random_matrix(hidden, hidden, 6, 0.2));
        up = weight(product, precision, random_matrix(middle, hidden, 7, 0.2));
        up_bias = weight(vector, LIBSCHED_FP32, random_matrix(1, middle, 8));
        down = weight(product, precision, random_matrix(hidden, middle, 9, 0.2));
        states = buffer(LIBSCHED_FP32, 256, hidden);
        half = precision == LIBSCHED_BF16 ? buffer(LIBSCHED_BF16, 256, hidden) : nullptr;
        qkv = buffer(precision, 256, 3 * hidden);
        context = buffer(precision, 256, hidden);
        inner = buffer(precision, 256, middle);
        pooled = buffer(LIBSCHED_FP32, 32, hidden);
        ASSERT_EQ(LIBSCHED_OK, driver->sequences_create(device, &batch, 32, 256, &err));
    }
    void unmake()
    {
        driver->section_destroy(device, it);
        driver->sequences_destroy(device, batch);
        it = nullptr;
    }
    void linear(const libsched_device_buffer *input, const libsched_device_weight *w,
                const libsched_device_weight *bias, uint32_t activation, bool accumulate,
                libsched_device_buffer *output)
    {
        const auto args = linear_args(tokens, input, w, bias, activation, accumulate, output);
        EXPECT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
    }
    void norm()
    {
        const auto args = norm_args(tokens, states, gain, shift, half);
        EXPECT_EQ(LIBSCHED_OK, driver->norm(device, &args, &err)) << err.message;
    }
    void operations()
    {
        const auto embed = embed_args(batch, words, positions, gain, shift, states, half);
        const auto attention = attention_args(batch, qkv, heads, hidden / heads, 0.2f, context);
        const auto pool = pool_args(batch, states, LIBSCHED_POOLING_MEAN, true, pooled);
        const auto *input = half != nullptr ? half : states;
        EXPECT_EQ(LIBSCHED_OK, driver->embed(device, &embed, &err)) << err.message;
        linear(input, to_qkv, nullptr, LIBSCHED_ACTIVATION_NONE, false, qkv);
        EXPECT_EQ(LIBSCHED_OK, driver->attention(device, &attention, &err)) << err.message;
        linear(context, to_states, gain, LIBSCHED_ACTIVATION_NONE, true, states);
        norm();
        linear(input, up, up_bias, LIBSCHED_ACTIVATION_GELU, false, inner);
        linear(inner, down, nullptr, LIBSCHED_ACTIVATION_NONE, true, states);
        norm();
        EXPECT_EQ(LIBSCHED_OK, driver->pool(device, &pool, &err)) << err.message;
    }
    /* As a section, or by themselves. */
    std::vector<float> run(const std::vector<uint32_t> &lengths, int32_t seed, bool section)
    {
        std::vector<uint32_t> starts = {0};
        std::vector<int32_t> ids;
        bool again = section;
        for (uint32_t length : lengths)
            starts.push_back(starts.back() + length);
        tokens = starts.back();
        for (uint32_t t = 0; t < tokens; t++)
            ids.push_back(((int32_t)t * 7 + seed) % (int32_t)vocabulary);
        EXPECT_EQ(LIBSCHED_OK, driver->sequences_set(device, batch, (uint32_t)lengths.size(),
                                                     starts.data(), ids.data(), &err));
        given = false;
        while (again) {
            EXPECT_EQ(LIBSCHED_OK, driver->section_begin(device, it, 0, &given, &err))
                << err.message;
            if (given)
                break;
            operations();
            EXPECT_EQ(LIBSCHED_OK, driver->section_end(device, it, LIBSCHED_OK, &again, &err))
                << err.message;
        }
        if (!section)
            operations();
        std::vector<float> got(lengths.size() * hidden);
        EXPECT_EQ(LIBSCHED_OK,
                  driver->download(device, pooled, 0, lengths.size(), got.data(), &err));
        EXPECT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
        return got;
    }

    uint32_t precision = 0, tokens = 0;
    libsched_device_weight *words, *positions, *gain, *shift, *to_qkv, *to_states, *up, *up_bias,
        *down;
    libsched_device_buffer *states, *half, *qkv, *context, *inner, *pooled;
    libsched_device_sequences *batch = nullptr;
    libsched_device_section *it = nullptr;
    bool given = false;
};
INSTANTIATE_TEST_SUITE_P(devices, sections, testing::ValuesIn(accelerators()), device_case_name);

TEST_P(sections, compute_the_same_at_once)
{
    for (uint32_t datatype : {LIBSCHED_FP32, LIBSCHED_BF16}) {
        uint64_t bytes = 0;
        make(datatype);
        ASSERT_EQ(LIBSCHED_OK, driver->section_create(device, &it, batch, &bytes, &err));
        /* All of them are four sequences of 96 tokens when they are rounded up. */
        const std::vector<std::vector<uint32_t>> lengths = {
            {30, 30, 30}, {20, 70, 1}, {96 - 63, 1, 60, 2}, {80, 1, 1}, {24, 24, 24, 24},
        };
        for (size_t i = 0; i < lengths.size(); i++) {
            const auto expected = run(lengths[i], (int32_t)i, false);
            EXPECT_EQ(expected, run(lengths[i], (int32_t)i, true)) << "batch " << i;
            EXPECT_EQ(i >= 2, given) << "it is recorded the second time, or says why not";
        }
        unmake();
    }
}

/* ---------------------------------------------------------------------------------- host memory */

using host_memory = device_test;
INSTANTIATE_TEST_SUITE_P(devices, host_memory, testing::ValuesIn(accelerators()), device_case_name);

TEST_P(host_memory, is_copied_from_and_to)
{
    constexpr uint64_t row = 4096, rows = 24 * 256;
    const int fd = memfd_create("host_memory", MFD_CLOEXEC);
    ASSERT_EQ(0, ftruncate(fd, 2 * rows * row));
    auto map = [&](int protection, uint64_t at) {
        return static_cast<float *>(
            mmap(nullptr, rows * row, protection, MAP_SHARED | MAP_NORESERVE, fd, (off_t)at));
    };
    float *inputs = map(PROT_READ | PROT_WRITE, 0),
          *results = map(PROT_READ | PROT_WRITE, rows * row);
    float *only_read = map(PROT_READ, 0);
    close(fd);
    auto *b = buffer(LIBSCHED_FP32, rows, row / sizeof(float));
    for (auto [memory, flags] :
         {std::pair<float *, uint32_t>{results, 0}, {only_read, LIBSCHED_HOST_READ_ONLY}}) {
        libsched_device_host_args args = {};
        args.struct_size = sizeof(args);
        args.flags = flags;
        args.memory = memory;
        args.size = rows * row;
        ASSERT_EQ(LIBSCHED_OK, driver->host_register(device, &args, &err)) << err.message;
    }
    for (int i = 0; i < 3; i++) {
        for (uint64_t at = 0; at < rows * row / sizeof(float); at++)
            inputs[at] = (float)((at + (uint64_t)i) % 65521);
        ASSERT_EQ(LIBSCHED_OK, driver->upload(device, b, 0, rows, only_read, &err)) << err.message;
        ASSERT_EQ(LIBSCHED_OK, driver->download(device, b, 0, rows, results, &err)) << err.message;
        ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
        EXPECT_TRUE(std::equal(inputs, inputs + rows * row / sizeof(float), results));
    }
    driver->host_unregister(device, results);
    driver->host_unregister(device, only_read);
    for (float *memory : {inputs, results, only_read})
        munmap(memory, rows * row);
}

} // namespace
