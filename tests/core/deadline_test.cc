/* SPDX-License-Identifier: Apache-2.0 */
/* Deadlines: when they end a request, and when they don't. */
#include "harness.h"

TEST(Deadline, ThoseWhoWaitAreAnsweredByTheTimer)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t late = h.submit({0, 1, 5000}), never = h.submit(), early = h.submit({0, 1, 3000});
    EXPECT_EQ(h.timer, 3000u);
    h.tick(2999);
    EXPECT_EQ(h.status(early), 1);
    h.tick(3000);
    EXPECT_EQ(h.status(early), LIBSCHED_EDEADLINE);
    EXPECT_EQ(h.timer, 5000u);
    h.tick(5001);
    EXPECT_EQ(h.status(late), LIBSCHED_EDEADLINE);
    EXPECT_EQ(h.status(never), 1);
    EXPECT_EQ(h.counts().expired, 2u);
    EXPECT_EQ(h.replies.at(late).attempts, 0u);
}

TEST(Deadline, IsLookedAtWhenABatchIsMade)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    h.submit();
    Action first = h.take(CORE_DISPATCH);
    uint64_t late = h.submit({0, 1, 3000}), good = h.submit({0, 1, 9000});
    h.now = 4000; /* the timer is late */
    h.finish(first);
    EXPECT_EQ(h.status(late), LIBSCHED_EDEADLINE);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), std::vector<uint64_t>{good});
}

TEST(Deadline, AStepThatHasBegunIsNotCutShort)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t id = h.submit({0, 1, 3000});
    h.tick(4000);
    EXPECT_EQ(h.status(id), 1);
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST(Deadline, IsLookedAtBetweenSteps)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t late = h.submit({0, 1, 3000}), good = h.submit();
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.now = 3000;
    h.step_done(step);
    step = h.take(CORE_STEP);
    ASSERT_EQ(step.n_items, 2u);
    for (const auto &item : step.all)
        EXPECT_EQ(item.leaves, item.id == late);
    EXPECT_EQ(h.status(late), LIBSCHED_EDEADLINE);
    h.item(step, good);
    h.step_done(step);
    EXPECT_EQ(h.status(good), LIBSCHED_OK);
}

TEST(Deadline, OfOneWhoAloneIsLeftEndsTheSession)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t late = h.submit({0, 1, 3000});
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    h.now = 3000;
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_TRUE(step.ends);
    EXPECT_TRUE(step.all.at(0).leaves);
    EXPECT_EQ(h.status(late), LIBSCHED_EDEADLINE);
}

TEST(Deadline, CountsForOneThatWaitsForCreditInASession)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::steps());
    uint64_t id = h.submit({0, 1, 9000, true, 1});
    h.start({0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_TRUE(h.part(step, id));
    h.step_done(step);
    EXPECT_FALSE(h.has(CORE_STEP));
    h.tick(9000);
    EXPECT_EQ(h.status(id), LIBSCHED_EDEADLINE);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
}

TEST(Deadline, ManyInAnyOrderExpireInOrder)
{
    Harness h(2000);
    h.device(0);
    core_model m = Harness::one_shot();
    m.queue_limit = 2000;
    h.add(0, m);
    uint64_t x = 12345;
    std::map<uint64_t, uint64_t> deadline;
    std::vector<uint64_t> ids;
    for (int i = 0; i < 1000; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = 2000 + (x >> 33) % 1000;
        ids.push_back(h.submit({0, 1, at}));
        deadline[ids.back()] = at;
    }
    for (int i = 0; i < 1000; i += 3)
        h.cancel(ids[static_cast<size_t>(i)]);
    for (uint64_t t = 2000; t <= 3000; t += 50) {
        h.tick(t);
        for (size_t i = 0; i < ids.size(); i++)
            EXPECT_EQ(h.status(ids[i]), i % 3 == 0              ? LIBSCHED_ECANCELED
                                        : deadline[ids[i]] <= t ? LIBSCHED_EDEADLINE
                                                                : 1);
    }
    EXPECT_EQ(h.counts().queued, 0u);
}

TEST(Deadline, ATimerThatNobodyNeedsAnyMoreIsNotArmed)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    core_event submit = {};
    submit.type = CORE_SUBMIT;
    submit.u.submit.units = 60;
    ASSERT_EQ(core_handle(h.c, h.now, &submit), LIBSCHED_OK);
    submit.u.submit.deadline = 9000;
    ASSERT_EQ(core_handle(h.c, h.now, &submit), LIBSCHED_OK);
    core_action action;
    ASSERT_TRUE(core_next_action(h.c, &action));
    EXPECT_EQ(action.type, CORE_DISPATCH);
    core_event cancel = {};
    cancel.type = CORE_CANCEL;
    cancel.u.cancel.id = submit.u.submit.id;
    ASSERT_EQ(core_handle(h.c, h.now, &cancel), LIBSCHED_OK);
    while (core_next_action(h.c, &action))
        EXPECT_NE(action.type, CORE_ARM_TIMER);
}
