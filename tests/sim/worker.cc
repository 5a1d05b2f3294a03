/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's life, and what it loads; what it runs is in worker_steps.cc. */
#include "sim/worker.h"

#include <algorithm>
#include <cinttypes>

#include "sim/violation.h"

namespace sim
{

namespace
{
constexpr uint64_t us = 1000, ms = 1000 * us;
constexpr size_t most_kept = 32;
} // namespace

Worker::Worker(World &w, uint32_t i) : world(w), index(i), spec(w.scenario.devices[i])
{
    models.resize(w.scenario.models.size());
}

/* ---------------------------------------------------------------------------------- seen from out
 */

bool Worker::may_take_steps() const
{
    uint32_t depth = spec.config.depth == 0 ? 1 : spec.config.depth;
    return may_take_steps_later() && given.size() < depth;
}

bool Worker::has_session_of(uint32_t model) const
{
    return std::any_of(sessions.begin(), sessions.end(),
                       [&](const Session &s) { return s.model == model; });
}

bool Worker::idle_for(uint32_t model) const
{
    return may_take_steps_later() && given.empty() && n_loading == 0 && resident(model);
}

uint64_t Worker::free_at() const
{
    uint64_t at = running ? std::max(expected_end, world.now) : world.now;
    for (size_t i = running ? 1 : 0; i < given.size(); i++)
        for (const Session &s : sessions)
            if (s.batch == given[i] && !s.prepare)
                at += world.cost(s.model, index, s.units);
    return at;
}

uint64_t Worker::time_given() const
{
    uint64_t ns = 0;
    for (uint64_t batch : given)
        for (const Session &s : sessions)
            if (s.batch == batch && !s.prepare)
                ns += world.cost(s.model, index, s.units);
    return ns;
}

bool Worker::predictable() const
{
    if (running && world.now > expected_end)
        return false;
    for (uint64_t batch : given)
        for (const Session &s : sessions)
            if (s.batch == batch && (s.prepare || !world.usual(s.model, index, s.units)))
                return false;
    return true;
}

bool Worker::busy() const
{
    return !given.empty() || n_loading > 0;
}

bool Worker::addressed(const core_action &a) const
{
    return is_up && a.epoch == present_epoch;
}

bool Worker::failing(uint32_t percent)
{
    return world.scenario.has(with_failures) && !world.behaving &&
           world.faults_random.percent(percent);
}

/* ------------------------------------------------------------------------------------------- life
 */

void Worker::comes_up()
{
    if (is_up)
        return;
    is_up = is_alive = true;
    dying = vacating = false;
    present_epoch++;
    slowness = 100;
    core_event event = event_from(CORE_WORKER_UP, index, present_epoch);
    world.handle(&event);
}

void Worker::dies()
{
    if (!is_alive)
        return;
    is_alive = false;
    running = false;
    world.totals.deaths++;
    world.later(world.faults_random.percent(30) ? 0 : world.faults_random.below(5 * ms),
                {Kind::told_down, index, present_epoch});
}

void Worker::told_down()
{
    if (!is_up)
        return;
    /* Whom it takes along: a request by itself in its step, with nothing else going on. */
    if (given.size() == 1 && n_loading == 0 && !vacating) {
        const Session &s = *find(given.front());
        if (s.n_given == 1 && s.runs.size() == 1)
            world.requests.get(s.runs[0]).lone_deaths++;
    }
    for (uint64_t batch : given) {
        const Session &s = *find(batch);
        for (uint64_t id : s.runs)
            if (!vacating)
                world.requests.suspect(world.requests.get(id), true);
        if (lost.size() < 8)
            lost.push_back({present_epoch, batch, s.step, s.runs});
    }
    for (const Session &s : sessions)
        for (uint64_t id : s.members) {
            world.requests.get(id).deaths += !vacating;
            world.requests.get(id).losses++;
            let_go(id);
        }
    sessions.clear();
    given.clear();
    is_up = false;
    memory = 0;
    n_loading = 0;
    for (Held &h : models)
        h = Held();
    core_event event = event_from(CORE_WORKER_DOWN, index, present_epoch);
    world.handle(&event);
    world.later(world.behaving ? ms : world.faults_random.below(200 * ms), {Kind::comes_up, index});
}

void Worker::kill(const core_action &)
{
    dying = true;
    dies();
}

void Worker::is_lost()
{
    dying = true;
}

void Worker::vacate()
{
    expect(!vacating, "vacate", "a device is vacated twice");
    vacating = true;
}

void Worker::take_rank(uint64_t bytes)
{
    memory += bytes;
    if (spec.config.memory_bytes != 0 && memory > spec.config.memory_bytes)
        violate("memory", "a rank makes %" PRIu64 " bytes of %" PRIu64, memory,
                spec.config.memory_bytes);
}

void Worker::give_rank(uint64_t bytes)
{
    memory -= bytes;
}

void Worker::spell()
{
    bool slow = slowness == 100 && !world.behaving;
    slowness = slow ? 150 + world.faults_random.below(800) : 100;
    world.later(slow ? world.faults_random.below(2000 * ms)
                     : 100 * ms + world.faults_random.below(10000 * ms),
                {Kind::spell, index});
}

void Worker::let_go(uint64_t id)
{
    Request *r = world.requests.find(id);
    if (r != nullptr && (r->where == Where::running || r->where == Where::preparing))
        world.requests.move(*r, Where::queued);
}

/* --------------------------------------------------------------------------------------- loading
 */

void Worker::load(const core_action &a)
{
    const World::ModelNow &m = world.models[a.model];
    Held &h = models[a.model];
    expect(m.exists, "residency", "a model is loaded that is not there");
    expect(!vacating, "vacate", "a model is loaded on a device that is vacated");
    expect(h.state == State::absent, "residency", "a model is loaded twice");
    expect(is_prepare() || (m.config.devices >> index & 1) != 0, "residency",
           "a model is loaded where it may not be");
    h.state = State::loading;
    h.memory = is_prepare() ? 0 : m.config.memory_bytes;
    memory += h.memory;
    n_loading++;
    if (spec.config.memory_bytes != 0 && memory > spec.config.memory_bytes)
        violate("memory", "a load makes %" PRIu64 " bytes of %" PRIu64, memory,
                spec.config.memory_bytes);
    if (!is_alive)
        return;
    uint64_t ns = world.scenario.models[a.model].load_ns;
    world.later(world.faults_random.percent(10) ? 0 : ns,
                {Kind::load_end, index, present_epoch, a.model});
    if (world.scenario.has(with_deaths) && !world.behaving &&
        world.faults_random.chance(world.scenario.deaths_permille, 1000))
        world.later(world.faults_random.below(ns + 1), {Kind::die, index, present_epoch});
}

/* Whether what ended was a former worker's; it may be said all the same. */
bool Worker::is_late(uint64_t epoch, core_event &event)
{
    if (is_alive && epoch == present_epoch)
        return false;
    if (world.scenario.has(with_stale) && epoch < present_epoch)
        world.handle(&event);
    return true;
}

void Worker::load_ends(uint64_t epoch, uint32_t model)
{
    core_event event = event_from(CORE_LOADED, index, epoch);
    event.u.loaded.model = model;
    if (is_late(epoch, event))
        return;
    Held &h = models[model];
    if (h.state != State::loading)
        return;
    event.u.loaded.memory_bytes = h.memory;
    if (failing(10)) {
        event.u.loaded.status =
            world.faults_random.percent(80) ? LIBSCHED_EENGINE : LIBSCHED_EDEVICELOST;
        if (event.u.loaded.status == LIBSCHED_EENGINE) {
            memory -= h.memory;
            h = Held();
            n_loading--;
        } else {
            dying = true;
        }
        world.handle(&event);
        return;
    }
    h.state = State::resident;
    n_loading--;
    keep(event);
    world.handle(&event);
}

void Worker::evict(const core_action &a)
{
    Held &h = models[a.model];
    expect(h.state == State::resident, "residency", "what is not loaded is evicted");
    expect(h.sessions == 0, "residency", "a model is evicted from under a session");
    h.state = State::evicting;
    n_loading++;
    world.totals.evictions++;
    if (is_alive)
        world.later(world.faults_random.percent(20) ? 0 : world.faults_random.below(20 * ms),
                    {Kind::evict_end, index, present_epoch, a.model});
}

void Worker::evict_ends(uint64_t epoch, uint32_t model)
{
    core_event event = event_from(CORE_EVICTED, index, epoch);
    event.u.loaded.model = model;
    if (is_late(epoch, event))
        return;
    Held &h = models[model];
    if (h.state != State::evicting)
        return;
    memory -= h.memory;
    h = Held();
    n_loading--;
    world.handle(&event);
}

void Worker::forget_model(uint32_t model)
{
    expect(models[model].state == State::absent || !is_up, "removal",
           "a model has gone that is loaded");
}

/* ------------------------------------------------------------------------------------------ stale
 */

void Worker::keep(const core_event &event)
{
    if (!world.scenario.has(with_stale) || !world.faults_random.percent(10))
        return;
    if (kept.size() < most_kept)
        kept.push_back(event);
    else
        kept[world.faults_random.below(most_kept)] = event;
}

/* What was said once, again: of a batch that is over, or by a worker that is. */
void Worker::say_again(const core_event &old)
{
    core_event event = old;
    if (event.epoch == present_epoch && is_up) {
        if (event.type == CORE_LOADED || event.type == CORE_EVICTED)
            return;
        uint64_t batch = event.type == CORE_PART        ? event.u.part.batch
                         : event.type == CORE_ITEM_DONE ? event.u.item_done.batch
                                                        : event.u.step_done.batch;
        const Session *s = find(batch);
        if (s != nullptr && (event.type != CORE_STEP_DONE || s->step == event.u.step_done.step))
            return;
    }
    world.handle(&event);
    if (event.type == CORE_PART)
        expect(event.u.part.drop, "stale", "a part of a batch that is over is kept");
    if (event.type == CORE_ITEM_DONE)
        expect(event.u.item_done.drop, "stale", "an end of a batch that is over is kept");
}

void Worker::say_stale(uint64_t epoch, uint64_t batch)
{
    if (!world.scenario.has(with_stale) || epoch >= present_epoch + (is_up ? 0 : 1))
        return;
    for (const Lost &l : lost) {
        if (l.epoch != epoch || l.batch != batch)
            continue;
        for (uint64_t id : l.ids) {
            core_event event = event_from(CORE_ITEM_DONE, index, epoch);
            event.u.item_done.id = id;
            event.u.item_done.batch = batch;
            world.handle(&event);
            expect(event.u.item_done.drop, "stale", "a dead worker's results are kept");
        }
        core_event event = event_from(CORE_STEP_DONE, index, epoch);
        event.u.step_done.batch = batch;
        event.u.step_done.step = l.step;
        event.u.step_done.end = world.now;
        world.handle(&event);
    }
    lost.erase(std::remove_if(lost.begin(), lost.end(),
                              [&](const Lost &l) { return l.epoch + 1 < present_epoch; }),
               lost.end());
}

} // namespace sim
