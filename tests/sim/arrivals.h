/* SPDX-License-Identifier: Apache-2.0 */
/* When requests come: the gaps between them, as a seed decides. */
#ifndef SIM_ARRIVALS_H
#define SIM_ARRIVALS_H

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/random.h"

namespace sim
{

/* Gaps in nanoseconds. */
class Gaps
{
  public:
    virtual ~Gaps() = default;
    virtual uint64_t next(Random &random) = 0;
};

/* Exponentially distributed: Poisson arrivals. */
std::unique_ptr<Gaps> poisson_gaps(uint64_t mean_ns);
/* Gamma distributed, of a coefficient of variation in 1/100: 300 is CV 3. 100 is Poisson. */
std::unique_ptr<Gaps> gamma_gaps(uint64_t mean_ns, uint32_t cv_percent);
/* `size` at a time, one after the other within `spread_ns`; the mean gap is over all. */
std::unique_ptr<Gaps> burst_gaps(uint64_t mean_ns, uint32_t size, uint64_t spread_ns);

struct Arrival {
    uint64_t at; /* ns */
    uint32_t model;
    uint64_t units;
};

/* Of each of some models its own, until `until`, merged; units are 1. */
std::vector<Arrival> make_arrivals(uint64_t seed, uint32_t models, uint64_t mean_ns_of_model,
                                   uint32_t cv_percent, uint64_t until);

} // namespace sim

#endif
