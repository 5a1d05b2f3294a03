// SPDX-License-Identifier: Apache-2.0
// A machine with two GPUs that are none: hwloc is told of it by a file, the fake of CUDA by its
// environment, which workers inherit.
#ifndef TESTS_CUDA_TWO_GPUS_H
#define TESTS_CUDA_TWO_GPUS_H

#include <cstdlib>
#include <fstream>
#include <string>

namespace gpu_sched_test
{

// CUDA counts the GPUs the other way round, and knows one more.
inline constexpr const char *gpus = "0000:09:00.0,0000:02:00.0,0000:01:00.0";

inline constexpr const char *machine = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" allowed_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" allowed_nodeset="0x00000001" gp_index="1">
  <info name="Architecture" value="x86_64"/>
  <object type="Package" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="3" local_memory="1073741824">
    <page_type size="4096" count="262144"/>
   </object>
   <object type="Core" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="4">
    <object type="PU" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="5"/>
   </object>
  </object>
  <object type="Bridge" gp_index="6" bridge_type="0-1" depth="0" bridge_pci="0000:[00-03]">
   <object type="PCIDev" gp_index="7" pci_busid="0000:01:00.0" pci_type="0302 [10de:2335] [10de:18be] a1" pci_link_speed="0.000000"/>
   <object type="PCIDev" gp_index="8" pci_busid="0000:02:00.0" pci_type="0302 [10de:2335] [10de:18be] a1" pci_link_speed="0.000000"/>
  </object>
 </object>
</topology>
)";

class two_gpus
{
  public:
    // In a folder that lives as long.
    explicit two_gpus(const std::string &folder)
    {
        const std::string file = folder + "/machine.xml";
        std::ofstream(file) << machine;
        setenv("HWLOC_XMLFILE", file.c_str(), 1);
        setenv("HWLOC_THISSYSTEM", "1", 1);
        setenv("FAKE_CUDA_PCI", gpus, 1);
        setenv("FAKE_NCCL_FOLDER", folder.c_str(), 1);
    }
    two_gpus(const two_gpus &) = delete;
    two_gpus &operator=(const two_gpus &) = delete;
    ~two_gpus()
    {
        for (const char *name :
             {"HWLOC_XMLFILE", "HWLOC_THISSYSTEM", "FAKE_CUDA_PCI", "FAKE_NCCL_FOLDER"})
            unsetenv(name);
    }
};

} // namespace gpu_sched_test

#endif
