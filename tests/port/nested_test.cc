// SPDX-License-Identifier: Apache-2.0
// Nested arrays as tensors: shapes, bytes, and the paths of what does not fit.
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <msgpack.h>

extern "C" {
#include "nested.h"
}

using namespace std::string_literals;

namespace
{
class Nested : public testing::Test
{
  protected:
    ~Nested() override
    {
        msgpack_zone_destroy(&zone);
    }

    Nested()
    {
        msgpack_zone_init(&zone, 4096);
    }

    /* The tensor's bytes, or the message of what is wrong with it. */
    std::string Convert(const std::string &bytes, uint32_t datatype)
    {
        msgpack_object object;
        size_t used = 0;
        EXPECT_GT(msgpack_unpack(bytes.data(), bytes.size(), &used, &zone, &object), 0);
        libsched_error err;
        if (nested_measure(&tensor, "inputs.x", &object, datatype, &err) < 0)
            return err.message;
        std::string out(tensor.size, '\0');
        if (nested_write(&tensor, out.data(), &err) < 0)
            return err.message;
        return out;
    }

    std::vector<int64_t> Shape() const
    {
        return {tensor.shape, tensor.shape + tensor.rank};
    }

    msgpack_zone zone;
    nested tensor = {};
};

using Dimensions = std::vector<int64_t>;

TEST_F(Nested, RowsOfIntegers)
{
    EXPECT_EQ(Convert("\x92\x93\x01\x02\x03\x93\x04\x05\xff"s, LIBSCHED_INT8),
              "\x01\x02\x03\x04\x05\xff"s);
    EXPECT_EQ(Shape(), (Dimensions{2, 3}));
}

TEST_F(Nested, ASingleValueHasNoDimension)
{
    EXPECT_EQ(Convert("\x05"s, LIBSCHED_INT16), "\x05\x00"s);
    EXPECT_EQ(Shape(), Dimensions{});
    EXPECT_EQ(Convert("\xa2hi"s, LIBSCHED_BYTES), "\x02\x00\x00\x00hi"s);
    EXPECT_EQ(Shape(), Dimensions{});
}

TEST_F(Nested, StringsAndBinaries)
{
    EXPECT_EQ(Convert("\x93\xa1"
                      "a\xc4\x02"
                      "bc\xa0"s,
                      LIBSCHED_BYTES),
              "\x01\0\0\0a\x02\0\0\0bc\0\0\0\0"s);
    EXPECT_EQ(Shape(), Dimensions{3});
}

TEST_F(Nested, EmptyArraysKeepTheirDimensions)
{
    EXPECT_EQ(Convert("\x90"s, LIBSCHED_FP32), "");
    EXPECT_EQ(Shape(), Dimensions{0});
    EXPECT_EQ(Convert("\x92\x90\x90"s, LIBSCHED_FP32), "");
    EXPECT_EQ(Shape(), (Dimensions{2, 0}));
}

TEST_F(Nested, RaggedRowsAreNamedByTheirPath)
{
    EXPECT_EQ(Convert("\x94\x92\x01\x02\x92\x01\x02\x92\x01\x02\x91\x01"s, LIBSCHED_INT64),
              "inputs.x[3]: 1 elements, the rows before have 2");
    EXPECT_EQ(Convert("\x92\x91\x92\x01\x02\x91\x93\x01\x02\x03"s, LIBSCHED_INT64),
              "inputs.x[1][0]: 3 elements, the rows before have 2");
    EXPECT_EQ(Convert("\x92\x91\x01\x02"s, LIBSCHED_INT64),
              "inputs.x[1]: an integer, where the rows before are arrays of 1");
    EXPECT_EQ(Convert("\x92\x01\x91\x02"s, LIBSCHED_INT64),
              "inputs.x[1]: an array, where the rows before have no further dimension");
    EXPECT_EQ(Convert("\x92\xa1x\x91\xa1x"s, LIBSCHED_BYTES),
              "inputs.x[1]: an array, where the rows before have no further dimension");
}

TEST_F(Nested, ElementsThatDoNotFitAreNamedByTheirPath)
{
    EXPECT_EQ(Convert("\x92\x92\x01\x02\x92\x03\xcc\x80"s, LIBSCHED_INT8),
              "inputs.x[1][1]: 128 is not within INT8 (-128 to 127)");
    EXPECT_EQ(Convert("\x92\xa1"
                      "a\x01"s,
                      LIBSCHED_BYTES),
              "inputs.x[1]: an integer, where a string is expected");
    EXPECT_EQ(Convert("\x91\xa1"
                      "a"s,
                      LIBSCHED_FP32),
              "inputs.x[0]: a string, where FP32 is expected");
    EXPECT_EQ(Convert("\xc0"s, LIBSCHED_FP32), "inputs.x: nil, where FP32 is expected");
    EXPECT_EQ(Convert("\x91\x80"s, LIBSCHED_FP32), "inputs.x[0]: a map, where FP32 is expected");
}

TEST_F(Nested, DimensionsHaveALimit)
{
    EXPECT_EQ(Convert(std::string(8, '\x91') + "\x01"s, LIBSCHED_UINT8), "\x01"s);
    EXPECT_EQ(tensor.rank, 8u);
    EXPECT_EQ(Convert(std::string(9, '\x91') + "\x01"s, LIBSCHED_UINT8),
              "inputs.x: more than 8 dimensions");
}
} // namespace
