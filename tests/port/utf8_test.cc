// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <gtest/gtest.h>

extern "C" {
#include "utf8.h"
}

namespace
{
std::string Clean(const std::string &text, size_t size = 64)
{
    std::string out(size, '#');
    utf8_clean(out.data(), size, text.c_str());
    return out.c_str();
}

TEST(Utf8, WhatIsWellFormedStays)
{
    for (const char *text : {"", "plain", "\u00e9\u0800\uffff", "\U00010000\U0010ffff", "\x7f"})
        EXPECT_EQ(Clean(text), text);
}

TEST(Utf8, EachByteThatIsNotIsAQuestionMark)
{
    EXPECT_EQ(Clean("a\x80z"), "a?z");
    EXPECT_EQ(Clean("\xff\xfe"), "??");
    EXPECT_EQ(Clean("\xc3"), "?");        // cut short by the end,
    EXPECT_EQ(Clean("\xe2\x82z"), "??z"); // or by something else
    EXPECT_EQ(Clean("\xc0\xaf"), "??");   // longer than it has to be
    EXPECT_EQ(Clean("\xe0\x9f\xbf"), "???");
    EXPECT_EQ(Clean("\xf0\x8f\xbf\xbf"), "????");
    EXPECT_EQ(Clean("\xed\xa0\x80"), "???");      // a surrogate
    EXPECT_EQ(Clean("\xf4\x90\x80\x80"), "????"); // beyond the last character
    EXPECT_EQ(Clean("\xf5\x80\x80\x80\u00e9"), "????\u00e9");
}

TEST(Utf8, NoCharacterIsCut)
{
    EXPECT_EQ(Clean("abc\u00e9", 6), "abc\u00e9");
    EXPECT_EQ(Clean("abc\u00e9", 5), "abc");
    EXPECT_EQ(Clean("abc", 1), "");
}
} // namespace
