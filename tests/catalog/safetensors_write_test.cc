/* SPDX-License-Identifier: Apache-2.0 */
#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "catalog/safetensors.h"
#include "support/folder.h"

using gpu_sched_test::temporary_folder;
using testing::HasSubstr;

namespace
{

libsched_tensor tensor(const char *name, uint32_t datatype, std::vector<int64_t> shape,
                       const void *data, uint64_t size)
{
    libsched_tensor t = {};
    t.name = name;
    t.datatype = datatype;
    t.rank = (uint32_t)shape.size();
    std::copy(shape.begin(), shape.end(), t.shape);
    t.data = data;
    t.size = size;
    return t;
}

TEST(SafetensorsWrite, IsReadAgain)
{
    temporary_folder folder;
    const std::string path = folder.path() + "/new.safetensors";
    const double doubles[] = {1.5, -2};
    const float floats[] = {1, 2, 3, 4, 5, 6};
    const std::vector<libsched_tensor> tensors = {
        tensor("a \"quoted\" näme", LIBSCHED_FP64, {2}, doubles, sizeof(doubles)),
        tensor("matrix", LIBSCHED_FP32, {2, 3}, floats, sizeof(floats)),
        tensor("nothing", LIBSCHED_FP32, {0, 3}, floats, 0),
        tensor("bytes", LIBSCHED_UINT8, {3}, "abc", 3),
        tensor("scalar", LIBSCHED_BOOL, {}, "\1", 1),
    };
    libsched_error err = {};
    ASSERT_EQ(safetensors_write(path.c_str(), tensors.data(), tensors.size(), &err), LIBSCHED_OK)
        << err.message;
    safetensors *file = nullptr;
    ASSERT_EQ(safetensors_open(&file, path.c_str(), &err), LIBSCHED_OK) << err.message;
    EXPECT_EQ(safetensors_count(file), tensors.size());
    for (const libsched_tensor &t : tensors) {
        const libsched_tensor *got = safetensors_find(file, t.name);
        ASSERT_NE(got, nullptr) << t.name;
        EXPECT_EQ(got->datatype, t.datatype);
        EXPECT_EQ(got->rank, t.rank);
        EXPECT_EQ(memcmp(got->shape, t.shape, t.rank * sizeof(int64_t)), 0);
        ASSERT_EQ(got->size, t.size);
        if (t.size > 0) {
            EXPECT_EQ(memcmp(got->data, t.data, t.size), 0);
        }
    }
    safetensors_close(file);
    /* What is there is never written over. */
    EXPECT_EQ(safetensors_write(path.c_str(), tensors.data(), 1, &err), LIBSCHED_ESYSTEM);
    EXPECT_THAT(err.message, HasSubstr("File exists"));
}

TEST(SafetensorsWrite, RefusesWhatItCannotWrite)
{
    temporary_folder folder;
    const std::string path = folder.path() + "/new.safetensors";
    const float floats[] = {1, 2};
    libsched_error err = {};
    auto refused = [&](const std::vector<libsched_tensor> &tensors, int status, const char *why) {
        EXPECT_EQ(safetensors_write(path.c_str(), tensors.data(), tensors.size(), &err), status);
        EXPECT_THAT(err.message, HasSubstr(why));
        EXPECT_NE(access(path.c_str(), F_OK), 0) << "there is no file";
    };
    refused({tensor("t", LIBSCHED_FP32, {3}, floats, 8)}, LIBSCHED_EINVAL, "its shape");
    refused({tensor("t", LIBSCHED_BYTES, {1}, "\0\0\0\0", 4)}, LIBSCHED_EINVAL, "can't be written");
    refused({tensor("b", LIBSCHED_UINT8, {1}, "x", 1), tensor("t", LIBSCHED_FP32, {2}, floats, 8)},
            LIBSCHED_EINVAL, "those of larger elements first");
    EXPECT_EQ(safetensors_write("/no/such/file", nullptr, 0, &err), LIBSCHED_ESYSTEM);
}

} // namespace
