/* SPDX-License-Identifier: Apache-2.0 */
#include <cstring>
#include <filesystem>
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

/* ------------------------------------------------------------------------------ piece by piece */

class SafetensorsStream : public testing::Test
{
  protected:
    int open(std::vector<int64_t> shape, uint64_t size)
    {
        const libsched_tensor t = tensor("rows", LIBSCHED_FP32, shape, nullptr, size);
        return safetensors_stream_open(&stream, path.c_str(), &t, &err);
    }
    size_t files()
    {
        size_t n = 0;
        for ([[maybe_unused]] auto &entry : std::filesystem::directory_iterator(folder.path()))
            n++;
        return n;
    }

    temporary_folder folder;
    const std::string path = folder.path() + "/new.safetensors";
    safetensors_stream *stream = nullptr;
    libsched_error err = {};
};

TEST_F(SafetensorsStream, IsReadAgain)
{
    const float values[] = {1, 2, 3, 4, 5, 6};
    ASSERT_EQ(open({3, 2}, sizeof(values)), LIBSCHED_OK) << err.message;
    EXPECT_NE(access(path.c_str(), F_OK), 0) << "nobody takes it for whole";
    EXPECT_EQ(safetensors_stream_write(stream, values, 8, &err), LIBSCHED_OK);
    EXPECT_EQ(safetensors_stream_end(stream, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("16 bytes are missing"));
    EXPECT_EQ(safetensors_stream_write(stream, values, 17, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("17 bytes more, where 16 are to come"));
    EXPECT_EQ(safetensors_stream_write(stream, values + 2, 16, &err), LIBSCHED_OK);
    ASSERT_EQ(safetensors_stream_end(stream, &err), LIBSCHED_OK) << err.message;
    safetensors_stream_close(stream);

    safetensors *file = nullptr;
    ASSERT_EQ(safetensors_open(&file, path.c_str(), &err), LIBSCHED_OK) << err.message;
    const libsched_tensor *got = safetensors_find(file, "rows");
    ASSERT_NE(got, nullptr);
    EXPECT_EQ(got->shape[0], 3);
    ASSERT_EQ(got->size, sizeof(values));
    EXPECT_EQ(memcmp(got->data, values, sizeof(values)), 0);
    safetensors_close(file);
    EXPECT_EQ(files(), 1u);
}

TEST_F(SafetensorsStream, LeavesNothingWithoutItsEnd)
{
    ASSERT_EQ(open({1}, 4), LIBSCHED_OK) << err.message;
    EXPECT_EQ(files(), 1u);
    safetensors_stream_close(stream);
    EXPECT_EQ(files(), 0u);
    safetensors_stream_close(nullptr);
}

TEST_F(SafetensorsStream, TakesNobodysPlace)
{
    const float value = 1;
    ASSERT_EQ(open({1}, 4), LIBSCHED_OK) << err.message;
    folder.write("new.safetensors", "another's");
    EXPECT_EQ(safetensors_stream_write(stream, &value, 4, &err), LIBSCHED_OK);
    EXPECT_EQ(safetensors_stream_end(stream, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("is there already"));
    safetensors_stream_close(stream);
    EXPECT_EQ(files(), 1u);
    EXPECT_EQ(std::filesystem::file_size(path), 9u);
}

TEST_F(SafetensorsStream, IsNotBegunWhereItCannotBe)
{
    EXPECT_EQ(open({2}, 4), LIBSCHED_EINVAL) << "a size that is not the shape's";
    const libsched_tensor t = tensor("rows", LIBSCHED_FP32, {1}, nullptr, 4);
    EXPECT_EQ(safetensors_stream_open(&stream, "/no/such/file", &t, &err), LIBSCHED_ESYSTEM);
    EXPECT_EQ(files(), 0u);
}

} // namespace
