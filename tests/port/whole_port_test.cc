// SPDX-License-Identifier: Apache-2.0
// The whole port, without its main(), against the made-up scheduler: what docs/protocol.md says.
#include <chrono>
#include <fcntl.h>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client.h"

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

namespace
{
std::string Infer(int id, const std::string &inputs, const std::string &more = "",
                  const std::string &model = "echo")
{
    return "[0, " + std::to_string(id) + R"(, "infer", [{"model": ")" + model + R"(", "inputs": )" +
           inputs + more + "}]]";
}

auto IsError(int id, int status, const std::string &code, const std::string &scope,
             const std::string &message)
{
    return AllOf(StartsWith("[1, " + std::to_string(id) + ", {\"status\"=>" +
                            std::to_string(status) + ", \"code\"=>\"" + code + "\", \"scope\"=>\"" +
                            scope + "\", \"message\"=>\""),
                 HasSubstr(message));
}

auto IsInvalid(int id, const std::string &message)
{
    return IsError(id, -101, "invalid_argument", "request", message);
}

const char *const overload_begun =
    R"([2, "event", [{"event"=>"overload", "state"=>"begun", "refused"=>1}]])";

std::string Big(size_t size)
{
    std::string head("\x94\x00\x01\xa5infer\x91\x82\xa5model\xa4"
                     "echo\xa6inputs\x81\xa6values\x83"
                     "\xa8"
                     "datatype\xa5UINT8\xa5shape\x91\xce",
                     61);
    for (int shift = 24; shift >= 0; shift -= 8)
        head += (char)(size >> shift);
    head += std::string("\xa4"
                        "data\xc6",
                        6);
    for (int shift = 24; shift >= 0; shift -= 8)
        head += (char)(size >> shift);
    return head + std::string(size, 'q');
}

/* ------------------------------------------------------------------------------- the beginning */

TEST_F(WholePort, SaysHelloFirst)
{
    EXPECT_THAT(hello, StartsWith("[2, \"hello\", [{\"protocol\"=>1, \"version\"=>"));
    for (const char *key :
         {"\"pid\"=>", "\"clock_ns\"=>", "\"max_frame_bytes\"=>67108864", "\"max_nesting\"=>24",
          "\"credit\"=>{\"requests\"=>65536, \"bytes\"=>",
          "\"lease_bytes\"=>{\"min\"=>1048576, \"max\"=>1073741824}",
          "\"devices\"=>[{\"name\"=>\"cpu:0\"", "\"models\"=>[{\"name\"=>\"echo\""})
        EXPECT_THAT(hello, HasSubstr(key));
}

TEST_F(WholePort, EndsWithItsInput)
{
    EXPECT_EQ(Stop(), 0);
}

TEST_F(WholePort, EndsWithItsInputWhileARequestRuns)
{
    Send(Infer(1, "{}", "", "stuck"));
    EXPECT_EQ(Call(R"([0, 2, "ping", [1]])"), "[1, 2, nil, 1]");
    EXPECT_EQ(Stop(), 0);
}

/* ------------------------------------------------------------------------------------- devices */

class Gpu
{
  public:
    libsched_device_readings shows = LIBSCHED_DEVICE_READINGS_INIT;
    void Show()
    {
        fake_add_gpu(&shows);
    }
    ~Gpu()
    {
        shows.struct_size = 0;
        fake_add_gpu(&shows);
    }
};

TEST_F(WholePort, TellsWhatTheInstrumentsOfAGpuShow)
{
    Gpu gpu;
    EXPECT_THAT(Call(R"([0, 1, "devices", []])"), Not(HasSubstr("readings")));
    gpu.shows.has = (1u << 10) - 1;
    gpu.shows.age_ns = 250000000;
    gpu.shows.utilization_percent = 97;
    gpu.shows.memory_busy_percent = 41;
    gpu.shows.memory_total = UINT64_C(85899345920);
    gpu.shows.memory_used = UINT64_C(1073741824);
    gpu.shows.temperature_c = -3;
    gpu.shows.power_mw = 350000;
    gpu.shows.power_limit_mw = 700000;
    gpu.shows.energy_mj = 5;
    gpu.shows.throttle = LIBSCHED_THROTTLE_POWER | LIBSCHED_THROTTLE_BRAKE | 1u << 31;
    gpu.shows.links = 18;
    gpu.shows.links_up = 17;
    gpu.shows.ecc_corrected = 2;
    gpu.shows.ecc_uncorrected = 1;
    gpu.shows.xid_count = 4;
    gpu.shows.last_xid = 31;
    strcpy(gpu.shows.uuid, "GPU-1");
    gpu.Show();
    EXPECT_THAT(
        Call(R"([0, 2, "devices", []])"),
        HasSubstr(
            R"("readings"=>{"reason"=>"", "age_ms"=>250, "uuid"=>"GPU-1", "temperature_c"=>-3, )"
            R"("throttle"=>["power", "brake"], "utilization_percent"=>97, )"
            R"("memory_busy_percent"=>41, "memory_total_bytes"=>85899345920, )"
            R"("memory_used_bytes"=>1073741824, "power_mw"=>350000, "power_limit_mw"=>700000, )"
            R"("energy_mj"=>5, "links"=>18, "links_up"=>17, "ecc_corrected"=>2, )"
            R"("ecc_uncorrected"=>1, "xid_count"=>4, "last_xid"=>31})"));
}

TEST_F(WholePort, LeavesOutWhatAGpuHasNoInstrumentFor)
{
    Gpu gpu;
    strcpy(gpu.shows.reason, "no NVML");
    gpu.Show();
    EXPECT_THAT(Call(R"([0, 1, "devices", []])"),
                HasSubstr(R"("readings"=>{"reason"=>"no NVML"}})"));
    gpu.shows.has = LIBSCHED_READING_TEMPERATURE;
    gpu.shows.temperature_c = 61;
    gpu.Show();
    EXPECT_THAT(Call(R"([0, 2, "devices", []])"),
                HasSubstr(R"({"reason"=>"no NVML", "age_ms"=>0, "temperature_c"=>61})"));
}

/* ------------------------------------------------------------------------------------ requests */

TEST_F(WholePort, AnswersAPingWithItsTerm)
{
    EXPECT_EQ(Call(R"([0, 4294967295, "ping", [{"a": [1, -2, 0.5, "x", null, true]}]])"),
              "[1, 4294967295, nil, {\"a\"=>[1, -2, 0.500000, \"x\", nil, true]}]");
    EXPECT_THAT(Call(R"([0, 1, "ping", []])"), IsInvalid(1, "ping takes one value"));
}

TEST_F(WholePort, SeveralMessagesAFrame)
{
    SendAll({R"([0, 1, "ping", [1]])", Infer(2, R"({"ids": [[1, 2]]})"),
             R"([0, 3, "nonsense", []])", R"([2, "nonsense", []])", R"([0, 4, "ping", [4]])"});
    std::vector<std::string> got;
    for (int i = 0; i < 4; i++)
        got.push_back(Receive().substr(0, 7));
    EXPECT_THAT(got, testing::UnorderedElementsAre("[1, 1, ", "[1, 2, ", "[1, 3, ", "[1, 4, "));
}

TEST_F(WholePort, AnUnknownMethodIsNotSupported)
{
    EXPECT_THAT(Call(R"([0, 3, "nonsense", []])"),
                IsError(3, -405, "not_supported", "scheduler", "there is no method"));
}

TEST_F(WholePort, InferAnswersWithItsOutputs)
{
    EXPECT_EQ(Call(Infer(9, R"({"text": ["hi", "you"]})")),
              "[1, 9, nil, {\"outputs\"=>{\"text\"=>{\"datatype\"=>\"BYTES\", \"shape\"=>[2], "
              "\"data\"=>[\"hi\", \"you\"]}}, \"device\"=>\"cpu:0\", \"batch\"=>1, "
              "\"queue_us\"=>0, \"compute_us\"=>0, \"attempts\"=>1}]");
}

TEST_F(WholePort, TensorsInAllTheirForms)
{
    const char *two = "\"shape\"=>[1, 2], \"data\"=>";
    EXPECT_THAT(Call(Infer(1, R"({"values": [[1, 2.5]]})")), HasSubstr(two));
    EXPECT_THAT(Call(Infer(1, R"({"values": {"datatype": "FP32", "shape": [1, 2],
                                             "data": "12345678"}})")),
                HasSubstr(std::string(two) + "\"12345678\""));
    EXPECT_THAT(Call(Infer(1, R"({"values": {"datatype": "UINT8", "shape": [1, 2],
                                             "data": [65, 66]}})")),
                HasSubstr(std::string(two) + "\"AB\""));
    EXPECT_THAT(Call(Infer(1, R"({"text": {"datatype": "BYTES", "shape": [1, 2],
                                           "data": ["a", "bc"]}})")),
                HasSubstr(std::string(two) + "[\"a\", \"bc\"]"));
    EXPECT_THAT(Call(Infer(1, R"({"text": "alone"})")),
                HasSubstr("\"shape\"=>[1], \"data\"=>[\"alone\"]"));
    EXPECT_THAT(Call(Infer(1, R"({"small": -5})")), HasSubstr("\"shape\"=>[1]"));
    EXPECT_THAT(Call(Infer(1, R"({"mask": [true, false]})")), HasSubstr("\"BOOL\""));
}

TEST_F(WholePort, BadInputIsNamed)
{
    EXPECT_THAT(Call("[0, 1, \"infer\", []]"), IsInvalid(1, "infer takes one map"));
    EXPECT_THAT(Call("[0, 1, \"infer\", [7]]"), IsInvalid(1, "got an integer"));
    EXPECT_THAT(Call(R"([0, 1, "infer", [{"inputs": {}}]])"), IsInvalid(1, "model is missing"));
    EXPECT_THAT(Call(R"([0, 1, "infer", [{"model": "echo"}]])"), IsInvalid(1, "inputs is missing"));
    EXPECT_THAT(Call(Infer(1, "[]")), IsInvalid(1, "inputs has to be a map, got an array"));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "colour": 1)")), IsInvalid(1, "unknown key \"colour\""));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "priority": 8)")), IsInvalid(1, "from 0 to 7, got 8"));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "priority": -1)")), IsInvalid(1, "got -1"));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "client": 5)")),
                IsInvalid(1, "client has to be a string"));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "client": ")" + std::string(64, 'c') + "\"")),
                IsInvalid(1, "client has 64 bytes"));
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "parameters": {"a": [1]})")),
                IsInvalid(1, "parameters.a"));
    EXPECT_THAT(Call(Infer(1, R"({"nope": [1]})")),
                IsInvalid(1, "takes no such input; it takes text, ids, values, half, small, mask"));
    EXPECT_THAT(Call(Infer(1, R"({"ids": [[1], [2, 3]]})")), IsInvalid(1, "inputs.ids[1]"));
    EXPECT_THAT(Call(Infer(1, R"({"small": [128]})")), IsInvalid(1, "128 is not within INT8"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "FP31", "shape": [], "data": ""}})")),
                IsInvalid(1, "\"FP31\" is none"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "FP32", "shape": [-1], "data": ""}})")),
                IsInvalid(1, "shape[0]"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "FP32", "shape": [1]}})")),
                IsInvalid(1, "data (or lease) is missing"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "FP32", "shape": [2], "data": "1234"}})")),
                IsInvalid(1, "4 bytes, but its shape takes 8"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "UINT8", "shape": [3], "data": [1]}})")),
                IsInvalid(1, "1 elements, its shape says 3"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "UINT8", "shape": [4611686018427387904, 4],
                                        "data": ""}})")),
                IsInvalid(1, "too many"));
    EXPECT_THAT(Call(Infer(1, R"({"x": {"datatype": "UINT8", "shape": [0], "data": "", "d": 1}})")),
                IsInvalid(1, "unknown key"));
    EXPECT_THAT(Call(Infer(1, R"({")" + std::string(64, 'n') + R"(": [1]})")),
                IsInvalid(1, "64 bytes"));
    EXPECT_THAT(Call(Infer(1, "{}", "", "none")),
                IsError(1, -201, "unknown_model", "model", "none"));
    EXPECT_THAT(Call(Infer(1, R"({"text": ["a"]})", "", "none")),
                IsError(1, -201, "unknown_model", "model", "none"));
    EXPECT_EQ(Call(R"([0, 2, "ping", [1]])"), "[1, 2, nil, 1]");
}

TEST_F(WholePort, ErrorsOfTheSchedulerAreCarried)
{
    EXPECT_THAT(Call(Infer(1, "{}", "", "full")), AllOf(IsError(1, -206, "queue_full", "model", ""),
                                                        HasSubstr("\"retry_after_ms\"=>7")));
    EXPECT_EQ(Receive(), overload_begun);
    EXPECT_THAT(Call(Infer(1, "{}", "", "broken")),
                IsError(1, -205, "engine_failed", "model", "was made to fail"));
    EXPECT_THAT(Call(Infer(1, "{}", "", "liar")), IsError(1, -205, "engine_failed", "model", ""));
}

TEST_F(WholePort, OverloadIsAnnouncedOnceAndThatItIsOver)
{
    Call(Infer(1, "{}", "", "full"));
    EXPECT_EQ(Receive(), overload_begun);
    for (int id = 2; id < 5; id++)
        EXPECT_THAT(Call(Infer(id, "{}", "", "full")),
                    IsError(id, -206, "queue_full", "model", ""));
    // What is wrong with a request is no overload.
    Call(Infer(5, "{}", "", "none"));
    EXPECT_EQ(Receive(), R"([2, "event", [{"event"=>"overload", "state"=>"over", "refused"=>4}]])");
    // The next is another.
    Call(Infer(6, "{}", "", "full"));
    EXPECT_EQ(Receive(), overload_begun);
}

TEST_F(WholePort, HistogramsAreOfEveryModel)
{
    std::string answer = Call(R"([0, 1, "histograms", []])");
    EXPECT_THAT(answer, StartsWith(R"([1, 1, nil, {"echo"=>{"queue_us"=>[1, 0, 0)"));
    EXPECT_THAT(answer, HasSubstr(R"(0, 0, 9], "batch_sum"=>90})"));
}

TEST_F(WholePort, LargeResultsComeWhole)
{
    for (int size : {15000, 16384, 5000000}) {
        std::string answer = Call(
            Infer(1, "{}", R"(, "parameters": {"bytes": )" + std::to_string(size) + "}", "big"));
        EXPECT_THAT(answer.substr(0, 80),
                    StartsWith("[1, 1, nil, {\"outputs\"=>{\"data\"=>{\"datatype\"=>\"UINT8\", "
                               "\"shape\"=>["));
        EXPECT_GT(answer.size(), (size_t)size);
    }
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "parameters": {"bytes": 67108865})", "big")),
                IsError(1, -104, "too_large", "request", "67108864"));
}

/* ------------------------------------------------------------------------- deadlines and cancel */

TEST_F(WholePort, DeadlinesAreTimesOnTheClockOfTheHello)
{
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "deadline": 1)")),
                IsError(1, -102, "deadline_exceeded", "request", "before it came"));
    EXPECT_THAT(Call(Infer(2, "{}", R"(, "deadline": 18446744073709551614)")),
                StartsWith("[1, 2, nil"));
    uint64_t soon = libsched_now() + 20000000;
    Send(Infer(3, "{}", R"(, "deadline": )" + std::to_string(soon), "stuck"));
    while (libsched_now() < soon)
        std::this_thread::yield();
    // The made-up scheduler has no timer of its own: anything that comes makes it look.
    Send(R"([0, 4, "ping", [0]])");
    std::string first = Receive(), second = Receive();
    if (first == "[1, 4, nil, 0]")
        std::swap(first, second);
    EXPECT_THAT(first, IsError(3, -102, "deadline_exceeded", "request", ""));
}

TEST_F(WholePort, CancelAnswersTheRequest)
{
    Send(Infer(5, "{}", "", "stuck"));
    SendAll({R"([2, "cancel", [6]])", R"([2, "cancel", ["x"]])", R"([2, "cancel", []])",
             R"([2, "cancel", [5]])"});
    EXPECT_THAT(Receive(), IsError(5, -103, "cancelled", "request", ""));
    Send(R"([2, "cancel", [5]])");
    EXPECT_EQ(Call(R"([0, 5, "ping", [1]])"), "[1, 5, nil, 1]");
}

TEST_F(WholePort, PartsComeUnderCredit)
{
    Send(Infer(1, "{}", R"(, "parts": 2, "parameters": {"n": 5})", "parts"));
    auto part = StartsWith("[2, \"part\", [1, {\"outputs\"=>{\"value\"=>");
    EXPECT_THAT(Receive(), part);
    EXPECT_THAT(Receive(), part);
    EXPECT_EQ(Call(R"([0, 2, "ping", [1]])"), "[1, 2, nil, 1]");
    Send(R"([2, "grant", [1, 2]])");
    EXPECT_THAT(Receive(), part);
    EXPECT_THAT(Receive(), part);
    Send(R"([2, "grant", [1, 100]])");
    EXPECT_THAT(Receive(), part);
    EXPECT_THAT(Receive(), StartsWith("[1, 1, nil, {\"outputs\"=>{}"));
}

TEST_F(WholePort, WithoutCreditOnlyTheEndComes)
{
    EXPECT_THAT(Call(Infer(1, "{}", R"(, "parameters": {"n": 5})", "parts")),
                StartsWith("[1, 1, nil"));
}

/* ----------------------------------------------------------------------------------- bad frames */

TEST_F(WholePort, ABadFrameIsAnsweredAndNothingOfItDone)
{
    std::string ping = JsonPacker::Pack(R"([0, 1, "ping", [1]])");
    SendBytes(Framed(ping + "\xc1"));
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [0, \"not msgpack: byte 0xc1"));
    SendBytes(Framed(ping.substr(0, 5)));
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [1, \"cut short"));
    SendBytes(Framed("") + Framed("hello"));
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [3, \"not a message"));
    EXPECT_EQ(Call(R"([0, 1, "ping", [1]])"), "[1, 1, nil, 1]");
}

TEST_F(WholePort, AnIdInUseMakesABadFrame)
{
    Send(Infer(1, "{}", "", "stuck"));
    SendAll({R"([0, 2, "ping", [2]])", R"([0, 1, "ping", [1]])"});
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [1, \"id 1 is in use"));
    SendAll({R"([0, 3, "ping", [2]])", R"([0, 3, "ping", [1]])"});
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [2, \"id 3 is in use"));
    EXPECT_EQ(Call(R"([0, 3, "ping", [1]])"), "[1, 3, nil, 1]");
    Send(R"([2, "cancel", [1]])");
    EXPECT_THAT(Receive(), HasSubstr("cancelled"));
}

TEST_F(WholePort, AnOversizedFrameIsReadToItsEnd)
{
    TearDown();
    Start({"--max-frame-bytes=64K"});
    SendBytes(Framed(std::string(1 << 20, 'x')));
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [0, \"1048576 bytes, a frame may have"));
    EXPECT_EQ(Call(R"([0, 1, "ping", [1]])"), "[1, 1, nil, 1]");
}

TEST_F(WholePort, AFrameThatTheEndCutsIsTold)
{
    SendBytes(Framed("abcdefg").substr(0, 6));
    shutdown(fd, SHUT_WR);
    EXPECT_THAT(Receive(), StartsWith("[2, \"bad_frame\", [0, \"cut short"));
    thread.join();
    thread = std::thread([] {});
}

TEST_F(WholePort, WhatIsQuotedIsUtf8)
{
    SendBytes(Framed(std::string("\x94\x00\x01\xa3"
                                 "a\xff\xc3\x90",
                                 8)));
    EXPECT_THAT(Receive(), HasSubstr("there is no method \"a??\""));
}

/* -------------------------------------------------------------------------------------- floods */

TEST_F(WholePort, WhatIsReadyIsGatheredIntoOneFrame)
{
    std::vector<std::string> requests;
    for (int i = 0; i < 500; i++)
        requests.push_back(Infer(i, R"({"ids": [[1, 2, 3]]})"));
    SendAll(requests);
    EXPECT_EQ(ReceiveFrame().size(), 500u);
    EXPECT_EQ(Number(Call(R"([0, 1, "stats", []])"), "frames_out"), 2u); // the hello, and they
}

TEST_F(WholePort, AFrameOfSmallRequestsWithLargeAnswersFillsNoMemory)
{
    // 50,000 lists of models: half a megabyte of requests, nearly 200 MB of answers.
    constexpr size_t kRequests = 50000;
    std::string payload;
    for (size_t i = 0; i < kRequests; i++)
        payload += JsonPacker::Pack("[0, " + std::to_string(i) + R"(, "models", []])");
    payload += JsonPacker::Pack("[0, " + std::to_string(kRequests) + R"(, "stats", []])");
    SendBytes(Framed(payload));

    size_t responses = 0, bytes = 0;
    std::string last;
    while (responses < kRequests + 1)
        for (auto &message : ReceiveFrame()) {
            responses++;
            bytes += message.size();
            last = message;
        }
    EXPECT_GT(bytes, 10 * PORT_MAX_BACKLOG);
    size_t key = last.find("backlog_bytes");
    ASSERT_NE(key, std::string::npos);
    auto *number = reinterpret_cast<const uint8_t *>(last.data()) + key + strlen("backlog_bytes");
    msgpack_object object;
    msgpack_zone zone;
    msgpack_zone_init(&zone, 1024);
    ASSERT_GT(msgpack_unpack(reinterpret_cast<const char *>(number), 9, nullptr, &zone, &object),
              0);
    EXPECT_LT(object.via.u64, PORT_MAX_BACKLOG + 65536);
    msgpack_zone_destroy(&zone);
}

TEST_F(WholePort, HellosAndOtherWordsOutOfTurnAreIgnored)
{
    std::vector<std::string> flood;
    for (int i = 0; i < 20000; i++)
        flood.push_back(i % 2 ? R"([2, "hello", [{"protocol": 1}]])" : R"([2, "part", [1, {}]])");
    for (int i = 0; i < 10; i++)
        SendAll(flood);
    EXPECT_THAT(Call(R"([0, 1, "hello", [{"protocol": 1}]])"),
                IsError(1, -405, "not_supported", "scheduler", "there is no method"));
    EXPECT_EQ(Call(R"([0, 2, "ping", [1]])"), "[1, 2, nil, 1]");
}

/* ------------------------------------------------------------------------------------ spinning */

TEST_F(WholePort, SpinsAfterTrafficAsLongAsItMay)
{
    TearDown();
    fake_set_spin_budget(60000000000);
    Start({"--spin-us=1000000"});
    uint64_t before = Number(Call(R"([0, 1, "stats", []])"), "sleeps");
    for (int i = 0; i < 100; i++)
        EXPECT_EQ(Call(R"([0, 1, "ping", [1]])"), "[1, 1, nil, 1]");
    EXPECT_EQ(Number(Call(R"([0, 1, "stats", []])"), "sleeps"), before);
    TearDown();
    fake_set_spin_budget(20000);
}

TEST_F(WholePort, SleepsWhereTheSchedulerOrTheUserWantsNoSpinning)
{
    for (bool user : {false, true}) {
        TearDown();
        fake_set_spin_budget(user ? 60000000000 : 0);
        Start({user ? "--spin-us=0" : "--spin-us=1000000"});
        uint64_t before = Number(Call(R"([0, 1, "stats", []])"), "sleeps");
        // Each sleep counts one; one may be missed where the next request comes at once.
        while (Number(Call(R"([0, 1, "stats", []])"), "sleeps") < before + 10)
            ;
    }
    TearDown();
    fake_set_spin_budget(20000);
}

/* ------------------------------------------------------------------------------- large payloads */

TEST_F(WholePort, ALargeTensorIsSubmittedWhereItWasRead)
{
    SendBytes(Framed(Big(1 << 20)));
    std::string answer = Receive();
    EXPECT_THAT(answer.substr(0, 40), StartsWith("[1, 1, nil"));
    EXPECT_EQ(fake_inputs_in_place(), 1);
    SendBytes(Framed(Big(1000)));
    Receive();
    EXPECT_EQ(fake_inputs_in_place(), 0);
}

TEST_F(WholePort, ALeaseGoesRoundThePipe)
{
    std::string lease = Call(R"([0, 1, "lease", [{"size": 4096}]])");
    EXPECT_THAT(lease, StartsWith("[1, 1, nil, {\"lease\"=>"));
    std::string id = lease.substr(strlen("[1, 1, nil, {\"lease\"=>"));
    id = id.substr(0, id.find(','));
    std::string path = lease.substr(lease.find("/proc"));
    path = path.substr(0, path.find('"'));
    int file = open(path.c_str(), O_WRONLY);
    ASSERT_GE(file, 0);
    ASSERT_EQ(pwrite(file, "AB", 2, 0), 2);
    ASSERT_EQ(pwrite(file, "CD", 2, 64), 2);
    close(file);
    std::string tensor = R"({"datatype": "UINT8", "shape": [2], "lease": )" + id;
    EXPECT_THAT(Call(Infer(2, R"({"small": )" + tensor + R"(, "offset": 0, "size": 2}, "mask": )" +
                                  tensor + R"(, "offset": 64, "size": 2}})")),
                AllOf(HasSubstr("\"AB\""), HasSubstr("\"CD\"")));
    EXPECT_EQ(fake_inputs_in_place(), 2);
    EXPECT_THAT(Call(Infer(3, R"({"small": )" + tensor + R"(, "offset": 0, "size": 2}})")),
                IsError(3, -106, "not_found", "request", "expired, was used"));
}

TEST_F(WholePort, ALeaseIsCheckedAgainstItsSize)
{
    int next = 1;
    for (const char *where : {R"("offset": 4095, "size": 2)", R"("offset": 5000, "size": 2)",
                              R"("offset": 18446744073709551615, "size": 2)", R"("size": 5000)"}) {
        std::string lease = Call(R"([0, 1, "lease", [{"size": 4096}]])");
        std::string id = lease.substr(strlen("[1, 1, nil, {\"lease\"=>"));
        id = id.substr(0, id.find(','));
        next++;
        EXPECT_THAT(Call(Infer(next, R"({"small": {"datatype": "UINT8", "shape": [2], "lease": )" +
                                         id + ", " + where + "}}")),
                    IsInvalid(next, "the lease has 4096"));
    }
    EXPECT_THAT(Call(R"([0, 1, "lease", [{}]])"), IsInvalid(1, "size is missing"));
    EXPECT_THAT(Call(R"([0, 1, "lease", [{"size": 0}]])"), IsInvalid(1, "at least 1"));
}

TEST_F(WholePort, ALeaseThroughThePipe)
{
    std::string lease = Call(R"([0, 1, "lease", [{"size": 8}]])");
    std::string id = lease.substr(strlen("[1, 1, nil, {\"lease\"=>"));
    id = id.substr(0, id.find(','));
    SendAll({R"([2, "lease_write", [)" + id + R"(, 0, "abcd"]])",
             R"([2, "lease_write", [)" + id + R"(, 4, "efgh"]])"});
    EXPECT_THAT(
        Call(Infer(2, R"({"small": {"datatype": "UINT8", "shape": [8], "size": 8, "lease": )" + id +
                          "}}")),
        HasSubstr("\"abcdefgh\""));
}

TEST_F(WholePort, APieceThatIsNoneIsToldByTheInfer)
{
    int next = 10;
    for (const char *piece : {R"(, -1, "ab")", R"(, 0, 7)", R"(, 0)", R"(, "x", "ab")", ""}) {
        std::string lease = Call(R"([0, 1, "lease", [{"size": 8}]])");
        std::string id = lease.substr(strlen("[1, 1, nil, {\"lease\"=>"));
        id = id.substr(0, id.find(','));
        Send(R"([2, "lease_write", [)" + id + piece + "]]");
        next++;
        EXPECT_THAT(Call(Infer(next, R"({"small": {"datatype": "UINT8", "shape": [8], "size": 8,
                                         "lease": )" +
                                         id + "}}")),
                    IsInvalid(next, "a piece that is not"));
    }
    SendAll({R"([2, "lease_write", []])", R"([2, "lease_write", ["x", 0, "ab"]])",
             R"([2, "lease_write", [99, 0, "ab"]])", R"([2, "lease_release", []])",
             R"([2, "lease_release", ["x"]])"});
    EXPECT_EQ(Call(R"([0, 1, "ping", [1]])"), "[1, 1, nil, 1]");
}

TEST_F(WholePort, ALeaseDoesNotExpireUnderARequestThatWaitsForItsModel)
{
    TearDown();
    Start({"--lease-expiry-ms=1"});
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    // A lease may have expired before its infer was there, when this thread was not running; then
    // another is tried.
    bool waits = false;
    for (int attempt = 0; attempt < 200 && !waits; attempt++) {
        std::string lease = Call(R"([0, 9, "lease", [{"size": 4096}]])");
        std::string id = lease.substr(strlen("[1, 9, nil, {\"lease\"=>"));
        id = id.substr(0, id.find(','));
        std::string tensor = R"({"datatype": "UINT8", "shape": [2], "size": 2, "lease": )" + id;
        SendAll(
            {R"([2, "lease_write", [)" + id + R"(, 0, "AB"]])",
             Infer(2, R"({"text": ["a"], "small": )" + tensor + R"(}, "half": )" + tensor + "}}",
                   "", "m")});
        for (uint64_t until = libsched_now() + 5000000; libsched_now() < until;)
            EXPECT_EQ(Call(R"([0, 9, "ping", [1]])"), "[1, 9, nil, 1]");
        waits = Number(Call(R"([0, 9, "stats", []])"), "leases") == 1;
        if (!waits || attempt == 0) {
            // What is cancelled while it waits leaves no lease behind.
            Send(R"([2, "cancel", [2]])");
            EXPECT_THAT(Receive(), IsError(2, -103, "cancelled", "request", "loading"));
            EXPECT_EQ(Number(Call(R"([0, 9, "stats", []])"), "leases"), 0u);
            waits = false;
        }
    }
    ASSERT_TRUE(waits);
    fake_finish_load("m", LIBSCHED_OK);
    EXPECT_THAT(Receive(), HasSubstr("event"));
    EXPECT_THAT(Receive(), StartsWith("[1, 1, nil"));
    EXPECT_THAT(Receive(), AllOf(StartsWith("[1, 2, nil"), HasSubstr("\"AB\"")));
    EXPECT_EQ(Number(Call(R"([0, 9, "stats", []])"), "leases"), 0u);
}

TEST_F(WholePort, LeasesExpire)
{
    TearDown();
    Start({"--lease-expiry-ms=1", "--lease-max-bytes=4096"});
    // The memory is given again once the first has expired, which needs no message.
    std::string answer;
    do
        answer = Call(R"([0, 1, "lease", [{"size": 4096}]])");
    while (answer.find("overloaded") != std::string::npos);
    EXPECT_THAT(answer, StartsWith("[1, 1, nil"));
    do
        answer = Call(R"([0, 1, "lease", [{"size": 4096}]])");
    while (answer.find("overloaded") != std::string::npos);
    EXPECT_THAT(answer, StartsWith("[1, 1, nil"));
}

/* --------------------------------------------------------------------------------------- models */

TEST_F(WholePort, LoadAnswersOnceTheModelIsReady)
{
    Send(R"([0, 1, "load", [{"name": "m", "parameters": {"a": 1}, "devices": ["cpu:0"],
                             "max_batch_requests": 4, "queue_limit": 9,
                             "step_limit_ms": 0}]])");
    Send(R"([0, 2, "wait_ready", [{"name": "m"}]])");
    EXPECT_EQ(Call(R"([0, 3, "ping", [1]])"), "[1, 3, nil, 1]");
    fake_finish_load("m", LIBSCHED_OK);
    EXPECT_EQ(Receive(),
              "[2, \"event\", [{\"event\"=>\"model\", \"name\"=>\"m\", \"state\"=>\"ready\", "
              "\"error\"=>nil}]]");
    EXPECT_THAT(Receive(), StartsWith("[1, 1, nil, {\"name\"=>\"m\", \"state\"=>\"ready\""));
    EXPECT_THAT(Receive(), StartsWith("[1, 2, nil, {\"name\"=>\"m\", \"state\"=>\"ready\""));
    EXPECT_THAT(Call(R"([0, 4, "wait_ready", [{"name": "m"}]])"), StartsWith("[1, 4, nil"));
    EXPECT_THAT(Call(R"([0, 5, "load", [{"name": "m"}]])"),
                IsError(5, -204, "already_loaded", "model", ""));
}

TEST_F(WholePort, ALoadThatFailsSaysWhy)
{
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    EXPECT_EQ(Call(R"([0, 3, "ping", [1]])"), "[1, 3, nil, 1]");
    fake_finish_load("m", LIBSCHED_EBADMODEL);
    EXPECT_THAT(Receive(), HasSubstr("\"state\"=>\"failed\", \"error\"=>{\"status\"=>-203"));
    EXPECT_THAT(Receive(), IsError(1, -203, "bad_model", "model", "made up"));
    EXPECT_THAT(Call(R"([0, 4, "wait_ready", [{"name": "m"}]])"),
                IsError(4, -203, "bad_model", "model", "made up"));
    EXPECT_THAT(Call(Infer(5, R"({"text": "x"})", "", "m")),
                IsError(5, -203, "bad_model", "model", "made up"));
}

TEST_F(WholePort, UnloadEndsWhoWaits)
{
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    Send(R"([0, 2, "unload", [{"name": "m"}]])");
    EXPECT_THAT(Receive(), HasSubstr("\"state\"=>\"gone\""));
    EXPECT_THAT(Receive(), IsError(1, -201, "unknown_model", "model", "unloaded"));
    EXPECT_EQ(Receive(), "[1, 2, nil, nil]");
    EXPECT_THAT(Call(R"([0, 3, "unload", [{"name": "m"}]])"),
                IsError(3, -201, "unknown_model", "model", "m"));
    EXPECT_THAT(Call(R"([0, 4, "wait_ready", [{"name": "m"}]])"),
                IsError(4, -201, "unknown_model", "model", "m"));
}

TEST_F(WholePort, WaitReadyHasADeadline)
{
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    Send(R"([0, 2, "wait_ready", [{"name": "m", "deadline": )" +
         std::to_string(libsched_now() + 2000000) + "}]]");
    EXPECT_THAT(Receive(), IsError(2, -102, "deadline_exceeded", "request", "not ready"));
    SendAll({R"([0, 3, "wait_ready", [{"name": "m"}]])", R"([2, "cancel", [3]])"});
    EXPECT_THAT(Receive(), IsError(3, -103, "cancelled", "request", ""));
}

// Said of a deadline that a busy machine let pass on the way.
constexpr char kBeforeItCame[] = "before it came";

TEST_F(WholePort, RequestsWaitForTheDescriptionOfTheirModel)
{
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    SendAll({Infer(2, R"({"text": ["a"]})", "", "m"), Infer(3, R"({"text": ["b"]})", "", "m"),
             Infer(4, R"({"text": ["c"]})", "", "m"), R"([2, "cancel", [3]])"});
    EXPECT_THAT(Receive(), IsError(3, -103, "cancelled", "request", "loading"));
    std::string late = kBeforeItCame;
    for (uint64_t ns = 3000000; late.find(kBeforeItCame) != late.npos; ns *= 2)
        late = Call(Infer(5, R"({"text": ["d"]})",
                          R"(, "deadline": )" + std::to_string(libsched_now() + ns), "m"));
    EXPECT_THAT(late, IsError(5, -102, "deadline_exceeded", "request", "loading"));
    fake_finish_load("m", LIBSCHED_OK);
    EXPECT_THAT(Receive(), HasSubstr("event"));
    EXPECT_THAT(Receive(), StartsWith("[1, 1, nil"));
    EXPECT_THAT(Receive(), AllOf(StartsWith("[1, 2, nil"), HasSubstr("[\"a\"]")));
    EXPECT_THAT(Receive(), AllOf(StartsWith("[1, 4, nil"), HasSubstr("[\"c\"]")));
}

TEST_F(WholePort, RequestsThatWaitedLearnOfAFailure)
{
    Send(R"([0, 1, "load", [{"name": "m"}]])");
    SendAll({Infer(2, R"({"text": ["a"]})", "", "m"), R"([0, 9, "ping", [1]])"});
    EXPECT_EQ(Receive(), "[1, 9, nil, 1]");
    fake_finish_load("m", LIBSCHED_EBADMODEL);
    EXPECT_THAT(Receive(), HasSubstr("event"));
    EXPECT_THAT(Receive(), StartsWith("[1, 1, {"));
    EXPECT_THAT(Receive(), IsError(2, -203, "bad_model", "model", "made up"));
}

TEST_F(WholePort, LoadsArgumentsAreChecked)
{
    EXPECT_THAT(Call(R"([0, 1, "load", [{}]])"), IsInvalid(1, "name is missing"));
    EXPECT_THAT(Call(R"([0, 1, "load", [{"name": ""}]])"), IsInvalid(1, "name has 0 bytes"));
    EXPECT_THAT(Call(R"([0, 1, "load", [{"name": "x", "weight": 1}]])"), IsInvalid(1, "weight"));
    EXPECT_THAT(Call(R"([0, 1, "load", [{"name": "x", "devices": "cpu:0"}]])"),
                IsInvalid(1, "devices has to be an array"));
    EXPECT_THAT(Call(R"([0, 1, "load", [{"name": "x", "queue_limit": 4294967296}]])"),
                IsInvalid(1, "queue_limit"));
    EXPECT_THAT(Call(R"([0, 1, "load", [{"name": "x", "step_limit_ms": 18446744073709551615}]])"),
                IsInvalid(1, "step_limit_ms"));
    EXPECT_THAT(Call(R"([0, 1, "unload", [{"deadline": 1}]])"), IsInvalid(1, "unknown key"));
}

TEST_F(WholePort, ModelsDevicesAndStats)
{
    EXPECT_THAT(Call(R"([0, 1, "models", []])"),
                AllOf(StartsWith("[1, 1, nil, [{\"name\"=>\"echo\", \"state\"=>\"ready\""),
                      HasSubstr("{\"name\"=>\"ids\", \"datatype\"=>\"INT64\", \"shape\"=>[-1, -1], "
                                "\"optional\"=>true}"),
                      HasSubstr("\"devices\"=>[\"cpu:0\"]")));
    EXPECT_THAT(Call(R"([0, 2, "devices", []])"),
                AllOf(StartsWith("[1, 2, nil, [{\"name\"=>\"cpu:0\", \"kind\"=>\"cpu\""),
                      HasSubstr("\"numa_node\"=>-1"), Not(HasSubstr("pci"))));
    EXPECT_THAT(Call(R"([0, 3, "stats", []])"),
                AllOf(StartsWith("[1, 3, nil, {\"uptime_us\"=>"), HasSubstr("\"requests\"=>{"),
                      HasSubstr("\"messages_in\"=>3"), HasSubstr("\"echo\"=>{\"submitted\"=>0")));
}

TEST_F(WholePort, DrainAnswersWhenNothingIsInFlight)
{
    Send(Infer(1, "{}", "", "stuck"));
    Send(R"([0, 2, "drain", []])");
    EXPECT_THAT(Call(Infer(3, "{}")), IsError(3, -402, "closing", "scheduler", ""));
    EXPECT_THAT(Call(R"([0, 3, "load", [{"name": "m"}]])"),
                IsError(3, -402, "closing", "scheduler", ""));
    Send(R"([2, "cancel", [1]])");
    EXPECT_THAT(Receive(), IsError(1, -103, "cancelled", "request", ""));
    EXPECT_EQ(Receive(), "[1, 2, nil, nil]");
    EXPECT_EQ(Call(R"([0, 4, "drain", []])"), "[1, 4, nil, nil]");
}

/* ------------------------------------------------------------------------------- a slow reader */

TEST_F(WholePort, AReaderWhoDoesNotReadDoesNotKeepTheEndFromBeingSeen)
{
    // Far more than the socket and the backlog hold.
    std::string ask = Infer(1, "{}", R"(, "parameters": {"bytes": 60000000})", "big");
    SendAll({ask, Infer(2, "{}", R"(, "parameters": {"bytes": 60000000})", "big"),
             Infer(3, "{}", R"(, "parameters": {"bytes": 60000000})", "big")});
    pollfd readable = {fd, POLLIN, 0};
    ASSERT_EQ(poll(&readable, 1, 120000), 1);
    auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Stop(), 0);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(4));
}

TEST_F(WholePort, ManyRequestsAtOnceAreAllAnswered)
{
    std::thread sender([&] {
        for (int i = 0; i < 200; i++) {
            std::vector<std::string> frame;
            for (int k = 0; k < 100; k++)
                frame.push_back(Infer(i * 100 + k, R"({"ids": [[1, 2, 3]]})"));
            SendAll(frame);
        }
    });
    std::vector<bool> seen(20000);
    for (int i = 0; i < 20000; i++) {
        std::string answer = Receive();
        ASSERT_THAT(answer, StartsWith("[1, "));
        seen[(size_t)atoi(answer.c_str() + 4)] = true;
    }
    sender.join();
    EXPECT_THAT(seen, testing::Each(true));
}
} // namespace
