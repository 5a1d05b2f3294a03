/* SPDX-License-Identifier: Apache-2.0 */
/* Every call to CUDA and cuBLASLt is made to fail in turn; and what of it a caller is told. */
#include <cstring>

#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

struct faults : testing::Test {
    faults()
    {
        fake_cuda_reset();
        fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
    }
    ~faults() override
    {
        fake_cuda_reset();
        fake_cuda_memory(UINT64_C(1) << 30);
        fake_cuda_policy(FAKE_RANDOM, 1);
    }
};

/* Calls of a run in which nothing fails. */
uint64_t count_calls()
{
    const uint64_t before = fake_cuda_calls();
    EXPECT_EQ(LIBSCHED_OK, run_pipeline(LIBSCHED_BF16).status);
    return fake_cuda_calls() - before;
}

/* Not every single call in each run: one in so many, a prime, so that all kinds are met. */
#if defined(__SANITIZE_ADDRESS__)
constexpr uint64_t stride = 29;
#else
constexpr uint64_t stride = 7;
#endif

TEST_F(faults, that_pass_leave_nothing_behind)
{
    const uint64_t calls = count_calls();
    uint64_t failed = 0;
    ASSERT_GT(calls, 100u);
    for (int code : {1, 2, 801}) {
        for (uint64_t n = (uint64_t)code % stride; n < calls; n += stride) {
            fake_cuda_fail("*", n, code);
            const pipeline_result got = run_pipeline(LIBSCHED_BF16);
            failed += got.status != LIBSCHED_OK;
            ASSERT_NE(LIBSCHED_EDEVICELOST, got.status)
                << "call " << n << ", code " << code << ": " << got.err.message;
            if (got.status != LIBSCHED_OK) {
                EXPECT_NE('\0', got.err.message[0]);
                EXPECT_STRNE("unknown", libsched_status_name(got.status));
            }
            /* What could not be given back for want of a call that failed is all there may be. */
            EXPECT_LE(fake_cuda_live(), 1u) << "call " << n << ", code " << code;
            fake_cuda_reset();
        }
    }
    /* Those that were survived are of memory that was found after all, or of giving back. */
    EXPECT_GT(failed, 3 * calls / stride / 2);
}

TEST_F(faults, that_stay_end_the_device)
{
    const uint64_t calls = count_calls();
    for (int code : {700, 719, 214}) {
        for (uint64_t n = (uint64_t)code % stride; n < calls; n += stride) {
            fake_cuda_fail("*", n, code);
            const pipeline_result got = run_pipeline(LIBSCHED_BF16);
            if (got.status != LIBSCHED_OK) {
                ASSERT_EQ(LIBSCHED_EDEVICELOST, got.status)
                    << "call " << n << ", code " << code << ": " << got.err.message;
                EXPECT_NE(nullptr, strstr(got.err.message, std::to_string(code).c_str()))
                    << got.err.message;
                /* Of a device that was opened. */
                if (got.close_status != LIBSCHED_OK) {
                    EXPECT_EQ(LIBSCHED_EDEVICELOST, got.close_status);
                }
            }
            fake_cuda_reset();
        }
    }
}

/* The kernel's fault shows when somebody waits, and nothing is called from then on. */
TEST_F(faults, of_a_kernel_are_told_by_synchronize)
{
    fake_cuda_fail("kernel", 3, 700);
    const pipeline_result got = run_pipeline(LIBSCHED_FP32);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, got.status) << got.err.message;
    EXPECT_NE(nullptr, strstr(got.err.message, "this process has to end")) << got.err.message;
    EXPECT_EQ(LIBSCHED_EDEVICELOST, got.close_status);
}

TEST_F(faults, of_memory_come_with_the_numbers)
{
    const libsched_device_driver *driver;
    libsched_device *device;
    libsched_device_buffer *b = nullptr, *again = nullptr;
    libsched_device_properties info = {};
    info.struct_size = sizeof(info);
    libsched_error err = {};
    fake_cuda_memory(UINT64_C(100) << 20);
    ASSERT_EQ(LIBSCHED_OK, open_device(emulated_case, 0, &driver, &device, &err)) << err.message;
    EXPECT_EQ(LIBSCHED_ENODEVMEM,
              driver->buffer_create(device, &b, LIBSCHED_FP32, 25600, 1024, &err));
    EXPECT_STREQ("no memory on the GPU at 0000:01:00.0 for a buffer: 100 MiB are needed, 68 of "
                 "100 MiB are free",
                 err.message);
    /* All else goes on. */
    ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &b, LIBSCHED_FP32, 10240, 1024, &err));
    ASSERT_EQ(LIBSCHED_OK, driver->info(device, &info, &err));
    EXPECT_EQ(UINT64_C(28) << 20, info.memory_free);
    EXPECT_EQ(UINT64_C(100) << 20, info.memory_total);
    /* What was given back is taken again in another size, though the pool kept it. */
    driver->buffer_destroy(device, b);
    ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &again, LIBSCHED_FP32, 15360, 1024, &err))
        << err.message;
    driver->buffer_destroy(device, again);
    driver->close(device);
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST_F(faults, of_opening_say_what_to_do)
{
    const struct {
        const char *function;
        int code, status;
        const char *text;
    } cases[] = {
        {"cudaGetDeviceCount", 35, LIBSCHED_ENODEVICE, "install the NVIDIA driver"},
        {"cudaGetDeviceCount", 100, LIBSCHED_ENODEVICE, "CUDA_VISIBLE_DEVICES"},
        {"cudaSetDevice", 802, LIBSCHED_ENODEVICE, "fabric manager"},
        {"cudaHostAlloc", 2, LIBSCHED_ENOMEM, "memlock"},
        {"cublasLtCreate", 8, LIBSCHED_ENOTSUP, "cublasLtCreate"},
    };
    for (const auto &c : cases) {
        const libsched_device_driver *driver;
        libsched_device *device;
        libsched_error err = {};
        fake_cuda_fail(c.function, 0, c.code);
        /* The thread's device may be set already. */
        EXPECT_EQ(c.status, open_device(emulated_case, strcmp(c.function, "cudaSetDevice") == 0,
                                        &driver, &device, &err))
            << c.function << ": " << err.message;
        EXPECT_NE(nullptr, strstr(err.message, c.text)) << err.message;
        fake_cuda_reset();
    }
}

TEST_F(faults, of_place_say_what_there_is)
{
    const libsched_device_driver *driver;
    libsched_device *device = nullptr;
    libsched_error err = {};
    libsched_device_open_args args = {};
    ASSERT_EQ(LIBSCHED_OK, open_device(emulated_case, 0, &driver, &device, &err));
    driver->close(device);
    args.struct_size = sizeof(args);
    args.threads = 1;
    args.pci_bus_id = "0000:0a:00.0";
    EXPECT_EQ(LIBSCHED_ENODEVICE, driver->open(&device, &args, &err));
    EXPECT_NE(nullptr, strstr(err.message, "CUDA sees 2 GPUs, and none at 0000:0a:00.0"))
        << err.message;
    /* The place goes before the number; hwloc writes it in small letters. */
    args.ordinal = 0;
    args.pci_bus_id = "0000:02:00.0";
    ASSERT_EQ(LIBSCHED_OK, driver->open(&device, &args, &err)) << err.message;
    libsched_device_properties info = {};
    info.struct_size = sizeof(info);
    ASSERT_EQ(LIBSCHED_OK, driver->info(device, &info, &err));
    EXPECT_NE(nullptr, strstr(info.text, "emulated GPU 1 at 0000:02:00.0")) << info.text;
    driver->close(device);
    /* Who knows of no place yet. */
    args.struct_size = offsetof(libsched_device_open_args, pci_bus_id);
    args.ordinal = 0;
    ASSERT_EQ(LIBSCHED_OK, driver->open(&device, &args, &err)) << err.message;
    driver->close(device);
    args.ordinal = 2;
    EXPECT_EQ(LIBSCHED_ENODEVICE, driver->open(&device, &args, &err));
    setenv("FAKE_CUDA_CAPABILITY", "75", 1);
    args.ordinal = 0;
    EXPECT_EQ(LIBSCHED_ENOTSUP, driver->open(&device, &args, &err));
    EXPECT_NE(nullptr, strstr(err.message, "compute capability 7.5")) << err.message;
    unsetenv("FAKE_CUDA_CAPABILITY");
    EXPECT_EQ(0u, fake_cuda_live());
}

} // namespace
