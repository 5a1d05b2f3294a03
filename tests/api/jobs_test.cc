// SPDX-License-Identifier: Apache-2.0
// Jobs: programs on several devices, and devices that are reserved.
#include <cmath>
#include <csignal>
#include <fstream>
#include <set>
#include <sstream>

#include "scheduler.h"

using namespace api_test;

namespace
{

void two_devices(libsched_options &options)
{
    options.cpu_devices = 2;
    options.cores_per_device = 1;
}

bool has(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

Job tester(uint32_t n_devices, Parameters parameters = {})
{
    Job job("tester", n_devices);
    job.parameters = std::move(parameters);
    return job;
}

// One that goes on until it is ended.
Job endless(uint32_t n_devices)
{
    return tester(n_devices, Parameters().integer("steps", 1000000000).integer("step_us", 2000));
}

// The states it went through.
std::vector<uint32_t> states(const std::vector<Done> &told)
{
    std::vector<uint32_t> out;
    for (const Done &each : told)
        if (out.empty() || out.back() != each.raw.state)
            out.push_back(each.raw.state);
    return out;
}

} // namespace

class Jobs : public ApiTest
{
};

TEST_P(Jobs, RunOnAllTheirDevicesAndTellWhatTheyFound)
{
    Scheduler s(GetParam(), two_devices);
    Job job = tester(2, Parameters().integer("steps", 5).string("text", "found"));
    job.raw.name = "mine";
    job.raw.user = 77;
    uint64_t id = s.submit(job);
    const Done &end = s.end_of_job(id);
    EXPECT_EQ(end.status(), LIBSCHED_OK) << end.message;
    EXPECT_EQ(end.raw.user, 77u);
    EXPECT_EQ(end.name, "mine");
    EXPECT_EQ(end.raw.devices, 3u);
    EXPECT_EQ(end.raw.done, 5u);
    EXPECT_EQ(end.raw.total, 5u);
    const std::map<std::string, std::string> expected = {
        {"rank", "0"}, {"ranks", "2"}, {"half", "0.500000"}, {"yes", "true"}, {"text", "found"}};
    EXPECT_EQ(end.values, expected);
    const std::vector<uint32_t> order = {LIBSCHED_JOB_PENDING, LIBSCHED_JOB_STARTING,
                                         LIBSCHED_JOB_RUNNING, LIBSCHED_JOB_CLOSING,
                                         LIBSCHED_JOB_ENDED};
    EXPECT_EQ(states(s.jobs[id]), order);
    EXPECT_EQ(libsched_job_count(s.get()), 0u);
    libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
    EXPECT_EQ(libsched_job_find(s.get(), id, &info), LIBSCHED_ENOENT);
    EXPECT_EQ(libsched_job_cancel(s.get(), id), LIBSCHED_ENOENT);
}

TEST_P(Jobs, SayWhatTheyAreAt)
{
    Scheduler s(GetParam(), two_devices);
    Job job = endless(2);
    job.raw.client = "me";
    uint64_t id = s.submit(job);
    EXPECT_EQ(s.job(id).state, uint32_t(LIBSCHED_JOB_CHECKING));
    s.run_until([&] { return s.job(id).step > 3; });
    libsched_job_info info = s.job(id);
    EXPECT_EQ(info.state, uint32_t(LIBSCHED_JOB_RUNNING));
    EXPECT_EQ(info.id, id);
    EXPECT_STREQ(info.name, "tester");
    EXPECT_STREQ(info.program, "tester");
    EXPECT_STREQ(info.client, "me");
    EXPECT_STREQ(info.text, "a test");
    EXPECT_STREQ(info.message, "under way");
    EXPECT_TRUE(has(info.why, "has cpu:0 and cpu:1")) << info.why;
    EXPECT_TRUE(has(info.why, "all that it may have")) << info.why;
    EXPECT_EQ(info.devices, 3u);
    EXPECT_EQ(info.total, 1000000000u);
    EXPECT_GT(info.run_ns, 0u);
    EXPECT_GT(info.device_ns, 0u);

    // Another has to wait for them.
    Job second = tester(1);
    second.devices = {"cpu:1"};
    uint64_t waiting = s.submit(second);
    s.await_job(waiting, LIBSCHED_JOB_PENDING);
    libsched_job_info pending = s.job(waiting);
    EXPECT_TRUE(has(pending.why, "job " + std::to_string(id))) << pending.why;
    EXPECT_EQ(pending.devices, 0u);
    libsched_job_info by_index = LIBSCHED_JOB_INFO_INIT;
    ASSERT_EQ(libsched_job_count(s.get()), 2u);
    ASSERT_EQ(libsched_job_get(s.get(), 1, &by_index), LIBSCHED_OK);
    EXPECT_EQ(by_index.id, waiting);
    EXPECT_EQ(libsched_job_get(s.get(), 2, &by_index), LIBSCHED_ENOENT);

    ASSERT_EQ(libsched_job_cancel(s.get(), id), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(id).status(), LIBSCHED_ECANCELED);
    EXPECT_EQ(s.jobs[id].back().message, "it was cancelled");
    EXPECT_EQ(s.end_of_job(waiting).status(), LIBSCHED_OK);
}

TEST_P(Jobs, AreCancelledWhereverTheyAre)
{
    Scheduler s(GetParam(), two_devices);
    Job job = endless(2), other = endless(1);
    uint64_t checking = s.submit(job);
    ASSERT_EQ(libsched_job_cancel(s.get(), checking), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(checking).status(), LIBSCHED_ECANCELED);

    uint64_t running = s.submit(job);
    s.await_job(running, LIBSCHED_JOB_RUNNING);
    uint64_t pending = s.submit(other);
    s.await_job(pending, LIBSCHED_JOB_PENDING);
    ASSERT_EQ(libsched_job_cancel(s.get(), pending), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(pending).status(), LIBSCHED_ECANCELED);
    ASSERT_EQ(libsched_job_cancel(s.get(), running), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(running).status(), LIBSCHED_ECANCELED);
    Job after = tester(2);
    EXPECT_EQ(s.run(after).status(), LIBSCHED_OK);
}

TEST_P(Jobs, EndWhenTheirTimeIsUp)
{
    Scheduler s(GetParam(), two_devices);
    Job job = endless(2);
    job.raw.time_limit_ns = 50000000;
    const Done &end = s.run(job);
    EXPECT_EQ(end.status(), LIBSCHED_ETIMELIMIT);
    EXPECT_TRUE(has(end.message, "0.050 s")) << end.message;
    EXPECT_EQ(s.stats().worker_deaths, 0u);
}

TEST_P(Jobs, FailWithWhatARankSays)
{
    Scheduler s(GetParam(), two_devices);
    const struct {
        const char *fault;
        int status;
        const char *words;
    } cases[] = {
        {"check", LIBSCHED_EINVAL, "it was to fail"},
        {"start", LIBSCHED_EENGINE, "rank 1 on cpu:1: it was not to start"},
        {"step", LIBSCHED_EENGINE, "rank 1 on cpu:1: it was to fail at step 2"},
        {"disagree", LIBSCHED_EENGINE, ""},
    };
    for (const auto &each : cases) {
        Job job =
            tester(2, Parameters().string("fault", each.fault).integer("rank", 1).integer("at", 2));
        const Done &end = s.run(job);
        EXPECT_EQ(end.status(), each.status) << each.fault;
        EXPECT_TRUE(has(end.message, each.words)) << end.message;
        EXPECT_NE(end.message, "");
    }
    Job job = tester(2);
    EXPECT_EQ(s.run(job).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().worker_deaths, 0u);
}

TEST_P(Jobs, RunBesideInference)
{
    Scheduler s(GetParam(), two_devices);
    s.load("m", Parameters().integer("a_us", 500));
    Job job = endless(2);
    uint64_t id = s.submit(job);
    s.run_until([&] { return s.job(id).step > 0; });
    uint64_t before = s.job(id).step;
    for (int i = 0; i < 50; i++) {
        Request request("m");
        EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    }
    s.run_until([&] { return s.job(id).step > before; });
    libsched_job_cancel(s.get(), id);
    EXPECT_EQ(s.end_of_job(id).status(), LIBSCHED_ECANCELED);
    EXPECT_EQ(s.model("m").state, uint32_t(LIBSCHED_MODEL_READY));
}

TEST_P(Jobs, KeepTheLatestProgressWhileNobodyLooks)
{
    Scheduler s(GetParam(), two_devices);
    Job job = tester(1, Parameters().integer("steps", 200).integer("flood", 50));
    uint64_t id = s.submit(job);
    s.await_job(id, LIBSCHED_JOB_RUNNING);
    // Worked on, and not reaped.
    uint64_t end = libsched_now() + 120000000000;
    while (libsched_job_count(s.get()) > 0 && libsched_now() < end) {
        pollfd fd = {libsched_fd(s.get()), POLLIN, 0};
        poll(&fd, 1, 100);
        ASSERT_GE(libsched_process(s.get(), 0), 0);
    }
    s.look(0); // what there is to reap by now wakes nobody
    const Done &last = s.end_of_job(id);
    EXPECT_EQ(last.status(), LIBSCHED_OK) << last.message;
    EXPECT_EQ(last.raw.done, 200u);
    EXPECT_LT(s.jobs[id].size(), 60u);
}

TEST_P(Jobs, ThatLieAboutTheirProgressAreNotBelieved)
{
    Scheduler s(GetParam());
    Job job = tester(1, Parameters().boolean("lie", true));
    uint64_t id = s.submit(job);
    s.end_of_job(id);
    for (const Done &each : s.jobs[id])
        EXPECT_LE(each.raw.done, 3u);
}

TEST_P(Jobs, AreRefusedWhereThatCanBeSeenAtOnce)
{
    Scheduler s(GetParam(), [](libsched_options &o) {
        two_devices(o);
        o.max_jobs = 2;
        o.first_job = 50;
    });
    const struct {
        std::function<void(Job &)> change;
        int status;
        const char *words;
    } cases[] = {
        {[](Job &j) { j.raw.n_devices = 3; }, LIBSCHED_ENODEVICE,
         "asks for 3 devices, there are 2"},
        {[](Job &j) { j.raw.n_devices = UINT32_MAX; }, LIBSCHED_ENODEVICE, "4294967295"},
        {[](Job &j) { j.devices = {"cpu:7"}; }, LIBSCHED_ENODEVICE, "cpu:7"},
        {[](Job &j) {
             j.devices = {"cpu:0", "cpu:0"};
             j.raw.n_devices = 2;
         },
         LIBSCHED_ENODEVICE, "there are 1 that it may have: cpu:0"},
        {[](Job &j) { j.devices = {nullptr}; }, LIBSCHED_EINVAL, "device 0 has no name"},
        {[](Job &j) { j.raw.priority = 8; }, LIBSCHED_EINVAL, "priority"},
        {[](Job &j) { j.raw.name = "a name"; }, LIBSCHED_EINVAL, "a name"},
        {[](Job &j) { j.raw.name = ""; }, LIBSCHED_EINVAL, "the name is empty"},
        {[](Job &j) { j.program = "rm -rf"; }, LIBSCHED_EINVAL, "the program"},
        {[](Job &j) { j.program = "nonsense", j.raw.library = nullptr; }, LIBSCHED_ENOENT,
         "no program \"nonsense\""},
        {[](Job &j) { j.raw.library = "here.so"; }, LIBSCHED_EINVAL, "absolute"},
        {[](Job &j) { j.raw.library = "/nowhere/x.so"; }, LIBSCHED_EINVAL, "/nowhere/x.so"},
        {[](Job &j) { j.parameters.real("x", NAN); }, LIBSCHED_EINVAL, "no finite number"},
        {[](Job &j) { j.parameters.integer("x", 1).integer("x", 2); }, LIBSCHED_EINVAL, "twice"},
    };
    for (const auto &each : cases) {
        Job job = tester(1);
        each.change(job);
        uint64_t id = 1;
        libsched_error err{};
        EXPECT_EQ(libsched_job_submit(s.get(), job.get(), &id, &err), each.status) << each.words;
        EXPECT_TRUE(has(err.message, each.words)) << err.message;
        EXPECT_EQ(id, 0u);
    }
    libsched_error err{};
    Job none("", 1);
    libsched_job_options *raw = none.get();
    raw->flags = 0;
    EXPECT_EQ(libsched_job_submit(s.get(), raw, nullptr, &err), LIBSCHED_EINVAL);
    EXPECT_TRUE(has(err.message, "no program")) << err.message;
    raw->flags = LIBSCHED_JOB_RESERVE | 0x100;
    EXPECT_EQ(libsched_job_submit(s.get(), raw, nullptr, &err), LIBSCHED_EINVAL);
    raw->flags = LIBSCHED_JOB_RESERVE;
    raw->memory_bytes = 1;
    EXPECT_EQ(libsched_job_submit(s.get(), raw, nullptr, &err), LIBSCHED_EINVAL);
    std::string client(100, 'x');
    raw->memory_bytes = 0;
    raw->client = client.c_str();
    EXPECT_EQ(libsched_job_submit(s.get(), raw, nullptr, &err), LIBSCHED_EINVAL);
    EXPECT_TRUE(has(err.message, "client")) << err.message;

    Job job = endless(1);
    uint64_t first = s.submit(job);
    EXPECT_EQ(first, 50u); // what was refused has no id
    s.submit(job);
    EXPECT_EQ(libsched_job_submit(s.get(), job.get(), nullptr, &err), LIBSCHED_EBUSY);
    EXPECT_TRUE(has(err.message, "max_jobs")) << err.message;
    EXPECT_EQ(libsched_job_release(s.get(), first), LIBSCHED_EINVAL);
    EXPECT_EQ(libsched_job_release(s.get(), 99), LIBSCHED_ENOENT);
    libsched_drain(s.get());
    libsched_job_cancel(s.get(), first);
    s.end_of_job(first);
    EXPECT_EQ(libsched_job_submit(s.get(), job.get(), nullptr, &err), LIBSCHED_ECLOSING);
}

TEST_P(Jobs, HoldTheirDevicesForOthersCode)
{
    Scheduler s(GetParam(), two_devices);
    s.load("m");
    Job reserve("", 1);
    reserve.devices = {"cpu:1"};
    reserve.raw.client = "me";
    uint64_t id = s.submit(reserve);
    s.await_job(id, LIBSCHED_JOB_RUNNING);
    libsched_device_info held = s.device(1);
    EXPECT_EQ(held.state, uint32_t(LIBSCHED_DEVICE_HELD));
    EXPECT_EQ(held.pid, 0);
    EXPECT_TRUE(has(held.reason, "held by job " + std::to_string(id))) << held.reason;
    EXPECT_STREQ(s.job(id).program, "");
    EXPECT_EQ(s.job(id).devices, 2u);

    // The model goes on beside it, and jobs wait for it.
    for (int i = 0; i < 20; i++) {
        Request request("m");
        const Done &done = s.infer(request);
        EXPECT_EQ(done.status(), LIBSCHED_OK);
        EXPECT_EQ(done.raw.device, 0u);
    }
    Job both = tester(2);
    uint64_t waiting = s.submit(both);
    s.await_job(waiting, LIBSCHED_JOB_PENDING);
    EXPECT_TRUE(has(s.job(waiting).why, "job " + std::to_string(id))) << s.job(waiting).why;

    ASSERT_EQ(libsched_job_release(s.get(), id), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(id).status(), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(waiting).status(), LIBSCHED_OK);
    EXPECT_EQ(s.device(1).state, uint32_t(LIBSCHED_DEVICE_UP));
    EXPECT_EQ(s.stats().worker_deaths, 0u);
    EXPECT_EQ(s.device(1).restarts, 0u);
}

TEST_P(Jobs, GiveBackWhatTheyHoldWhenCancelledOrOutOfTime)
{
    Scheduler s(GetParam(), two_devices);
    Job reserve("", 2);
    uint64_t id = s.submit(reserve);
    s.await_job(id, LIBSCHED_JOB_RUNNING);
    libsched_job_cancel(s.get(), id);
    EXPECT_EQ(s.end_of_job(id).status(), LIBSCHED_ECANCELED);
    s.await_device(0);
    s.await_device(1);
    reserve.raw.time_limit_ns = 20000000;
    EXPECT_EQ(s.run(reserve).status(), LIBSCHED_ETIMELIMIT);
    s.await_device(0);
    s.await_device(1);
    Job job = tester(2);
    EXPECT_EQ(s.run(job).status(), LIBSCHED_OK);
}

TEST_P(Jobs, CloseWithTheScheduler)
{
    Scheduler s(GetParam(), two_devices);
    Job job = endless(2), other = tester(2);
    uint64_t id = s.submit(job);
    s.await_job(id, LIBSCHED_JOB_RUNNING);
    s.submit(other);
    uint64_t before = libsched_now();
    s.close();
    EXPECT_LT(libsched_now() - before, 1000000000u);
}

TEST_P(Jobs, TakeStructsOfOtherSizes)
{
    Scheduler s(GetParam());
    struct {
        libsched_job_options known;
        uint64_t more;
    } later{};
    Job job = tester(1);
    later.known = *job.get();
    later.known.struct_size = sizeof(later);
    libsched_error err{};
    uint64_t id = 0;
    EXPECT_EQ(libsched_job_submit(s.get(), &later.known, &id, &err), LIBSCHED_OK) << err.message;
    later.more = 1;
    EXPECT_EQ(libsched_job_submit(s.get(), &later.known, nullptr, &err), LIBSCHED_EINVAL);
    s.end_of_job(id);
    libsched_job_info info{};
    EXPECT_EQ(libsched_job_get(s.get(), 0, &info), LIBSCHED_ENOENT);
}

TEST_P(Jobs, LimitWhatAClientMayHaveWaiting)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.max_client_requests = 2; });
    s.load("slow", Parameters().integer("a_us", 100000).integer("max_batch_requests", 1));
    Request mine("slow"), others("slow");
    mine.raw.client = "me";
    others.raw.client = "you";
    uint64_t id = 0, accepted = 0;
    libsched_error err{};
    int rc = LIBSCHED_OK;
    while (rc == LIBSCHED_OK && accepted < 10) {
        rc = libsched_submit(s.get(), mine.get(), &id, &err);
        accepted += rc == LIBSCHED_OK;
    }
    EXPECT_EQ(rc, LIBSCHED_ECLIENTFULL);
    EXPECT_LE(accepted, 3u);
    EXPECT_GT(id, 0u); // the ns after which to come back
    EXPECT_TRUE(has(err.message, "come back in ")) << err.message;
    EXPECT_EQ(libsched_submit(s.get(), others.get(), &id, &err), LIBSCHED_OK) << err.message;
    ASSERT_EQ(libsched_client_set(s.get(), "me", 2, 5), LIBSCHED_OK);
    EXPECT_EQ(libsched_submit(s.get(), mine.get(), &id, &err), LIBSCHED_OK) << err.message;
    EXPECT_EQ(libsched_client_set(s.get(), "me", 65537, 0), LIBSCHED_EINVAL);
    EXPECT_EQ(libsched_client_set(s.get(), std::string(64, 'x').c_str(), 1, 0), LIBSCHED_EINVAL);
    EXPECT_EQ(libsched_client_set(s.get(), "me", 0, 0), LIBSCHED_OK);
}

API_TESTS_FOR_BOTH(Jobs);

// What ends a worker.
class JobFaults : public ApiTest
{
};

TEST_P(JobFaults, OfARankEndTheJobAndNoneElse)
{
    Scheduler s(GetParam(), two_devices);
    s.load("m");
    for (int i = 0; i < 6; i++) { // more often than a worker may die in a row
        Job job =
            tester(2, Parameters().string("fault", "kill").integer("rank", i % 2).integer("at", 2));
        const Done &end = s.run(job);
        EXPECT_EQ(end.status(), LIBSCHED_EDEVICELOST);
        EXPECT_TRUE(has(end.message, "rank " + std::to_string(i % 2))) << end.message;
    }
    s.await_device(0);
    s.await_device(1);
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    Job job = tester(2);
    EXPECT_EQ(s.run(job).status(), LIBSCHED_OK);
}

TEST_P(JobFaults, ThatNeverReturnAreEndedAtTheirLimit)
{
    Scheduler s(GetParam(), two_devices);
    Job job = tester(2, Parameters().string("fault", "hang").integer("rank", 1).integer("at", 2));
    job.raw.step_limit_ns = 100000000;
    const Done &end = s.run(job);
    EXPECT_EQ(end.status(), LIBSCHED_EDEVICELOST);
    EXPECT_TRUE(has(end.message, "rank 1 on cpu:1")) << end.message;
    EXPECT_TRUE(has(end.message, "0.100 s a step")) << end.message;
    s.await_device(1);

    // Also where they are to end.
    job.raw.step_limit_ns = 200000000;
    job.raw.time_limit_ns = 100000000;
    EXPECT_EQ(s.run(job).status(), LIBSCHED_ETIMELIMIT);
    Job after = tester(2);
    EXPECT_EQ(s.run(after).status(), LIBSCHED_OK);
}

TEST_P(JobFaults, OfACheckAreTheJobs)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("prepare_us", 0));
    for (int i = 0; i < 3; i++) { // more often than a worker may die in a row
        Job job = tester(1, Parameters().string("fault", "check-kill"));
        EXPECT_EQ(s.run(job).status(), LIBSCHED_EPOISON);
    }
    Request request("m");
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
}

// The memory that a device's worker shares with the ranks of jobs, by its inode: what of it a
// worker keeps, it keeps for the communicator in it.
std::set<std::string> shared_memory(Scheduler &s, uint32_t index)
{
    libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
    EXPECT_EQ(libsched_device_get(s.get(), index, &info), LIBSCHED_OK);
    std::ifstream maps("/proc/" + std::to_string(info.pid) + "/maps");
    std::set<std::string> found;
    for (std::string line; std::getline(maps, line);) {
        std::istringstream words(line);
        std::string address, mode, offset, device, inode;
        words >> address >> mode >> offset >> device >> inode;
        if (line.find("gpu_sched-job") != std::string::npos)
            found.insert(inode);
    }
    return found;
}

Job exchange()
{
    Job job("allreduce", 2);
    job.parameters.integer("min_bytes", 64).integer("max_bytes", 4096).integer("iterations", 2);
    return job;
}

TEST_P(JobFaults, EndWhatRanksKnowOfEachOtherAndNothingElseDoes)
{
    Scheduler s(GetParam(), two_devices);
    Job first = exchange(), second = exchange(), failing = endless(2), third = exchange();
    ASSERT_EQ(s.run(first).status(), LIBSCHED_OK);
    const auto made = shared_memory(s, 0);
    ASSERT_EQ(made.size(), 1u);
    EXPECT_EQ(shared_memory(s, 1), made);
    ASSERT_EQ(s.run(second).status(), LIBSCHED_OK);
    EXPECT_EQ(shared_memory(s, 0), made) << "the second job made none";
    /* A job that does not end well takes it along. */
    uint64_t id = s.submit(failing);
    s.run_until([&] { return s.jobs.count(id) > 0 && s.jobs[id].back().raw.done > 0; });
    EXPECT_EQ(shared_memory(s, 0), made);
    ASSERT_EQ(libsched_job_cancel(s.get(), id), LIBSCHED_OK);
    EXPECT_EQ(s.end_of_job(id).status(), LIBSCHED_ECANCELED);
    ASSERT_EQ(s.run(third).status(), LIBSCHED_OK);
    const auto again = shared_memory(s, 0);
    ASSERT_EQ(again.size(), 1u);
    EXPECT_NE(again, made);
    /* And so does a worker that ends: the other has it no longer. */
    libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
    ASSERT_EQ(libsched_device_get(s.get(), 1, &info), LIBSCHED_OK);
    ASSERT_GT(info.pid, 0);
    kill(info.pid, SIGKILL);
    const int32_t killed = info.pid;
    s.run_until([&] {
        libsched_device_get(s.get(), 1, &info);
        return info.state == LIBSCHED_DEVICE_UP && info.pid != killed;
    });
    Job fourth = exchange();
    ASSERT_EQ(s.run(fourth).status(), LIBSCHED_OK);
    const auto last = shared_memory(s, 0);
    EXPECT_EQ(last.size(), 1u);
    EXPECT_NE(last, again);
    EXPECT_EQ(shared_memory(s, 1), last);
}

// What is kept for the next job is bounded: those with other limits know each other apart.
TEST_P(JobFaults, ThatDoNotHappenLeaveNoMoreThanFourGangsBehind)
{
    Scheduler s(GetParam(), two_devices);
    // The last one has what the one before left: by then the workers have heard what is dropped.
    for (uint64_t seconds : {1, 2, 3, 4, 5, 6, 6}) {
        Job job = exchange();
        job.raw.step_limit_ns = seconds * 1000000000;
        ASSERT_EQ(s.run(job).status(), LIBSCHED_OK);
    }
    for (uint32_t device : {0, 1})
        EXPECT_EQ(shared_memory(s, device).size(), 4u);
}

API_TESTS_FOR_PROCESSES(JobFaults);
