/* SPDX-License-Identifier: Apache-2.0 */
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "output.h"

namespace goodput
{

bool write_log(const std::string &path, const Setup &setup,
               const std::vector<sim::Arrival> &arrivals, const std::vector<std::string> &policies)
{
    static const char *const outcomes[] = {"waiting", "running", "in time", "late", "dropped"};
    FILE *file = std::fopen(path.c_str(), "we");
    if (file == nullptr) {
        std::fprintf(stderr, "bench-goodput: %s: %s\n", path.c_str(), std::strerror(errno));
        return false;
    }
    std::fprintf(file, "policy,request,model,units,arrival_ns,deadline_ns,dispatch_ns,batch,device,"
                       "end_ns,outcome\n");
    for (const std::string &policy : policies) {
        std::vector<PolicyName> names = {{policy}};
        if (policy == "timeout")
            names = timeout_settings;
        Result best;
        for (const PolicyName &name : names) {
            Result r = simulate(name, setup, arrivals, true);
            if (best.requests.empty() || r.in_time > best.in_time)
                best = std::move(r);
        }
        for (size_t i = 0; i < best.requests.size(); i++) {
            const Request &r = best.requests[i];
            std::fprintf(file, "%s,%zu,%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64,
                         policy.c_str(), i, r.model, r.units, r.at, r.deadline);
            if (r.outcome == Outcome::dropped)
                std::fprintf(file, ",,,");
            else
                std::fprintf(file, ",%" PRIu64 ",%" PRIu64 ",%" PRIu32, r.dispatched, r.batch,
                             r.device);
            std::fprintf(file, ",%" PRIu64 ",%s\n", r.end,
                         outcomes[static_cast<size_t>(r.outcome)]);
        }
    }
    if (std::fclose(file) != 0) {
        std::fprintf(stderr, "bench-goodput: %s: %s\n", path.c_str(), std::strerror(errno));
        return false;
    }
    return true;
}

} // namespace goodput
