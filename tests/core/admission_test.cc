/* SPDX-License-Identifier: Apache-2.0 */
/* What is taken in, and what is refused and why. */
#include "harness.h"

TEST(Admission, LimitsOfSetUpAreChecked)
{
    core_config config = {0, 1, 0};
    EXPECT_EQ(core_new(&config), nullptr);
    config.max_requests = (1u << 24) + 1;
    EXPECT_EQ(core_new(&config), nullptr);
    EXPECT_EQ(core_new(nullptr), nullptr);

    Harness h;
    core_device d = {CORE_COMPUTE, 0, 0};
    EXPECT_EQ(core_add_device(h.c, CORE_MAX_DEVICES, &d), LIBSCHED_EINVAL);
    EXPECT_EQ(core_add_device(h.c, 0, &d), LIBSCHED_OK);
    EXPECT_EQ(core_add_device(h.c, 0, &d), LIBSCHED_EEXIST);
    d.depth = CORE_MAX_DEPTH + 1;
    EXPECT_EQ(core_add_device(h.c, 1, &d), LIBSCHED_EINVAL);

    core_model m = Harness::one_shot();
    EXPECT_EQ(h.add(CORE_MAX_MODELS, m), LIBSCHED_EINVAL);
    m.devices = 0;
    EXPECT_EQ(h.add(0, m), LIBSCHED_EINVAL);
    m.devices = 2; /* no such device */
    EXPECT_EQ(h.add(0, m), LIBSCHED_EINVAL);
    m = Harness::one_shot();
    m.max_batch_requests = CORE_MAX_BATCH + 1;
    EXPECT_EQ(h.add(0, m), LIBSCHED_EINVAL);
    m.max_batch_requests = 1;
    EXPECT_EQ(h.add(0, m), LIBSCHED_OK);
    EXPECT_EQ(h.add(0, m), LIBSCHED_EEXIST);
}

TEST(Admission, RefusalsNameTheirReason)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    EXPECT_EQ(h.refused({1}), LIBSCHED_ENOMODEL);
    EXPECT_EQ(h.refused({UINT32_MAX}), LIBSCHED_ENOMODEL);
    Request r;
    r.units = 0;
    EXPECT_EQ(h.refused(r), LIBSCHED_EINVAL);
    r.units = 1001;
    EXPECT_EQ(h.refused(r), LIBSCHED_ETOOBIG);
    r = {};
    r.priority = CORE_PRIORITIES;
    EXPECT_EQ(h.refused(r), LIBSCHED_EINVAL);
    r = {};
    r.deadline = h.now;
    EXPECT_EQ(h.refused(r), LIBSCHED_EDEADLINE);
    EXPECT_EQ(h.counts().refused, 6u);
    EXPECT_EQ(h.counts(0).refused, 4u);
    EXPECT_EQ(h.counts().submitted, 0u);
}

TEST(Admission, AQueueIsBounded)
{
    Harness h;
    h.device(0);
    core_model m = Harness::one_shot();
    m.queue_limit = 3;
    h.add(0, m);
    for (int i = 0; i < 3; i++)
        h.submit();
    uint64_t retry_after = 0;
    EXPECT_EQ(h.refused({}, &retry_after), LIBSCHED_EQUEUEFULL);
    EXPECT_GT(retry_after, 0u);

    /* What runs doesn't count. */
    h.start({0});
    h.submit();
    EXPECT_EQ(h.counts().running, 3u);
    EXPECT_EQ(h.counts().queued, 1u);
}

TEST(Admission, TheWholeIsBounded)
{
    Harness h(2);
    h.device(0);
    h.add(0, Harness::one_shot());
    h.add(1, Harness::one_shot());
    h.submit({0});
    uint64_t second = h.submit({1});
    uint64_t retry_after = 0;
    EXPECT_EQ(h.refused({0}, &retry_after), LIBSCHED_EBUSY);
    EXPECT_GT(retry_after, 0u);
    h.cancel(second);
    h.submit({0});
}

TEST(Admission, RetryAfterFollowsTheObservedService)
{
    Harness h;
    h.device(0);
    core_model m = Harness::one_shot();
    m.queue_limit = 100;
    h.add(0, m);
    h.start({0});
    for (int i = 0; i < 101; i++)
        h.submit();
    uint64_t unknown = 0, slow = 0, fast = 0;
    EXPECT_EQ(h.refused({}, &unknown), LIBSCHED_EQUEUEFULL);

    auto serve = [&](uint64_t ns) {
        h.now += ns;
        Action batch = h.take(CORE_DISPATCH);
        for (const auto &i : batch.all)
            h.item(batch, i.id);
        h.step_done(batch, LIBSCHED_OK, ns);
        while (h.refused({}) == LIBSCHED_OK)
            ;
    };
    /* 40 ms a unit, 100 waiting: a quarter of it. */
    for (int i = 0; i < 60; i++)
        serve(40000000 * 8ull);
    h.refused({}, &slow);
    EXPECT_GT(slow, 800000000u);
    EXPECT_LT(slow, 1200000000u);
    for (int i = 0; i < 2000; i++)
        serve(8);
    h.refused({}, &fast);
    EXPECT_EQ(fast, 1000000u) << "never less than a millisecond";
}

TEST(Admission, DrainingRefusesAndFinishes)
{
    Harness h;
    h.device(0);
    h.add(0, Harness::one_shot());
    h.start({0});
    uint64_t running = h.submit(), waiting = h.submit();
    h.drain();
    EXPECT_EQ(h.refused({}), LIBSCHED_ECLOSING);
    h.finish(h.take(CORE_DISPATCH));
    h.finish(h.take(CORE_DISPATCH));
    EXPECT_EQ(h.status(running), LIBSCHED_OK);
    EXPECT_EQ(h.status(waiting), LIBSCHED_OK);
}

TEST(Admission, ClientsBeyondTheTableShareAnEntry)
{
    Harness h(256, 2);
    h.device(0);
    h.add(0, Harness::one_shot());
    std::vector<uint64_t> ids;
    for (uint64_t i = 0; i < 50; i++) {
        Request r;
        r.client = i % 7 * 0x100000000ull;
        ids.push_back(h.submit(r));
    }
    for (uint64_t id : ids)
        h.cancel(id);
    EXPECT_EQ(h.counts().cancelled, 50u);
}

TEST(Admission, IdsAreNeverZeroAndNotUsedAgain)
{
    Harness h(1);
    h.device(0);
    h.add(0, Harness::one_shot());
    uint64_t first = h.submit();
    EXPECT_EQ(first & 0xffffff, 0u);
    EXPECT_NE(first, 0u);
    h.cancel(first);
    uint64_t second = h.submit();
    EXPECT_NE(first, second);
    EXPECT_EQ(first & 0xffffff, second & 0xffffff) << "the slot is used again";
    EXPECT_EQ(h.cancel(first), LIBSCHED_ENOENT);
    EXPECT_EQ(h.grant(first, 1), LIBSCHED_ENOENT);
}

TEST(Admission, EventsOfUnknownDevicesAreRefused)
{
    Harness h;
    core_event event = {};
    event.type = CORE_WORKER_UP;
    event.device = 3;
    EXPECT_EQ(h.handle(event), LIBSCHED_ENODEVICE);
    event.device = CORE_MAX_DEVICES;
    EXPECT_EQ(h.handle(event), LIBSCHED_ENODEVICE);
    event.type = static_cast<core_event_type>(77);
    EXPECT_EQ(h.handle(event), LIBSCHED_EINVAL);
}
