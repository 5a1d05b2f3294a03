/* SPDX-License-Identifier: Apache-2.0 */
/* CPU quotas, read from a copy of the system's files made by the test. */
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

extern "C" {
#include "topology/internal.h"
}

namespace
{

class CpuQuota : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_NE(mkdtemp(root_), nullptr);
    }

    void TearDown() override
    {
        std::filesystem::remove_all(root_);
    }

    void write(const std::string &path, const std::string &content)
    {
        std::filesystem::path full = root_ + path;
        std::filesystem::create_directories(full.parent_path());
        std::ofstream(full) << content;
    }

    void mount(const std::string &line)
    {
        mounts_ += line + "\n";
        write("/proc/self/mountinfo", mounts_);
    }

    unsigned quota()
    {
        return topology_read_cpu_quota(root_);
    }

    char root_[32] = "/tmp/cpu-quota-XXXXXX";
    std::string mounts_ = "21 1 0:19 / /sys rw - sysfs sysfs rw\n";
};

const char *const kVersion2 = "30 21 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw";
const char *const kVersion1 =
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct";

} // namespace

TEST_F(CpuQuota, NoFilesAtAll)
{
    EXPECT_EQ(quota(), 0u);
}

TEST_F(CpuQuota, Version2)
{
    mount(kVersion2);
    write("/proc/self/cgroup", "0::/user.slice/session\n");
    EXPECT_EQ(quota(), 0u);
    write("/sys/fs/cgroup/user.slice/session/cpu.max", "max 100000\n");
    EXPECT_EQ(quota(), 0u);
    write("/sys/fs/cgroup/user.slice/session/cpu.max", "150000 100000\n");
    EXPECT_EQ(quota(), 1500u);
    write("/sys/fs/cgroup/user.slice/cpu.max", "50000 100000\n");
    EXPECT_EQ(quota(), 500u) << "the smallest on the way up counts";
    write("/sys/fs/cgroup/user.slice/cpu.max", "400000 100000\n");
    EXPECT_EQ(quota(), 1500u);
}

TEST_F(CpuQuota, Version2InAContainerOfItsOwn)
{
    mount(kVersion2);
    write("/proc/self/cgroup", "0::/\n");
    write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    EXPECT_EQ(quota(), 2000u);
}

TEST_F(CpuQuota, Version2MountedBelowTheRoot)
{
    mount("30 21 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw");
    write("/proc/self/cgroup", "0::/docker/abc/inner\n");
    write("/sys/fs/cgroup/cpu.max", "300000 100000\n");
    EXPECT_EQ(quota(), 3000u);
    write("/sys/fs/cgroup/inner/cpu.max", "100000 100000\n");
    EXPECT_EQ(quota(), 1000u);
}

TEST_F(CpuQuota, Version1)
{
    mount(kVersion1);
    write("/proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/box\n3:cpuset:/y\n");
    write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
    write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(quota(), 0u);
    write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n");
    EXPECT_EQ(quota(), 2500u);
}

TEST_F(CpuQuota, HybridSystemHasItsQuotaInVersion1)
{
    mount("30 21 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
    mount(kVersion1);
    write("/proc/self/cgroup", "4:cpu,cpuacct:/box\n0::/\n");
    write("/sys/fs/cgroup/unified/cpu.max", "100000 100000\n");
    write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "700000\n");
    write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(quota(), 7000u);
}

TEST_F(CpuQuota, FilesThatMakeNoSense)
{
    mount(kVersion2);
    mount("x");
    mount(" - ");
    write("/proc/self/cgroup", "garbage\n:\n0::/a\n");
    for (const char *content :
         {"", "\n", "max", "-5 100000", "100000 0", "100000", "x y", "9223372036854775807 1"}) {
        write("/sys/fs/cgroup/a/cpu.max", content);
        EXPECT_EQ(quota(), 0u) << content;
    }
    write("/sys/fs/cgroup/a/cpu.max", "1 1000000");
    EXPECT_EQ(quota(), 1u);
}

TEST(UsableCpus, AtLeastOneAndNoMoreThanTheAffinity)
{
    unsigned usable = topology_usable_cpus();
    EXPECT_GE(usable, 1u);
    EXPECT_LE(usable, (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
}
