// SPDX-License-Identifier: Apache-2.0
// The network interface by which ranks on GPUs find each other: what workers are told of it.
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scheduler.h"

using namespace api_test;
using testing::HasSubstr;

namespace
{

class Interface : public testing::Test
{
  protected:
    ~Interface() override
    {
        unsetenv("NCCL_SOCKET_IFNAME");
        unsetenv("NCCL_SOCKET_FAMILY");
    }
    // What the worker of the first device has of NCCL's settings, each of which it has once.
    static std::map<std::string, std::string> settings(const char *interface)
    {
        Scheduler s(Workers::process,
                    [&](libsched_options &options) { options.collective_interface = interface; });
        s.await_device();
        std::ifstream file("/proc/" + std::to_string(s.device().pid) + "/environ");
        std::map<std::string, std::string> found;
        for (std::string entry; std::getline(file, entry, '\0');)
            if (entry.rfind("NCCL_", 0) == 0) {
                const size_t at = entry.find('=');
                EXPECT_EQ(found.count(entry.substr(0, at)), 0u) << entry;
                found[entry.substr(0, at)] = entry.substr(at + 1);
            }
        return found;
    }
    static std::string refusal(const char *interface)
    {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        options.collective_interface = interface;
        options.worker_path = SCHED_WORKER_PATH;
        libsched *s = nullptr;
        libsched_error err = {};
        const int status = libsched_open(&s, &options, &err);
        libsched_close(s);
        return status == LIBSCHED_EINVAL ? err.message : "status " + std::to_string(status);
    }
    using map = std::map<std::string, std::string>;
};

TEST_F(Interface, IsTheLoopbackUnlessOneIsNamed)
{
    const map loopback = {{"NCCL_SOCKET_IFNAME", "=lo"}, {"NCCL_SOCKET_FAMILY", "AF_INET"}};
    EXPECT_EQ(settings(nullptr), loopback);
    EXPECT_EQ(settings("lo"), loopback);
}

TEST_F(Interface, OfTheEnvironmentStandsUnlessOneIsNamed)
{
    setenv("NCCL_SOCKET_IFNAME", "eth,wg", 1);
    EXPECT_EQ(settings(nullptr), (map{{"NCCL_SOCKET_IFNAME", "eth,wg"}}));
    setenv("NCCL_SOCKET_FAMILY", "AF_INET6", 1);
    EXPECT_EQ(settings(nullptr),
              (map{{"NCCL_SOCKET_IFNAME", "eth,wg"}, {"NCCL_SOCKET_FAMILY", "AF_INET6"}}));
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    EXPECT_EQ(settings("lo"),
              (map{{"NCCL_SOCKET_IFNAME", "=lo"}, {"NCCL_SOCKET_FAMILY", "AF_INET"}}));
}

TEST_F(Interface, ThatCannotBeUsedIsRefused)
{
    EXPECT_THAT(refusal("none0"), HasSubstr("\"none0\", which is not there; up and with an address "
                                            "are: lo"));
    EXPECT_THAT(refusal("l"), HasSubstr("\"l\", which is not there"));
    EXPECT_THAT(refusal(""), HasSubstr("\"\", which is not there"));
    // NCCL takes no loopback address of IPv6.
    setenv("NCCL_SOCKET_FAMILY", "AF_INET6", 1);
    EXPECT_THAT(refusal("lo"), HasSubstr("has no IPv6 address of its own"));
    EXPECT_EQ(settings(nullptr), (map{{"NCCL_SOCKET_FAMILY", "AF_INET6"}}))
        << "what is not asked for is no reason to fail";
}

// In a network of its own the loopback is down.
TEST_F(Interface, ThatIsDownIsRefused)
{
    int out[2];
    ASSERT_EQ(pipe(out), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        std::string said = "may not";
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)
            said = refusal("lo");
        const bool written = write(out[1], said.data(), said.size()) == (ssize_t)said.size();
        _exit(written ? 0 : 1);
    }
    close(out[1]);
    char text[512] = "";
    const ssize_t n = read(out[0], text, sizeof(text) - 1);
    int status = 0;
    waitpid(child, &status, 0);
    close(out[0]);
    ASSERT_GT(n, 0);
    if (std::string(text) == "may not")
        GTEST_SKIP() << "this user may not make a network of its own";
    EXPECT_THAT(text, HasSubstr("\"lo\", which is down; up and with an address are: none"));
}

} // namespace
