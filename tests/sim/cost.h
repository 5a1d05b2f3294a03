/* SPDX-License-Identifier: Apache-2.0 */
/* What a batch takes: alpha for each unit, and beta. */
#ifndef SIM_COST_H
#define SIM_COST_H

#include <cstdint>

namespace sim
{

struct Cost {
    uint64_t alpha_ns, beta_ns;

    uint64_t of(uint64_t units) const
    {
        return alpha_ns * units + beta_ns;
    }
    /* The most units that are done within `ns`. */
    uint64_t largest(uint64_t ns) const
    {
        return ns < beta_ns ? 0 : (ns - beta_ns) / alpha_ns;
    }
};

/* Devices and models that are all alike, and requests with one deadline. */
struct Place {
    uint32_t devices, models;
    uint64_t slo_ns;
    Cost cost;
    uint64_t most; /* units of a batch; 0: as many as are in time */

    /* The largest batch that is ever in time. */
    uint64_t largest() const
    {
        uint64_t n = cost.largest(slo_ns);
        return most != 0 && most < n ? most : n;
    }
};

} // namespace sim

#endif
