// SPDX-License-Identifier: Apache-2.0
// Framing: any way in which the bytes may arrive gives the same frames.
#include <fcntl.h>
#include <random>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

extern "C" {
#include "fake_libsched.h"
#include "frame_reader.h"
}

using testing::HasSubstr;
using namespace std::string_literals;

namespace
{
constexpr uint32_t kMaxFrame = 8 << 20;

std::string Framed(const std::string &payload)
{
    uint32_t n = (uint32_t)payload.size();
    return std::string{(char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n} + payload;
}

class FrameReader : public testing::Test
{
  protected:
    void SetUp() override
    {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        ASSERT_EQ(libsched_open(&sched, &options, nullptr), 0);
        ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
        fcntl(fds[0], F_SETFL, O_NONBLOCK);
        ASSERT_EQ(frame_reader_init(&reader, sched, fds[0], kMaxFrame), 0);
    }

    void TearDown() override
    {
        frame_reader_free(&reader);
        EXPECT_EQ(fake_buffers(), 0);
        libsched_close(sched);
        close(fds[0]);
        if (fds[1] >= 0)
            close(fds[1]);
    }

    void Put(const std::string &bytes)
    {
        ASSERT_EQ(write(fds[1], bytes.data(), bytes.size()), (ssize_t)bytes.size());
        while (frame_reader_fill(&reader) > 0)
            ;
    }

    /* Writes on a thread of its own, and collects frames until the pipe is closed. */
    std::vector<std::string> Collect(const std::string &bytes, size_t piece)
    {
        std::thread writer([&] {
            for (size_t at = 0; at < bytes.size(); at += piece) {
                size_t n = std::min(piece, bytes.size() - at);
                for (size_t done = 0; done < n;)
                    done += (size_t)write(fds[1], bytes.data() + at + done, n - done);
            }
            close(fds[1]);
            fds[1] = -1;
        });
        std::vector<std::string> frames;
        for (bool open = true; open;) {
            open = frame_reader_fill(&reader) >= 0;
            frame frame;
            for (;;) {
                auto result = frame_reader_next(&reader, &frame, reason, sizeof(reason));
                if (result == FRAME_READER_MORE)
                    break;
                frames.push_back(result == FRAME_READER_BAD
                                     ? "bad"s
                                     : std::string((const char *)frame.data, frame.size));
                EXPECT_EQ(frame.number, number++);
                in_place.push_back(result == FRAME_READER_FRAME && frame.buffer != nullptr);
            }
        }
        writer.join();
        return frames;
    }

    libsched *sched = nullptr;
    int fds[2] = {-1, -1};
    frame_reader reader = {};
    char reason[256] = "";
    uint64_t number = 0;
    std::vector<bool> in_place;
};

/* A message whose payload of `size` bytes is a binary. */
std::string Message(size_t size)
{
    std::string head = "\x94\x00\x07\xa5infer\x91\x81\xa4"
                       "data\xc6"s;
    for (int shift = 24; shift >= 0; shift -= 8)
        head += (char)(size >> shift);
    std::string data(size, '\0');
    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i * 31 >> 3);
    return head + data;
}

TEST_F(FrameReader, FramesComeOutAsTheyWentIn)
{
    std::mt19937 random(1);
    std::vector<std::string> want;
    std::string bytes;
    for (int i = 0; i < 300; i++) {
        size_t size = 1 + random() % 2000;
        if (i % 60 == 7)
            size = (size_t)1 << 20;
        if (i % 60 == 9)
            size = 64 << 10;
        if (i % 60 == 11)
            size = (1 << 20) - 4;
        want.push_back(i % 2 ? Message(size) : std::string(size, (char)i));
        bytes += Framed(want.back());
    }
    for (size_t piece : {(size_t)1 << 20, (size_t)4093}) {
        if (fds[1] < 0) {
            TearDown();
            number = 0;
            SetUp();
        }
        auto got = Collect(bytes, piece);
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < want.size(); i++)
            ASSERT_TRUE(got[i] == want[i]) << "frame " << i << ", pieces of " << piece;
    }
}

TEST_F(FrameReader, AByteAtATime)
{
    std::string bytes = Framed("abc") + Framed("") + Framed("defg");
    frame frame;
    std::vector<std::string> got;
    for (char c : bytes) {
        Put(std::string(1, c));
        while (frame_reader_next(&reader, &frame, reason, sizeof(reason)) == FRAME_READER_FRAME)
            got.emplace_back((const char *)frame.data, frame.size);
    }
    EXPECT_THAT(got, testing::ElementsAre("abc", "defg"));
    EXPECT_EQ(frame.number, 2u); // the empty one counts
}

TEST_F(FrameReader, LargePayloadsLieAlignedInTheArena)
{
    std::string small = Message(100), large = Message(200000);
    Put(Framed(small) + Framed(small + large).substr(0, 30000));
    frame frame;
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    EXPECT_EQ(frame.buffer, nullptr);
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    std::string rest = Framed(small + large).substr(30000);
    for (size_t at = 0; at < rest.size(); at += 60000)
        Put(rest.substr(at, 60000));
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    ASSERT_NE(frame.buffer, nullptr);
    EXPECT_EQ(std::string((const char *)frame.data, frame.size), small + large);
    const uint8_t *payload = frame.data + frame.size - 200000;
    EXPECT_EQ((uintptr_t)payload % 64, 0u);
    EXPECT_GE(payload, libsched_buffer_data(frame.buffer));
}

TEST_F(FrameReader, ALargePayloadIsReadStraightIntoTheArena)
{
    fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    std::string message = Message(900000), bytes = Framed("small") + Framed(message);
    ASSERT_EQ(write(fds[1], bytes.data(), bytes.size()), (ssize_t)bytes.size());
    // Nothing is known yet: little is read, and of that what belongs to the payload is copied.
    EXPECT_EQ(frame_reader_fill(&reader), (ptrdiff_t)READER_AHEAD);
    frame frame;
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    ASSERT_NE(reader.large_buffer, nullptr);
    EXPECT_EQ(frame_reader_fill(&reader), (ptrdiff_t)(bytes.size() - READER_AHEAD));
    EXPECT_EQ(reader.start, reader.end); // nothing of it went through the buffer
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    EXPECT_EQ(std::string((const char *)frame.data, frame.size), message);
}

TEST_F(FrameReader, AFrameOfManySmallMessagesIsReadAtOnce)
{
    fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    std::string bytes = Framed(std::string(600000, '\x90'));
    ASSERT_EQ(write(fds[1], bytes.data(), bytes.size()), (ssize_t)bytes.size());
    frame frame;
    EXPECT_EQ(frame_reader_fill(&reader), (ptrdiff_t)READER_AHEAD);
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    EXPECT_EQ(frame_reader_fill(&reader), (ptrdiff_t)(bytes.size() - READER_AHEAD));
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    EXPECT_EQ(frame.buffer, nullptr);
}

TEST_F(FrameReader, AFrameOverTheLimitIsPassedOver)
{
    std::string bytes = Framed("one") + Framed(std::string(kMaxFrame + 1, 'x')) + Framed("two");
    EXPECT_THAT(Collect(bytes, 1 << 20), testing::ElementsAre("one", "bad", "two"));
    EXPECT_THAT(reason, HasSubstr("8388609 bytes"));
}

TEST_F(FrameReader, AHugeLengthAllocatesNothing)
{
    Put("\xff\xff\xff\xff rest"s);
    frame frame;
    EXPECT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_BAD);
    EXPECT_EQ(frame.number, 0u);
    EXPECT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    EXPECT_EQ(fake_buffers(), 0);
}

TEST_F(FrameReader, AnEndInsideAFrameIsTold)
{
    uint64_t cut;
    frame frame;
    Put(Framed("abc"));
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    EXPECT_FALSE(frame_reader_cut(&reader, &cut, reason, sizeof(reason)));
    Put(Framed("abc").substr(0, 5));
    EXPECT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    EXPECT_TRUE(frame_reader_cut(&reader, &cut, reason, sizeof(reason)));
    EXPECT_EQ(cut, 1u);
    Put("bc");
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_FRAME);
    Put(Framed(Message(1 << 20)).substr(0, 20000));
    ASSERT_EQ(frame_reader_next(&reader, &frame, reason, sizeof(reason)), FRAME_READER_MORE);
    EXPECT_TRUE(frame_reader_cut(&reader, &cut, reason, sizeof(reason)));
    EXPECT_EQ(cut, 2u);
}
} // namespace
