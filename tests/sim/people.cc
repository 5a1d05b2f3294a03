/* SPDX-License-Identifier: Apache-2.0 */
/* Those who submit: when, what, and what they do about it afterwards. */
#include <algorithm>
#include <cinttypes>

#include "sim/simulation.h"

namespace sim
{

namespace
{
constexpr uint64_t us = 1000, ms = 1000 * us, second = 1000 * ms;
} // namespace

void Simulation::begin_arrivals()
{
    const uint64_t n = scenario.sources.size();
    Random random(scenario.seed, 30);
    for (uint32_t i = 0; i < n; i++) {
        const Source &source = scenario.sources[i];
        SourceState state;
        state.random = Random(scenario.seed, 5000 + i);
        uint64_t kind = random.below(100);
        if (scenario.has(with_bursts) && kind < 40)
            state.gaps = burst_gaps(source.gap_ns, static_cast<uint32_t>(2 + random.below(60)),
                                    random.percent(50) ? 0 : random.below(20 * ms));
        else
            state.gaps = gamma_gaps(source.gap_ns, scenario.has(with_gamma) ? 300 : 100);
        if (scenario.has(with_trace) && trace != nullptr && kind >= 40 && kind < 80) {
            state.gaps.reset();
            state.next_of_trace = random.below(trace->arrivals.size());
        }
        sources.push_back(std::move(state));
    }
    for (uint32_t i = 0; i < n; i++) {
        if (scenario.sources[i].closed) {
            sources[i].scheduled = true;
            world.later(random.below(50 * ms), {Kind::arrive, i});
            world.later(random.below(4 * second), {Kind::pause, i});
        } else {
            next_arrival(i);
            if (scenario.sources[i].floods)
                world.later(random.below(2 * second), {Kind::pause, i});
        }
    }
}

void Simulation::next_arrival(uint32_t i)
{
    SourceState &state = sources[i];
    uint64_t gap;
    if (state.gaps != nullptr) {
        gap = state.gaps->next(state.random);
    } else {
        /* The gaps of the trace, with a mean like that of others. */
        const auto &all = trace->arrivals;
        size_t next = state.next_of_trace + 1;
        if (next == all.size()) {
            next = 1;
            state.next_of_trace = 0;
        }
        uint64_t mean = std::max<uint64_t>(1, all.back().at / all.size());
        __extension__ typedef unsigned __int128 uint128;
        gap = static_cast<uint64_t>(static_cast<uint128>(all[next].at - all[next - 1].at) *
                                    scenario.sources[i].gap_ns / mean);
        state.next_of_trace = next;
    }
    if (state.flooding)
        gap /= 50;
    world.later(gap, {Kind::arrive, i});
}

void Simulation::pause(uint32_t i)
{
    SourceState &state = sources[i];
    if (world.behaving)
        return;
    if (scenario.sources[i].closed) {
        state.paused = !state.paused;
        if (!state.paused && !state.scheduled) {
            state.scheduled = true;
            world.later(0, {Kind::arrive, i});
        }
        world.later((state.paused ? 100 * ms : 500 * ms) + state.random.below(5 * second),
                    {Kind::pause, i});
        return;
    }
    state.flooding = !state.flooding;
    world.later((state.flooding ? 10 * ms : 200 * ms) + state.random.below(second),
                {Kind::pause, i});
}

void Simulation::arrive(uint32_t i)
{
    const Source &source = scenario.sources[i];
    const ModelSpec &spec = scenario.models[source.model];
    SourceState &state = sources[i];

    state.scheduled = false;
    if (world.behaving)
        return;
    if (source.closed && state.paused)
        return;
    do {
        Random &random = state.random;
        core_submit submit = {};
        submit.model = source.model;
        submit.priority = source.priority;
        submit.client = scenario.clients[source.client].key;
        uint64_t units = 1 + random.below(spec.most_units);
        uint64_t real = 1 + random.below(units);
        bool prepares = (world.models[source.model].config.flags & CORE_MODEL_PREPARES) != 0;
        submit.units = units;
        uint64_t hard = random.below(100), percent = 50 + random.below(400);
        if (hard < spec.hard_percent)
            submit.deadline =
                world.now + (scenario.random_deadlines ? spec.slo_ns * percent / 100 : spec.slo_ns);
        uint64_t key = random.below(3);
        if (scenario.has(with_keys))
            submit.batch_key = key;
        uint64_t wants = random.below(100), credit = random.below(4);
        if (scenario.has(with_parts)) {
            submit.wants_parts = wants < 60;
            submit.part_credit = wants < 20 ? UINT32_MAX : static_cast<uint32_t>(credit);
        } else {
            submit.part_credit = UINT32_MAX;
        }
        uint32_t before = state.outstanding;
        if (world.models[source.model].exists)
            this->submit(i, &submit, prepares ? real : units);
        if (state.outstanding == before) {
            /* Refused. */
            if (source.closed) {
                state.scheduled = true;
                world.later(10 * ms, {Kind::arrive, i});
                return;
            }
            break;
        }
    } while (source.closed && state.outstanding < source.backlog);
    if (!source.closed)
        next_arrival(i);
    if (scenario.has(with_nonsense) && world.people_random.percent(2))
        submit_nonsense();
}

void Simulation::submit(uint32_t source, core_submit *submit, uint64_t real_units)
{
    core_event event = {};
    event.type = CORE_SUBMIT;
    event.u.submit = *submit;
    bool quiet = world.quiet;
    int status = world.handle(&event);
    if (quiet)
        check_submit(event.u.submit, status);
    Request *r = nullptr;
    if (status == LIBSCHED_OK) {
        r = &take(source, event.u.submit, real_units);
    } else {
        world.requests.refused++;
        world.totals.dropped += status == LIBSCHED_EDEADLINE;
        expect(event.u.submit.id == 0, "refusal", "a refused request has an id");
    }
    for (auto &watch : watchers)
        watch->submitted(event.u.submit, status, r);
}

/* Whether that was the right answer. Limits are to the number, where nothing makes them less. */
void Simulation::check_submit(const core_submit &s, int status)
{
    const World::ModelNow &m = world.models[s.model];
    const Requests &all = world.requests;
    uint32_t client = 0;
    while (client < scenario.clients.size() && scenario.clients[client].key != s.client)
        client++;
    uint32_t limit = scenario.clients[client].limit;
    if (limit == 0)
        limit = scenario.config.max_client_requests;
    if (limit == 0)
        limit = UINT32_MAX;
    bool known = scenario.config.max_clients >= scenario.clients.size();
    bool model_full = all.waiting_of_model(s.model) >= m.config.queue_limit;
    bool full = all.live() >= scenario.config.max_requests;
    uint32_t queued = all.queued_of_client(client);

    switch (status) {
    case LIBSCHED_OK:
        expect(!world.draining, "refusal", "taken while closing");
        expect(!m.removing, "refusal", "taken for a model that is removed");
        expect(!model_full, "refusal", "more wait for a model than may");
        /* One without credit is not in the queue, for the core. */
        expect(!known || queued < limit || scenario.has(with_parts), "refusal",
               "more of a client wait than may");
        break;
    case LIBSCHED_EDEADLINE:
        expect(s.deadline != 0, "refusal", "refused for a deadline that it has not");
        break;
    case LIBSCHED_EQUEUEFULL:
        expect(model_full, "refusal", "a queue is full, and isn't");
        break;
    case LIBSCHED_ECLIENTFULL:
        expect(queued >= limit || !known, "refusal", "a client has too many, and hasn't");
        break;
    case LIBSCHED_EBUSY:
        expect(full, "refusal", "too many are there, and aren't");
        break;
    case LIBSCHED_ETOOBIG:
        expect((m.config.flags & CORE_MODEL_PREPARES) == 0 &&
                   (s.units > m.config.max_request_units || m.config.memory_per_unit != 0),
               "refusal", "too big, and isn't");
        break;
    case LIBSCHED_ENOMODEL:
        expect(m.removing, "refusal", "a model is denied");
        break;
    case LIBSCHED_ECLOSING:
        expect(world.draining, "refusal", "refused as if closing");
        break;
    default:
        violate("refusal", "a request is refused with the status %d", status);
    }
    if (status == LIBSCHED_EQUEUEFULL || status == LIBSCHED_ECLIENTFULL || status == LIBSCHED_EBUSY)
        expect(s.retry_after > 0 && s.retry_after < 1000 * second, "refusal",
               "no time, or no sensible one, to come back after");
}

Request &Simulation::take(uint32_t source, const core_submit &submit, uint64_t real_units)
{
    const Source &from = scenario.sources[source];
    const World::ModelNow &m = world.models[submit.model];
    Request &r = world.requests.add(submit);
    Random &random = sources[source].random;

    r.at = world.now;
    r.deadline = submit.deadline;
    r.units = submit.units;
    r.real_units = real_units;
    r.key = submit.batch_key;
    r.model = submit.model;
    r.client = from.client;
    r.source = source;
    r.priority = static_cast<uint8_t>(submit.priority);
    r.wants_parts = submit.wants_parts;
    r.unlimited = submit.part_credit == UINT32_MAX;
    r.credit = r.unlimited ? 0 : submit.part_credit;
    r.prepares = (m.config.flags & CORE_MODEL_PREPARES) != 0;
    uint64_t parts = 1 + random.below(scenario.models[submit.model].most_parts);
    bool steps = (m.config.flags & CORE_MODEL_STEPS) != 0;
    r.total_parts = static_cast<uint32_t>(steps || r.wants_parts ? parts : 1);
    r.poison = scenario.has(with_poison) && world.faults_random.chance(1, 200);
    world.requests.move(r, Where::queued);
    sources[source].outstanding++;
    uint64_t ns = spread_of(r);
    if (scenario.has(with_cancels) && world.people_random.percent(8))
        world.later(world.people_random.percent(20) ? 0 : world.people_random.below(ns),
                    {Kind::cancel, 0, r.id});
    if (r.wants_parts && !r.unlimited)
        world.later(world.people_random.below(ns), {Kind::grant, 0, r.id});
    return r;
}

/* About as long as it takes to be served, or to be given up. */
uint64_t Simulation::spread_of(const Request &r) const
{
    uint64_t ns = 4 * world.cost(r.model, 0, r.real_units) * r.total_parts;
    return r.deadline > r.at ? std::max(ns, (r.deadline - r.at) * 5 / 4) : ns;
}

void Simulation::cancel(uint64_t id)
{
    core_event event = {};
    event.type = CORE_CANCEL;
    event.u.cancel.id = id;
    bool quiet = world.quiet;
    Request *r = world.requests.find(id);
    int status = world.handle(&event);
    if (r == nullptr) {
        expect(status == LIBSCHED_ENOENT, "cancel", "a request that has ended is found");
    } else {
        /* Unless it has ended, and its reply was not fetched yet. */
        expect(status == LIBSCHED_OK || (!quiet && status == LIBSCHED_ENOENT), "cancel",
               "a live request is not found");
        if (status == LIBSCHED_OK)
            r->cancelled = true;
    }
    /* Some try again, and some name what has ended long ago. */
    if (world.people_random.percent(10))
        world.later(world.people_random.below(20 * ms), {Kind::cancel, 0, id});
    if (!ended.empty() && world.people_random.percent(5))
        world.later(0, {Kind::cancel, 0, ended[world.people_random.below(ended.size())]});
}

void Simulation::grant(uint64_t id)
{
    Request *r = world.requests.find(id);
    core_event event = {};
    event.type = CORE_GRANT;
    event.u.grant.id = id;
    event.u.grant.parts = static_cast<uint32_t>(world.people_random.below(4));
    if (r == nullptr && !world.people_random.percent(5))
        return;
    int status = world.handle(&event);
    expect(r != nullptr || status == LIBSCHED_ENOENT, "credit", "granted to one who has ended");
    if (r == nullptr)
        return;
    if (status == LIBSCHED_OK)
        r->credit += event.u.grant.parts;
    world.later(1 + world.people_random.below(spread_of(*r)), {Kind::grant, 0, id});
}

/* Each is refused, and nothing else is the matter. */
void Simulation::submit_nonsense()
{
    core_event event = {};
    event.type = CORE_SUBMIT;
    core_submit &s = event.u.submit;
    s.model = static_cast<uint32_t>(world.people_random.below(scenario.models.size()));
    s.client = world.people_random.next();
    s.units = 1;
    int expected = LIBSCHED_EINVAL;
    const World::ModelNow &m = world.models[s.model];
    bool there = m.exists && !m.removing && !world.draining;
    switch (world.people_random.below(6)) {
    case 0:
        s.units = 0;
        break;
    case 1:
        s.priority = CORE_PRIORITIES + static_cast<uint32_t>(world.people_random.below(1000));
        break;
    case 2:
        s.model = CORE_MAX_MODELS + static_cast<uint32_t>(world.people_random.below(1000));
        expected = LIBSCHED_ENOMODEL;
        there = !world.draining;
        break;
    case 3:
        s.deadline = 1 + world.people_random.below(world.now);
        expected = LIBSCHED_EDEADLINE;
        break;
    case 4:
        s.units = world.people_random.percent(50) ? UINT64_MAX : UINT64_C(1) << 60;
        expected = LIBSCHED_ETOOBIG;
        there = there && (m.config.flags & CORE_MODEL_PREPARES) == 0;
        break;
    default:
        s.deadline = world.now;
        expected = LIBSCHED_EDEADLINE;
    }
    if (!there)
        return;
    int status = world.handle(&event);
    if (status != expected)
        violate("refusal", "nonsense is answered with %d, expected %d", status, expected);
    world.requests.refused++;
}

} // namespace sim
