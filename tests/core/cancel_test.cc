/* SPDX-License-Identifier: Apache-2.0 */
/* Cancelling, anywhere in a request's life. */
#include "harness.h"

TEST(Cancel, OneThatWaitsIsAnsweredAtOnce)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t first = h.submit(), second = h.submit();
    EXPECT_EQ(h.cancel(first), LIBSCHED_OK);
    EXPECT_EQ(h.status(first), LIBSCHED_ECANCELED);
    EXPECT_EQ(h.cancel(first), LIBSCHED_ENOENT);
    h.start({0});
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), std::vector<uint64_t>{second});
    EXPECT_EQ(h.counts().cancelled, 1u);
}

TEST(Cancel, OneThatRunsIsAnsweredWhenTheWorkerHasLetGo)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(h.cancel(id), LIBSCHED_OK);
    EXPECT_EQ(h.cancel(id), LIBSCHED_OK) << "it is still in flight";
    Action abort = h.take(CORE_ABORT);
    EXPECT_EQ(abort.id, id);
    EXPECT_EQ(abort.batch, batch.batch);
    EXPECT_EQ(abort.epoch, h.epoch(0));
    EXPECT_FALSE(h.has(CORE_ABORT));
    EXPECT_EQ(h.status(id), 1);
    h.item(batch, id);
    EXPECT_EQ(h.status(id), LIBSCHED_ECANCELED);
    h.step_done(batch);
}

TEST(Cancel, OneThatRunsAndIsNotEndedByTheEngine)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.cancel(id);
    h.step_done(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_ECANCELED);
}

TEST(Cancel, OneInASessionLeavesWithTheNextStep)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t gone = h.submit(), stays = h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.cancel(gone);
    h.take(CORE_ABORT);
    EXPECT_FALSE(h.part(step, gone)) << "its parts are nobody's";
    h.step_done(step);
    step = h.take(CORE_STEP);
    ASSERT_EQ(step.n_items, 2u);
    for (const auto &item : step.all)
        EXPECT_EQ(item.leaves, item.id == gone);
    EXPECT_FALSE(step.ends);
    EXPECT_EQ(h.status(gone), LIBSCHED_ECANCELED);
    h.finish(step);
    EXPECT_EQ(h.status(stays), LIBSCHED_OK);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
}

TEST(Cancel, OneThatWaitsForCreditLeavesAtOnce)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t first = h.submit({0, 1, 0, true, 1}), second = h.submit({0, 1, 0, true, 1});
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, first);
    h.part(step, second);
    h.step_done(step);
    EXPECT_FALSE(h.has(CORE_STEP));
    h.cancel(first);
    Action leave = h.take(CORE_STEP);
    EXPECT_EQ(leave.ids(), std::vector<uint64_t>{first});
    EXPECT_TRUE(leave.all[0].leaves);
    EXPECT_FALSE(leave.ends);
    EXPECT_EQ(h.status(first), LIBSCHED_ECANCELED);
    h.step_done(leave); /* not waited for, and harmless */
    h.grant(second, 5);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), std::vector<uint64_t>{second});
    h.finish(step);
    EXPECT_EQ(h.status(second), LIBSCHED_OK);
}

TEST(Cancel, AllOfASessionEndIt)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t first = h.submit(), second = h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.cancel(first);
    h.cancel(second);
    h.step_done(step);
    Action end = h.take(CORE_STEP);
    EXPECT_TRUE(end.ends);
    EXPECT_EQ(end.n_items, 2u);
    EXPECT_EQ(h.counts().cancelled, 2u);
    h.submit();
    EXPECT_NE(h.take(CORE_DISPATCH).batch, step.batch);
}

TEST(Cancel, OneThatIsBeingPrepared)
{
    Harness h;
    h.device(0);
    h.preparer(1);
    core_model m = Harness::one_shot();
    m.flags = CORE_MODEL_PREPARES;
    h.add(0, m);
    h.start({0, 1});
    uint64_t id = h.submit();
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.device, 1u);
    uint64_t waiting = h.submit();
    h.cancel(waiting);
    EXPECT_EQ(h.status(waiting), LIBSCHED_ECANCELED);
    h.cancel(id);
    EXPECT_EQ(h.take(CORE_ABORT).device, 1u);
    h.prepared(batch, id);
    h.batch_done(batch);
    EXPECT_EQ(h.status(id), LIBSCHED_ECANCELED);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
}

TEST(Cancel, OneWhoseWorkerDies)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.cancel(id);
    h.down(0);
    EXPECT_EQ(h.status(id), LIBSCHED_ECANCELED);
}
