// SPDX-License-Identifier: Apache-2.0
// Everything at once, in seeded disorder: requests of all kinds, cancels, deadlines, models that
// come and go, workers that are killed. Whatever happens, each request that was accepted ends once,
// what is answered is right, and nothing is left.
#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include <dirent.h>

#include "scheduler.h"

using namespace api_test;

namespace
{

const char *const models[] = {"plain", "prepared", "slow"};

struct Asked {
    uint64_t checksum;
    int64_t parts;
    bool wants_parts, fails;
};

class Storm
{
  public:
    Storm(Workers workers, uint32_t seed)
        : random_(seed), kills_(workers == Workers::process), s_(workers, [](libsched_options &o) {
              o.cpu_devices = 2;
              o.cores_per_device = 1;
              o.prepare_workers = 2;
              o.max_restarts = 1000;
          })
    {
        for (const char *model : models)
            load(model);
    }

    void run(int n)
    {
        for (int i = 0; i < n && !testing::Test::HasFatalFailure(); i++)
            act();
        for (uint64_t id : open())
            libsched_grant(s_.get(), id, UINT32_MAX);
        s_.run_until([&] { return s_.n_ends == asked_.size(); });
        for (const auto &[id, request] : asked_)
            check(request, s_.ends.at(id), s_.parts[id]);
        check_counters();
    }

  private:
    unsigned dice(unsigned sides)
    {
        return unsigned(random_() % sides);
    }

    void load(const std::string &model)
    {
        Parameters parameters;
        parameters.integer("max_batch_requests", 8).integer("b_us", 20);
        if (model == "prepared")
            parameters.integer("prepare_us", 100);
        if (model == "slow")
            parameters.integer("a_us", 3000);
        EXPECT_EQ(s_.begin_load(model, parameters), LIBSCHED_OK);
    }

    std::vector<uint64_t> open() const
    {
        std::vector<uint64_t> ids;
        for (const auto &[id, request] : asked_)
            if (s_.ends.count(id) == 0)
                ids.push_back(id);
        return ids;
    }

    void act()
    {
        unsigned what = dice(1000);
        if (what < 700)
            submit();
        else if (what < 750)
            cancel_or_grant();
        else if (what < 752)
            reload();
        else if (what < 762 && kills_)
            kill_a_worker();
        else
            s_.turn(int(dice(3)) / 2);
    }

    void submit()
    {
        Request request(models[dice(3)], dice(4) == 0 ? dice(100000) : dice(100),
                        uint8_t(dice(256)));
        Asked asked{checksum(request.data), 1, dice(4) == 0, dice(20) == 0};
        if (dice(3) == 0)
            request.parameters.integer("parts", asked.parts = 1 + dice(5));
        if (asked.fails)
            request.parameters.string("fault", "error");
        if (asked.wants_parts) {
            request.raw.flags = LIBSCHED_WANT_PARTS;
            request.raw.part_credit = dice(3);
        }
        if (dice(10) == 0)
            request.raw.timeout_ns = 1 + dice(20000000);
        request.raw.priority = dice(LIBSCHED_PRIORITIES);
        std::string client = "client " + std::to_string(dice(3));
        request.raw.client = client.c_str();
        uint64_t id = 0;
        libsched_error err{};
        int rc = libsched_submit(s_.get(), request.get(), &id, &err);
        if (rc == LIBSCHED_OK)
            asked_[id] = asked;
        else if (rc != LIBSCHED_ENOMODEL && rc != LIBSCHED_EBUSY && rc != LIBSCHED_EDEADLINE)
            ADD_FAILURE() << err.message;
        refused_ += rc != LIBSCHED_OK;
    }

    void cancel_or_grant()
    {
        std::vector<uint64_t> ids = open();
        if (ids.empty())
            return;
        uint64_t id = ids[dice(unsigned(ids.size()))];
        // It may have ended, and not been reaped.
        int rc =
            dice(2) == 0 ? libsched_cancel(s_.get(), id) : libsched_grant(s_.get(), id, dice(4));
        EXPECT_TRUE(rc == LIBSCHED_OK || rc == LIBSCHED_ENOENT) << rc;
    }

    void reload()
    {
        std::string model = models[dice(3)];
        if (libsched_model_unload(s_.get(), model.c_str(), nullptr) != LIBSCHED_OK)
            return;
        for (uint64_t id : open()) // those without credit would run on for ever
            libsched_grant(s_.get(), id, UINT32_MAX);
        libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
        s_.run_until([&] {
            return libsched_model_find(s_.get(), model.c_str(), &info) == LIBSCHED_ENOMODEL;
        });
        load(model);
    }

    void kill_a_worker()
    {
        std::vector<pid_t> children;
        DIR *tasks = opendir("/proc/self/task");
        while (const dirent *task = readdir(tasks)) {
            std::ifstream list(std::string("/proc/self/task/") + task->d_name + "/children");
            for (pid_t pid; list >> pid;)
                children.push_back(pid);
        }
        closedir(tasks);
        if (!children.empty() && kill(children[dice(unsigned(children.size()))], SIGKILL) == 0)
            killed_++;
    }

    void check(const Asked &asked, const Done &done, const std::vector<Done> &parts)
    {
        static const std::set<int> expected = {LIBSCHED_OK, LIBSCHED_EDEADLINE, LIBSCHED_ECANCELED,
                                               LIBSCHED_ENOMODEL};
        if (done.status() == LIBSCHED_EPOISON) {
            // Two of our kills met it while it was alone, with a device or being prepared.
            EXPECT_GT(killed_, 1u);
            return;
        }
        if (asked.fails && done.status() == LIBSCHED_EENGINE)
            return;
        EXPECT_EQ(expected.count(done.status()), 1u) << done.status() << " " << done.message;
        for (size_t i = 0; i < parts.size(); i++)
            EXPECT_EQ(parts[i].outputs.at("part").scalar<uint32_t>(), i + 1);
        EXPECT_LT(int64_t(parts.size()), asked.parts);
        if (done.status() != LIBSCHED_OK)
            return;
        EXPECT_FALSE(asked.fails);
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), asked.checksum);
        EXPECT_EQ(int64_t(parts.size()), asked.wants_parts ? asked.parts - 1 : 0);
    }

    void check_counters()
    {
        libsched_stats stats = s_.stats();
        const libsched_counters &c = stats.counters;
        EXPECT_EQ(c.submitted, asked_.size());
        EXPECT_EQ(c.refused, refused_);
        EXPECT_EQ(c.completed + c.failed + c.cancelled + c.expired, asked_.size());
        EXPECT_EQ(stats.queued + stats.running, 0u);
        EXPECT_EQ(stats.worker_deaths > 0, killed_ > 0);
        EXPECT_LE(stats.worker_deaths, killed_);
        // A worker that is still to say that it has let go of a cancelled one holds its input.
        s_.run_until([&] { return s_.stats().arena_used == 0; });
    }

    std::mt19937 random_;
    bool kills_;
    Scheduler s_;
    std::map<uint64_t, Asked> asked_;
    uint64_t refused_ = 0, killed_ = 0;
};

} // namespace

class Storms : public ApiTest
{
};

TEST_P(Storms, AreWeathered)
{
    for (uint32_t seed = 1; seed <= 3; seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Storm(GetParam(), seed).run(2000);
    }
}

API_TESTS_FOR_BOTH(Storms);
