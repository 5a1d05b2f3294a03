// SPDX-License-Identifier: Apache-2.0
// The pass over a frame: what is a list of messages, and what is refused and why.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

extern "C" {
#include "frame_check.h"
#include "msgpack_skip.h"
}

using testing::HasSubstr;
using namespace std::string_literals;

namespace
{
class FrameCheck : public testing::Test
{
  protected:
    ~FrameCheck() override
    {
        message_list_free(&list);
    }

    int Check(const std::string &frame)
    {
        return frame_check(reinterpret_cast<const uint8_t *>(frame.data()), frame.size(), &list,
                           reason, sizeof(reason));
    }

    void Refused(const std::string &frame, const std::string &why)
    {
        EXPECT_EQ(Check(frame), -1);
        EXPECT_THAT(reason, HasSubstr(why));
    }

    message_list list = {};
    char reason[256] = "";
};

const std::string kPing = "\x94\x00\x07\xa4ping\x91\x01"s; // [0, 7, "ping", [1]]
const std::string kCancel = "\x93\x02\xa6"
                            "cancel\x91\x07"s; // [2, "cancel", [7]]

TEST_F(FrameCheck, ListsItsMessages)
{
    ASSERT_EQ(Check(kPing + kCancel + kPing), 0);
    ASSERT_EQ(list.n, 3u);
    EXPECT_EQ(list.items[0].kind, MESSAGE_REQUEST);
    EXPECT_EQ(list.items[0].id, 7u);
    EXPECT_EQ(list.items[1].kind, MESSAGE_NOTIFICATION);
    EXPECT_EQ(list.items[1].offset, kPing.size());
    EXPECT_EQ(list.items[1].size, kCancel.size());
    EXPECT_EQ(list.items[2].offset, kPing.size() + kCancel.size());
}

TEST_F(FrameCheck, TakesIdsInEveryFormOfAnInteger)
{
    for (const auto &id : {"\x07"s, "\xcc\x07"s, "\xcd\x00\x07"s, "\xce\x00\x00\x00\x07"s,
                           "\xcf\x00\x00\x00\x00\x00\x00\x00\x07"s, "\xd0\x07"s}) {
        ASSERT_EQ(Check("\x94\x00"s + id + "\xa1x\x90"s), 0) << reason;
        EXPECT_EQ(list.items[0].id, 7u);
    }
    ASSERT_EQ(Check("\x94\x00\xce\xff\xff\xff\xff\xa1x\x90"s), 0);
    EXPECT_EQ(list.items[0].id, UINT32_MAX);
}

TEST_F(FrameCheck, RefusesIdsThatAreNone)
{
    Refused("\x94\x00\xff\xa1x\x90"s, "id");
    Refused("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1x\x90"s, "id");
    Refused("\x94\x00\xc0\xa1x\x90"s, "id");
}

TEST_F(FrameCheck, RefusesWhatIsNoMessage)
{
    Refused("\x01"s, "not a message");
    Refused("\x90"s, "not a message");
    Refused("\x94\x01\x07\xc0\xc0"s, "not a message"); // a response: nobody asked
    Refused("\x93\x00\xa1x\x90"s, "not a message");
    Refused("\x94\x00\x07\x01\x90"s, "method");
    Refused("\x94\x00\x07\xa1x\x80"s, "params");
    Refused(kPing + "\xc0"s, "not a message");
    Refused("hello"s, "not a message");
}

TEST_F(FrameCheck, RefusesEveryPrefixOfAMessage)
{
    std::string message = "\x94\x00\x07\xa5infer\x91\x82\xa5model\xc4\x01x\xa6inputs\x81\xa1y\xdc"
                          "\x00\x02\xcb\x40\x00\x00\x00\x00\x00\x00\x00\xda\x00\x01z"s;
    ASSERT_EQ(Check(message), 0) << reason;
    for (size_t n = 1; n < message.size(); n++)
        Refused(message.substr(0, n), "cut short");
}

TEST_F(FrameCheck, RefusesLengthsBeyondTheFrameBeforeReadingThem)
{
    Refused("\x94\x00\x07\xa1x\xdd\xff\xff\xff\xff"s, "cut short");
    Refused("\x94\x00\x07\xa1x\x91\xdf\xff\xff\xff\xff"s, "cut short");
    Refused("\x94\x00\x07\xa1x\x91\xc6\xff\xff\xff\xff"s, "cut short");
    Refused("\x94\x00\x07\xdb\xff\xff\xff\xff"s, "cut short");
}

TEST_F(FrameCheck, RefusesAByteThatMsgpackNeverUses)
{
    Refused("\x94\x00\x07\xa1x\x91\xc1"s, "not msgpack");
}

TEST_F(FrameCheck, NestingHasALimit)
{
    // The message and its params are two levels.
    std::string head = "\x94\x00\x07\xa1x"s;
    EXPECT_EQ(Check(head + std::string(FRAME_MAX_NESTING - 1, '\x91') + "\xc0"s), 0) << reason;
    Refused(head + std::string(FRAME_MAX_NESTING, '\x91') + "\xc0"s, "nested");
    Refused(head + "\x91"s + std::string(1000000, '\x91') + "\xc0"s, "nested");
}

TEST_F(FrameCheck, ValuesHaveALimit)
{
    uint32_t n = FRAME_MAX_VALUES;
    std::string frame = "\x94\x00\x07\xa1x\xdd"s;
    for (int shift = 24; shift >= 0; shift -= 8)
        frame += (char)(n >> shift);
    Refused(frame + std::string(n, '\xc0'), "values");
}

TEST(MsgpackSkip, FindsTheFirstLargePayload)
{
    std::string frame = "\x94\x00\x07\xa1x\x91\xc6\x00\x01\x00\x00"s;
    auto find = [](const std::string &s, uint64_t threshold) {
        return msgpack_find_payload(reinterpret_cast<const uint8_t *>(s.data()), s.size(),
                                    threshold);
    };
    EXPECT_EQ(find(frame, 65536), (int64_t)frame.size());
    EXPECT_EQ(find(frame, 65537), -1);
    EXPECT_EQ(find(kPing + frame, 65536), (int64_t)(kPing.size() + frame.size()));
    EXPECT_EQ(find("\xc1"s + frame, 65536), -1);
    EXPECT_EQ(find(frame.substr(0, frame.size() - 1), 65536), -1);
}
} // namespace
