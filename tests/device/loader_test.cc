/* SPDX-License-Identifier: Apache-2.0 */
/* How device drivers are found. */
#include <cstring>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/loader.h"

namespace
{

struct loader : testing::Test {
    const libsched_device_driver *driver = nullptr;
    libsched_error err = {};
    int find(const char *name, const std::string &path)
    {
        return device_find_driver(&driver, name, path.c_str(), &err);
    }
};

TEST_F(loader, the_cpu_is_built_in)
{
    ASSERT_EQ(LIBSCHED_OK, device_find_driver(&driver, "cpu", nullptr, &err)) << err.message;
    EXPECT_EQ((uint32_t)LIBSCHED_DEVICE_ABI, driver->abi_version);
    EXPECT_EQ(sizeof(libsched_device_driver), driver->struct_size);
    EXPECT_STREQ("cpu", driver->name);
}

TEST_F(loader, a_plugin_is_found_in_the_folders)
{
    ASSERT_EQ(LIBSCHED_OK, find("toy", "/nowhere:" DEVICE_PLUGIN_FOLDER)) << err.message;
    EXPECT_STREQ("toy", driver->name);
}

TEST_F(loader, a_plugin_for_another_version_is_refused)
{
    EXPECT_EQ(LIBSCHED_ENOTSUP, find("old", DEVICE_PLUGIN_FOLDER));
    EXPECT_NE(nullptr, strstr(err.message, "ABI")) << err.message;
}

TEST_F(loader, a_file_that_is_no_library_is_refused)
{
    char folder[] = "/tmp/device-loader-XXXXXX";
    ASSERT_NE(nullptr, mkdtemp(folder));
    std::string file = std::string(folder) + "/libsched-device-broken.so";
    std::ofstream(file) << "not a library";
    EXPECT_EQ(LIBSCHED_ENOTSUP, find("broken", folder));
    EXPECT_NE(nullptr, strstr(err.message, "broken")) << err.message;
    unlink(file.c_str());
    rmdir(folder);
}

TEST_F(loader, an_unknown_driver_says_where_it_was_looked_for)
{
    EXPECT_EQ(LIBSCHED_ENODEVICE, find("npu", "/nowhere"));
    EXPECT_NE(nullptr, strstr(err.message, "/nowhere")) << err.message;
}

TEST_F(loader, relative_folders_are_not_looked_into)
{
    char here[4096];
    ASSERT_NE(nullptr, getcwd(here, sizeof(here)));
    ASSERT_EQ(0, chdir(DEVICE_PLUGIN_FOLDER));
    EXPECT_EQ(LIBSCHED_ENODEVICE, find("toy", "."));
    EXPECT_EQ(LIBSCHED_ENODEVICE, find("toy", ""));
    ASSERT_EQ(0, chdir(here));
}

TEST_F(loader, a_name_that_leaves_the_folder_is_refused)
{
    EXPECT_EQ(LIBSCHED_EINVAL, find("../toy", DEVICE_PLUGIN_FOLDER));
    EXPECT_EQ(LIBSCHED_EINVAL, find("", DEVICE_PLUGIN_FOLDER));
}

} // namespace
