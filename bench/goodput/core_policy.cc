/* SPDX-License-Identifier: Apache-2.0 */
/* "default" and "ahead": the core that ships. It is told nothing of what batches cost; it learns
 * that. */
#include "policy.h"

#include <cstdio>
#include <cstdlib>
#include <deque>

#include "core/core.h"

namespace goodput
{

namespace
{

constexpr uint32_t max_requests = 1u << 15;
constexpr uint64_t lead_ns = 250000; /* as sched-port has it */

void die(const char *why)
{
    std::fprintf(stderr, "bench-goodput: %s\n", why);
    std::exit(1);
}

class CorePolicy : public Policy
{
  public:
    CorePolicy(const World &world, bool steps_ahead)
        : ahead(steps_ahead), slots(max_requests), under_way(world.devices)
    {
        core_config config = {};
        config.max_requests = max_requests;
        config.max_clients = 16;
        core = core_new(&config);
        if (core == nullptr)
            die("no memory");
        for (uint32_t i = 0; i < world.devices; i++) {
            core_device device = {};
            device.kind = CORE_COMPUTE;
            device.depth = depth();
            device.lead_ns = ahead ? lead_ns : 0;
            if (core_add_device(core, i, &device) != LIBSCHED_OK)
                die("the core refuses a device");
        }
        for (uint32_t i = 0; i < world.models; i++) {
            core_model model = {};
            model.devices = (UINT64_C(1) << world.devices) - 1;
            model.max_batch_requests = CORE_MAX_BATCH;
            model.max_batch_units = UINT64_C(1) << 32;
            model.max_request_units = UINT64_C(1) << 32;
            model.queue_limit = max_requests;
            if (core_add_model(core, 0, i, &model) != LIBSCHED_OK)
                die("the core refuses a model");
        }
        for (uint32_t i = 0; i < world.devices; i++)
            handle(0, from(CORE_WORKER_UP, i));
        core_action action;
        for (bool any = true; any;) {
            std::vector<core_event> loaded;
            while (core_next_action(core, &action)) {
                if (action.type != CORE_LOAD)
                    continue;
                loaded.push_back(from(CORE_LOADED, action.device));
                loaded.back().u.loaded.model = action.model;
            }
            any = !loaded.empty();
            for (core_event &event : loaded)
                handle(0, event);
        }
    }
    ~CorePolicy() override
    {
        core_free(core);
    }
    CorePolicy(const CorePolicy &) = delete;
    CorePolicy &operator=(const CorePolicy &) = delete;

    uint32_t depth() const override
    {
        return ahead ? 2 : 1;
    }

    void arrive(World &world, uint32_t id) override
    {
        const Request &r = world.requests[id];
        core_event event = {};
        event.type = CORE_SUBMIT;
        event.u.submit.model = r.model;
        event.u.submit.client = 1;
        event.u.submit.units = r.units;
        event.u.submit.deadline = r.deadline;
        if (core_handle(core, world.now, &event) == LIBSCHED_OK)
            slots[slot(event.u.submit.id)] = id;
        else
            world.drop(id);
    }

    void end(World &world, uint32_t device, const std::vector<uint32_t> &, uint64_t began) override
    {
        const UnderWay u = std::move(under_way[device].front());
        under_way[device].pop_front();
        for (uint64_t id : u.ids) {
            core_event event = from(CORE_ITEM_DONE, device);
            event.u.item_done.id = id;
            event.u.item_done.batch = u.batch;
            handle(world.now, event);
        }
        core_event event = from(CORE_STEP_DONE, device);
        event.u.step_done.batch = u.batch;
        event.u.step_done.step = u.step;
        event.u.step_done.begin = began;
        event.u.step_done.end = world.now;
        handle(world.now, event);
    }

    uint64_t decide(World &world) override
    {
        if (timer <= world.now) {
            core_event event = {};
            event.type = CORE_TIMER;
            timer = UINT64_MAX;
            handle(world.now, event);
        }
        core_action action;
        while (core_next_action(core, &action)) {
            switch (action.type) {
            case CORE_DISPATCH: {
                under_way[action.device].push_back({action.batch, action.step, {}});
                UnderWay &u = under_way[action.device].back();
                batch.clear();
                for (uint32_t i = 0; i < action.n_items; i++) {
                    u.ids.push_back(action.items[i].id);
                    batch.push_back(slots[slot(action.items[i].id)]);
                }
                world.dispatch(action.device, batch.data(), static_cast<uint32_t>(batch.size()));
                break;
            }
            case CORE_REPLY:
                if (action.status != LIBSCHED_OK)
                    world.drop(slots[slot(action.id)]);
                break;
            case CORE_ARM_TIMER:
                timer = action.at == 0 ? UINT64_MAX : action.at;
                break;
            default:
                die("the core does something that nothing led to");
            }
        }
        return timer;
    }

  private:
    struct UnderWay {
        uint64_t batch;
        uint32_t step;
        std::vector<uint64_t> ids;
    };

    static uint32_t slot(uint64_t id)
    {
        return static_cast<uint32_t>(id & 0xffffff);
    }
    static core_event from(core_event_type type, uint32_t device)
    {
        core_event event = {};
        event.type = type;
        event.device = device;
        event.epoch = 1;
        return event;
    }
    void handle(uint64_t now, core_event event)
    {
        if (core_handle(core, now, &event) != LIBSCHED_OK)
            die("the core refuses an event");
    }

    const bool ahead;
    ::core *core;
    uint64_t timer = UINT64_MAX;
    std::vector<uint32_t> slots;                 /* whose they are */
    std::vector<std::deque<UnderWay>> under_way; /* on each device */
    std::vector<uint32_t> batch;
};

} // namespace

std::unique_ptr<Policy> make_core_policy(const World &world, bool ahead)
{
    return std::make_unique<CorePolicy>(world, ahead);
}

} // namespace goodput
