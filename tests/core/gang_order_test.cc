/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: which is next, on which devices, and why one waits. */
#include "harness.h"

using Devices = std::vector<uint32_t>;

namespace
{
constexpr uint64_t second = 1000000000;

struct Machine : Harness {
    explicit Machine(uint32_t n, uint64_t memory = 0)
    {
        for (uint32_t i = 0; i < n; i++) {
            device(i, memory);
            up(i);
        }
    }

    /* The job that has been started goes through one step of so long, and ends. */
    uint64_t run(uint64_t ns)
    {
        Action start = take(CORE_JOB_START);
        started(start);
        Action step = take(CORE_JOB_STEP);
        now += ns;
        stepped(step, true);
        closed(take(CORE_JOB_CLOSE));
        return start.job;
    }

    uint64_t running(const Job &wanted)
    {
        uint64_t id = job(wanted);
        started(take(CORE_JOB_START));
        take(CORE_JOB_STEP);
        return id;
    }

    /* Ends one that is in its first step. */
    void end(uint64_t id, const Devices &on)
    {
        for (uint32_t d : on)
            rank(CORE_RANK_STEPPED, d, id, 1, true);
        closed(take(CORE_JOB_CLOSE));
    }
};
} // namespace

TEST(GangOrder, ClientsShareDeviceTime)
{
    Machine m(1);
    std::map<uint64_t, uint64_t> had;
    std::map<uint64_t, uint64_t> client_of;
    for (int i = 0; i < 40; i++)
        client_of[m.job({.client = 1})] = 1;
    for (int i = 0; i < 40; i++)
        client_of[m.job({.client = 2})] = 2;
    /* The second's take thrice as long. */
    for (int i = 0; i < 24; i++) {
        ASSERT_TRUE(m.has(CORE_JOB_START));
        uint64_t client = client_of[m.actions.back().job];
        for (const auto &a : m.actions)
            if (a.type == CORE_JOB_START)
                client = client_of[a.job];
        uint64_t ns = client == 1 ? second : 3 * second;
        m.run(ns);
        had[client] += ns;
    }
    EXPECT_NEAR(static_cast<double>(had[1]), static_cast<double>(had[2]), 5.0 * second);
}

TEST(GangOrder, WeightsAndClassesCount)
{
    Machine m(1);
    EXPECT_EQ(core_set_client(m.c, 2, 3, 0), LIBSCHED_OK);
    std::map<uint64_t, uint32_t> kind, had;
    for (int i = 0; i < 40; i++) {
        kind[m.job({.client = 1})] = 1;
        kind[m.job({.client = 2})] = 2;
        kind[m.job({.client = 1, .priority = 1})] = 3;
    }
    for (int i = 0; i < 36; i++)
        had[kind[m.run(second)]]++;
    EXPECT_NEAR(had[1], 6, 1.5);
    EXPECT_NEAR(had[2], 18, 2);
    EXPECT_NEAR(had[3], 12, 1.5) << "class 1 has half of what class 0 has";
}

TEST(GangOrder, WhoComesBackOwesWhatHeHad)
{
    Machine m(1);
    uint64_t first = m.job({.client = 1});
    std::map<uint64_t, uint64_t> client_of;
    for (int i = 0; i < 10; i++)
        client_of[m.job({.client = 2})] = 2;
    EXPECT_EQ(m.run(8 * second), first);
    client_of[m.job({.client = 1})] = 1;
    int before = 0;
    while (client_of[m.run(second)] != 1)
        before++;
    EXPECT_GE(before, 5) << "though he had nothing waiting";
    EXPECT_LE(before, 8);
}

TEST(GangOrder, NobodyIsKeptWaitingByThoseWhoAlwaysComeNew)
{
    Machine m(1);
    m.job({.client = 1});
    m.run(10 * second); /* he is in debt */
    uint64_t id = m.job({.client = 1});
    uint64_t client = 100;
    int before = 0;
    m.job({.client = client++});
    while (m.run(second) != id && before < 1000) {
        m.job({.client = client++});
        before++;
    }
    EXPECT_LT(before, 200);
}

/* ------------------------------------------------------------------- reservation and backfill */

TEST(GangOrder, TheHeadKeepsItsDevices)
{
    Machine m(2);
    uint64_t running = m.running({.devices = 1, .client = 1});
    uint64_t head = m.job({.k = 2, .devices = 3, .client = 2});
    uint64_t other = m.job({.devices = 3, .client = 3});
    EXPECT_FALSE(m.has(CORE_JOB_START)) << "device 1 is kept";
    core_job_info info = m.info(head);
    EXPECT_EQ(info.state, CORE_JOB_PENDING);
    EXPECT_EQ(info.why, CORE_WHY_DEVICES);
    EXPECT_EQ(info.have, 1u);
    EXPECT_EQ(info.need, 2u);
    EXPECT_EQ(info.blocker, running);
    EXPECT_EQ(info.starts_by, 0u) << "it has no limit";
    info = m.info(other);
    EXPECT_EQ(info.why, CORE_WHY_ORDER);
    EXPECT_EQ(info.blocker, head);
    m.end(running, {0});
    EXPECT_EQ(m.run(second), head);
    EXPECT_EQ(m.run(second), other);
}

TEST(GangOrder, BackfillGoesByTheLimits)
{
    Machine m(3);
    uint64_t running = m.running({.devices = 1, .time_limit = 10 * second, .client = 1});
    uint64_t head = m.job({.k = 2, .devices = 3, .client = 2});
    EXPECT_EQ(m.info(head).starts_by, m.now + 10 * second + 2 * 60 * second);
    /* No limit, or too long a one. */
    uint64_t endless = m.job({.devices = 2, .client = 3});
    uint64_t longer = m.job({.devices = 2, .time_limit = 9 * second, .step_limit = 2 * second});
    EXPECT_FALSE(m.has(CORE_JOB_START));
    /* Elsewhere, or short enough. */
    m.running({.devices = 6, .client = 4});
    uint64_t shorter = m.job({.devices = 2, .time_limit = 8 * second, .step_limit = 2 * second});
    Action start = m.take(CORE_JOB_START);
    EXPECT_EQ(start.job, shorter);
    EXPECT_EQ(start.on, Devices{1});
    m.started(start);
    m.stepped(m.take(CORE_JOB_STEP), true);
    m.closed(m.take(CORE_JOB_CLOSE));
    EXPECT_FALSE(m.has(CORE_JOB_START));
    EXPECT_EQ(m.info(endless).why, CORE_WHY_ORDER);
    EXPECT_EQ(m.info(longer).blocker, head);
    m.end(running, {0});
    EXPECT_EQ(m.take(CORE_JOB_START).job, head);
}

TEST(GangOrder, AHeadThatCannotBeServedHoldsUpNobody)
{
    Harness h;
    for (uint32_t i = 0; i < 3; i++)
        h.device(i);
    h.up(0);
    uint64_t head = h.job({.k = 2, .devices = 6});
    EXPECT_EQ(h.info(head).why, CORE_WHY_DOWN);
    uint64_t other = h.job({.devices = 3});
    EXPECT_EQ(h.take(CORE_JOB_START).job, other);
    h.up(1);
    EXPECT_FALSE(h.has(CORE_JOB_START));
    EXPECT_EQ(h.info(head).have, 1u);
    h.up(2);
    EXPECT_EQ(h.take(CORE_JOB_START).on, (Devices{1, 2}));
}

TEST(GangOrder, AWorkerThatDiedIsWaitedForAWhile)
{
    Machine m(2);
    uint64_t running = m.running({.devices = 1, .client = 1});
    uint64_t head = m.job({.k = 2, .devices = 3, .client = 2});
    m.down(0);
    EXPECT_EQ(m.job_status(running), LIBSCHED_EDEVICELOST);
    uint64_t other = m.job({.devices = 2, .client = 3});
    EXPECT_FALSE(m.has(CORE_JOB_START)) << "device 1 is still kept";
    EXPECT_EQ(m.info(head).why, CORE_WHY_DOWN);
    m.tick(m.now + 61 * second);
    EXPECT_EQ(m.take(CORE_JOB_START).job, other) << "it does not come back";
    m.up(0);
    EXPECT_FALSE(m.has(CORE_JOB_START));
    EXPECT_EQ(m.info(head).why, CORE_WHY_DEVICES);
}

/* ------------------------------------------------------------------------------ which devices */

TEST(GangOrder, NearDevicesAreChosen)
{
    Machine m(4);
    for (uint32_t a = 0; a < 4; a++)
        for (uint32_t b = a + 1; b < 4; b++)
            EXPECT_EQ(core_set_distance(m.c, a, b, 20), LIBSCHED_OK);
    EXPECT_EQ(core_set_distance(m.c, 1, 3, 5), LIBSCHED_OK);
    EXPECT_EQ(core_set_distance(m.c, 1, 1, 5), LIBSCHED_EINVAL);
    EXPECT_EQ(core_set_distance(m.c, 1, CORE_MAX_DEVICES, 5), LIBSCHED_EINVAL);
    uint64_t id = m.job({.k = 2, .devices = 15});
    EXPECT_EQ(m.take(CORE_JOB_START).on, (Devices{1, 3}));
    EXPECT_EQ(m.info(id).distance, 5u);
    EXPECT_EQ(m.info(id).least_distance, 5u);
    uint64_t other = m.job({.k = 2, .devices = 15});
    EXPECT_EQ(m.take(CORE_JOB_START).on, (Devices{0, 2})) << "rather than wait for ever";
    EXPECT_EQ(m.info(other).distance, 20u);
    EXPECT_EQ(m.info(other).least_distance, 5u);
}

TEST(GangOrder, OfManyDevicesToo)
{
    Harness h;
    for (uint32_t i = 0; i < 32; i++) {
        h.device(i);
        h.up(i);
    }
    /* Islands of 8. */
    for (uint32_t a = 0; a < 32; a++)
        for (uint32_t b = a + 1; b < 32; b++)
            core_set_distance(h.c, a, b, a / 8 == b / 8 ? 1 : 10);
    uint64_t one = h.job({.devices = UINT64_C(0xffffffff)});
    EXPECT_EQ(h.take(CORE_JOB_START).on, Devices{0});
    uint64_t id = h.job({.k = 8, .devices = UINT64_C(0xffffffff)});
    EXPECT_EQ(h.take(CORE_JOB_START).on, (Devices{8, 9, 10, 11, 12, 13, 14, 15}));
    EXPECT_EQ(h.info(id).distance, 28u);
    EXPECT_EQ(h.info(id).least_distance, 28u);
    (void)one;
}

TEST(GangOrder, DevicesThatAreNeededElsewhereAreLeftAlone)
{
    Machine m(2, 100);
    core_model model = Harness::one_shot(1);
    model.memory_bytes = 60;
    m.add(0, model);
    m.loaded(0, 0, LIBSCHED_OK, 60);
    m.job({.devices = 3, .memory = 50});
    EXPECT_EQ(m.take(CORE_JOB_START).on, Devices{1}) << "nothing has to be evicted there";
    EXPECT_FALSE(m.has(CORE_EVICT));
}
