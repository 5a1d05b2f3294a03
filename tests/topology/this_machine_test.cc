/* SPDX-License-Identifier: Apache-2.0 */
/* The machine that runs the tests. */
#include "helper.h"

#include <sched.h>

#include <thread>

TEST(ThisMachine, HasAUsableCpuDevice)
{
    topology *opened = nullptr;
    libsched_error err = {};
    ASSERT_EQ(topology_open(&opened, nullptr, &err), LIBSCHED_OK) << err.message;
    Topology t(opened);

    EXPECT_TRUE(topology_is_this_machine(t.get()));
    const topology_device *device = topology_find_device(t.get(), "cpu:0");
    ASSERT_NE(device, nullptr);
    EXPECT_TRUE(device->usable) << device->reason;
    EXPECT_STREQ(device->reason, "");
    EXPECT_STRNE(device->model, "");
    EXPECT_GE(device->n_cores, 1u);
    EXPECT_GE(device->n_cpus, device->n_cores);
    EXPECT_GT(device->memory_bytes, 0u);
}

TEST(ThisMachine, ComputesOnNoMoreCoresThanItMayKeepBusy)
{
    Topology t = open_topology({});
    unsigned cores = 0;
    for (const topology_device *device : devices_of(t, TOPOLOGY_CPU))
        cores += device->n_cores;
    EXPECT_GE(cores, 1u);
    EXPECT_LE(cores, topology_usable_cpus());
}

TEST(ThisMachine, TakesAsManyDevicesAsAreAskedFor)
{
    topology_options options = {};
    options.cpu_devices = 4;
    options.cpu_cores = 1;
    Topology t = open_topology(options);
    auto devices = devices_of(t, TOPOLOGY_CPU);
    ASSERT_EQ(devices.size(), 4u);
    for (const topology_device *device : devices)
        EXPECT_EQ(device->n_cores, 1u);
}

TEST(ThisMachine, BindsTheCallingThread)
{
    topology_options options = {};
    options.cpu_devices = 1;
    options.cpu_cores = 1;
    Topology t = open_topology(options);
    const topology_device *device = topology_get_device(t.get(), 0);
    ASSERT_NE(device, nullptr);

    /* A thread of its own, so that the tests after this one keep their affinity. */
    std::thread([&] {
        libsched_error err = {};
        ASSERT_EQ(topology_bind_self(t.get(), 0, &err), LIBSCHED_OK) << err.message;
        std::vector<unsigned char> bound(device->cpu_set_size + 128);
        cpu_set_t *set = reinterpret_cast<cpu_set_t *>(bound.data());
        ASSERT_EQ(sched_getaffinity(0, bound.size() / 8 * 8, set), 0);
        EXPECT_EQ(CPU_COUNT_S(bound.size(), set), (int)device->n_cpus);
        for (int cpu = 0; cpu < (int)device->cpu_set_size * 8; cpu++) {
            if (CPU_ISSET_S(cpu, device->cpu_set_size, device->cpu_set)) {
                EXPECT_TRUE(CPU_ISSET_S(cpu, bound.size(), set)) << cpu;
            }
        }
    }).join();
}

TEST(ThisMachine, StaysWithinTheAffinityOfItsCaller)
{
    std::thread([] {
        topology_options options = {};
        options.cpu_devices = 1;
        options.cpu_cores = 1;
        Topology whole = open_topology(options);
        libsched_error err = {};
        ASSERT_EQ(topology_bind_self(whole.get(), 0, &err), LIBSCHED_OK) << err.message;

        Topology t = open_topology({});
        auto devices = devices_of(t, TOPOLOGY_CPU);
        ASSERT_EQ(devices.size(), 1u);
        EXPECT_STREQ(devices[0]->cpu_list, topology_get_device(whole.get(), 0)->cpu_list);
        EXPECT_LE(topology_usable_cpus(), devices[0]->n_cpus);
    }).join();
}
