// SPDX-License-Identifier: Apache-2.0
// Gathering messages into frames, large ones by reference, into a pipe that may be full.
#include <fcntl.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
#include "fake_libsched.h"
#include "frame_writer.h"
}

namespace
{
class FrameWriter : public testing::Test
{
  protected:
    void SetUp() override
    {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        ASSERT_EQ(libsched_open(&sched, &options, nullptr), 0);
        ASSERT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        frame_writer_init(&writer, sched, fds[1]);
    }

    void TearDown() override
    {
        frame_writer_free(&writer);
        EXPECT_EQ(fake_completions(), 0);
        libsched_close(sched);
        close(fds[0]);
        close(fds[1]);
    }

    void Message(const std::string &text)
    {
        frame_writer_begin(&writer);
        frame_writer_append(&writer, text.data(), text.size());
        frame_writer_end(&writer);
    }

    /* A completion of the made-up scheduler with one output of so many bytes. */
    libsched_completion Result(int64_t bytes)
    {
        libsched_request request = LIBSCHED_REQUEST_INIT;
        libsched_parameter parameter = {"bytes", LIBSCHED_PARAMETER_INT, {}};
        parameter.value.integer = bytes;
        request.model = "big";
        request.parameters = &parameter;
        request.n_parameters = 1;
        uint64_t id;
        EXPECT_EQ(libsched_submit(sched, &request, &id, nullptr), 0);
        libsched_completion c;
        EXPECT_EQ(libsched_reap(sched, &c, 1), 1u);
        return c;
    }

    /* Flushes and reads until nothing is left. */
    std::vector<std::string> Frames()
    {
        std::string bytes;
        std::vector<char> piece(1 << 20);
        while (frame_writer_flush(&writer) >= 0) {
            ssize_t n = read(fds[0], piece.data(), piece.size());
            if (n <= 0)
                break;
            bytes.append(piece.data(), (size_t)n);
        }
        std::vector<std::string> frames;
        for (size_t at = 0; at + 4 <= bytes.size();) {
            auto *b = reinterpret_cast<const uint8_t *>(bytes.data()) + at;
            size_t size = (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3];
            frames.push_back(bytes.substr(at + 4, size));
            at += 4 + size;
        }
        return frames;
    }

    libsched *sched = nullptr;
    int fds[2] = {-1, -1};
    frame_writer writer = {};
};

TEST_F(FrameWriter, GathersWhatIsReadyIntoOneFrame)
{
    Message("one");
    Message("two");
    EXPECT_EQ(Frames(), std::vector<std::string>{"onetwo"});
    EXPECT_EQ(frame_writer_flush(&writer), 0);
    Message("three");
    EXPECT_EQ(Frames(), std::vector<std::string>{"three"});
}

TEST_F(FrameWriter, AnAbortedMessageLeavesNothing)
{
    Message("one");
    libsched_completion c = Result(100000);
    frame_writer_begin(&writer);
    frame_writer_append(&writer, "lost", 4);
    frame_writer_reference(&writer, c.outputs[0].data, c.outputs[0].size);
    frame_writer_abort(&writer);
    libsched_release(sched, &c, 1);
    Message("two");
    EXPECT_EQ(Frames(), std::vector<std::string>{"onetwo"});
    frame_writer_begin(&writer);
    frame_writer_append(&writer, "lost", 4);
    frame_writer_abort(&writer);
    EXPECT_TRUE(Frames().empty());
}

TEST_F(FrameWriter, LargeResultsAreReferencedAndReleasedOnceWritten)
{
    for (int64_t size : {100000, 3000000}) {
        libsched_completion c = Result(size);
        std::string data((const char *)c.outputs[0].data, c.outputs[0].size);
        Message("before");
        frame_writer_begin(&writer);
        frame_writer_append(&writer, "<", 1);
        frame_writer_reference(&writer, c.outputs[0].data, c.outputs[0].size);
        frame_writer_append(&writer, ">", 1);
        frame_writer_hold(&writer, &c);
        frame_writer_end(&writer);
        Message("after");
        EXPECT_EQ(fake_completions(), 1);
        std::string all;
        for (const auto &frame : Frames())
            all += frame;
        EXPECT_TRUE(all == "before<" + data + ">after") << size;
        EXPECT_EQ(fake_completions(), 0);
    }
}

TEST_F(FrameWriter, ALargeMessageDoesNotShareTheFrameOfSmallOnes)
{
    Message("small");
    Message(std::string(WRITER_GATHER_SIZE, 'x'));
    Message("behind");
    auto frames = Frames();
    ASSERT_EQ(frames.size(), 3u);
    EXPECT_EQ(frames[0], "small");
    EXPECT_EQ(frames[1].size(), WRITER_GATHER_SIZE);
    EXPECT_EQ(frames[2], "behind");
}

TEST_F(FrameWriter, AFullPipeKeepsTheRest)
{
    std::string big(300000, 'y');
    for (int i = 0; i < 20; i++)
        Message(big);
    EXPECT_GE(frame_writer_backlog(&writer), 20 * big.size());
    EXPECT_EQ(frame_writer_flush(&writer), 1);
    EXPECT_EQ(frame_writer_flush(&writer), 0); // nobody read
    EXPECT_GT(frame_writer_backlog(&writer), 10 * big.size());
    size_t total = 0;
    for (const auto &frame : Frames())
        total += frame.size();
    EXPECT_EQ(total, 20 * big.size());
    EXPECT_EQ(frame_writer_backlog(&writer), 0u);
}

TEST_F(FrameWriter, ANewFrameBeginsAfterAMegabyte)
{
    std::string piece(1000, 'z');
    for (int i = 0; i < 3000; i++)
        Message(piece);
    auto frames = Frames();
    EXPECT_EQ(frames.size(), 3u);
    for (const auto &frame : frames)
        EXPECT_LE(frame.size(), WRITER_GATHER_SIZE + piece.size());
}

TEST_F(FrameWriter, AReaderWhoHasGoneIsTold)
{
    signal(SIGPIPE, SIG_IGN);
    close(fds[0]);
    Message("one");
    EXPECT_EQ(frame_writer_flush(&writer), -1);
    fds[0] = dup(fds[1]);
}
} // namespace
