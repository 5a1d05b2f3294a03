/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <cinttypes>

#include "sim/violation.h"
#include "sim/worker.h"

namespace sim
{

/* After so many, one that stood still is forgotten by what is learnt. */
constexpr uint32_t few_steps = 16;

Worker::Session *Worker::find(uint64_t batch)
{
    for (Session &s : sessions)
        if (s.batch == batch)
            return &s;
    return nullptr;
}

uint64_t Worker::item_memory(const Session &s, uint64_t id)
{
    return s.prepare ? 0 : s.memory_per_unit * world.requests.get(id).real_units;
}

/* Whether it is retried because of a death. */
bool Worker::alone(const Session &s)
{
    return std::any_of(s.members.begin(), s.members.end(),
                       [&](uint64_t id) { return world.requests.get(id).suspect; });
}

/* ------------------------------------------------------------------------------------- being given
 */

Worker::Session &Worker::begin_session(const core_action &a)
{
    const World::ModelNow &m = world.models[a.model];
    expect(find(a.batch) == nullptr, "protocol", "a batch's name is used again");
    expect(a.step == 1, "protocol", "a session does not begin with its first step");
    Session s;
    s.batch = a.batch;
    s.model = a.model;
    s.prepare = is_prepare();
    s.steps = !s.prepare && (m.config.flags & CORE_MODEL_STEPS) != 0;
    s.memory_per_unit = s.prepare ? 0 : m.config.memory_per_unit;
    models[a.model].sessions++;
    sessions.push_back(s);
    return sessions.back();
}

void Worker::take_items(Session &s, const core_action &a)
{
    const core_model &m = world.models[s.model].config;
    uint64_t sum = 0, longest = 0;

    s.runs.clear();
    for (uint32_t i = 0; i < a.n_items; i++) {
        const core_action_item &item = a.items[i];
        Request &r = world.requests.get(item.id);
        expect(r.model == s.model, "one-key", "a request in a batch of another model");
        auto member = std::find(s.members.begin(), s.members.end(), item.id);
        expect(item.joins == (member == s.members.end()), "protocol", "joined twice, or never");
        if (item.leaves) {
            memory -= item_memory(s, item.id);
            s.members.erase(member);
            let_go(item.id);
            continue;
        }
        if (item.joins) {
            expect(r.where == Where::queued, "protocol", "in two places at a time");
            expect(!r.cancelled, "cancel", "a cancelled request is begun");
            expect(r.sent == 0 || (m.flags & CORE_MODEL_REPEATABLE) != 0, "retry",
                   "what cannot be repeated is tried again");
            expect(s.prepare == (r.prepares && !r.prepared), "protocol",
                   "not prepared, or prepared twice");
            expect(r.deadline == 0 || r.deadline > world.told, "expiry",
                   "begun after its deadline");
            if (!s.prepare) {
                expect(item.units == r.real_units, "protocol", "it has other units");
                r.attempts++;
                r.dispatched = world.told;
            }
            r.yielded = 0;
            s.members.push_back(item.id);
            world.requests.move(r, s.prepare ? Where::preparing : Where::running);
            memory += item_memory(s, item.id);
        }
        if (s.steps)
            expect(r.has_credit() || r.yielded < r.sent, "credit", "a step without credit");
        expect(r.cap > 0, "retry", "what did not fit alone is tried again");
        sum += item.units;
        longest = std::max(longest, item.units);
        s.runs.push_back(item.id);
    }
    s.n_given = static_cast<uint32_t>(s.runs.size());
    s.units = !s.prepare && (m.flags & CORE_MODEL_PADS) != 0 ? longest * s.n_given : sum;
}

void Worker::check_step(const Session &s, const core_action &a)
{
    const core_model &m = world.models[s.model].config;
    expect(!a.ends, "protocol", "a session ends and goes on");
    expect(may_take_steps(), "depth", "more steps than the device bears, or to one that is ended");
    uint32_t most = s.prepare ? m.max_prepare_requests : m.max_batch_requests;
    if (s.n_given > most)
        violate("limits", "%u requests in a step, and %u are allowed", s.n_given, most);
    if (!s.prepare && s.n_given > 1 && s.units > m.max_batch_units)
        violate("limits", "%" PRIu64 " units in a step, and %" PRIu64 " are allowed", s.units,
                m.max_batch_units);
    const Held &h = models[s.model];
    if (!s.prepare && s.n_given > 1 && h.too_much != 0 && h.since < 64 && s.units > h.too_much / 2)
        violate("fits", "%" PRIu64 " units in a step, and %" PRIu64 " did not fit", s.units,
                h.too_much);
    if (spec.config.memory_bytes != 0 && memory > spec.config.memory_bytes)
        violate("memory", "a step makes %" PRIu64 " bytes of %" PRIu64, memory,
                spec.config.memory_bytes);
    uint64_t key = world.requests.get(s.members[0]).key;
    for (uint64_t id : s.runs) {
        const Request &r = world.requests.get(id);
        expect(s.prepare || r.key == key, "one-key", "a batch of two batch keys");
        expect(s.n_given <= r.cap, "retry", "more than did not fit before");
    }
    /* Those who have been with a death are alone; `s` is among those given already. */
    for (uint64_t batch : given)
        for (uint64_t id : find(batch)->runs)
            if (world.requests.get(id).suspect)
                expect(given.size() == 1 && s.n_given == 1, "retry", "company for a suspect");
    if (s.steps && a.type == CORE_DISPATCH)
        for (const Session &other : sessions)
            expect(other.batch == s.batch || other.model != s.model || !other.steps || alone(s) ||
                       alone(other) || world.requests.get(other.members[0]).key != key,
                   "protocol", "a second session of a model");
}

void Worker::run(const core_action &a, StepSeen *seen)
{
    if (a.type == CORE_DISPATCH)
        begin_session(a);
    Session *s = find(a.batch);
    if (s == nullptr)
        violate("protocol", "a step of a session that is over, batch %" PRIx64, a.batch);
    expect(!s->under_way, "protocol", "a step before the last has ended");
    expect(s->model == a.model && a.step > s->step, "protocol", "a step of another");
    expect(resident(a.model), "residency", "a step where the model is not loaded");
    s->step = a.step;
    take_items(*s, a);
    if (s->runs.empty()) {
        expect(a.type == CORE_STEP, "protocol", "a session begins with nobody");
        if (a.ends) {
            expect(s->members.empty(), "protocol", "a session ends with members");
            end_session(a.batch);
        } else {
            expect(!s->members.empty(), "protocol", "a session has nobody, and goes on");
        }
        return;
    }
    check_step(*s, a);
    s->under_way = true;
    given.push_back(a.batch);
    *seen = {index, s->model, s->batch, s->step, s->units, s->prepare, s->steps, &s->runs};
    world.totals.steps++;
    /* A death between an action and whatever follows from it. */
    if (world.scenario.has(with_deaths) && !world.behaving &&
        world.faults_random.chance(world.scenario.deaths_permille, 1000)) {
        uint64_t ns = s->prepare ? 100000 : world.cost(s->model, index, s->units);
        world.later(world.faults_random.percent(25) ? 0 : world.faults_random.below(2 * ns),
                    {Kind::die, index, present_epoch});
    }
    if (!running)
        begin_next();
}

void Worker::abort(const core_action &a)
{
    Request *r = world.requests.find(a.id);
    expect(r != nullptr && r->cancelled &&
               (r->where == Where::running || r->where == Where::preparing),
           "cancel", "an abort for somebody else");
}

/* ----------------------------------------------------------------------------------------- running
 */

uint64_t Worker::duration(const Session &s)
{
    uint64_t ns = s.prepare ? 20000 + 5000 * s.n_given : world.cost(s.model, index, s.units);
    ns = ns * slowness / 100;
    if (world.scenario.has(with_noise)) {
        /* A few percent, and now and then much more. */
        uint64_t percent = world.workers_random.percent(2) ? 100 + world.workers_random.below(300)
                                                           : 97 + world.workers_random.below(7);
        ns = ns * percent / 100;
    }
    return std::max<uint64_t>(1, ns);
}

/* Once in a hundred steps, and not twice in a few of a model's: what happens again and again is how
 * long a step takes. */
bool Worker::stands_still(uint32_t model)
{
    uint32_t &steps = steps_since_stall.try_emplace(model, few_steps).first->second;
    steps++;
    if (!world.scenario.has(with_stalls) || world.behaving || !world.stalls_random.percent(1) ||
        steps <= few_steps)
        return false;
    steps = 0;
    return true;
}

void Worker::begin_next()
{
    if (!is_alive || given.empty())
        return;
    running = true;
    began = world.now;
    const Session &s = *find(given.front());
    ends = expected_end = began + duration(s);
    if (stands_still(s.model))
        ends += (ends - began) * (2 + world.stalls_random.below(40));
    world.queue.add(ends, {Kind::step_end, index, present_epoch, given.front()});
}

void Worker::step_ends(uint64_t epoch, uint64_t batch)
{
    if (!is_alive || epoch != present_epoch) {
        say_stale(epoch, batch);
        return;
    }
    if (!running || given.front() != batch)
        return;
    int status = LIBSCHED_OK;
    if (failing(4))
        status = world.faults_random.percent(60) ? LIBSCHED_ENODEVMEM : LIBSCHED_EENGINE;
    if (failing(1) && world.scenario.has(with_deaths))
        status = LIBSCHED_EDEVICELOST;
    Session &s = *find(batch);
    if (s.prepare)
        end_prepared(s);
    else
        end_items(s, &status);
    if (!is_alive)
        return; /* one of them killed it */
    finish_step(batch, status);
}

void Worker::forget_item(Session &s, uint64_t id)
{
    memory -= item_memory(s, id);
    s.members.erase(std::find(s.members.begin(), s.members.end(), id));
    s.runs.erase(std::find(s.runs.begin(), s.runs.end(), id));
}

void Worker::end_prepared(Session &s)
{
    const std::vector<uint64_t> ids = s.runs;
    const uint64_t batch = s.batch;
    for (uint64_t id : ids) {
        Request &r = world.requests.get(id);
        core_event event = event_from(CORE_PREPARED, index, present_epoch);
        event.u.prepared.id = id;
        event.u.prepared.batch = batch;
        event.u.prepared.units = r.real_units;
        event.u.prepared.batch_key = r.key;
        bool fails = failing(3);
        if (fails)
            event.u.prepared.status = LIBSCHED_EINVAL;
        forget_item(s, id);
        r.end_status = event.u.prepared.status;
        r.prepared = !fails;
        if (!fails) {
            world.requests.suspect(r, false);
            r.cap = UINT32_MAX;
        }
        world.requests.move(r, Where::queued);
        world.handle(&event);
    }
}

/* A part, and the end where it was the last. False: the worker has died of it. */
bool Worker::end_item(Session &s, uint64_t id)
{
    Request &r = world.requests.get(id);
    if (r.poison && !world.behaving && world.faults_random.percent(50)) {
        dies();
        return false;
    }
    uint32_t parts = s.steps ? 1 : r.total_parts;
    for (uint32_t i = 0; i < parts && r.yielded < r.total_parts; i++) {
        core_event event = event_from(CORE_PART, index, present_epoch);
        event.u.part.id = id;
        event.u.part.batch = s.batch;
        bool again = r.yielded < r.sent;
        r.yielded++;
        keep(event);
        world.handle(&event);
        if (!r.wants_parts || r.cancelled || again)
            expect(event.u.part.drop, "parts", "a part is kept that nobody wants");
    }
    if (r.yielded < r.total_parts)
        return true;
    core_event event = event_from(CORE_ITEM_DONE, index, present_epoch);
    event.u.item_done.id = id;
    event.u.item_done.batch = s.batch;
    if (failing(2))
        event.u.item_done.status = LIBSCHED_EENGINE;
    forget_item(s, id);
    r.end_status = event.u.item_done.status;
    r.timely = r.deadline == 0 || world.now <= r.deadline;
    world.requests.move(r, Where::done);
    keep(event);
    bool may_drop = r.cancelled || world.models[s.model].removing || (s.steps && r.deadline != 0);
    world.handle(&event);
    if (r.cancelled)
        expect(event.u.item_done.drop, "cancel", "the end of a cancelled request is kept");
    expect(may_drop || !event.u.item_done.drop, "one-end", "an end is dropped");
    return true;
}

void Worker::end_items(Session &s, int *status)
{
    const std::vector<uint64_t> ids = s.runs;
    /* A step that fails ends some of its items, or none. */
    size_t n = *status == LIBSCHED_OK ? ids.size() : world.faults_random.below(ids.size() + 1);
    const uint64_t batch = s.batch;
    for (size_t i = 0; i < n; i++) {
        if (!end_item(*find(batch), ids[i]))
            return;
        if (world.scenario.has(with_deaths) && !world.behaving &&
            world.faults_random.chance(world.scenario.deaths_permille, 20000)) {
            dies();
            return;
        }
    }
    if (failing(1) && *status == LIBSCHED_OK && n == ids.size() && !find(batch)->steps)
        *status = LIBSCHED_EENGINE; /* after all have ended: nobody is left to fail */
}

void Worker::finish_step(uint64_t batch, int status)
{
    Session &s = *find(batch);
    core_event event =
        event_from(s.prepare ? CORE_BATCH_DONE : CORE_STEP_DONE, index, present_epoch);
    event.u.step_done.batch = batch;
    event.u.step_done.step = s.step;
    event.u.step_done.status = status;
    event.u.step_done.begin = began;
    event.u.step_done.end = world.now;
    if (status == LIBSCHED_EDEVICELOST) {
        dying = true;
        world.handle(&event);
        return; /* it will be killed */
    }
    given.pop_front();
    running = false;
    s.under_way = false;
    if (status == LIBSCHED_OK && !s.prepare && ends == expected_end)
        world.ran(s.model, index, s.units);
    if (status == LIBSCHED_ENODEVMEM)
        for (uint64_t id : s.runs)
            world.requests.get(id).cap = s.n_given / 2;
    Held &h = models[s.model];
    h.since += status == LIBSCHED_OK;
    if (status == LIBSCHED_ENODEVMEM && !s.prepare && s.n_given > 1) {
        h.too_much = s.units;
        h.since = 0;
    }
    if (status != LIBSCHED_OK && status != LIBSCHED_ENODEVMEM)
        for (uint64_t id : s.members)
            world.requests.get(id).end_status = status;
    if (status == LIBSCHED_ENODEVMEM && s.n_given == 1)
        for (uint64_t id : s.runs)
            world.requests.get(id).end_status = status;
    s.runs.clear();
    if (status != LIBSCHED_OK || !s.steps)
        end_session(batch);
    keep(event);
    world.handle(&event);
    if (!running)
        begin_next();
}

void Worker::end_session(uint64_t batch)
{
    Session &s = *find(batch);
    for (uint64_t id : s.members) {
        memory -= item_memory(s, id);
        let_go(id);
    }
    models[s.model].sessions--;
    sessions.erase(sessions.begin() + (&s - sessions.data()));
}

} // namespace sim
