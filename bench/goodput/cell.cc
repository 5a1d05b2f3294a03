/* SPDX-License-Identifier: Apache-2.0 */
#include "cell.h"

#include <algorithm>
#include <cmath>

#include "sim/bounds.h"

namespace goodput
{

namespace
{

std::vector<sim::Arrival> arrivals_of(const Place &place, double rate, uint64_t seed,
                                      uint64_t counted_ns)
{
    const Setup &s = place.setup;
    if (!place.trace.empty())
        return place.trace;
    uint64_t gap = static_cast<uint64_t>(1e9 * s.models / rate);
    return sim::make_arrivals(seed, s.models, gap, place.cv_percent, s.warm_up_ns + counted_ns);
}

/* How long the requests that count take to come. */
uint64_t length(const Place &place, double rate, const Extent &extent)
{
    if (!place.trace.empty())
        return place.trace.back().at + 1;
    return std::max(extent.least_ns,
                    static_cast<uint64_t>(1e9 * static_cast<double>(extent.requests) / rate));
}

std::vector<PolicyName> settings(const std::string &policy)
{
    if (policy == "timeout")
        return timeout_settings;
    return {{policy}};
}

struct Runs {
    std::string policy;
    std::vector<double> goodput; /* of each seed */
    double mean_ms = 0, p99_ms = 0, late = 0, batch = 0;

    double mean() const
    {
        double sum = 0;
        for (double g : goodput)
            sum += g;
        return sum / static_cast<double>(goodput.size());
    }
};

Runs run_policy(const Place &place, const PolicyName &name, double rate, const Extent &extent)
{
    const uint64_t ns = length(place, rate, extent);
    uint32_t seeds = place.trace.empty() ? extent.seeds : 1;
    Runs runs;
    runs.policy = name.name;
    for (uint32_t seed = 1; seed <= seeds; seed++) {
        Result r = simulate(name, place.setup, arrivals_of(place, rate, seed, ns));
        runs.goodput.push_back(1e9 * static_cast<double>(r.in_time) / static_cast<double>(ns));
        runs.mean_ms += r.mean_ms / seeds;
        runs.p99_ms += r.p99_ms / seeds;
        runs.late += static_cast<double>(r.late) /
                     static_cast<double>(std::max<uint64_t>(1, r.counted)) / seeds;
        runs.batch += static_cast<double>(r.in_time + r.late) /
                      static_cast<double>(std::max<uint64_t>(1, r.batches)) / seeds;
    }
    return runs;
}

std::vector<sim::Arrival> after_warm_up(const Setup &setup, const std::vector<sim::Arrival> &all)
{
    std::vector<sim::Arrival> rest;
    for (const sim::Arrival &a : all)
        if (a.at >= setup.warm_up_ns)
            rest.push_back(a);
    return rest;
}

double bound_of(const Place &place, double rate, const Extent &extent)
{
    const uint64_t ns = length(place, rate, extent);
    double sum = 0;
    for (uint32_t seed = 1; seed <= extent.seeds; seed++)
        sum += static_cast<double>(fluid_bound(
            place.setup.place(), after_warm_up(place.setup, arrivals_of(place, rate, seed, ns))));
    return 1e9 * sum / static_cast<double>(ns) / extent.seeds;
}

/* Each policy's share of what is best, over a few seeds of fewer requests. */
void compare_with_optimum(Cell *cell, double rate, const Extent &extent)
{
    const Place &place = *cell->place;
    uint64_t ns = static_cast<uint64_t>(1e9 * static_cast<double>(extent.optimum_requests) / rate);
    std::vector<double> served(cell->scores.size(), 0);
    double best = 0;
    for (uint32_t seed = 1; seed <= extent.optimum_seeds; seed++) {
        auto arrivals = arrivals_of(place, rate, seed, ns);
        uint64_t most = 0;
        for (size_t i = 0; i < cell->scores.size(); i++) {
            uint64_t of_policy = 0;
            for (const PolicyName &name : settings(cell->scores[i].policy))
                of_policy = std::max(of_policy, simulate(name, place.setup, arrivals).in_time);
            served[i] += static_cast<double>(of_policy);
            most = std::max(most, of_policy);
        }
        best += static_cast<double>(
            optimum(place.setup.place(), after_warm_up(place.setup, arrivals), most));
    }
    for (size_t i = 0; i < cell->scores.size(); i++)
        cell->scores[i].vs_optimum = best > 0 ? served[i] / best : 0;
}

} // namespace

void run_cell(Cell *cell, const std::vector<std::string> &policies, const Extent &extent)
{
    const Place &place = *cell->place;
    double u1 = bound_u1(place.setup.place());
    double rate = u1 * cell->load;
    std::vector<Runs> all;
    const Runs *best = nullptr;

    if (!place.trace.empty()) {
        double units = 0;
        for (const sim::Arrival &a : place.trace)
            units += static_cast<double>(a.units);
        u1 /= units / static_cast<double>(place.trace.size());
    }
    for (const std::string &policy : policies) {
        Runs chosen;
        for (const PolicyName &name : settings(policy)) {
            Runs runs = run_policy(place, name, rate, extent);
            if (chosen.goodput.empty() || runs.mean() > chosen.mean())
                chosen = std::move(runs);
        }
        all.push_back(std::move(chosen));
    }
    for (const Runs &runs : all)
        if (!PolicyName{runs.policy}.core() && (best == nullptr || runs.mean() > best->mean()))
            best = &runs;
    double bound = place.trace.empty() ? bound_of(place, rate, extent) : 0;
    for (const Runs &runs : all) {
        Score s;
        s.policy = runs.policy;
        s.goodput = runs.mean();
        s.vs_u1 = s.goodput / u1;
        if (place.trace.empty()) {
            s.vs_fluid = s.goodput / fluid_estimate(place.setup.place(), rate);
            s.vs_bound = bound > 0 ? s.goodput / bound : 0;
        }
        if (best != nullptr && best->mean() > 0) {
            s.best = best->policy;
            s.vs_best = s.goodput / best->mean();
            double n = static_cast<double>(runs.goodput.size()), variance = 0;
            for (size_t i = 0; i < runs.goodput.size(); i++) {
                double d = (runs.goodput[i] - best->goodput[i]) - (s.goodput - best->mean());
                variance += d * d;
            }
            if (n > 1)
                s.vs_best_error = std::sqrt(variance / (n - 1) / n) / best->mean();
        }
        s.mean_ms = runs.mean_ms;
        s.p99_ms = runs.p99_ms;
        s.late = runs.late;
        s.batch = runs.batch;
        cell->scores.push_back(s);
    }
    if (place.trace.empty() && place.setup.devices == 1 && place.setup.models == 1 &&
        extent.optimum_seeds > 0)
        compare_with_optimum(cell, rate, extent);
}

std::vector<sim::Arrival> first_arrivals(const Cell &cell, const Extent &extent)
{
    double rate = bound_u1(cell.place->setup.place()) * cell.load;
    return arrivals_of(*cell.place, rate, 1, length(*cell.place, rate, extent));
}

namespace
{

double in_time_at(const Place &place, const PolicyName &name, double rate, const Extent &extent)
{
    const uint64_t ns = length(place, rate, extent);
    uint64_t counted = 0, in_time = 0;
    for (uint32_t seed = 1; seed <= extent.rate_seeds; seed++) {
        Result r = simulate(name, place.setup, arrivals_of(place, rate, seed, ns));
        counted += r.counted;
        in_time += r.in_time;
    }
    return counted == 0 ? 1 : static_cast<double>(in_time) / static_cast<double>(counted);
}

double greatest_rate(const Place &place, const PolicyName &name, const Extent &extent)
{
    double low = 0, high = bound_u1(place.setup.place()) * 1.05;
    for (int i = 0; i < 12; i++) {
        double middle = (low + high) / 2;
        if (in_time_at(place, name, middle, extent) >= 0.99)
            low = middle;
        else
            high = middle;
    }
    return low;
}

} // namespace

void run_rate_cell(RateCell *cell, const std::vector<std::string> &policies, const Extent &extent)
{
    const Place &place = *cell->place;
    for (const std::string &policy : policies) {
        RateScore s;
        s.policy = policy;
        for (const PolicyName &name : settings(policy))
            s.rate = std::max(s.rate, greatest_rate(place, name, extent));
        s.vs_u2 = s.rate / pace_u2(place.setup.place());
        cell->scores.push_back(s);
    }
}

} // namespace goodput
