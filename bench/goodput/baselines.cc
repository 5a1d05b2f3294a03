/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What others do:
 *
 *   eager    whenever a device is idle, all that waits of the model whose first is due first; who
 *            has expired is dropped
 *   timeout  the same, once there are as many as a batch is to have, or the first has waited for so
 *            long: as Triton's dynamic batcher and Nx.Serving do
 *   window   eager; but the first is dropped where the batch aimed at (all that wait, up to the
 *            largest that could ever be in time) would miss its deadline; then as many as the first
 *            bears
 */
#include <algorithm>
#include <deque>

#include "policy.h"

namespace goodput
{

namespace
{

struct Queue {
    std::deque<uint32_t> ids;
    uint64_t units = 0;
};

class Baseline : public Policy
{
  public:
    explicit Baseline(const World &world) : queues(world.models), busy(world.devices, false)
    {
    }
    void arrive(World &world, uint32_t id) override
    {
        Queue &q = queues[world.requests[id].model];
        q.ids.push_back(id);
        q.units += world.requests[id].units;
    }
    void end(World &, uint32_t device, const std::vector<uint32_t> &, uint64_t) override
    {
        busy[device] = false;
    }
    uint64_t decide(World &world) override
    {
        uint64_t again = UINT64_MAX;
        for (;;) {
            auto idle = std::find(busy.begin(), busy.end(), false);
            if (idle == busy.end())
                return UINT64_MAX;
            again = UINT64_MAX;
            Queue *best = nullptr;
            uint64_t best_key = 0;
            size_t best_n = 0;
            for (Queue &q : queues) {
                uint64_t key = 0;
                size_t n = look(world, q, &key, &again);
                if (n > 0 && (best == nullptr || key < best_key)) {
                    best = &q;
                    best_key = key;
                    best_n = n;
                }
            }
            if (best == nullptr)
                return again;
            batch.assign(best->ids.begin(), best->ids.begin() + static_cast<long>(best_n));
            best->ids.erase(best->ids.begin(), best->ids.begin() + static_cast<long>(best_n));
            for (uint32_t id : batch)
                best->units -= world.requests[id].units;
            *idle = true;
            world.dispatch(static_cast<uint32_t>(idle - busy.begin()), batch.data(),
                           static_cast<uint32_t>(batch.size()));
        }
    }

  protected:
    /* Drops who is to be dropped; answers how many are to be dispatched, and by what key queues
     * are ordered; or none, and perhaps when to look again. */
    virtual size_t look(World &world, Queue &q, uint64_t *key, uint64_t *again) = 0;

    static const Request &first(const World &world, const Queue &q)
    {
        return world.requests[q.ids.front()];
    }
    static void drop_first(World &world, Queue &q)
    {
        q.units -= first(world, q).units;
        world.drop(q.ids.front());
        q.ids.pop_front();
    }
    static void drop_expired(World &world, Queue &q)
    {
        while (!q.ids.empty() && first(world, q).deadline < world.now)
            drop_first(world, q);
    }
    /* As many of the first as have so many units; at least one. */
    static size_t count(const World &world, const Queue &q, uint64_t units)
    {
        size_t n = 0;
        for (uint64_t sum = 0; n < q.ids.size(); n++) {
            sum += world.requests[q.ids[n]].units;
            if (n > 0 && sum > units)
                break;
        }
        return n;
    }

  private:
    std::vector<Queue> queues;
    std::vector<bool> busy;
    std::vector<uint32_t> batch;
};

class Eager : public Baseline
{
  public:
    using Baseline::Baseline;

  protected:
    size_t look(World &world, Queue &q, uint64_t *key, uint64_t *) override
    {
        drop_expired(world, q);
        if (q.ids.empty())
            return 0;
        *key = first(world, q).deadline;
        return q.ids.size();
    }
};

class Timeout : public Baseline
{
  public:
    Timeout(const World &world, const PolicyName &name) : Baseline(world)
    {
        size = std::max<uint64_t>(1, world.cost.largest(world.slo) * name.size_permille / 1000);
        wait = world.slo * name.wait_permille / 1000;
    }

  protected:
    size_t look(World &world, Queue &q, uint64_t *key, uint64_t *again) override
    {
        drop_expired(world, q);
        if (q.ids.empty())
            return 0;
        const Request &r = first(world, q);
        if (q.units < size && world.now < r.at + wait) {
            *again = std::min(*again, r.at + wait);
            return 0;
        }
        *key = r.deadline;
        return count(world, q, size);
    }

  private:
    uint64_t size, wait;
};

class Window : public Baseline
{
  public:
    explicit Window(const World &world) : Baseline(world), largest(world.cost.largest(world.slo))
    {
    }

  protected:
    size_t look(World &world, Queue &q, uint64_t *key, uint64_t *) override
    {
        while (!q.ids.empty() &&
               world.now +
                       world.cost.of(std::min(q.units, std::max(largest, first(world, q).units))) >
                   first(world, q).deadline)
            drop_first(world, q);
        if (q.ids.empty())
            return 0;
        const Request &r = first(world, q);
        uint64_t units = world.cost.largest(r.deadline - world.now);
        size_t n = count(world, q, units);
        *key = r.deadline - world.cost.of(std::min(units, q.units));
        return n;
    }

  private:
    uint64_t largest;
};

} // namespace

const std::vector<PolicyName> timeout_settings = {
    {"timeout", 250, 50},
    {"timeout", 500, 100},
    {"timeout", 500, 250},
    {"timeout", 1000, 250},
};

std::unique_ptr<Policy> make_policy(const PolicyName &name, const World &world)
{
    if (name.name == "eager")
        return std::make_unique<Eager>(world);
    if (name.name == "timeout")
        return std::make_unique<Timeout>(world, name);
    if (name.name == "window")
        return std::make_unique<Window>(world);
    return make_core_policy(world, name.name == "ahead");
}

} // namespace goodput
