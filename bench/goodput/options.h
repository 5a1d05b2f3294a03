/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GOODPUT_OPTIONS_H
#define GOODPUT_OPTIONS_H

#include <cstdint>
#include <string>
#include <vector>

namespace goodput
{

struct Options {
    bool json = false, full = false, rates = true, cells = true, traces = true;
    uint32_t seeds = 0, threads = 0; /* 0: as the extent says; one for each processor */
    /* Of the grid, those only; empty: all. */
    std::vector<std::string> policies, arrivals;
    std::vector<uint32_t> devices, models, slo_ms;
    std::vector<double> loads;
    /* One case. */
    std::string trace, log;
    double alpha_us = 1082, beta_us = 5204, scale = 1;
};

Options read_options(int argc, char **argv);

} // namespace goodput

#endif
