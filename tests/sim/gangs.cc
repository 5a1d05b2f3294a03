/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/gangs.h"

#include <algorithm>
#include <cinttypes>
#include <map>

#include "sim/violation.h"

namespace sim
{

namespace
{

constexpr uint64_t us = 1000, ms = 1000 * us, second = 1000 * ms;
/* What the core says of its jobs is compared once in so many events. */
constexpr uint32_t ask_every = 16;

enum class At : uint8_t { nothing, starting, idle, stepping, held };

struct Job {
    uint64_t id = 0, allowed = 0, memory = 0, time_limit = 0, step_limit = 0;
    uint64_t step_ns = 0; /* what a step takes */
    uint64_t started = 0;
    uint64_t ready = never; /* all ranks have answered, and it waits for its next step */
    uint64_t may_wait = 0;  /* so long it may, then */
    uint64_t promised = never;
    uint32_t k = 0, steps = 0, step = 0;
    uint32_t answers = 0, finished = 0; /* of the present step */
    uint32_t ranks = 0;                 /* that there are */
    bool reserves = false, begun = false, closing = false, cancelled = false, released = false;
    bool lost = false, lied = false, overdue = false;
    std::vector<int> failed; /* statuses that ranks have said */
};

/* A device, as jobs see it. */
struct Place {
    uint64_t job = 0; /* that has a rank there, or holds it */
    At at = At::nothing;
    bool closing = false, hangs = false;
    bool vacated = false;
    uint64_t asked = 0; /* when its rank was told what it is at, or the worker to end */
    uint64_t limit = 0; /* of that */
    int64_t behind = 0; /* device time that is owed to requests */
};

class Jobs : public Gangs
{
  public:
    Jobs(World &w, const Workers &ws)
        : world(w), workers(ws), places(ws.size()), random(w.scenario.seed, 60),
          prompt(!w.scenario.has(with_lazy)),
          plain(prompt &&
                !w.scenario.has(with_memory | with_item_memory | with_reports | with_failures |
                                with_deaths | with_poison | with_steps | with_parts |
                                with_deadlines | with_noise | with_spells | with_stalls |
                                with_removals | with_updates | with_prepares | with_change))
    {
        Random own(world.scenario.seed, 61);
        gap_ns = 2 * ms << own.below(9);
        honest = own.percent(40);
        fail_percent = honest || own.percent(40) ? 0 : 1 + own.below(6);
        lie_percent = honest || own.percent(40) ? 0 : 1 + own.below(5);
        hang_percent = honest || own.percent(40) ? 0 : 1 + own.below(4);
        one_line = own.percent(60);
        for (uint32_t i = 0; i < workers.size(); i++)
            if (!workers[i]->is_prepare())
                compute |= UINT64_C(1) << i;
        if (own.percent(50))
            for (uint32_t a = 0; a < workers.size(); a++)
                for (uint32_t b = 0; b < a; b++)
                    expect(core_set_distance(world.core, a, b,
                                             static_cast<uint32_t>(own.below(4))) == LIBSCHED_OK,
                           "set-up", "a distance is refused");
        for (const ModelSpec &m : world.scenario.models) {
            uint64_t units = std::max<uint64_t>(
                m.most_units, std::min<uint64_t>(m.config.max_batch_units,
                                                 m.config.max_batch_requests * m.most_units));
            longest = std::max(longest, m.beta_ns + m.alpha_ns * units);
        }
        uint64_t slowest = 100;
        for (const DeviceSpec &d : world.scenario.devices) {
            slowest = std::max<uint64_t>(slowest, d.speed_percent);
            deepest = std::max<uint64_t>(deepest, d.config.depth);
        }
        longest = longest * slowest / 100;
    }

    void begin() override
    {
        world.later(random.below(2 * gap_ns), {Kind::job_submit});
    }

    void happen(const Happening &h) override
    {
        switch (h.kind) {
        case Kind::job_submit:
            if (world.behaving)
                return;
            submit();
            world.later(random.below(2 * gap_ns), {Kind::job_submit});
            break;
        case Kind::job_cancel:
            cancel(h.b);
            break;
        case Kind::job_release:
            release(h.b);
            break;
        case Kind::vacates:
            if (workers[h.a]->epoch() == h.b && workers[h.a]->alive())
                workers[h.a]->dies();
            break;
        default:
            rank(h);
        }
    }

    void action(const core_action &a) override
    {
        switch (a.type) {
        case CORE_JOB_START:
            start(a);
            break;
        case CORE_JOB_STEP:
            step(a);
            break;
        case CORE_JOB_CLOSE:
            close(a);
            break;
        case CORE_JOB_REPLY:
            ends(a);
            break;
        case CORE_VACATE:
            vacate(a.device);
            break;
        case CORE_OCCUPY:
            occupy(a.device);
            break;
        default:
            violate("protocol", "an action of the type %d", a.type);
        }
    }

    void given(const StepSeen &s) override
    {
        Place &p = places[s.device];
        expect(p.at == At::nothing || (p.at == At::idle && !p.closing), "gang",
               "a step of requests beside a rank's");
        if (p.at == At::idle)
            p.behind = std::max<int64_t>(p.behind, 0) -
                       static_cast<int64_t>(world.cost(s.model, s.device, s.units));
    }

    void lost(uint32_t device) override
    {
        Place &p = places[device];
        if (workers[device]->is_vacating())
            p.vacated = true;
        if (p.at == At::nothing || p.at == At::held)
            return;
        Job &j = jobs.at(p.job);
        j.lost = true;
        j.ready = never;
        gone(device);
    }

    bool may_kill(uint32_t device) const override
    {
        const Place &p = places[device];
        bool asked = p.at == At::starting || p.at == At::stepping || p.closing ||
                     workers[device]->is_vacating();
        return !prompt || (asked && world.now >= p.asked + p.limit);
    }

    void comes_up(uint32_t device) override
    {
        if (!places[device].vacated) {
            workers[device]->comes_up();
            return;
        }
        if (!random.percent(20))
            return;
        core_event event = event_from(CORE_WORKER_UP, device, workers[device]->epoch() + 1);
        expect(world.handle(&event) == LIBSCHED_EBUSY, "vacate",
               "a worker comes up on a device that is held");
    }

    void settled() override
    {
        if (jobs.empty())
            return;
        if (prompt)
            for (const auto &[id, j] : jobs)
                look_at(j);
        for (uint32_t i = 0; plain && i < places.size(); i++)
            if (places[i].at == At::idle && jobs.at(places[i].job).ready != never &&
                workers[i]->under_way() == 0 && !wanted(i))
                places[i].behind = std::min<int64_t>(places[i].behind, 0);
        if (prompt && ++n_settled % ask_every == 0)
            ask();
    }

    void behave() override
    {
        for (auto &[id, j] : jobs) {
            j.steps = std::min(j.steps, j.step + 3);
            if (j.reserves)
                world.later(0, {Kind::job_release, 0, id});
        }
    }

    bool idle() const override
    {
        for (uint32_t i = 0; i < places.size(); i++)
            if (places[i].job != 0 || places[i].vacated || workers[i]->is_vacating())
                return false;
        return jobs.empty();
    }

  private:
    bool happens(uint64_t percent)
    {
        bool does = random.percent(percent);
        return does && !world.behaving;
    }

    Job &job(const core_action &a)
    {
        auto it = jobs.find(a.job);
        if (it == jobs.end())
            violate("job-ends", "job %" PRIx64 " has ended, or never was", a.job);
        return it->second;
    }

    /* -------------------------------------------------------------------------- those who submit
     */

    void draw(core_job_submit *s)
    {
        const Scenario &scenario = world.scenario;
        uint32_t n = static_cast<uint32_t>(__builtin_popcountll(compute));
        s->flags = random.percent(15) ? CORE_JOB_RESERVE : 0;
        s->n_devices = static_cast<uint32_t>(1 + random.below(n));
        uint64_t some = random.next() & compute;
        bool subset = random.percent(25);
        s->devices = subset && some != 0 ? some : compute;
        uint64_t room = UINT64_MAX;
        for (const DeviceSpec &d : scenario.devices)
            if (d.config.memory_bytes != 0)
                room = std::min(room, d.config.memory_bytes);
        uint64_t bytes = random.below(room == UINT64_MAX ? 1000 : room + 1);
        s->memory_bytes = random.percent(50) ? 0 : random.percent(70) ? bytes / 4 : bytes;
        if (plain) /* models that have to go for a rank are one more thing to wait for */
            s->memory_bytes = 0;
        uint64_t priority = random.below(CORE_PRIORITIES), client = random.below(4);
        if (!one_line) {
            s->priority = scenario.has(with_classes) ? static_cast<uint32_t>(priority) : 0;
            s->client = scenario.clients[client % scenario.clients.size()].key;
        }
        uint64_t limit = 20 * ms << random.below(8);
        s->time_limit = random.percent(50) ? limit + random.below(limit) : 0;
        uint64_t step_limit = (100 * ms << random.below(6)) + random.below(100 * ms);
        s->step_limit = honest ? 100 * ms + step_limit % (100 * ms) : step_limit;
        switch (random.percent(4) ? random.below(7) : 7) {
        case 0:
            s->n_devices = 0;
            break;
        case 1:
            s->n_devices += 64;
            break;
        case 2:
            s->devices = 0;
            break;
        case 3:
            s->devices = random.next();
            break;
        case 4:
            s->memory_bytes = UINT64_MAX;
            break;
        case 5:
            s->priority = CORE_PRIORITIES + static_cast<uint32_t>(priority);
            break;
        case 6:
            s->flags |= 2;
            break;
        default:
            break;
        }
    }

    int expected(const core_job_submit &s) const
    {
        uint32_t n = 0, roomy = 0;
        if (world.draining)
            return LIBSCHED_ECLOSING;
        if ((s.flags & ~static_cast<uint32_t>(CORE_JOB_RESERVE)) != 0 || s.n_devices == 0 ||
            s.devices == 0 || (s.devices & ~compute) != 0 || s.priority >= CORE_PRIORITIES)
            return LIBSCHED_EINVAL;
        for (uint32_t i = 0; i < places.size(); i++) {
            if ((s.devices >> i & 1) == 0)
                continue;
            uint64_t room = world.scenario.devices[i].config.memory_bytes;
            n++;
            roomy += (s.flags & CORE_JOB_RESERVE) != 0 || room == 0 || s.memory_bytes <= room;
        }
        if (n < s.n_devices)
            return LIBSCHED_ENODEVICE;
        if (roomy < s.n_devices)
            return LIBSCHED_ENODEVMEM;
        return jobs.size() >= world.scenario.config.max_jobs ? LIBSCHED_EBUSY : LIBSCHED_OK;
    }

    void submit()
    {
        core_event event = {};
        event.type = CORE_JOB_SUBMIT;
        core_job_submit &s = event.u.job;
        draw(&s);
        uint64_t how_many = random.below(100), steps = random.below(how_many < 80   ? 8
                                                                    : how_many < 96 ? 60
                                                                                    : 600);
        uint64_t step_ns = (100 * us << random.below(8)) + random.below(100 * us);
        uint64_t end = random.below(4 * second >> random.below(8));
        bool gives_up = random.percent(15), releases = random.percent(50);
        int wanted_status = expected(s), status = world.handle(&event);
        if (status != wanted_status)
            violate("refusal", "a job is answered with %d, expected %d", status, wanted_status);
        if (status != LIBSCHED_OK) {
            expect(s.id == 0 && (s.retry_after > 0) == (status == LIBSCHED_EBUSY), "refusal",
                   "a job that is refused is given something");
            return;
        }
        expect(s.id != 0 && (s.id & 0xffff) < world.scenario.config.max_jobs &&
                   jobs.count(s.id) == 0 && s.id > last_id,
               "job-ends", "a job is named as another");
        last_id = s.id;
        Job j;
        j.id = s.id;
        j.k = s.n_devices;
        j.allowed = s.devices;
        j.reserves = (s.flags & CORE_JOB_RESERVE) != 0;
        j.memory = j.reserves ? 0 : s.memory_bytes;
        j.time_limit = s.time_limit;
        j.step_limit = s.step_limit;
        j.steps = static_cast<uint32_t>(1 + steps);
        j.step_ns = std::min(step_ns, s.step_limit / 2);
        jobs.emplace(j.id, j);
        if (gives_up)
            world.later(end, {Kind::job_cancel, 0, j.id});
        else if (j.reserves && releases)
            world.later(end, {Kind::job_release, 0, j.id});
    }

    void end_it(core_event_type type, uint64_t id)
    {
        core_event event = {};
        event.type = type;
        event.u.job_id.id = id;
        auto it = jobs.find(id);
        bool quiet = world.quiet;
        int status = world.handle(&event);
        if (it == jobs.end()) {
            expect(status == LIBSCHED_ENOENT, "job-ends", "a job that has ended is found");
            return;
        }
        Job &j = it->second;
        if (type == CORE_JOB_RELEASE && !j.reserves) {
            expect(status == LIBSCHED_EINVAL || (!quiet && status == LIBSCHED_ENOENT), "refusal",
                   "what is no reservation is released");
            return;
        }
        /* Unless it has ended, and its reply was not fetched yet. */
        expect(status == LIBSCHED_OK || (!quiet && status == LIBSCHED_ENOENT), "job-ends",
               "a live job is not found");
        if (status == LIBSCHED_OK)
            (type == CORE_JOB_CANCEL ? j.cancelled : j.released) = true;
    }

    void cancel(uint64_t id)
    {
        end_it(CORE_JOB_CANCEL, id);
        if (random.percent(10))
            world.later(random.below(20 * ms), {Kind::job_cancel, 0, id});
        if (!jobs.empty() && random.percent(5))
            end_it(CORE_JOB_RELEASE, jobs.begin()->first);
    }

    void release(uint64_t id)
    {
        if (jobs.count(id) != 0)
            end_it(CORE_JOB_RELEASE, id);
    }

    /* --------------------------------------------------------------------------------- their ranks
     */

    void start(const core_action &a)
    {
        Job &j = job(a);
        expect(!j.begun && !j.cancelled && !j.released, "gang",
               "a job begins twice, or after its end");
        if (a.n_ranks != j.k)
            violate("gang", "a job is given %u devices, and wants %u", a.n_ranks, j.k);
        if (world.now > j.promised)
            violate("backfill", "a job begins %" PRIu64 " ns after it was to at the latest",
                    world.now - j.promised);
        j.begun = true;
        j.started = world.told;
        for (uint32_t i = 0; i < a.n_ranks; i++)
            begin_rank(j, a.ranks[i]);
        j.ranks = a.n_ranks;
        if (j.reserves && (j.time_limit == 0 || random.percent(50)))
            world.later(world.behaving ? 0 : random.below(2 * second),
                        {Kind::job_release, 0, j.id});
    }

    void begin_rank(const Job &j, uint32_t device)
    {
        expect(device < places.size() && (j.allowed >> device & 1) != 0, "gang",
               "a device that it may not have");
        Place &p = places[device];
        Worker &worker = *workers[device];
        expect(p.job == 0 && p.at == At::nothing, "gang", "a device of two jobs");
        p.job = j.id;
        p.behind = 0;
        p.closing = p.hangs = false;
        if (j.reserves) {
            expect(p.vacated && !worker.up(), "vacate", "a device is held, and has a worker");
            p.at = At::held;
            return;
        }
        expect(!p.vacated && worker.may_take_steps_later(), "gang", "a rank where no worker is");
        expect(worker.under_way() == 0, "gang", "a rank starts beside a batch");
        worker.take_rank(j.memory);
        asks(j, device, At::starting, Kind::rank_started, 100 * us + random.below(5 * ms));
    }

    void asks(const Job &j, uint32_t device, At at, Kind kind, uint64_t ns)
    {
        Place &p = places[device];
        p.at = at;
        p.asked = world.now;
        p.limit = j.step_limit;
        p.hangs = p.hangs || happens(hang_percent);
        world.later(std::min(ns, j.step_limit / 2), {kind, device, workers[device]->epoch(), j.id});
        if (happens(lie_percent))
            world.later(random.below(2 * ns + 1),
                        {Kind::rank_lies, device, workers[device]->epoch(), j.id});
    }

    void step(const core_action &a)
    {
        Job &j = job(a);
        expect(a.step == j.step + 1, "gang", "a step is left out, or given twice");
        expect(j.begun && !j.reserves && !j.closing && !j.cancelled, "gang",
               "a step before the start, or after the end");
        expect(a.n_ranks == j.k && j.ranks == j.k, "gang", "a step of some");
        if (plain && j.ready != never && world.now - j.ready > j.may_wait)
            violate("job-starves", "a job waits %" PRIu64 " ns for its step, and may %" PRIu64,
                    world.now - j.ready, j.may_wait);
        j.step = a.step;
        j.answers = j.finished = 0;
        j.ready = never;
        for (uint32_t i = 0; i < a.n_ranks; i++) {
            Place &p = places[a.ranks[i]];
            expect(p.job == j.id && p.at == At::idle, "gang", "a rank is not ready");
            expect(workers[a.ranks[i]]->under_way() == 0, "gang", "a step beside a batch");
            if (!wanted(a.ranks[i]))
                p.behind = std::min<int64_t>(p.behind, 0); /* nobody saves up */
            if (plain && p.behind > 0)
                violate("requests-starve",
                        "a step of a job, where requests are behind their share by %" PRId64 " ns",
                        p.behind);
            asks(j, a.ranks[i], At::stepping, Kind::rank_stepped,
                 j.step_ns * (90 + random.below(20)) / 100);
        }
    }

    void close(const core_action &a)
    {
        Job &j = job(a);
        expect(j.begun && !j.reserves && !j.closing, "gang", "a job is closed twice");
        j.closing = true;
        j.ready = never;
        for (uint32_t i = 0; i < a.n_ranks; i++) {
            Place &p = places[a.ranks[i]];
            expect(p.job == j.id && p.at != At::nothing && !p.closing, "gang",
                   "what is gone is closed");
            if (prompt && (p.at == At::starting || p.at == At::stepping))
                expect(world.told < p.asked + p.limit, "overdue",
                       "a rank that is late is asked to close, and its worker lives");
            p.closing = true;
            asks(j, a.ranks[i], p.at, Kind::rank_closed, 50 * us + random.below(3 * ms));
        }
    }

    void vacate(uint32_t device)
    {
        Place &p = places[device];
        Worker &worker = *workers[device];
        worker.vacate();
        expect(p.at == At::nothing, "vacate", "a device with a rank is vacated");
        p.asked = world.now;
        p.limit = 0; /* whose reservation it is is not said */
        if (!happens(hang_percent))
            world.later(random.percent(30) ? 0 : random.below(20 * ms),
                        {Kind::vacates, device, worker.epoch()});
    }

    void occupy(uint32_t device)
    {
        Place &p = places[device];
        expect(p.vacated && !workers[device]->up(), "vacate",
               "a device is occupied that is not vacated");
        p.vacated = false;
        if (p.at == At::held)
            gone(device);
        world.later(random.below(50 * ms), {Kind::comes_up, device});
    }

    /* Nothing is left of a rank. */
    void gone(uint32_t device)
    {
        Place &p = places[device];
        jobs.at(p.job).ranks--;
        p.job = 0;
        p.at = At::nothing;
        p.closing = p.hangs = false;
    }

    /* ---------------------------------------------------------------------------- what they say */

    int say(core_event *event, uint64_t id)
    {
        event->u.rank.id = id;
        return world.handle(event);
    }

    /* From the dead, or of a job that is over. */
    void say_stale(const Happening &h)
    {
        if (!world.scenario.has(with_stale))
            return;
        core_event_type type = h.kind == Kind::rank_started   ? CORE_RANK_STARTED
                               : h.kind == Kind::rank_stepped ? CORE_RANK_STEPPED
                                                              : CORE_RANK_CLOSED;
        core_event event = event_from(type, h.a, h.b);
        event.u.rank.step = 1;
        event.u.rank.finished = true;
        event.u.rank.status = random.percent(50) ? LIBSCHED_OK : LIBSCHED_EINVAL;
        expect(say(&event, h.c) == LIBSCHED_OK, "stale", "what is stale is complained about");
    }

    void rank(const Happening &h)
    {
        Place &p = places[h.a];
        Worker &worker = *workers[h.a];
        if (worker.epoch() != h.b || p.job != h.c || p.at == At::nothing) {
            say_stale(h);
            return;
        }
        if (!worker.alive() || worker.is_dying())
            return;
        Job &j = jobs.at(h.c);
        if (h.kind == Kind::rank_lies)
            lies(j, h.a);
        else if (p.hangs)
            return;
        else if (h.kind == Kind::rank_started && p.at == At::starting)
            started(j, h.a);
        else if (h.kind == Kind::rank_stepped && p.at == At::stepping)
            stepped(j, h.a);
        else if (h.kind == Kind::rank_closed && p.closing)
            closed(j, h.a);
    }

    void fails(Job &j, int status)
    {
        j.failed.push_back(status);
    }

    void started(Job &j, uint32_t device)
    {
        Place &p = places[device];
        core_event event = event_from(CORE_RANK_STARTED, device, workers[device]->epoch());
        p.at = At::idle;
        owes(p, world.now - p.asked);
        if (happens(fail_percent)) {
            bool dies = random.percent(20);
            event.u.rank.status = dies ? LIBSCHED_EDEVICELOST : LIBSCHED_ENODEVMEM;
            fails(j, event.u.rank.status);
            if (dies) {
                workers[device]->is_lost();
            } else {
                workers[device]->give_rank(j.memory);
                gone(device);
            }
        } else {
            answered(j);
        }
        say(&event, j.id);
        again(event);
    }

    /* All have: its next step may be waited for no longer than its share allows. */
    void answered(Job &j)
    {
        uint64_t most = 0;
        if (++j.answers < j.k || j.closing || j.finished > 0)
            return;
        j.ready = world.now;
        for (const Place &p : places)
            if (p.job == j.id && p.behind > 0)
                most = std::max(most, static_cast<uint64_t>(p.behind));
        j.may_wait = most + (2 + deepest) * longest + ms;
    }

    void stepped(Job &j, uint32_t device)
    {
        Place &p = places[device];
        core_event event = event_from(CORE_RANK_STEPPED, device, workers[device]->epoch());
        event.u.rank.step = j.step;
        event.u.rank.finished = j.step >= j.steps;
        event.u.rank.begin = p.asked;
        event.u.rank.end = world.now;
        p.at = At::idle;
        owes(p, world.now - p.asked);
        if (happens(lie_percent)) {
            event.u.rank.step += static_cast<uint32_t>(random.below(2));
            event.u.rank.finished = !event.u.rank.finished;
            j.lied = true;
        } else if (happens(fail_percent)) {
            bool dies = random.percent(20);
            event.u.rank.status = dies ? LIBSCHED_EDEVICELOST : LIBSCHED_EINVAL;
            fails(j, event.u.rank.status);
            if (dies)
                workers[device]->is_lost();
        }
        j.finished += event.u.rank.finished;
        if (event.u.rank.status == LIBSCHED_OK && !j.lied)
            answered(j);
        say(&event, j.id);
        again(event);
    }

    /* What was said once, again. */
    void again(const core_event &said)
    {
        core_event event = said;
        if (world.scenario.has(with_stale) && random.percent(5) &&
            !workers[said.device]->is_dying())
            expect(world.handle(&event) == LIBSCHED_OK, "stale",
                   "what is said again is complained about");
    }

    void owes(Place &p, uint64_t ns)
    {
        uint64_t share = world.scenario.config.job_share;
        share = share == 0 ? 512 : share;
        p.behind += static_cast<int64_t>(ns * (1024 - share) / share);
    }

    void closed(Job &j, uint32_t device)
    {
        core_event event = event_from(CORE_RANK_CLOSED, device, workers[device]->epoch());
        workers[device]->give_rank(j.memory);
        gone(device);
        say(&event, j.id);
    }

    /* What was not asked for. */
    void lies(Job &j, uint32_t device)
    {
        Place &p = places[device];
        if (p.closing || world.behaving)
            return;
        bool closes = random.percent(40);
        core_event event = event_from(closes ? CORE_RANK_CLOSED : CORE_RANK_STEPPED, device,
                                      workers[device]->epoch());
        event.u.rank.step = j.step + 1;
        j.lied = true;
        say(&event, j.id);
    }

    /* ----------------------------------------------------------------------------------- its end
     */

    bool has_failed(const Job &j, int status) const
    {
        return std::find(j.failed.begin(), j.failed.end(), status) != j.failed.end();
    }

    void ends(const core_action &a)
    {
        const Job &j = job(a);
        for (const Place &p : places)
            expect(p.job != j.id, "gang", "a job ends, and keeps a device");
        switch (a.status) {
        case LIBSCHED_OK:
            expect(j.reserves ? j.released : j.finished == j.k && (j.lied || j.step >= j.steps),
                   "job-ends", "a job ends well, and was not done");
            break;
        case LIBSCHED_ECANCELED:
            expect(j.cancelled, "job-ends", "a job is cancelled by nobody");
            break;
        case LIBSCHED_ETIMELIMIT:
            expect(j.begun && j.time_limit != 0 && world.told >= j.started + j.time_limit,
                   "time-limit", "a time limit comes early");
            break;
        case LIBSCHED_EENGINE:
            expect(j.lied, "job-ends", "a job fails for a lie that nobody told");
            break;
        case LIBSCHED_EDEVICELOST:
            expect(j.lost || has_failed(j, a.status), "job-ends", "a job is lost, and nobody died");
            break;
        default:
            expect(has_failed(j, a.status), "job-ends", "a job fails, and nobody said so");
        }
        world.totals.jobs++;
        jobs.erase(j.id);
    }

    /* ------------------------------------------------------------------------------- what has to
     * be
     */

    /* Whether a step of requests could begin there. */
    bool wanted(uint32_t device) const
    {
        for (uint32_t m = 0; m < world.models.size(); m++)
            if (world.requests.ready_of_model(m) > 0 && workers[device]->resident(m))
                return true;
        return false;
    }

    /* Whether no other job waits, and nothing is under way on any device that this one may have. */
    bool all_idle(const Job &j) const
    {
        for (const auto &[id, other] : jobs)
            if (id != j.id && !other.begun)
                return false;
        for (uint32_t i = 0; i < places.size(); i++) {
            const Worker &worker = *workers[i];
            if ((j.allowed >> i & 1) == 0 || worker.is_prepare())
                continue;
            if (places[i].job != 0 || places[i].at != At::nothing || places[i].vacated ||
                !worker.may_take_steps_later() || worker.busy())
                return false;
        }
        return true;
    }

    void look_at(const Job &j)
    {
        if (plain && !j.begun && !j.cancelled && !j.released && all_idle(j))
            violate("job-idle", "a job that wants %u devices waits, and all are idle", j.k);
        if (!j.begun && world.told > j.promised)
            violate("backfill", "a job has waited %" PRIu64 " ns longer than it was to at most",
                    world.told - j.promised);
        if (plain && j.ready != never && world.now - j.ready > j.may_wait)
            violate("job-starves", "a job waits %" PRIu64 " ns for its step, and may %" PRIu64,
                    world.now - j.ready, j.may_wait);
        if (!j.begun || j.reserves)
            return;
        bool there = false;
        for (uint32_t i = 0; i < places.size(); i++) {
            const Place &p = places[i];
            if (p.job != j.id || workers[i]->is_dying())
                continue;
            there = true;
            bool asked = p.at == At::starting || p.at == At::stepping || p.closing;
            if (asked && world.told > p.asked + p.limit)
                violate("overdue", "a rank is %" PRIu64 " ns late, and its worker lives",
                        world.told - p.asked - p.limit);
            expect(!j.closing || p.closing, "gang", "a rank is forgotten when its job is closed");
        }
        /* Where all its workers are being ended, nobody is left to be told to close. */
        if (there && !j.closing && j.time_limit != 0 && world.told > j.started + j.time_limit)
            violate("time-limit", "a job runs %" PRIu64 " ns after its time limit",
                    world.told - j.started - j.time_limit);
    }

    void ask()
    {
        const bool calm = plain && one_line && honest;
        for (auto &[id, j] : jobs) {
            core_job_info info;
            expect(core_job_get(world.core, id, &info) == LIBSCHED_OK, "job-ends",
                   "a live job is not known");
            bool pending = info.state == CORE_JOB_PENDING;
            expect(pending || info.n_ranks <= j.k, "gang", "a job has more than it wants");
            expect(j.begun != pending || (j.reserves && j.closing == false), "job-info",
                   "a job is said to wait, and doesn't");
            expect(j.reserves || info.step == j.step, "job-info", "a job is at another step");
            expect(!j.closing || info.state == CORE_JOB_CLOSING, "job-info",
                   "a job is closed, and said not to be");
            /* With one line, who is first stays it, and nobody behind it may put it off. Where it
             * has a choice of devices, what waits on them counts for that, by a second for each
             * at the most. */
            bool forced = static_cast<uint32_t>(__builtin_popcountll(j.allowed)) == j.k;
            if (calm && pending && info.why == CORE_WHY_DEVICES && info.starts_by != 0 &&
                info.blocker != 0)
                j.promised = std::min(j.promised, info.starts_by + 4 * longest + ms +
                                                      (forced ? 0 : j.k * (second + 100 * ms)));
        }
    }

    World &world;
    const Workers &workers;
    std::vector<Place> places;
    std::map<uint64_t, Job> jobs;
    Random random;
    const bool prompt;     /* actions are fetched after each event */
    const bool plain;      /* and nothing else keeps requests from being served */
    bool one_line = false; /* one client, one class */
    bool honest = false;   /* ranks do what they are asked to */
    uint64_t gap_ns = 0, compute = 0, longest = 0, last_id = 0;
    uint64_t deepest = 2; /* batches that a device has at a time */
    uint64_t fail_percent = 0, lie_percent = 0, hang_percent = 0;
    uint32_t n_settled = 0;
};

class NoJobs : public Gangs
{
  public:
    explicit NoJobs(const Workers &w) : workers(w)
    {
    }
    void begin() override
    {
    }
    void happen(const Happening &) override
    {
    }
    void action(const core_action &) override
    {
        violate("protocol", "an action that nothing led to");
    }
    void given(const StepSeen &) override
    {
    }
    void lost(uint32_t) override
    {
    }
    bool may_kill(uint32_t) const override
    {
        return false;
    }
    void comes_up(uint32_t device) override
    {
        workers[device]->comes_up();
    }
    void settled() override
    {
    }
    void behave() override
    {
    }
    bool idle() const override
    {
        return true;
    }

  private:
    const Workers &workers;
};

} // namespace

std::unique_ptr<Gangs> make_gangs(World &world, const Workers &workers)
{
    if (world.scenario.has(with_jobs))
        return std::make_unique<Jobs>(world, workers);
    return std::make_unique<NoJobs>(workers);
}

} // namespace sim
