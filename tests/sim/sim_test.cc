/* SPDX-License-Identifier: Apache-2.0 */
/* Some worlds, few enough for every build; ./dev sim runs more. */
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "sim/options.h"

using namespace sim;

namespace
{

Case world(uint64_t seed, uint64_t events)
{
    Case c;
    c.seed = seed;
    c.events = events;
    return c;
}

/* A file that is gone with its test. */
struct Scratch {
    explicit Scratch(const std::string &text = "")
    {
        int fd = mkstemp(name);
        EXPECT_NE(fd, -1);
        FILE *file = fdopen(fd, "w");
        std::fputs(text.c_str(), file);
        std::fclose(file);
    }
    ~Scratch()
    {
        std::remove(name);
    }
    std::string read() const
    {
        std::ifstream file(name);
        std::stringstream text;
        text << file.rdbuf();
        return text.str();
    }

    char name[32] = "/tmp/test-sim-XXXXXX";
};

std::string log_of(const Case &c)
{
    Scratch scratch;
    FILE *file = std::fopen(scratch.name, "w");
    Outcome outcome = run_case(c, nullptr, file);
    std::fclose(file);
    EXPECT_FALSE(outcome.failed) << outcome.violation.check << ": " << outcome.violation.what;
    return scratch.read();
}

std::string trace_error(const std::string &text)
{
    Scratch scratch(text);
    Trace trace;
    std::string error;
    EXPECT_FALSE(read_trace(scratch.name, 1000000000, &trace, &error)) << text;
    return error;
}

std::string option_error(const std::vector<std::string> &arguments)
{
    Options options;
    std::string error;
    EXPECT_FALSE(read_options(arguments, &options, &error));
    return error;
}

} // namespace

TEST(Sim, NothingIsWrongInSomeWorlds)
{
    uint64_t jobs = 0, completed = 0;
    for (uint64_t seed = 1; seed <= 32; seed++) {
        Outcome outcome = run_case(world(seed, 12000), nullptr, nullptr);
        EXPECT_FALSE(outcome.failed) << outcome.violation.check << ": " << outcome.violation.what
                                     << "\n./dev sim " << options_of(world(seed, 12000));
        jobs += outcome.totals.jobs;
        completed += outcome.totals.completed;
    }
    EXPECT_GT(jobs, 100u);
    EXPECT_GT(completed, 30000u);
}

TEST(Sim, TheSameSeedDecidesTheSameToTheByte)
{
    for (uint64_t seed : {2, 5, 8}) {
        std::string log = log_of(world(seed, 5000));
        EXPECT_GT(log.size(), 100000u);
        EXPECT_TRUE(log == log_of(world(seed, 5000))) << seed;
        EXPECT_FALSE(log == log_of(world(seed + 100, 5000))) << seed;
    }
}

/* Every build is compared with the same numbers, so they decide alike whatever the optimization or
 * the sanitizer. A core that decides otherwise than before has other numbers: then what is said
 * here is written to the file. */
TEST(Sim, AllBuildsDecideAlike)
{
    std::ifstream file(GPU_SCHED_SOURCE_DIR "/tests/sim/hashes.txt");
    ASSERT_TRUE(file);
    std::string expected, found;
    for (std::string line; std::getline(file, line);)
        expected += line + "\n";
    for (uint64_t seed = 1; seed <= 16; seed++) {
        char line[64];
        std::snprintf(line, sizeof(line), "%" PRIu64 " %016" PRIx64 "\n", seed,
                      run_case(world(seed, 4000), nullptr, nullptr).hash);
        found += line;
    }
    EXPECT_EQ(found, expected) << "for tests/sim/hashes.txt:\n" << found;
}

TEST(Sim, AFailureIsMadeSmaller)
{
    Case c = world(1, 3000);
    c.without = with_noise;
    c.limits.models = 2;
    EXPECT_EQ(options_of(c), "--first-seed 1 --seeds 1 --events 3000 --without noise --models 2");
    Options again;
    std::string error;
    ASSERT_TRUE(read_options({"--first-seed", "1", "--seeds", "1", "--events", "3000", "--without",
                              "noise", "--models", "2"},
                             &again, &error))
        << error;
    EXPECT_EQ(run_case(c, nullptr, nullptr).hash, run_case(again.base, nullptr, nullptr).hash);
}

TEST(SimTrace, IsRead)
{
    Scratch scratch("id,units,model,arrival_us\n7,3,a,2000\n8,1,b,1000\r\n\n9,2,a,5000\n");
    Trace trace;
    std::string error;
    ASSERT_TRUE(read_trace(scratch.name, 1000000000, &trace, &error)) << error;
    ASSERT_EQ(trace.arrivals.size(), 3u);
    EXPECT_EQ(trace.models, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(trace.arrivals[0].at, 0u);
    EXPECT_EQ(trace.arrivals[0].model, 1u);
    EXPECT_EQ(trace.arrivals[1].units, 3u);
    EXPECT_EQ(trace.arrivals[1].at, 1000000u);
    EXPECT_EQ(trace.arrivals[2].at, 4000000u);
}

TEST(SimTrace, NonsenseIsRefused)
{
    EXPECT_NE(trace_error("").find("empty"), std::string::npos);
    EXPECT_NE(trace_error("arrival_us,model\n1,a\n").find("no column units"), std::string::npos);
    EXPECT_NE(trace_error("arrival_us,model,units\n").find("no arrivals"), std::string::npos);
    for (const char *line : {"-1,a,1", "1,a,0", "1,a", "x,a,1", "1,a,1,1", "1e3,a,1", ",a,1",
                             "99999999999999999999,a,1"})
        EXPECT_NE(trace_error("arrival_us,model,units\n1,a,1\n" + std::string(line) + "\n")
                      .find(":3: wanted microseconds"),
                  std::string::npos)
            << line;
    Trace trace;
    std::string error;
    EXPECT_FALSE(read_trace("/nonexistent.csv", 1000000000, &trace, &error));
    EXPECT_EQ(error, "/nonexistent.csv: No such file or directory");
}

TEST(SimOptions, NonsenseIsRefused)
{
    EXPECT_NE(option_error({"--sneeds", "1"}).find("no option \"--sneeds\""), std::string::npos);
    EXPECT_NE(option_error({"--seeds"}).find("takes a value"), std::string::npos);
    for (const char *number : {"", "0", "-1", "1x", "99999999999999999999"})
        EXPECT_NE(option_error({"--seeds", number}).find("--seeds takes a number from 1"),
                  std::string::npos)
            << number;
    EXPECT_NE(option_error({"--profile", "calm"}).find("no profile \"calm\""), std::string::npos);
    EXPECT_NE(option_error({"--without", "noise,rain"}).find("no such feature"), std::string::npos);
    EXPECT_NE(option_error({"--seeds", "2", "--log", "x"}).find("--log takes one seed"),
              std::string::npos);
}
