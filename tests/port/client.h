// SPDX-License-Identifier: Apache-2.0
// A client for tests: sched-port's loop on a thread, at the other end of a socket. Messages are
// written as JSON, and answers read as msgpack-c prints them.
#ifndef TESTS_PORT_CLIENT_H
#define TESTS_PORT_CLIENT_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <msgpack.h>

extern "C" {
#include "fake_libsched.h"
#include "log.h"
#include "port.h"
}

/* JSON to msgpack; integers stay integers, and null is nil. For tests: it trusts its input. */
class JsonPacker
{
  public:
    static std::string Pack(const std::string &json)
    {
        JsonPacker p(json);
        p.Value();
        EXPECT_EQ(p.Peek(), '\0') << json;
        return p.out_;
    }

  private:
    explicit JsonPacker(const std::string &json) : at_(json.c_str())
    {
    }

    static int Append(void *data, const char *bytes, size_t size)
    {
        static_cast<std::string *>(data)->append(bytes, size);
        return 0;
    }

    char Peek()
    {
        while (*at_ == ' ' || *at_ == '\n')
            at_++;
        return *at_;
    }

    void Text()
    {
        std::string text;
        for (at_++; *at_ != '"'; at_++)
            text += *at_;
        at_++;
        msgpack_packer pk = {&out_, Append};
        msgpack_pack_str(&pk, text.size());
        msgpack_pack_str_body(&pk, text.data(), text.size());
    }

    /* The items of an array or map, counted by packing them aside. */
    uint32_t Items(bool map, char end)
    {
        uint32_t n = 0;
        at_++;
        while (Peek() != end) {
            if (map) {
                Text();
                Peek();
                at_++; // the colon
            }
            Value();
            n++;
            if (Peek() == ',')
                at_++;
        }
        at_++;
        return n;
    }

    void Value()
    {
        msgpack_packer pk = {&out_, Append};
        char c = Peek();
        if (c == '"') {
            Text();
        } else if (c == '[' || c == '{') {
            std::string before;
            before.swap(out_);
            uint32_t n = Items(c == '{', c == '{' ? '}' : ']');
            std::string items;
            items.swap(out_);
            out_ = before;
            if (c == '{')
                msgpack_pack_map(&pk, n);
            else
                msgpack_pack_array(&pk, n);
            out_ += items;
        } else if (strncmp(at_, "null", 4) == 0) {
            msgpack_pack_nil(&pk);
            at_ += 4;
        } else if (strncmp(at_, "true", 4) == 0) {
            msgpack_pack_true(&pk);
            at_ += 4;
        } else if (strncmp(at_, "false", 5) == 0) {
            msgpack_pack_false(&pk);
            at_ += 5;
        } else {
            size_t n = strspn(at_, "+-.0123456789eE");
            if (n == 0)
                throw std::invalid_argument(at_);
            std::string number(at_, n);
            at_ += n;
            if (number.find_first_of(".eE") != std::string::npos)
                msgpack_pack_double(&pk, strtod(number.c_str(), nullptr));
            else if (number[0] == '-')
                msgpack_pack_int64(&pk, strtoll(number.c_str(), nullptr, 10));
            else
                msgpack_pack_uint64(&pk, strtoull(number.c_str(), nullptr, 10));
        }
    }

    const char *at_;
    std::string out_;
};

inline std::string Framed(const std::string &payload)
{
    auto n = (uint32_t)payload.size();
    return std::string{(char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n} + payload;
}

class WholePort : public testing::Test
{
  protected:
    void SetUp() override
    {
        Start({});
    }

    void Start(std::vector<std::string> arguments)
    {
        int fds[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        fd = fds[0];
        port_fd = fds[1];
        fcntl(port_fd, F_SETFL, O_NONBLOCK);
        arguments.insert(arguments.begin(), "sched-port");
        kept = arguments;
        std::vector<char *> argv;
        for (auto &argument : kept)
            argv.push_back(argument.data());
        ASSERT_EQ(options_parse(&options, (int)argv.size(), argv.data()), OPTIONS_RUN);
        port_log_set_level(0);
        libsched_error err;
        ASSERT_EQ(port_open(&port, &options, port_fd, port_fd2 = dup(port_fd), &err), 0)
            << err.message;
        hello_send(&port);
        thread = std::thread([this] { code = loop_run(&port); });
        hello = Receive();
    }

    void TearDown() override
    {
        if (thread.joinable())
            Stop();
    }

    /* Ends the input; the program's exit code. */
    int Stop()
    {
        close(fd);
        thread.join();
        port_close(&port);
        close(port_fd);
        close(port_fd2);
        EXPECT_EQ(fake_buffers(), 0);
        EXPECT_EQ(fake_completions(), 0);
        return code;
    }

    void SendBytes(const std::string &bytes)
    {
        for (size_t done = 0; done < bytes.size();) {
            ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
            ASSERT_GT(n, 0);
            done += (size_t)n;
        }
    }

    /* Messages as JSON, all of them in one frame. */
    void SendAll(const std::vector<std::string> &all)
    {
        std::string payload;
        for (const auto &message : all)
            payload += JsonPacker::Pack(message);
        SendBytes(Framed(payload));
    }

    void Send(const std::string &message)
    {
        SendAll({message});
    }

    /* The next message. */
    std::string Receive()
    {
        while (messages.empty()) {
            std::string header = Read(4);
            if (header.empty())
                return "(end)";
            auto *h = reinterpret_cast<const uint8_t *>(header.data());
            std::string frame =
                Read((size_t)h[0] << 24 | (size_t)h[1] << 16 | (size_t)h[2] << 8 | h[3]);
            msgpack_zone zone;
            msgpack_zone_init(&zone, 4096);
            for (size_t at = 0; at < frame.size();) {
                msgpack_object object;
                EXPECT_GT(msgpack_unpack(frame.data(), frame.size(), &at, &zone, &object), 0);
                std::vector<char> text(frame.size() * 6 + 4096);
                msgpack_object_print_buffer(text.data(), text.size(), object);
                messages.emplace_back(text.data());
            }
            msgpack_zone_destroy(&zone);
        }
        std::string message = messages.front();
        messages.pop_front();
        return message;
    }

    /* The messages of the next frame, as they lie in it: for tests of many. */
    std::vector<std::string> ReceiveFrame()
    {
        std::string header = Read(4);
        if (header.empty())
            return {};
        auto *h = reinterpret_cast<const uint8_t *>(header.data());
        std::string frame =
            Read((size_t)h[0] << 24 | (size_t)h[1] << 16 | (size_t)h[2] << 8 | h[3]);
        std::vector<std::string> out;
        msgpack_zone zone;
        msgpack_zone_init(&zone, 65536);
        for (size_t at = 0, begin = 0; at < frame.size(); begin = at) {
            msgpack_object object;
            EXPECT_GT(msgpack_unpack(frame.data(), frame.size(), &at, &zone, &object), 0);
            out.push_back(frame.substr(begin, at - begin));
            msgpack_zone_clear(&zone);
        }
        msgpack_zone_destroy(&zone);
        return out;
    }

    /* A number behind a key of the last stats. */
    static uint64_t Number(const std::string &text, const std::string &key)
    {
        size_t at = text.find("\"" + key + "\"=>");
        EXPECT_NE(at, std::string::npos) << key << " in " << text;
        return at == std::string::npos ? 0
                                       : strtoull(text.c_str() + at + key.size() + 4, nullptr, 10);
    }

    std::string Call(const std::string &message)
    {
        Send(message);
        return Receive();
    }

    std::string Read(size_t size)
    {
        std::string out(size, '\0');
        for (size_t done = 0; done < size;) {
            ssize_t n = read(fd, out.data() + done, size - done);
            if (n <= 0)
                return "";
            done += (size_t)n;
        }
        return out;
    }

    int fd = -1, port_fd = -1, port_fd2 = -1, code = -1;
    std::vector<std::string> kept;
    port_options options = {};
    struct port port = {};
    std::thread thread;
    std::deque<std::string> messages;
    std::string hello;
};

#endif
