// SPDX-License-Identifier: Apache-2.0
// Ranks of jobs in workers: started, stepped, cancelled in the middle of things, and killed.
#include "worker/rank_harness.h"

#include <csignal>

#include <gmock/gmock.h>

using namespace worker_test;
using testing::HasSubstr;

namespace
{

class Rank : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Rank);

/* ------------------------------------------------------------------------------ a whole life */

TEST_P(Rank, RunsItsStepsAndIsClosed)
{
    Job job(thread(), "odd", {integer("steps", 5)});
    job.start();
    EXPECT_EQ(job.run(), 5u);
    EXPECT_EQ(worker_rank_step(job[0].raw, job.key, 6), LIBSCHED_EINVAL) << "it has finished";
    job.close();
    EXPECT_EQ(worker_rank_close(job[0].raw, job.key, false), LIBSCHED_ENOENT);
    /* The worker is as good as new. */
    job.start();
    EXPECT_EQ(job.run(), 5u);
    job.close();
}

TEST_P(Rank, MeetsTheOthersInEachStep)
{
    Job job(thread(), "odd", {text("do", "barrier"), integer("steps", 50)}, 3);
    job.start();
    EXPECT_EQ(job.run(), 50u);
    job.close();
}

TEST_P(Rank, RunsBesideAModel)
{
    Job job(thread(), "odd", {text("do", "barrier"), integer("steps", 3)}, 2);
    job[0].load();
    job.start();
    for (uint64_t step = 1; step <= 3; step++) {
        ASSERT_EQ(job[0].run(step, 1, {{step, "x", {flag("echo", true)}}}), 0);
        job.send_step(step);
        EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, 0);
        for (auto &w : job.workers)
            EXPECT_EQ(w->wait(WORKER_RANK_STEPPED).raw.finished, step == 3);
    }
    job.close();
}

TEST_P(Rank, OfBuiltInProgramsGivesResults)
{
    Job gemm(thread(), "gemm",
             {integer("m", 64), integer("n", 32), integer("k", 16), integer("steps", 1)}, 2);
    gemm.start();
    gemm.run();
    gemm.close();
    EXPECT_GT(atof(results(gemm[0])["flops_per_s"].c_str()), 0);
    EXPECT_TRUE(of_type(gemm[1], WORKER_RESULT).empty()) << "those of rank 0 are the job's";

    Job sums(thread(), "allreduce",
             {integer("min_bytes", 1024), integer("max_bytes", 5000), integer("iterations", 3)}, 2);
    sums.start();
    sums.run();
    sums.close();
    auto got = results(sums[0]);
    EXPECT_EQ(got.count("busbw_1024"), 1u);
    EXPECT_EQ(got.count("busbw_4096"), 1u);
    EXPECT_EQ(got.size(), 7u);
}

/* ------------------------------------------------------------------- progress and results */

TEST_P(Rank, TellsTheLatestProgressFiftyTimesASecond)
{
    Job job(thread(), "odd", {text("do", "progress"), integer("steps", 1)});
    job.start();
    uint64_t begin = now_ns();
    job.run();
    uint64_t most = 2 + (now_ns() - begin) / 20000000;
    job.close();
    std::vector<Event> told = of_type(job[0], WORKER_PROGRESS);
    EXPECT_LE(told.size(), most);
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.back().raw.done, 100000u);
    EXPECT_EQ(told.back().raw.total, 100000u);
    EXPECT_EQ(told.back().message, "counting");
}

/* What was held back is told while nothing else happens. */
TEST_P(Rank, TellsProgressAlsoBetweenSteps)
{
    Job job(thread(), "odd", {text("do", "slow_progress"), integer("steps", 100)});
    job.start();
    job.send_step(1);
    job[0].wait(WORKER_RANK_STEPPED);
    job.send_step(2);
    job[0].wait(WORKER_RANK_STEPPED);
    auto told = of_type(job[0], WORKER_PROGRESS);
    Event last = told.size() == 2 ? told[1] : job[0].wait(WORKER_PROGRESS);
    EXPECT_EQ(last.raw.done, 2u);
    EXPECT_EQ(last.raw.total, 0u);
    job.close();
}

TEST_P(Rank, CannotSayThatMoreIsDoneThanThereIs)
{
    Job job(thread(), "odd", {text("do", "lie"), integer("steps", 1)});
    job.start();
    job.run();
    job.close();
    ASSERT_EQ(of_type(job[0], WORKER_PROGRESS).size(), 1u);
    EXPECT_EQ(of_type(job[0], WORKER_PROGRESS)[0].raw.done, 10u);
}

TEST_P(Rank, HasResultsOfALimitedSize)
{
    Job job(thread(), "odd", {text("do", "results"), integer("steps", 1)});
    job.start();
    job.run();
    job.close();
    auto got = results(job[0]);
    EXPECT_EQ(got["number"], "42");
    EXPECT_EQ(got["large"], "small now");
    EXPECT_EQ(got["larger"].size(), 39999u);
    EXPECT_EQ(got["codes"], "0 0 -104 0 0 -101 -101 -101");
}

/* ---------------------------------------------------------------------------------- failing */

TEST_P(Rank, ThatCannotStartLeavesNothingBehind)
{
    Job job(thread(), "odd", {text("do", "fail_start")});
    ASSERT_EQ(job.send_start(0), 0);
    EXPECT_EQ(job.send_start(0), LIBSCHED_EEXIST);
    Event started = job[0].wait(WORKER_RANK_STARTED);
    EXPECT_EQ(started.raw.status, LIBSCHED_EENGINE);
    EXPECT_EQ(started.message, "it failed to start");
    EXPECT_EQ(worker_rank_close(job[0].raw, job.key, false), LIBSCHED_ENOENT);
    /* One that is closed before its failure is heard of is answered all the same. */
    ASSERT_EQ(job.send_start(0), 0);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, false), 0);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STARTED).raw.status, LIBSCHED_EENGINE);
    EXPECT_EQ(job[0].wait(WORKER_RANK_CLOSED).raw.job, job.key);
}

TEST_P(Rank, ThatFailsIsToldWithItsWords)
{
    const std::vector<std::tuple<const char *, uint64_t, int, const char *>> failures = {
        {"fail_step", 2, LIBSCHED_EENGINE, "it failed in step 2"},
        {"no_status", 1, LIBSCHED_EENGINE, "the program answered 7, which is no status"},
        {"no_words", 1, LIBSCHED_EENGINE, "the program failed without a message"},
    };
    for (auto &[what, at, status, message] : failures) {
        Job job(thread(), "odd", {text("do", what)});
        job.start();
        Event stepped;
        for (uint64_t step = 1; step <= at; step++) {
            job.send_step(step);
            stepped = job[0].wait(WORKER_RANK_STEPPED);
        }
        EXPECT_EQ(stepped.raw.status, status);
        EXPECT_EQ(stepped.message, message);
        EXPECT_EQ(worker_rank_step(job[0].raw, job.key, 9), LIBSCHED_EINVAL);
        job.close();
    }
}

/* The others do not wait for one that has failed. */
TEST_P(Rank, ThatFailsFreesTheOthers)
{
    Job job(thread(), "odd", {text("do", "fail_step"), integer("rank", 1)}, 3);
    job.start();
    job.send_step(1);
    /* Rank 1 does not come to the meeting of step 1, but fails in step 2. */
    ASSERT_EQ(job[1].wait(WORKER_RANK_STEPPED).raw.status, 0);
    ASSERT_EQ(worker_rank_step(job[1].raw, job.key, 2), 0);
    EXPECT_EQ(job[1].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_EENGINE);
    for (uint32_t r : {0, 2})
        EXPECT_EQ(job[r].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_ECANCELED);
    job.close();
}

TEST_P(Rank, UsesTheCommunicatorOfTheJobBeforeAgain)
{
    Job job(thread(), "allreduce",
            {integer("min_bytes", 64), integer("max_bytes", 4096), integer("iterations", 2)}, 2);
    for (int i = 0; i < 3; i++) {
        job.kept = i > 0;
        job.start();
        ASSERT_GT(job.run(), 0u) << "job " << i;
        job.close();
    }
    /* Ranks find each other in memory once only: those before did not do so again. */
    job.kept = false;
    for (uint32_t r = 0; r < 2; r++)
        ASSERT_EQ(job.send_start(r), 0);
    for (uint32_t r = 0; r < 2; r++) {
        Event started = job[r].wait(WORKER_RANK_STARTED);
        EXPECT_LT(started.raw.status, 0);
        EXPECT_THAT(started.message, HasSubstr("already"));
    }
}

TEST_P(Rank, TellsWhatMemoryIsFreeWhenACommunicatorGoes)
{
    Job job(thread(), "allreduce", {integer("max_bytes", 4096)}, 2);
    job.start();
    ASSERT_GT(job.run(), 0u);
    job.close();
    for (auto &w : job.workers) {
        w->wait(WORKER_MEMORY); /* with the end of the rank */
        w->passed.clear();
        worker_drop_segment(w->raw, job.shared);
        EXPECT_EQ(w->load().raw.status, 0);
        EXPECT_EQ(of_type(*w, WORKER_MEMORY).size(), 1u);
    }
}

TEST_P(Rank, KeepsNoCommunicatorOfAJobThatDidNotEndWell)
{
    for (const char *how : {"cancelled", "unfinished", "failed", "dropped"}) {
        SCOPED_TRACE(how);
        const std::string end = how;
        Job job(thread(), end == "failed" ? "odd" : "allreduce",
                end == "failed" ? std::vector<libsched_parameter>{text("do", "fail_step")}
                                : std::vector<libsched_parameter>{integer("max_bytes", 4096)},
                2);
        job.start();
        if (end == "dropped") {
            ASSERT_GT(job.run(), 0u);
        } else if (end != "unfinished") {
            for (uint64_t step = 1; step <= (end == "failed" ? 2u : 1u); step++) {
                job.send_step(step);
                for (auto &w : job.workers)
                    EXPECT_EQ(w->wait(WORKER_RANK_STEPPED).raw.status < 0, step == 2);
            }
        }
        job.close(end == "cancelled");
        if (end == "dropped")
            for (auto &w : job.workers)
                worker_drop_segment(w->raw, job.shared);
        job.key++;
        job.kept = true;
        job.program = "odd";
        job.parameters = {text("do", "barrier")};
        EXPECT_EQ(job.ask(), std::vector<bool>(2, false));
        libsched_error err = {};
        EXPECT_EQ(worker_rank_go(job[0].raw, job.key, true, nullptr, &err), LIBSCHED_EINVAL)
            << "it has none";
        job.go(false, job.renew());
        job.await_start();
        EXPECT_EQ(job.run(), 3u);
        job.close();
    }
}

/* One rank has it no longer, the others have: all get a new one before the job begins. */
TEST_P(Rank, GoesOnWithANewCommunicatorWhereOneIsMissing)
{
    Job job(thread(), "odd", {text("do", "barrier")}, 3);
    job.start();
    ASSERT_EQ(job.run(), 3u);
    job.close();
    worker_drop_segment(job[1].raw, job.shared);
    job.kept = true;
    for (int i = 0; i < 2; i++) {
        job.key++;
        EXPECT_EQ(job.ask(), (std::vector<bool>{true, i > 0, true}));
        if (i == 0)
            job.go(false, job.renew());
        else
            job.go(true);
        job.await_start();
        EXPECT_EQ(job.run(), 3u);
        job.close();
    }
}

TEST_P(Rank, ThatWaitsToGoCanBeClosed)
{
    Job job(thread(), "odd", {text("do", "barrier")}, 2);
    job.start();
    ASSERT_EQ(job.run(), 3u);
    job.close();
    job.kept = true;
    job.key++;
    EXPECT_EQ(job.ask(), std::vector<bool>(2, true));
    for (auto &w : job.workers)
        ASSERT_EQ(worker_rank_close(w->raw, job.key, true), 0);
    for (auto &w : job.workers) {
        EXPECT_EQ(w->wait(WORKER_RANK_STARTED).raw.status, LIBSCHED_ECANCELED);
        w->wait(WORKER_RANK_CLOSED);
    }
    libsched_error err = {};
    EXPECT_EQ(worker_rank_go(job[0].raw, job.key, true, nullptr, &err), LIBSCHED_ENOENT);
    /* What it had is gone with it. */
    job.key++;
    EXPECT_EQ(job.ask(), std::vector<bool>(2, false));
    job.go(false, job.renew());
    job.await_start();
    EXPECT_EQ(job.run(), 3u);
    job.close();
}

/* What is kept for jobs is given up for a batch, or a model, that finds no memory. */
TEST_P(Rank, LetsItsCommunicatorGoForABatchWithoutMemory)
{
    for (const char *what : {"batch", "model"}) {
        SCOPED_TRACE(what);
        const bool batch = std::string(what) == "batch";
        Job job(thread(), "odd", {text("do", "barrier")}, 2);
        if (batch) {
            EXPECT_EQ(job[0].load({}, 1, "odd").raw.status, 0);
        }
        job.start();
        ASSERT_EQ(job.run(), 3u);
        job.close();
        if (batch) {
            ASSERT_EQ(job[0].run(1, 1,
                                 {{1, "x", {text("do", "no_memory_once")}},
                                  {2, "x", {text("do", "count")}}}),
                      0);
            job[0].wait(WORKER_FORGOT);
            EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, 0);
            /* Each has ended once, with one output, and the engine has been told of the others. */
            auto ends = of_type(job[0], WORKER_ITEM);
            ASSERT_EQ(ends.size(), 2u);
            for (const Event &end : ends) {
                EXPECT_EQ(end.raw.status, 0) << end.message;
                ASSERT_EQ(end.outputs.size(), 1u);
            }
            EXPECT_EQ(ends[1].find("value")->u64(), 2u) << "both left, and none is in it twice";
            /* Now there is nothing that could go. */
            ASSERT_EQ(job[0].run(2, 1, {{3, "x", {text("do", "no_memory")}}}), 0);
            EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, LIBSCHED_ENODEVMEM);
        } else {
            /* It is no use, and tried once more all the same. */
            worker_model model = {};
            libsched_parameter mode = text("mode", "refuse_without_words");
            model.key = 1;
            model.name = "test";
            model.engine = "odd";
            model.parameters = &mode;
            model.n_parameters = 1;
            ASSERT_EQ(worker_load(job[0].raw, &model, nullptr), 0);
            job[0].wait(WORKER_FORGOT);
            EXPECT_EQ(job[0].wait(WORKER_LOADED).raw.status, LIBSCHED_ENODEVMEM);
        }
        job.key++;
        job.kept = true;
        EXPECT_EQ(job.ask(), (std::vector<bool>{false, true}));
        job.go(false, job.renew());
        job.await_start();
        EXPECT_EQ(job.run(), 3u);
        job.close();
    }
}

/* Also where it finds none only when it should be over. */
TEST_P(Rank, LetsItsCommunicatorGoForABatchWithoutMemoryAtItsEnd)
{
    Job job(thread(), "odd", {text("do", "barrier")}, 2);
    EXPECT_EQ(job[0].load({}, 1, "pair").raw.status, 0);
    job.start();
    ASSERT_EQ(job.run(), 3u);
    job.close();
    /* Beside another that is under way it is not run again here: the host does that. */
    ASSERT_EQ(job[0].run(1, 1, {{1, "x", {integer("short", 2)}}}), 0);
    ASSERT_EQ(job[0].run(2, 1, {{2, "x", {}}}), 0);
    EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, LIBSCHED_ENODEVMEM);
    EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, 0);
    EXPECT_TRUE(of_type(job[0], WORKER_FORGOT).empty());

    const size_t before = of_type(job[0], WORKER_ITEM).size();
    ASSERT_EQ(job[0].run(3, 1, {{3, "x", {integer("short", 1)}}, {4, "x", {}}}), 0);
    EXPECT_EQ(job[0].wait(WORKER_STEP).raw.status, 0);
    EXPECT_EQ(of_type(job[0], WORKER_FORGOT).size(), 1u);
    EXPECT_EQ(of_type(job[0], WORKER_ITEM).size(), before + 2) << "each has ended once";
}

TEST_P(Rank, OfAProgramThatIsNotThereSaysSo)
{
    const std::vector<std::pair<const char *, const char *>> reasons = {
        {"nothing",
         "no program \"nothing\": gemm, allreduce, train and embed are built in, and there is "
         "no libsched-program-nothing.so in "},
        {"old", "version 2"},
        {"incomplete", "without step()"},
        {"../odd", "can't be a program's name"},
    };
    for (auto &[name, reason] : reasons) {
        Job job(thread(), name, {});
        ASSERT_EQ(job.send_start(0), 0);
        Event started = job[0].wait(WORKER_RANK_STARTED);
        EXPECT_LT(started.raw.status, 0);
        EXPECT_THAT(started.message, HasSubstr(reason));
    }
}

TEST_P(Rank, NeedsADevice)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.plugin_path = PLUGIN_FOLDER; });
    w.up();
    worker_rank rank = {};
    rank.name = rank.program = "odd";
    rank.n_ranks = 1;
    ASSERT_EQ(worker_rank_start(w.raw, &rank, nullptr), 0);
    EXPECT_EQ(w.wait(WORKER_RANK_STARTED).raw.status, LIBSCHED_ENODEVICE);
}

TEST_P(Rank, IsRefusedWhereItCannotBe)
{
    Job job(thread(), "odd", {}, 2);
    libsched_error err;
    worker_rank rank = job.rank(0);
    rank.rank = 2;
    EXPECT_EQ(worker_rank_start(job[0].raw, &rank, &err), LIBSCHED_EINVAL);
    rank = job.rank(0);
    rank.shared = nullptr;
    EXPECT_EQ(worker_rank_start(job[0].raw, &rank, &err), LIBSCHED_EINVAL);
    rank.shared = job[0].inputs.raw;
    EXPECT_EQ(worker_rank_start(job[0].raw, &rank, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("2 ranks need a shared segment of 12582912 bytes"));
    rank = job.rank(0);
    rank.name = nullptr;
    EXPECT_EQ(worker_rank_start(job[0].raw, &rank, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(worker_rank_step(job[0].raw, 9, 1), LIBSCHED_ENOENT);
    EXPECT_EQ(worker_rank_close(job[0].raw, 9, true), LIBSCHED_ENOENT);
    unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE] = {};
    EXPECT_EQ(worker_rank_id(job[0].raw, 9, id), LIBSCHED_ENOENT);
}

/* -------------------------------------------------------------------------------- cancelling */

TEST_P(Rank, HearsInAStepThatItIsCancelled)
{
    Job job(thread(), "odd", {text("do", "until_cancelled")});
    job.start();
    job.send_step(1);
    job[0].wait(WORKER_LOG);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    Event stepped = job[0].wait(WORKER_RANK_STEPPED);
    EXPECT_EQ(stepped.raw.status, LIBSCHED_ECANCELED);
    EXPECT_EQ(stepped.message, "it saw that it was cancelled");
    job[0].wait(WORKER_RANK_CLOSED);
}

/* A close that was sent first, because it was hoped that the step would end, is no hindrance. */
TEST_P(Rank, HearsItAlsoAfterAClose)
{
    Job job(thread(), "odd", {text("do", "until_cancelled")});
    job.start();
    job.send_step(1);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, false), 0);
    job[0].wait(WORKER_LOG);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_ECANCELED);
    job[0].wait(WORKER_RANK_CLOSED);
    EXPECT_EQ(worker_rank_close(job[0].raw, job.key, true), LIBSCHED_ENOENT);
}

TEST_P(Rank, HearsWhileItStartsThatItIsCancelled)
{
    Job job(thread(), "odd", {text("do", "hang_start")});
    ASSERT_EQ(job.send_start(0), 0);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STARTED).raw.status, LIBSCHED_ECANCELED);
    job[0].wait(WORKER_RANK_CLOSED);
}

TEST_P(Rank, ThatWaitsForTheFirstMeetingIsFreed)
{
    Job job(thread(), "odd", {text("do", "barrier")}, 2);
    /* The other one is never started. */
    ASSERT_EQ(job.send_start(0), 0);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STARTED).raw.status, LIBSCHED_ECANCELED);
    job[0].wait(WORKER_RANK_CLOSED);
}

TEST_P(Rank, ThatWaitsInACollectiveIsFreed)
{
    Job job(thread(), "odd", {text("do", "skip"), integer("rank", 1), integer("steps", 9)}, 3);
    job.start();
    job.send_step(1);
    EXPECT_EQ(job[1].wait(WORKER_RANK_STEPPED).raw.status, 0);
    uint64_t begin = now_ns();
    /* Cancelled on one of them, it ends on all. */
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_ECANCELED);
    EXPECT_EQ(job[2].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_ECANCELED);
    EXPECT_LT(now_ns() - begin, job.timeout_ns / 2);
    job[0].wait(WORKER_RANK_CLOSED);
    for (uint32_t r : {1, 2}) {
        ASSERT_EQ(worker_rank_close(job[r].raw, job.key, false), 0);
        job[r].wait(WORKER_RANK_CLOSED);
    }
}

/* ------------------------------------------------------------------------------------ ending */

TEST_P(Rank, DoesNotKeepItsWorkerFromEnding)
{
    /* One that waits for another, one in a step, one between steps. */
    Job waiting(thread(), "odd", {text("do", "barrier")}, 2);
    ASSERT_EQ(waiting.send_start(0), 0);
    Job busy(thread(), "odd", {text("do", "until_cancelled")});
    busy.start();
    busy.send_step(1);
    busy[0].wait(WORKER_LOG);
    Job idle(thread(), "odd", {});
    idle.start();
    for (Job *job : {&waiting, &busy, &idle}) {
        worker_stop((*job)[0].raw);
        for (;;) {
            Event event = (*job)[0].next();
            ASSERT_NE(event.raw.type, 0) << "its end was not noticed";
            if (event.raw.type == WORKER_DOWN)
                break;
        }
        EXPECT_EQ(worker_rank_close((*job)[0].raw, 9, true), LIBSCHED_EDEVICELOST);
    }
}

TEST(RankProcess, ThatIsKilledInACollectiveIsSeenAndTheOthersAreFreed)
{
    Job job(false, "odd", {text("do", "die"), integer("rank", 1), integer("steps", 9)}, 3);
    job.start();
    job.send_step(1);
    EXPECT_EQ(worker_rank_step(job[0].raw, job.key, 2), LIBSCHED_EINVAL) << "one at a time";
    EXPECT_EQ(job[1].wait(WORKER_RANK_STEPPED).raw.status, 0);
    ASSERT_EQ(worker_rank_step(job[1].raw, job.key, 2), 0);
    for (;;) {
        Event event = job[1].next();
        ASSERT_NE(event.raw.type, 0);
        if (event.raw.type != WORKER_DOWN)
            continue;
        EXPECT_EQ(event.message, "killed by signal 9 (Killed)");
        break;
    }
    /* The host, which saw it, tells the others. */
    uint64_t begin = now_ns();
    for (uint32_t r : {0, 2})
        ASSERT_EQ(worker_rank_close(job[r].raw, job.key, true), 0);
    for (uint32_t r : {0, 2}) {
        Event stepped = job[r].wait(WORKER_RANK_STEPPED);
        EXPECT_EQ(stepped.raw.status, LIBSCHED_ECANCELED) << stepped.message;
        job[r].wait(WORKER_RANK_CLOSED);
    }
    EXPECT_LT(now_ns() - begin, job.timeout_ns / 2);
    /* They are fit for work. */
    EXPECT_EQ(job[0].load().raw.status, 0);
}

TEST(RankProcess, ThatWaitsForADeadOneFindsOutByItself)
{
    Job job(false, "odd", {text("do", "barrier"), integer("steps", 9)}, 2);
    job.timeout_ns = 300000000;
    job.start();
    kill(worker_pid(job[1].raw), SIGKILL);
    ASSERT_EQ(worker_rank_step(job[0].raw, job.key, 1), 0);
    Event stepped = job[0].wait(WORKER_RANK_STEPPED);
    EXPECT_EQ(stepped.raw.status, LIBSCHED_EDEADLINE);
    EXPECT_THAT(stepped.message, HasSubstr("rank 1 did not come within 300 ms"));
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, false), 0);
    job[0].wait(WORKER_RANK_CLOSED);
}

TEST(RankProcess, ThatHangsIsEndedByForce)
{
    Job job(false, "odd", {text("do", "hang")});
    job.start();
    job.send_step(1);
    ASSERT_EQ(worker_rank_close(job[0].raw, job.key, true), 0);
    worker_kill(job[0].raw);
    for (;;) {
        Event event = job[0].next();
        ASSERT_NE(event.raw.type, 0);
        if (event.raw.type == WORKER_DOWN)
            break;
    }
}

TEST(RankProcess, ThatLostItsDeviceEndsItsWorker)
{
    Job job(false, "odd", {text("do", "device_lost")});
    job.start();
    job.send_step(1);
    EXPECT_EQ(job[0].wait(WORKER_RANK_STEPPED).raw.status, LIBSCHED_EDEVICELOST);
    Event down = job[0].next();
    EXPECT_EQ(down.raw.type, WORKER_DOWN);
    EXPECT_THAT(down.message, HasSubstr("it lost its device"));
}

/* ---------------------------------------------------------------------------------- checking */

TEST_P(Rank, IsCheckedBeforeAnythingIsStarted)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.plugin_path = PLUGIN_FOLDER; });
    w.up();
    auto check = [&](uint64_t key, const char *program, std::vector<libsched_parameter> parameters,
                     uint32_t n_ranks) {
        worker_rank rank = {};
        rank.job = key;
        rank.name = "checked";
        rank.program = program;
        rank.parameters = parameters.data();
        rank.n_parameters = uint32_t(parameters.size());
        rank.n_ranks = n_ranks;
        return worker_rank_check(w.raw, &rank, nullptr);
    };
    ASSERT_EQ(check(1, "odd", {}, 2), 0);
    ASSERT_EQ(check(2, "odd", {text("do", "refuse")}, 1), 0);
    ASSERT_EQ(check(3, "odd", {text("do", "endless_text")}, 1), 0);
    ASSERT_EQ(check(4, "gemm", {integer("q", 1)}, 1), 0);
    EXPECT_EQ(check(4, "gemm", {}, 1), LIBSCHED_EEXIST) << "it is under way";
    ASSERT_EQ(check(5, "odd", {text("do", "no_status")}, 1), 0);
    Event fine = w.wait(WORKER_RANK_CHECKED);
    EXPECT_EQ(fine.raw.job, 1u);
    EXPECT_EQ(fine.raw.status, 0);
    EXPECT_EQ(fine.raw.memory_bytes, 2000u);
    EXPECT_EQ(fine.message, "odd job \"checked\" of 2");
    Event refused = w.wait(WORKER_RANK_CHECKED);
    EXPECT_EQ(refused.raw.status, LIBSCHED_EINVAL);
    EXPECT_EQ(refused.message, "the odd program does not feel like it");
    EXPECT_EQ(w.wait(WORKER_RANK_CHECKED).message.size(), size_t(LIBSCHED_MESSAGE_SIZE - 1));
    EXPECT_EQ(w.wait(WORKER_RANK_CHECKED).message,
              "gemm: unknown parameter \"q\"; it has m, n, k, datatype, seconds and steps");
    EXPECT_EQ(w.wait(WORKER_RANK_CHECKED).raw.status, LIBSCHED_EENGINE);
}

} // namespace
