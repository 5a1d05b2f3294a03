/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions of steps: who joins, whose turn it is, and how they share a device. */
#include <set>

#include "harness.h"

using Ids = std::vector<uint64_t>;

TEST(Session, GoesOnUntilNobodyIsLeft)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t a = h.submit(), b = h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_TRUE(step.all[0].joins);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.step, 2u);
    EXPECT_EQ(step.n_items, 2u);
    EXPECT_FALSE(step.all[0].joins);
    EXPECT_FALSE(step.ends);
    h.item(step, a);
    EXPECT_EQ(h.status(a), LIBSCHED_OK);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), Ids{b});
    h.finish(step);
    Action end = h.take(CORE_STEP);
    EXPECT_TRUE(end.ends);
    EXPECT_EQ(end.n_items, 0u);
    EXPECT_EQ(end.batch, step.batch);
    EXPECT_EQ(h.counts().batches, 3u);
    EXPECT_EQ(h.counts().batched_requests, 5u);
}

TEST(Session, ThoseWhoWaitJoinAtTheNextStep)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.start({0});
    uint64_t a = h.submit();
    Action step = h.take(CORE_DISPATCH);
    uint64_t b = h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.step_done(step);
    Action next = h.take(CORE_STEP);
    EXPECT_EQ(next.batch, step.batch);
    EXPECT_EQ(next.ids(), (Ids{a, b}));
    EXPECT_FALSE(next.all[0].joins);
    EXPECT_TRUE(next.all[1].joins);
}

TEST(Session, JoinsStayWithinTheLimits)
{
    Harness h;
    h.device(0);
    core_model m = Harness::steps();
    m.max_batch_requests = 3;
    h.add(0, m);
    Ids ids;
    for (int i = 0; i < 5; i++)
        ids.push_back(h.submit({0, 10}));
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_EQ(step.ids(), Ids(ids.begin(), ids.begin() + 3));
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.n_items, 3u);
    h.item(step, ids[1]);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), (Ids{ids[0], ids[2], ids[3]}));
}

TEST(Session, UnitsBoundAStepToo)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps()); /* 100 units */
    uint64_t a = h.submit({0, 60});
    h.submit({0, 60});
    uint64_t c = h.submit({0, 10});
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_EQ(step.ids(), Ids{a}) << "nobody passes the one before";
    h.finish(step);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    step = h.take(CORE_DISPATCH);
    EXPECT_EQ(step.all[1].id, c);
}

TEST(Session, MembersTakeTurnsWhereTheLimitHasShrunk)
{
    Harness h;
    h.device(0);
    core_model m = Harness::steps();
    h.add(0, m);
    Ids ids;
    for (int i = 0; i < 5; i++)
        ids.push_back(h.submit());
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    m.max_batch_requests = 2;
    ASSERT_EQ(core_update_model(h.c, h.now, 0, &m), LIBSCHED_OK);
    std::map<uint64_t, int> ran;
    for (int i = 0; i < 10; i++) {
        h.step_done(step);
        step = h.take(CORE_STEP);
        ASSERT_EQ(step.n_items, 2u);
        for (uint64_t id : step.ids())
            ran[id]++;
    }
    for (uint64_t id : ids)
        EXPECT_EQ(ran[id], 4);
}

TEST(Session, TwoModelsAlternateOnADevice)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.add(1, Harness::steps());
    h.start({0});
    uint64_t a = h.submit({0});
    Action first = h.take(CORE_DISPATCH);
    uint64_t b = h.submit({1});
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.step_done(first);
    Action second = h.take(CORE_STEP);
    EXPECT_EQ(second.model, 0u) << "a session that has begun goes on before another begins";
    h.step_done(second);
    Action third = h.take(CORE_DISPATCH);
    EXPECT_EQ(third.ids(), Ids{b});
    std::vector<uint32_t> order;
    Action step = third;
    for (int i = 0; i < 6; i++) {
        h.step_done(step);
        step = h.take(CORE_STEP);
        order.push_back(step.model);
    }
    EXPECT_EQ(order, (std::vector<uint32_t>{0, 1, 0, 1, 0, 1}));
    EXPECT_EQ(h.status(a), 1);
}

TEST(Session, AOneShotModelIsServedBetweenTheStepsOfAnother)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    core_model m = Harness::one_shot();
    m.max_batch_requests = 1;
    h.add(1, m);
    h.start({0});
    h.submit({0});
    Action step = h.take(CORE_DISPATCH);
    for (int i = 0; i < 3; i++)
        h.submit({1});
    h.step_done(step);
    std::vector<uint32_t> order;
    for (int i = 0; i < 6; i++) {
        if (h.has(CORE_STEP)) {
            step = h.take(CORE_STEP);
            order.push_back(step.model);
            h.step_done(step);
        } else {
            Action batch = h.take(CORE_DISPATCH);
            order.push_back(batch.model);
            h.finish(batch);
        }
    }
    EXPECT_EQ(order, (std::vector<uint32_t>{0, 1, 0, 1, 0, 1}));
}

TEST(Session, AFailedStepEndsIt)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t a = h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.step_done(step, LIBSCHED_EENGINE);
    EXPECT_EQ(h.status(a), LIBSCHED_EENGINE);
    EXPECT_FALSE(h.has(CORE_STEP)) << "the worker has dropped it already";
    uint64_t b = h.submit();
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{b});
}

TEST(Session, OneThatAWorkerGivesUpFails)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t a = h.submit({0, 1, 0, true, 1});
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, a);
    h.step_done(step);
    h.batch_done(step, LIBSCHED_ENOMEM); /* between steps */
    EXPECT_EQ(h.status(a), LIBSCHED_ENOMEM);
}

TEST(Session, WhatDidNotFitInAStepBeginsAgainInSmallerOnes)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    for (int i = 0; i < 4; i++)
        h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_EQ(step.n_items, 4u);
    h.step_done(step, LIBSCHED_ENODEVMEM);
    step = h.take(CORE_DISPATCH);
    EXPECT_EQ(step.n_items, 2u);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.n_items, 2u) << "nobody joins beyond what fits";
    h.finish(step);
}

TEST(Session, MemoryOfItemsBoundsIt)
{
    Harness h;
    h.device(0, 100);
    core_model m = Harness::steps();
    m.memory_bytes = 40;
    m.memory_per_unit = 2;
    h.add(0, m);
    h.up(0);
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_OK, 40);
    uint64_t a = h.submit({0, 20});
    Action step = h.take(CORE_DISPATCH);
    uint64_t b = h.submit({0, 20});
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), Ids{a}) << "there is room for 10 units";
    h.item(step, a);
    h.step_done(step);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{b});
    EXPECT_EQ(h.refused({0, 31}), LIBSCHED_ETOOBIG) << "could never run";
}
