/* SPDX-License-Identifier: Apache-2.0 */
/* One cell of the grid: some arrivals, several seeds of them, all policies. */
#ifndef GOODPUT_CELL_H
#define GOODPUT_CELL_H

#include <string>
#include <vector>

#include "simulate.h"

namespace goodput
{

/* What of arrivals there is but their rate. */
struct Place {
    Setup setup;
    std::string arrivals; /* "poisson", "cv3", or a trace's name */
    uint32_t cv_percent = 100;
    std::vector<sim::Arrival> trace; /* or else generated */
};

struct Extent {
    uint32_t seeds;
    uint64_t requests;   /* of a seed, about */
    uint64_t least_ns;   /* but as long as this at the least, after the warm-up */
    uint32_t rate_seeds; /* for the search of the greatest rate */
    uint32_t optimum_seeds;
    uint64_t optimum_requests;
};

struct Score {
    std::string policy;
    double goodput = 0; /* requests in time a second */
    double vs_u1 = 0, vs_fluid = 0, vs_bound = 0;
    double vs_optimum = 0;                 /* 0: not known */
    double vs_best = 0, vs_best_error = 0; /* the best baseline, paired, and its standard error */
    std::string best;
    double mean_ms = 0, p99_ms = 0, late = 0, batch = 0; /* late: of all, a share */
};

struct Cell {
    const Place *place;
    double load; /* of U1 */
    std::vector<Score> scores;
};

void run_cell(Cell *cell, const std::vector<std::string> &policies, const Extent &extent);

/* Those of its first seed. */
std::vector<sim::Arrival> first_arrivals(const Cell &cell, const Extent &extent);

struct RateScore {
    std::string policy;
    double rate = 0, vs_u2 = 0;
};

/* The greatest rate at which 99 % are in time. */
struct RateCell {
    const Place *place;
    std::vector<RateScore> scores;
};

void run_rate_cell(RateCell *cell, const std::vector<std::string> &policies, const Extent &extent);

} // namespace goodput

#endif
