/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator. Each seed is a world: devices, models, clients, and what befalls them. Whatever
 * happens, what the core promises has to hold.
 */
#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include <unistd.h>

#include "sim/search.h"

namespace
{

using namespace sim;

const char usage[] =
    "usage: sim [--seeds N] [--first-seed S] [--events M] [--threads T] [--log FILE] [--verbose]\n"
    "           [--profile P] [--without FEATURE,..] [--devices N] [--models N] [--clients N]\n"
    "           [--no-shrink]\n"
    "\n"
    "Runs N worlds (1), each until the core was told M events (100000). Prints what was counted\n"
    "and a hash of all decisions, and for a world in which something is wrong the options that\n"
    "show it. --log: the decisions of a single seed. Of each kind of thing there can be fewer, "
    "and\n"
    "features can be left out.\n";

struct Options {
    uint64_t seeds = 1;
    Case base;
    uint32_t threads = 0;
    std::string log;
    bool verbose = false, shrinks = true;
};

[[noreturn]] void fail(const std::string &why)
{
    std::fprintf(stderr, "sim: %s\n%s", why.c_str(), usage);
    std::exit(64);
}

uint64_t number(const std::string &option, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    uint64_t value = std::strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value < least || value > most)
        fail(option + " takes a number from " + std::to_string(least) + " to " +
             std::to_string(most) + ", got \"" + text + "\"");
    return value;
}

Options read_options(int argc, char **argv)
{
    Options o;
    for (int i = 1; i < argc; i++) {
        const std::string option = argv[i];
        if (option == "--help" || option == "-h") {
            std::fputs(usage, stdout);
            std::exit(0);
        }
        if (option == "--verbose") {
            o.verbose = true;
            continue;
        }
        if (option == "--no-shrink") {
            o.shrinks = false;
            continue;
        }
        if (++i >= argc)
            fail("there is no option \"" + option + "\", or it takes a value");
        const char *value = argv[i];
        if (option == "--seeds") {
            o.seeds = number(option, value, 1, UINT64_C(1) << 32);
        } else if (option == "--first-seed" || option == "--seed") {
            o.base.seed = number(option, value, 0, UINT64_C(1) << 62);
        } else if (option == "--events") {
            o.base.events = number(option, value, 1, UINT64_C(1) << 40);
        } else if (option == "--threads") {
            o.threads = static_cast<uint32_t>(number(option, value, 1, 1024));
        } else if (option == "--log") {
            o.log = value;
        } else if (option == "--profile") {
            uint32_t p = 0;
            while (p < n_profiles && std::strcmp(value, profile_name(static_cast<Profile>(p))) != 0)
                p++;
            if (p == n_profiles)
                fail("there is no profile \"" + std::string(value) + "\"");
            o.base.profile = static_cast<Profile>(p);
            o.base.has_profile = true;
        } else if (option == "--without") {
            if (!parse_features(value, &o.base.without))
                fail("there is no such feature among \"" + std::string(value) +
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

/* ----------------------------------------------------------------------------------- crashes */

thread_local char present[512]; /* the options of what runs */

/* Only calls that a signal handler may make. */
void on_crash(int signal)
{
    static const char text[] = "sim: crashed; again: sim ";
    if (write(STDERR_FILENO, text, sizeof(text) - 1) >= 0 &&
        write(STDERR_FILENO, present, std::strlen(present)) >= 0 &&
        write(STDERR_FILENO, "\n", 1) >= 0)
        std::signal(signal, SIG_DFL);
    raise(signal);
}

/* ------------------------------------------------------------------------------------- running */

class Runner
{
  public:
    Runner(const Options &o, const Trace *t, FILE *l) : options(o), trace(t), log(l)
    {
    }

    int run()
    {
        uint32_t n = options.threads != 0 ? options.threads : std::thread::hardware_concurrency();
        n = static_cast<uint32_t>(std::min<uint64_t>(std::max(1u, n), options.seeds));
        std::vector<std::thread> threads;
        for (uint32_t i = 0; i < n; i++)
            threads.emplace_back([this] { work(); });
        for (std::thread &t : threads)
            t.join();
        std::printf("seeds: %" PRIu64 "\nevents: %" PRIu64 "\n", options.seeds, totals.events);
        std::printf("actions: %" PRIu64 ", steps: %" PRIu64 ", served: %" PRIu64 " (late: %" PRIu64
                    "), given up: %" PRIu64 ", deaths: %" PRIu64 ", retried: %" PRIu64
                    ", poisoned: %" PRIu64 ", evictions: %" PRIu64 ", jobs: %" PRIu64 "\n",
                    totals.actions, totals.steps, totals.completed, totals.late, totals.dropped,
                    totals.deaths, totals.retried, totals.poisoned, totals.evictions, totals.jobs);
        std::printf("hash: %016" PRIx64 "\n", hash);
        std::printf("violations: %" PRIu64 "\n", violations);
        return violations == 0 ? 0 : 1;
    }

  private:
    void work()
    {
        for (;;) {
            uint64_t i = next++;
            if (i >= options.seeds)
                return;
            Case c = options.base;
            c.seed += i;
            std::snprintf(present, sizeof(present), "%s", options_of(c).c_str());
            Outcome outcome = run_case(c, trace, log);
            take(c, outcome);
        }
    }

    void take(const Case &c, const Outcome &outcome)
    {
        std::unique_lock<std::mutex> lock(mutex);
        totals.add(outcome.totals);
        /* Whatever the order in which they end. */
        hash += outcome.hash * (2 * c.seed + 1);
        if (options.verbose)
            std::printf("seed %" PRIu64 ": %s, %s, events %" PRIu64 ", hash %016" PRIx64 "\n",
                        c.seed,
                        profile_name(make_scenario(c.seed, c.has_profile ? &c.profile : nullptr,
                                                   c.without, c.limits)
                                         .profile),
                        outcome.failed ? outcome.violation.check.c_str() : "ok",
                        outcome.totals.events, outcome.hash);
        if (!outcome.failed)
            return;
        violations++;
        std::printf("seed %" PRIu64 ": %s: %s\n  again:  ./dev sim %s\n", c.seed,
                    outcome.violation.check.c_str(), outcome.violation.what.c_str(),
                    options_of(c).c_str());
        std::fflush(stdout);
        if (!options.shrinks || violations > 10)
            return;
        lock.unlock();
        Case small = shrink(c, outcome, trace);
        lock.lock();
        std::printf("  seed %" PRIu64 ", shrunk: ./dev sim %s\n", c.seed,
                    options_of(small).c_str());
        std::fflush(stdout);
    }

    const Options &options;
    const Trace *trace;
    FILE *log;
    std::atomic<uint64_t> next{0};
    std::mutex mutex;
    Totals totals;
    uint64_t hash = 0, violations = 0;
};

} // namespace

int main(int argc, char **argv)
{
    Options options = read_options(argc, argv);
    Trace trace;
    std::string error, folder = traces_folder(GPU_SCHED_SOURCE_DIR);
    bool traced = !folder.empty() &&
                  read_trace(folder + "/llm-tool-requests.csv", 1000000000, &trace, &error);
    if (!traced)
        std::fprintf(stderr, "skipped: recorded arrivals: %s\n",
                     folder.empty() ? "there is no ../shared/data/traces" : error.c_str());
    FILE *log = nullptr;
    if (!options.log.empty() && (log = std::fopen(options.log.c_str(), "we")) == nullptr) {
        std::fprintf(stderr, "sim: %s: %s\n", options.log.c_str(), std::strerror(errno));
        return 1;
    }
    for (int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL})
        std::signal(signal, on_crash);
    int status = Runner(options, traced ? &trace : nullptr, log).run();
    if (log != nullptr && std::fclose(log) != 0)
        status = 1;
    return status;
}
