/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/options.h"

#include <cerrno>
#include <cstdlib>

namespace sim
{

const char usage[] =
    "usage: sim [--seeds N] [--first-seed S] [--events M] [--threads T] [--log FILE] [--verbose]\n"
    "           [--profile P] [--without FEATURE,..] [--devices N] [--models N] [--clients N]\n"
    "           [--trace FILE] [--no-shrink] [--first-only]\n"
    "\n"
    "Runs N worlds (1), each until the core was told M events (100000). Prints what was counted\n"
    "and a hash of all decisions, and for a world in which something is wrong the options that\n"
    "show it. --log: the decisions of a single seed. Of each kind of thing there can be fewer, "
    "and\n"
    "features can be left out. --trace: a CSV file with the columns arrival_us, model and units, "
    "for\n"
    "worlds with recorded arrivals. --first-only: ends with the first violation.\n";

namespace
{

struct Wrong {
    std::string why;
};

[[noreturn]] void fail(const std::string &why)
{
    throw Wrong{why};
}

uint64_t number(const std::string &option, const std::string &text, uint64_t least, uint64_t most)
{
    errno = 0;
    uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || errno != 0 ||
        value < least || value > most)
        fail(option + " takes a number from " + std::to_string(least) + " to " +
             std::to_string(most) + ", got \"" + text + "\"");
    return value;
}

Options parse(const std::vector<std::string> &arguments)
{
    Options o;
    for (size_t i = 0; i < arguments.size(); i++) {
        const std::string &option = arguments[i];
        if (option == "--help" || option == "-h") {
            o.help = true;
            continue;
        }
        if (option == "--first-only") {
            o.first_only = true;
            continue;
        }
        if (option == "--verbose") {
            o.verbose = true;
            continue;
        }
        if (option == "--no-shrink") {
            o.shrinks = false;
            continue;
        }
        if (++i >= arguments.size())
            fail("there is no option \"" + option + "\", or it takes a value");
        const std::string &value = arguments[i];
        if (option == "--seeds") {
            o.seeds = number(option, value, 1, UINT64_C(1) << 32);
        } else if (option == "--first-seed" || option == "--seed") {
            o.base.seed = number(option, value, 0, UINT64_C(1) << 62);
        } else if (option == "--events") {
            o.base.events = number(option, value, 1, UINT64_C(1) << 40);
        } else if (option == "--threads") {
            o.threads = static_cast<uint32_t>(number(option, value, 1, 1024));
        } else if (option == "--trace") {
            o.base.trace = value;
        } else if (option == "--log") {
            o.log = value;
        } else if (option == "--profile") {
            uint32_t p = 0;
            while (p < n_profiles && value != profile_name(static_cast<Profile>(p)))
                p++;
            if (p == n_profiles)
                fail("there is no profile \"" + value + "\"");
            o.base.profile = static_cast<Profile>(p);
            o.base.has_profile = true;
        } else if (option == "--without") {
            if (!parse_features(value, &o.base.without))
                fail("there is no such feature among \"" + value +
                     "\"; there are: " + feature_names((UINT64_C(1) << n_features) - 1));
        } else if (option == "--devices") {
            o.base.limits.devices = static_cast<uint32_t>(number(option, value, 1, 64));
        } else if (option == "--models") {
            o.base.limits.models = static_cast<uint32_t>(number(option, value, 1, 256));
        } else if (option == "--clients") {
            o.base.limits.clients = static_cast<uint32_t>(number(option, value, 1, 1024));
        } else {
            fail("there is no option \"" + option + "\"");
        }
    }
    if (!o.log.empty() && o.seeds != 1)
        fail("--log takes one seed");
    return o;
}

} // namespace

bool read_options(const std::vector<std::string> &arguments, Options *out, std::string *error)
{
    try {
        *out = parse(arguments);
    } catch (const Wrong &wrong) {
        *error = wrong.why;
        return false;
    }
    return true;
}

} // namespace sim
