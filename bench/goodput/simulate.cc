/* SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

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
        Running &r = running[device];
        uint64_t units = 0;
        if (r.busy || n == 0)
            die("a device is given two batches, or an empty one");
        r.ids.assign(ids, ids + n);
        r.busy = true;
        r.began = now;
        batches++;
        for (uint32_t id : r.ids)
            units += requests[id].units;
        uint64_t ends_at = now + cost.of(units);
        for (uint32_t id : r.ids) {
            Request &q = requests[id];
            if (q.outcome != Outcome::waiting)
                die("a request is dispatched twice");
            q.outcome = Outcome::running;
            q.dispatched = now;
            q.device = device;
            q.batch = batches;
        }
        ends.add(ends_at, device);
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
    struct Running {
        bool busy = false;
        uint64_t began = 0;
        std::vector<uint32_t> ids;
    };

    [[noreturn]] static void die(const char *why)
    {
        std::fprintf(stderr, "bench-goodput: %s\n", why);
        std::exit(1);
    }

    void end(uint32_t device)
    {
        Running &r = running[device];
        r.busy = false;
        for (uint32_t id : r.ids) {
            Request &q = requests[id];
            q.end = now;
            q.outcome = now <= q.deadline ? Outcome::in_time : Outcome::late;
        }
        policy->end(*this, device, r.ids, r.began);
    }

    std::unique_ptr<Policy> policy;
    sim::Events<uint32_t> ends; /* devices */
    std::vector<Running> running;
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
