/* SPDX-License-Identifier: Apache-2.0 */
/* A part of what was given to a device can be waited for, and the rest goes on. */
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

struct marks : testing::Test {
    void SetUp() override
    {
        fake_cuda_reset();
        fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
        ASSERT_EQ(LIBSCHED_OK, open_device(emulated_case, 0, &driver, &device, &err))
            << err.message;
        ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &b, LIBSCHED_FP32, 1, 4, &err));
    }
    void TearDown() override
    {
        driver->buffer_destroy(device, b);
        driver->close(device);
        fake_cuda_reset();
        fake_cuda_policy(FAKE_RANDOM, 1);
    }
    /* Gives the device a value and asks for it back. */
    uint64_t there_and_back(float value, std::vector<float> &to)
    {
        const std::vector<float> values(4, value);
        uint64_t mark = 0;
        to.assign(4, -1);
        EXPECT_EQ(LIBSCHED_OK, driver->upload(device, b, 0, 1, values.data(), &err)) << err.message;
        EXPECT_EQ(LIBSCHED_OK, driver->download(device, b, 0, 1, to.data(), &err)) << err.message;
        EXPECT_EQ(LIBSCHED_OK, driver->mark(device, &mark, &err)) << err.message;
        return mark;
    }

    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_device_buffer *b = nullptr;
    libsched_error err = {};
};

TEST_F(marks, are_reached_one_by_one)
{
    std::vector<float> first, second;
    const uint64_t a = there_and_back(1, first), c = there_and_back(2, second);
    EXPECT_LT(a, c);
    EXPECT_EQ(LIBSCHED_EBUSY, driver->reached(device, a, false, &err));
    EXPECT_EQ(std::vector<float>(4, -1), first);
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, a, true, &err)) << err.message;
    EXPECT_EQ(std::vector<float>(4, 1), first);
    EXPECT_EQ(std::vector<float>(4, -1), second) << "nobody waited for it yet";
    while (driver->reached(device, c, false, &err) == LIBSCHED_EBUSY)
        ;
    EXPECT_EQ(std::vector<float>(4, 2), second);
    EXPECT_EQ(LIBSCHED_OK, driver->reached(device, a, false, &err)) << "it stays so";
}

TEST_F(marks, may_be_more_than_are_remembered)
{
    std::vector<float> got[40];
    uint64_t last = 0;
    for (int i = 0; i < 40; i++)
        last = there_and_back((float)i, got[i]);
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, last, true, &err)) << err.message;
    for (int i = 0; i < 40; i++)
        EXPECT_EQ(std::vector<float>(4, (float)i), got[i]);
}

TEST_F(marks, are_all_reached_when_everything_is_done)
{
    std::vector<float> got;
    const uint64_t mark = there_and_back(3, got);
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    EXPECT_EQ(std::vector<float>(4, 3), got);
    EXPECT_EQ(LIBSCHED_OK, driver->reached(device, mark, false, &err)) << err.message;
    EXPECT_EQ(LIBSCHED_EINVAL, driver->reached(device, mark + 1, false, &err));
    EXPECT_EQ(LIBSCHED_EINVAL, driver->reached(device, 0, true, &err));
}

/* What was downloaded went with it: none of them may look as if it were there. */
TEST_F(marks, before_one_that_failed_have_failed_too)
{
    std::vector<float> got[4];
    uint64_t at[4];
    for (int i = 0; i < 3; i++)
        at[i] = there_and_back((float)i, got[i]);
    fake_cuda_fail("cudaEventQuery", 0, 1);
    const int failure = driver->reached(device, at[1], true, &err);
    ASSERT_NE(LIBSCHED_OK, failure);
    ASSERT_NE(LIBSCHED_EDEVICELOST, failure);
    err = {};
    EXPECT_EQ(failure, driver->reached(device, at[0], false, &err));
    EXPECT_STRNE("", err.message);
    EXPECT_EQ(std::vector<float>(4, -1), got[0]);
    EXPECT_EQ(std::vector<float>(4, -1), got[1]);
    EXPECT_EQ(LIBSCHED_OK, driver->reached(device, at[2], true, &err)) << err.message;
    EXPECT_EQ(std::vector<float>(4, 2), got[2]);
    /* Of all of them together, too. */
    at[3] = there_and_back(3, got[3]);
    fake_cuda_fail("cudaEventRecord", 0, 1);
    ASSERT_NE(LIBSCHED_OK, driver->synchronize(device, &err));
    EXPECT_NE(LIBSCHED_OK, driver->reached(device, at[3], true, &err));
    EXPECT_EQ(std::vector<float>(4, -1), got[3]);
}

TEST_F(marks, of_a_device_that_is_lost_are_not_reached)
{
    std::vector<float> got;
    const uint64_t mark = there_and_back(3, got);
    fake_cuda_fail("cudaEventQuery", 0, 700);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, driver->reached(device, mark, true, &err));
    EXPECT_EQ(LIBSCHED_EDEVICELOST, driver->reached(device, mark, false, &err));
    uint64_t other = 0;
    EXPECT_EQ(LIBSCHED_EDEVICELOST, driver->mark(device, &other, &err));
    EXPECT_EQ(std::vector<float>(4, -1), got);
}

} // namespace
