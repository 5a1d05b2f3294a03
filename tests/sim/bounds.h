/* SPDX-License-Identifier: Apache-2.0 */
/* What no policy can exceed, or what is a good deal to reach. l(b) is what a batch of b takes. */
#ifndef SIM_BOUNDS_H
#define SIM_BOUNDS_H

#include <vector>

#include "sim/arrivals.h"
#include "sim/cost.h"

namespace sim
{

/* Requests per second of N devices that only run the largest batch that is ever in time: N b / l(b)
 * with l(b) <= SLO. A bound of what can be sustained. */
double bound_u1(const Place &place);

/* The same where a request also waits for the batches before it: (1 + M/N) l(b) <= SLO. A pace to
 * compare with, no bound. 0: not even one fits, and it says nothing. */
double pace_u2(const Place &place);

/* What can be served of `rate` a second: a model's batch cannot be larger than what comes for it
 * in the time that it may wait. An estimate. */
double fluid_estimate(const Place &place, double rate);

/* A bound of how many of these can be served in time, if all have one unit: as many as a fluid
 * that each takes l(b)/b of a device's time, with the best b. */
uint64_t fluid_bound(const Place &place, const std::vector<Arrival> &arrivals);

/* Exactly how many of these can be served in time by whoever knows what will come, one device, one
 * model, one unit each; `served` is what somebody reached. */
uint64_t optimum(const Place &place, const std::vector<Arrival> &arrivals, uint64_t served);

} // namespace sim

#endif
