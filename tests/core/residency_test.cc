/* SPDX-License-Identifier: Apache-2.0 */
/* Loading and evicting, and memory. */
#include "harness.h"

using Ids = std::vector<uint64_t>;

static core_model sized(uint64_t bytes, uint64_t devices = 1)
{
    core_model m = Harness::one_shot(devices);
    m.memory_bytes = bytes;
    return m;
}

/* Loads what is asked for, as large as was thought. */
static Action load(Harness &h, uint64_t bytes)
{
    Action action = h.take(CORE_LOAD);
    h.loaded(action.device, action.model, LIBSCHED_OK, bytes);
    return action;
}

TEST(Residency, AModelIsLoadedOnAllItsDevices)
{
    Harness h;
    h.device(0);
    h.device(1);
    h.device(2);
    h.preparer(5);
    core_model m = Harness::one_shot(3);
    h.add(0, m);
    m.flags = CORE_MODEL_PREPARES;
    m.devices = 4;
    h.add(1, m);
    for (uint32_t d : {0, 1, 2, 5})
        h.up(d);
    uint64_t on[2] = {0, 0};
    while (h.has(CORE_LOAD)) {
        Action action = load(h, 0);
        on[action.model] |= 1ull << action.device;
        EXPECT_EQ(action.epoch, h.epoch(action.device));
    }
    EXPECT_EQ(on[0], 3u);
    EXPECT_EQ(on[1], 4u | 32u);
    EXPECT_EQ(core_model_devices(h.c, 0), 3u);
    EXPECT_EQ(core_model_devices(h.c, 1), 36u);
}

TEST(Residency, AModelThatFitsNowhereIsRefused)
{
    Harness h;
    h.device(0, 100);
    h.device(1, 50);
    EXPECT_EQ(h.add(0, sized(101, 3)), LIBSCHED_ENODEVMEM);
    EXPECT_EQ(h.add(0, sized(51, 2)), LIBSCHED_ENODEVMEM);
    EXPECT_EQ(h.add(0, sized(100, 3)), LIBSCHED_OK);
}

TEST(Residency, MemoryIsReservedBeforeALoad)
{
    Harness h;
    h.device(0, 100);
    h.device(1, 100);
    h.add(0, sized(60, 3));
    h.add(1, sized(60, 3));
    h.up(0);
    h.up(1);
    /* The second finds no room beside the first, which isn't loaded yet. */
    Action a = h.take(CORE_LOAD), b = h.take(CORE_LOAD);
    EXPECT_NE(a.device, b.device);
    EXPECT_FALSE(h.has(CORE_LOAD));
}

TEST(Residency, AnIdleModelGoesForOneThatWaits)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(60));
    h.up(0);
    load(h, 60);
    h.add(1, sized(60));
    Action evict = h.take(CORE_EVICT);
    EXPECT_EQ(evict.model, 0u);
    EXPECT_FALSE(h.has(CORE_LOAD)) << "not before it is gone";
    h.evicted(0, 0);
    EXPECT_EQ(load(h, 60).model, 1u);
    EXPECT_EQ(core_model_devices(h.c, 0), 0u);

    /* Nobody wants the first: it stays away until somebody does. */
    EXPECT_FALSE(h.has(CORE_EVICT));
    uint64_t id = h.submit({0});
    EXPECT_EQ(h.take(CORE_EVICT).model, 1u);
    h.evicted(0, 1);
    load(h, 60);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Residency, TheLongestUnusedGoesFirst)
{
    Harness h;
    h.device(0, 100);
    for (uint32_t i = 0; i < 3; i++)
        h.add(i, sized(30));
    h.up(0);
    for (int i = 0; i < 3; i++)
        load(h, 30);
    for (uint32_t model : {1, 0, 2}) {
        h.submit({model});
        h.finish(h.take(CORE_DISPATCH));
    }
    h.add(3, sized(60));
    EXPECT_EQ(h.take(CORE_EVICT).model, 1u);
    EXPECT_EQ(h.take(CORE_EVICT).model, 0u);
    EXPECT_FALSE(h.has(CORE_EVICT)) << "no more than is needed";
}

TEST(Residency, AModelInUseIsPinned)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(60));
    h.up(0);
    load(h, 60);
    h.submit({0});
    Action batch = h.take(CORE_DISPATCH);
    h.add(1, sized(60));
    uint64_t id = h.submit({1});
    EXPECT_FALSE(h.has(CORE_EVICT));
    uint64_t younger = h.submit({0});
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_EVICT).model, 0u) << "what is younger does not keep it";
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.evicted(0, 0);
    load(h, 60);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    EXPECT_EQ(h.take(CORE_EVICT).model, 1u);
    h.evicted(0, 1);
    load(h, 60);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(younger), LIBSCHED_OK);
}

TEST(Residency, TwoModelsThatOnlyFitOneAtATimeBothGetServed)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(60));
    h.up(0);
    load(h, 60);
    h.add(1, sized(60));
    int evictions = 0;
    uint64_t sent = 0;
    for (int i = 0; i < 300; i++) {
        if (sent < 200)
            h.submit({static_cast<uint32_t>(sent++ % 2)});
        if (h.has(CORE_EVICT)) {
            Action evict = h.take(CORE_EVICT);
            h.evicted(0, evict.model);
            evictions++;
        } else if (h.has(CORE_LOAD)) {
            load(h, 60);
        } else if (h.has(CORE_DISPATCH)) {
            h.finish(h.take(CORE_DISPATCH));
        }
    }
    EXPECT_EQ(h.counts(0).completed, 100u);
    EXPECT_EQ(h.counts(1).completed, 100u);
    EXPECT_LT(evictions, 80) << "a swap serves all that waits";
}

TEST(Residency, AnItemThatNeedsMemoryHasIdleModelsEvicted)
{
    Harness h;
    h.device(0, 100);
    core_model m = sized(30);
    m.memory_per_unit = 1;
    h.add(0, m);
    h.add(1, sized(30));
    h.add(2, sized(30));
    h.up(0);
    for (int i = 0; i < 3; i++)
        load(h, 30);
    uint64_t id = h.submit({0, 35});
    EXPECT_EQ(h.take(CORE_EVICT).model, 1u);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.evicted(0, 1);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{id});
}

TEST(Residency, ALargeItemIsNotPassedForEver)
{
    Harness h;
    h.device(0, 100, 2);
    core_model m = sized(10);
    m.memory_per_unit = 1;
    m.max_batch_requests = 1;
    h.add(0, m);
    h.add(1, m);
    h.up(0);
    load(h, 10);
    load(h, 10);
    h.submit({0, 30});
    h.submit({0, 30});
    Action a = h.take(CORE_DISPATCH), b = h.take(CORE_DISPATCH);
    uint64_t large = h.submit({1, 70});
    uint64_t small = h.submit({0, 30});
    h.finish(a);
    EXPECT_FALSE(h.has(CORE_DISPATCH)) << "the memory is kept for the older one";
    h.finish(b);
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), Ids{large});
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{small});
}

TEST(Residency, WhatALoadReallyTookCounts)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(10));
    h.up(0);
    load(h, 70);
    h.add(1, sized(40));
    EXPECT_EQ(h.take(CORE_EVICT).model, 0u);
    h.evicted(0, 0);
    load(h, 20);
    h.add(2, sized(40));
    EXPECT_EQ(load(h, 40).model, 2u) << "less than was thought";
}

TEST(Residency, MeasuredMemoryOfOthersIsLeftAlone)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(40));
    h.up(0);
    load(h, 40);
    h.measured(0, 20); /* 40 are somebody else's */
    h.add(1, sized(30));
    EXPECT_EQ(h.take(CORE_EVICT).model, 0u);
    h.measured(0, 60);
    h.evicted(0, 0);
    load(h, 30);
}

TEST(Residency, AFailedLoadIsNotTriedAgainUntilTheWorkerIsNew)
{
    Harness h;
    h.device(0, 100);
    h.device(1, 100);
    h.add(0, sized(60, 3));
    h.up(0);
    h.up(1);
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_EBADMODEL);
    EXPECT_EQ(core_model_failed(h.c, 0), 1u);
    uint64_t id = h.submit({0});
    h.take(CORE_LOAD);
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.loaded(1, 0, LIBSCHED_OK, 60);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    h.down(0);
    h.up(0);
    EXPECT_EQ(h.take(CORE_LOAD).device, 0u);
}

TEST(Residency, AFailedLoadGivesItsMemoryBack)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(60));
    h.up(0);
    h.take(CORE_LOAD);
    h.add(1, sized(60));
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.loaded(0, 0, LIBSCHED_EENGINE);
    EXPECT_EQ(h.take(CORE_LOAD).model, 1u);
}

TEST(Residency, LoadsLostWithTheirWorkerAreGivenAgain)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.add(1, Harness::one_shot());
    h.up(0);
    h.take(CORE_LOAD);
    h.loaded(0, 0);
    h.take(CORE_LOAD);
    h.down(0);
    EXPECT_EQ(core_model_devices(h.c, 0), 0u);
    h.up(0);
    EXPECT_EQ(h.take(CORE_LOAD).model, 1u) << "the suspect by itself, first";
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.loaded(0, 1);
    EXPECT_EQ(h.take(CORE_LOAD).model, 0u);
}

TEST(Residency, AModelWhoseLoadKillsTheWorkerIsGivenUp)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.add(1, Harness::one_shot());
    h.up(0);
    h.down(0); /* with both under way */
    for (int i = 0; i < 5 && core_model_failed(h.c, 1) == 0; i++) {
        h.actions.clear();
        h.up(0);
        while (h.has(CORE_LOAD)) {
            Action action = h.take(CORE_LOAD);
            if (action.model == 1) {
                EXPECT_FALSE(h.has(CORE_LOAD));
                h.down(0);
            } else {
                h.loaded(0, 0);
            }
        }
    }
    EXPECT_EQ(core_model_failed(h.c, 0), 0u);
    EXPECT_EQ(core_model_failed(h.c, 1), 1u);
    h.actions.clear();
    h.start({0});
    EXPECT_EQ(core_model_devices(h.c, 0), 1u);
    EXPECT_EQ(core_model_devices(h.c, 1), 0u);
}

TEST(Residency, MemoryHeldByAStalledItemHoldsUpNobodyElse)
{
    Harness h;
    h.device(0, 100);
    core_model m = sized(30);
    m.flags = CORE_MODEL_STEPS;
    m.memory_per_unit = 1;
    h.add(0, m);
    h.add(1, sized(10));
    h.up(0);
    load(h, 30);
    load(h, 10);
    uint64_t stalled = h.submit({0, 30, 0, true, 1});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, stalled);
    h.step_done(step);
    h.add(2, sized(50)); /* would fit without it */
    uint64_t large = h.submit({2});
    EXPECT_FALSE(h.has(CORE_LOAD));
    uint64_t id = h.submit({1});
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    h.cancel(stalled);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    EXPECT_EQ(load(h, 50).model, 2u);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(large), LIBSCHED_OK);
}

TEST(Residency, AClaimThatIsGivenUpLetsTheOthersGo)
{
    Harness h;
    h.device(0, 100, 2);
    core_model m = sized(10);
    m.memory_per_unit = 1;
    m.max_batch_requests = 1;
    h.add(0, m);
    h.add(1, m);
    h.up(0);
    load(h, 10);
    load(h, 10);
    h.submit({0, 30});
    h.submit({0, 30});
    Action a = h.take(CORE_DISPATCH);
    h.take(CORE_DISPATCH);
    uint64_t large = h.submit({1, 70});
    uint64_t small = h.submit({0, 30});
    h.finish(a);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.cancel(large);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{small});
}

TEST(Residency, AModelThatWaitsForStalledMemoryMayBeEvicted)
{
    Harness h;
    h.device(0, 100);
    core_model m = sized(20);
    m.memory_per_unit = 1;
    h.add(1, m);
    m.flags = CORE_MODEL_STEPS;
    h.add(0, m);
    h.up(0);
    load(h, 20);
    load(h, 20);
    uint64_t stalled = h.submit({0, 30, 0, true, 1});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, stalled);
    h.step_done(step);
    uint64_t waits = h.submit({1, 40}); /* there is room for 30, until the other goes */
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.add(2, sized(40));
    EXPECT_EQ(h.take(CORE_EVICT).model, 1u);
    h.evicted(0, 1);
    load(h, 40);
    uint64_t id = h.submit({2});
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    EXPECT_EQ(h.status(waits), 1);
}

TEST(Residency, NothingIsEvictedInVain)
{
    Harness h;
    h.device(0, 100);
    h.add(0, sized(50));
    h.add(1, sized(20));
    h.up(0);
    load(h, 50);
    load(h, 20);
    h.submit({0});
    Action batch = h.take(CORE_DISPATCH);
    h.add(2, sized(60));
    EXPECT_FALSE(h.has(CORE_EVICT)) << "the idle one alone would not do";
    h.finish(batch);
    EXPECT_TRUE(h.has(CORE_EVICT));
}

TEST(Residency, RequestsThatNobodyCanPrepareClaimNothing)
{
    Harness h;
    h.device(0, 100);
    h.preparer(1);
    core_model m = sized(60);
    m.flags = CORE_MODEL_PREPARES;
    h.add(0, m);
    h.up(0);
    load(h, 60);
    h.add(1, sized(60));
    h.take(CORE_EVICT);
    h.evicted(0, 0);
    load(h, 60);
    uint64_t unprepared = h.submit({0});
    uint64_t id = h.submit({1});
    EXPECT_FALSE(h.has(CORE_EVICT));
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    h.up(1);
    load(h, 0);
    EXPECT_TRUE(h.has(CORE_EVICT));
    EXPECT_EQ(h.status(unprepared), 1);
}
