/* SPDX-License-Identifier: Apache-2.0 */
/* Recorded arrivals: CSV files with the columns arrival_us, model, units (in any order, among
 * others). */
#ifndef SIM_TRACE_H
#define SIM_TRACE_H

#include <string>
#include <vector>

#include "sim/arrivals.h"

namespace sim
{

struct Trace {
    std::vector<Arrival> arrivals; /* by time; the first is at 0 */
    std::vector<std::string> models;
};

/* Times are multiplied by `scale_ppb` / 10^6. False, and what is wrong in `error`. */
bool read_trace(const std::string &path, uint64_t scale_ppb, Trace *out, std::string *error);

/* The folder of recorded traces, or "" where there is none: beside the checkout, or where
 * GPU_SCHED_SHARED_DATA says. */
std::string traces_folder(const std::string &source_folder);

} // namespace sim

#endif
