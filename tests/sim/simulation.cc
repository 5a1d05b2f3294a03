/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/simulation.h"

#include <algorithm>
#include <cinttypes>

namespace sim
{

namespace
{
constexpr uint64_t ms = 1000000, second = 1000 * ms;
/* Actions after one event: more than there can be anything to say of. */
constexpr uint32_t most_actions = 200000;
/* And things that happen at one time. */
constexpr uint32_t most_at_once = 100000;
/* Things that happen without an event. */
constexpr uint32_t most_nothing = 100000;
} // namespace

Simulation::Simulation(const Scenario &s, const Trace *t, FILE *log)
    : scenario(s), trace(t), world(scenario, log)
{
    set_up();
}

void Simulation::set_up()
{
    for (uint32_t i = 0; i < scenario.devices.size(); i++) {
        expect(core_add_device(world.core, i, &scenario.devices[i].config) == LIBSCHED_OK, "set-up",
               "a device is refused");
        workers.push_back(std::make_unique<Worker>(world, i));
    }
    for (const ClientSpec &c : scenario.clients)
        if (c.weight != 0 || c.limit != 0) {
            int status = core_set_client(world.core, c.key, c.weight, c.limit);
            expect(status == LIBSCHED_OK || scenario.config.max_clients < scenario.clients.size(),
                   "set-up", "a client is refused");
        }
    watchers.push_back(watch_timeliness(world, workers));
    watchers.push_back(watch_idleness(world, workers));
    watchers.push_back(watch_fairness(world, workers));
    watchers.push_back(watch_turns(world, workers));
    gangs = make_gangs(world, workers);
    for (uint32_t i = 0; i < scenario.models.size(); i++)
        add_model(i);
    carry_out();
    for (auto &worker : workers) {
        worker->comes_up();
        carry_out();
    }
    begin_arrivals();
    begin_disturbance();
    gangs->begin();
}

void Simulation::add_model(uint32_t model)
{
    const ModelSpec &spec = scenario.models[model];
    World::ModelNow &m = world.models[model];
    world.told = world.now;
    int status = core_add_model(world.core, world.now, model, &spec.config);
    if (status != LIBSCHED_OK) {
        expect(status == LIBSCHED_ENODEVMEM, "set-up", "a model is refused");
        return;
    }
    for (auto &worker : workers)
        worker->forget_model(model);
    m = World::ModelNow();
    m.config = spec.config;
    m.exists = true;
    m.alpha_ns = spec.alpha_ns;
    m.beta_ns = spec.beta_ns;
}

/* -------------------------------------------------------------------------------------- the loop
 */

void Simulation::happen(const Happening &h)
{
    switch (h.kind) {
    case Kind::arrive:
        arrive(h.a);
        break;
    case Kind::pause:
        pause(h.a);
        break;
    case Kind::cancel:
        cancel(h.b);
        break;
    case Kind::grant:
        grant(h.b);
        break;
    case Kind::step_end:
        workers[h.a]->step_ends(h.b, h.c);
        break;
    case Kind::load_end:
        workers[h.a]->load_ends(h.b, static_cast<uint32_t>(h.c));
        break;
    case Kind::evict_end:
        workers[h.a]->evict_ends(h.b, static_cast<uint32_t>(h.c));
        break;
    case Kind::die:
        if (workers[h.a]->epoch() == h.b && !world.behaving)
            workers[h.a]->dies();
        break;
    case Kind::told_down:
        if (workers[h.a]->epoch() == h.b)
            told_down(h.a);
        break;
    case Kind::comes_up:
        gangs->comes_up(h.a);
        break;
    case Kind::say_again:
        break;
    case Kind::spell:
        workers[h.a]->spell();
        break;
    case Kind::change:
        change(h.a);
        break;
    case Kind::disturb:
        disturb();
        break;
    default:
        gangs->happen(h);
    }
}

void Simulation::told_down(uint32_t device)
{
    if (!workers[device]->up())
        return;
    workers[device]->told_down();
    gangs->lost(device);
}

uint64_t Simulation::next_at() const
{
    return std::min(timer, world.queue.first_at());
}

/* One thing happens. The timer comes first, so that nobody is begun at the time of his deadline. */
void Simulation::advance()
{
    const uint64_t before = world.now;
    world.now = std::max(world.now, next_at());
    standing = world.now == before ? standing + 1 : 0;
    if (standing > most_at_once)
        violate("progress", "the core keeps asking for the present time");
    if (timer <= world.queue.first_at()) {
        timer = never;
        core_event event = {};
        event.type = CORE_TIMER;
        world.handle(&event);
    } else {
        happen(world.queue.take());
    }
}

void Simulation::run(uint64_t n_events)
{
    uint64_t last = 0;
    for (uint32_t nothing = 0; world.totals.events < n_events; nothing++) {
        /* Once all models are removed for good, nobody has anything to tell the core. */
        if (world.totals.events != last)
            nothing = 0;
        else if (nothing > most_nothing)
            break;
        last = world.totals.events;
        if (next_at() == never)
            violate("progress", "nothing is left to happen");
        advance();
        if (!scenario.has(with_lazy) || !world.faults_random.percent(scenario.lazy_percent))
            carry_out();
    }
    behave();
}

void Simulation::carry_out()
{
    core_action action;
    for (uint32_t n = 0; world.next_action(&action); n++) {
        if (n > most_actions)
            violate("progress", "the core does not come to rest");
        carry_out(action);
    }
    settled();
}

void Simulation::carry_out(const core_action &a)
{
    switch (a.type) {
    case CORE_DISPATCH:
    case CORE_STEP:
    case CORE_LOAD:
    case CORE_EVICT:
    case CORE_ABORT:
    case CORE_KILL:
    case CORE_VACATE:
        if (a.device >= workers.size() || !workers[a.device]->addressed(a))
            violate("protocol", "device %u is addressed, epoch %" PRIu64 ", and is not there",
                    a.device, a.epoch);
        break;
    default:
        break;
    }
    StepSeen seen = {};
    switch (a.type) {
    case CORE_DISPATCH:
    case CORE_STEP:
        if (a.n_items > 0 || a.type == CORE_STEP)
            workers[a.device]->run(a, &seen);
        if (seen.ids != nullptr) {
            gangs->given(seen);
            for (auto &watch : watchers)
                watch->given(seen);
        }
        break;
    case CORE_LOAD:
        workers[a.device]->load(a);
        break;
    case CORE_EVICT:
        workers[a.device]->evict(a);
        break;
    case CORE_ABORT:
        workers[a.device]->abort(a);
        break;
    case CORE_KILL:
        expect(workers[a.device]->is_dying() || gangs->may_kill(a.device), "kill",
               "a worker is ended that did nothing");
        workers[a.device]->kill(a);
        break;
    case CORE_REPLY:
        reply(a);
        break;
    case CORE_REPLY_PART:
        reply_part(a);
        break;
    case CORE_ARM_TIMER:
        timer = a.at == 0 ? never : a.at;
        break;
    default:
        gangs->action(a);
    }
}

/* --------------------------------------------------------------------------------------- replies
 */

void Simulation::reply_part(const core_action &a)
{
    Request &r = world.requests.get(a.id);
    r.sent++;
    expect(r.wants_parts, "parts", "a part that is not wanted");
    expect(r.unlimited || r.sent <= r.credit, "parts", "a part without credit");
    expect(r.sent <= r.total_parts, "parts", "a part is sent twice");
}

void Simulation::check_reply(const Request &r, const core_action &a)
{
    bool removing = world.models[r.model].removing;
    uint32_t strikes = scenario.config.max_strikes == 0 ? 2 : scenario.config.max_strikes;

    expect(r.where == Where::queued || r.where == Where::done, "one-end",
           "a reply while a worker has it");
    if (r.cancelled)
        expect(a.status == LIBSCHED_ECANCELED || removing || r.deadline != 0, "cancel",
               "a cancelled request is answered otherwise");
    switch (a.status) {
    case LIBSCHED_OK:
        expect(r.where == Where::done && r.end_status == LIBSCHED_OK, "one-end",
               "answered as if it had been served");
        expect(!r.wants_parts || r.sent == r.yielded, "parts", "parts are missing");
        expect(a.attempts == r.attempts &&
                   (a.dispatched == r.dispatched ||
                    (world.scenario.has(with_depth) && a.dispatched > r.dispatched &&
                     a.dispatched <= world.told)) &&
                   a.batch_size >= 1,
               "protocol", "a reply says otherwise how it was served");
        break;
    case LIBSCHED_EDEADLINE:
        expect(r.deadline != 0, "dropped-soft", "a request without a deadline is dropped");
        break;
    case LIBSCHED_ECANCELED:
        expect(r.cancelled, "cancel", "cancelled by nobody");
        break;
    case LIBSCHED_EPOISON:
        expect(r.lone_deaths >= strikes, "retry", "called poison for another's deed");
        break;
    case LIBSCHED_EDEVICELOST:
        expect(r.losses >= 1 && (r.sent > 0 || r.deaths >= 16), "retry",
               "lost, and could be tried again");
        break;
    case LIBSCHED_ENOMODEL:
    case LIBSCHED_EBADMODEL:
        expect(removing && a.status == world.models[r.model].removed_with, "removal",
               "its model is there");
        break;
    case LIBSCHED_EENGINE:
    case LIBSCHED_EINVAL:
        expect(r.end_status == a.status, "one-end", "fails, and nobody said so");
        break;
    case LIBSCHED_ENODEVMEM:
        expect(r.end_status == a.status || r.sent > 0 || scenario.has(with_reports), "one-end",
               "has not enough memory, and nobody said so");
        break;
    case LIBSCHED_ETOOBIG:
    case LIBSCHED_EBUSY:
        expect(r.prepares, "one-end", "refused late");
        break;
    default:
        violate("one-end", "request %" PRIx64 " ends with the status %d", r.id, a.status);
    }
}

void Simulation::reply(const core_action &a)
{
    Request &r = world.requests.get(a.id);
    Requests &all = world.requests;

    check_reply(r, a);
    switch (a.status) {
    case LIBSCHED_OK:
        all.completed++;
        world.totals.completed++;
        world.totals.late += !r.timely;
        break;
    case LIBSCHED_ECANCELED:
        all.cancelled++;
        break;
    case LIBSCHED_EDEADLINE:
        all.expired++;
        world.totals.dropped++;
        break;
    default:
        all.failed++;
        world.totals.poisoned += a.status == LIBSCHED_EPOISON;
    }
    for (auto &watch : watchers)
        watch->replied(r, a.status);
    const uint32_t source = r.source;
    all.remove(r);
    if (ended.size() < 64)
        ended.push_back(a.id);
    else
        ended[world.people_random.below(ended.size())] = a.id;
    SourceState &state = sources[source];
    state.outstanding--;
    if (scenario.sources[source].closed && !state.scheduled && !world.behaving) {
        state.scheduled = true;
        world.later(0, {Kind::arrive, source});
    }
}

void Simulation::settled()
{
    core_counts counts;
    core_get_counts(world.core, UINT32_MAX, &counts);
    world.requests.check_counts(counts);
    world.totals.retried = counts.retried;
    world.requests.check_expiry(world.told);
    uint64_t due = world.requests.first_due();
    if (due != never && timer > due + ms / 500)
        violate("timer",
                "a deadline is in %" PRIu64 " ns, and the timer is set %" PRIu64 " ns later",
                due > world.now ? due - world.now : 0, timer - due);
    for (auto &watch : watchers)
        watch->settled();
    gangs->settled();
}

/* --------------------------------------------------------------------------------------- the end
 */

/* Lets things happen until everybody has been answered. */
void Simulation::await(const char *what, uint64_t most_ns)
{
    const uint64_t until = world.now + most_ns;
    while (world.requests.live() > 0 || !gangs->idle()) {
        if (next_at() > until) {
            std::string who;
            world.requests.each([&](const Request &r) {
                if (who.empty())
                    who = "model " + std::to_string(r.model) + ", state " +
                          std::to_string(static_cast<int>(r.where));
            });
            violate("progress", "%s: %u requests (%s) are never answered%s", what,
                    world.requests.live(), who.c_str(), gangs->idle() ? "" : ", nor a job");
        }
        advance();
        carry_out();
    }
}

void Simulation::behave()
{
    carry_out();
    world.behaving = true;
    /* Loads that failed are tried again by a new worker. */
    for (auto &worker : workers) {
        if (worker->up() && scenario.has(with_failures | with_deaths)) {
            worker->dies();
            told_down(static_cast<uint32_t>(&worker - workers.data()));
        }
        carry_out();
        gangs->comes_up(static_cast<uint32_t>(&worker - workers.data()));
        carry_out();
    }
    if (scenario.has(with_reports))
        report_memory();
    std::vector<uint64_t> ids;
    world.requests.each([&](Request &r) {
        r.poison = false;
        if (r.wants_parts && !r.unlimited)
            ids.push_back(r.id);
    });
    for (uint64_t id : ids) {
        Request *r = world.requests.find(id);
        if (r == nullptr)
            continue;
        core_event event = {};
        event.type = CORE_GRANT;
        event.u.grant.id = id;
        event.u.grant.parts = UINT32_MAX;
        r->unlimited = true;
        world.handle(&event);
    }
    carry_out();
    gangs->behave();
    /* With a class of the least share waiting behind all else: what there is, and then some. */
    const uint64_t patience = 4000 * second;
    if (scenario.calm()) {
        await("with workers that behave", patience);
    } else {
        /* Who waits for a model that failed too often waits until it is removed. */
        uint64_t until = world.now + 60 * second;
        while ((world.requests.live() > 0 || !gangs->idle()) && next_at() < until) {
            advance();
            carry_out();
        }
        world.requests.each([&](const Request &r) {
            const World::ModelNow &m = world.models[r.model];
            uint64_t failed = core_model_failed(world.core, r.model);
            bool prepare_failed = false;
            for (uint32_t i = 0; i < workers.size(); i++)
                prepare_failed |= workers[i]->is_prepare() && (failed >> i & 1) != 0;
            if ((failed & m.config.devices) != m.config.devices && !(prepare_failed && r.prepares))
                violate("progress", "request %" PRIx64 " of model %u waits for ever", r.id,
                        r.model);
        });
    }
    for (uint32_t i = 0; i < world.models.size(); i++) {
        if (world.models[i].exists && !world.models[i].removing)
            remove_model(i);
        carry_out();
    }
    await("with all models removed", patience);
    for (uint64_t until = world.now + 10 * second; next_at() < until;) {
        advance();
        carry_out();
    }
    for (uint32_t i = 0; i < world.models.size(); i++)
        expect(!world.models[i].exists || core_model_gone(world.core, i), "removal",
               "a model does not go");
    libsched_error err = {};
    if (!core_check(world.core, &err))
        violate("core-check", "%s", err.message);
    for (auto &watch : watchers)
        watch->over();
}

} // namespace sim
