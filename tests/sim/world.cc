/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/world.h"

#include <algorithm>

#include "sim/violation.h"

namespace sim
{

void Totals::add(const Totals &o)
{
    events += o.events;
    actions += o.actions;
    completed += o.completed;
    late += o.late;
    dropped += o.dropped;
    deaths += o.deaths;
    retried += o.retried;
    evictions += o.evictions;
    poisoned += o.poisoned;
    jobs += o.jobs;
    steps += o.steps;
}

World::World(const Scenario &s, FILE *file)
    : scenario(s), requests(s), log(file), workers_random(s.seed, 20), people_random(s.seed, 21),
      faults_random(s.seed, 22), stalls_random(s.seed, 23)
{
    core = core_new(&s.config);
    expect(core != nullptr, "set-up", "the core refuses a configuration");
    models.resize(s.models.size());
}

World::~World()
{
    core_free(core);
}

int World::handle(core_event *event)
{
    told = now;
    int status = core_handle(core, now, event);
    log.event(now, *event, status);
    quiet = false;
    if (++totals.events % check_every == 0) {
        libsched_error err = {};
        if (!core_check(core, &err))
            violate("core-check", "%s", err.message);
    }
    return status;
}

bool World::next_action(core_action *action)
{
    if (!core_next_action(core, action)) {
        quiet = true;
        return false;
    }
    totals.actions++;
    if (action->seq != ++seq)
        violate("protocol", "an action has the number %llu instead of %llu",
                static_cast<unsigned long long>(action->seq), static_cast<unsigned long long>(seq));
    log.action(now, *action);
    return true;
}

uint64_t World::cost(uint32_t model, uint32_t device, uint64_t units) const
{
    const ModelNow &m = models[model];
    return (m.beta_ns + m.alpha_ns * units) * scenario.devices[device].speed_percent / 100;
}

bool World::learnt(uint32_t model, uint32_t device) const
{
    const ModelNow &m = models[model];
    return m.steps[scenario.devices[device].config.sort] >= 200 && m.runs[device] >= 100 &&
           now > m.changed + 3000000000u;
}

bool World::usual(uint32_t model, uint32_t device, uint64_t units) const
{
    const uint64_t *sizes = models[model].sizes[scenario.devices[device].config.sort];
    return learnt(model, device) && std::count(sizes, sizes + 64, units) >= 8;
}

void World::ran(uint32_t model, uint32_t device, uint64_t units)
{
    ModelNow &m = models[model];
    const uint32_t sort = scenario.devices[device].config.sort;
    m.runs[device]++;
    m.sizes[sort][m.steps[sort]++ % 64] = units;
}

core_event event_from(core_event_type type, uint32_t device, uint64_t epoch)
{
    core_event event = {};
    event.type = type;
    event.device = device;
    event.epoch = epoch;
    return event;
}

} // namespace sim
