/* SPDX-License-Identifier: Apache-2.0 */
/* Who is served, when, and who is told at once that it will not be. */
#include <algorithm>

#include "harness.h"

namespace
{

constexpr uint64_t ms = 1000000;

/* A device that serves batches of n in `base` + `each` * n. */
class Served : public Harness
{
  public:
    uint64_t base = 2 * ms, each = ms / 10;

    explicit Served(uint32_t models = 1, uint32_t max_batch = 32) : Harness(1024)
    {
        device(0);
        for (uint32_t i = 0; i < models; i++) {
            core_model m = one_shot();
            m.max_batch_requests = max_batch;
            m.max_batch_units = max_batch;
            m.queue_limit = 1000;
            add(i, m);
        }
        start({0});
    }

    uint64_t cost(size_t n) const
    {
        return base + each * n;
    }

    /* Takes the batch that was given, and ends it after its time. */
    Action serve()
    {
        Action batch = take(CORE_DISPATCH);
        uint64_t ns = cost(batch.all.size());
        tick(now + ns);
        for (const auto &i : batch.all)
            item(batch, i.id);
        step_done(batch, LIBSCHED_OK, ns);
        return batch;
    }

    /* Until what a batch costs is known. */
    void learn(uint32_t model = 0)
    {
        for (int n : {1, 1, 2, 5, 9, 3, 7, 4}) {
            for (int i = 0; i < n; i++) {
                Request r;
                r.model = model;
                submit(r);
            }
            while (has(CORE_DISPATCH))
                serve();
        }
    }

    uint64_t due(uint64_t in, uint32_t model = 0, uint64_t client = 0)
    {
        Request r;
        r.model = model;
        r.deadline = now + in;
        r.client = client;
        return submit(r);
    }
};

TEST(Policy, TheEarliestDeadlineGoesFirst)
{
    Served h(1, 1);
    uint64_t running = h.due(1000 * ms);
    uint64_t late = h.due(900 * ms), early = h.due(300 * ms), middle = h.due(600 * ms);
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{running});
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{early});
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{middle});
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{late});
}

TEST(Policy, WhoHasNoDeadlineAges)
{
    Served h(1, 1);
    h.submit();
    uint64_t patient = h.submit();
    /* Those with deadlines a second away and more come before it only while it is young. */
    h.tick(h.now + 500 * ms);
    uint64_t younger = h.due(1000 * ms);
    h.serve();
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{patient});
    EXPECT_EQ(h.serve().ids(), std::vector<uint64_t>{younger});
}

TEST(Policy, WhatCannotBeInTimeIsRefusedAtOnce)
{
    Served h;
    h.learn();
    Request r;
    r.deadline = h.now + h.cost(1) - ms / 10;
    EXPECT_EQ(h.refused(r), LIBSCHED_EDEADLINE) << "shorter than a batch of one";
    r.deadline = h.now + h.cost(1) + ms / 10;
    h.submit(r);
    /* The device is taken now: another has to wait for it first. */
    EXPECT_EQ(h.refused(r), LIBSCHED_EDEADLINE);
    r.deadline += h.cost(1) + ms;
    EXPECT_NE(h.submit(r), 0u);
}

TEST(Policy, ASlowBatchOfLateDoesNotRefuseWhoHasToWaitForTheOneUnderWay)
{
    Served h;
    h.learn();
    const uint64_t base = h.base;
    for (int i = 0; i < 100; i++) {
        /* Two of the last 64 took nearly twice as long: so may the one under way. */
        h.base = i == 60 || i == 70 ? base * 19 / 10 : base;
        h.submit();
        h.serve();
    }
    h.submit();
    EXPECT_NE(h.submit({.deadline = h.now + h.cost(1) * 23 / 10}), 0u);
    EXPECT_EQ(h.refused({.deadline = h.now + h.cost(1) * 17 / 10}), LIBSCHED_EDEADLINE);
}

TEST(Policy, NobodyIsRefusedWhileNothingIsKnown)
{
    Served h;
    Request r;
    r.deadline = h.now + 1;
    EXPECT_NE(h.submit(r), 0u);
}

TEST(Policy, WhoCanNotBeInTimeAnyMoreIsToldBeforeItsDeadline)
{
    Served h;
    h.learn();
    uint64_t begun = h.now;
    h.submit();
    uint64_t id = h.due(50 * ms);
    /* The batch takes much longer than it should. */
    uint64_t latest = begun + 50 * ms - h.cost(1);
    h.tick(latest - ms);
    EXPECT_EQ(h.status(id), 1);
    EXPECT_NEAR((double)h.timer, (double)latest, 0.1 * ms);
    h.tick(h.timer);
    EXPECT_EQ(h.status(id), LIBSCHED_EDEADLINE);
}

TEST(Policy, ABatchGrowsOnlyAsFarAsItsFirstAllows)
{
    Served h;
    h.learn();
    h.submit();
    for (int i = 0; i < 20; i++)
        h.due(1000 * ms);
    uint64_t tight = h.due(h.cost(1) + h.cost(5) + ms / 4);
    h.serve();
    Action batch = h.serve();
    EXPECT_GE(batch.all.size(), 4u);
    EXPECT_LE(batch.all.size(), 7u) << "of 21, by no more than a quarter of a millisecond";
    EXPECT_EQ(batch.all[0].id, tight);
    EXPECT_EQ(h.status(tight), LIBSCHED_OK);
}

TEST(Policy, InOverloadTheOldestAreGivenUpForALargeBatch)
{
    Served h(1, 4096);
    h.base = 10 * ms;
    h.each = ms;
    h.learn();
    /* Three times as many as can be served come, each with 60 ms. */
    auto offer = [&] {
        Request r;
        r.deadline = h.now + 60 * ms;
        h.refused(r);
    };
    uint64_t next = h.now;
    for (int batches = 0; batches < 40; batches++) {
        if (!h.has(CORE_DISPATCH))
            offer();
        Action batch = h.take(CORE_DISPATCH);
        uint64_t ns = h.cost(batch.all.size()), end = h.now + ns;
        for (; next < end; next += ms / 3) {
            h.tick(next);
            offer();
        }
        h.tick(end);
        for (const auto &item : batch.all)
            h.item(batch, item.id);
        h.step_done(batch, LIBSCHED_OK, ns);
    }
    /* Batches of what may wait 60 ms less the batch itself: not those of what its first has left.
     */
    core_counts counts = h.counts();
    EXPECT_GT((double)counts.batched_requests / (double)counts.batches, 20);
    EXPECT_EQ(counts.failed, 0u);
}

TEST(Policy, AFloodOfOneClientSlowsItselfAlone)
{
    Served h(1, 8);
    h.learn();
    for (int i = 0; i < 100; i++) {
        Request r;
        r.client = 1;
        h.submit(r);
    }
    h.serve();
    h.serve();
    Request r;
    r.client = 2;
    uint64_t quiet = h.submit(r);
    for (int batches = 0; h.status(quiet) == 1; batches++) {
        ASSERT_LT(batches, 4) << "it waits behind the flood";
        h.serve();
    }
}

TEST(Policy, ClientsShareByWeight)
{
    Served h(1, 1);
    h.learn();
    ASSERT_EQ(core_set_client(h.c, 1, 3, 0), LIBSCHED_OK);
    for (int i = 0; i < 100; i++)
        for (uint64_t client : {1, 2}) {
            Request r;
            r.client = client;
            h.submit(r);
        }
    uint64_t of_first = 0;
    for (int i = 0; i < 80; i++) {
        Action batch = h.serve();
        of_first += (batch.all[0].id >> 24) % 2; /* as they were submitted in turn */
    }
    uint64_t more = std::max(of_first, 80 - of_first);
    EXPECT_GE(more, 56u);
    EXPECT_LE(more, 64u);
}

TEST(Policy, AClassHasItsShareAndNotMore)
{
    Served h(1, 1);
    h.learn();
    for (int i = 0; i < 300; i++)
        for (uint32_t priority : {0u, 1u}) {
            Request r;
            r.priority = priority;
            r.client = 10 + priority;
            h.submit(r);
        }
    uint64_t urgent = 0;
    for (int i = 0; i < 150; i++) {
        Action batch = h.serve();
        urgent += (batch.all[0].id >> 24) % 2;
    }
    urgent = std::max(urgent, 150 - urgent);
    EXPECT_GE(urgent, 92u); /* two thirds */
    EXPECT_LE(urgent, 108u);
}

TEST(Policy, AClientsWaitingRequestsAreBounded)
{
    Served h(1, 1);
    ASSERT_EQ(core_set_client(h.c, 7, 0, 3), LIBSCHED_OK);
    Request r;
    r.client = 7;
    for (int i = 0; i < 4; i++) /* one runs */
        h.submit(r);
    uint64_t later = 0;
    EXPECT_EQ(h.refused(r, &later), LIBSCHED_ECLIENTFULL);
    EXPECT_GT(later, 0u);
    r.client = 8;
    EXPECT_NE(h.submit(r), 0u);
}

TEST(Policy, ABusyModelDoesNotStarveARareOne)
{
    Served h(2, 8);
    h.learn(0);
    h.learn(1);
    for (int i = 0; i < 200; i++)
        h.due(5000 * ms, 0);
    uint64_t rare = h.due(2000 * ms, 1);
    for (int batches = 0; h.status(rare) == 1; batches++) {
        ASSERT_LT(batches, 26);
        h.serve();
    }
    EXPECT_EQ(h.status(rare), LIBSCHED_OK);
}

TEST(Policy, OnlyThoseOfOneKeyShareABatch)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    std::vector<std::vector<uint64_t>> ids(3);
    h.submit();
    for (int i = 0; i < 6; i++) {
        Request r;
        r.batch_key = (uint64_t)(i % 2) + 1;
        ids[r.batch_key].push_back(h.submit(r));
    }
    h.finish(h.take(CORE_DISPATCH));
    Action first = h.take(CORE_DISPATCH);
    h.finish(first);
    Action second = h.take(CORE_DISPATCH);
    EXPECT_EQ(first.ids(), ids[1]);
    EXPECT_EQ(second.ids(), ids[2]);
}

TEST(Policy, PaddedBatchesAreOfLikeLengthAndFilledUp)
{
    Harness h;
    h.device(0);
    core_model m = Harness::one_shot();
    m.flags = CORE_MODEL_PADS;
    m.max_batch_requests = 4;
    m.max_batch_units = 400;
    m.max_request_units = 1000;
    h.add(0, m);
    h.start({0});
    h.submit();
    Request r;
    r.units = 100;
    uint64_t a = h.submit(r);
    r.units = 99;
    uint64_t b = h.submit(r);
    r.units = 5; /* of another range, but there is room beside the long ones */
    uint64_t c = h.submit(r);
    r.units = 101;
    uint64_t d = h.submit(r);
    h.finish(h.take(CORE_DISPATCH));
    Action batch = h.take(CORE_DISPATCH);
    EXPECT_EQ(batch.all.size(), 3u) << "four of 101 would cost 404";
    std::vector<uint64_t> ids = batch.ids();
    for (uint64_t id : {a, b, d})
        EXPECT_TRUE(std::count(ids.begin(), ids.end(), id)) << id;
    h.finish(batch);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), std::vector<uint64_t>{c});
}

TEST(Policy, ASlowSpellIsFollowed)
{
    Served h(1, 32);
    h.learn();
    for (int i = 0; i < 40; i++) {
        for (int j = 0; j < 5; j++)
            h.submit();
        while (h.has(CORE_DISPATCH))
            h.serve();
    }
    Request r;
    r.deadline = h.now + 6 * ms;
    EXPECT_NE(h.submit(r), 0u) << "2.1 ms";
    h.serve();
    h.base *= 4;
    h.each *= 4;
    for (int i = 0; i < 40; i++) {
        h.submit();
        while (h.has(CORE_DISPATCH))
            h.serve();
    }
    r.deadline = h.now + 6 * ms;
    EXPECT_EQ(h.refused(r), LIBSCHED_EDEADLINE) << "8.4 ms";
    h.base /= 4;
    h.each /= 4;
    for (int i = 0; i < 120; i++) {
        h.submit();
        while (h.has(CORE_DISPATCH))
            h.serve();
    }
    r.deadline = h.now + 6 * ms;
    EXPECT_NE(h.submit(r), 0u) << "fast again";
}

/* Until it is known what one request takes on device 0, and what on device 1. */
void learn_two_speeds(Harness &h, uint64_t fast, uint64_t slow)
{
    for (int i = 0; i < 200; i++) {
        h.submit();
        h.submit();
        for (int j = 0; j < 2; j++) {
            Action batch = h.take(CORE_DISPATCH);
            h.item(batch, batch.ids()[0]);
            h.now += fast;
            h.step_done(batch, LIBSCHED_OK, batch.device == 0 ? fast : slow);
        }
    }
}

/* Who is first is left to the device that can serve it in time; the other one does not wait for
 * that, but serves who comes behind. */
TEST(Policy, ASlowDeviceServesThoseBehindOneItIsTooSlowFor)
{
    Harness h;
    h.device(0);
    h.device(1);
    core_model model = Harness::one_shot(3);
    model.max_batch_requests = 1;
    h.add(0, model);
    h.start({0, 1});
    const uint64_t fast = ms, slow = 4 * ms;
    learn_two_speeds(h, fast, slow);
    h.submit();
    h.submit();
    Action first = h.take(CORE_DISPATCH), second = h.take(CORE_DISPATCH);
    if (first.device == 1)
        std::swap(first, second);
    h.finish(second);
    uint64_t urgent = h.submit({.deadline = h.now + 3 * fast});
    EXPECT_FALSE(h.has(CORE_DISPATCH));
    uint64_t patient = h.submit({.deadline = h.now + 2 * slow});
    Action behind = h.take(CORE_DISPATCH);
    EXPECT_EQ(behind.device, 1u);
    EXPECT_EQ(behind.ids(), std::vector<uint64_t>{patient});
    h.finish(first);
    Action then = h.take(CORE_DISPATCH);
    EXPECT_EQ(then.device, 0u);
    EXPECT_EQ(then.ids(), std::vector<uint64_t>{urgent});
}

/* Also when it is their turn beside a session: they are not for ever next. */
TEST(Policy, ASlowDeviceServesThoseBehindOneItIsTooSlowForBetweenTheStepsOfASession)
{
    Harness h;
    h.device(0);
    h.device(1);
    core_model model = Harness::one_shot(3);
    model.max_batch_requests = 1;
    h.add(0, model);
    h.add(1, Harness::steps(2));
    h.start({0, 1});
    const uint64_t fast = ms, slow = 4 * ms;
    learn_two_speeds(h, fast, slow);
    h.submit({.model = 1});
    Action session = h.take(CORE_DISPATCH);
    ASSERT_EQ(session.device, 1u);
    h.submit();
    Action first = h.take(CORE_DISPATCH);
    ASSERT_EQ(first.device, 0u);
    uint64_t urgent = h.submit({.deadline = h.now + 3 * fast});
    uint64_t patient = h.submit();
    h.step_done(session);
    session = h.take(CORE_STEP);
    h.step_done(session);
    Action behind = h.take(CORE_DISPATCH);
    EXPECT_EQ(behind.device, 1u);
    EXPECT_EQ(behind.ids(), std::vector<uint64_t>{patient});
    h.finish(behind);
    session = h.take(CORE_STEP);
    EXPECT_EQ(session.step, 3u);
    h.finish(first);
    EXPECT_EQ(h.take(CORE_DISPATCH).ids(), std::vector<uint64_t>{urgent});
}

/* Two hiccups must not lock everybody out for ever: nothing runs any more that could show that they
 * are over. */
TEST(Policy, WhatWasSlowIsTriedAgain)
{
    Served s;
    s.learn();
    for (int i = 0; i < 100; i++) {
        s.submit();
        s.serve();
    }
    const uint64_t base = s.base;
    s.base = 300 * ms;
    for (int i = 0; i < 40; i++) {
        s.submit();
        s.serve();
    }
    s.base = base;
    EXPECT_EQ(s.refused({.deadline = s.now + 25 * ms}), LIBSCHED_EDEADLINE);
    s.tick(s.now + 10000 * ms);
    int served = 0;
    for (int i = 0; i < 2000 && served < 100; i++) {
        s.tick(s.now + 10 * ms);
        core_event e = {};
        e.type = CORE_SUBMIT;
        e.u.submit.units = 1;
        e.u.submit.deadline = s.now + 25 * ms;
        s.handle(e);
        if (s.has(CORE_DISPATCH)) {
            s.serve();
            served++;
        }
    }
    EXPECT_EQ(served, 100);
}

/* Somebody who does not read keeps nobody else from being tried. */
TEST(Policy, WhatWasSlowIsTriedAgainBesideOneWhoWaitsForCredit)
{
    Served s;
    s.learn();
    s.base = 300 * ms;
    for (int i = 0; i < 40; i++) {
        s.submit();
        s.serve();
    }
    s.submit({.parts = true, .credit = 0});
    Action held = s.take(CORE_DISPATCH);
    s.part(held, held.ids()[0]);
    s.tick(s.now + s.base);
    s.item(held, held.ids()[0]);
    s.step_done(held, LIBSCHED_OK, s.base);
    s.base = 2 * ms;
    s.tick(s.now + 10000 * ms);
    s.submit({.deadline = s.now + 25 * ms});
    EXPECT_EQ(s.serve().all.size(), 1u);
}

} // namespace
