/* SPDX-License-Identifier: Apache-2.0 */
/* Taking a model away, at every moment. */
#include "harness.h"

TEST(Removal, ThoseWhoWaitAreAnsweredAndThoseWhoRunFinish)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t running = h.submit(), waiting = h.submit();
    Action batch = h.take(CORE_DISPATCH);
    h.remove(0);
    EXPECT_EQ(h.status(waiting), LIBSCHED_ENOMODEL);
    EXPECT_EQ(h.refused({0}), LIBSCHED_ENOMODEL);
    EXPECT_FALSE(h.has(CORE_EVICT));
    EXPECT_EQ(core_remove_model(h.c, h.now, 0, 0), LIBSCHED_ENOMODEL);
    h.finish(batch);
    EXPECT_EQ(h.status(running), LIBSCHED_OK);
    EXPECT_FALSE(core_model_gone(h.c, 0));
    h.take(CORE_EVICT);
    h.evicted(0, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
    EXPECT_EQ(h.add(0, Harness::one_shot()), LIBSCHED_OK);
    EXPECT_EQ(h.counts(0).submitted, 0u);
    EXPECT_EQ(h.counts().submitted, 2u);
}

TEST(Removal, TheReasonIsTheCallers)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t id = h.submit();
    h.up(0);
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_EBADMODEL);
    EXPECT_EQ(h.status(id), 1);
    h.remove(0, LIBSCHED_EBADMODEL);
    EXPECT_EQ(h.status(id), LIBSCHED_EBADMODEL);
    EXPECT_TRUE(core_model_gone(h.c, 0));
}

TEST(Removal, OfOneThatIsLoadedNowhereIsImmediate)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.remove(0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
    EXPECT_TRUE(core_model_gone(h.c, 77));
    EXPECT_TRUE(core_model_gone(h.c, CORE_MAX_MODELS));
}

TEST(Removal, DuringALoadEvictsAfterIt)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.up(0);
    h.take(CORE_LOAD);
    h.remove(0);
    EXPECT_FALSE(core_model_gone(h.c, 0));
    h.loaded(0, 0);
    h.take(CORE_EVICT);
    h.evicted(0, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
}

TEST(Removal, DuringALoadThatFails)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.up(0);
    h.remove(0);
    h.loaded(0, 0, LIBSCHED_EENGINE);
    EXPECT_TRUE(core_model_gone(h.c, 0));
    EXPECT_FALSE(h.has(CORE_EVICT));
}

TEST(Removal, OfASessionLetsItEndButNobodyJoin)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.start({0});
    uint64_t goes_on = h.submit({0, 1, 0, true, 100}), stalls = 0;
    Action step = h.take(CORE_DISPATCH);
    stalls = h.submit({0, 1, 0, true, 1});
    h.step_done(step);
    step = h.take(CORE_STEP);
    h.part(step, stalls);
    h.remove(0);
    h.step_done(step);
    EXPECT_EQ(h.status(stalls), LIBSCHED_ENOMODEL) << "it would wait for credit";
    step = h.take(CORE_STEP);
    h.item(step, goes_on);
    h.step_done(step);
    EXPECT_EQ(h.status(goes_on), LIBSCHED_OK);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    h.take(CORE_EVICT);
    h.evicted(0, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
}

TEST(Removal, DoesNotWaitForHeldParts)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit({0, 1, 0, true, 0});
    Action batch = h.take(CORE_DISPATCH);
    h.part(batch, id);
    h.finish(batch);
    h.remove(0);
    h.evicted(0, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
    h.add(0, Harness::one_shot());
    EXPECT_EQ(h.counts().running, 1u);
    h.grant(id, 1);
    EXPECT_EQ(h.parts[id], 1u);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    EXPECT_EQ(h.counts(0).completed, 0u);
}

TEST(Removal, WhileTheWorkerIsDown)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.take(CORE_DISPATCH);
    h.remove(0);
    h.down(0);
    EXPECT_EQ(h.status(id), LIBSCHED_ENOMODEL) << "not to be retried";
    EXPECT_TRUE(core_model_gone(h.c, 0));
}

TEST(Removal, OfOneThatIsBeingPrepared)
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
    h.remove(0);
    h.prepared(batch, id);
    EXPECT_EQ(h.status(id), LIBSCHED_ENOMODEL);
    h.batch_done(batch);
    while (h.has(CORE_EVICT))
        h.evicted(h.take(CORE_EVICT).device, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
}

TEST(Removal, DismissesThoseWhoWaitForCredit)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.start({0});
    uint64_t stalled = h.submit({0, 1, 0, true, 1}), unbegun = h.submit({0, 1, 0, true, 0});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, stalled);
    h.step_done(step);
    h.remove(0);
    EXPECT_EQ(h.status(stalled), LIBSCHED_ENOMODEL);
    EXPECT_EQ(h.status(unbegun), LIBSCHED_ENOMODEL);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    h.take(CORE_EVICT);
    h.evicted(0, 0);
    EXPECT_TRUE(core_model_gone(h.c, 0));
}
