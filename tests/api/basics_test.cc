// SPDX-License-Identifier: Apache-2.0
// Statuses, messages, datatypes, tensors and parameters: what needs no scheduler.
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libsched.h>

using testing::HasSubstr;

namespace
{

const std::vector<int> all_statuses = {
    LIBSCHED_OK,         LIBSCHED_EINVAL,    LIBSCHED_EDEADLINE,   LIBSCHED_ECANCELED,
    LIBSCHED_ETOOBIG,    LIBSCHED_EPOISON,   LIBSCHED_ENOENT,      LIBSCHED_ENOMODEL,
    LIBSCHED_ENOTREADY,  LIBSCHED_EBADMODEL, LIBSCHED_EEXIST,      LIBSCHED_EENGINE,
    LIBSCHED_EQUEUEFULL, LIBSCHED_ENODEVICE, LIBSCHED_EDEVICELOST, LIBSCHED_ENODEVMEM,
    LIBSCHED_EBUSY,      LIBSCHED_ECLOSING,  LIBSCHED_ENOMEM,      LIBSCHED_ESYSTEM,
    LIBSCHED_ENOTSUP,    LIBSCHED_EPROTOCOL, LIBSCHED_ECLIENTFULL, LIBSCHED_ETIMELIMIT,
};

TEST(Status, HasANameOfItsOwn)
{
    std::set<std::string> names;
    for (int status : all_statuses) {
        std::string name = libsched_status_name(status);
        EXPECT_NE(name, "unknown") << status;
        EXPECT_TRUE(names.insert(name).second) << name << " twice";
    }
    for (int status : {1, -1, -100, -109, -207, -304, -407, std::numeric_limits<int>::min()})
        EXPECT_STREQ(libsched_status_name(status), "unknown") << status;
}

TEST(Status, IsRangedByWhatIsAffected)
{
    for (int status : all_statuses) {
        if (status == LIBSCHED_OK)
            continue;
        std::string name = libsched_status_name(status);
        int range = status / -100;
        EXPECT_GE(range, 1) << name;
        EXPECT_LE(range, 4) << name;
    }
}

std::string message(const char *format, const std::string &text)
{
    libsched_error err;
    memset(&err, 0x55, sizeof(err));
    EXPECT_EQ(libsched_error_set(&err, LIBSCHED_EINVAL, format, text.c_str()), LIBSCHED_EINVAL);
    EXPECT_EQ(err.status, LIBSCHED_EINVAL);
    EXPECT_NE(memchr(err.message, '\0', sizeof(err.message)), nullptr);
    return err.message;
}

TEST(Message, IsFormatted)
{
    EXPECT_EQ(message("got \"%s\"", "x"), "got \"x\"");
    EXPECT_EQ(libsched_error_set(nullptr, LIBSCHED_ENOMEM, "%s", "nobody listens"),
              LIBSCHED_ENOMEM);
}

// What is quoted may be anything; a message never is.
TEST(Message, IsUtf8)
{
    EXPECT_EQ(message("%s", "h\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80"),
              "h\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80");
    EXPECT_EQ(message("%s", "a\xff\xfe z"), "a?? z");
    EXPECT_EQ(message("%s", "a\xc3"), "a?");
    EXPECT_EQ(message("%s", "a\xc3z"), "a?z");
    EXPECT_EQ(message("%s", "\x80\xbf"), "??");
    EXPECT_EQ(message("%s", "\xc0\x80 \xc1\xbf"), "?? ??");
    EXPECT_EQ(message("%s", "\xe0\x80\x80"), "???");
    EXPECT_EQ(message("%s", "\xed\xa0\x80"), "???");
    EXPECT_EQ(message("%s", "\xf0\x80\x80\x80"), "????");
    EXPECT_EQ(message("%s", "\xf4\x90\x80\x80"), "????");
    EXPECT_EQ(message("%s", "\xf8\x88\x80\x80\x80"), "?????");
    // Cut in two by a precision.
    EXPECT_EQ(message("\"%.3s\"", "\xe4\xb8\xad\xe6\x96\x87"), "\"\xe4\xb8\xad\"");
    EXPECT_EQ(message("\"%.4s\"", "\xe4\xb8\xad\xe6\x96\x87"), "\"\xe4\xb8\xad?\"");
}

TEST(Message, IsCutBetweenCharacters)
{
    EXPECT_EQ(message("%s", std::string(1000, 'x')), std::string(LIBSCHED_MESSAGE_SIZE - 1, 'x'));
    for (size_t shift = 0; shift < 4; shift++) {
        std::string text(shift, 'x'), expected;
        for (int i = 0; i < 200; i++)
            text += "\xf0\x9f\x98\x80";
        expected = text.substr(0, shift + (LIBSCHED_MESSAGE_SIZE - 1 - shift) / 4 * 4);
        EXPECT_EQ(message("%s", text), expected);
    }
}

TEST(Datatype, HasTheNameOfTheProtocol)
{
    for (uint32_t datatype = LIBSCHED_BOOL; datatype <= LIBSCHED_BYTES; datatype++) {
        const char *name = libsched_datatype_name(datatype);
        ASSERT_NE(name, nullptr) << datatype;
        EXPECT_EQ(libsched_datatype_parse(name, strlen(name)), datatype);
        EXPECT_EQ(libsched_datatype_parse(name, strlen(name) - 1), 0u) << name;
        EXPECT_EQ(libsched_datatype_size(datatype) == 0, datatype == LIBSCHED_BYTES);
    }
    EXPECT_EQ(libsched_datatype_parse("FP32 and more", 4), uint32_t(LIBSCHED_FP32));
    EXPECT_EQ(libsched_datatype_parse("fp32", 4), 0u);
    EXPECT_EQ(libsched_datatype_parse("", 0), 0u);
    for (uint32_t datatype : {0u, uint32_t(LIBSCHED_BYTES) + 1, UINT32_MAX}) {
        EXPECT_EQ(libsched_datatype_name(datatype), nullptr);
        EXPECT_EQ(libsched_datatype_size(datatype), 0u);
    }
}

TEST(Shape, HasElements)
{
    auto elements = [](const std::vector<int64_t> &shape) {
        return libsched_shape_elements(shape.data(), uint32_t(shape.size()));
    };
    EXPECT_EQ(elements({}), 1);
    EXPECT_EQ(elements({2, 3, 4}), 24);
    EXPECT_EQ(elements({5, 0}), 0);
    EXPECT_EQ(elements({-1}), -1);
    EXPECT_EQ(elements({0, -1}), -1);
    EXPECT_EQ(elements({INT64_C(1) << 62}), INT64_C(1) << 62);
    EXPECT_EQ(elements({INT64_C(1) << 62, 2}), -1);
    EXPECT_EQ(elements({INT64_MAX, INT64_MAX}), -1);
    EXPECT_EQ(elements({INT64_C(1) << 32, INT64_C(1) << 32}), -1);
}

class TensorCheck : public testing::Test
{
  protected:
    TensorCheck()
    {
        tensor.name = "t";
        tensor.rank = 1;
        tensor.shape[0] = 2;
    }

    void set(uint32_t datatype, const std::string &bytes)
    {
        data = bytes;
        tensor.datatype = datatype;
        tensor.data = data.data();
        tensor.size = data.size();
    }

    void fits()
    {
        libsched_error err{};
        EXPECT_EQ(libsched_tensor_check(&tensor, &err), LIBSCHED_OK) << err.message;
        EXPECT_EQ(libsched_tensor_check(&tensor, nullptr), LIBSCHED_OK);
    }

    void refused(const std::string &why)
    {
        libsched_error err{};
        EXPECT_EQ(libsched_tensor_check(&tensor, &err), LIBSCHED_EINVAL) << why;
        EXPECT_THAT(err.message, HasSubstr(why));
    }

    libsched_tensor tensor{};
    std::string data;
};

TEST_F(TensorCheck, ComparesSizeAndShape)
{
    set(LIBSCHED_FP32, std::string(8, '\0'));
    fits();
    tensor.size = 9;
    refused("9 bytes, but its shape takes 8");
    tensor.size = 8;
    tensor.shape[0] = -2;
    refused("negative");
    tensor.shape[0] = INT64_MAX;
    refused("too many elements");
    tensor.shape[0] = INT64_C(1) << 62; // times 4 is 2^64
    tensor.size = 0;
    refused("too many elements");
    tensor.rank = 0;
    tensor.size = 4;
    fits();
    tensor.rank = LIBSCHED_MAX_RANK + 1;
    refused("9 dimensions");
}

TEST_F(TensorCheck, WalksTheLengthsOfBytes)
{
    using namespace std::string_literals;
    set(LIBSCHED_BYTES, "\2\0\0\0ab\0\0\0\0"s);
    fits();
    tensor.shape[0] = 3;
    refused("holds 2 elements, its shape says 3");
    tensor.shape[0] = 1;
    refused("holds 2 elements, its shape says 1");
    tensor.shape[0] = 2;
    set(LIBSCHED_BYTES, "\2\0\0\0ab\1\0\0\0"s);
    refused("element 1 claims 1 bytes where 0 are left");
    set(LIBSCHED_BYTES, "\2\0\0\0ab\0\0\0"s);
    refused("3 stray bytes behind element 1");
    set(LIBSCHED_BYTES, "\xff\xff\xff\xff"
                        "ab"s);
    refused("claims 4294967295 bytes");
    set(LIBSCHED_BYTES, "");
    refused("holds 0 elements");
    tensor.shape[0] = 0;
    fits();
}

TEST_F(TensorCheck, LooksAtTheRestFirst)
{
    set(LIBSCHED_UINT8, "ab");
    tensor.data = nullptr;
    refused("no data");
    set(99, "ab");
    refused("unknown datatype 99");
    set(LIBSCHED_UINT8, "ab");
    std::string name(LIBSCHED_NAME_SIZE, 'n');
    tensor.name = name.c_str();
    refused("at most 63 bytes");
    tensor.name = nullptr;
    refused("name");
}

TEST(Parameter, IsFoundByName)
{
    libsched_parameter parameters[2] = {};
    parameters[0].name = "a";
    parameters[1].name = "b";
    EXPECT_EQ(libsched_parameter_find(parameters, 2, "b"), &parameters[1]);
    EXPECT_EQ(libsched_parameter_find(parameters, 1, "b"), nullptr);
    EXPECT_EQ(libsched_parameter_find(nullptr, 0, "b"), nullptr);
}

TEST(Clock, IsTheMonotonicOne)
{
    timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    uint64_t now = libsched_now();
    clock_gettime(CLOCK_MONOTONIC, &after);
    auto ns = [](const timespec &t) {
        return uint64_t(t.tv_sec) * 1000000000 + uint64_t(t.tv_nsec);
    };
    EXPECT_LE(ns(before), now);
    EXPECT_LE(now, ns(after));
}

} // namespace
