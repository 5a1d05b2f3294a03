/* SPDX-License-Identifier: Apache-2.0 */
/* Parts, and the credit they need. */
#include "harness.h"

using Ids = std::vector<uint64_t>;

namespace
{
class Parts : public testing::Test
{
  protected:
    Harness h;
    void SetUp() override
    {
        h.device(0);
        h.add(0, Harness::steps());
        h.add(1, Harness::one_shot());
        h.start({0});
    }
};
} // namespace

TEST_F(Parts, GoOutAtOnceWithCredit)
{
    uint64_t id = h.submit({0, 1, 0, true, UINT32_MAX});
    Action step = h.take(CORE_DISPATCH);
    for (int i = 0; i < 10; i++) {
        EXPECT_TRUE(h.part(step, id));
        EXPECT_EQ(h.take(CORE_REPLY_PART).id, id);
        h.step_done(step);
        step = h.take(CORE_STEP);
    }
}

TEST_F(Parts, AreNotForThoseWhoDoNotWantThem)
{
    uint64_t id = h.submit({0, 1, 0, false, 0});
    Action step = h.take(CORE_DISPATCH);
    EXPECT_FALSE(h.part(step, id));
    EXPECT_FALSE(h.has(CORE_REPLY_PART));
    h.step_done(step);
    EXPECT_TRUE(h.has(CORE_STEP)) << "and they need no credit";
}

TEST_F(Parts, AnItemWithoutCreditIsLeftOutOfSteps)
{
    uint64_t poor = h.submit({0, 1, 0, true, 1});
    Action step = h.take(CORE_DISPATCH);
    uint64_t rich = h.submit({0, 1, 0, true, 100});
    h.part(step, poor);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), Ids{rich});
    h.grant(poor, 1);
    h.part(step, rich);
    h.step_done(step);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.n_items, 2u);
}

TEST_F(Parts, AnItemWithoutAnyIsNotBegunAndHoldsUpNobody)
{
    uint64_t poor = h.submit({0, 1, 0, true, 0});
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    EXPECT_EQ(h.counts().queued, 1u);
    uint64_t other = h.submit();
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), Ids{other});
    h.grant(poor, 1);
    h.cancel(other);
}

TEST_F(Parts, ASessionThatWaitsForCreditLeavesTheDeviceToOthers)
{
    uint64_t poor = h.submit({0, 1, 0, true, 1});
    Action step = h.take(CORE_DISPATCH);
    h.part(step, poor);
    h.step_done(step);
    EXPECT_FALSE(h.has(CORE_STEP));
    for (int i = 0; i < 3; i++) {
        uint64_t id = h.submit({1});
        h.finish(h.take(CORE_DISPATCH));
        EXPECT_EQ(h.status(id), LIBSCHED_OK);
    }
    /* One of its own model joins it. */
    uint64_t own = h.submit();
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), Ids{own});
    EXPECT_TRUE(step.all[0].joins);
    h.finish(step);
    h.grant(poor, 10);
    step = h.take(CORE_STEP);
    EXPECT_EQ(step.ids(), Ids{poor});
    h.finish(step);
    EXPECT_TRUE(h.take(CORE_STEP).ends);
    EXPECT_EQ(h.status(poor), LIBSCHED_OK);
}

TEST_F(Parts, BeyondTheCreditAreHeld)
{
    uint64_t id = h.submit({1, 1, 0, true, 2});
    Action batch = h.take(CORE_DISPATCH);
    for (int i = 0; i < 5; i++)
        EXPECT_TRUE(h.part(batch, id));
    EXPECT_EQ(h.parts[id], 2u);
    h.grant(id, 1);
    EXPECT_EQ(h.parts[id], 3u);
    h.finish(batch);
    EXPECT_EQ(h.status(id), 1) << "the end does not pass the parts";
    EXPECT_EQ(h.counts().running, 1u);
    h.submit({1});
    EXPECT_TRUE(h.has(CORE_DISPATCH)) << "the device is free meanwhile";
    h.grant(id, 1);
    EXPECT_EQ(h.status(id), 1);
    h.grant(id, 7);
    EXPECT_EQ(h.parts[id], 5u);
    EXPECT_EQ(h.status(id), LIBSCHED_OK);
}

TEST_F(Parts, HeldAtTheEndMayBeCancelledOrExpire)
{
    uint64_t cancelled = h.submit({1, 1, 0, true, 0});
    Action batch = h.take(CORE_DISPATCH);
    uint64_t late = h.submit({1, 1, 5000, true, 0});
    h.part(batch, cancelled);
    h.finish(batch);
    batch = h.take(CORE_DISPATCH);
    h.part(batch, late);
    h.finish(batch);
    h.cancel(cancelled);
    EXPECT_EQ(h.status(cancelled), LIBSCHED_ECANCELED);
    h.tick(5000);
    EXPECT_EQ(h.status(late), LIBSCHED_EDEADLINE);
}

TEST_F(Parts, ThatWereNotSentAreForgottenWhenARequestFails)
{
    uint64_t id = h.submit({1, 1, 0, true, 1});
    Action batch = h.take(CORE_DISPATCH);
    h.part(batch, id);
    h.part(batch, id);
    h.item(batch, id, LIBSCHED_EENGINE);
    EXPECT_EQ(h.status(id), LIBSCHED_EENGINE);
    EXPECT_EQ(h.parts[id], 1u);
}

TEST_F(Parts, CreditDoesNotWrap)
{
    uint64_t id = h.submit({1, 1, 0, true, 5});
    h.grant(id, UINT32_MAX - 2);
    h.grant(id, UINT32_MAX);
    Action batch = h.take(CORE_DISPATCH);
    for (int i = 0; i < 10; i++)
        h.part(batch, id);
    EXPECT_EQ(h.parts[id], 10u);
}
