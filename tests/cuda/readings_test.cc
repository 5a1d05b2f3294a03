/* SPDX-License-Identifier: Apache-2.0 */
/* What the plugin makes of what NVML says. */
#include <cstring>

#include <dlfcn.h>
#include <unistd.h>

#include "fake_cuda.h"
#include "device/loader.h"
#include "instruments.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

constexpr const char *all = "0000:01:00.0 uuid GPU-00000001\n"
                            "0000:02:00.0 uuid GPU-00000002\n"
                            "0000:02:00.0 utilization 37 12\n"
                            "0000:02:00.0 memory 85899345920 1073741824\n"
                            "0000:02:00.0 temperature 61\n"
                            "0000:02:00.0 power 350123\n"
                            "0000:02:00.0 power_limit 700000\n"
                            "0000:02:00.0 energy 123456789012\n"
                            "0000:02:00.0 clocks 0\n"
                            "0000:02:00.0 link 0 1\n"
                            "0000:02:00.0 link 1 1\n"
                            "0000:02:00.0 link 17 0\n"
                            "0000:02:00.0 ecc 5 1\n"
                            "0000:02:00.0 xid 13\n";

class readings : public testing::Test
{
  protected:
    instruments shown;
    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_error err = {};
    libsched_device_readings now = {};

    readings()
    {
        shown.show(all);
    }
    ~readings() override
    {
        if (device != nullptr)
            driver->close(device);
        EXPECT_EQ(0u, fake_cuda_live());
    }
    void open(const char *pci)
    {
        libsched_device_open_args args = {};
        ASSERT_EQ(LIBSCHED_OK, device_find_driver(&driver, "cuda", EMULATED_CUDA_FOLDER, &err))
            << err.message;
        args.struct_size = sizeof(args);
        args.threads = 1;
        args.pci_bus_id = pci;
        ASSERT_EQ(LIBSCHED_OK, driver->open(&device, &args, &err)) << err.message;
    }
    int read()
    {
        now = {};
        now.struct_size = sizeof(now);
        return driver->readings(device, &now, &err);
    }
};

/* NVML's own numbers are another order still: the GPU is found by its place. */
TEST_F(readings, are_those_of_the_gpu_at_the_place)
{
    open("0000:02:00.0");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_STREQ("", now.reason);
    EXPECT_STREQ("GPU-00000002", now.uuid);
    EXPECT_EQ((1u << 10) - 1, now.has);
    EXPECT_EQ(37u, now.utilization_percent);
    EXPECT_EQ(12u, now.memory_busy_percent);
    EXPECT_EQ(85899345920u, now.memory_total);
    EXPECT_EQ(1073741824u, now.memory_used);
    EXPECT_EQ(61, now.temperature_c);
    EXPECT_EQ(350123u, now.power_mw);
    EXPECT_EQ(700000u, now.power_limit_mw);
    EXPECT_EQ(123456789012u, now.energy_mj);
    EXPECT_EQ(0u, now.throttle);
    EXPECT_EQ(3u, now.links);
    EXPECT_EQ(2u, now.links_up);
    EXPECT_EQ(5u, now.ecc_corrected);
    EXPECT_EQ(1u, now.ecc_uncorrected);
    /* What was before anybody listened is nobody's. */
    EXPECT_EQ(0u, now.xid_count);
}

TEST_F(readings, are_left_out_where_a_card_lacks_them)
{
    open("0000:01:00.0");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_STREQ("", now.reason);
    EXPECT_STREQ("GPU-00000001", now.uuid);
    EXPECT_EQ(uint32_t(LIBSCHED_READING_XID), now.has);
    shown.add("0000:01:00.0 temperature 33\n");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_EQ(uint32_t(LIBSCHED_READING_XID | LIBSCHED_READING_TEMPERATURE), now.has);
    EXPECT_EQ(33, now.temperature_c);
}

TEST_F(readings, that_fail_are_named_and_the_others_are_there)
{
    open("0000:02:00.0");
    shown.add("fails power 15\n");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_STREQ("power: GPU is lost (15)", now.reason);
    EXPECT_EQ(0u, now.has & LIBSCHED_READING_POWER);
    EXPECT_EQ(61, now.temperature_c);
    shown.show(all);
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_STREQ("", now.reason);
    EXPECT_EQ(350123u, now.power_mw);
}

TEST_F(readings, of_the_clock_are_the_reasons_for_which_it_is_low)
{
    static const struct {
        const char *theirs;
        uint32_t ours;
    } table[] = {
        {"1", 0}, /* it has nothing to do */
        {"2", LIBSCHED_THROTTLE_SETTING},
        {"4", LIBSCHED_THROTTLE_POWER},
        {"8", LIBSCHED_THROTTLE_HARDWARE},
        {"16", LIBSCHED_THROTTLE_SYNC},
        {"32", LIBSCHED_THROTTLE_THERMAL},
        {"64", LIBSCHED_THROTTLE_THERMAL},
        {"128", LIBSCHED_THROTTLE_BRAKE},
        {"256", LIBSCHED_THROTTLE_SETTING},
        {"68", LIBSCHED_THROTTLE_POWER | LIBSCHED_THROTTLE_THERMAL},
    };
    open("0000:01:00.0");
    for (const auto &row : table) {
        shown.show(std::string("0000:01:00.0 clocks ") + row.theirs + "\n");
        ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
        EXPECT_NE(0u, now.has & LIBSCHED_READING_THROTTLE);
        EXPECT_EQ(row.ours, now.throttle) << row.theirs;
    }
}

TEST_F(readings, count_the_errors_that_the_driver_tells)
{
    open("0000:02:00.0");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    shown.add("0000:02:00.0 xid 31\n0000:01:00.0 xid 79\n0000:02:00.0 xid 43\n");
    for (int i = 0; i < 2; i++) {
        ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
        EXPECT_EQ(2u, now.xid_count);
        EXPECT_EQ(43u, now.last_xid);
    }
}

TEST_F(readings, without_events_have_all_the_rest)
{
    open("0000:02:00.0");
    shown.add("fails events 3\n");
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_STREQ("", now.reason);
    EXPECT_EQ(0u, now.has & LIBSCHED_READING_XID);
    EXPECT_EQ(37u, now.utilization_percent);
}

TEST_F(readings, of_a_gpu_that_nvml_does_not_see_say_so)
{
    open("0000:02:00.0");
    shown.show("0000:01:00.0 temperature 1\n");
    EXPECT_EQ(LIBSCHED_ESYSTEM, read());
    EXPECT_STREQ("NVML does not find the GPU at 0000:02:00.0: Not Found", err.message);
    /* It may come. */
    shown.show(all);
    EXPECT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_EQ(61, now.temperature_c);
}

/* A caller that was built before something was added, and one that was built later. */
TEST_F(readings, fill_as_much_as_there_is_room_for)
{
    open("0000:02:00.0");
    now.struct_size = offsetof(libsched_device_readings, memory_total);
    now.memory_total = 77;
    ASSERT_EQ(LIBSCHED_OK, driver->readings(device, &now, &err)) << err.message;
    EXPECT_EQ(37u, now.utilization_percent);
    EXPECT_EQ(77u, now.memory_total);
    EXPECT_EQ(offsetof(libsched_device_readings, memory_total), now.struct_size);
    now.struct_size = 4;
    EXPECT_EQ(LIBSCHED_EINVAL, driver->readings(device, &now, &err));
}

/* They do not call CUDA: a device that is lost is when they are wanted most. */
TEST_F(readings, go_on_when_the_device_is_lost)
{
    open("0000:02:00.0");
    const uint64_t calls = fake_cuda_calls();
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_EQ(calls, fake_cuda_calls());
    fake_cuda_fail("*", 0, 700);
    libsched_device_properties info = {};
    info.struct_size = sizeof(info);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, driver->info(device, &info, &err));
    ASSERT_EQ(LIBSCHED_OK, read()) << err.message;
    EXPECT_EQ(61, now.temperature_c);
    driver->close(device);
    device = nullptr;
    fake_cuda_reset();
}

/* NVML is loaded once, so in processes that have not done so. */
int in_another_process(const char *library)
{
    const libsched_device_driver *driver;
    libsched_device *device;
    libsched_error err = {};
    libsched_device_readings now = {};
    now.struct_size = sizeof(now);
    if (library != nullptr)
        setenv("GPU_SCHED_NVML", library, 1);
    int status = open_device(emulated_case, 0, &driver, &device, &err);
    if (status == LIBSCHED_OK)
        status = driver->readings(device, &now, &err);
    fprintf(stderr, "%s\n", err.message);
    return -status;
}

TEST(nvml, that_is_not_there_is_named)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(_exit(in_another_process("/nowhere/libnvidia-ml.so.1") & 0xff),
                testing::ExitedWithCode(-LIBSCHED_ENOTSUP & 0xff),
                "without NVML: /nowhere/libnvidia-ml.so.1");
}

TEST(nvml, that_is_something_else_is_named)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(_exit(in_another_process(FAKE_NCCL) & 0xff),
                testing::ExitedWithCode(-LIBSCHED_ENOTSUP & 0xff), "is no NVML that can be used");
}

TEST(nvml, without_its_driver_says_so)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(_exit(in_another_process(nullptr) & 0xff),
                testing::ExitedWithCode(-LIBSCHED_ESYSTEM & 0xff),
                "nvmlInit_v2: Driver Not Loaded .9.");
}

} // namespace
