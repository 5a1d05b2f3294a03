// SPDX-License-Identifier: Apache-2.0
// Jobs over the wire, against the made-up scheduler.
#include <fcntl.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client.h"

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

namespace
{
std::string Job(int id, const std::string &method, const std::string &map)
{
    return "[0, " + std::to_string(id) + ", \"" + method + "\", [" + map + "]]";
}

class Jobs : public WholePort
{
  protected:
    // The next message that is an event.
    std::string Event()
    {
        std::string got = Receive();
        while (got.rfind("[2, \"event\"", 0) != 0)
            got = Receive();
        return got;
    }

    // The response to a request; events before it are thrown away.
    std::string Answer(const std::string &message)
    {
        Send(message);
        std::string got = Receive();
        while (got.rfind("[1, ", 0) != 0)
            got = Receive();
        return got;
    }
};

TEST_F(Jobs, AreAnsweredAtOnceAndAnnounceTheirEnd)
{
    EXPECT_EQ(Answer(Job(1, "submit", R"({"program": "done", "name": "mine", "devices": 1,
                     "allowed": ["cpu:0"], "client": "me", "priority": 3, "memory_bytes": 10,
                     "parameters": {"a": 1, "b": "x"}, "time_limit_ms": 1000,
                     "step_limit_ms": 100})")),
              "[1, 1, nil, {\"job\"=>1}]");
    EXPECT_EQ(Event(), "[2, \"event\", [{\"event\"=>\"job\", \"job\"=>1, \"name\"=>\"mine\", "
                       "\"state\"=>\"running\", \"done\"=>1, \"total\"=>3, "
                       "\"message\"=>\"under way\", \"devices\"=>[\"cpu:0\"]}]]");
    EXPECT_EQ(Event(), "[2, \"event\", [{\"event\"=>\"job\", \"job\"=>1, \"name\"=>\"mine\", "
                       "\"state\"=>\"ended\", \"done\"=>3, \"total\"=>3, \"message\"=>\"done\", "
                       "\"devices\"=>[\"cpu:0\"], \"status\"=>nil, \"result\"=>{\"ranks\"=>2, "
                       "\"loss\"=>0.500000, \"fits\"=>true, \"path\"=>\"/tmp/made-up?\"}}]]");
}

TEST_F(Jobs, SayWhatTheyFailedWith)
{
    Answer(Job(1, "submit", R"({"program": "fail"})"));
    Event();
    EXPECT_THAT(Event(), AllOf(HasSubstr("\"state\"=>\"ended\""), HasSubstr("\"message\"=>\"\""),
                               HasSubstr("\"status\"=>{\"status\"=>-205"),
                               HasSubstr("it was made to fail"), HasSubstr("\"result\"=>{}")));
}

TEST_F(Jobs, AreListedUntilTheyEnd)
{
    EXPECT_EQ(Answer(Job(1, "jobs", "")), "[1, 1, nil, []]");
    Answer(Job(2, "submit", R"({"program": "wait"})"));
    const char *job = "{\"job\"=>1, \"name\"=>\"job\", \"program\"=>\"wait\", "
                      "\"state\"=>\"running\", \"client\"=>\"\", \"text\"=>\"made up\", "
                      "\"why\"=>\"has cpu:0\", \"n_devices\"=>1, \"devices\"=>[\"cpu:0\"], "
                      "\"step\"=>7, \"done\"=>1, \"total\"=>3, \"message\"=>\"\", "
                      "\"queued_us\"=>0, \"run_us\"=>5000, \"device_us\"=>0}";
    EXPECT_THAT(Answer(Job(3, "jobs", "")), HasSubstr(job));
    EXPECT_THAT(Answer(Job(4, "job", R"({"job": 1})")), HasSubstr(job));
    EXPECT_EQ(Answer(Job(5, "cancel_job", R"({"job": 1})")), "[1, 5, nil, nil]");
    EXPECT_THAT(Event(), AllOf(HasSubstr("\"ended\""), HasSubstr("\"cancelled\"")));
    EXPECT_THAT(Answer(Job(6, "job", R"({"job": 1})")), HasSubstr("\"code\"=>\"not_found\""));
    EXPECT_THAT(Answer(Job(7, "cancel_job", R"({"job": 1})")),
                HasSubstr("there is no job 1, or it has ended"));
}

TEST_F(Jobs, ReserveAndRelease)
{
    EXPECT_EQ(Answer(Job(1, "reserve", R"({"devices": 1, "name": "own", "client": "me"})")),
              "[1, 1, nil, {\"job\"=>1}]");
    EXPECT_THAT(Answer(Job(2, "job", R"({"job": 1})")),
                AllOf(Not(HasSubstr("\"program\"")), HasSubstr("\"client\"=>\"me\"")));
    EXPECT_EQ(Answer(Job(3, "release", R"({"job": 1})")), "[1, 3, nil, nil]");
    EXPECT_THAT(Event(), AllOf(HasSubstr("\"ended\""), HasSubstr("\"status\"=>nil")));
    Answer(Job(4, "submit", R"({"program": "wait"})"));
    EXPECT_THAT(Answer(Job(5, "release", R"({"job": 2})")), HasSubstr("cancel it instead"));
}

TEST_F(Jobs, RefuseWhatMakesNoSense)
{
    const struct {
        const char *method, *map, *words;
    } cases[] = {
        {"submit", "", "submit takes one map"},
        {"submit", "{}", "program is missing"},
        {"submit", R"({"program": 7})", "program has to be a string"},
        {"submit", R"({"program": "done", "devices": -1})", "devices has to be from 0"},
        {"submit", R"({"program": "done", "devices": 2})", "there is one device"},
        {"submit", R"({"program": "done", "allowed": "cpu:0"})", "allowed has to be an array"},
        {"submit", R"({"program": "done", "allowed": [1]})", "name of a device"},
        {"submit", R"({"program": "done", "priority": 8})", "priority has to be from 0 to 7"},
        {"submit", R"({"program": "done", "time_limit_ms": 1e3})", "time_limit_ms"},
        {"submit", R"({"program": "done", "step_limit_ms": 18446744073709551615})",
         "step_limit_ms has to be from 0"},
        {"submit", R"({"program": "done", "parameters": {"a": [1]}})", "parameters.a"},
        {"submit", R"({"program": "done", "inputs": {}})", "takes parameters and no tensors"},
        {"submit", R"({"program": "done", "deadline": 1})", "unknown key \"deadline\""},
        {"reserve", R"({"program": "done"})", "unknown key \"program\""},
        {"reserve", R"({"client": 1})", "client has to be a string"},
        {"release", "{}", "job is missing"},
        {"cancel_job", R"({"job": "1"})", "job has to be an integer"},
        {"cancel_job", R"({"job": 0})", "job is missing, or 0"},
        {"job", R"({"name": "1"})", "unknown key \"name\""},
        {"job", R"({"job": 18446744073709551615})", "there is no job 18446744073709551615"},
    };
    int id = 0;
    for (const auto &each : cases) {
        id++;
        EXPECT_THAT(Answer(Job(id, each.method, each.map)),
                    AllOf(StartsWith("[1, " + std::to_string(id) + ", {\"status\"=>"),
                          HasSubstr(each.words)))
            << each.map;
    }
    EXPECT_THAT(Answer(Job(++id, "submit", R"({"program": "full"})")),
                HasSubstr("\"retry_after_ms\"=>1000"));
}

} // namespace
