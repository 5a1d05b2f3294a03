/* SPDX-License-Identifier: Apache-2.0 */
/* Runs seeds, and makes failing ones smaller. */
#ifndef SIM_SEARCH_H
#define SIM_SEARCH_H

#include <cstdio>
#include <string>

#include "sim/simulation.h"

namespace sim
{

/* All that decides a run. */
struct Case {
    uint64_t seed = 1, events = 100000;
    bool has_profile = false;
    Profile profile = Profile::chaos;
    Features without = 0;
    Limits limits;
    std::string trace; /* the file it is read from; empty: the usual one */
};

struct Outcome {
    bool failed = false;
    Violation violation;
    Totals totals;
    uint64_t hash = 0;
};

Outcome run_case(const Case &c, const Trace *trace, FILE *log);

/* The options by which the program runs it. */
std::string options_of(const Case &c);

/* The smallest that is found of those that fail in the same way. */
Case shrink(const Case &failing, const Outcome &outcome, const Trace *trace);

} // namespace sim

#endif
