/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deadlines, where steps take exactly what the core has learnt of them: nobody is dispatched who
 * will be late; nobody is refused or given up who could just as well be served; and never are more
 * served than a fluid, or the best plan of somebody who knows what will come, could serve.
 */
#include <algorithm>
#include <cinttypes>

extern "C" {
#include "core/profile.h"
}
#include "sim/bounds.h"
#include "sim/violation.h"
#include "sim/watch.h"

namespace sim
{

namespace
{

/* What is learnt of a size that is usual is as exact as fractions of 2^16 are, some of them
 * multiplied; where a model has changed its speed, it is near soon, and takes long to be exact. Of
 * other sizes a line is known, which leans where a device has stood still a while. */
uint64_t tolerance(const World &world, uint64_t ns, bool usual)
{
    const bool stalls = world.scenario.has(with_stalls);
    if (!usual)
        return stalls ? ns / 2 : ns / 4;
    return stalls || world.scenario.has(with_change) ? ns / 8 : ns / 512 + 1000;
}

/* A step may be thought to take somewhat more than it does; and where devices stand still a while,
 * most of that is not held against them, but some is. */
uint64_t with_doubt(const World &world, uint64_t ns, uint64_t part)
{
    return ns + (world.scenario.has(with_stalls) ? ns / 2 : ns / part);
}

/* A batch of several is as large as may be though it takes twice as long, if some did of late. */
uint64_t batch_with_doubt(const World &world, uint64_t ns)
{
    return world.scenario.has(with_stalls) ? 2 * with_doubt(world, ns, 2) : ns + ns / 32;
}

class Timeliness : public Watch
{
  public:
    Timeliness(World &w, const Workers &ws)
        : world(w), workers(ws), idle_since(ws.size(), never), last_step(CORE_MAX_MODELS, 0),
          active(w.scenario.exact() && !w.scenario.has(with_lazy | with_memory | with_jobs))
    {
        bounded = active && w.scenario.profile == Profile::bound && !w.scenario.random_deadlines &&
                  !w.scenario.has(with_change);
    }

    void submitted(const core_submit &s, int status, Request *r) override
    {
        if (r != nullptr)
            r->untried = world.now - last_step[r->model];
        if (bounded && s.deadline != 0) {
            if (r != nullptr)
                r->number = arrivals.size();
            arrivals.push_back({world.now, 0, 1});
            served.push_back(false);
        }
        if (!active || status != LIBSCHED_EDEADLINE || s.deadline <= world.now)
            return;
        for (uint32_t i = 0; i < workers.size(); i++) {
            if (!usable(i, s.model) || !world.usual(s.model, i, s.units))
                continue;
            uint64_t ns = world.cost(s.model, i, s.units);
            uint64_t given = workers[i]->time_given();
            uint64_t more =
                with_doubt(world, given, world.scenario.has(with_change) ? 8 : 32) - given;
            if (workers[i]->free_at() + more + with_doubt(world, ns, 8) <= s.deadline)
                violate("refused-needlessly",
                        "refused for its deadline in %" PRIu64 " ns, though device %u is free in "
                        "%" PRIu64 " and would take %" PRIu64,
                        s.deadline - world.now, i, workers[i]->free_at() - world.now, ns);
        }
    }

    void given(const StepSeen &s) override
    {
        idle_since[s.device] = never;
        if (!active || s.prepare)
            return;
        /* One is let through where nothing has run for long, or had when it came: it may be late.
         */
        uint64_t before = last_step[s.model], after = tried_after(s);
        last_step[s.model] = world.now;
        if (s.steps || !world.learnt(s.model, s.device) || world.now - before >= after)
            return;
        uint64_t ns = world.cost(s.model, s.device, s.units);
        if (!workers[s.device]->predictable() && workers[s.device]->under_way() > 1)
            return;
        /* Behind what is under way. */
        uint64_t end = workers[s.device]->free_at(), given = workers[s.device]->time_given();
        bool usual = world.usual(s.model, s.device, s.units);
        for (uint64_t id : *s.ids) {
            const Request &r = world.requests.get(id);
            if (r.deadline != 0 && r.untried < after &&
                end > r.deadline + tolerance(world, given, usual))
                violate("late",
                        "request %" PRIx64 " is in a batch of %" PRIu64 " units that takes %" PRIu64
                        " ns and ends %" PRIu64 " ns after its deadline",
                        id, s.units, ns, end - r.deadline);
        }
    }

    void replied(const Request &r, int status) override
    {
        if (bounded && r.deadline != 0 && status == LIBSCHED_OK && r.timely)
            served[r.number] = true;
        if (active && status == LIBSCHED_EDEADLINE && r.where == Where::queued &&
            (world.models[r.model].config.flags & CORE_MODEL_STEPS) == 0)
            given_up(r);
    }

    void settled() override
    {
        for (uint32_t i = 0; active && i < workers.size(); i++) {
            if (workers[i]->under_way() > 0 || !workers[i]->up())
                idle_since[i] = never;
            else if (idle_since[i] == never)
                idle_since[i] = world.now;
        }
    }

    void over() override
    {
        if (!bounded || arrivals.empty())
            return;
        const ModelSpec &m = world.scenario.models[0];
        uint64_t most = std::min<uint64_t>(m.config.max_batch_requests, m.config.max_batch_units);
        const Place place = {
            static_cast<uint32_t>(workers.size()), 1, m.slo_ns, {m.alpha_ns, m.beta_ns}, most};
        uint64_t n = static_cast<uint64_t>(std::count(served.begin(), served.end(), true));
        uint64_t bound = fluid_bound(place, arrivals);
        if (n > bound)
            violate("bounds", "%" PRIu64 " were served in time, and a fluid serves %" PRIu64, n,
                    bound);
        if (workers.size() != 1)
            return;
        Random random(world.scenario.seed, 50);
        for (int i = 0; i < 4; i++) {
            size_t length = std::min<size_t>(arrivals.size(), 250);
            size_t from = random.below(arrivals.size() - length + 1);
            std::vector<Arrival> some(arrivals.begin() + static_cast<long>(from),
                                      arrivals.begin() + static_cast<long>(from + length));
            uint64_t in_time = static_cast<uint64_t>(
                std::count(served.begin() + static_cast<long>(from),
                           served.begin() + static_cast<long>(from + length), true));
            uint64_t best = optimum(place, some, 0);
            if (in_time > best)
                violate("bounds",
                        "%" PRIu64 " of %zu were served in time, and the best plan "
                        "serves %" PRIu64,
                        in_time, length, best);
        }
    }

  private:
    /* What is known may be somewhat less than it takes. */
    uint64_t tried_after(const StepSeen &s) const
    {
        uint64_t least = PROFILE_STALE;
        for (uint32_t i = 0; i < workers.size(); i++)
            if (!workers[i]->is_prepare() && workers[i]->resident(s.model))
                least = std::min(least, world.cost(s.model, i, 1));
        least = std::min(least * PROFILE_TRY_EVERY, PROFILE_STALE);
        return std::max(least - least / 8, PROFILE_TRY_LEAST);
    }

    bool usable(uint32_t device, uint32_t model) const
    {
        return !workers[device]->is_prepare() && workers[device]->resident(model) &&
               workers[device]->may_take_steps_later() && workers[device]->predictable();
    }

    /* Before its time was over. */
    void given_up(const Request &r)
    {
        if (r.deadline <= world.now)
            return;
        uint64_t units = 0, n = 0, first = r.deadline;
        bool alike = world.models.size() == 1 && !world.scenario.has(with_keys | with_pads);
        if (alike)
            world.requests.each([&](const Request &other) {
                if (other.where != Where::queued)
                    return;
                n++;
                units += other.real_units;
                if (other.deadline != 0)
                    first = std::min(first, other.deadline);
            });
        const core_model &m = world.models[r.model].config;
        for (uint32_t i = 0; i < workers.size(); i++) {
            if (!usable(i, r.model) || !world.usual(r.model, i, r.real_units))
                continue;
            uint64_t ns = world.cost(r.model, i, r.real_units);
            uint64_t since = std::max(idle_since[i], r.at);
            if (idle_since[i] != never && since < world.now &&
                since + with_doubt(world, ns, 32) <= r.deadline)
                violate("deferred",
                        "request %" PRIx64 " is given up, and device %u was idle for %" PRIu64
                        " ns before that",
                        r.id, i, world.now - since);
            uint64_t all = world.cost(r.model, i, units);
            if (alike && world.usual(r.model, i, units) && n <= m.max_batch_requests &&
                units <= m.max_batch_units &&
                workers[i]->free_at() + batch_with_doubt(world, all) <= first)
                violate("given-up-needlessly",
                        "request %" PRIx64 " is given up, and all %" PRIu64
                        " that wait could go in one batch on device %u",
                        r.id, n, i);
        }
    }

    World &world;
    const Workers &workers;
    std::vector<uint64_t> idle_since, last_step;
    bool active, bounded = false;
    std::vector<Arrival> arrivals;
    std::vector<bool> served;
};

} // namespace

std::unique_ptr<Watch> watch_timeliness(World &world, const Workers &workers)
{
    return std::make_unique<Timeliness>(world, workers);
}

} // namespace sim
