// SPDX-License-Identifier: Apache-2.0
// A scheduler on a machine with two GPUs, as a user has it: real workers, the CUDA plugin, over the
// fake of CUDA. hwloc is told of the machine by a file. What any GPU shows is in any_gpu_test.cc.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <sys/wait.h>

#include "../api/scheduler.h"
#include "../engine/tiny_bert.h"
#include "../support/folder.h"
#include "instruments.h"
#include "two_gpus.h"

using namespace api_test;

namespace
{

class OnGpus : public testing::Test
{
  protected:
    gpu_sched_test::temporary_folder folder;
    gpu_sched_test::two_gpus gpus{folder.path()};

    ~OnGpus() override
    {
        for (const char *name : {"FAKE_CUDA_FAIL", "FAKE_CUDA_FAIL_FILE"})
            unsetenv(name);
    }

    static void emulated(libsched_options &options)
    {
        options.plugin_path = EMULATED_CUDA_FOLDER;
    }

    static libsched_device_info device(Scheduler &s, const std::string &name)
    {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        for (uint32_t i = 0; i < libsched_device_count(s.get()); i++)
            if (libsched_device_get(s.get(), i, &info) == LIBSCHED_OK && name == info.name)
                return info;
        ADD_FAILURE() << "there is no " << name;
        return info;
    }

    static void await(Scheduler &s, const std::string &name, uint32_t state)
    {
        s.run_until([&] { return device(s, name).state == state; });
    }

    static size_t lines(const std::string &path)
    {
        std::ifstream file(path);
        size_t n = 0;
        for (std::string line; std::getline(file, line);)
            n++;
        return n;
    }

    static void load(Scheduler &s, const std::string &path, const char *on)
    {
        begin_load(s, path, {on});
        s.run_until([&] { return s.model("bert").state != LIBSCHED_MODEL_LOADING; });
        ASSERT_EQ(s.model("bert").state, uint32_t(LIBSCHED_MODEL_READY))
            << s.model("bert").error.message;
    }

    static void begin_load(Scheduler &s, const std::string &path, std::vector<const char *> on)
    {
        libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
        // Small batches: the emulator warms up with the largest.
        Parameters parameters;
        parameters.string("precision", "bf16").integer("max_batch_units", 128);
        libsched_error err;
        options.name = "bert";
        options.path = path.c_str();
        options.devices = on.data();
        options.n_devices = (uint32_t)on.size();
        // So that two requests at once go to two devices.
        options.max_batch_requests = on.size() > 1 ? 1 : 0;
        options.parameters = parameters.data();
        options.n_parameters = parameters.size();
        ASSERT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_OK) << err.message;
    }

    static const Done &embed(Scheduler &s, const char *text)
    {
        return s.end_of(s.submit_text("bert", text));
    }
};

TEST_F(OnGpus, EachGpuIsTheOneAtItsPlace)
{
    Scheduler s(Workers::process, emulated);
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
    await(s, "gpu:1", LIBSCHED_DEVICE_UP);
    EXPECT_STREQ(device(s, "gpu:0").pci, "0000:01:00.0");
    EXPECT_STREQ(device(s, "gpu:1").pci, "0000:02:00.0");
}

// What the device has to say comes to who reads the log: once, and requests are served all the
// same.
TEST_F(OnGpus, MemoryThatCannotBePinnedIsToldOfOnce)
{
    gpu_sched_test::tiny_bert bert;
    bert.write();
    for (bool fails : {true, false}) {
        std::vector<std::string> lines;
        if (fails)
            setenv("FAKE_CUDA_FAIL", "cudaHostRegister:0:801", 1);
        Scheduler s(Workers::process, [&](libsched_options &options) {
            emulated(options);
            options.log = [](void *payload, int, const char *line) {
                static_cast<std::vector<std::string> *>(payload)->push_back(line);
            };
            options.log_payload = &lines;
        });
        load(s, bert.folder, "gpu:0");
        for (int i = 0; i < 3; i++) {
            const Done &done = embed(s, "a b c");
            ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
        }
        unsetenv("FAKE_CUDA_FAIL");
        EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                                [](const std::string &line) {
                                    return line.find("can't be pinned") != std::string::npos;
                                }),
                  fails ? 1 : 0);
    }
}

// An illegal address in a kernel ends the worker; the request is run again, and nobody sees it.
TEST_F(OnGpus, AStickyErrorCostsAWorkerAndNoRequest)
{
    gpu_sched_test::tiny_bert bert;
    bert.write();
    const std::string trap = folder.path() + "/trap";
    setenv("FAKE_CUDA_FAIL_FILE", trap.c_str(), 1);
    Scheduler s(Workers::process, emulated);
    load(s, bert.folder, "gpu:0");
    for (int i = 0; i < 3; i++) {
        if (i == 1)
            std::ofstream(trap) << "the next kernel fails";
        const Done &done = embed(s, "c b a");
        ASSERT_EQ(done.status(), LIBSCHED_OK) << i << ": " << done.message;
        EXPECT_EQ(done.raw.attempts, i == 1 ? 2u : 1u);
    }
    EXPECT_EQ(s.stats().worker_deaths, 1u);
    EXPECT_EQ(s.stats().counters.retried, 1u);
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
}

TEST_F(OnGpus, JobsOnTheSameGpusMakeOneCommunicator)
{
    const std::string count = folder.path() + "/communicators";
    setenv("FAKE_NCCL_COUNT", count.c_str(), 1);
    Scheduler s(Workers::process, emulated);
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
    await(s, "gpu:1", LIBSCHED_DEVICE_UP);
    for (int i = 0; i < 3; i++) {
        Job job("allreduce", 2);
        job.devices = {"gpu:0", "gpu:1"};
        job.parameters.integer("min_bytes", 1024).integer("max_bytes", 4096);
        const Done &end = s.run(job);
        ASSERT_EQ(end.status(), LIBSCHED_OK) << end.message;
    }
    unsetenv("FAKE_NCCL_COUNT");
    EXPECT_EQ(lines(count), 2u) << "one on each of the two ranks";
}

// A rank that has called what the others have not would be out of step with them from then on: what
// it has is of no use for another job.
TEST_F(OnGpus, RanksThatWereOutOfStepMakeAnotherCommunicator)
{
    const std::string count = folder.path() + "/communicators";
    setenv("FAKE_NCCL_COUNT", count.c_str(), 1);
    Scheduler s(Workers::process, [](libsched_options &options) {
        options.plugin_path = EMULATED_CUDA_FOLDER ":" TEST_PLUGIN_FOLDER;
    });
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
    await(s, "gpu:1", LIBSCHED_DEVICE_UP);
    for (const char *what : {"barrier", "extra", "barrier", "barrier"}) {
        Job job("odd", 2);
        job.devices = {"gpu:0", "gpu:1"};
        job.parameters.string("do", what).integer("rank", 1);
        const Done &end = s.run(job);
        ASSERT_EQ(end.status(), LIBSCHED_OK) << what << ": " << end.message;
    }
    unsetenv("FAKE_NCCL_COUNT");
    EXPECT_EQ(lines(count), 4u) << "one on each of two ranks, and once more after the second job";
    EXPECT_EQ(s.stats().worker_deaths, 0u);
}

// What communicators hold that are kept for the next job is there for whoever needs it now.
TEST_F(OnGpus, AModelGetsTheMemoryThatWasKeptForJobs)
{
    const std::string count = folder.path() + "/communicators";
    gpu_sched_test::tiny_bert bert;
    bert.write();
    setenv("FAKE_NCCL_COUNT", count.c_str(), 1);
    // cuBLASLt takes 32 MiB of it.
    setenv("FAKE_CUDA_MEMORY", std::to_string(48 << 20).c_str(), 1);
    setenv("FAKE_NCCL_MEMORY", std::to_string(16700000).c_str(), 1);
    Scheduler s(Workers::process, emulated);
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
    await(s, "gpu:1", LIBSCHED_DEVICE_UP);
    auto exchange = [&] {
        Job job("allreduce", 2);
        job.devices = {"gpu:0", "gpu:1"};
        job.parameters.integer("min_bytes", 1024).integer("max_bytes", 4096);
        return s.run(job);
    };
    ASSERT_EQ(exchange().status(), LIBSCHED_OK);
    load(s, bert.folder, "gpu:0");
    const Done &done = embed(s, "a b c");
    ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(lines(count), 2u);
    // Where there is room again the next job makes others.
    libsched_error err;
    ASSERT_EQ(libsched_model_unload(s.get(), "bert", &err), LIBSCHED_OK) << err.message;
    s.run_until([&] { return s.changes.back().raw.state == LIBSCHED_MODEL_GONE; });
    const Done again = exchange();
    EXPECT_EQ(again.status(), LIBSCHED_OK) << again.message;
    EXPECT_EQ(lines(count), 4u);
    EXPECT_EQ(s.stats().worker_deaths, 0u);
    for (const char *name : {"FAKE_NCCL_COUNT", "FAKE_CUDA_MEMORY", "FAKE_NCCL_MEMORY"})
        unsetenv(name);
}

TEST_F(OnGpus, AGpuCanBeSeveralDevices)
{
    Scheduler s(Workers::process, [](libsched_options &options) {
        emulated(options);
        options.devices_per_gpu = 2;
    });
    for (const char *name : {"gpu:0", "gpu:1", "gpu:2", "gpu:3"})
        await(s, name, LIBSCHED_DEVICE_UP);
    EXPECT_STREQ(device(s, "gpu:1").pci, "0000:01:00.0");
    EXPECT_STREQ(device(s, "gpu:2").pci, "0000:02:00.0");
}

// A model that is loaded on several GPUs at once, and read by one worker for all.
class TogetherOnGpus : public OnGpus
{
  protected:
    gpu_sched_test::tiny_bert bert;
    std::string log;
    const std::string communicators = folder.path() + "/communicators",
                      uploads = folder.path() + "/uploads";

    TogetherOnGpus()
    {
        bert.write();
        setenv("FAKE_NCCL_COUNT", communicators.c_str(), 1);
        setenv("FAKE_CUDA_UPLOADS", uploads.c_str(), 1);
    }
    ~TogetherOnGpus() override
    {
        for (const char *name : {"FAKE_NCCL_COUNT", "FAKE_CUDA_UPLOADS", "GPU_SCHED_NCCL"})
            unsetenv(name);
    }
    std::unique_ptr<Scheduler> open(uint64_t least, uint32_t devices_per_gpu = 1)
    {
        auto s = std::make_unique<Scheduler>(Workers::process, [&](libsched_options &options) {
            emulated(options);
            options.log = [](void *to, int, const char *line) {
                static_cast<std::string *>(to)->append(line).append("\n");
            };
            options.log_payload = &log;
            options.share_weights_bytes = least;
            options.devices_per_gpu = devices_per_gpu;
        });
        await(*s, "gpu:0", LIBSCHED_DEVICE_UP);
        await(*s, "gpu:1", LIBSCHED_DEVICE_UP);
        return s;
    }
    // Until the first waits for the other.
    void await_first(Scheduler &s) const
    {
        for (int i = 0; lines(communicators) == 0 && i < 100000; i++)
            s.turn(1);
    }
    // Until both answer requests, which have to be the right answers.
    static void await_both(Scheduler &s)
    {
        std::string first;
        s.run_until([&] { return __builtin_popcountll(s.model("bert").devices) == 2; });
        auto served = [&] {
            return device(s, "gpu:0").batches > 0 && device(s, "gpu:1").batches > 0;
        };
        for (int i = 0; i < 1000 && !served(); i++) {
            const std::vector<uint64_t> ids = {s.submit_text("bert", "a b c"),
                                               s.submit_text("bert", "a b c")};
            for (uint64_t id : ids) {
                const Done &done = s.end_of(id);
                ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
                const std::string &bytes = done.outputs.at("embedding").bytes;
                first = first.empty() ? bytes : first;
                ASSERT_EQ(bytes, first);
            }
        }
        EXPECT_TRUE(served());
    }
    std::string reference()
    {
        Scheduler s(Workers::process, emulated);
        load(s, bert.folder, "gpu:0");
        return embed(s, "a b c").outputs.at("embedding").bytes;
    }
    // Bytes of what was copied to GPUs in large pieces: those of requests are small.
    uint64_t uploaded() const
    {
        std::ifstream file(uploads);
        uint64_t sum = 0;
        for (uint64_t size; file >> size;)
            sum += size >= 4096 ? size : 0;
        return sum;
    }
    int32_t stop(Scheduler &s, const char *name)
    {
        const int32_t pid = device(s, name).pid;
        EXPECT_EQ(kill(pid, SIGSTOP), 0);
        return pid;
    }
};

TEST_F(TogetherOnGpus, AModelIsReadOnce)
{
    const std::string expected = reference();
    const uint64_t alone = uploaded();
    std::filesystem::remove(uploads);
    auto s = open(1);
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    s->run_until([&] { return s->model("bert").state == LIBSCHED_MODEL_READY; });
    await_both(*s);
    EXPECT_EQ(lines(communicators), 2u);
    EXPECT_GT(alone, 50000u);
    EXPECT_EQ(uploaded(), alone);
    EXPECT_EQ(embed(*s, "a b c").outputs.at("embedding").bytes, expected);
    EXPECT_EQ(s->stats().worker_deaths, 0u);
}

TEST_F(TogetherOnGpus, ASmallModelIsNot)
{
    for (uint64_t least : {UINT64_C(0), UINT64_MAX, UINT64_C(100000000)}) {
        auto s = open(least);
        begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
        await_both(*s);
        EXPECT_EQ(lines(communicators), 0u) << least;
        EXPECT_GT(uploaded(), 100000u) << "each has read it";
    }
}

TEST_F(TogetherOnGpus, OneOfEachGpuTakesPart)
{
    auto s = open(1, 2);
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_both(*s);
    EXPECT_EQ(lines(communicators), 0u) << "both are on one GPU";
}

TEST_F(TogetherOnGpus, EachReadsItByItselfWithoutNccl)
{
    setenv("GPU_SCHED_NCCL", "/nowhere/libnccl.so.2", 1);
    auto s = open(1);
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_both(*s);
    EXPECT_EQ(s->stats().worker_deaths, 0u);
}

// Also one that is started again.
TEST_F(TogetherOnGpus, TheOthersReadItWhereTheFirstHasEnded)
{
    auto s = open(1);
    const int32_t pid = stop(*s, "gpu:0");
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    s->turn(0);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    await_both(*s);
    EXPECT_EQ(lines(communicators), 0u) << "nobody waited for anybody";
    EXPECT_EQ(s->stats().worker_deaths, 1u);
}

TEST_F(TogetherOnGpus, TheFirstReadsItWhereAnotherHasEnded)
{
    auto s = open(1);
    const int32_t pid = stop(*s, "gpu:1");
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_first(*s);
    ASSERT_EQ(lines(communicators), 1u);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    await_both(*s);
    EXPECT_EQ(lines(communicators), 1u);
    EXPECT_EQ(s->stats().worker_deaths, 1u);
}

// One that fails before it has met the others says so to them, and they do not wait for it.
TEST_F(TogetherOnGpus, TheFirstReadsItWhereAnotherCantTakePart)
{
    auto s = open(1);
    setenv("GPU_SCHED_NCCL", "/nowhere/libnccl.so.2", 1);
    ASSERT_EQ(kill(device(*s, "gpu:1").pid, SIGKILL), 0);
    s->run_until([&] { return s->stats().worker_deaths == 1; });
    await(*s, "gpu:1", LIBSCHED_DEVICE_UP);
    unsetenv("GPU_SCHED_NCCL");
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_both(*s);
    EXPECT_NE(log.find("can't work together without NCCL"), std::string::npos) << log;
    EXPECT_EQ(log.find("did not come"), std::string::npos) << log;
    EXPECT_NE(log.find("given up"), std::string::npos) << log;
    EXPECT_EQ(s->stats().worker_deaths, 1u);
}

// That the first has ended is found out when it is to be told: before the others are.
TEST_F(TogetherOnGpus, TheOthersReadItWhereTheFirstCantBeTold)
{
    auto s = open(1);
    const int32_t pid = device(*s, "gpu:0").pid;
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    // Once it is a zombie its end of the socket is closed.
    siginfo_t info;
    ASSERT_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_both(*s);
    EXPECT_EQ(lines(communicators), 0u) << "nobody waited for anybody";
    EXPECT_EQ(s->stats().worker_deaths, 1u);
}

// One that is busy would keep the other waiting.
TEST_F(TogetherOnGpus, OneThatHasSomethingElseToDoTakesNoPart)
{
    auto s = open(1);
    const int32_t pid = stop(*s, "gpu:1");
    Job job("gemm");
    job.devices = {"gpu:1"};
    job.parameters.integer("m", 64).integer("n", 64).integer("k", 64).integer("steps", 1);
    const uint64_t id = s->submit(job);
    s->await_job(id, LIBSCHED_JOB_STARTING);
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    s->run_until([&] { return s->model("bert").state == LIBSCHED_MODEL_READY; });
    EXPECT_EQ(kill(pid, SIGCONT), 0);
    await_both(*s);
    EXPECT_EQ(s->end_of_job(id).status(), LIBSCHED_OK) << s->end_of_job(id).message;
    EXPECT_EQ(lines(communicators), 0u);
    EXPECT_EQ(s->stats().worker_deaths, 0u);
}

// Ranks that wait for each other while their workers wait for each other would wait for ever.
TEST_F(TogetherOnGpus, TheyGiveItUpForAJobOnTheSameGpus)
{
    auto s = open(1);
    const int32_t pid = stop(*s, "gpu:1");
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_first(*s);
    ASSERT_EQ(lines(communicators), 1u);
    Job job("allreduce", 2);
    job.devices = {"gpu:0", "gpu:1"};
    job.parameters.integer("min_bytes", 1024).integer("max_bytes", 4096);
    const uint64_t id = s->submit(job);
    s->run_until([&] { return log.find("gpu:0 loads \"bert\" by itself") != log.npos; });
    EXPECT_EQ(kill(pid, SIGCONT), 0);
    EXPECT_EQ(s->end_of_job(id).status(), LIBSCHED_OK) << s->end_of_job(id).message;
    await_both(*s);
    EXPECT_EQ(lines(communicators), 3u) << "the one that was given up, and the job's two";
    EXPECT_EQ(s->stats().worker_deaths, 0u);
}

TEST_F(TogetherOnGpus, AModelCanBeUnloadedMeanwhile)
{
    auto s = open(1);
    const int32_t pid = stop(*s, "gpu:1");
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    s->turn(0);
    libsched_error err;
    ASSERT_EQ(libsched_model_unload(s->get(), "bert", &err), LIBSCHED_OK) << err.message;
    ASSERT_EQ(kill(pid, SIGCONT), 0);
    s->run_until(
        [&] { return !s->changes.empty() && s->changes.back().raw.state == LIBSCHED_MODEL_GONE; });
    begin_load(*s, bert.folder, {"gpu:0", "gpu:1"});
    await_both(*s);
    EXPECT_EQ(s->stats().worker_deaths, 0u);
}

/* What a device's instruments show, once it is what is waited for: nobody is woken by them. */
libsched_device_readings readings(Scheduler &s, uint32_t index,
                                  const std::function<bool(const libsched_device_readings &)> &ok)
{
    libsched_device_readings now = LIBSCHED_DEVICE_READINGS_INIT;
    const uint64_t end = libsched_now() + 120000000000;
    while (true) {
        EXPECT_EQ(libsched_device_get_readings(s.get(), index, &now), LIBSCHED_OK);
        if (ok(now))
            return now;
        if (libsched_now() > end) {
            ADD_FAILURE() << "not seen in 120 s; the last reason: " << now.reason;
            return now;
        }
        s.turn(5);
    }
}

constexpr const char *shown = "0000:01:00.0 uuid GPU-00000001\n"
                              "0000:01:00.0 temperature 61\n"
                              "0000:02:00.0 uuid GPU-00000002\n"
                              "0000:02:00.0 utilization 37 12\n";

TEST_F(OnGpus, TheirInstrumentsAreTold)
{
    gpu_sched_test::instruments instruments;
    instruments.show(shown);
    Scheduler s(Workers::process, emulated);
    auto any = [](const libsched_device_readings &r) { return r.uuid[0] != '\0'; };
    // Two devices: the CPU is the first.
    libsched_device_readings first = readings(s, 1, any), second = readings(s, 2, any);
    EXPECT_STREQ(first.uuid, "GPU-00000001");
    EXPECT_EQ(first.has, uint32_t(LIBSCHED_READING_TEMPERATURE | LIBSCHED_READING_XID));
    EXPECT_EQ(first.temperature_c, 61);
    EXPECT_STREQ(second.uuid, "GPU-00000002");
    EXPECT_EQ(second.utilization_percent, 37u);
    EXPECT_STREQ(first.reason, "");
    // They are read again and again.
    instruments.add("0000:02:00.0 temperature 44\n");
    second = readings(s, 2, [](const libsched_device_readings &r) {
        return (r.has & LIBSCHED_READING_TEMPERATURE) != 0;
    });
    EXPECT_EQ(second.temperature_c, 44);
    EXPECT_LT(second.age_ns, UINT64_C(120000000000));

    libsched_device_readings cpu = readings(s, 0, [](const libsched_device_readings &r) {
        return std::string(r.reason) == "the device has no instruments";
    });
    EXPECT_EQ(cpu.has, 0u);
    EXPECT_EQ(libsched_device_get_readings(s.get(), 3, &cpu), LIBSCHED_ENODEVICE);
    cpu.struct_size = 0;
    EXPECT_EQ(libsched_device_get_readings(s.get(), 0, &cpu), LIBSCHED_EINVAL);
}

// The driver says why a card failed in the moment in which the worker ends of it: it looks once
// more, and what it saw is remembered.
TEST_F(OnGpus, TheErrorThatEndedAWorkerIsRemembered)
{
    gpu_sched_test::tiny_bert bert;
    bert.write();
    gpu_sched_test::instruments instruments;
    instruments.show(shown);
    const std::string trap = folder.path() + "/trap";
    setenv("FAKE_CUDA_FAIL_FILE", trap.c_str(), 1);
    Scheduler s(Workers::process, emulated);
    load(s, bert.folder, "gpu:0");
    auto listens = [](const libsched_device_readings &r) {
        return (r.has & LIBSCHED_READING_TEMPERATURE) != 0;
    };
    EXPECT_EQ(readings(s, 1, listens).xid_count, 0u);
    instruments.add("0000:01:00.0 xid 31\n");
    std::ofstream(trap) << "the next kernel fails";
    const Done &done = embed(s, "c b a");
    ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(s.stats().worker_deaths, 1u);
    const libsched_device_readings after = readings(s, 1, listens);
    EXPECT_EQ(after.xid_count, 1u);
    EXPECT_EQ(after.last_xid, 31u);
    EXPECT_EQ(readings(s, 2, [](auto &r) { return r.uuid[0] != '\0'; }).xid_count, 0u);
}

TEST_F(OnGpus, WithoutNvmlTheyAreServedAllTheSame)
{
    setenv("GPU_SCHED_NVML", "/nowhere/libnvidia-ml.so.1", 1);
    Scheduler s(Workers::process, emulated);
    const libsched_device_readings none = readings(s, 1, [](const libsched_device_readings &r) {
        return std::string(r.reason).find("/nowhere/libnvidia-ml.so.1") != std::string::npos;
    });
    EXPECT_EQ(none.has, 0u);
    await(s, "gpu:0", LIBSCHED_DEVICE_UP);
    unsetenv("GPU_SCHED_NVML");
}

// What can't be used says why, at once and once.
TEST_F(OnGpus, OneThatCannotBeUsedSaysWhy)
{
    setenv("FAKE_CUDA_PCI", "0000:01:00.0", 1);
    {
        Scheduler s(Workers::process, emulated);
        await(s, "gpu:0", LIBSCHED_DEVICE_UP);
        await(s, "gpu:1", LIBSCHED_DEVICE_DOWN);
        EXPECT_NE(std::string(device(s, "gpu:1").reason).find("none at 0000:02:00.0"),
                  std::string::npos)
            << device(s, "gpu:1").reason;
        EXPECT_EQ(device(s, "gpu:1").restarts, 0u);
        libsched_device_readings none =
            readings(s, 2, [](const libsched_device_readings &) { return true; });
        EXPECT_STREQ(none.reason, "the device can't be used");
    }
    setenv("FAKE_CUDA_FAIL", "cudaGetDeviceCount:0:35", 1);
    {
        Scheduler s(Workers::process, emulated);
        await(s, "gpu:0", LIBSCHED_DEVICE_DOWN);
        EXPECT_NE(std::string(device(s, "gpu:0").reason).find("install the NVIDIA driver"),
                  std::string::npos)
            << device(s, "gpu:0").reason;
        await(s, "cpu:0", LIBSCHED_DEVICE_UP);
    }
    Scheduler s(Workers::process, [](libsched_options &options) { options.plugin_path = "/"; });
    await(s, "gpu:0", LIBSCHED_DEVICE_ABSENT);
    EXPECT_NE(std::string(device(s, "gpu:0").reason).find("was not built"), std::string::npos)
        << device(s, "gpu:0").reason;
}

} // namespace
