/* SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "sim/events.h"

namespace goodput
{

namespace
{

class Simulation : public World
{
  public:
    Simulation(const PolicyName &name, const Setup &setup,
               const std::vector<sim::Arrival> &arrivals)
        : running(setup.devices)
    {
        slo = setup.slo_ns;
        devices = setup.devices;
        models = setup.models;
        cost = setup.cost;
        requests.reserve(arrivals.size());
        for (const sim::Arrival &a : arrivals) {
            Request r = {};
            r.at = a.at;
            r.deadline = a.at + slo;
            r.units = a.units;
            r.model = a.model;
            requests.push_back(r);
        }
        policy = make_policy(name, *this);
    }

    void run()
    {
        uint32_t next = 0;
        uint64_t again = sim::never;
        for (;;) {
            uint64_t at = std::min(ends.first_at(), again);
            if (next < requests.size())
                at = std::min(at, requests[next].at);
            if (at == sim::never)
                break;
            now = std::max(now, at);
            while (ends.first_at() <= now)
                end(ends.take());
            while (next < requests.size() && requests[next].at <= now)
                policy->arrive(*this, next++);
            again = policy->decide(*this);
        }
    }

    void dispatch(uint32_t device, const uint32_t *ids, uint32_t n) override
    {
        std::deque<Batch> &given = running[device];
        if (given.size() >= policy->depth() || n == 0)
            die("a device is given too many batches, or an empty one");
        given.push_back({{ids, ids + n}, 0});
        batches++;
        for (uint32_t id : given.back().ids) {
            Request &q = requests[id];
            if (q.outcome != Outcome::waiting)
                die("a request is dispatched twice");
            q.outcome = Outcome::running;
            q.dispatched = now;
            q.device = device;
            q.batch = batches;
        }
        if (given.size() == 1)
            begin(device);
    }

    void drop(uint32_t id) override
    {
        if (requests[id].outcome != Outcome::waiting)
            die("a request is dropped that is not waiting");
        requests[id].outcome = Outcome::dropped;
        requests[id].end = now;
    }

    uint64_t batches = 0;

  private:
    struct Batch {
        std::vector<uint32_t> ids;
        uint64_t began;
    };

    [[noreturn]] static void die(const char *why)
    {
        std::fprintf(stderr, "bench-goodput: %s\n", why);
        std::exit(1);
    }

    void begin(uint32_t device)
    {
        Batch &batch = running[device].front();
        uint64_t units = 0;
        for (uint32_t id : batch.ids)
            units += requests[id].units;
        batch.began = now;
        ends.add(now + cost.of(units), device);
    }

    void end(uint32_t device)
    {
        const Batch batch = std::move(running[device].front());
        running[device].pop_front();
        for (uint32_t id : batch.ids) {
            Request &q = requests[id];
            q.end = now;
            q.outcome = now <= q.deadline ? Outcome::in_time : Outcome::late;
        }
        if (!running[device].empty())
            begin(device);
        policy->end(*this, device, batch.ids, batch.began);
    }

    std::unique_ptr<Policy> policy;
    sim::Events<uint32_t> ends;             /* devices */
    std::vector<std::deque<Batch>> running; /* of each device, the first under way */
};

} // namespace

Result simulate(const PolicyName &policy, const Setup &setup,
                const std::vector<sim::Arrival> &arrivals, bool keep)
{
    Simulation simulation(policy, setup, arrivals);
    simulation.run();
    Result result;
    std::vector<uint64_t> times;
    double sum = 0;
    for (const Request &r : simulation.requests) {
        if (r.at < setup.warm_up_ns)
            continue;
        result.counted++;
        switch (r.outcome) {
        case Outcome::in_time:
            result.in_time++;
            break;
        case Outcome::late:
            result.late++;
            break;
        case Outcome::dropped:
            result.dropped++;
            continue;
        default:
            std::fprintf(stderr, "bench-goodput: %s left a request without an end\n",
                         policy.name.c_str());
            std::exit(1);
        }
        times.push_back(r.end - r.at);
        sum += static_cast<double>(r.end - r.at);
    }
    result.batches = simulation.batches;
    if (!times.empty()) {
        size_t i = times.size() * 99 / 100;
        std::nth_element(times.begin(), times.begin() + static_cast<long>(i), times.end());
        result.mean_ms = sum / static_cast<double>(times.size()) / 1e6;
        result.p99_ms = static_cast<double>(times[i]) / 1e6;
    }
    if (keep)
        result.requests = std::move(simulation.requests);
    return result;
}

} // namespace goodput
