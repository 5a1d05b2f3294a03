/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace goodput
{

namespace
{

const char usage[] =
    "usage: bench-goodput [--json] [--full] [--seeds N] [--threads N] [--only cells|rates|traces]\n"
    "                     [--policy P,..] [--devices N,..] [--models M,..] [--slo-ms S,..]\n"
    "                     [--arrivals poisson|cv3,..] [--load L,..] [--log FILE.csv]\n"
    "       bench-goodput --trace FILE.csv [--slo-ms S] [--alpha-us A] [--beta-us B]\n"
    "                     [--devices N] [--scale X] [--policy P,..] [--log FILE.csv] [--json]\n"
    "\n"
    "A batch of n units takes alpha n + beta. Without --trace: the grid, or those of its cells\n"
    "that are named; policies are default, ahead, eager, timeout, window. --scale 0.5: the trace\n"
    "twice as fast.\n"
    "--log writes what became of every request (with a grid, of one cell and its first seed).\n";

[[noreturn]] void fail(const std::string &why)
{
    std::fprintf(stderr, "bench-goodput: %s\n%s", why.c_str(), usage);
    std::exit(64);
}

std::vector<std::string> list(const std::string &text)
{
    std::vector<std::string> out;
    for (size_t begin = 0;;) {
        size_t end = text.find(',', begin);
        out.push_back(text.substr(begin, end - begin));
        if (end == std::string::npos)
            return out;
        begin = end + 1;
    }
}

double real(const std::string &option, const std::string &text, double least, double most)
{
    char *end;
    double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= least && value <= most))
        fail(option + " takes a number from " + std::to_string(least) + " to " +
             std::to_string(most) + ", got \"" + text + "\"");
    return value;
}

uint32_t whole(const std::string &option, const std::string &text, uint32_t least, uint32_t most)
{
    double value = real(option, text, least, most);
    if (value != static_cast<double>(static_cast<uint32_t>(value)))
        fail(option + " takes a whole number, got \"" + text + "\"");
    return static_cast<uint32_t>(value);
}

void check(const std::string &option, const std::vector<std::string> &given,
           const std::vector<std::string> &known)
{
    for (const std::string &g : given)
        if (std::find(known.begin(), known.end(), g) == known.end())
            fail(option + " does not know \"" + g + "\"");
}

} // namespace

Options read_options(int argc, char **argv)
{
    Options o;
    for (int i = 1; i < argc; i++) {
        const std::string option = argv[i];
        if (option == "--json") {
            o.json = true;
            continue;
        }
        if (option == "--full") {
            o.full = true;
            continue;
        }
        if (option == "--help" || option == "-h") {
            std::fputs(usage, stdout);
            std::exit(0);
        }
        if (++i >= argc)
            fail(option + (option.rfind("--", 0) == 0 ? " takes a value" : " is not an option"));
        const std::string value = argv[i];
        if (option == "--seeds") {
            o.seeds = whole(option, value, 1, 1000);
        } else if (option == "--threads") {
            o.threads = whole(option, value, 1, 1024);
        } else if (option == "--only") {
            check(option, {value}, {"cells", "rates", "traces"});
            o.cells = value == "cells";
            o.rates = value == "rates";
            o.traces = value == "traces";
        } else if (option == "--policy") {
            o.policies = list(value);
            check(option, o.policies, {"default", "ahead", "eager", "timeout", "window"});
        } else if (option == "--arrivals") {
            o.arrivals = list(value);
            check(option, o.arrivals, {"poisson", "cv3"});
        } else if (option == "--devices") {
            for (const std::string &v : list(value))
                o.devices.push_back(whole(option, v, 1, 64));
        } else if (option == "--models") {
            for (const std::string &v : list(value))
                o.models.push_back(whole(option, v, 1, 256));
        } else if (option == "--slo-ms") {
            for (const std::string &v : list(value))
                o.slo_ms.push_back(whole(option, v, 1, 3600000));
        } else if (option == "--load") {
            for (const std::string &v : list(value))
                o.loads.push_back(real(option, v, 0.001, 100));
        } else if (option == "--trace") {
            o.trace = value;
        } else if (option == "--log") {
            o.log = value;
        } else if (option == "--alpha-us") {
            o.alpha_us = real(option, value, 0.001, 1e9);
        } else if (option == "--beta-us") {
            o.beta_us = real(option, value, 0, 1e9);
        } else if (option == "--scale") {
            o.scale = real(option, value, 1e-9, 1e6);
        } else {
            fail("there is no option \"" + option + "\"");
        }
    }
    if (!o.trace.empty() && (o.devices.size() > 1 || o.slo_ms.size() > 1))
        fail("--trace runs one case: one number of --devices, one --slo-ms");
    return o;
}

} // namespace goodput
