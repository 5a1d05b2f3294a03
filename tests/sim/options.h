/* SPDX-License-Identifier: Apache-2.0 */
/* What the program is asked to do. */
#ifndef SIM_OPTIONS_H
#define SIM_OPTIONS_H

#include <string>
#include <vector>

#include "sim/search.h"

namespace sim
{

extern const char usage[];

struct Options {
    uint64_t seeds = 1;
    Case base;
    uint32_t threads = 0;
    std::string log;
    bool verbose = false, shrinks = true, help = false;
    bool first_only = false; /* no further worlds after a violation */
};

/* False, and in `error` what is wrong. */
bool read_options(const std::vector<std::string> &arguments, Options *out, std::string *error);

} // namespace sim

#endif
