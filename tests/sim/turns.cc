/* SPDX-License-Identifier: Apache-2.0 */
/* Nobody waits for ever: sessions let others in between their steps, and every model for which
 * somebody waits is served now and then. */
#include <cinttypes>

#include "sim/violation.h"
#include "sim/watch.h"

namespace sim
{

namespace
{

constexpr uint64_t second = 1000000000;

class Turns : public Watch
{
  public:
    Turns(World &w, const Workers &ws)
        : world(w), workers(ws), in_a_row(ws.size(), 0), hungry(w.models.size(), never),
          /* A class of the least share waits for those before it. */
          patience((w.scenario.has(with_classes) ? 4000 : 100) * second),
          patient(!w.scenario.calm() || w.scenario.has(with_parts | with_jobs)),
          alternates(!w.scenario.has(with_memory | with_item_memory | with_deaths | with_failures |
                                     with_jobs | with_reports | with_removals))
    {
    }

    void given(const StepSeen &s) override
    {
        hungry[s.model] = never;
        if (!alternates || s.prepare)
            return;
        uint32_t &n = in_a_row[s.device];
        n = s.step > 1 && others_wait(s.device, s.model) ? n + 1 : 0;
        if (n > 2)
            violate("turns", "%u steps of sessions on device %u, and others wait", n, s.device);
    }

    void settled() override
    {
        for (uint32_t m = 0; !patient && m < world.models.size(); m++) {
            if (world.requests.ready_of_model(m) == 0)
                hungry[m] = never;
            else if (hungry[m] == never)
                hungry[m] = world.now;
            else if (world.now - hungry[m] > patience)
                violate("starves", "%u wait for model %u, which is not served for %" PRIu64 " s",
                        world.requests.ready_of_model(m), m, (world.now - hungry[m]) / second);
        }
    }

  private:
    /* For another model, which the device has, and with time for it: who has little is left to
     * devices that are faster. */
    bool others_wait(uint32_t device, uint32_t model)
    {
        std::vector<bool> is_other(world.models.size());
        bool any = false;
        for (uint32_t m = 0; m < world.models.size(); m++) {
            is_other[m] = m != model && (world.models[m].config.flags & CORE_MODEL_STEPS) == 0 &&
                          world.requests.ready_of_model(m) > 0 && workers[device]->resident(m);
            any = any || is_other[m];
        }
        if (!any)
            return false;
        bool found = false;
        world.requests.each([&](const Request &r) {
            found = found ||
                    (r.where == Where::queued && (r.prepared || !r.prepares) && is_other[r.model] &&
                     (r.deadline == 0 ||
                      r.deadline > world.now + 4 * world.cost(r.model, device, r.real_units)));
        });
        return found;
    }

    World &world;
    const Workers &workers;
    std::vector<uint32_t> in_a_row;
    std::vector<uint64_t> hungry;
    const uint64_t patience;
    const bool patient, alternates;
};

} // namespace

std::unique_ptr<Watch> watch_turns(World &world, const Workers &workers)
{
    return std::make_unique<Turns>(world, workers);
}

} // namespace sim
