/* SPDX-License-Identifier: Apache-2.0 */
/* What links CUDA, and what does not. */
#include <cstdio>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

namespace
{

std::string needed(const std::string &file)
{
    std::string command = "readelf -d '" + file + "' 2>&1 | grep NEEDED", out;
    FILE *pipe = popen(command.c_str(), "r");
    char line[512];
    while (pipe != nullptr && fgets(line, sizeof(line), pipe) != nullptr)
        out += line;
    if (pipe != nullptr)
        pclose(pipe);
    return out;
}

TEST(links, of_library_and_programs_lead_to_no_cuda)
{
    for (const char *file :
         {"/libsched/libsched.so", "/port/sched-port", "/libsched/sched-worker"}) {
        const std::string libraries = needed(BUILD_FOLDER + std::string(file));
        EXPECT_NE(std::string::npos, libraries.find("libc.so")) << file << ": " << libraries;
        for (const char *name : {"libcu", "nccl", "nvidia", "nvrtc"})
            EXPECT_EQ(std::string::npos, libraries.find(name)) << file << ": " << libraries;
    }
}

TEST(links, of_the_plugin_lead_to_cublaslt_alone)
{
    const std::string plugin = BUILD_FOLDER "/libsched/libsched-device-cuda.so";
    if (access(plugin.c_str(), F_OK) != 0)
        GTEST_SKIP() << "the CUDA plugin was not built: no CUDA toolkit was found";
    const std::string libraries = needed(plugin);
    EXPECT_NE(std::string::npos, libraries.find("libcublasLt.so")) << libraries;
    /* The runtime is in it; the driver and NCCL are looked for when it runs. */
    for (const char *name : {"libcudart", "libcuda.so", "nccl", "nvidia"})
        EXPECT_EQ(std::string::npos, libraries.find(name)) << libraries;
}

} // namespace
