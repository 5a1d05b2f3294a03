/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "goodput": how many requests are served in time, by the core and by what others
 * do, in the same simulated world; beside what could be reached.
 *
 * All but the core know what batches cost; the core learns it, so the first part of each run does
 * not count.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cell.h"
#include "sim/bounds.h"
#include "options.h"
#include "output.h"
#include "sim/trace.h"
#include "work.h"

namespace goodput
{

namespace
{

constexpr uint64_t ms = 1000000, second = 1000 * ms;
constexpr double loads[] = {0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5};

bool chosen(const std::vector<uint32_t> &only, uint32_t value)
{
    return only.empty() || std::find(only.begin(), only.end(), value) != only.end();
}

bool chosen(const std::vector<std::string> &only, const std::string &value)
{
    return only.empty() || std::find(only.begin(), only.end(), value) != only.end();
}

std::vector<uint32_t> values(const std::vector<uint32_t> &only, std::vector<uint32_t> all)
{
    return only.empty() ? all : only;
}

Setup setup_of(const Options &o, uint32_t devices, uint32_t models, uint32_t slo_ms)
{
    Setup s = {};
    s.devices = devices;
    s.models = models;
    s.slo_ns = slo_ms * ms;
    s.cost = {static_cast<uint64_t>(o.alpha_us * 1000), static_cast<uint64_t>(o.beta_us * 1000)};
    s.warm_up_ns = 2 * second;
    return s;
}

std::vector<Place> grid_places(const Options &o)
{
    std::vector<Place> places;
    for (uint32_t slo_ms : values(o.slo_ms, {25, 100}))
        for (uint32_t devices : values(o.devices, {1, 2, 4, 8}))
            for (uint32_t models : values(o.models, {1, 8}))
                for (uint32_t cv : {100u, 300u}) {
                    Place p;
                    p.setup = setup_of(o, devices, models, slo_ms);
                    p.arrivals = cv == 100 ? "poisson" : "cv3";
                    p.cv_percent = cv;
                    if (chosen(o.arrivals, p.arrivals))
                        places.push_back(p);
                }
    return places;
}

/* Recorded arrivals, faster or slower so that they come to a given load, and units such that a
 * mean request costs what one unit does elsewhere. */
Place trace_place(const Options &o, const sim::Trace &trace, const std::string &name,
                  uint32_t devices, uint32_t slo_ms, double load)
{
    Place p;
    double units = 0;
    for (const sim::Arrival &a : trace.arrivals)
        units += static_cast<double>(a.units);
    units /= static_cast<double>(trace.arrivals.size());
    p.setup = setup_of(o, devices, static_cast<uint32_t>(trace.models.size()), slo_ms);
    p.setup.cost.alpha_ns = std::max<uint64_t>(1, static_cast<uint64_t>(o.alpha_us * 1000 / units));
    p.setup.warm_up_ns = 0;
    p.arrivals = name;
    double rate = load * bound_u1(p.setup.place()) / units;
    double scale = static_cast<double>(trace.arrivals.size()) / rate * 1e9 /
                   static_cast<double>(trace.arrivals.back().at);
    for (sim::Arrival a : trace.arrivals) {
        a.at = static_cast<uint64_t>(static_cast<double>(a.at) * scale);
        p.trace.push_back(a);
    }
    return p;
}

struct TraceCell {
    Place place;
    double load;
};

std::vector<TraceCell> trace_places(const Options &o)
{
    std::vector<TraceCell> cells;
    std::string folder = sim::traces_folder(GPU_SCHED_SOURCE_DIR);
    if (folder.empty()) {
        std::fprintf(stderr, "skipped: the traces, which are not in ../shared/data/traces\n");
        return cells;
    }
    static const char *const files[][2] = {{"genai", "genai-image-requests.csv"},
                                           {"llm-tool", "llm-tool-requests.csv"}};
    for (const auto &file : files) {
        sim::Trace trace;
        std::string error;
        if (!sim::read_trace(folder + "/" + file[1], 1000000000, &trace, &error)) {
            std::fprintf(stderr, "skipped: %s\n", error.c_str());
            continue;
        }
        for (uint32_t devices : {1u, 4u})
            for (double load : {0.3, 0.7, 1.0})
                if (chosen(o.devices, devices) && chosen(o.slo_ms, 100))
                    cells.push_back({trace_place(o, trace, file[0], devices, 100, load), load});
    }
    return cells;
}

Extent extent_of(const Options &o)
{
    Extent e = {10, 6000, 3 * second, 3, 2, 3000};
    if (o.full)
        e = {10, 100000, 30 * second, 10, 10, 6000};
    if (o.seeds != 0)
        e.seeds = e.rate_seeds = o.seeds;
    return e;
}

std::vector<std::string> policies_of(const Options &o)
{
    if (!o.policies.empty())
        return o.policies;
    return {"default", "ahead", "eager", "timeout", "window"};
}

int run_trace(const Options &o)
{
    sim::Trace trace;
    std::string error;
    if (!sim::read_trace(o.trace, static_cast<uint64_t>(o.scale * 1e9), &trace, &error)) {
        std::fprintf(stderr, "bench-goodput: %s\n", error.c_str());
        return 1;
    }
    if (trace.models.size() > 256) {
        std::fprintf(stderr, "bench-goodput: %s has %zu models; there can be 256\n",
                     o.trace.c_str(), trace.models.size());
        return 1;
    }
    Place p;
    p.setup =
        setup_of(o, o.devices.empty() ? 1 : o.devices[0],
                 static_cast<uint32_t>(trace.models.size()), o.slo_ms.empty() ? 100 : o.slo_ms[0]);
    p.setup.warm_up_ns = 0;
    p.arrivals = o.trace.substr(o.trace.rfind('/') + 1);
    p.trace = std::move(trace.arrivals);
    double units = 0;
    for (const sim::Arrival &a : p.trace)
        units += static_cast<double>(a.units);
    Cell cell = {&p, 0, {}};
    double u1 = bound_u1(p.setup.place());
    if (u1 > 0)
        cell.load = units * 1e9 / static_cast<double>(p.trace.back().at + 1) / u1;
    Output output(o.json);
    run_cell(&cell, policies_of(o), extent_of(o));
    output.cell(cell);
    output.close();
    if (!o.log.empty())
        return write_log(o.log, p.setup, p.trace, policies_of(o)) ? 0 : 1;
    return 0;
}

int run_grid(const Options &o)
{
    std::vector<Place> places = grid_places(o);
    std::vector<TraceCell> traces;
    std::vector<Cell> cells;
    std::vector<RateCell> rates;
    const std::vector<std::string> policies = policies_of(o);
    const Extent extent = extent_of(o);

    if (o.traces && o.models.empty() && o.arrivals.empty() && o.loads.empty())
        traces = trace_places(o);
    if (o.cells) {
        for (const Place &p : places) {
            if (o.loads.empty())
                for (double load : loads)
                    cells.push_back({&p, load, {}});
            for (double load : o.loads)
                cells.push_back({&p, load, {}});
        }
    }
    for (const TraceCell &t : traces)
        cells.push_back({&t.place, t.load, {}});
    if (o.rates && o.loads.empty())
        for (const Place &p : places)
            if (pace_u2(p.setup.place()) > 0)
                rates.push_back({&p, {}});
    if (!o.log.empty() && cells.size() != 1) {
        std::fprintf(stderr, "bench-goodput: --log takes one cell, and these options name %zu\n",
                     cells.size());
        return 64;
    }

    Output output(o.json);
    run_in_order(
        o.threads, cells.size(), [&](size_t i) { run_cell(&cells[i], policies, extent); },
        [&](size_t i) { output.cell(cells[i]); });
    run_in_order(
        o.threads, rates.size(), [&](size_t i) { run_rate_cell(&rates[i], policies, extent); },
        [&](size_t i) { output.rate(rates[i]); });
    output.close();
    if (!o.log.empty())
        return write_log(o.log, cells[0].place->setup, first_arrivals(cells[0], extent), policies)
                   ? 0
                   : 1;
    return 0;
}

} // namespace

} // namespace goodput

int main(int argc, char **argv)
{
    goodput::Options options = goodput::read_options(argc, argv);
    return options.trace.empty() ? goodput::run_grid(options) : goodput::run_trace(options);
}
