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

#include "sim/options.h"

namespace
{

using namespace sim;

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
        std::printf("seeds: %" PRIu64 "\nevents: %" PRIu64 "\n", ran.load(), totals.events);
        std::printf("actions: %" PRIu64 ", steps: %" PRIu64 ", served: %" PRIu64 " (late: %" PRIu64
                    "), given up: %" PRIu64 ", deaths: %" PRIu64 ", retried: %" PRIu64
                    ", poisoned: %" PRIu64 ", evictions: %" PRIu64 ", jobs: %" PRIu64 "\n",
                    totals.actions, totals.steps, totals.completed, totals.late, totals.dropped,
                    totals.deaths, totals.retried, totals.poisoned, totals.evictions, totals.jobs);
        std::printf("hash: %016" PRIx64 "\n", hash);
        std::printf("violations: %" PRIu64 "\n", violations.load());
        return violations == 0 ? 0 : 1;
    }

  private:
    void work()
    {
        for (;;) {
            uint64_t i = next++;
            if (i >= options.seeds || (options.first_only && violations > 0))
                return;
            ran++;
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
    std::atomic<uint64_t> next{0}, ran{0}, violations{0};
    std::mutex mutex;
    Totals totals;
    uint64_t hash = 0;
};

} // namespace

int main(int argc, char **argv)
{
    Options options;
    Trace trace;
    std::string error, folder = traces_folder(GPU_SCHED_SOURCE_DIR);
    if (!read_options(std::vector<std::string>(argv + 1, argv + argc), &options, &error)) {
        std::fprintf(stderr, "sim: %s\n%s", error.c_str(), usage);
        return 64;
    }
    if (options.help) {
        std::fputs(usage, stdout);
        return 0;
    }
    const bool named = !options.base.trace.empty();
    const std::string path = named ? options.base.trace : folder + "/llm-tool-requests.csv";
    bool traced = (named || !folder.empty()) && read_trace(path, 1000000000, &trace, &error);
    if (!traced && named) {
        std::fprintf(stderr, "sim: %s\n", error.c_str());
        return 64;
    }
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
