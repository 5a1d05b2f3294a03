// SPDX-License-Identifier: Apache-2.0
// Who watches a device's instruments: its readings come to the host, and nobody waits for them.
#include "worker/harness.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <unistd.h>

#include "worker/channel.h"
#include "worker/monitor.h"

using namespace worker_test;

namespace
{

// A device whose instruments show, or take, what a test wants.
struct Instruments {
    libsched_device device = {};
    std::mutex mutex;
    std::condition_variable changed;
    bool stuck = false;
    uint32_t looks = 0;
    int status = LIBSCHED_OK;
    libsched_device_readings shows = {};

    static Instruments &of(libsched_device *device)
    {
        return *reinterpret_cast<Instruments *>(device);
    }
    static int read(libsched_device *device, libsched_device_readings *out, libsched_error *err)
    {
        Instruments &self = of(device);
        std::unique_lock<std::mutex> lock(self.mutex);
        self.looks++;
        self.changed.notify_all();
        self.changed.wait(lock, [&] { return !self.stuck; });
        const uint32_t size = out->struct_size;
        *out = self.shows;
        out->struct_size = size;
        return self.status < 0 ? libsched_error_set(err, self.status, "they are broken")
                               : LIBSCHED_OK;
    }
    void stick(bool now)
    {
        std::lock_guard<std::mutex> lock(mutex);
        stuck = now;
        changed.notify_all();
    }
    void await_looks(uint32_t n)
    {
        std::unique_lock<std::mutex> lock(mutex);
        EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(120), [&] { return looks >= n; }));
    }
    uint32_t so_far()
    {
        std::lock_guard<std::mutex> lock(mutex);
        return looks;
    }
};

constexpr uint64_t LONG = UINT64_C(120000000000);

class Monitors : public testing::Test
{
  protected:
    channel shared = {};
    int memory = -1;
    libsched_device_driver driver = {};
    Instruments instruments;
    monitor *watcher = nullptr;

    Monitors()
    {
        libsched_error err;
        EXPECT_EQ(channel_create(&shared, &memory, 1, 4096, &err), LIBSCHED_OK) << err.message;
        driver.struct_size = sizeof(driver);
        driver.readings = Instruments::read;
        instruments.device.driver = &driver;
    }
    ~Monitors() override
    {
        instruments.stick(false);
        monitor_stop(watcher);
        channel_detach(&shared);
        close(memory);
    }
    void start()
    {
        libsched_error err;
        ASSERT_EQ(monitor_start(&watcher, &instruments.device, &shared, &err), LIBSCHED_OK)
            << err.message;
    }
    libsched_device_readings told()
    {
        libsched_device_readings out = {};
        uint64_t at = 0;
        EXPECT_TRUE(channel_get_readings(&shared, &out, &at));
        EXPECT_LE(at, now_ns());
        return out;
    }
};

TEST_F(Monitors, TellWhatTheInstrumentsShow)
{
    instruments.shows.has = LIBSCHED_READING_TEMPERATURE;
    instruments.shows.temperature_c = 61;
    instruments.shows.xid_count = UINT64_C(1) << 40;
    strcpy(instruments.shows.uuid, "GPU-1");
    libsched_device_readings none;
    uint64_t at;
    EXPECT_FALSE(channel_get_readings(&shared, &none, &at));
    start();
    monitor_look(watcher, LONG);
    const libsched_device_readings now = told();
    EXPECT_EQ(now.temperature_c, 61);
    EXPECT_EQ(now.xid_count, UINT64_C(1) << 40);
    EXPECT_STREQ(now.uuid, "GPU-1");
}

// By themselves, without anybody's asking.
TEST_F(Monitors, LookAgainAndAgain)
{
    start();
    instruments.await_looks(2);
}

TEST_F(Monitors, LookOnceMoreWhenTheyAreAsked)
{
    start();
    instruments.await_looks(1);
    instruments.stick(true);
    instruments.await_looks(2);
    {
        std::lock_guard<std::mutex> lock(instruments.mutex);
        instruments.shows.last_xid = 31;
    }
    instruments.stick(false);
    monitor_look(watcher, LONG);
    EXPECT_EQ(told().last_xid, 31u);
}

TEST_F(Monitors, AreNotWaitedForWhereADeviceHangs)
{
    instruments.stick(true);
    start();
    instruments.await_looks(1);
    const uint64_t begin = now_ns();
    monitor_look(watcher, 1000000);
    EXPECT_GE(now_ns() - begin, 1000000u);
    libsched_device_readings none;
    uint64_t at;
    EXPECT_FALSE(channel_get_readings(&shared, &none, &at));
    instruments.stick(false);
    monitor_look(watcher, LONG);
    told();
}

TEST_F(Monitors, SayWhyThereIsNothing)
{
    instruments.status = LIBSCHED_ESYSTEM;
    instruments.shows.has = LIBSCHED_READING_TEMPERATURE;
    start();
    monitor_look(watcher, LONG);
    EXPECT_STREQ(told().reason, "they are broken");
    EXPECT_EQ(told().has, 0u);
}

// Where there will never be anything it is not asked for again.
TEST_F(Monitors, EndWhereThereIsNothingToSee)
{
    instruments.status = LIBSCHED_ENOTSUP;
    start();
    for (int i = 0; i < 3; i++)
        monitor_look(watcher, LONG);
    EXPECT_EQ(instruments.so_far(), 1u);
    EXPECT_STREQ(told().reason, "they are broken");
}

TEST_F(Monitors, AreNotThereForADeviceWithoutInstruments)
{
    driver.readings = nullptr;
    start();
    EXPECT_EQ(watcher, nullptr);
    EXPECT_STREQ(told().reason, "the device has no instruments");
    monitor_look(watcher, LONG);
    // A driver that was built before there were any.
    driver.readings = Instruments::read;
    driver.struct_size = offsetof(libsched_device_driver, readings);
    start();
    EXPECT_EQ(watcher, nullptr);
    EXPECT_EQ(instruments.so_far(), 0u);
}

TEST_F(Monitors, LeaveNothingThatIsHalfWritten)
{
    libsched_device_readings readings = {}, out;
    uint64_t at;
    channel_put_readings(&shared, &readings, 5);
    EXPECT_TRUE(channel_get_readings(&shared, &out, &at));
    EXPECT_EQ(at, 5u);
    shared.header->readings.version++;
    EXPECT_FALSE(channel_get_readings(&shared, &out, &at));
    // Who comes after one that died in the middle of it.
    channel_put_readings(&shared, &readings, 6);
    EXPECT_TRUE(channel_get_readings(&shared, &out, &at));
    EXPECT_EQ(at, 6u);
}

// One that writes all the time, and one that reads: never a mixture.
TEST_F(Monitors, AreReadWholeWhileTheyAreWritten)
{
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        libsched_device_readings readings = {};
        for (uint64_t i = 1; !stop; i++) {
            readings.memory_total = readings.memory_used = readings.energy_mj = i;
            readings.ecc_corrected = readings.xid_count = i;
            channel_put_readings(&shared, &readings, i);
        }
    });
    uint64_t last = 0;
    for (int seen = 0; seen < 10000;) {
        libsched_device_readings out;
        uint64_t at;
        if (!channel_get_readings(&shared, &out, &at))
            continue;
        seen++;
        const uint64_t all[] = {out.memory_total, out.memory_used, out.energy_mj, out.ecc_corrected,
                                out.xid_count};
        for (uint64_t n : all)
            ASSERT_EQ(n, at);
        ASSERT_GE(at, last);
        last = at;
    }
    stop = true;
    writer.join();
}

class Watched : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Watched);

TEST_P(Watched, ACpuHasNoInstruments)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.driver = "cpu"; });
    w.up();
    libsched_device_readings now;
    ASSERT_TRUE(worker_readings(w.raw, &now));
    EXPECT_STREQ(now.reason, "the device has no instruments");
    EXPECT_EQ(now.has, 0u);
}

TEST_P(Watched, OneThatPreparesSaysNothing)
{
    Worker w(thread());
    w.up();
    libsched_device_readings now;
    EXPECT_FALSE(worker_readings(w.raw, &now));
}

} // namespace
