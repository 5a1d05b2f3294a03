/* SPDX-License-Identifier: Apache-2.0 */
/* The prepare step before the queue. */
#include "harness.h"

namespace
{
class Prepare : public testing::Test
{
  protected:
    Harness h;
    void SetUp() override
    {
        h.device(0);
        h.preparer(1);
        h.preparer(2);
        core_model m = Harness::one_shot();
        m.flags = CORE_MODEL_PREPARES;
        ASSERT_EQ(h.add(0, m), LIBSCHED_OK);
        h.start({0, 1, 2});
    }
};
} // namespace

TEST_F(Prepare, GoesBeforeTheQueue)
{
    uint64_t id = h.submit({0, 900});
    Action prepare = h.take(CORE_DISPATCH);
    EXPECT_EQ(prepare.device, 1u);
    EXPECT_EQ(prepare.model, 0u);
    EXPECT_EQ(h.counts().queued, 1u);
    EXPECT_EQ(h.counts().batches, 0u) << "not a compute step";
    h.prepared(prepare, id, 7);
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.device, 0u);
    EXPECT_EQ(batch.all[0].units, 7u);
    h.batch_done(prepare);
    h.finish(batch);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    EXPECT_EQ(h.replies.at(id).attempts, 1u);
}

TEST_F(Prepare, BatchesAreBounded)
{
    for (int i = 0; i < 12; i++)
        h.submit();
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 1u);
    Action second = h.take(CORE_DISPATCH);
    EXPECT_EQ(second.device, 2u);
    for (const auto &i : second.all)
        h.prepared(second, i.id);
    h.batch_done(second);
    h.take(CORE_DISPATCH); /* compute */
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 4u);
}

TEST_F(Prepare, ABoundAboveTheLimitIsNotRefused)
{
    uint64_t id = h.submit({0, 5000});
    Action prepare = h.take(CORE_DISPATCH);
    EXPECT_EQ(prepare.all[0].units, 1000u);
    h.prepared(prepare, id, 1000);
    h.batch_done(prepare);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST_F(Prepare, WhatTurnsOutTooLargeIsRefused)
{
    uint64_t id = h.submit({0, 5000});
    h.prepared(h.take(CORE_DISPATCH), id, 1001);
    EXPECT_EQ(h.status(id), LIBSCHED_ETOOBIG);
}

TEST_F(Prepare, AFailureIsTheItemsOwn)
{
    uint64_t first = h.submit();
    Action prepare = h.take(CORE_DISPATCH);
    h.prepared(prepare, first, 0, LIBSCHED_EINVAL);
    EXPECT_EQ(h.status(first), LIBSCHED_EINVAL);
    h.batch_done(prepare);
    h.submit();
    EXPECT_TRUE(h.has(CORE_DISPATCH));
}

TEST_F(Prepare, AFailedBatchFailsItsItems)
{
    uint64_t id = h.submit();
    h.batch_done(h.take(CORE_DISPATCH), LIBSCHED_EENGINE);
    EXPECT_EQ(h.status(id), LIBSCHED_EENGINE);
}

TEST_F(Prepare, AnItemThatWasForgottenFails)
{
    uint64_t id = h.submit();
    h.batch_done(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_EENGINE);
}

TEST_F(Prepare, TheOrderOfSubmissionIsKept)
{
    uint64_t first = h.submit(), second = h.submit();
    Action a = h.take(CORE_DISPATCH), b = h.take(CORE_DISPATCH);
    uint64_t third = h.submit();
    h.prepared(b, second);
    Action batch = h.take(CORE_DISPATCH);
    h.batch_done(b);
    Action c = h.take(CORE_DISPATCH);
    h.prepared(c, third);
    h.prepared(a, first);
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), (std::vector<uint64_t>{first, third}));
}

TEST_F(Prepare, ADeadWorkersItemsArePreparedAgainAlone)
{
    h.submit();
    h.submit();
    Action other = h.take(CORE_DISPATCH), third = h.take(CORE_DISPATCH);
    uint64_t a = h.submit(), b = h.submit();
    h.prepared(third, third.all[0].id);
    h.batch_done(third);
    h.finish(h.take(CORE_DISPATCH));
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), (std::vector<uint64_t>{a, b}));
    h.down(2);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.start({2});
    batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), std::vector<uint64_t>{a});
    h.down(2);
    EXPECT_EQ(h.status(a), 1);
    h.start({2});
    batch = h.take(CORE_DISPATCH);
    h.down(2);
    EXPECT_EQ(h.status(a), LIBSCHED_EPOISON);
    EXPECT_EQ(h.status(b), 1);
    h.start({2});
    batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), std::vector<uint64_t>{b});
    h.prepared(batch, b);
    h.batch_done(batch);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(b), LIBSCHED_OK);
}

TEST_F(Prepare, AModelMayTurnOutToPrepare)
{
    h.add(1, Harness::one_shot());
    uint64_t id = h.submit({1});
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.loaded(0, 1);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    h.take(CORE_LOAD);
    h.submit({1});
    Action running = h.take(CORE_DISPATCH);
    uint64_t waiting = h.submit({1});
    core_model m = Harness::one_shot();
    m.flags = CORE_MODEL_PREPARES;
    EXPECT_EQ(core_update_model(h.c, h.now, 1, &m), LIBSCHED_OK);
    h.finish(running);
    h.loaded(1, 1);
    Action prepare = h.take(CORE_DISPATCH);
    EXPECT_EQ(prepare.device, 1u);
    h.prepared(prepare, waiting);
    h.batch_done(prepare);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(waiting), LIBSCHED_OK);
}
