/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a policy over a list of arrivals, and counts what became of them. */
#ifndef GOODPUT_SIMULATE_H
#define GOODPUT_SIMULATE_H

#include <string>
#include <vector>

#include "policy.h"
#include "sim/arrivals.h"

namespace goodput
{

struct Setup {
    uint32_t devices, models;
    uint64_t slo_ns;
    Cost cost;
    uint64_t warm_up_ns; /* who comes before does not count */

    sim::Place place() const
    {
        return {devices, models, slo_ns, cost, 0};
    }
};

struct Result {
    uint64_t counted = 0; /* requests that came after the warm-up */
    uint64_t in_time = 0, late = 0, dropped = 0;
    uint64_t batches = 0;
    double mean_ms = 0, p99_ms = 0; /* of those served, from arrival to end */
    std::vector<Request> requests;  /* if they were asked for */
};

Result simulate(const PolicyName &policy, const Setup &setup,
                const std::vector<sim::Arrival> &arrivals, bool keep = false);

} // namespace goodput

#endif
