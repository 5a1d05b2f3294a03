/* SPDX-License-Identifier: Apache-2.0 */
/* What happens now and then, to models and devices. */
#include "sim/simulation.h"

namespace sim
{

namespace
{
constexpr uint64_t ms = 1000000, second = 1000 * ms;
} // namespace

void Simulation::begin_disturbance()
{
    Random random(scenario.seed, 40);
    if (scenario.has(with_spells))
        for (uint32_t i = 0; i < workers.size(); i++)
            if (!workers[i]->is_prepare() && random.percent(60))
                world.later(random.below(4 * second), {Kind::spell, i});
    if (scenario.has(with_change))
        for (uint32_t i = 0; i < world.models.size(); i++)
            if (random.percent(60))
                world.later(5 * second + random.below(20 * second), {Kind::change, i});
    if (scenario.has(with_stale | with_updates | with_removals | with_reports))
        world.later(random.below(50 * ms), {Kind::disturb});
}

void Simulation::disturb()
{
    if (world.behaving)
        return;
    Random &random = world.faults_random;
    uint32_t model = static_cast<uint32_t>(random.below(world.models.size()));
    World::ModelNow &m = world.models[model];
    if (scenario.has(with_stale)) {
        Worker &worker = *workers[random.below(workers.size())];
        if (!worker.kept.empty())
            worker.say_again(worker.kept[random.below(worker.kept.size())]);
    }
    if (scenario.has(with_updates) && random.percent(10))
        update_model(model);
    if (scenario.has(with_removals) && random.percent(4)) {
        if (m.exists && !m.removing) {
            remove_model(model);
        } else if (!m.exists || core_model_gone(world.core, model)) {
            m.exists = false;
            if (!world.draining)
                add_model(model);
        }
    }
    if (scenario.has(with_reports) && random.percent(10))
        report_memory();
    if (scenario.has(with_removals) && random.chance(1, 5000)) {
        core_event event = {};
        event.type = CORE_DRAIN;
        world.handle(&event);
        world.draining = true;
    }
    world.later(random.below(100 * ms), {Kind::disturb});
}

void Simulation::remove_model(uint32_t model)
{
    World::ModelNow &m = world.models[model];
    m.removed_with = world.faults_random.percent(50) ? LIBSCHED_ENOMODEL : LIBSCHED_EBADMODEL;
    m.removing = true;
    world.told = world.now;
    expect(core_remove_model(world.core, world.now, model, m.removed_with) == LIBSCHED_OK,
           "removal", "a removal is refused");
    world.quiet = false;
}

void Simulation::update_model(uint32_t model)
{
    World::ModelNow &m = world.models[model];
    Random &random = world.faults_random;
    if (!m.exists || m.removing)
        return;
    core_model config = m.config;
    config.max_batch_requests = static_cast<uint32_t>(1 + random.below(40));
    config.max_batch_units = 1 + random.below(scenario.models[model].most_units * 20);
    config.queue_limit = static_cast<uint32_t>(1 + random.below(500));
    config.max_prepare_requests = static_cast<uint32_t>(1 + random.below(16));
    world.told = world.now;
    expect(core_update_model(world.core, world.now, model, &config) == LIBSCHED_OK, "set-up",
           "an update is refused");
    m.config = config;
    world.quiet = false;
}

/* Somebody else has some of a device's memory, or in the end none. */
void Simulation::report_memory()
{
    for (auto &worker : workers) {
        uint64_t all =
            scenario.devices[static_cast<size_t>(&worker - workers.data())].config.memory_bytes;
        if (!worker->up() || all == 0)
            continue;
        core_event event = event_from(
            CORE_MEMORY_REPORT, static_cast<uint32_t>(&worker - workers.data()), worker->epoch());
        event.u.memory.free_bytes = world.behaving ? all : world.faults_random.below(all + 1);
        world.handle(&event);
    }
}

/* It is slower or faster from now on. */
void Simulation::change(uint32_t model)
{
    World::ModelNow &m = world.models[model];
    if (world.behaving)
        return;
    uint64_t percent = 50 + world.faults_random.below(250);
    m.alpha_ns = scenario.models[model].alpha_ns * percent / 100 + 1;
    m.beta_ns = scenario.models[model].beta_ns * percent / 100 + 1;
    m.changed = world.now;
    for (uint32_t &steps : m.steps)
        steps = 0;
    for (uint32_t &runs : m.runs)
        runs = 0;
    world.later(20 * second + world.faults_random.below(40 * second), {Kind::change, model});
}

} // namespace sim
