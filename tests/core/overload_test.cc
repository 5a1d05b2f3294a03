/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More work than can be done, on devices with a clock: how much of it is served in time. The bounds
 * are wide; what they keep out are collapses.
 */
#include <algorithm>
#include <deque>
#include <numeric>
#include <random>

#include "harness.h"

namespace
{

constexpr uint64_t ms = 1000000;

/* Devices that serve n in (2 ms + 0.1 ms · n) times their slowness, at most 32 at a time. */
class Busy : public Harness
{
  public:
    struct Shape {
        uint32_t devices = 1;
        uint64_t lead = 0; /* with it, two steps are under way */
        uint64_t memory = 0, memory_per_unit = 0;
        uint32_t models = 1;
        uint64_t seed = 7;
    };
    uint64_t served = 0;            /* in time, since it was set to 0 */
    std::vector<uint64_t> of_model; /* likewise */
    std::vector<double> slowness;
    std::vector<uint64_t> of_device;
    uint64_t clients = 1;
    double spread = 0;             /* sigma of the logarithm of a batch's time */
    uint64_t stall = 0, every = 1; /* a batch of so many takes so much longer */

    explicit Busy(const Shape &shape)
        : Harness(700, 64), of_model(shape.models), slowness(shape.devices, 1.0),
          of_device(shape.devices), random(shape.seed), given(shape.devices),
          ends(shape.devices, UINT64_MAX), lasts(shape.devices)
    {
        for (uint32_t i = 0; i < shape.devices; i++)
            device(i, shape.memory, shape.lead == 0 ? 1 : 2, shape.lead);
        core_model m = one_shot((UINT64_C(1) << shape.devices) - 1);
        m.max_batch_requests = m.max_batch_units = 32;
        m.queue_limit = 600;
        m.memory_per_unit = shape.memory_per_unit;
        for (uint32_t i = 0; i < shape.models; i++)
            add(i, m);
        for (uint32_t i = 0; i < shape.devices; i++)
            up(i);
        while (has(CORE_LOAD)) {
            Action load = take(CORE_LOAD);
            loaded(load.device, load.model);
        }
    }

    /* Poisson arrivals of so many a second, for so long; each has `slack` (0: any time). */
    void run(uint64_t ns, double rate, uint64_t slack)
    {
        std::exponential_distribution<> gap(rate / 1e9);
        const uint64_t until = now + ns;
        uint64_t next = now + static_cast<uint64_t>(gap(random));
        for (;;) {
            auto first = std::min_element(ends.begin(), ends.end());
            uint64_t at = std::min(next, *first);
            if (timer != 0 && timer < at) {
                if (timer > until)
                    break;
                tick(std::max(timer, now));
            } else if (at > until) {
                break;
            } else if (at == *first) {
                now = at;
                end(static_cast<uint32_t>(first - ends.begin()));
            } else {
                now = at;
                arrive(slack);
                next = now + static_cast<uint64_t>(gap(random)) + 1;
            }
            begin_all();
        }
    }

    void arrive(uint64_t slack)
    {
        core_event event = {};
        event.type = CORE_SUBMIT;
        event.u.submit.model = static_cast<uint32_t>(random() % of_model.size());
        event.u.submit.units = 1;
        event.u.submit.deadline = slack == 0 ? 0 : now + slack;
        event.u.submit.client = random() % clients;
        handle(event);
        if (event.u.submit.id != 0)
            wanted[event.u.submit.id] = {slack == 0 ? UINT64_MAX : now + slack,
                                         event.u.submit.model};
    }

  private:
    void begin_all()
    {
        while (has(CORE_DISPATCH)) {
            Action batch = take(CORE_DISPATCH);
            given[batch.device].push_back(batch);
            if (given[batch.device].size() == 1)
                begin(batch.device);
        }
        actions.clear();
        replies.clear();
    }

    void begin(uint32_t device)
    {
        double noise = 1 + 0.02 * std::uniform_real_distribution<>(0, 1)(random);
        if (spread > 0)
            noise *= std::lognormal_distribution<>(0, spread)(random);
        size_t n = given[device].front().all.size();
        lasts[device] = static_cast<uint64_t>(static_cast<double>(2 * ms + ms / 10 * n) *
                                              slowness[device] * noise);
        if (stall != 0 && random() % every == 0)
            lasts[device] += stall;
        ends[device] = now + lasts[device];
    }

    void end(uint32_t device)
    {
        Action batch = given[device].front();
        uint64_t ns = lasts[device];
        given[device].pop_front();
        ends[device] = UINT64_MAX;
        if (!given[device].empty())
            begin(device);
        for (const auto &i : batch.all) {
            const Wanted &w = wanted[i.id];
            if (now <= w.deadline) {
                served++;
                of_model[w.model]++;
                of_device[device]++;
            }
            item(batch, i.id);
        }
        step_done(batch, LIBSCHED_OK, ns);
    }

    std::mt19937_64 random;
    std::vector<std::deque<Action>> given;
    std::vector<uint64_t> ends, lasts;
    struct Wanted {
        uint64_t deadline;
        uint32_t model;
    };
    std::map<uint64_t, Wanted> wanted;
};

/* 32 in 5.2 ms: 6150 a second. */
constexpr uint64_t most = 6150;

TEST(Overload, WithStepsGivenAheadAsMuchIsServed)
{
    for (double rate : {9000.0, 12000.0, 18000.0}) {
        Busy b({.lead = ms / 4});
        b.run(500 * ms, rate / 2, 0);
        b.run(300 * ms, 10, 0);
        b.served = 0;
        b.run(1000 * ms, rate, 25 * ms);
        EXPECT_GT(b.served, most * 9 / 10) << rate;
    }
}

/* Who comes before a batch begins that is given long ahead is not in it, and nobody is given up for
 * their sake. */
TEST(Overload, ABatchGivenLongAheadCountsOnThoseWhoAreThere)
{
    Busy b({.lead = 4 * ms});
    b.run(500 * ms, 4500, 0);
    b.run(300 * ms, 10, 0);
    b.served = 0;
    b.run(2000 * ms, 9000, 10 * ms);
    EXPECT_GT(b.served, 8700u);
}

/* Out of the order in which they came, and of several clients. */
TEST(Overload, ThePlanKnowsWhoIsNext)
{
    for (uint64_t clients : {1, 5}) {
        Busy b({});
        b.clients = clients;
        b.run(500 * ms, 4500, 0);
        b.run(300 * ms, 10, 0);
        for (int i = 0; i < 40; i++)
            b.arrive(0);
        b.served = 0;
        b.run(1000 * ms, 12000, 25 * ms);
        EXPECT_GT(b.served, most * 9 / 10) << clients;
    }
}

TEST(Overload, ADeviceThatWasSlowForAWhileIsUsedAgain)
{
    for (uint64_t seed : {2, 7}) {
        Busy b({.devices = 2, .seed = seed});
        b.run(500 * ms, 6000, 0);
        b.slowness[1] = 20;
        b.run(100 * ms, 4000, 0);
        b.slowness[1] = 1;
        b.run(200 * ms, 10, 0);
        b.run(4000 * ms, 9000, 25 * ms);
        b.of_device = {0, 0};
        b.run(1000 * ms, 9000, 25 * ms);
        EXPECT_GT(b.of_device[1], 3000u) << seed;
        EXPECT_GT(b.of_device[0], 3000u) << seed;
    }
}

/* A device that now and then stands still for longer than anybody has time serves those who come in
 * between. */
TEST(Overload, AMomentsStandstillRefusesNobodyAfterIt)
{
    for (uint64_t lead : {UINT64_C(0), ms / 4}) {
        Busy b({.lead = lead});
        b.run(500 * ms, 2000, 25 * ms);
        b.stall = 50 * ms;
        b.every = 50;
        b.served = 0;
        b.run(4000 * ms, 2000, 25 * ms);
        /* It stands still for a fifth of the time, and for half a deadline more nobody who came
         * then can be served. */
        EXPECT_GT(b.served, 4 * 2000 * 55u / 100) << lead;
    }
}

/* Where times vary, whoever is expected to be in time is tried, though it may not be: one in fifty
 * takes nearly twice as long here. */
TEST(Overload, WhoMayWellBeInTimeIsNotRefused)
{
    Busy b({.lead = ms / 4});
    b.spread = 0.3;
    b.run(500 * ms, 1000, 6 * ms);
    b.served = 0;
    b.run(2000 * ms, 1000, 6 * ms);
    EXPECT_GT(b.served, 2 * 1000 / 2u);
}

/* A model of which only small batches were seen is thought to be slow; were it passed over for
 * that, nothing larger would ever be seen. */
TEST(Overload, NoModelIsLeftOutForWhatIsNotKnownOfIt)
{
    for (uint64_t lead : {UINT64_C(0), ms / 4}) {
        Busy b({.lead = lead, .models = 6});
        b.run(300 * ms, 100, 0);
        b.run(300 * ms, 12000, 25 * ms);
        b.of_model.assign(6, 0);
        b.run(700 * ms, 12000, 25 * ms);
        uint64_t least = *std::min_element(b.of_model.begin(), b.of_model.end());
        uint64_t sum = std::accumulate(b.of_model.begin(), b.of_model.end(), UINT64_C(0));
        EXPECT_GT(least, sum / 6 / 4);
    }
}

/* Given ahead, a batch would find the memory that it needs taken by the one under way. */
TEST(Overload, WhereMemoryIsCountedBatchesStayLarge)
{
    uint64_t served[2];
    for (int ahead = 0; ahead < 2; ahead++) {
        Busy b({.lead = ahead == 0 ? 0 : ms / 4, .memory = 1000, .memory_per_unit = 100});
        b.run(300 * ms, 2000, 0);
        b.served = 0;
        b.run(700 * ms, 6000, 0);
        served[ahead] = b.served;
    }
    EXPECT_GT(served[1], served[0] * 9 / 10);
}

} // namespace
