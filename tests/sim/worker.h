/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device and its worker: runs the steps that it is given one after the other, loads and evicts,
 * fails, dies. What it is asked to do is checked against what may be asked of it.
 */
#ifndef SIM_WORKER_H
#define SIM_WORKER_H

#include <cstdint>
#include <deque>
#include <set>
#include <map>
#include <vector>

#include "sim/world.h"

namespace sim
{

/* What those who watch are told of a step. */
struct StepSeen {
    uint32_t device, model;
    uint64_t batch;
    uint32_t step;
    uint64_t units; /* as a step is measured */
    bool prepare, steps;
    const std::vector<uint64_t> *ids; /* who runs in it */
};

class Worker
{
  public:
    Worker(World &world, uint32_t index);

    /* From the core's view there is one. */
    bool up() const
    {
        return is_up;
    }
    uint64_t epoch() const
    {
        return present_epoch;
    }
    bool is_prepare() const
    {
        return spec.config.kind == CORE_PREPARE;
    }
    /* Could be given a step of that model now, as far as is known from outside. */
    bool idle_for(uint32_t model) const;
    bool may_take_steps() const;
    bool may_take_steps_later() const
    {
        return is_up && !dying && !vacating;
    }
    uint32_t under_way() const
    {
        return static_cast<uint32_t>(given.size());
    }
    bool resident(uint32_t model) const
    {
        return is_up && models[model].state == State::resident;
    }
    bool has_session_of(uint32_t model) const;
    /* When all that was given to it has ended, if nothing befalls it. */
    uint64_t free_at() const;
    /* What all that takes from beginning to end, ns. */
    uint64_t time_given() const;
    /* Whether that is known of everything that was. */
    bool predictable() const;

    /* Actions. */
    void run(const core_action &action, StepSeen *seen);
    void load(const core_action &action);
    void evict(const core_action &action);
    void abort(const core_action &action);
    void kill(const core_action &action);
    void vacate();
    /* Memory for the rank of a job, and back. */
    void take_rank(uint64_t bytes);
    void give_rank(uint64_t bytes);
    /* It said that it is of no use any more. */
    void is_lost();
    bool is_dying() const
    {
        return dying;
    }
    bool is_vacating() const
    {
        return vacating;
    }
    bool addressed(const core_action &action) const;

    /* What happens. */
    void comes_up();
    void dies();
    void told_down();
    void step_ends(uint64_t epoch, uint64_t batch);
    void load_ends(uint64_t epoch, uint32_t model);
    void evict_ends(uint64_t epoch, uint32_t model);
    void spell();
    void say_again(const core_event &event);

    /* A model is there anew. */
    void forget_model(uint32_t model);
    bool busy() const; /* something is under way */
    bool alive() const
    {
        return is_alive;
    }

    /* Of those which it said, some, to be said again. */
    std::vector<core_event> kept;

  private:
    struct Session {
        uint64_t batch = 0;
        uint32_t model = 0;
        uint32_t step = 0;
        bool prepare = false, steps = false;
        bool under_way = false;
        uint32_t n_given = 0;
        uint64_t units = 0;
        uint64_t memory_per_unit = 0;
        std::vector<uint64_t> members, runs; /* in the worker; in this step and not ended */
    };
    enum class State : uint8_t { absent, loading, resident, evicting };
    struct Held {
        State state = State::absent;
        uint64_t memory = 0;
        uint32_t sessions = 0;
        uint64_t too_much = 0; /* units of a step that did not fit, and steps that did since */
        uint32_t since = 0;
    };

    Session *find(uint64_t batch);
    Session &begin_session(const core_action &action);
    void take_items(Session &s, const core_action &action);
    void check_step(const Session &s, const core_action &action);
    void begin_next();
    uint64_t duration(const Session &s);
    bool stands_still(uint32_t model);
    void end_items(Session &s, int *status);
    void end_prepared(Session &s);
    bool end_item(Session &s, uint64_t id);
    void finish_step(uint64_t batch, int status);
    void end_session(uint64_t batch);
    void forget_item(Session &s, uint64_t id);
    void let_go(uint64_t id);
    void say_stale(uint64_t epoch, uint64_t batch);
    bool is_late(uint64_t epoch, core_event &event);
    void keep(const core_event &event);
    bool failing(uint32_t percent);
    bool alone(const Session &s);
    uint64_t item_memory(const Session &s, uint64_t id);

    World &world;
    const uint32_t index;
    const DeviceSpec &spec;
    bool is_up = false, is_alive = false;
    bool dying = false;    /* to be ended: nothing more is to be given to it */
    bool vacating = false; /* the same, in good order: nobody is to blame */
    uint64_t present_epoch = 0;
    uint64_t slowness = 100; /* percent */
    std::vector<Session> sessions;
    std::deque<uint64_t> given; /* batches with a step under way, in order */
    bool running = false;
    uint64_t began = 0, ends = 0;
    uint64_t expected_end = 0; /* what `ends` would be, had it not stood still */
    std::map<uint32_t, uint32_t> steps_since_stall; /* of a model */
    uint64_t memory = 0;                            /* models and running items */
    std::vector<Held> models;
    uint32_t n_loading = 0;
    struct Lost {
        uint64_t epoch, batch;
        uint32_t step;
        std::vector<uint64_t> ids;
    };
    std::vector<Lost> lost; /* steps that died with a worker */
};

} // namespace sim

#endif
