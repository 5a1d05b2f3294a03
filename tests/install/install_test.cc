// SPDX-License-Identifier: Apache-2.0
// What is installed: a tree that works wherever it is moved to, headers that stand alone, and
// projects outside the tree that find and use it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "support/folder.h"

namespace fs = std::filesystem;

namespace
{

// Runs a command line; what it printed, in `output`.
int run(const std::string &command, std::string *output)
{
    gpu_sched_test::temporary_folder folder;
    std::string file = folder.path() + "/output";
    int status = std::system(("(" + command + ") > " + file + " 2>&1").c_str());
    std::ifstream in(file);
    output->assign(std::istreambuf_iterator<char>(in), {});
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string shell_quoted(const std::string &text)
{
    return "'" + text + "'";
}

// Installed once for all tests, and then moved.
class Installed : public testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        folder = new gpu_sched_test::temporary_folder;
        std::string first = folder->path() + "/first", output;
        int status = run(CMAKE_COMMAND " --install " + shell_quoted(BUILD_DIR) + " --prefix " +
                             shell_quoted(first),
                         &output);
        ASSERT_EQ(status, 0) << output;
        fs::rename(first, prefix());
    }

    static void TearDownTestSuite()
    {
        delete folder;
        folder = nullptr;
    }

    static std::string prefix()
    {
        return folder->path() + "/moved here";
    }

    static std::string library_folder()
    {
        return prefix() + "/" LIBDIR;
    }

    static void succeeds(const std::string &command)
    {
        std::string output;
        EXPECT_EQ(run(command, &output), 0) << command << "\n" << output;
    }

    static gpu_sched_test::temporary_folder *folder;
};

gpu_sched_test::temporary_folder *Installed::folder;

TEST_F(Installed, HasEverythingInItsPlace)
{
    for (const char *file :
         {"/bin/sched-port", "/libexec/gpu_sched/sched-worker", "/include/libsched.h",
          "/include/libsched/engine.h", "/include/libsched/device.h", "/include/libsched/status.h",
          "/include/libsched/readings.h", "/include/libsched/tensor.h"})
        EXPECT_TRUE(fs::exists(prefix() + file)) << file;
    for (const char *file : {"/libsched.so", "/libsched.so.0", "/pkgconfig/libsched.pc",
                             "/cmake/libsched/libschedConfig.cmake"})
        EXPECT_TRUE(fs::exists(library_folder() + file)) << file;
        // Beside the worker, which alone loads it; and only where there is a toolkit.
#ifdef HAS_CUDA_PLUGIN
    const bool built = true;
#else
    const bool built = false;
#endif
    EXPECT_EQ(fs::exists(prefix() + "/libexec/gpu_sched/libsched-device-cuda.so"), built);
    for (const auto &entry : fs::recursive_directory_iterator(prefix() + "/include"))
        EXPECT_TRUE(entry.is_directory() || entry.path().extension() == ".h") << entry.path();
}

TEST_F(Installed, ProgramsFindTheirLibrary)
{
    succeeds(shell_quoted(prefix() + "/bin/sched-port") + " --help");
}

TEST_F(Installed, EachHeaderCompilesAloneAsCAndAsCxx)
{
    const std::string warnings = " -Wall -Wextra -Wpedantic -Werror -fsyntax-only ";
    int n = 0;
    for (const auto &entry : fs::recursive_directory_iterator(prefix() + "/include")) {
        if (entry.path().extension() != ".h")
            continue;
        std::string name = fs::relative(entry.path(), prefix() + "/include").string();
        std::string c = folder->path() + "/alone.c", cxx = folder->path() + "/alone.cc";
        for (const std::string &file : {c, cxx})
            std::ofstream(file) << "#include <" << name << ">\n#include <" << name << ">\n";
        std::string include = "-I" + shell_quoted(prefix() + "/include") + " ";
        succeeds(C_COMPILER " -std=c17" + warnings + include + c);
        succeeds(CXX_COMPILER " -std=c++17" + warnings + include + cxx);
        n++;
    }
    EXPECT_GE(n, 5);
}

TEST_F(Installed, ExportsNothingButItsApi)
{
    std::string output;
    ASSERT_EQ(run("nm -D --defined-only " + shell_quoted(library_folder() + "/libsched.so") +
                      " | awk '{print $NF}' | grep -v '^libsched_' | grep -v '^LIBSCHED_' || true",
                  &output),
              0);
    EXPECT_EQ(output, "");
}

// The functions that a header declares: the last word before the first '(' behind each
// LIBSCHED_API.
std::set<std::string> declared_functions(const std::string &header)
{
    std::set<std::string> names;
    for (size_t at = 0; (at = header.find("\nLIBSCHED_API ", at)) != std::string::npos;) {
        size_t end = header.find('(', at);
        size_t begin = header.find_last_of(" *\n", end) + 1;
        names.insert(header.substr(begin, end - begin));
        at = end;
    }
    return names;
}

// What a header declares is there, under the version that it came with.
TEST_F(Installed, ExportsAllThatItsHeadersDeclare)
{
    std::string output;
    ASSERT_EQ(run("nm -D --defined-only --with-symbol-versions " +
                      shell_quoted(library_folder() + "/libsched.so"),
                  &output),
              0)
        << output;
    size_t n = 0;
    for (const auto &entry : fs::recursive_directory_iterator(prefix() + "/include")) {
        if (entry.path().extension() != ".h")
            continue;
        std::ifstream in(entry.path());
        auto names = declared_functions({std::istreambuf_iterator<char>(in), {}});
        // Those a plugin defines, not the library.
        names.erase("libsched_engine_entry");
        names.erase("libsched_device_entry");
        names.erase("libsched_program_entry");
        for (const std::string &name : names)
            EXPECT_NE(output.find(" " + name + "@@LIBSCHED_"), std::string::npos) << name;
        n += names.size();
    }
    EXPECT_GE(n, 35u);
    ASSERT_EQ(run("readelf -d " + shell_quoted(library_folder() + "/libsched.so"), &output), 0);
    EXPECT_NE(output.find("soname: [libsched.so.0]"), std::string::npos) << output;
}

TEST_F(Installed, IsFoundByCmake)
{
    std::string build = folder->path() + "/consumer";
    succeeds(CMAKE_COMMAND " -S " + shell_quoted(CONSUMER_DIR) + " -B " + build +
             " -G '" GENERATOR "' -DCMAKE_C_COMPILER=" C_COMPILER
             " -DCMAKE_CXX_COMPILER=" CXX_COMPILER " -DCMAKE_C_FLAGS='" SANITIZE_FLAGS
             "' -DCMAKE_CXX_FLAGS='" SANITIZE_FLAGS "'"
             " -DCMAKE_PREFIX_PATH=" +
             shell_quoted(prefix()) + " && " CMAKE_COMMAND " --build " + build);
    succeeds(build + "/consumer_c " + build);
    succeeds(build + "/consumer_cxx");
}

TEST_F(Installed, IsFoundByPkgConfig)
{
    std::string program = folder->path() + "/by_pkg_config";
    std::string config =
        "PKG_CONFIG_PATH=" + shell_quoted(library_folder() + "/pkgconfig") + " pkg-config";
    succeeds(config + " --exact-version=" VERSION " libsched");
    // The prefix has a space in it, which pkg-config escapes: eval reads it so.
    succeeds("eval " CXX_COMPILER " -std=c++17 " SANITIZE_FLAGS " " +
             shell_quoted(CONSUMER_DIR "/consumer.cc") + " -o " + program + " $(" + config +
             " --cflags --libs libsched)");
    succeeds("LD_LIBRARY_PATH=" + shell_quoted(library_folder()) + " " + program);
}

} // namespace
