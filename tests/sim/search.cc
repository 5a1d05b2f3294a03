/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/search.h"

namespace sim
{

Outcome run_case(const Case &c, const Trace *trace, FILE *log)
{
    Outcome outcome;
    Scenario scenario =
        make_scenario(c.seed, c.has_profile ? &c.profile : nullptr, c.without, c.limits);
    Simulation *simulation = nullptr;
    try {
        /* What is thrown while it is made comes before there is anything to ask. */
        std::unique_ptr<Simulation> made;
        made = std::make_unique<Simulation>(scenario, trace, log);
        simulation = made.get();
        try {
            simulation->run(c.events);
        } catch (const Violation &v) {
            outcome.failed = true;
            outcome.violation = v;
        }
        outcome.totals = simulation->totals();
        outcome.hash = simulation->hash();
    } catch (const Violation &v) {
        outcome.failed = true;
        outcome.violation = v;
    }
    return outcome;
}

std::string options_of(const Case &c)
{
    std::string text = "--first-seed " + std::to_string(c.seed) + " --seeds 1 --events " +
                       std::to_string(c.events);
    if (c.has_profile)
        text += std::string(" --profile ") + profile_name(c.profile);
    if (c.without != 0)
        text += " --without " + feature_names(c.without);
    if (c.limits.devices != UINT32_MAX)
        text += " --devices " + std::to_string(c.limits.devices);
    if (c.limits.models != UINT32_MAX)
        text += " --models " + std::to_string(c.limits.models);
    if (c.limits.clients != UINT32_MAX)
        text += " --clients " + std::to_string(c.limits.clients);
    if (!c.trace.empty())
        text += " --trace " + c.trace;
    return text;
}

namespace
{

class Shrinking
{
  public:
    Shrinking(const Case &failing, const Outcome &outcome, const Trace *t)
        : best(failing), check(outcome.violation.check), trace(t)
    {
        cut(outcome);
    }

    Case run()
    {
        const uint32_t before_that = 6;
        for (uint32_t round = 0; round < before_that && improved; round++) {
            improved = false;
            Scenario s = scenario();
            for (uint32_t bit = 0; bit < n_features; bit++) {
                if ((s.features >> bit & 1) == 0)
                    continue;
                Case c = best;
                c.without |= UINT64_C(1) << bit;
                attempt(c);
            }
            fewer(&Limits::models, static_cast<uint32_t>(s.models.size()));
            fewer(&Limits::clients, static_cast<uint32_t>(s.clients.size()));
            uint32_t devices = 0;
            for (const DeviceSpec &d : s.devices)
                devices += d.config.kind == CORE_COMPUTE;
            fewer(&Limits::devices, devices);
        }
        return best;
    }

  private:
    Scenario scenario() const
    {
        return make_scenario(best.seed, best.has_profile ? &best.profile : nullptr, best.without,
                             best.limits);
    }

    void fewer(uint32_t Limits::*limit, uint32_t n)
    {
        for (uint32_t i = 1; i < n; i = i < 2 ? 2 : i * 2) {
            Case c = best;
            c.limits.*limit = i;
            if (attempt(c))
                return;
        }
    }

    /* No more events than it takes. */
    void cut(const Outcome &outcome)
    {
        if (outcome.totals.events > 0 && outcome.totals.events < best.events)
            best.events = outcome.totals.events;
    }

    bool attempt(const Case &c)
    {
        Outcome outcome = run_case(c, trace, nullptr);
        if (!outcome.failed || outcome.violation.check != check)
            return false;
        best = c;
        cut(outcome);
        improved = true;
        return true;
    }

    Case best;
    const std::string check;
    const Trace *trace;
    bool improved = true;
};

} // namespace

Case shrink(const Case &failing, const Outcome &outcome, const Trace *trace)
{
    return Shrinking(failing, outcome, trace).run();
}

} // namespace sim
