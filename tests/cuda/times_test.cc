/* SPDX-License-Identifier: Apache-2.0 */
/* How long the device computes, for who has named a file for it. */
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "pipeline.h"
#include "support/folder.h"
#include "times.h"

using namespace gpu_sched_test;

namespace
{

struct times : testing::Test {
    times()
    {
        fake_cuda_reset();
        setenv(CUDA_TIMES_VARIABLE, path.c_str(), 1);
    }
    ~times() override
    {
        unsetenv(CUDA_TIMES_VARIABLE);
        EXPECT_EQ(0u, fake_cuda_live());
        fake_cuda_reset();
    }
    void open()
    {
        ASSERT_EQ(LIBSCHED_OK, open_device(emulated_case, 0, &driver, &device, &err))
            << err.message;
        ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &b, LIBSCHED_FP32, 4, 8, &err));
        const std::vector<float> values(8, 1);
        libsched_device_weight_args args = {};
        args.struct_size = sizeof(args);
        args.kind = LIBSCHED_WEIGHT_VECTOR;
        args.datatype = args.source_datatype = LIBSCHED_FP32;
        args.rows = 1;
        args.columns = 8;
        args.data = values.data();
        ASSERT_EQ(LIBSCHED_OK, driver->weight_create(device, &ones, &args, &err)) << err.message;
    }
    void close()
    {
        driver->weight_destroy(device, ones);
        driver->buffer_destroy(device, b);
        driver->close(device);
    }
    void upload()
    {
        const std::vector<float> values(32, 2);
        ASSERT_EQ(LIBSCHED_OK, driver->upload(device, b, 0, 4, values.data(), &err)) << err.message;
    }
    void compute()
    {
        libsched_device_norm_args args = {};
        args.struct_size = sizeof(args);
        args.rows = 4;
        args.input = args.output = b;
        args.gain = args.shift = ones;
        args.epsilon = 1e-12f;
        ASSERT_EQ(LIBSCHED_OK, driver->norm(device, &args, &err)) << err.message;
    }
    uint64_t mark()
    {
        uint64_t number = 0;
        EXPECT_EQ(LIBSCHED_OK, driver->mark(device, &number, &err)) << err.message;
        return number;
    }
    cuda_times told() const
    {
        cuda_times now = {};
        std::ifstream(path, std::ios::binary).read((char *)&now, sizeof(now));
        return now;
    }

    temporary_folder folder;
    const std::string path = folder.path() + "/times";
    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_device_buffer *b = nullptr;
    libsched_device_weight *ones = nullptr;
    libsched_error err = {};
};

TEST_F(times, are_of_what_is_computed_between_marks)
{
    open();
    upload();
    compute();
    (void)mark();
    compute();
    const uint64_t second = mark();
    EXPECT_EQ(0u, told().batches);
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, second, true, &err)) << err.message;
    EXPECT_EQ(2u, told().batches);
    EXPECT_GT(told().busy_ns, 0u);

    /* What only copies is no time that is computed. */
    const cuda_times before = told();
    upload();
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    EXPECT_EQ(before.batches, told().batches);
    EXPECT_EQ(before.busy_ns, told().busy_ns);

    /* The events of those that are over are used again; and the end of all that there is. */
    for (int i = 0; i < 20; i++) {
        compute();
        const uint64_t number = mark();
        if (i % 4 == 3) {
            ASSERT_EQ(LIBSCHED_OK, driver->reached(device, number, true, &err)) << err.message;
        }
    }
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    EXPECT_EQ(before.batches + 20, told().batches);
    EXPECT_GT(told().busy_ns, before.busy_ns);
    close();
}

/* Behind what was waited for without a mark there is no event: the next mark's own is of a batch
 * before it, and what lies between the two is no time. */
TEST_F(times, are_not_made_up_for_what_was_waited_for_without_a_mark)
{
    open();
    for (int i = 0; i < 10; i++) {
        compute();
        ASSERT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    }
    const cuda_times before = told();
    ASSERT_EQ(10u, before.batches);
    compute();
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    EXPECT_EQ(before.batches, told().batches);
    EXPECT_EQ(before.busy_ns, told().busy_ns);

    /* And the one after it is timed as ever. */
    compute();
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    EXPECT_EQ(before.batches + 1, told().batches);
    close();
}

TEST_F(times, are_added_up_over_devices)
{
    for (int i = 0; i < 2; i++) {
        open();
        compute();
        (void)mark();
        ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
        close();
    }
    EXPECT_EQ(2u, told().batches);
}

TEST_F(times, are_of_batches_that_are_graphs_as_well)
{
    tiny_bert bert;
    bert.write();
    encoder_model model(bert.folder, parameters().set("max_batch_units", (int64_t)64), false, 1,
                        {"cuda", EMULATED_CUDA_FOLDER});
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    uint64_t busy = 0;
    for (uint64_t i = 1; i <= 5; i++) {
        ASSERT_EQ(LIBSCHED_OK, model.run({text_request({"a b c"})})[0].status);
        EXPECT_EQ(i, told().batches);
        EXPECT_GT(told().busy_ns, busy);
        busy = told().busy_ns;
    }
    EXPECT_GT(fake_cuda_graphs(), 0u);
}

/* Who can't be told is served all the same. */
TEST_F(times, without_a_file_nothing_is_told)
{
    setenv(CUDA_TIMES_VARIABLE, (folder.path() + "/no/such/folder").c_str(), 1);
    open();
    compute();
    ASSERT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    close();
    EXPECT_EQ(0u, told().batches);
}

TEST_F(times, cost_no_batch_where_they_fail)
{
    open();
    compute();
    fake_cuda_fail("cudaEventElapsedTime", 0, 801);
    EXPECT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    EXPECT_EQ(0u, told().batches);
    compute();
    EXPECT_EQ(LIBSCHED_OK, driver->reached(device, mark(), true, &err)) << err.message;
    EXPECT_EQ(1u, told().batches);
    close();
}

} // namespace
