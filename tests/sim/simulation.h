/* SPDX-License-Identifier: Apache-2.0 */
/* A run: lets what a scenario says happen, carries out what the core decides, and watches. */
#ifndef SIM_SIMULATION_H
#define SIM_SIMULATION_H

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "sim/gangs.h"
#include "sim/trace.h"
#include "sim/violation.h"
#include "sim/watch.h"
#include "sim/worker.h"
#include "sim/world.h"

namespace sim
{

class Simulation
{
  public:
    /* `log` may be nullptr; so may `trace`, for which there are made-up arrivals then. */
    Simulation(const Scenario &scenario, const Trace *trace, FILE *log);

    /* Until so many events have been told to the core; then everybody behaves, and all must be
     * answered. Throws a Violation. */
    void run(uint64_t n_events);

    const Totals &totals() const
    {
        return world.totals;
    }
    uint64_t hash() const
    {
        return world.log.hash();
    }

  private:
    struct SourceState {
        Random random;
        std::unique_ptr<Gaps> gaps;
        size_t next_of_trace = 0;
        uint64_t trace_began = 0;
        bool paused = false, flooding = false;
        uint32_t outstanding = 0;
        bool scheduled = false;
    };

    void set_up();
    void add_model(uint32_t model);
    uint64_t next_at() const;
    void advance();
    void happen(const Happening &h);
    void told_down(uint32_t device);
    void carry_out();
    void carry_out(const core_action &action);
    void reply(const core_action &action);
    void reply_part(const core_action &action);
    void check_reply(const Request &r, const core_action &action);
    void settled();
    void behave();
    void await(const char *what, uint64_t most_ns);

    /* people.cc */
    void begin_arrivals();
    void next_arrival(uint32_t source);
    void arrive(uint32_t source);
    void pause(uint32_t source);
    void submit(uint32_t source, core_submit *submit, uint64_t real_units);
    void check_submit(const core_submit &submit, int status);
    Request &take(uint32_t source, const core_submit &submit, uint64_t real_units);
    void cancel(uint64_t id);
    void grant(uint64_t id);
    void submit_nonsense();
    uint64_t spread_of(const Request &r) const;

    /* disturbance.cc */
    void begin_disturbance();
    void disturb();
    void remove_model(uint32_t model);
    void update_model(uint32_t model);
    void report_memory();
    void change(uint32_t model);

    const Scenario scenario;
    const Trace *trace;
    World world;
    Workers workers;
    std::vector<std::unique_ptr<Watch>> watchers;
    std::unique_ptr<Gangs> gangs;
    std::vector<SourceState> sources;
    uint64_t timer = never;
    uint32_t standing = 0;       /* happenings for which the clock has not moved */
    std::vector<uint64_t> ended; /* ids, some */
    std::vector<core_action_item> items;
};

} // namespace sim

#endif
