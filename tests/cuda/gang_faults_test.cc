/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL's own faults; what ranks do to each other is tested for all devices (tests/device). */
#include <atomic>
#include <cstring>

#include <dlfcn.h>
#include <unistd.h>

#include "device/ranks.h"
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

void *find_fake(const char *name)
{
    void *library = dlopen(FAKE_NCCL, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(nullptr, library) << dlerror();
    return library != nullptr ? dlsym(library, name) : nullptr;
}

void call_fake(const char *name, int value)
{
    auto function = (void (*)(int))find_fake(name);
    ASSERT_NE(nullptr, function);
    function(value);
}

/* An error that NCCL finds by itself, in the middle of something: all ranks hear of it. */
TEST(nccl, errors_that_come_later_reach_every_rank)
{
    std::atomic<int> failures{0}, ready{0};
    run_threads(emulated_case, 2, [&](rank &own) {
        auto *buffer = own.buffer(std::vector<float>(100, 1));
        ready++;
        while (ready < 2)
            sched_yield();
        if (own.number == 0)
            call_fake("fake_nccl_fail", 6);
        for (int i = 0; i < 100 && own.status == LIBSCHED_OK; i++)
            own.run(own.driver->all_reduce, buffer, buffer, 100);
        EXPECT_EQ(LIBSCHED_ECANCELED, own.status) << own.err.message;
        failures++;
        /* The device itself is as good as before. */
        EXPECT_EQ(100u, own.read<float>(buffer, 100).size());
        EXPECT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        EXPECT_EQ(LIBSCHED_ECANCELED, own.barrier());
    });
    EXPECT_EQ(2, failures);
    fake_cuda_reset();
}

TEST(nccl, that_cannot_be_aborted_loses_the_device)
{
    shared_memory shared(2);
    std::thread other([&] {
        rank own(emulated_case, shared, 1, 2);
        EXPECT_EQ(LIBSCHED_OK, own.status) << own.err.message;
    });
    {
        rank own(emulated_case, shared, 0, 2, 200000000);
        ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        other.join();
        call_fake("fake_nccl_abort_hangs", 1);
        auto *buffer = own.buffer(std::vector<float>(100, 1));
        EXPECT_EQ(LIBSCHED_EDEVICELOST, own.run(own.driver->all_reduce, buffer, buffer, 100));
        EXPECT_NE(nullptr, strstr(own.err.message, "NCCL could not be aborted")) << own.err.message;
    }
    call_fake("fake_nccl_abort_hangs", 0);
    fake_cuda_reset();
}

/* Algorithms are measured behind whatever the stream waits for. */
TEST(nccl, whose_ranks_do_not_come_is_given_up_while_products_are_measured)
{
    shared_memory shared(2);
    setenv("GPU_SCHED_MEASURE_PRODUCTS", "1", 1);
    std::thread other([&] {
        rank own(emulated_case, shared, 1, 2);
        EXPECT_EQ(LIBSCHED_OK, own.status) << own.err.message;
    });
    {
        rank own(emulated_case, shared, 0, 2, 200000000);
        ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        other.join();
        const std::vector<float> ones(64 * 64, 1);
        libsched_device_buffer *input = own.buffer(std::vector<float>(64, 1)),
                               *output = own.buffer(std::vector<float>(64, 0));
        libsched_device_weight_args numbers = {};
        numbers.struct_size = sizeof(numbers);
        numbers.kind = LIBSCHED_WEIGHT_LINEAR;
        numbers.datatype = numbers.source_datatype = LIBSCHED_FP32;
        numbers.rows = numbers.columns = 64;
        numbers.data = ones.data();
        libsched_device_linear_args args = {};
        args.struct_size = sizeof(args);
        args.rows = 1;
        args.input = input;
        args.output = output;
        libsched_device_weight *weight = nullptr;
        ASSERT_EQ(LIBSCHED_OK, own.driver->weight_create(own.device, &weight, &numbers, &own.err));
        args.weight = weight;
        libsched_device_collective_args sum = {};
        sum.struct_size = sizeof(sum);
        sum.reduction = LIBSCHED_REDUCE_SUM;
        sum.input = sum.output = input;
        sum.count = 64;
        ASSERT_EQ(LIBSCHED_OK, own.driver->all_reduce(own.device, own.communicator, &sum, &own.err))
            << own.err.message;
        EXPECT_EQ(LIBSCHED_EDEADLINE, own.driver->linear(own.device, &args, &own.err))
            << own.err.message;
        own.driver->weight_destroy(own.device, weight);
    }
    unsetenv("GPU_SCHED_MEASURE_PRODUCTS");
    fake_cuda_reset();
}

/* It would call CUDA, and wait for what may never end. */
TEST(nccl, is_not_aborted_on_a_device_that_is_lost)
{
    auto aborts = (int (*)())find_fake("fake_nccl_aborts");
    ASSERT_NE(nullptr, aborts);
    shared_memory shared(1);
    {
        rank own(emulated_case, shared, 0, 1);
        ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        auto *buffer = own.buffer(std::vector<float>(100, 1));
        ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        const int before = aborts();
        /* NCCL is the first to see an illegal address. */
        fake_cuda_fail("cudaEventQuery", 0, 700);
        EXPECT_EQ(700, (int)cudaEventQuery(nullptr));
        call_fake("fake_nccl_fail", 1);
        EXPECT_EQ(LIBSCHED_EDEVICELOST, own.run(own.driver->all_reduce, buffer, buffer, 100));
        EXPECT_NE(nullptr, strstr(own.err.message, "(700)")) << own.err.message;
        EXPECT_EQ(before, aborts());
    }
    fake_cuda_reset();
}

TEST(nccl, that_is_not_there_is_named)
{
    /* It is loaded once, so in a process that has not done so. */
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            const libsched_device_driver *driver;
            libsched_device *device;
            libsched_error err = {};
            unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE];
            setenv("GPU_SCHED_NCCL", "/nowhere/libnccl.so.2", 1);
            int status = open_device(emulated_case, 0, &driver, &device, &err);
            if (status == LIBSCHED_OK)
                status = driver->communicator_id(device, id, &err);
            fprintf(stderr, "%s\n", err.message);
            _exit(status == LIBSCHED_ENOTSUP ? 7 : 1);
        },
        testing::ExitedWithCode(7), "can't work together without NCCL: /nowhere/libnccl.so.2");
}

} // namespace
