// SPDX-License-Identifier: Apache-2.0
// What goes wrong on a device, on purpose: what becomes of the batch or the job, of those who
// compute on another device meanwhile, of the device, and of its memory. What is judged is what
// came of it; how long it took is told, in lines that begin with "fault:".
#include <algorithm>
#include <csignal>
#include <functional>

#include <unistd.h>

#include "kinds.h"

using namespace api_test;
using namespace faults_test;

namespace
{

constexpr uint64_t SECOND = 1000000000;

double ms(uint64_t ns)
{
    return double(ns) * 1e-6;
}

// Somebody on the other device, with one request after the other.
class Bystander
{
  public:
    Bystander(Scheduler &s, const std::string &model) : s_(s), request_(model)
    {
        send();
    }
    // To be called again and again.
    void look()
    {
        if (!s_.has_ended(id_))
            return;
        EXPECT_EQ(s_.ends[id_].status(), LIBSCHED_OK) << s_.ends[id_].message;
        times_.push_back(libsched_now() - begin_);
        send();
    }
    size_t served() const
    {
        return times_.size();
    }
    // The 99th percentile since it was last asked for.
    uint64_t p99()
    {
        std::sort(times_.begin(), times_.end());
        const uint64_t p = times_.empty() ? 0 : times_[times_.size() * 99 / 100];
        times_.clear();
        return p;
    }
    void finish()
    {
        s_.end_of(id_);
    }

  private:
    void send()
    {
        begin_ = libsched_now();
        id_ = s_.submit(request_);
    }
    Scheduler &s_;
    Request request_;
    uint64_t id_ = 0, begin_ = 0;
    std::vector<uint64_t> times_;
};

class OnDevices : public testing::TestWithParam<Kind>
{
  protected:
    void SetUp() override
    {
        if (GetParam() == Kind::gpu && !no_gpu_because().empty())
            GTEST_SKIP() << "no GPU is tested: " << no_gpu_because();
        machine = std::make_unique<Machine>(GetParam());
        s = machine->open();
        load("victim", machine->device(0));
        load("other", machine->device(2));
    }

    // A slow machine is no fault: only where a limit is to be exceeded is there one.
    void load(const char *name, const char *device, uint64_t limit = UINT64_MAX)
    {
        libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
        options.name = name;
        options.engine = "breaker";
        options.devices = &device;
        options.n_devices = 1;
        options.step_limit_ns = limit;
        s->load(options);
    }

    libsched_device_info device(int which)
    {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        for (uint32_t i = 0; i < libsched_device_count(s->get()); i++)
            if (libsched_device_get(s->get(), i, &info) == LIBSCHED_OK &&
                std::string(machine->device(which)) == info.name)
                return info;
        ADD_FAILURE() << "there is no " << machine->device(which);
        return info;
    }

    // Memory that is free where the victim is, by its own account.
    uint64_t free_memory(Bystander &other)
    {
        Request request("victim");
        const Done &end = end_of(other, s->submit(request));
        EXPECT_EQ(end.status(), LIBSCHED_OK) << end.message;
        return end.status() == LIBSCHED_OK ? end.outputs.at("free").scalar<uint64_t>() : 0;
    }

    void until(Bystander &other, const std::function<bool()> &stop)
    {
        s->run_until([&] {
            const uint64_t deaths = s->stats().worker_deaths;
            if (deaths > deaths_)
                down_at = libsched_now();
            deaths_ = deaths;
            other.look();
            return stop();
        });
    }
    // The end of a request to the victim.
    const Done &end_of(Bystander &other, uint64_t id)
    {
        until(other, [&] { return s->has_ended(id); });
        if (s->ends[id].status() == LIBSCHED_OK && served_at <= down_at)
            served_at = libsched_now();
        return s->ends[id];
    }
    const Done &end_of_job(Bystander &other, uint64_t id)
    {
        until(other, [&] { return s->job_has_ended(id); });
        return s->jobs[id].back();
    }

    Request fault(const char *what, bool once, const char *model = "victim")
    {
        Request request(model);
        request.parameters.string("fault", what);
        if (once)
            request.parameters.string("mark", machine->folder.path() + "/mark");
        return request;
    }

    // What is provoked, and what was so before and is so afterwards.
    void provoke(const std::string &name, bool costs_a_worker,
                 const std::function<void(Bystander &)> &strike)
    {
        Bystander other(*s, "other");
        const uint64_t before = free_memory(other);
        until(other, [&] { return other.served() >= 200; });
        const uint64_t p99 = other.p99();
        const uint64_t deaths = s->stats().worker_deaths;
        const int32_t pid = device(2).pid;

        down_at = served_at = 0;
        strike(other);
        if (down_at == 0)
            down_at = libsched_now();
        uint64_t after = free_memory(other);
        until(other, [&] { return other.served() >= 200; });
        const uint64_t beside = other.p99();
        /* A process that was killed gives its memory back in its own time. */
        if (GetParam() != Kind::cpu)
            for (int i = 0; i < 1000 && after + (64 << 20) < before; i++)
                after = free_memory(other);
        other.finish();

        EXPECT_EQ(s->stats().worker_deaths > deaths, costs_a_worker);
        EXPECT_EQ(device(2).pid, pid) << "the worker of the device beside them lives on";
        /* On CPUs that is the whole machine's, of which others take as well. */
        EXPECT_TRUE(GetParam() == Kind::cpu || after + (64 << 20) >= before)
            << before << " bytes were free, " << after << " are";
        const std::string where = machine->gpus() == 0   ? ""
                                  : machine->gpus() == 1 ? ", all on one GPU"
                                  : machine->gpus() == 2 ? ", which shares a GPU with one of them"
                                                         : "";
        printf("fault: %s on %s: p99 of the device beside %.3f ms before, %.3f ms meanwhile (%.2f "
               "times%s), served again after %.0f ms, %llu MiB free before, %llu after\n",
               name.c_str(), kind_name(GetParam()).c_str(), ms(p99), ms(beside),
               p99 > 0 ? double(beside) / double(p99) : 0, where.c_str(),
               ms(served_at > down_at ? served_at - down_at : 0),
               (unsigned long long)(before >> 20), (unsigned long long)(after >> 20));
        fflush(stdout);
    }

    Job job(const char *what)
    {
        Job job("breaker", 2);
        job.devices = {machine->device(0), machine->device(1)};
        job.parameters.string("fault", what).integer("steps", 3);
        return job;
    }

    // Of a job that does its work; why not, where ranks can't be there at all.
    bool ranks_can_meet()
    {
        Job fine = job("");
        const Done &end = s->run(fine);
        if (end.status() == LIBSCHED_OK)
            return true;
        EXPECT_EQ(machine->gpus(), 1u) << end.message;
        why_not = end.message;
        return false;
    }

    std::unique_ptr<Machine> machine;
    std::unique_ptr<Scheduler> s;
    std::string why_not;
    uint64_t down_at = 0;   // when a worker was last seen to have ended
    uint64_t served_at = 0; // when the victim's device first gave an answer after that

  private:
    uint64_t deaths_ = 0;
};

/* -------------------------------------------------------------------------------- in a batch */

TEST_P(OnDevices, AnIllegalAddressCostsAnAttempt)
{
    provoke("illegal address", true, [&](Bystander &other) {
        Request request = fault("illegal", true);
        const Done &end = end_of(other, s->submit(request));
        EXPECT_EQ(end.status(), LIBSCHED_OK) << end.message;
        EXPECT_EQ(end.raw.attempts, 2u);
    });
}

TEST_P(OnDevices, AnIllegalAddressThatComesAgainIsTheRequests)
{
    provoke("illegal address, again and again", true, [&](Bystander &other) {
        Request request = fault("illegal", false);
        const Done &end = end_of(other, s->submit(request));
        EXPECT_EQ(end.status(), LIBSCHED_EPOISON) << end.message;
    });
}

TEST_P(OnDevices, MemoryThatIsNotThereCostsNoWorker)
{
    provoke("out of memory", false, [&](Bystander &other) {
        Request request = fault("memory", false);
        const Done &end = end_of(other, s->submit(request));
        EXPECT_EQ(end.status(), LIBSCHED_ENODEVMEM) << end.message;
    });
}

// Each half again, until it fits; then the others are not tried in larger batches.
TEST_P(OnDevices, ABatchThatDoesNotFitIsSplitAndTheLimitLearnt)
{
    provoke("out of memory in large batches", false, [&](Bystander &other) {
        std::vector<uint64_t> ids;
        size_t once = 0;
        uint32_t most = 0;
        for (int i = 0; i < 16; i++) {
            Request request = fault("crowd", false);
            ids.push_back(s->submit(request));
        }
        for (uint64_t id : ids) {
            const Done &end = end_of(other, id);
            EXPECT_EQ(end.status(), LIBSCHED_OK) << end.message;
            once += end.raw.attempts == 1;
            most = std::max(most, end.raw.attempts);
        }
        EXPECT_EQ(most, 3u) << "of eight, of four, of two";
        EXPECT_GE(once, 7u) << "what came behind the first eight was in no batch that did not fit";
    });
}

TEST_P(OnDevices, AKernelThatNeverEndsIsTheRequests)
{
    load("stuck", machine->device(0), SECOND);
    provoke("kernel that never ends", true, [&](Bystander &other) {
        Request request = fault("endless", false, "stuck");
        const Done &end = end_of(other, s->submit(request));
        EXPECT_EQ(end.status(), LIBSCHED_EPOISON) << end.message;
        EXPECT_NE(end.message.find("longer than its limit of 1.000 s"), std::string::npos)
            << end.message;
    });
}

TEST_P(OnDevices, AWorkerKilledInABatchCostsAnAttempt)
{
    provoke("SIGKILL in a batch", true, [&](Bystander &other) {
        const std::string mark = machine->folder.path() + "/begun";
        Request request("victim");
        request.parameters.string("fault", "stays").string("mark", mark);
        const uint64_t id = s->submit(request);
        until(other, [&] { return access(mark.c_str(), F_OK) == 0; });
        EXPECT_EQ(kill(device(0).pid, SIGKILL), 0);
        const Done &end = end_of(other, id);
        EXPECT_EQ(end.status(), LIBSCHED_OK) << end.message;
        EXPECT_EQ(end.raw.attempts, 2u);
    });
}

/* ---------------------------------------------------------------------------------- in a job */

TEST_P(OnDevices, ARankThatDiesInACollectiveEndsTheJob)
{
    if (!ranks_can_meet())
        GTEST_SKIP() << "no ranks are tested on one GPU: " << why_not;
    const int32_t pid = device(0).pid;
    provoke("rank that dies in a collective", true, [&](Bystander &other) {
        Job dying = job("die");
        const Done &end = end_of_job(other, s->submit(dying));
        EXPECT_EQ(end.status(), LIBSCHED_EDEVICELOST) << end.message;
        EXPECT_NE(end.message.find("rank 1 on "), std::string::npos) << end.message;
    });
    EXPECT_EQ(device(0).pid, pid) << "rank 0 is let go";
    EXPECT_TRUE(ranks_can_meet());
}

TEST_P(OnDevices, ARankThatDoesNotComeEndsTheJob)
{
    if (!ranks_can_meet())
        GTEST_SKIP() << "no ranks are tested on one GPU: " << why_not;
    provoke("rank that does not come", false, [&](Bystander &other) {
        Job waiting = job("absent");
        /* The ranks' first step, for which NCCL finds its GPUs, is to be done in that time. */
        const uint64_t seconds = GetParam() == Kind::gpu ? 24 : 8;
        waiting.raw.step_limit_ns = seconds * SECOND;
        const Done &end = end_of_job(other, s->submit(waiting));
        EXPECT_EQ(end.status(), LIBSCHED_EDEADLINE) << end.message;
        const std::string limit = std::to_string(seconds * 1000 / 8 * 7);
        EXPECT_NE(end.message.find("rank 1 did not come within " + limit + " ms"),
                  std::string::npos)
            << end.message;
    });
    EXPECT_TRUE(ranks_can_meet());
}

INSTANTIATE_TEST_SUITE_P(Faults, OnDevices, testing::Values(Kind::cpu, Kind::emulated, Kind::gpu),
                         [](const auto &kind) { return kind_name(kind.param); });

} // namespace
