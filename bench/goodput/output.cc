/* SPDX-License-Identifier: Apache-2.0 */
#include "output.h"

#include <cmath>
#include <cstdio>

extern "C" {
#include "../report.h"
}

namespace goodput
{

namespace
{

json_t *params_of(const Place &place, const std::string &policy)
{
    const Setup &s = place.setup;
    return json_pack("{s:s, s:i, s:i, s:i, s:s}", "policy", policy.c_str(), "devices",
                     static_cast<int>(s.devices), "models", static_cast<int>(s.models), "slo_ms",
                     static_cast<int>(s.slo_ns / 1000000), "arrivals", place.arrivals.c_str());
}

json_t *params_of(const Cell &cell, const std::string &policy)
{
    json_t *params = params_of(*cell.place, policy);
    json_object_set_new(params, "load", json_real(std::round(cell.load * 1000) / 1000));
    return params;
}

std::string name_of(const Place &place)
{
    char text[128];
    std::snprintf(text, sizeof(text), "SLO %u N %u M %u %s",
                  static_cast<unsigned>(place.setup.slo_ns / 1000000), place.setup.devices,
                  place.setup.models, place.arrivals.c_str());
    return text;
}

void print_or_dash(double value, int width, int digits)
{
    if (value > 0)
        std::printf(" %*.*f", width, digits, value);
    else
        std::printf(" %*s", width, "-");
}

} // namespace

Output::Output(bool json)
{
    if (json)
        report = report_open("goodput", true);
}

void Output::note(const Cell &cell)
{
    char load[32];
    std::snprintf(load, sizeof(load), " load %.2f", cell.load);
    std::string where = name_of(*cell.place) + load;
    for (const Score &s : cell.scores) {
        if (!PolicyName{s.policy}.core())
            continue;
        Worsts &w = worsts[s.policy];
        w.best_baseline.note(s.vs_best, where);
        if (cell.load >= 1.5)
            w.fluid.note(s.vs_fluid, where);
        w.optimum.note(s.vs_optimum, where);
    }
}

void Output::cell(const Cell &cell)
{
    const Place &p = *cell.place;
    note(cell);
    if (report == nullptr) {
        if (!began)
            std::printf("%4s %2s %2s %-8s %5s  %-8s %8s %8s %8s %8s %8s %6s %8s %8s %7s %6s\n",
                        "SLO", "N", "M", "arrivals", "load", "policy", "vs U1", "fluid", "bound",
                        "optimum", "best", "+-", "mean ms", "p99 ms", "late %", "batch");
        began = true;
        for (const Score &s : cell.scores) {
            std::printf("%4u %2u %2u %-8s %5.2f  %-8s",
                        static_cast<unsigned>(p.setup.slo_ns / 1000000), p.setup.devices,
                        p.setup.models, p.arrivals.c_str(), cell.load, s.policy.c_str());
            std::printf(" %8.4f", s.vs_u1);
            print_or_dash(s.vs_fluid, 8, 4);
            print_or_dash(s.vs_bound, 8, 4);
            print_or_dash(s.vs_optimum, 8, 4);
            print_or_dash(s.vs_best, 8, 4);
            print_or_dash(s.vs_best_error, 6, 4);
            std::printf(" %8.2f %8.2f %7.3f %6.1f\n", s.mean_ms, s.p99_ms, 100 * s.late, s.batch);
        }
        std::fflush(stdout);
        return;
    }
    for (const Score &s : cell.scores) {
        report_add(report, "goodput_vs_u1", params_of(cell, s.policy), s.vs_u1, "ratio", 1);
        if (s.vs_fluid > 0)
            report_add(report, "goodput_vs_fluid", params_of(cell, s.policy), s.vs_fluid, "ratio",
                       1);
        if (s.vs_bound > 0)
            report_add(report, "goodput_vs_bound", params_of(cell, s.policy), s.vs_bound, "ratio",
                       1);
        if (s.vs_optimum > 0)
            report_add(report, "goodput_vs_optimum", params_of(cell, s.policy), s.vs_optimum,
                       "ratio", 1);
        if (s.vs_best > 0 && PolicyName{s.policy}.core())
            report_add(report, "goodput_vs_best_baseline", params_of(cell, s.policy), s.vs_best,
                       "ratio", 1);
        report_add(report, "mean_ms", params_of(cell, s.policy), s.mean_ms, "ms",
                   static_cast<double>(p.setup.cost.of(1)) / 1e6);
        report_add(report, "p99_ms", params_of(cell, s.policy), s.p99_ms, "ms",
                   static_cast<double>(p.setup.slo_ns) / 1e6);
    }
}

void Output::rate(const RateCell &cell)
{
    for (const RateScore &s : cell.scores)
        if (PolicyName{s.policy}.core())
            worsts[s.policy].u2.note(s.vs_u2, name_of(*cell.place));
    if (report == nullptr) {
        if (!rates_began)
            std::printf("\nthe greatest rate with 99 %% in time, beside U2:\n");
        rates_began = true;
        std::printf("%-28s", name_of(*cell.place).c_str());
        for (const RateScore &s : cell.scores)
            std::printf("  %s %.4f", s.policy.c_str(), s.vs_u2);
        std::printf("\n");
        std::fflush(stdout);
        return;
    }
    for (const RateScore &s : cell.scores)
        report_add(report, "rate_vs_u2", params_of(*cell.place, s.policy), s.vs_u2, "ratio", 1);
}

void Output::close()
{
    if (report != nullptr) {
        report_close(report);
        return;
    }
    for (const auto &[policy, w] : worsts) {
        const struct {
            const char *what;
            const Worst *worst;
        } all[] = {{"beside the best baseline", &w.best_baseline},
                   {"beside the fluid estimate, load 1.5", &w.fluid},
                   {"beside the optimum", &w.optimum},
                   {"the greatest rate beside U2", &w.u2}};
        for (const auto &a : all)
            if (a.worst->value < 1e9)
                std::printf("worst of %s, %s: %.4f (%s)\n", policy.c_str(), a.what, a.worst->value,
                            a.worst->where.c_str());
    }
}

} // namespace goodput
