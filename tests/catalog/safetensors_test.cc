/* SPDX-License-Identifier: Apache-2.0 */
#include <cstring>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/safetensors.h"
#include "support/folder.h"
#include "support/minilm.h"

using gpu_sched_test::temporary_folder;
using testing::HasSubstr;

namespace
{

/* A file of that header and data; `length` overrides what it claims for its header. */
std::string file_of(const std::string &header, const std::string &data, int64_t length = -1)
{
    uint64_t n = length < 0 ? header.size() : (uint64_t)length;
    std::string file;
    for (int i = 0; i < 8; i++)
        file.push_back((char)(n >> 8 * i));
    return file + header + data;
}

class Safetensors : public testing::Test
{
  protected:
    ~Safetensors() override
    {
        safetensors_close(file);
    }

    int open(const std::string &content)
    {
        safetensors_close(file);
        file = nullptr;
        return safetensors_open(&file, folder.write("m.safetensors", content).c_str(), &err);
    }

    void refused(const std::string &content, const std::string &why)
    {
        EXPECT_EQ(open(content), LIBSCHED_EBADMODEL) << why;
        EXPECT_EQ(file, nullptr);
        EXPECT_THAT(err.message, HasSubstr(why));
        EXPECT_THAT(err.message, HasSubstr("m.safetensors"));
    }

    temporary_folder folder;
    struct safetensors *file = nullptr;
    libsched_error err = {};
};

const char two_tensors[] = R"({"__metadata__":{"format":"pt"},
  "b":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},
  "a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})";

TEST_F(Safetensors, FindsTensorsByName)
{
    std::string data(32, '\0');
    int64_t scalar = -7;
    float last = 1.5f;
    memcpy(data.data(), &scalar, sizeof(scalar));
    memcpy(data.data() + 28, &last, sizeof(last));
    ASSERT_EQ(open(file_of(two_tensors, data)), LIBSCHED_OK) << err.message;

    const libsched_tensor *b = safetensors_find(file, "b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->datatype, (uint32_t)LIBSCHED_FP32);
    EXPECT_EQ(b->rank, 2u);
    EXPECT_EQ(b->shape[0], 2);
    EXPECT_EQ(b->shape[1], 3);
    EXPECT_EQ(b->size, 24u);
    EXPECT_EQ(((const float *)b->data)[5], 1.5f);
    const libsched_tensor *a = safetensors_find(file, "a");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->rank, 0u);
    EXPECT_EQ(*(const int64_t *)a->data, -7);
    EXPECT_EQ(safetensors_find(file, "c"), nullptr);
    EXPECT_EQ(safetensors_find(file, "__metadata__"), nullptr);
}

TEST_F(Safetensors, CanBeOpenedWithoutTheData)
{
    const std::string path =
        folder.write("h.safetensors", file_of(two_tensors, std::string(32, 1)));
    ASSERT_EQ(safetensors_open_header(&file, path.c_str(), &err), LIBSCHED_OK) << err.message;
    const libsched_tensor *b = safetensors_find(file, "b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->size, 24u);
    EXPECT_EQ(b->data, nullptr);
    safetensors_close(file);
    file = nullptr;
    /* What the header says is checked all the same. */
    const std::string cut = folder.write("c.safetensors", file_of(two_tensors, std::string(31, 1)));
    EXPECT_EQ(safetensors_open_header(&file, cut.c_str(), &err), LIBSCHED_EBADMODEL);
}

TEST_F(Safetensors, ListsTensorsInOrder)
{
    ASSERT_EQ(open(file_of(two_tensors, std::string(32, '\0'))), LIBSCHED_OK) << err.message;
    ASSERT_EQ(safetensors_count(file), 2u);
    EXPECT_STREQ(safetensors_at(file, 0)->name, "a");
    EXPECT_STREQ(safetensors_at(file, 1)->name, "b");
    EXPECT_EQ(safetensors_at(file, 2), nullptr);
}

TEST_F(Safetensors, AcceptsEmptyTensorsAndEmptyFiles)
{
    ASSERT_EQ(open(file_of("{}", "")), LIBSCHED_OK) << err.message;
    EXPECT_EQ(safetensors_count(file), 0u);
    EXPECT_EQ(safetensors_find(file, ""), nullptr);
    ASSERT_EQ(open(file_of(R"({"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},
                               "b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
                           "xyz")),
              LIBSCHED_OK)
        << err.message;
    EXPECT_EQ(safetensors_find(file, "a")->size, 0u);
    EXPECT_NE(safetensors_find(file, "a")->data, nullptr);
    /* A header may be padded with spaces. */
    ASSERT_EQ(open(file_of("{}      ", "")), LIBSCHED_OK) << err.message;
}

TEST_F(Safetensors, RefusesFilesThatAreCutShort)
{
    std::string whole = file_of(two_tensors, std::string(32, '\0'));
    for (size_t length = 0; length < whole.size(); length++) {
        EXPECT_EQ(open(whole.substr(0, length)), LIBSCHED_EBADMODEL) << length;
        EXPECT_NE(err.message[0], '\0');
    }
    refused("", "too few");
    refused(whole.substr(0, whole.size() - 1), "tensor \"b\": bytes 8 to 32 of data, there are 31");
}

TEST_F(Safetensors, RefusesHeadersThatLieAboutTheirLength)
{
    refused(file_of("{}", "", 3), "a header of 3 bytes in a file of 10");
    refused(file_of("{}", "", INT64_MAX), "truncated, or not safetensors");
    refused(file_of("{}", "x", 1), "not JSON");
    refused(std::string(8, '\xff') + "{}", "a header of 18446744073709551615");
}

TEST_F(Safetensors, RefusesHugeHeaders)
{
    /* Sparse: the header is as long as it claims, and nothing but NULs. */
    std::string path = folder.write("m.safetensors", file_of("", "", 17 << 20));
    ASSERT_EQ(truncate(path.c_str(), 18 << 20), 0);
    EXPECT_EQ(safetensors_open(&file, path.c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("at most 16777216"));
}

TEST_F(Safetensors, RefusesWhatIsNotAnObjectOfTensors)
{
    refused(file_of("[]", ""), "expected an object");
    refused(file_of(std::string(100000, '['), ""), "nested deeper than 3 levels");
    refused(file_of(R"({"a":1})", ""), "not described by an object");
    refused(file_of(R"({"a":{}})", ""), "\"dtype\" is missing");
    refused(file_of(R"({"a":{"dtype":"F32"}})", ""), "\"shape\" is missing");
    refused(file_of(R"({"a":{"dtype":"F32","shape":[1]}})", ""), "\"data_offsets\"");
    refused(file_of(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "x"),
            "dtype \"F8_E4M3\" is not supported");
    refused(file_of("{\"a\":\xff}", ""), "not JSON");
}

TEST_F(Safetensors, RefusesDuplicateNames)
{
    refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                        "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                    "x"),
            "duplicate");
}

TEST_F(Safetensors, RefusesShapesThatAreNotTheirSize)
{
    auto of = [](const std::string &shape, const std::string &offsets) {
        return file_of(R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets +
                           "}}",
                       std::string(16, '\0'));
    };
    ASSERT_EQ(open(of("[4]", "[0,16]")), LIBSCHED_OK) << err.message;
    refused(of("[3]", "[0,16]"), "16 bytes of data are not what its shape and dtype take");
    refused(of("[-4]", "[0,16]"), "not a whole number");
    refused(of("[4.0]", "[0,16]"), "not a whole number");
    refused(of("[4611686018427387904,4]", "[0,16]"), "not what its shape");
    refused(of("[4611686018427387904,1]", "[0,0]"), "not what its shape");
    refused(of("[2,2,1,1,1,1,1,1,1]", "[0,16]"), "more than 8 dimensions");
    refused(of("[4]", "[0,17]"), "bytes 0 to 17 of data, there are 16");
    refused(of("[4]", "[16,0]"), "bytes 16 to 0");
    refused(of("[4]", "[-16,0]"), "bytes -16 to 0");
    refused(of("[4]", "[0,9223372036854775807]"), "there are 16");
    refused(of("[4]", "[0,92233720368547758070]"), "not JSON");
    refused(of("[4]", "[0]"), "not an array of two integers");
}

TEST_F(Safetensors, RefusesOverlapsGapsAndMisalignment)
{
    auto of = [](const std::string &a, const std::string &b) {
        return file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                           R"(},"b":{"dtype":"U16","shape":[2],"data_offsets":)" + b + "}}",
                       std::string(8, '\0'));
    };
    ASSERT_EQ(open(of("[0,4]", "[4,8]")), LIBSCHED_OK) << err.message;
    refused(of("[0,4]", "[0,4]"), "overlaps");
    refused(of("[0,4]", "[2,6]"), "overlaps");
    refused(of("[0,4]", "[3,7]"), "not aligned");
    refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xy"), "a gap");
    refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "xyz"),
            "2 bytes behind the last tensor");
}

TEST_F(Safetensors, RefusesWhatIsNotAFile)
{
    EXPECT_EQ(safetensors_open(&file, (folder.path() + "/absent").c_str(), &err),
              LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("absent: cannot be opened: No such file"));
    EXPECT_EQ(safetensors_open(&file, folder.path().c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("not a regular file"));
    std::string fifo = folder.path() + "/fifo";
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_EQ(safetensors_open(&file, fifo.c_str(), &err), LIBSCHED_EBADMODEL);
}

TEST_F(Safetensors, OutlivesTheTruncationOfItsFile)
{
    std::string data(32, 'x');
    ASSERT_EQ(open(file_of(two_tensors, data)), LIBSCHED_OK) << err.message;
    ASSERT_EQ(truncate((folder.path() + "/m.safetensors").c_str(), 0), 0);
    EXPECT_EQ(memcmp(safetensors_find(file, "b")->data, data.data(), 24), 0);
}

TEST_F(Safetensors, QuotesNamesSafely)
{
    refused(file_of("{\"a\\u001b[31m\\n" + std::string(300, 'b') + "\":1}", ""),
            "tensor \"a?[31m?bbbb");
}

TEST_F(Safetensors, ReadsARealModel)
{
    GPU_SCHED_NEED_MINILM(minilm);
    ASSERT_EQ(safetensors_open(&file, (minilm + "/model.safetensors").c_str(), &err), LIBSCHED_OK)
        << err.message;
    const libsched_tensor *words = safetensors_find(file, "embeddings.word_embeddings.weight");
    ASSERT_NE(words, nullptr);
    EXPECT_EQ(words->datatype, (uint32_t)LIBSCHED_FP32);
    EXPECT_EQ(words->shape[0], 30522);
    EXPECT_EQ(words->shape[1], 384);
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const libsched_tensor *tensor = safetensors_at(file, i);
        EXPECT_EQ(libsched_tensor_check(tensor, &err), LIBSCHED_OK) << err.message;
        EXPECT_EQ(safetensors_find(file, tensor->name), tensor);
    }
}

} // namespace
