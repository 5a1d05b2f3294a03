/* SPDX-License-Identifier: Apache-2.0 */
/* Where nobody has a deadline, nothing is put off: no device is idle beside work that it could do.
 */
#include "sim/violation.h"
#include "sim/watch.h"

namespace sim
{

namespace
{

class Idleness : public Watch
{
  public:
    Idleness(World &w, const Workers &ws)
        : world(w), workers(ws),
          active(!w.scenario.has(with_deadlines | with_memory | with_item_memory | with_reports |
                                 with_failures | with_jobs))
    {
    }

    void settled() override
    {
        if (!active || world.requests.suspects() > 0)
            return;
        for (uint32_t i = 0; i < workers.size(); i++)
            for (uint32_t m = 0; m < world.models.size(); m++)
                if (waiting(*workers[i], m) > 0 && workers[i]->idle_for(m))
                    violate("idle", "device %u is idle, and %u wait for model %u", i,
                            waiting(*workers[i], m), m);
    }

  private:
    uint32_t waiting(const Worker &worker, uint32_t model) const
    {
        const core_model &m = world.models[model].config;
        if (worker.is_prepare())
            return world.requests.unprepared_of_model(model);
        /* Items may wait for credit, or to join a session. */
        if ((m.flags & CORE_MODEL_STEPS) != 0 &&
            (world.scenario.has(with_parts) || worker.has_session_of(model)))
            return 0;
        return world.requests.ready_of_model(model);
    }

    World &world;
    const Workers &workers;
    const bool active;
};

} // namespace

std::unique_ptr<Watch> watch_idleness(World &world, const Workers &workers)
{
    return std::make_unique<Idleness>(world, workers);
}

} // namespace sim
