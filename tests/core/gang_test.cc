/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: the life of a gang, beside batches, and of a reservation. */
#include "harness.h"

using Devices = std::vector<uint32_t>;

namespace
{
constexpr uint64_t second = 1000000000;

/* `n` devices that are up, and model 0 on all of them. */
struct Machine : Harness {
    explicit Machine(uint32_t n, uint64_t memory = 0, uint32_t depth = 1)
    {
        for (uint32_t i = 0; i < n; i++)
            device(i, memory, depth);
        core_model model = one_shot((1u << n) - 1);
        model.max_batch_requests = 1;
        add(0, model);
        for (uint32_t i = 0; i < n; i++)
            start({i});
    }

    uint64_t running(const Job &wanted)
    {
        uint64_t id = job(wanted);
        started(take(CORE_JOB_START));
        return id;
    }
};
} // namespace

TEST(Gang, RunsItsStepsOnAllDevicesAndEnds)
{
    Machine m(3);
    uint64_t id = m.job({.k = 2, .devices = 7});
    Action start = m.take(CORE_JOB_START);
    EXPECT_EQ(start.job, id);
    EXPECT_EQ(start.on, (Devices{0, 1}));
    EXPECT_EQ(m.info(id).state, CORE_JOB_STARTING);
    m.rank(CORE_RANK_STARTED, 0, id);
    EXPECT_FALSE(m.has(CORE_JOB_STEP)) << "before all have started";
    m.rank(CORE_RANK_STARTED, 1, id);
    for (uint32_t i = 1; i <= 3; i++) {
        Action step = m.take(CORE_JOB_STEP);
        EXPECT_EQ(step.step, i);
        EXPECT_EQ(step.on, (Devices{0, 1}));
        EXPECT_EQ(m.info(id).state, CORE_JOB_RUNNING);
        m.now += 10;
        m.stepped(step, i == 3);
    }
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.status, LIBSCHED_OK);
    EXPECT_EQ(m.info(id).state, CORE_JOB_CLOSING);
    EXPECT_EQ(m.info(id).device_ns, 60u);
    m.closed(close);
    EXPECT_EQ(m.job_status(id), LIBSCHED_OK);
    core_job_info info;
    EXPECT_EQ(core_job_get(m.c, id, &info), LIBSCHED_ENOENT);
    EXPECT_EQ(m.cancel_job(id), LIBSCHED_ENOENT);
}

TEST(Gang, NonsenseIsRefused)
{
    Machine m(2, 100);
    m.preparer(5);
    EXPECT_EQ(m.job_refused({.k = 0}), LIBSCHED_EINVAL);
    EXPECT_EQ(m.job_refused({.k = 1, .devices = 0}), LIBSCHED_EINVAL);
    EXPECT_EQ(m.job_refused({.k = 1, .devices = 1u << 5}), LIBSCHED_EINVAL) << "it only prepares";
    EXPECT_EQ(m.job_refused({.k = 1, .devices = 1u << 9}), LIBSCHED_EINVAL);
    EXPECT_EQ(m.job_refused({.k = 3, .devices = 3}), LIBSCHED_ENODEVICE);
    EXPECT_EQ(m.job_refused({.k = UINT32_MAX, .devices = 3}), LIBSCHED_ENODEVICE);
    EXPECT_EQ(m.job_refused({.k = 2, .devices = 3, .memory = 101}), LIBSCHED_ENODEVMEM);
    EXPECT_EQ(m.job_refused({.priority = CORE_PRIORITIES}), LIBSCHED_EINVAL);
    core_event event = {};
    event.type = CORE_JOB_SUBMIT;
    event.u.job.flags = 2;
    event.u.job.n_devices = 1;
    event.u.job.devices = 1;
    EXPECT_EQ(m.handle(event), LIBSCHED_EINVAL);
    EXPECT_EQ(m.cancel_job(77), LIBSCHED_ENOENT);
    EXPECT_EQ(m.release(0), LIBSCHED_ENOENT);
    uint64_t id = m.job({.memory = 100, .time_limit = UINT64_MAX, .step_limit = UINT64_MAX});
    EXPECT_EQ(m.release(id), LIBSCHED_EINVAL) << "it is no reservation";
    m.drain();
    EXPECT_EQ(m.job_refused({}), LIBSCHED_ECLOSING);
    m.started(m.take(CORE_JOB_START));
    EXPECT_TRUE(m.has(CORE_JOB_STEP)) << "those that are there go on";
}

TEST(Gang, AsManyAsMayBe)
{
    core_config config = {};
    config.max_requests = 4;
    config.max_jobs = 2;
    Harness h(config);
    h.device(0);
    uint64_t first = h.job({});
    h.job({});
    uint64_t retry_after = 0;
    EXPECT_EQ(h.job_refused({}, &retry_after), LIBSCHED_EBUSY);
    EXPECT_GT(retry_after, 0u);
    EXPECT_EQ(h.cancel_job(first), LIBSCHED_OK);
    EXPECT_EQ(h.job_status(first), LIBSCHED_ECANCELED);
    EXPECT_NE(h.job({}), first);
    config.max_jobs = CORE_MAX_JOBS + 1;
    EXPECT_EQ(core_new(&config), nullptr);
    config.max_jobs = 0;
    config.job_share = 1025;
    EXPECT_EQ(core_new(&config), nullptr);
}

/* --------------------------------------------------------------------------- what ranks say */

TEST(Gang, ARankThatFailsEndsTheJob)
{
    Machine m(2);
    uint64_t id = m.running({.k = 2, .devices = 3});
    Action step = m.take(CORE_JOB_STEP);
    m.rank(CORE_RANK_STEPPED, 1, id, 1, false, LIBSCHED_EINVAL);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.status, LIBSCHED_EINVAL);
    EXPECT_EQ(close.on, (Devices{0, 1})) << "also the one that is in its step";
    m.rank(CORE_RANK_STEPPED, 0, id, 1, false, LIBSCHED_EDEADLINE);
    m.rank(CORE_RANK_CLOSED, 0, id);
    EXPECT_EQ(m.job_status(id), 1);
    m.rank(CORE_RANK_CLOSED, 0, id);
    EXPECT_EQ(m.job_status(id), 1) << "it was another's turn to say so";
    m.rank(CORE_RANK_CLOSED, 1, id);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EINVAL);
}

TEST(Gang, OneThatDoesNotStartIsNotClosed)
{
    Machine m(2);
    uint64_t id = m.job({.k = 2, .devices = 3});
    m.take(CORE_JOB_START);
    m.rank(CORE_RANK_STARTED, 0, id, 0, false, LIBSCHED_ENODEVMEM);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.on, Devices{1});
    m.rank(CORE_RANK_STARTED, 1, id, 0, false, LIBSCHED_EINVAL);
    EXPECT_EQ(m.job_status(id), LIBSCHED_ENODEVMEM) << "nothing is left of the other either";
}

TEST(Gang, AllMustFinishAtTheSameStep)
{
    Machine m(2);
    uint64_t id = m.running({.k = 2, .devices = 3});
    m.rank(CORE_RANK_STEPPED, 0, id, 1, true);
    m.rank(CORE_RANK_STEPPED, 1, id, 1, false);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.status, LIBSCHED_EENGINE);
    m.closed(close);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EENGINE);
}

TEST(Gang, WhatNobodyAskedForFailsIt)
{
    for (int lie = 0; lie < 3; lie++) {
        Machine m(2);
        uint64_t id = m.running({.k = 2, .devices = 3});
        m.take(CORE_JOB_STEP);
        if (lie == 0)
            m.rank(CORE_RANK_STEPPED, 0, id, 2);
        else if (lie == 1)
            m.rank(CORE_RANK_CLOSED, 0, id);
        else
            m.rank(CORE_RANK_STEPPED, 1, id, UINT32_MAX, true);
        Action close = m.take(CORE_JOB_CLOSE);
        EXPECT_EQ(close.status, LIBSCHED_EENGINE);
        EXPECT_EQ(close.on, (Devices{0, 1}));
        m.closed(close);
        EXPECT_EQ(m.job_status(id), LIBSCHED_EENGINE);
    }
}

TEST(Gang, WhatIsStaleIsIgnored)
{
    Machine m(3);
    uint64_t id = m.running({.k = 2, .devices = 3});
    m.rank(CORE_RANK_STARTED, 0, id, 0, false, LIBSCHED_EINVAL);
    m.rank(CORE_RANK_STEPPED, 0, id, 0);
    m.rank(CORE_RANK_STEPPED, 2, id, 1);
    m.rank(CORE_RANK_STEPPED, 0, id + (1 << 16), 1);
    m.rank(CORE_RANK_STEPPED, 0, 0, 1);
    m.rank(CORE_RANK_STEPPED, 0, UINT64_MAX, 1);
    m.stepped(m.take(CORE_JOB_STEP));
    m.rank(CORE_RANK_STEPPED, 0, id, 1, true);
    EXPECT_FALSE(m.has(CORE_JOB_CLOSE));
    EXPECT_EQ(m.take(CORE_JOB_STEP).step, 2u);
    core_event event = {};
    event.type = CORE_RANK_STEPPED;
    event.device = 0;
    event.epoch = m.epoch(0) + 1;
    event.u.rank.id = id;
    event.u.rank.step = 2;
    event.u.rank.status = LIBSCHED_EINVAL;
    EXPECT_EQ(m.handle(event), LIBSCHED_OK);
    EXPECT_FALSE(m.has(CORE_JOB_CLOSE));
    event.device = 60;
    EXPECT_EQ(m.handle(event), LIBSCHED_ENODEVICE);
}

/* ------------------------------------------------------------------------------------- deaths */

TEST(Gang, AWorkersDeathClosesTheOtherRanks)
{
    Machine m(3);
    uint64_t id = m.running({.k = 3, .devices = 7});
    m.take(CORE_JOB_STEP);
    m.down(1);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.status, LIBSCHED_EDEVICELOST);
    EXPECT_EQ(close.on, (Devices{0, 2}));
    m.rank(CORE_RANK_CLOSED, 0, id);
    m.down(2);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EDEVICELOST);
}

TEST(Gang, ADeathInAStepIsNobodysStrike)
{
    Machine m(1);
    m.running({});
    Action step = m.take(CORE_JOB_STEP);
    uint64_t request = m.submit();
    EXPECT_FALSE(m.has(CORE_DISPATCH)) << "not in a step";
    m.down(0);
    m.start({0});
    for (int i = 0; i < 1; i++) {
        m.take(CORE_DISPATCH);
        m.down(0);
        m.start({0});
    }
    m.finish(m.take(CORE_DISPATCH));
    EXPECT_EQ(m.status(request), LIBSCHED_OK) << "it has one strike";
}

TEST(Gang, ALoadIsNotBlamedForADeathInAStep)
{
    Machine m(1);
    for (int i = 0; i < 4; i++) {
        m.running({});
        m.take(CORE_JOB_STEP);
        if (i == 0)
            m.add(1, Harness::one_shot());
        m.down(0);
        m.up(0);
        if (i < 3) { /* what may have killed it is loaded alone */
            while (m.has(CORE_LOAD)) {
                Action load = m.take(CORE_LOAD);
                if (load.model == 0)
                    m.loaded(0, 0);
            }
            EXPECT_EQ(core_model_failed(m.c, 1), 0u);
            m.loaded(0, 1);
            m.remove(1);
            m.evicted(0, 1);
            m.add(1, Harness::one_shot());
            m.down(0);
            m.up(0);
            while (m.has(CORE_LOAD)) {
                Action load = m.take(CORE_LOAD);
                m.loaded(0, load.model);
            }
        }
    }
}

TEST(Gang, ADeviceThatIsLostIsEnded)
{
    Machine m(2);
    uint64_t id = m.running({.k = 2, .devices = 3});
    m.take(CORE_JOB_STEP);
    m.rank(CORE_RANK_STEPPED, 0, id, 1, false, LIBSCHED_EDEVICELOST);
    EXPECT_EQ(m.take(CORE_KILL).device, 0u);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.on, Devices{1});
    m.closed(close);
    EXPECT_EQ(m.job_status(id), 1);
    m.down(0);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EDEVICELOST);
}

TEST(Gang, ADeathBeforeItHasBegunCostsNothing)
{
    Machine m(3);
    m.submit();
    m.submit();
    Action a = m.take(CORE_DISPATCH), b = m.take(CORE_DISPATCH);
    uint64_t id = m.job({.k = 3, .devices = 7});
    EXPECT_EQ(m.info(id).why, CORE_WHY_DRAINING);
    EXPECT_EQ(m.info(id).have, 1u);
    m.down(2);
    EXPECT_EQ(m.info(id).why, CORE_WHY_DOWN);
    EXPECT_EQ(m.info(id).have, 2u);
    m.start({2});
    EXPECT_EQ(m.info(id).why, CORE_WHY_DRAINING);
    m.finish(a);
    m.finish(b);
    EXPECT_TRUE(m.has(CORE_JOB_START));
}

/* ------------------------------------------------------------------------------------- limits */

TEST(Gang, AStepThatNeverEndsHasItsWorkerEnded)
{
    Machine m(2);
    uint64_t id = m.running({.k = 2, .devices = 3, .step_limit = second});
    uint64_t begun = m.now;
    m.rank(CORE_RANK_STEPPED, 0, id, 1);
    EXPECT_EQ(m.timer, begun + second);
    m.tick(begun + second - 1);
    EXPECT_FALSE(m.has(CORE_KILL));
    m.tick(begun + second);
    EXPECT_EQ(m.take(CORE_KILL).device, 1u);
    EXPECT_FALSE(m.has(CORE_KILL));
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.on, Devices{0});
    m.closed(close);
    m.down(1);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EDEVICELOST);
}

TEST(Gang, AStartAndACloseHaveTheSameLimit)
{
    Machine m(1);
    uint64_t id = m.job({.step_limit = second});
    m.take(CORE_JOB_START);
    m.tick(m.now + second);
    EXPECT_EQ(m.take(CORE_KILL).device, 0u);
    EXPECT_FALSE(m.has(CORE_JOB_CLOSE)) << "nobody is left to be told";
    m.down(0);
    EXPECT_EQ(m.job_status(id), LIBSCHED_EDEVICELOST);
    m.start({0});
    id = m.running({.step_limit = second});
    m.cancel_job(id);
    EXPECT_EQ(m.take(CORE_JOB_CLOSE).status, LIBSCHED_ECANCELED);
    m.tick(m.now + second);
    EXPECT_EQ(m.take(CORE_KILL).device, 0u);
    m.down(0);
    EXPECT_EQ(m.job_status(id), LIBSCHED_ECANCELED);
}

TEST(Gang, EndsAtItsTimeLimit)
{
    Machine m(1);
    uint64_t begun = m.now;
    uint64_t id = m.running({.time_limit = 5 * second, .step_limit = 3 * second});
    for (int i = 0; i < 4; i++) {
        m.now += second;
        m.stepped(m.take(CORE_JOB_STEP));
    }
    Action step = m.take(CORE_JOB_STEP);
    m.tick(begun + 5 * second);
    Action close = m.take(CORE_JOB_CLOSE);
    EXPECT_EQ(close.status, LIBSCHED_ETIMELIMIT);
    m.stepped(step, true); /* too late */
    m.tick(begun + 8 * second - 1);
    EXPECT_FALSE(m.has(CORE_KILL));
    m.closed(close);
    EXPECT_EQ(m.job_status(id), LIBSCHED_ETIMELIMIT);
}

TEST(Gang, IsCancelledWhereverItIs)
{
    for (int at = 0; at < 5; at++) {
        Machine m(1);
        Action batch;
        if (at == 1) {
            m.submit();
            batch = m.take(CORE_DISPATCH);
        }
        uint64_t other = at == 0 ? m.running({}) : 0;
        uint64_t id = m.job({});
        if (at == 3 || at == 4)
            m.started(m.take(CORE_JOB_START));
        if (at == 4)
            m.stepped(m.take(CORE_JOB_STEP), true); /* it closes anyway */
        EXPECT_EQ(m.cancel_job(id), LIBSCHED_OK);
        if (at >= 2) {
            EXPECT_EQ(m.job_status(id), 1);
            m.closed(m.take(CORE_JOB_CLOSE));
        }
        EXPECT_EQ(m.job_status(id), at == 4 ? LIBSCHED_OK : LIBSCHED_ECANCELED) << at;
        (void)other;
    }
}

/* ----------------------------------------------------------------------- beside inference */

TEST(Gang, WaitsForBatchesAndKeepsOthersAwayMeanwhile)
{
    Machine m(2);
    m.submit();
    Action first = m.take(CORE_DISPATCH);
    m.submit();
    Action second_batch = m.take(CORE_DISPATCH);
    m.submit();
    uint64_t id = m.job({.k = 2, .devices = 3});
    EXPECT_FALSE(m.has(CORE_JOB_START));
    m.finish(first);
    EXPECT_FALSE(m.has(CORE_DISPATCH)) << "it is not known how long it would take";
    EXPECT_FALSE(m.has(CORE_JOB_START));
    m.finish(second_batch);
    EXPECT_EQ(m.take(CORE_JOB_START).job, id);
    EXPECT_FALSE(m.has(CORE_DISPATCH));
}

TEST(Gang, ABatchThatEndsBeforeItCouldStartGoesFirst)
{
    Machine m(2);
    core_model other = Harness::one_shot(1);
    other.max_batch_requests = 1;
    m.add(1, other);
    m.loaded(0, 1);
    /* The first model's batches take 1 s, the other's 100 ms. */
    for (uint32_t model = 0; model < 2; model++) {
        for (int i = 0; i < 8; i++) {
            m.submit({.model = model});
            Action batch = m.take(CORE_DISPATCH);
            uint64_t ns = model == 0 ? second : second / 10;
            m.now += ns;
            m.item(batch, batch.all[0].id);
            m.step_done(batch, LIBSCHED_OK, ns);
        }
    }
    m.submit();
    Action a = m.take(CORE_DISPATCH);
    m.submit();
    Action b = m.take(CORE_DISPATCH);
    ASSERT_NE(a.device, b.device);
    const Action &on_0 = a.device == 0 ? a : b, &on_1 = a.device == 0 ? b : a;
    uint64_t id = m.job({.k = 2, .devices = 3});
    m.now += second / 10;
    m.finish(on_0);
    m.submit({.model = 0});
    EXPECT_FALSE(m.has(CORE_DISPATCH)) << "too long";
    m.submit({.model = 1});
    Action shorter = m.take(CORE_DISPATCH);
    EXPECT_EQ(shorter.model, 1u);
    EXPECT_GT(m.info(id).starts_by, m.now);
    m.now += second / 10;
    m.finish(shorter);
    m.finish(on_1);
    EXPECT_EQ(m.take(CORE_JOB_START).job, id);
}

TEST(Gang, LetsInferenceGoFirstBetweenStepsWhereItIsBehind)
{
    Machine m(2);
    m.running({.k = 2, .devices = 3});
    Action step = m.take(CORE_JOB_STEP);
    for (int i = 0; i < 6; i++)
        m.submit();
    uint64_t jobs = 0, inference = 0;
    for (int i = 0; i < 6; i++) {
        m.now += 100;
        jobs += 100;
        m.stepped(step);
        while (!m.has(CORE_JOB_STEP)) {
            ASSERT_TRUE(m.has(CORE_DISPATCH)) << "nobody does anything";
            std::vector<Action> batches;
            while (m.has(CORE_DISPATCH))
                batches.push_back(m.take(CORE_DISPATCH));
            m.now += 50;
            inference += 50;
            for (const Action &batch : batches)
                m.finish(batch);
            EXPECT_LE(inference, jobs + 50) << "one batch beyond its share";
        }
        step = m.take(CORE_JOB_STEP);
    }
    EXPECT_EQ(m.counts().completed, 6u);
    EXPECT_FALSE(m.has(CORE_DISPATCH));
}

TEST(Gang, SharesAreConfigured)
{
    core_config config = {};
    config.max_requests = 64;
    config.job_share = 256;
    Harness h(config);
    h.device(0);
    core_model model = Harness::one_shot();
    model.max_batch_requests = 1;
    h.add(0, model);
    h.start({0});
    h.job({});
    h.started(h.take(CORE_JOB_START));
    for (int i = 0; i < 40; i++)
        h.submit();
    uint64_t jobs = 0, inference = 0;
    for (int i = 0; i < 30; i++) {
        h.now += 10;
        if (h.has(CORE_JOB_STEP)) {
            h.stepped(h.take(CORE_JOB_STEP));
            jobs += 10;
        } else {
            h.finish(h.take(CORE_DISPATCH));
            inference += 10;
        }
    }
    EXPECT_NEAR(static_cast<double>(inference), 3.0 * static_cast<double>(jobs), 40);
}

TEST(Gang, NeitherSideSavesUp)
{
    Machine m(1);
    m.running({});
    /* Nothing else to do for a long time. */
    for (int i = 0; i < 10; i++) {
        m.now += 1000;
        m.stepped(m.take(CORE_JOB_STEP));
    }
    for (int i = 0; i < 20; i++)
        m.submit();
    m.now += 1000;
    m.stepped(m.take(CORE_JOB_STEP));
    uint64_t inference = 0;
    for (int turn = 0; turn < 3; turn++) {
        inference = 0;
        while (m.has(CORE_DISPATCH)) {
            m.now += 300;
            inference += 300;
            m.finish(m.take(CORE_DISPATCH));
        }
        EXPECT_LE(inference, 1300u) << "one step, and one batch beyond it";
        EXPECT_GE(inference, 700u);
        m.now += 1000;
        m.stepped(m.take(CORE_JOB_STEP));
    }
}

TEST(Gang, NothingBeginsInAStepWhateverTheDepth)
{
    Machine m(1, 0, 4);
    m.running({});
    Action step = m.take(CORE_JOB_STEP);
    m.submit();
    EXPECT_FALSE(m.has(CORE_DISPATCH));
    m.now += 10;
    m.stepped(step);
    EXPECT_TRUE(m.has(CORE_DISPATCH));
    EXPECT_FALSE(m.has(CORE_JOB_STEP));
}

TEST(Gang, ASuspectRequestIsAlone)
{
    Machine m(1);
    uint64_t request = m.submit();
    m.take(CORE_DISPATCH);
    m.down(0);
    m.start({0});
    Action lone = m.take(CORE_DISPATCH);
    uint64_t id = m.job({});
    EXPECT_FALSE(m.has(CORE_JOB_START));
    m.finish(lone);
    EXPECT_EQ(m.status(request), LIBSCHED_OK);
    EXPECT_EQ(m.take(CORE_JOB_START).job, id);
}

/* ------------------------------------------------------------------------------------- memory */

TEST(Gang, IdleModelsAreEvictedForARank)
{
    Harness h;
    h.device(0, 100);
    core_model model = Harness::one_shot();
    model.memory_bytes = 40;
    h.add(0, model);
    h.add(1, model);
    h.up(0);
    h.loaded(0, 0, LIBSCHED_OK, 40);
    h.loaded(0, 1, LIBSCHED_OK, 40);
    h.submit({.model = 0});
    h.finish(h.take(CORE_DISPATCH));
    uint64_t id = h.job({.memory = 55});
    Action evict = h.take(CORE_EVICT);
    EXPECT_EQ(evict.model, 1u) << "the longest unused";
    EXPECT_FALSE(h.has(CORE_EVICT)) << "not more than has to be";
    EXPECT_FALSE(h.has(CORE_JOB_START));
    h.evicted(0, 1);
    EXPECT_EQ(h.take(CORE_JOB_START).job, id);
}

TEST(Gang, WhatFindsNoRoomBesideARankWaitsForItsEnd)
{
    Harness h;
    h.device(0, 100);
    core_model model = Harness::one_shot();
    model.memory_bytes = 40;
    h.add(0, model);
    h.up(0);
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_OK, 40);
    h.job({.memory = 70});
    uint64_t request = h.submit(); /* too late: room is being made for the rank */
    h.evicted(0, h.take(CORE_EVICT).model);
    h.started(h.take(CORE_JOB_START));
    for (int i = 0; i < 3; i++) {
        EXPECT_FALSE(h.has(CORE_LOAD));
        h.now += 5;
        h.stepped(h.take(CORE_JOB_STEP), i == 2);
    }
    h.closed(h.take(CORE_JOB_CLOSE));
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_OK, 40);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(request), LIBSCHED_OK);
}

TEST(Gang, ASessionThatHoldsItsMemoryIsLetEnd)
{
    Harness h;
    h.device(0, 100);
    core_model model = Harness::steps();
    model.memory_per_unit = 10;
    h.add(0, model);
    h.start({0});
    uint64_t first = h.submit({.units = 5});
    Action step = h.take(CORE_DISPATCH);
    uint64_t id = h.job({.memory = 80});
    uint64_t later = h.submit({.units = 5});
    for (int i = 0; i < 3; i++) {
        h.step_done(step);
        EXPECT_FALSE(h.has(CORE_JOB_START));
        step = h.take(CORE_STEP);
        EXPECT_EQ(step.ids(), std::vector<uint64_t>{first}) << "nobody joins";
    }
    EXPECT_EQ(h.info(id).why, CORE_WHY_DRAINING);
    EXPECT_EQ(h.info(id).have, 0u);
    h.finish(step);
    EXPECT_EQ(h.take(CORE_JOB_START).job, id);
    EXPECT_EQ(h.status(later), 1);
}

TEST(Gang, WaitsForMemoryThatSomebodyElseHas)
{
    Machine m(1, 100);
    m.measured(0, 30);
    uint64_t id = m.job({.memory = 50});
    EXPECT_EQ(m.info(id).why, CORE_WHY_MEMORY);
    EXPECT_EQ(m.info(id).have, 0u);
    uint64_t smaller = m.job({.memory = 20});
    m.started(m.take(CORE_JOB_START));
    m.stepped(m.take(CORE_JOB_STEP), true);
    m.closed(m.take(CORE_JOB_CLOSE));
    EXPECT_EQ(m.job_status(smaller), LIBSCHED_OK) << "it does not wait behind the other";
    m.measured(0, 100);
    EXPECT_EQ(m.take(CORE_JOB_START).job, id);
}

/* -------------------------------------------------------------------------------- reservations */

TEST(Gang, AReservationDrainsVacatesHoldsAndGivesBack)
{
    Machine m(2);
    m.submit();
    Action batch = m.take(CORE_DISPATCH);
    uint64_t id = m.job({.k = 2, .devices = 3, .reserve = true});
    EXPECT_EQ(m.info(id).why, CORE_WHY_DRAINING);
    EXPECT_EQ(m.info(id).have, 1u);
    uint64_t waiting = m.submit();
    EXPECT_FALSE(m.has(CORE_VACATE));
    m.finish(batch);
    EXPECT_EQ(m.take(CORE_VACATE).device, 0u);
    EXPECT_EQ(m.take(CORE_VACATE).device, 1u);
    EXPECT_FALSE(m.has(CORE_EVICT)) << "that ends with the worker";
    m.down(1);
    EXPECT_FALSE(m.has(CORE_JOB_START));
    m.down(0);
    Action start = m.take(CORE_JOB_START);
    EXPECT_EQ(start.on, (Devices{0, 1}));
    EXPECT_EQ(m.info(id).state, CORE_JOB_RUNNING);
    core_event up = {};
    up.type = CORE_WORKER_UP;
    up.device = 0;
    up.epoch = 1000;
    EXPECT_EQ(m.handle(up), LIBSCHED_EBUSY) << "it is not the scheduler's";
    m.now += 30;
    EXPECT_EQ(m.cancel_job(0), LIBSCHED_ENOENT);
    EXPECT_EQ(m.info(id).device_ns, 60u);
    EXPECT_EQ(m.release(id), LIBSCHED_OK);
    EXPECT_EQ(m.take(CORE_OCCUPY).device, 0u);
    EXPECT_EQ(m.take(CORE_OCCUPY).device, 1u);
    EXPECT_EQ(m.job_status(id), LIBSCHED_OK);
    EXPECT_EQ(m.release(id), LIBSCHED_ENOENT);
    EXPECT_EQ(m.status(waiting), 1);
    m.start({0, 1});
    m.finish(m.take(CORE_DISPATCH));
    EXPECT_EQ(m.status(waiting), LIBSCHED_OK);
}

TEST(Gang, AReservationEndsAtItsTimeLimit)
{
    Machine m(1);
    uint64_t id = m.job({.time_limit = second, .reserve = true});
    m.take(CORE_VACATE);
    m.tick(m.now + 5 * second);
    m.down(0);
    m.take(CORE_JOB_START);
    EXPECT_EQ(m.timer, m.now + second) << "from when it had its devices";
    m.tick(m.now + second);
    EXPECT_EQ(m.take(CORE_OCCUPY).device, 0u);
    EXPECT_EQ(m.job_status(id), LIBSCHED_ETIMELIMIT);
}

TEST(Gang, AReservationThatIsCancelledWaitsForWorkersThatEnd)
{
    Machine m(2);
    uint64_t id = m.job({.k = 2, .devices = 3, .step_limit = second, .reserve = true});
    m.take(CORE_VACATE);
    m.take(CORE_VACATE);
    m.down(0);
    EXPECT_EQ(m.cancel_job(id), LIBSCHED_OK);
    EXPECT_EQ(m.take(CORE_OCCUPY).device, 0u);
    EXPECT_FALSE(m.has(CORE_OCCUPY));
    EXPECT_EQ(m.job_status(id), 1);
    m.tick(m.now + second);
    EXPECT_EQ(m.take(CORE_KILL).device, 1u) << "it takes too long";
    m.down(1);
    EXPECT_EQ(m.take(CORE_OCCUPY).device, 1u);
    EXPECT_EQ(m.job_status(id), LIBSCHED_ECANCELED);
}

TEST(Gang, AReservationDoesNotWaitForEverForASession)
{
    Harness h;
    h.device(0);
    h.device(1);
    h.add(0, Harness::steps(3));
    h.start({0});
    uint64_t request = h.submit({.parts = true, .credit = 1});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, request);
    h.step_done(step); /* and its owner lets no more come */
    uint64_t id = h.job({.devices = 1, .step_limit = second, .reserve = true});
    EXPECT_FALSE(h.has(CORE_VACATE));
    EXPECT_EQ(h.info(id).starts_by, h.now + 2 * second);
    h.tick(h.now + second);
    EXPECT_EQ(h.take(CORE_VACATE).device, 0u);
    h.down(0);
    EXPECT_EQ(h.take(CORE_JOB_START).job, id);
    EXPECT_EQ(h.status(request), LIBSCHED_EDEVICELOST) << "a part of it has gone out";
}

TEST(Gang, WhatRanWhenAWorkerWasVacatedIsNotSuspected)
{
    Machine m(2);
    uint64_t request = m.submit();
    Action batch = m.take(CORE_DISPATCH);
    m.job({.devices = core_model_devices(m.c, 0) & (1u << batch.device),
           .step_limit = second,
           .reserve = true});
    m.tick(m.now + second);
    m.take(CORE_VACATE);
    m.down(batch.device);
    Action again = m.take(CORE_DISPATCH);
    EXPECT_EQ(again.ids(), std::vector<uint64_t>{request});
    m.submit();
    m.finish(again);
    EXPECT_EQ(m.status(request), LIBSCHED_OK);
}

TEST(Gang, TheClaimOfAnIdleDeviceLapsesWhileAnotherIsBehind)
{
    Machine m(2);
    m.running({.k = 2, .devices = 3});
    Action step = m.take(CORE_JOB_STEP);
    m.submit();
    m.now += 100;
    m.stepped(step);
    Action first = m.take(CORE_DISPATCH);
    m.submit();
    Action second = m.take(CORE_DISPATCH);
    m.now += 100;
    m.finish(first);
    m.submit();
    EXPECT_FALSE(m.has(CORE_DISPATCH)) << "it is the job's turn";
    m.finish(second);
    EXPECT_TRUE(m.has(CORE_JOB_STEP));
}
