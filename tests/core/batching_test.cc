/* SPDX-License-Identifier: Apache-2.0 */
/* Who is batched with whom, when, and where. */
#include "harness.h"

using Ids = std::vector<uint64_t>;

TEST(Batching, DispatchesAtOnceWhereADeviceIsFree)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit({0, 5});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), Ids{id});
    EXPECT_EQ(batch.all[0].units, 5u);
    EXPECT_EQ(batch.step, 1u);
    EXPECT_EQ(batch.epoch, h.epoch(0));
    h.now = 2000;
    h.finish(batch);
    const Action &reply = h.replies.at(id);
    EXPECT_EQ(reply.status, LIBSCHED_OK);
    EXPECT_EQ(reply.attempts, 1u);
    EXPECT_EQ(reply.dispatched, 1000u);
    EXPECT_EQ(reply.batch_size, 1u);
    EXPECT_FALSE(h.has(CORE_STEP)) << "a one-shot session ends by itself";
}

TEST(Batching, WhatWaitsForTheModelGoesTogetherWhenItIsLoaded)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    Ids ids;
    for (int i = 0; i < 3; i++)
        ids.push_back(h.submit());
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.start({0});
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), ids);
}

TEST(Batching, TheLimitOfRequestsHolds)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    Ids ids;
    for (int i = 0; i < 11; i++)
        ids.push_back(h.submit());
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), Ids(ids.begin(), ids.begin() + 8));
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids(ids.begin() + 8, ids.end()));
    EXPECT_EQ(h.replies.at(ids[0]).batch_size, 8u);
}

TEST(Batching, TheLimitOfUnitsHolds)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.submit({0, 60});
    h.submit({0, 40});
    h.submit({0, 1});
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.n_items, 2u);
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 1u);
}

TEST(Batching, AnItemAboveTheLimitOfUnitsRunsAlone)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.submit({0, 1});
    h.submit({0, 500});
    h.submit({0, 1});
    h.start({0});
    for (int i = 0; i < 3; i++) {
        Action batch = h.take(CORE_DISPATCH);
        EXPECT_EQ(batch.n_items, 1u);
        h.finish(batch);
    }
    EXPECT_EQ(h.counts().completed, 3u);
}

TEST(Batching, OneStepAtATimeUnlessTheDeviceIsDeeper)
{
    Harness h;
    h.device(0, 0, 2);
    h.add(0, Harness::one_shot());
    h.start({0});
    h.submit();
    h.submit();
    h.submit();
    Action first = h.take(CORE_DISPATCH), second = h.take(CORE_DISPATCH);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.finish(first);
    h.take(CORE_DISPATCH);
    h.finish(second);
}

TEST(Batching, EventsTakenInTogetherAreDecidedTogether)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    for (int i = 0; i < 5; i++) {
        core_event event = {};
        event.type = CORE_SUBMIT;
        event.u.submit.units = 1;
        EXPECT_EQ(core_handle(h.c, h.now, &event), LIBSCHED_OK);
    }
    h.tick(h.now);
    core_event event = {};
    event.type = CORE_TIMER;
    h.handle(event);
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 5u);
}

TEST(Batching, AllFreeDevicesAreUsed)
{
    Harness h;
    h.device(0);
    h.device(3);
    h.add(0, Harness::one_shot(1 | 8));
    h.start({0, 3});
    h.submit();
    h.submit();
    EXPECT_EQ(h.take(CORE_DISPATCH).device, 0u);
    EXPECT_EQ(h.take(CORE_DISPATCH).device, 3u);
}

TEST(Batching, TheOldestHeadOfAllModelsGoesFirst)
{
    Harness h;
    h.device(0);
    for (uint32_t i = 0; i < 4; i++)
        h.add(i, Harness::one_shot());
    h.start({0});
    h.submit({3});
    Action batch = h.take(CORE_DISPATCH);
    for (uint32_t model : {2, 0, 3, 1, 2, 0})
        h.submit({model});
    std::vector<uint32_t> order;
    for (int i = 0; i < 4; i++) {
        h.finish(batch);
        batch = h.take(CORE_DISPATCH);
        order.push_back(batch.model);
    }
    EXPECT_EQ(order, (std::vector<uint32_t>{2, 0, 3, 1}));
    EXPECT_EQ(h.counts().queued, 0u);
}

TEST(Batching, ABatchIsOfOneModel)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.add(1, Harness::one_shot());
    for (int i = 0; i < 8; i++)
        h.submit({static_cast<uint32_t>(i % 2)});
    h.start({0});
    /* All of one model waits, before the other is loaded. */
    Action first = h.take(CORE_DISPATCH);
    EXPECT_EQ(first.model, 0u);
    EXPECT_EQ(first.n_items, 4u);
    h.finish(first);
    Action second = h.take(CORE_DISPATCH);
    EXPECT_EQ(second.model, 1u);
    EXPECT_EQ(second.n_items, 4u);
}

TEST(Batching, AnItemsFailureIsItsOwn)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t bad = h.submit(), good = h.submit();
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    h.item(batch, bad, LIBSCHED_EINVAL);
    h.item(batch, good);
    h.item(batch, good, LIBSCHED_EENGINE); /* a second end is ignored */
    h.step_done(batch);
    EXPECT_EQ(h.status(bad), LIBSCHED_EINVAL);
    EXPECT_EQ(h.status(good), LIBSCHED_OK);
    EXPECT_EQ(h.counts().failed, 1u);
}

TEST(Batching, AFailedStepFailsThoseWhoHadNotEnded)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t ended = h.submit(), other = h.submit();
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    h.item(batch, ended);
    h.step_done(batch, LIBSCHED_EENGINE);
    EXPECT_EQ(h.status(ended), LIBSCHED_OK);
    EXPECT_EQ(h.status(other), LIBSCHED_EENGINE);
    h.submit();
    EXPECT_TRUE(h.has(CORE_DISPATCH)) << "the device goes on";
}

TEST(Batching, AnItemThatTheEngineForgotFails)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t id = h.submit();
    h.start({0});
    h.step_done(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_EENGINE);
}

TEST(Batching, WhatDidNotFitIsTriedInHalves)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    Ids ids;
    for (int i = 0; i < 8; i++)
        ids.push_back(h.submit());
    h.start({0});
    std::vector<uint32_t> sizes;
    while (h.has(CORE_DISPATCH)) {
        Action batch = h.take(CORE_DISPATCH);
        sizes.push_back(batch.n_items);
        if (batch.n_items > 2)
            h.step_done(batch, LIBSCHED_ENODEVMEM);
        else
            h.finish(batch);
    }
    EXPECT_EQ(sizes, (std::vector<uint32_t>{8, 4, 2, 2, 2, 2}));
    EXPECT_EQ(h.counts().completed, 8u);
    EXPECT_EQ(h.replies.at(ids[0]).attempts, 3u);
}

// How many batches of two there are until a larger one is tried.
static int until_more_is_tried(Harness &h)
{
    int n = 0;
    for (; n < 1000; n++) {
        while (h.counts().queued < 8)
            h.submit();
        Action batch = h.take(CORE_DISPATCH);
        if (batch.n_items > 2) {
            h.step_done(batch, LIBSCHED_ENODEVMEM);
            break;
        }
        h.finish(batch);
    }
    return n;
}

TEST(Batching, WhatFitsIsLearnt)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    for (int i = 0; i < 4; i++)
        h.submit();
    h.start({0});
    h.step_done(h.take(CORE_DISPATCH), LIBSCHED_ENODEVMEM);
    int before = 0;
    for (int i = 0; i < 4; i++) {
        const int n = until_more_is_tried(h);
        EXPECT_GT(n, i == 0 ? 32 : before * 3 / 2) << "more is tried, and less and less often";
        before = n;
    }
    EXPECT_LT(before, 1000);
}

TEST(Batching, WhatFitsIsLearntOfOneDevice)
{
    Harness h;
    h.device(0);
    h.device(1);
    h.add(0, Harness::one_shot(3));
    h.start({0, 1});
    h.submit();
    h.submit();
    Action small = h.take(CORE_DISPATCH), other = h.take(CORE_DISPATCH);
    for (int i = 0; i < 8; i++)
        h.submit();
    h.finish(small);
    h.step_done(h.take(CORE_DISPATCH), LIBSCHED_ENODEVMEM);
    Action half = h.take(CORE_DISPATCH);
    EXPECT_EQ(half.n_items, 4u);
    h.finish(half);
    half = h.take(CORE_DISPATCH);
    EXPECT_EQ(half.n_items, 4u);
    /* Of those that were never in a batch that did not fit. */
    for (int i = 0; i < 16; i++)
        h.submit();
    h.finish(other);
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 8u);
    h.finish(half);
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 4u);
}

TEST(Batching, WhatFitsIsLearntAnewByTheNextWorker)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    for (int i = 0; i < 2; i++)
        h.submit();
    h.start({0});
    h.step_done(h.take(CORE_DISPATCH), LIBSCHED_ENODEVMEM);
    for (int i = 0; i < 2; i++)
        h.finish(h.take(CORE_DISPATCH));
    h.down(0);
    for (int i = 0; i < 8; i++)
        h.submit();
    h.start({0});
    EXPECT_EQ(h.take(CORE_DISPATCH).n_items, 8u);
}

TEST(Batching, WhatIsLargerThanWhatFitsRunsAlone)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    h.submit();
    Action first = h.take(CORE_DISPATCH);
    for (int i = 0; i < 2; i++)
        h.submit();
    h.finish(first);
    h.step_done(h.take(CORE_DISPATCH), LIBSCHED_ENODEVMEM);
    for (int i = 0; i < 2; i++)
        h.finish(h.take(CORE_DISPATCH));
    uint64_t large = h.submit({0, 50});
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(large), LIBSCHED_OK);
}

TEST(Batching, WhatDoesNotFitAloneFails)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    for (int i = 0; i < 5; i++)
        h.submit();
    h.start({0});
    int steps = 0;
    while (h.has(CORE_DISPATCH) && ++steps < 100)
        h.step_done(h.take(CORE_DISPATCH), LIBSCHED_ENODEVMEM);
    EXPECT_LT(steps, 12);
    EXPECT_EQ(h.counts().failed, 5u);
    for (const auto &[id, reply] : h.replies)
        EXPECT_EQ(reply.status, LIBSCHED_ENODEVMEM);
}

TEST(Batching, CountsStepsAndWhatIsInThem)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.submit({0, 3});
    h.submit({0, 4});
    h.start({0});
    h.finish(h.take(CORE_DISPATCH));
    core_counts counts = h.counts(0);
    EXPECT_EQ(counts.batches, 1u);
    EXPECT_EQ(counts.batched_requests, 2u);
    EXPECT_EQ(counts.batched_units, 7u);
    EXPECT_EQ(counts.submitted, 2u);
    EXPECT_EQ(counts.completed, 2u);
}
