/* SPDX-License-Identifier: Apache-2.0 */
/* The next step is given shortly before the one under way is done, neither earlier nor later. */
#include <algorithm>

#include "harness.h"

namespace
{

constexpr uint64_t ms = 1000000;

class Led : public Harness
{
  public:
    const uint64_t cost = 5 * ms, lead = ms / 4;

    Led()
    {
        device(0, 0, 2, lead);
        core_model m = one_shot();
        m.max_batch_requests = 8;
        m.max_batch_units = 8;
        add(0, m);
        start({0});
    }

    /* A batch takes the same, however large it is. */
    void end(const Action &batch)
    {
        for (const auto &i : batch.all)
            item(batch, i.id);
        step_done(batch, LIBSCHED_OK, cost);
    }

    void learn()
    {
        for (int i = 0; i < 20; i++) {
            submit();
            Action batch = take(CORE_DISPATCH);
            tick(now + cost);
            end(batch);
        }
    }
};

TEST(Lead, TheNextIsGivenWhenTheOneUnderWayIsNearlyDone)
{
    Led h;
    h.learn();
    uint64_t began = h.now;
    h.submit();
    Action first = h.take(CORE_DISPATCH);
    uint64_t early = h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    ASSERT_GE(h.timer, began + h.cost - h.lead - h.cost / 64);
    ASSERT_LE(h.timer, began + h.cost - h.lead + h.cost / 64);
    /* Who comes until then is in it. */
    h.now = began + h.cost / 2;
    uint64_t later = h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.tick(h.timer);
    Action second = h.take(CORE_DISPATCH);
    EXPECT_EQ(second.ids(), (std::vector<uint64_t>{early, later}));
    /* But only one more, and that is done one cost after the first. */
    h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.now = began + h.cost;
    h.end(first);
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    EXPECT_GE(h.timer, began + 2 * h.cost - h.lead - h.cost / 32);
    h.tick(h.timer);
    EXPECT_TRUE(h.has(CORE_DISPATCH));
}

TEST(Lead, WhatComesInThatTimeIsGivenAtOnce)
{
    Led h;
    h.learn();
    uint64_t began = h.now;
    h.submit();
    h.take(CORE_DISPATCH);
    h.now = began + h.cost - h.lead / 2;
    h.submit();
    EXPECT_TRUE(h.has(CORE_DISPATCH));
}

TEST(Lead, NothingIsGivenAheadOfWhatIsNotKnown)
{
    Led h;
    h.submit();
    Action first = h.take(CORE_DISPATCH);
    h.submit();
    h.now += 100 * h.cost;
    h.submit();
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    h.end(first);
    EXPECT_EQ(h.take(CORE_DISPATCH).all.size(), 2u);
}

/* One that could be served if the device were free now is late behind the step under way. */
TEST(Lead, DeadlinesAreJudgedByWhenTheStepBegins)
{
    Led h;
    h.learn();
    uint64_t began = h.now;
    h.submit();
    h.take(CORE_DISPATCH);
    h.now = began + h.cost - h.lead / 2;
    EXPECT_EQ(h.refused({.deadline = h.now + h.cost + h.lead / 4}), LIBSCHED_EDEADLINE);
    uint64_t id = h.submit({.deadline = h.now + h.cost + h.lead});
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), std::vector<uint64_t>{id});
}

/* What is counted on is more than what a step takes: that must not add up where one follows the
 * other without a rest. */
TEST(Lead, ADeviceThatNeverRestsIsNotThoughtBehind)
{
    Led h;
    h.learn();
    uint64_t end = h.now;
    std::deque<Action> given;
    for (int i = 0; i < 400; i++) {
        h.submit();
        if (given.empty()) {
            given.push_back(h.take(CORE_DISPATCH));
            end = h.now + h.cost;
        }
        h.submit();
        if (!h.has(CORE_DISPATCH))
            h.tick(h.timer);
        given.push_back(h.take(CORE_DISPATCH));
        /* Some batches take longer. */
        uint64_t ns = i % 10 == 0 ? h.cost * 5 / 4 : h.cost;
        h.now = std::max(h.now, end);
        for (const auto &item : given.front().all)
            h.item(given.front(), item.id);
        h.step_done(given.front(), LIBSCHED_OK, ns);
        given.pop_front();
        end = h.now + ns;
    }
    EXPECT_NE(h.submit({.deadline = h.now + 3 * h.cost}), 0u);
}

/* A worker that dies with two batches: nobody is blamed, as nobody knows which it was. */
TEST(Lead, ADeathBlamesNobodyOfTwo)
{
    Led h;
    h.learn();
    uint64_t began = h.now;
    uint64_t a = h.submit();
    h.take(CORE_DISPATCH);
    h.now = began + h.cost - h.lead / 2;
    uint64_t b = h.submit();
    h.take(CORE_DISPATCH);
    h.down(0);
    h.up(0);
    h.loaded(0, 0);
    for (int i = 0; i < 2; i++) {
        Action alone = h.take(CORE_DISPATCH);
        EXPECT_EQ(alone.all.size(), 1u);
        EXPECT_FALSE(h.has(CORE_DISPATCH));
        h.now += h.cost;
        h.end(alone);
    }
    EXPECT_EQ(h.status(a), LIBSCHED_OK);
    EXPECT_EQ(h.status(b), LIBSCHED_OK);
}

/* Beside a job nothing is given ahead: what requests are owed is known when a step has ended. */
TEST(Lead, BesideAJobRequestsGetTheirShareAndNoMore)
{
    Led h;
    h.learn();
    for (int i = 0; i < 100; i++)
        h.submit();
    std::deque<Action> given;
    uint64_t batch_end = UINT64_MAX, step_end = UINT64_MAX, began = 0, of_job = 0;
    const uint64_t step = 3 * ms;
    Action of;
    h.job({.k = 1, .devices = 1});
    for (int i = 0; i < 4000; i++) {
        if (h.has(CORE_DISPATCH)) {
            given.push_back(h.take(CORE_DISPATCH));
            if (given.size() == 1)
                batch_end = h.now + h.cost;
        } else if (h.has(CORE_JOB_START)) {
            began = h.now;
            h.started(h.take(CORE_JOB_START));
        } else if (h.has(CORE_JOB_STEP)) {
            of = h.take(CORE_JOB_STEP);
            step_end = h.now + step;
        } else if (h.timer != 0 && h.timer < std::min(batch_end, step_end)) {
            h.tick(std::max(h.timer, h.now));
        } else if (batch_end < step_end) {
            h.now = batch_end;
            batch_end = given.size() > 1 ? h.now + h.cost : UINT64_MAX;
            for (size_t n = given.front().all.size(); n > 0; n--)
                h.submit();
            h.end(given.front());
            given.pop_front();
        } else {
            h.now = step_end;
            step_end = UINT64_MAX;
            of_job += step;
            h.stepped(of);
        }
    }
    /* Half of the time, as jobs and requests have equal shares. */
    EXPECT_GT(of_job, (h.now - began) * 45 / 100);
    EXPECT_LT(of_job, (h.now - began) * 55 / 100);
}

} // namespace
