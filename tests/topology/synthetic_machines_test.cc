/* SPDX-License-Identifier: Apache-2.0 */
/* How the cores of a machine become CPU devices, shown on machines that exist only as a
 * description. */
#include "helper.h"

#include <gmock/gmock.h>

using testing::ElementsAre;
using testing::HasSubstr;

namespace
{

const char *const kTwoNodes = "pack:2 numa:1 l3:1 core:8 pu:2";

} // namespace

TEST(SyntheticMachines, OneCpuDeviceForEachNode)
{
    Topology t = open_synthetic(kTwoNodes);
    ASSERT_NE(t, nullptr);
    ASSERT_EQ(topology_n_devices(t.get()), 2u);
    EXPECT_THAT(cpu_lists(t), ElementsAre("0-15", "16-31"));
    for (size_t i = 0; i < 2; i++) {
        const topology_device *device = topology_get_device(t.get(), i);
        EXPECT_EQ(device->name, "cpu:" + std::to_string(i));
        EXPECT_EQ(device->numa_node, (int)i);
        EXPECT_EQ(device->n_cores, 8u);
        EXPECT_EQ(device->n_cpus, 16u);
        EXPECT_GT(device->memory_bytes, 0u);
        EXPECT_FALSE(device->shares_cores);
    }
    EXPECT_EQ(topology_get_locality(t.get(), 0, 0), TOPOLOGY_SAME_DEVICE);
    EXPECT_EQ(topology_get_locality(t.get(), 0, 1), TOPOLOGY_SAME_MACHINE);
}

TEST(SyntheticMachines, PackagesDivideANodeThatSpansThem)
{
    Topology t = open_synthetic("numa:1 pack:2 core:4 pu:1");
    EXPECT_THAT(cpu_lists(t), ElementsAre("0-3", "4-7"));
}

TEST(SyntheticMachines, NodesOfOnePackageAreNear)
{
    Topology t = open_synthetic("pack:2 numa:2 core:4 pu:1");
    EXPECT_THAT(cpu_lists(t), ElementsAre("0-3", "4-7", "8-11", "12-15"));
    EXPECT_EQ(topology_get_locality(t.get(), 0, 1), TOPOLOGY_SAME_PACKAGE);
    EXPECT_EQ(topology_get_locality(t.get(), 1, 2), TOPOLOGY_SAME_MACHINE);
}

TEST(SyntheticMachines, DevicesOfOneNodeAreNearer)
{
    Topology t = open_synthetic(kTwoNodes, 4);
    EXPECT_EQ(topology_get_locality(t.get(), 0, 1), TOPOLOGY_SAME_NUMA);
    EXPECT_EQ(topology_get_locality(t.get(), 1, 2), TOPOLOGY_SAME_MACHINE);
}

TEST(SyntheticMachines, MoreDevicesThanNodesDivideThem)
{
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 4)),
                ElementsAre("0-7", "8-15", "16-23", "24-31"));
    /* Three devices on two nodes: the first node is divided, no device straddles. */
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 3)), ElementsAre("0-7", "8-15", "16-31"));
    /* Eight cores in three parts. */
    EXPECT_THAT(cpu_lists(open_synthetic("numa:1 core:8 pu:1", 3)),
                ElementsAre("0-2", "3-5", "6-7"));
}

TEST(SyntheticMachines, FewerDevicesThanNodesSpanThem)
{
    Topology t = open_synthetic(kTwoNodes, 1);
    EXPECT_THAT(cpu_lists(t), ElementsAre("0-31"));
    EXPECT_EQ(topology_get_device(t.get(), 0)->numa_node, -1);
    EXPECT_EQ(topology_get_device(t.get(), 0)->n_cores, 16u);

    EXPECT_THAT(cpu_lists(open_synthetic("numa:4 core:2 pu:1", 3)),
                ElementsAre("0-1", "2-3", "4-7"));
}

TEST(SyntheticMachines, CoresOfEachDevice)
{
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 0, 3)), ElementsAre("0-5", "16-21"));
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 4, 2)),
                ElementsAre("0-3", "4-7", "16-19", "20-23"));
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 1, 12)), ElementsAre("0-23"));
}

TEST(SyntheticMachines, DevicesShareCoresOnlyWhereThereAreTooFew)
{
    Topology t = open_synthetic("numa:1 core:2 pu:1", 3);
    EXPECT_THAT(cpu_lists(t), ElementsAre("0", "1", "0"));
    EXPECT_TRUE(topology_get_device(t.get(), 0)->shares_cores);
    EXPECT_FALSE(topology_get_device(t.get(), 1)->shares_cores);
    EXPECT_TRUE(topology_get_device(t.get(), 2)->shares_cores);

    EXPECT_THAT(cpu_lists(open_synthetic("numa:1 core:4 pu:1", 3, 3)),
                ElementsAre("0-2", "0-1,3", "0,2-3"));
}

TEST(SyntheticMachines, GivenCpus)
{
    Topology t = open_synthetic(kTwoNodes, 0, 0, "0-3,8;16");
    EXPECT_THAT(cpu_lists(t), ElementsAre("0-3,8", "16"));
    EXPECT_EQ(topology_get_device(t.get(), 0)->n_cpus, 5u);
    EXPECT_EQ(topology_get_device(t.get(), 0)->n_cores, 3u);
    EXPECT_EQ(topology_get_device(t.get(), 1)->numa_node, 1);
    EXPECT_THAT(cpu_lists(open_synthetic(kTwoNodes, 2, 0, "0;0")), ElementsAre("0", "0"));
}

TEST(SyntheticMachines, TheSetHasTheCpusOfTheList)
{
    Topology t = open_synthetic("numa:1 core:2000 pu:1", 0, 0, "3,1999");
    const topology_device *device = topology_get_device(t.get(), 0);
    ASSERT_NE(device, nullptr);
    EXPECT_EQ(CPU_COUNT_S(device->cpu_set_size, device->cpu_set), 2);
    EXPECT_TRUE(CPU_ISSET_S(3, device->cpu_set_size, device->cpu_set));
    EXPECT_TRUE(CPU_ISSET_S(1999, device->cpu_set_size, device->cpu_set));
}

TEST(SyntheticMachines, FindsADeviceByName)
{
    Topology t = open_synthetic(kTwoNodes);
    EXPECT_EQ(topology_find_device(t.get(), "cpu:1"), topology_get_device(t.get(), 1));
    EXPECT_EQ(topology_find_device(t.get(), "cpu:2"), nullptr);
    EXPECT_EQ(topology_find_device(t.get(), ""), nullptr);
    EXPECT_EQ(topology_get_device(t.get(), 2), nullptr);
    EXPECT_EQ(topology_get_locality(t.get(), 0, 2), TOPOLOGY_SAME_MACHINE);
    EXPECT_EQ(topology_link_bandwidth(t.get(), 0, 1), 0u);
}

TEST(SyntheticMachines, RefusesToBindToWhatIsNotHere)
{
    Topology t = open_synthetic(kTwoNodes);
    libsched_error err = {};
    EXPECT_FALSE(topology_is_this_machine(t.get()));
    EXPECT_EQ(topology_bind_self(t.get(), 0, &err), LIBSCHED_ENOTSUP);
    EXPECT_THAT(err.message, HasSubstr("cpu:0"));
    EXPECT_EQ(topology_bind_self(t.get(), 7, &err), LIBSCHED_ENODEVICE);
    EXPECT_FALSE(topology_get_device(t.get(), 0)->usable);
    EXPECT_STRNE(topology_get_device(t.get(), 0)->reason, "");
}

TEST(SyntheticMachines, RefusesOptionsThatDoNotFit)
{
    topology_options options = {};
    options.synthetic = "no such thing";
    EXPECT_THAT(refusal(options), HasSubstr("no such thing"));

    options.synthetic = kTwoNodes;
    options.xml_path = "machine.xml";
    EXPECT_THAT(refusal(options), HasSubstr("both"));
    options.xml_path = nullptr;

    options.cpu_cores = 9;
    EXPECT_THAT(refusal(options), HasSubstr("9 cores"));
    options.cpu_lists = "0-3";
    EXPECT_THAT(refusal(options), HasSubstr("lists of CPUs"));
    options.cpu_cores = 0;
    options.cpu_devices = 2;
    EXPECT_THAT(refusal(options), HasSubstr("2 CPU devices"));
    options.cpu_lists = nullptr;
    options.cpu_devices = 100000;
    EXPECT_THAT(refusal(options), HasSubstr("100000"));
}

TEST(SyntheticMachines, RefusesListsThatAreNone)
{
    topology_options options = {};
    options.synthetic = kTwoNodes;
    for (const char *list : {"", ";", "0;", "0,", ",0", "0-", "-3", "3-1", "a", "0x1", "0 ", "0--1",
                             "99999999999999999999", "0-3;x"}) {
        options.cpu_lists = list;
        EXPECT_THAT(refusal(options), HasSubstr("is not a list of CPUs")) << list;
    }
    options.cpu_lists = "30-40";
    EXPECT_THAT(refusal(options), HasSubstr("usable are 0-31"));
}
