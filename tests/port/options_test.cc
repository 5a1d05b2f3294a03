// SPDX-License-Identifier: Apache-2.0
// The command line.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

extern "C" {
#include "options.h"
}

using testing::HasSubstr;

namespace
{
class Options : public testing::Test
{
  protected:
    options_result Parse(std::vector<std::string> arguments)
    {
        std::vector<char *> argv = {const_cast<char *>("sched-port")};
        kept = std::move(arguments);
        for (auto &argument : kept)
            argv.push_back(argument.data());
        testing::internal::CaptureStderr();
        testing::internal::CaptureStdout();
        auto result = options_parse(&options, (int)argv.size(), argv.data());
        error = testing::internal::GetCapturedStderr();
        output = testing::internal::GetCapturedStdout();
        return result;
    }

    std::vector<std::string> kept;
    port_options options = {};
    std::string error, output;
};

TEST_F(Options, Defaults)
{
    ASSERT_EQ(Parse({}), OPTIONS_RUN);
    EXPECT_EQ(options.fd_in, 3);
    EXPECT_EQ(options.fd_out, 4);
    EXPECT_EQ(options.max_frame_bytes, 64u << 20);
    EXPECT_EQ(options.spin_us, 50u);
    EXPECT_EQ(options.libsched.max_requests, 65536u);
    EXPECT_EQ(options.libsched.flags, 0u);
}

TEST_F(Options, AllAreUnderstood)
{
    ASSERT_EQ(Parse({"--fds=0,1",
                     "--max-frame-bytes=1M",
                     "--max-requests=10",
                     "--arena-bytes=2G",
                     "--result-bytes=64M",
                     "--cpu-devices=2",
                     "--cores-per-device=3",
                     "--prepare-workers=4",
                     "--spin-us=0",
                     "--worker=/w",
                     "--plugins=/p:/q",
                     "--topology=/t.xml",
                     "--threads",
                     "--lease-max-bytes=0",
                     "--lease-min-bytes=4096",
                     "--lease-expiry-ms=5",
                     "--log-level=info",
                     "--class-shares=10,5",
                     "--class-patience-ms=7,8,9,10,11,12,13,14",
                     "--job-share=30",
                     "--max-jobs=5",
                     "--first-job=77",
                     "--max-client-requests=6",
                     "--collective-interface=wg0",
                     "--share-weights-bytes=2G"}),
              OPTIONS_RUN)
        << error;
    EXPECT_EQ(options.libsched.share_weights_bytes, (uint64_t)2 << 30);
    EXPECT_STREQ(options.libsched.collective_interface, "wg0");
    EXPECT_EQ(options.fd_in, 0);
    EXPECT_EQ(options.fd_out, 1);
    EXPECT_EQ(options.max_frame_bytes, 1u << 20);
    EXPECT_EQ(options.libsched.arena_bytes, (uint64_t)2 << 30);
    EXPECT_EQ(options.libsched.result_bytes, (uint64_t)64 << 20);
    EXPECT_EQ(options.libsched.cpu_devices, 2u);
    EXPECT_EQ(options.libsched.cores_per_device, 3u);
    EXPECT_EQ(options.libsched.prepare_workers, 4u);
    EXPECT_EQ(options.libsched.spin_us, UINT32_MAX);
    EXPECT_EQ(options.libsched.class_shares[0], 10u);
    EXPECT_EQ(options.libsched.class_shares[1], 5u);
    EXPECT_EQ(options.libsched.class_shares[2], 0u);
    EXPECT_EQ(options.libsched.class_patience_ns[0], 7000000u);
    EXPECT_EQ(options.libsched.class_patience_ns[7], 14000000u);
    EXPECT_EQ(options.libsched.job_share_percent, 30u);
    EXPECT_EQ(options.libsched.max_jobs, 5u);
    EXPECT_EQ(options.libsched.first_job, 77u);
    EXPECT_EQ(options.libsched.max_client_requests, 6u);
    EXPECT_STREQ(options.libsched.worker_path, "/w");
    EXPECT_STREQ(options.libsched.plugin_path, "/p:/q");
    EXPECT_STREQ(options.libsched.topology_xml, "/t.xml");
    EXPECT_EQ(options.libsched.flags, (uint32_t)LIBSCHED_THREAD_WORKERS);
    EXPECT_EQ(options.lease_max_bytes, 0u);
    EXPECT_EQ(options.lease_expiry_ms, 5u);
    EXPECT_EQ(options.log_level, LIBSCHED_LOG_INFO);
}

TEST_F(Options, WhatIsNotUnderstoodIsNamed)
{
    EXPECT_EQ(Parse({"--colour=red"}), OPTIONS_WRONG);
    EXPECT_THAT(error, HasSubstr("unknown option --colour"));
    EXPECT_EQ(Parse({"file"}), OPTIONS_WRONG);
    EXPECT_THAT(error, HasSubstr("\"file\" is no option"));
    EXPECT_EQ(Parse({"--spin-us"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--threads=1"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--max-frame-bytes=12Q"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--max-frame-bytes=4G"}), OPTIONS_WRONG);
    EXPECT_THAT(error, HasSubstr("from 4096 to 1073741824"));
    EXPECT_EQ(Parse({"--max-requests=-1"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--max-requests=99999999999999999999"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--fds=3"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--fds=3,4,5"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--log-level=loud"}), OPTIONS_WRONG);
    EXPECT_EQ(Parse({"--worker="}), OPTIONS_WRONG);
    for (const char *wrong : {"", "1,", ",1", "0", "1,2,3,4,5,6,7,8,9", "1;2", "65537", "-1"}) {
        EXPECT_EQ(Parse({std::string("--class-shares=") + wrong}), OPTIONS_WRONG) << wrong;
        EXPECT_THAT(error, HasSubstr("at most 8 numbers from 1 to 65536"));
    }
    EXPECT_EQ(Parse({"--job-share=101"}), OPTIONS_WRONG);
}

TEST_F(Options, HelpListsThemAll)
{
    EXPECT_EQ(Parse({"--help"}), OPTIONS_DONE);
    for (const char *name : {"--fds=IN,OUT", "--spin-us", "--threads", "--lease-max-bytes"})
        EXPECT_THAT(output, HasSubstr(name));
    EXPECT_EQ(Parse({"--version"}), OPTIONS_DONE);
    EXPECT_THAT(output, HasSubstr("sched-port "));
}

TEST(ParseSize, TakesUnits)
{
    uint64_t size;
    EXPECT_EQ(options_parse_size("64M", &size), 0);
    EXPECT_EQ(size, (uint64_t)64 << 20);
    EXPECT_EQ(options_parse_size("3k", &size), 0);
    EXPECT_EQ(size, 3072u);
    for (const char *text : {"", "M", "1MM", "1 M", "-1", "99999999999G"})
        EXPECT_EQ(options_parse_size(text, &size), -1) << text;
}
} // namespace
