// SPDX-License-Identifier: Apache-2.0
// Numbers of a message as elements of a tensor: range checks and rounding.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
#include "element.h"
}

namespace
{
msgpack_object Unsigned(uint64_t value)
{
    msgpack_object o;
    o.type = MSGPACK_OBJECT_POSITIVE_INTEGER;
    o.via.u64 = value;
    return o;
}

msgpack_object Negative(int64_t value)
{
    msgpack_object o;
    o.type = MSGPACK_OBJECT_NEGATIVE_INTEGER;
    o.via.i64 = value;
    return o;
}

msgpack_object Float(double value)
{
    msgpack_object o;
    o.type = MSGPACK_OBJECT_FLOAT64;
    o.via.f64 = value;
    return o;
}

bool Fits(uint32_t datatype, msgpack_object value)
{
    uint64_t out = 0;
    return element_write_row(datatype, &value, 1, &out) == 1;
}

TEST(Element, IntegersAreCheckedAgainstTheirRange)
{
    EXPECT_TRUE(Fits(LIBSCHED_UINT8, Unsigned(255)));
    EXPECT_FALSE(Fits(LIBSCHED_UINT8, Unsigned(256)));
    EXPECT_FALSE(Fits(LIBSCHED_UINT8, Negative(-1)));
    EXPECT_TRUE(Fits(LIBSCHED_INT16, Negative(-32768)));
    EXPECT_FALSE(Fits(LIBSCHED_INT16, Negative(-32769)));
    EXPECT_FALSE(Fits(LIBSCHED_INT16, Unsigned(32768)));
    EXPECT_TRUE(Fits(LIBSCHED_UINT64, Unsigned(UINT64_MAX)));
    EXPECT_FALSE(Fits(LIBSCHED_INT64, Unsigned((uint64_t)1 << 63)));
    EXPECT_TRUE(Fits(LIBSCHED_INT64, Negative(INT64_MIN)));
    EXPECT_FALSE(Fits(LIBSCHED_INT32, Float(1.0)));
}

TEST(Element, BooleansTakeZeroAndOne)
{
    msgpack_object yes;
    yes.type = MSGPACK_OBJECT_BOOLEAN;
    yes.via.boolean = true;
    EXPECT_TRUE(Fits(LIBSCHED_BOOL, yes));
    EXPECT_TRUE(Fits(LIBSCHED_BOOL, Unsigned(1)));
    EXPECT_FALSE(Fits(LIBSCHED_BOOL, Unsigned(2)));
    EXPECT_FALSE(Fits(LIBSCHED_UINT8, yes));
}

TEST(Element, RowsStopAtTheFirstThatDoesNotFit)
{
    std::vector<msgpack_object> row = {Unsigned(1), Negative(-2), Unsigned(300), Unsigned(4)};
    int8_t out[4] = {};
    EXPECT_EQ(element_write_row(LIBSCHED_INT8, row.data(), 4, out), 2u);
    EXPECT_EQ(out[0], 1);
    EXPECT_EQ(out[1], -2);
}

TEST(Element, FloatsRoundButDoNotOverflow)
{
    EXPECT_TRUE(Fits(LIBSCHED_FP32, Float(3.4028234663852886e38)));
    EXPECT_FALSE(Fits(LIBSCHED_FP32, Float(3.5e38)));
    EXPECT_TRUE(Fits(LIBSCHED_FP32, Float(INFINITY)));
    EXPECT_TRUE(Fits(LIBSCHED_FP32, Float(NAN)));
    EXPECT_TRUE(Fits(LIBSCHED_FP32, Unsigned(16777217)));
    EXPECT_TRUE(Fits(LIBSCHED_FP16, Float(65504)));
    EXPECT_TRUE(Fits(LIBSCHED_FP16, Float(65519.99)));
    EXPECT_FALSE(Fits(LIBSCHED_FP16, Float(65520)));
    EXPECT_FALSE(Fits(LIBSCHED_BF16, Float(3.4e38)));
    EXPECT_TRUE(Fits(LIBSCHED_FP64, Float(1e308)));
}

TEST(Element, HalvesOfKnownNumbers)
{
    EXPECT_EQ(element_fp16(0.0), 0x0000);
    EXPECT_EQ(element_fp16(-0.0), 0x8000);
    EXPECT_EQ(element_fp16(1.0), 0x3c00);
    EXPECT_EQ(element_fp16(-2.0), 0xc000);
    EXPECT_EQ(element_fp16(0.1), 0x2e66);
    EXPECT_EQ(element_fp16(65504), 0x7bff);
    EXPECT_EQ(element_fp16(65520), 0x7c00);
    EXPECT_EQ(element_fp16(INFINITY), 0x7c00);
    EXPECT_EQ(element_fp16(std::ldexp(1, -14)), 0x0400); // smallest normal
    EXPECT_EQ(element_fp16(std::ldexp(1, -24)), 0x0001); // smallest subnormal
    EXPECT_EQ(element_fp16(std::ldexp(1, -25)), 0x0000); // a tie, to even
    EXPECT_EQ(element_fp16(std::ldexp(3, -25)), 0x0002); // a tie, to even
    EXPECT_EQ(element_fp16(1 + std::ldexp(1, -11)), 0x3c00);
    EXPECT_EQ(element_fp16(1 + std::ldexp(3, -11)), 0x3c02);
    EXPECT_EQ(element_fp16(NAN) & 0x7e00, 0x7e00);
}

TEST(Element, Bf16IsTheRoundedUpperHalfOfAFloat)
{
    for (float value : {0.0f, 1.0f, -1.5f, 0.1f, 3.14159f, 1e-38f, 1e-40f, 1e30f, -7e-3f}) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
        EXPECT_EQ(element_bf16(value), (uint16_t)(rounded >> 16)) << value;
    }
}

TEST(Element, EveryHalfSurvivesAsADouble)
{
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        int exponent = (int)(bits >> 10);
        double fraction = bits & 0x3ff;
        double value =
            exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
        ASSERT_EQ(element_fp16(value), bits);
        ASSERT_EQ(element_fp16(-value), bits | 0x8000);
    }
}

TEST(Element, RefusalsNameValueAndRange)
{
    char text[96];
    msgpack_object value = Unsigned(70000);
    element_refusal(LIBSCHED_INT16, &value, text, sizeof(text));
    EXPECT_EQ(std::string(text), "70000 is not within INT16 (-32768 to 32767)");
    msgpack_object nil;
    nil.type = MSGPACK_OBJECT_NIL;
    element_refusal(LIBSCHED_FP32, &nil, text, sizeof(text));
    EXPECT_EQ(std::string(text), "nil, where FP32 is expected");
}
} // namespace
