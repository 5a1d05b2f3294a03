/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shares of device time. Of two clients that both have work all the time (or two classes), neither
 * ever gets further ahead of the other, each by its weight, than a few of the longest batches. One
 * that has little to do does not notice how much the others have.
 *
 * Time is counted here by what steps cost, without regard to how the core counts it.
 */
#include <algorithm>
#include <cinttypes>

#include "sim/violation.h"
#include "sim/watch.h"

namespace sim
{

namespace
{

class Fairness : public Watch
{
  public:
    Fairness(World &w, const Workers &ws)
        : world(w), workers(ws), active(w.scenario.profile == Profile::fair),
          parties(w.scenario.clients.size())
    {
        if (!active)
            return;
        const Scenario &s = world.scenario;
        for (const Source &source : s.sources)
            if (source.quiet)
                parties[source.client].quiet = true;
        for (uint32_t i = 0; i < parties.size(); i++) {
            /* A class's share counts in 1/128. */
            parties[i].parts = 128;
            parties[i].of = s.has(with_classes) ? share(s.sources[first_source(i)].priority)
                                                : 128 * std::max(1u, s.clients[i].weight);
        }
        for (const ModelSpec &m : s.models) {
            uint64_t units = std::max<uint64_t>(
                m.most_units, std::min<uint64_t>(m.config.max_batch_units,
                                                 m.config.max_batch_requests * m.most_units));
            longest = std::max(longest, m.beta_ns + m.alpha_ns * units);
        }
        /* What is counted on is more than what is usual, where steps are sometimes long. */
        if (s.has(with_noise))
            longest *= 5;
    }

    void given(const StepSeen &s) override
    {
        if (!active || s.prepare)
            return;
        uint64_t ns = world.cost(s.model, s.device, s.units);
        for (uint64_t id : *s.ids) {
            const Request &r = world.requests.get(id);
            Party &p = parties[r.client];
            p.time += ns / s.ids->size() * p.parts / p.of;
            uint64_t waited = world.now - r.at;
            if (sure && p.quiet && waited > patience(p))
                violate("fairness",
                        "a quiet client waits %" PRIu64 " ns where a batch takes %" PRIu64
                        " at most",
                        waited, longest);
        }
    }

    void settled() override
    {
        if (!active || world.behaving)
            return;
        if (!sure) {
            sure = true;
            for (uint32_t m = 0; m < world.models.size(); m++)
                for (uint32_t i = 0; i < workers.size(); i++)
                    sure = sure && world.learnt(m, i);
            if (!sure)
                return;
        }
        uint64_t least = UINT64_MAX;
        for (const Party &p : parties)
            least = std::min<uint64_t>(least, p.of);
        for (uint32_t i = 0; i < parties.size(); i++)
            look_at(i);
        for (uint32_t i = 0; i < parties.size(); i++) {
            for (uint32_t j = 0; j < i; j++) {
                if (!parties[i].busy || !parties[j].busy)
                    continue;
                int64_t ahead = static_cast<int64_t>(parties[i].time - parties[i].base[j]) -
                                static_cast<int64_t>(parties[j].time - parties[j].base[i]);
                /* From one side of the bound to the other; at first one of them may have a batch on
                 * every device. */
                int64_t most =
                    static_cast<int64_t>((1 + workers.size()) * (longest + longest * 128 / least));
                if (ahead > most || ahead < -most)
                    violate("fairness",
                            "client %u is %" PRId64 " ns ahead of client %u, and may be %" PRId64,
                            ahead > 0 ? i : j, ahead > 0 ? ahead : -ahead, ahead > 0 ? j : i, most);
            }
        }
    }

  private:
    struct Party {
        uint64_t time = 0; /* of devices, by its weight */
        uint64_t parts = 1, of = 1;
        bool busy = false, quiet = false;
        std::vector<uint64_t> base; /* its time when it and another began to be busy together */
    };

    /* One whose weight is little has a smaller share, and of two of its requests in a row the
     * second waits until the others have had theirs. */
    uint64_t patience(const Party &quiet) const
    {
        uint64_t all = 0;
        for (const Party &p : parties)
            all += p.of;
        return std::max(10 * longest, 10 * longest * all / (parties.size() * quiet.of));
    }

    uint32_t first_source(uint32_t client) const
    {
        for (uint32_t i = 0; i < world.scenario.sources.size(); i++)
            if (world.scenario.sources[i].client == client)
                return i;
        return 0;
    }

    uint64_t share(uint32_t priority) const
    {
        return std::max(1u, world.scenario.config.class_shares[priority]);
    }

    /* Whether it has more work than a batch takes, of everything. */
    void look_at(uint32_t client)
    {
        const Scenario &s = world.scenario;
        Party &p = parties[client];
        /* Where a batch has one key, others fill up what it has room for. */
        bool busy = !p.quiet && !s.has(with_keys);
        for (uint32_t i = 0; busy && i < s.sources.size(); i++)
            if (s.sources[i].client == client &&
                world.requests.queued_of_source(i) <
                    s.models[s.sources[i].model].config.max_batch_requests)
                busy = false;
        if (busy && !p.busy) {
            p.base.resize(parties.size());
            for (uint32_t other = 0; other < parties.size(); other++) {
                p.base[other] = p.time;
                if (other != client && parties[other].busy)
                    parties[other].base[client] = parties[other].time;
            }
        }
        p.busy = busy;
    }

    World &world;
    const Workers &workers;
    const bool active;
    bool sure = false; /* all costs are known by now */
    std::vector<Party> parties;
    uint64_t longest = 0;
};

} // namespace

std::unique_ptr<Watch> watch_fairness(World &world, const Workers &workers)
{
    return std::make_unique<Fairness>(world, workers);
}

} // namespace sim
