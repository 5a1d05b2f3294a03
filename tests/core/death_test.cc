/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's death, and what comes from one that is dead. */
#include "harness.h"

using Ids = std::vector<uint64_t>;

TEST(Death, MembersAreRetriedEachAlone)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    Ids ids;
    for (int i = 0; i < 4; i++)
        ids.push_back(h.submit());
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    uint64_t after = h.submit();
    h.item(batch, ids[0]);
    h.down(0);
    EXPECT_EQ(h.status(ids[0]), LIBSCHED_OK) << "it had ended";
    h.start({0});
    for (int i = 1; i < 4; i++) {
        batch = h.take(CORE_DISPATCH);
        EXPECT_EQ(batch.ids(), Ids{ids[static_cast<size_t>(i)]});
        EXPECT_FALSE(h.has(CORE_DISPATCH));
        h.finish(batch);
    }
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(after), LIBSCHED_OK);
    EXPECT_EQ(h.replies.at(ids[1]).attempts, 2u);
    EXPECT_EQ(h.counts().retried, 3u);
}

/* A worker that takes longer for a step than it may is ended. */
TEST(Death, AStepThatNeverEndsEndsTheWorker)
{
    Harness h;
    h.device(0, 0, 2);
    core_model m = Harness::one_shot();
    m.max_batch_requests = 2;
    m.step_limit = 5000;
    h.add(0, m);
    h.start({0});
    Ids ids;
    for (int i = 0; i < 4; i++)
        ids.push_back(h.submit());
    const uint64_t begin = h.now;
    Action first = h.take(CORE_DISPATCH);
    // The time of the one behind it begins when it ends.
    while (h.has(CORE_DISPATCH))
        h.take(CORE_DISPATCH);
    EXPECT_EQ(h.timer, begin + 5000);
    h.now = begin + 4000;
    h.finish(first);
    h.tick(begin + 5000);
    EXPECT_FALSE(h.has(CORE_KILL));
    EXPECT_EQ(h.timer, begin + 9000);
    h.tick(begin + 8999);
    EXPECT_FALSE(h.has(CORE_KILL));
    // Whoever did not run for long hears of its end next.
    h.tick(begin + 9000);
    EXPECT_FALSE(h.has(CORE_KILL));
    EXPECT_EQ(h.timer, begin + 9312);
    h.tick(begin + 9312);
    EXPECT_EQ(h.take(CORE_KILL).at, 5000u);
    h.tick(begin + 90000);
    EXPECT_FALSE(h.has(CORE_KILL)) << "once";
    h.down(0);
    h.start({0});
    while (h.has(CORE_DISPATCH))
        h.finish(h.take(CORE_DISPATCH));
    for (uint64_t id : ids)
        EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, AStepBehindALoadHasItsTimeWhenThatHasEnded)
{
    Harness h;
    h.device(0);
    core_model m = Harness::one_shot();
    m.step_limit = 5000;
    h.add(0, m);
    h.start({0});
    h.add(1, m);
    Action load = h.take(CORE_LOAD);
    const uint64_t begin = h.now;
    uint64_t id = h.submit();
    Action batch = h.take(CORE_DISPATCH);
    h.tick(begin + 90000);
    h.tick(begin + 180000);
    EXPECT_FALSE(h.has(CORE_KILL)) << "it waits for the load";
    h.loaded(load.device, load.model);
    const uint64_t loaded = h.now;
    h.tick(loaded + 4999);
    EXPECT_FALSE(h.has(CORE_KILL));
    h.tick(loaded + 5000);
    h.tick(loaded + 5312);
    EXPECT_EQ(h.take(CORE_KILL).at, 5000u) << "now it is its own";
    (void)batch;
    h.down(0);
    EXPECT_NE(h.status(id), LIBSCHED_OK);

    // One that was given before the load does not wait for it.
    h.start({0});
    while (h.has(CORE_DISPATCH))
        h.finish(h.take(CORE_DISPATCH));
    h.submit();
    const uint64_t again = h.now;
    h.take(CORE_DISPATCH);
    h.add(2, m);
    h.take(CORE_LOAD);
    h.tick(again + 5000);
    h.tick(again + 5312);
    EXPECT_TRUE(h.has(CORE_KILL));
    h.take(CORE_KILL);
    h.down(0);
}

TEST(Death, HowLongAStepMayTakeIsLearnt)
{
    const uint64_t s = 1000000000;
    Harness h;
    h.device(0);
    core_model m = Harness::one_shot();
    m.step_limit = CORE_STEP_LEARNT;
    h.add(0, m);
    h.start({0});
    // Of the first nothing is known, and it says nothing.
    for (int i = 0; i < 4; i++) {
        uint64_t id = h.submit();
        Action batch = h.take(CORE_DISPATCH);
        h.tick(h.now + 10 * s);
        ASSERT_FALSE(h.has(CORE_KILL));
        h.item(batch, id);
        h.step_done(batch, LIBSCHED_OK, 10 * s);
    }
    h.submit();
    const uint64_t begin = h.now;
    h.take(CORE_DISPATCH);
    h.tick(begin + 319 * s);
    EXPECT_FALSE(h.has(CORE_KILL));
    h.tick(begin + 600 * s);
    EXPECT_FALSE(h.has(CORE_KILL));
    h.tick(begin + 640 * s);
    ASSERT_TRUE(h.has(CORE_KILL));
    EXPECT_GE(h.take(CORE_KILL).at, 320 * s);
    h.down(0);
}

TEST(Death, OnlyADeathInABatchOfOneCounts)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t poison = 0;
    Ids others;
    for (int i = 0; i < 5; i++) {
        uint64_t id = h.submit();
        if (i == 2)
            poison = id;
        else
            others.push_back(id);
    }
    h.start({0});
    int deaths = 0;
    for (int i = 0; i < 20 && h.counts().queued + h.counts().running > 0; i++) {
        Action batch = h.take(CORE_DISPATCH);
        bool kills = false;
        for (uint64_t id : batch.ids())
            kills |= id == poison;
        if (kills) {
            deaths++;
            h.down(0);
            h.start({0});
        } else {
            h.finish(batch);
        }
    }
    EXPECT_EQ(deaths, 3);
    EXPECT_EQ(h.status(poison), LIBSCHED_EPOISON);
    for (uint64_t id : others)
        EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, StrikesAreConfigurable)
{
    Harness h(16, 1, 4);
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t id = h.submit();
    for (int i = 0; i < 4; i++) {
        EXPECT_EQ(h.status(id), 1);
        h.start({0});
        h.take(CORE_DISPATCH);
        h.down(0);
    }
    EXPECT_EQ(h.status(id), LIBSCHED_EPOISON);
}

TEST(Death, OneRetriedAloneHasNoCompanyOnItsDevice)
{
    Harness h;
    h.device(0, 0, 4);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t a = h.submit(), b = h.submit();
    h.down(0); /* both under way: nobody knows whose fault it was */
    h.start({0});
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{a}); /* the first ones */
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{b});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), Ids{a});
    h.submit();
    h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.add(1, Harness::one_shot());
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.finish(batch);
    EXPECT_TRUE(h.has(CORE_LOAD));
    EXPECT_FALSE(h.has(CORE_DISPATCH)) << "the next alone waits for the load";
    h.loaded(0, 1);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{b});
}

TEST(Death, OtherDevicesTakeOver)
{
    Harness h;
    h.device(0);
    h.device(1);
    h.add(0, Harness::one_shot(3));
    h.start({0, 1});
    uint64_t id = h.submit();
    EXPECT_EQ(h.take(CORE_DISPATCH).device, 0u);
    h.down(0);
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.device, 1u);
    h.finish(batch);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, PartsThatWereSentForbidARetry)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.start({0});
    uint64_t sent = h.submit({0, 1, 0, true, 9}), fresh = 0;
    Action step = h.take(CORE_DISPATCH);
    fresh = h.submit({0, 1, 0, true, 9});
    h.part(step, sent);
    h.step_done(step);
    step = h.take(CORE_STEP);
    h.down(0);
    EXPECT_EQ(h.status(sent), LIBSCHED_EDEVICELOST);
    EXPECT_EQ(h.status(fresh), 1);
    h.start({0});
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{fresh});
}

TEST(Death, RepeatableOnesLeaveOutWhatWasSent)
{
    Harness h;
    h.device(0);
    core_model m = Harness::steps();
    m.flags |= CORE_MODEL_REPEATABLE;
    h.add(0, m);
    h.start({0});
    uint64_t id = h.submit({0, 1, 0, true, 3});
    Action step = h.take(CORE_DISPATCH);
    for (int i = 0; i < 3; i++) {
        EXPECT_TRUE(h.part(step, id));
        h.step_done(step);
        if (i < 2)
            step = h.take(CORE_STEP);
    }
    EXPECT_EQ(h.parts[id], 3u);
    h.down(0);
    h.start({0});
    /* It has no credit, but needs none for what it has sent already. */
    step = h.take(CORE_DISPATCH);
    for (int i = 0; i < 3; i++) {
        EXPECT_FALSE(h.part(step, id)) << "sent before";
        h.step_done(step);
        if (i < 2)
            step = h.take(CORE_STEP);
    }
    EXPECT_FALSE(h.has(CORE_STEP));
    h.grant(id, 2);
    step = h.take(CORE_STEP);
    EXPECT_TRUE(h.part(step, id));
    h.finish(step);
    EXPECT_EQ(h.parts[id], 4u);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, PartsThatWereHeldComeAgain)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit({0, 1, 0, true, 0});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_TRUE(h.part(batch, id));
    h.down(0);
    h.start({0});
    batch = h.take(CORE_DISPATCH);
    h.grant(id, 5);
    EXPECT_EQ(h.parts[id], 0u) << "what the dead one held is gone";
    EXPECT_TRUE(h.part(batch, id));
    h.finish(batch);
    EXPECT_EQ(h.parts[id], 1u);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, WhoWasNotInTheStepIsNotSuspected)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    h.add(1, Harness::one_shot());
    h.start({0});
    uint64_t stalled = h.submit({0, 1, 0, true, 1});
    Action step = h.take(CORE_DISPATCH);
    h.step_done(step); /* it has not yielded anything yet */
    step = h.take(CORE_STEP);
    h.part(step, stalled);
    h.step_done(step);
    uint64_t killer = h.submit({1});
    for (int i = 0; i < 2; i++) {
        h.take(CORE_DISPATCH);
        h.down(0);
        h.actions.clear();
        h.start({0});
    }
    EXPECT_EQ(h.status(killer), LIBSCHED_EPOISON) << "it was alone in its step";
    EXPECT_EQ(h.status(stalled), LIBSCHED_EDEVICELOST) << "for its part was sent";
}

TEST(Death, StaleEventsChangeNothing)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    Action old = h.take(CORE_DISPATCH);
    h.down(0);
    h.down(0);
    h.start({0});
    Action present = h.take(CORE_DISPATCH);
    h.item(old, id);
    EXPECT_EQ(h.status(id), 1);
    EXPECT_FALSE(h.part(old, id));
    h.step_done(old);
    h.batch_done(old);
    /* Nor does an old batch's name in the present worker's mouth. */
    Action mixed = old;
    mixed.epoch = present.epoch;
    h.item(mixed, id);
    h.step_done(mixed);
    mixed = present;
    mixed.step = 7;
    h.step_done(mixed);
    EXPECT_EQ(h.status(id), 1);
    EXPECT_EQ(h.counts().running, 1u);
    h.finish(present);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);

    core_event event = {};
    event.type = CORE_WORKER_UP;
    event.epoch = h.epoch(0);
    h.down(0);
    h.handle(event); /* the epoch that has just ended */
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.loaded(0, 0);
    h.evicted(0, 0);
    EXPECT_EQ(core_model_devices(h.c, 0), 0u);
}

TEST(Death, ADeviceThatIsLostIsKilledAndItsStepRetried)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.step_done(h.take(CORE_DISPATCH), LIBSCHED_EDEVICELOST);
    Action kill = h.take(CORE_KILL);
    EXPECT_EQ(kill.device, 0u);
    EXPECT_EQ(kill.epoch, h.epoch(0));
    h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH)) << "nothing more is given to it";
    h.down(0);
    EXPECT_EQ(h.status(id), 1);
    h.start({0});
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.ids(), Ids{id});
    h.finish(batch);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Death, ANewWorkerWithoutAnOldOnesDeathImpliesIt)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.take(CORE_DISPATCH);
    h.start({0});
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
    EXPECT_EQ(h.counts().retried, 1u);
}

TEST(Death, AnItemIsBelievedOnlyOfItsOwnBatch)
{
    Harness h;
    h.device(0, 0, 2);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t first = h.submit();
    h.submit();
    Action a = h.take(CORE_DISPATCH), b = h.take(CORE_DISPATCH);
    h.item(b, first);
    EXPECT_EQ(h.status(first), 1);
    EXPECT_FALSE(h.part(b, first));
    h.finish(a);
    EXPECT_EQ(h.status(first), LIBSCHED_OK);
}

TEST(Death, NothingIsGivenToAWorkerThatIsBeingEnded)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.up(0);
    h.take(CORE_LOAD);
    h.loaded(0, 0, LIBSCHED_EDEVICELOST);
    h.take(CORE_KILL);
    h.add(1, Harness::one_shot());
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.down(0);
    h.up(0);
    EXPECT_EQ(h.take(CORE_LOAD).model, 0u);
    h.loaded(0, 0, LIBSCHED_EDEVICELOST);
    h.take(CORE_KILL);
    h.down(0);
    EXPECT_EQ(core_model_failed(h.c, 0), 1u) << "alone, and twice";
}

TEST(Death, WhatHadToWaitForOneAloneFollowsIt)
{
    Harness h;
    h.device(0);
    h.device(1);
    h.add(0, Harness::one_shot(1));
    h.start({0, 1});
    h.submit();
    h.take(CORE_DISPATCH);
    h.down(0);
    h.start({0});
    Action alone = h.take(CORE_DISPATCH);
    h.add(1, Harness::one_shot(3));
    EXPECT_EQ(h.take(CORE_LOAD).device, 1u);
    h.loaded(1, 1);
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.finish(alone);
    EXPECT_EQ(h.take(CORE_LOAD).device, 0u);
}

TEST(Death, LoadsDoNotKeepOneAloneWaiting)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.take(CORE_DISPATCH);
    h.down(0);
    h.add(1, Harness::one_shot());
    h.up(0);
    h.take(CORE_LOAD);
    h.take(CORE_LOAD);
    h.loaded(0, 0);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.add(2, Harness::one_shot());
    EXPECT_FALSE(h.has(CORE_LOAD)) << "the device comes to rest";
    h.loaded(0, 1);
    EXPECT_FALSE(h.has(CORE_LOAD));
    Action alone = h.take(CORE_DISPATCH);
    EXPECT_EQ(alone.ids(), Ids{id});
    h.finish(alone);
    EXPECT_EQ(h.take(CORE_LOAD).model, 2u);
}

TEST(Death, ADeviceDoesNotRestForOneThatIsGone)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit();
    h.take(CORE_DISPATCH);
    h.down(0);
    h.add(1, Harness::one_shot());
    h.up(0);
    h.take(CORE_LOAD);
    h.take(CORE_LOAD);
    h.loaded(0, 0);
    h.add(2, Harness::one_shot());
    EXPECT_FALSE(h.has(CORE_LOAD));
    h.cancel(id);
    EXPECT_EQ(h.take(CORE_LOAD).model, 2u);
}

TEST(Death, ARetryHasItsPlaceHoweverManyClientsWait)
{
    Harness h(5000, 512);
    h.device(0);
    core_model m = Harness::one_shot();
    m.max_batch_requests = 1;
    m.queue_limit = 5000;
    h.add(0, m);
    h.add(1, m);
    h.start({0});
    Request r;
    r.model = 1;
    uint64_t id = h.submit(r);
    /* A line for each class of each client, and none of them for the model of the first. */
    r.model = 0;
    for (r.client = 2; r.client <= 512; r.client++)
        for (r.priority = 0; r.priority < CORE_PRIORITIES; r.priority++)
            h.submit(r);
    h.down(0);
    EXPECT_EQ(h.status(id), 1) << "it waits again";
    EXPECT_EQ(h.counts(1).queued, 1u);
}
