/* SPDX-License-Identifier: Apache-2.0 */
/* What all parts of a simulation share: the clock, what is to happen, the core, and who is there.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <cstdint>
#include <vector>

#include "core/core.h"
#include "sim/decision_log.h"
#include "sim/events.h"
#include "sim/random.h"
#include "sim/requests.h"
#include "sim/scenario.h"

namespace sim
{

enum class Kind : uint8_t {
    arrive,     /* a: source */
    pause,      /* a: source: begins or ends one */
    cancel,     /* b: request */
    grant,      /* b: request */
    step_end,   /* a: device, b: epoch, c: batch */
    load_end,   /* a: device, b: epoch, c: model */
    evict_end,  /* the same */
    die,        /* a: device, b: epoch */
    told_down,  /* a: device, b: epoch */
    comes_up,   /* a: device */
    say_again,  /* b: which of those kept */
    spell,      /* a: device */
    change,     /* a: model */
    disturb,    /* something rare */
    job_submit, /* and of jobs: */
    job_cancel, /* b: job */
    job_release,
    rank_started, /* a: device, b: epoch, c: job */
    rank_stepped,
    rank_closed,
    rank_lies,
    vacates, /* a: device, b: epoch */
};

struct Happening {
    Kind kind;
    uint32_t a = 0;
    uint64_t b = 0, c = 0;
};

struct Totals {
    uint64_t events = 0, actions = 0, completed = 0, late = 0, dropped = 0, deaths = 0;
    uint64_t retried = 0, evictions = 0, poisoned = 0, jobs = 0, steps = 0;

    void add(const Totals &other);
};

class World
{
  public:
    World(const Scenario &scenario, FILE *log);
    ~World();
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    /* Tells the core. Every so often all that it holds is checked. */
    int handle(core_event *event);
    void later(uint64_t ns, Happening what)
    {
        queue.add(now + ns, what);
    }
    bool next_action(core_action *action);

    const Scenario &scenario;
    ::core *core = nullptr;
    uint64_t now = 1000000000;
    uint64_t told = now; /* when the core was told the last event: its own clock */
    /* Whether the core had nothing left to say when the present event came; then what it answers
     * follows from what is known here. */
    bool quiet = true;
    bool behaving = false; /* in the end everybody does */
    bool draining = false;
    Requests requests;
    DecisionLog log;
    Events<Happening> queue;
    Totals totals;
    uint64_t check_every = 2000;

    /* Models as they are now; a model that is not there has no devices. */
    struct ModelNow {
        core_model config = {};
        bool exists = false, removing = false;
        int removed_with = 0;
        uint64_t alpha_ns = 0, beta_ns = 0;
        uint64_t changed = 0;                    /* when it became faster or slower */
        uint32_t steps[CORE_MAX_SORTS] = {};     /* that could be learnt from since */
        uint32_t runs[CORE_MAX_DEVICES] = {};    /* of them on each device */
        uint64_t sizes[CORE_MAX_SORTS][64] = {}; /* of the last of them */
    };
    std::vector<ModelNow> models;
    /* What a step of so many items and units takes on a device as fast as its sort. */
    uint64_t cost(uint32_t model, uint32_t device, uint64_t units) const;
    /* Whether so much has run that this can be known. */
    bool learnt(uint32_t model, uint32_t device) const;
    /* The same of a size: it is among the last ones, and not just for once. */
    bool usual(uint32_t model, uint32_t device, uint64_t units) const;
    /* A step of that size was run. */
    void ran(uint32_t model, uint32_t device, uint64_t units);

    Random workers_random, people_random, faults_random, stalls_random;

  private:
    uint64_t seq = 0;
};

core_event event_from(core_event_type type, uint32_t device, uint64_t epoch);

} // namespace sim

#endif
