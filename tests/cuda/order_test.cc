/* SPDX-License-Identifier: Apache-2.0 */
/* What is computed does not depend on what the device does first, of all that it may. */
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

#if defined(__SANITIZE_ADDRESS__)
constexpr uint32_t seeds = 4;
#else
constexpr uint32_t seeds = 12;
#endif

struct order : testing::TestWithParam<uint32_t> {
    ~order() override
    {
        fake_cuda_policy(FAKE_RANDOM, 1);
        fake_cuda_order(0, 1);
    }
};
INSTANTIATE_TEST_SUITE_P(precisions, order, testing::Values(LIBSCHED_FP32, LIBSCHED_BF16));

void expect_same(const pipeline_result &expected, const pipeline_result &got)
{
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.err.message;
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(expected.embeddings[i], got.embeddings[i]) << "batch " << i;
    EXPECT_EQ(0u, fake_cuda_live()) << "something was left behind";
}

TEST_P(order, of_streams_is_as_good_as_any_other)
{
    fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
    const pipeline_result expected = run_pipeline(GetParam());
    ASSERT_EQ(LIBSCHED_OK, expected.status) << expected.err.message;
    fake_cuda_policy(FAKE_NEWEST_FIRST, 1);
    expect_same(expected, run_pipeline(GetParam()));
    for (uint32_t seed = 0; seed < seeds; seed++) {
        SCOPED_TRACE(seed);
        fake_cuda_policy(FAKE_RANDOM, seed);
        expect_same(expected, run_pipeline(GetParam()));
    }
}

TEST_P(order, of_threads_in_a_block_is_as_good_as_any_other)
{
    fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
    const pipeline_result expected = run_pipeline(GetParam());
    ASSERT_EQ(LIBSCHED_OK, expected.status) << expected.err.message;
    fake_cuda_order(1, 1);
    expect_same(expected, run_pipeline(GetParam()));
    for (uint32_t seed = 0; seed < seeds / 4; seed++) {
        SCOPED_TRACE(seed);
        fake_cuda_order(2, seed);
        expect_same(expected, run_pipeline(GetParam()));
    }
}

/* Copies larger than the rings, and more of them than they have pieces. */
TEST(copies, of_any_size_arrive)
{
    const libsched_device_driver *driver;
    libsched_device *device;
    libsched_error err = {};
    ASSERT_EQ(LIBSCHED_OK, open_device(emulated_case, 0, &driver, &device, &err)) << err.message;
    const uint64_t rows = 9000, columns = 1000;
    libsched_device_buffer *b = nullptr;
    ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &b, LIBSCHED_FP32, rows, columns, &err));
    std::vector<float> values(rows * columns), got(rows * columns);
    for (size_t i = 0; i < values.size(); i++)
        values[i] = (float)(i % 16777213);
    ASSERT_EQ(LIBSCHED_OK, driver->upload(device, b, 0, rows, values.data(), &err)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, driver->download(device, b, 0, rows, got.data(), &err)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    EXPECT_EQ(values, got);
    /* Many small ones, forth and back. */
    std::fill(got.begin(), got.end(), 0);
    for (uint64_t r = 0; r < 300; r++) {
        ASSERT_EQ(LIBSCHED_OK, driver->upload(device, b, r, 1, &values[(r + 1) * columns], &err));
        ASSERT_EQ(LIBSCHED_OK, driver->download(device, b, r, 1, &got[r * columns], &err));
    }
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    for (uint64_t i = 0; i < 300 * columns; i++)
        ASSERT_EQ(values[i + columns], got[i]) << i;
    driver->buffer_destroy(device, b);
    driver->close(device);
    EXPECT_EQ(0u, fake_cuda_live());
}

} // namespace
