/* SPDX-License-Identifier: Apache-2.0 */
/* Real machines, recorded by hwloc. They are data beside the checkout, and may be absent. */
#include "helper.h"

#include <stdlib.h>
#include <unistd.h>

#include <fstream>

#include <gmock/gmock.h>

using testing::HasSubstr;

namespace
{

std::string data_path(const std::string &file)
{
    const char *folder = getenv("GPU_SCHED_SHARED_DATA");
    std::string root = folder != nullptr ? folder : GPU_SCHED_SOURCE_DIR "/../shared/data";
    return root + "/topologies/" + file;
}

class RecordedMachines : public testing::Test
{
  protected:
    void open(const char *file)
    {
        path_ = data_path(file);
        if (access(path_.c_str(), R_OK) != 0)
            GTEST_SKIP() << "no recorded machine " << path_
                         << " (GPU_SCHED_SHARED_DATA names the folder with topologies/)";
        topology_options options = {};
        options.xml_path = path_.c_str();
        t_ = open_topology(options);
        ASSERT_NE(t_, nullptr);
        for (size_t i = 0; i < topology_n_devices(t_.get()); i++) {
            const topology_device *device = topology_get_device(t_.get(), i);
            (device->kind == TOPOLOGY_GPU ? gpus_ : cpus_).push_back(i);
        }
    }

    const topology_device *device(size_t i)
    {
        return topology_get_device(t_.get(), i);
    }

    uint64_t link(size_t a, size_t b)
    {
        return topology_link_bandwidth(t_.get(), a, b);
    }

    topology_locality locality(size_t a, size_t b)
    {
        return topology_get_locality(t_.get(), a, b);
    }

    std::string path_;
    Topology t_;
    std::vector<size_t> cpus_, gpus_; /* numbers of devices */
};

/* A file of the given content that is gone when the test ends. */
class TemporaryFile
{
  public:
    explicit TemporaryFile(const std::string &content)
    {
        int fd = mkstemp(path_);
        EXPECT_GE(fd, 0);
        close(fd);
        std::ofstream(path_, std::ios::binary) << content;
    }
    ~TemporaryFile()
    {
        unlink(path_);
    }
    const char *path() const
    {
        return path_;
    }

  private:
    char path_[32] = "/tmp/topology-test-XXXXXX";
};

} // namespace

#define OPEN_OR_SKIP(file)                \
    open(file);                           \
    if (IsSkipped() || HasFatalFailure()) \
    return

TEST_F(RecordedMachines, Dgx2HasSixteenGpusLinkedThroughSwitches)
{
    OPEN_OR_SKIP("dgx2-16v100-nvswitch.xml");
    ASSERT_EQ(gpus_.size(), 16u);
    ASSERT_EQ(cpus_.size(), 2u);
    EXPECT_THAT(device(cpus_[0])->model, HasSubstr("Xeon"));
    for (size_t a : gpus_) {
        EXPECT_STREQ(device(a)->model, "Tesla V100-SXM3-32GB-H");
        EXPECT_EQ(device(a)->pci_vendor, 0x10de);
        EXPECT_EQ(device(a)->pci_device, 0x1db8);
        for (size_t b : gpus_)
            EXPECT_EQ(link(a, b), a == b ? 0u : 150000u) << a << " " << b;
        for (size_t cpu : cpus_)
            EXPECT_EQ(link(a, cpu), 0u);
    }
}

TEST_F(RecordedMachines, Dgx2GpusComeInTheOrderOfTheirBusIds)
{
    OPEN_OR_SKIP("dgx2-16v100-nvswitch.xml");
    ASSERT_EQ(gpus_.size(), 16u);
    EXPECT_STREQ(device(gpus_[0])->name, "gpu:0");
    EXPECT_STREQ(device(gpus_[0])->pci_bus_id, "0000:34:00.0");
    EXPECT_STREQ(device(gpus_[15])->name, "gpu:15");
    EXPECT_STREQ(device(gpus_[15])->pci_bus_id, "0000:e7:00.0");
    for (size_t i = 1; i < gpus_.size(); i++)
        EXPECT_LT(std::string(device(gpus_[i - 1])->pci_bus_id), device(gpus_[i])->pci_bus_id);
}

TEST_F(RecordedMachines, Dgx2KnowsWhichGpusAreNear)
{
    OPEN_OR_SKIP("dgx2-16v100-nvswitch.xml");
    ASSERT_EQ(gpus_.size(), 16u);
    EXPECT_EQ(locality(gpus_[0], gpus_[1]), TOPOLOGY_SAME_SWITCH);
    EXPECT_EQ(locality(gpus_[0], gpus_[15]), TOPOLOGY_SAME_MACHINE);
    for (size_t i = 0; i < 16; i++) {
        EXPECT_EQ(device(gpus_[i])->numa_node, i < 8 ? 0 : 1) << i;
        EXPECT_EQ(locality(cpus_[i / 8], gpus_[i]), TOPOLOGY_SAME_NUMA) << i;
        EXPECT_EQ(locality(cpus_[1 - i / 8], gpus_[i]), TOPOLOGY_SAME_MACHINE) << i;
    }
}

TEST_F(RecordedMachines, Power8HasFourGpusWithDirectLinks)
{
    OPEN_OR_SKIP("power8-4p100-nvlink.xml");
    ASSERT_EQ(gpus_.size(), 4u);
    ASSERT_EQ(cpus_.size(), 2u);
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 4; j++) {
            bool linked = i != j && i / 2 == j / 2;
            EXPECT_EQ(link(gpus_[i], gpus_[j]), linked ? 40000u : 0u) << i << " " << j;
            if (linked) {
                EXPECT_EQ(locality(gpus_[i], gpus_[j]), TOPOLOGY_SAME_NUMA);
            }
        }
        /* On this machine NVLinks also reach the processor. */
        for (size_t c = 0; c < 2; c++) {
            EXPECT_EQ(link(gpus_[i], cpus_[c]), i / 2 == c ? 40000u : 0u) << i << " " << c;
            EXPECT_EQ(link(cpus_[c], gpus_[i]), i / 2 == c ? 40000u : 0u) << i << " " << c;
            EXPECT_EQ(locality(gpus_[i], cpus_[c]),
                      i / 2 == c ? TOPOLOGY_SAME_NUMA : TOPOLOGY_SAME_MACHINE);
        }
    }
    EXPECT_STREQ(device(gpus_[2])->pci_bus_id, "000a:01:00.0");
}

TEST_F(RecordedMachines, WestmereHostHasThreeGpus)
{
    OPEN_OR_SKIP("x86-24em64t-2n6c2t-pci.xml");
    ASSERT_EQ(gpus_.size(), 3u);
    ASSERT_EQ(cpus_.size(), 2u);
    EXPECT_EQ(device(cpus_[0])->n_cores, 6u);
    EXPECT_EQ(device(cpus_[0])->n_cpus, 12u);
    EXPECT_STREQ(device(gpus_[0])->pci_bus_id, "0000:06:00.0");
    EXPECT_STREQ(device(gpus_[1])->pci_bus_id, "0000:11:00.0");
    EXPECT_STREQ(device(gpus_[2])->pci_bus_id, "0000:14:00.0");
    for (size_t a : gpus_) {
        for (size_t b : gpus_)
            EXPECT_EQ(link(a, b), 0u);
    }
    EXPECT_EQ(locality(gpus_[1], gpus_[2]), TOPOLOGY_SAME_NUMA);
    EXPECT_EQ(locality(gpus_[0], gpus_[1]), TOPOLOGY_SAME_MACHINE);
}

TEST_F(RecordedMachines, SandyBridgeHostHasThreeGpus)
{
    OPEN_OR_SKIP("x86-32em64t-2n8c2t-pci-wholeio.xml");
    ASSERT_EQ(gpus_.size(), 3u);
    ASSERT_EQ(cpus_.size(), 2u);
    EXPECT_EQ(device(gpus_[0])->numa_node, 0);
    EXPECT_EQ(device(gpus_[1])->numa_node, 1);
    EXPECT_EQ(device(gpus_[2])->numa_node, 1);
    EXPECT_EQ(locality(gpus_[1], gpus_[2]), TOPOLOGY_SAME_NUMA);
    EXPECT_EQ(locality(gpus_[0], cpus_[0]), TOPOLOGY_SAME_NUMA);
    EXPECT_EQ(locality(gpus_[0], cpus_[1]), TOPOLOGY_SAME_MACHINE);
}

TEST_F(RecordedMachines, NothingOnThemIsUsableHere)
{
    OPEN_OR_SKIP("x86-32em64t-2n8c2t-pci-wholeio.xml");
    EXPECT_FALSE(topology_is_this_machine(t_.get()));
    for (size_t i = 0; i < topology_n_devices(t_.get()); i++) {
        EXPECT_FALSE(device(i)->usable);
        EXPECT_STREQ(device(i)->reason, "it belongs to a recorded machine");
        libsched_error err = {};
        EXPECT_EQ(topology_bind_self(t_.get(), i, &err), LIBSCHED_ENOTSUP);
    }
}

/* hwloc is told that it is this machine: GPUs are listed that nothing here can drive. */
TEST_F(RecordedMachines, TakenForThisOneListItsGpusWithTheReasonWhyTheyAreNotUsable)
{
    OPEN_OR_SKIP("dgx2-16v100-nvswitch.xml");
    setenv("HWLOC_XMLFILE", path_.c_str(), 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    Topology t = open_topology({});
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_THISSYSTEM");
    ASSERT_NE(t, nullptr);
    EXPECT_TRUE(topology_is_this_machine(t.get()));
    auto gpus = devices_of(t, TOPOLOGY_GPU);
    ASSERT_EQ(gpus.size(), 16u);
    for (const topology_device *gpu : gpus) {
        EXPECT_FALSE(gpu->usable);
        EXPECT_STREQ(gpu->reason, "no CUDA driver plugin is loaded");
        EXPECT_STRNE(gpu->pci_bus_id, "");
        EXPECT_GE(gpu->numa_node, 0);
        EXPECT_GE(gpu->n_cpus, 1u) << "whichever of ours";
    }
    for (const topology_device *cpu : devices_of(t, TOPOLOGY_CPU))
        EXPECT_TRUE(cpu->usable) << cpu->reason;
}

TEST(RecordedFiles, AbsentFile)
{
    topology *t = nullptr;
    libsched_error err = {};
    topology_options options = {};
    options.xml_path = "/nonexistent/machine.xml";
    EXPECT_EQ(topology_open(&t, &options, &err), LIBSCHED_ESYSTEM);
    EXPECT_EQ(t, nullptr);
    EXPECT_THAT(err.message, HasSubstr("/nonexistent/machine.xml: No such file"));
}

TEST(RecordedFiles, NotARegularFile)
{
    topology_options options = {};
    options.xml_path = "/tmp";
    EXPECT_THAT(refusal(options), HasSubstr("regular file"));
    options.xml_path = "/dev/null";
    EXPECT_THAT(refusal(options), HasSubstr("regular file"));
}

TEST(RecordedFiles, NotATopology)
{
    for (const char *content :
         {"", "hello", "<?xml version=\"1.0\"?>\n<html/>\n",
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
          "<topology version=\"3.0\">\n  <object type=\"Machine\" os_index=\"0\""}) {
        TemporaryFile file(content);
        topology_options options = {};
        options.xml_path = file.path();
        EXPECT_THAT(refusal(options), HasSubstr("is not a machine recorded by hwloc")) << content;
    }
}
