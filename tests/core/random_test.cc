/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulator: invented clients and workers do whatever they might, in an order that a seed
 * decides: deaths at every moment, stale and nonsensical events, cancels, grants, loads that fail,
 * memory that is short, models removed in flight, jobs whose ranks lie, hang and die. After each
 * event the core's own invariants are checked, and here, independently, what a caller relies on. In
 * the end everybody behaves, and every request must get its answer.
 *
 *     GPU_SCHED_SEED=N    runs that seed alone
 *     GPU_SCHED_SEEDS=N   runs so many
 */
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "core/core.h"

namespace
{
constexpr uint32_t max_models = 6;
constexpr uint32_t max_devices = 5;

class Random
{
  public:
    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 0x1234567)
    {
    }
    uint64_t next()
    {
        state += 0x9E3779B97F4A7C15ull; /* SplitMix64 */
        uint64_t z = state;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    uint64_t below(uint64_t n)
    {
        return next() % n;
    }
    bool chance(uint32_t percent)
    {
        return below(100) < percent;
    }

  private:
    uint64_t state;
};

struct SimRequest {
    uint64_t id = 0;
    uint32_t model = 0;
    uint64_t units = 0; /* real ones */
    uint64_t deadline = 0;
    uint64_t credit = 0; /* granted in all */
    bool unlimited = false, wants_parts = false, cancelled = false;
    bool needs_prepare = false, prepared = false;
    bool poison = false;      /* kills its worker whenever it runs */
    uint32_t total_parts = 0; /* in a life: steps, or parts of the one step */
    uint32_t yielded = 0;     /* in this attempt */
    uint32_t sent = 0;
    uint32_t lone_deaths = 0;
    bool suspect = false;
    uint64_t cap = UINT64_MAX; /* of a batch it may be in, after one did not fit */
    /* Where it is in a worker. */
    bool in_worker = false, preparing = false;
};

struct SimSession {
    uint32_t model = 0;
    bool prepare = false;
    uint32_t step = 0;
    bool under_way = false;
    uint32_t given = 0;         /* items of the step */
    std::set<uint64_t> members; /* in the worker */
    std::vector<uint64_t> runs; /* of them, with something left to do in this step */
    std::set<uint64_t> present; /* of them, in this step and not ended */
};

enum class Rank { None, Starting, Idle, Stepping };

struct SimJob {
    uint64_t id = 0;
    uint32_t k = 0;
    uint64_t allowed = 0, memory = 0, time_limit = 0, step_limit = 0;
    bool reserve = false;
    bool begun = false, closing = false, cancelled = false, released = false;
    bool lost = false; /* a worker of it died */
    bool lied = false; /* one of its ranks did */
    int failed = 0;    /* what a rank failed with first */
    uint64_t started = 0;
    uint32_t step = 0, steps = 0; /* given; in all */
    uint32_t finished = 0;        /* ranks that have said so */
    std::set<uint32_t> on;
};

struct SimDevice {
    core_device config = {};
    bool up = false;
    bool vacating = false, vacated = false; /* its worker is to end, and has */
    uint64_t job = 0;                       /* that has a rank there, or holds it */
    Rank rank = Rank::None;
    bool closing = false, hangs = false; /* the rank */
    uint64_t epoch = 0;
    std::map<uint64_t, SimSession> sessions; /* by batch */
    std::vector<uint64_t> order;             /* of those under way */
    std::set<uint32_t> loading, evicting, resident;
    std::map<uint32_t, uint64_t> memory; /* of models */
    uint64_t limit = 0;
};

class Simulation
{
  public:
    Simulation(uint64_t seed, bool check) : random(seed), checking(check)
    {
        set_up();
    }
    ~Simulation()
    {
        core_free(c);
    }

    bool run(uint32_t n_events)
    {
        for (uint32_t i = 0; i < n_events && ok; i++) {
            event();
            if (ok && !random.chance(lazy))
                carry_out();
        }
        if (ok)
            behave();
        return ok;
    }

    uint64_t hash = 14695981039346656037ull;
    uint64_t completed = 0, poisoned = 0, lost = 0, deaths = 0, retried = 0, evictions = 0;
    uint64_t jobs_done = 0, jobs_failed = 0, jobs_limited = 0, held = 0;
    std::string what;

  private:
    Random random;
    bool checking;
    bool ok = true;
    bool behaving = false, drained = false;
    core *c = nullptr;
    uint64_t now = 1, told = 0; /* what the core knows of it */
    uint64_t epochs = 0, seq = 0, armed = 0, last_timer = 0;
    uint32_t lazy = 0, death = 0, poison = 0;
    uint32_t max_requests = 0, max_strikes = 2;
    SimDevice devices[max_devices];
    uint32_t n_devices = 0;
    core_model models[max_models] = {};
    bool exists[max_models] = {}, removing[max_models] = {};
    bool timed = false;
    std::map<uint64_t, SimRequest> live;
    std::vector<uint64_t> ids;     /* some of those ever given */
    std::set<uint64_t> batches;    /* ever given */
    std::vector<core_event> stale; /* to be said again */
    std::vector<uint64_t> live_ids;
    std::map<uint64_t, SimJob> jobs;
    uint32_t job_rate = 0, max_jobs = 0;
    uint32_t rank_events[3] = {}; /* how often ranks fail, lie and hang */

    void fail(const std::string &why)
    {
        if (ok)
            what = why;
        ok = false;
    }
    void expect(bool condition, const char *why)
    {
        if (!condition)
            fail(why);
    }

    void mix(uint64_t value)
    {
        for (int i = 0; i < 8; i++) {
            hash ^= (value >> (8 * i)) & 0xff;
            hash *= 1099511628211ull;
        }
    }

    /* ---------------------------------------------------------------------------- set-up */

    void set_up()
    {
        lazy = random.chance(50) ? 0 : static_cast<uint32_t>(random.below(60));
        death = random.chance(30) ? 0 : static_cast<uint32_t>(1 + random.below(4));
        poison = random.chance(50) ? 0 : static_cast<uint32_t>(random.below(8));
        max_requests = random.chance(30) ? 8 : 48;
        max_strikes = random.chance(70) ? 2 : static_cast<uint32_t>(1 + random.below(3));
        job_rate = random.chance(30) ? 0 : static_cast<uint32_t>(1 + random.below(5));
        max_jobs = static_cast<uint32_t>(1 + random.below(12));
        for (uint32_t &rate : rank_events)
            rate = random.chance(50) ? 0 : static_cast<uint32_t>(random.below(6));
        core_config config = {};
        config.max_requests = max_requests;
        config.max_clients = static_cast<uint32_t>(random.below(6));
        config.max_strikes = max_strikes;
        config.max_jobs = max_jobs;
        config.job_share = static_cast<uint32_t>(random.below(1025));
        c = core_new(&config);
        n_devices = static_cast<uint32_t>(2 + random.below(max_devices - 1));
        bool memory = random.chance(70);
        for (uint32_t i = 0; i < n_devices; i++) {
            SimDevice &d = devices[i];
            d.config.kind = i == 0 || (i == 1 && n_devices > 3) ? CORE_PREPARE : CORE_COMPUTE;
            d.config.memory_bytes = memory ? 100 + random.below(200) : 0;
            d.config.depth = static_cast<uint32_t>(random.below(4));
            d.limit = d.config.memory_bytes;
            expect(core_add_device(c, i, &d.config) == LIBSCHED_OK, "a device is refused");
        }
        for (uint32_t a = 0; a < n_devices; a++)
            for (uint32_t b = a + 1; b < n_devices; b++)
                core_set_distance(c, a, b, static_cast<uint32_t>(random.below(4)));
        for (uint32_t i = 0; i < max_models; i++)
            if (random.chance(70))
                add_model(i);
        carry_out();
    }

    uint64_t compute_devices()
    {
        uint64_t mask = 0, all = 0;
        for (uint32_t i = 0; i < n_devices; i++) {
            if (devices[i].config.kind != CORE_COMPUTE)
                continue;
            all |= 1ull << i;
            if (random.chance(60))
                mask |= 1ull << i;
        }
        return mask == 0 ? all : mask;
    }

    core_model random_model()
    {
        core_model m = {};
        if (random.chance(40))
            m.flags |= CORE_MODEL_PREPARES;
        if (random.chance(50))
            m.flags |= CORE_MODEL_STEPS;
        if (random.chance(50))
            m.flags |= CORE_MODEL_REPEATABLE;
        m.devices = compute_devices();
        m.max_batch_requests = static_cast<uint32_t>(1 + random.below(6));
        m.max_batch_units = 1 + random.below(60);
        m.max_request_units = 10 + random.below(60);
        m.max_prepare_requests = static_cast<uint32_t>(1 + random.below(4));
        m.memory_bytes = random.below(120);
        m.memory_per_unit = random.chance(50) ? 0 : 1 + random.below(4);
        m.queue_limit = static_cast<uint32_t>(1 + random.below(20));
        return m;
    }

    void add_model(uint32_t i)
    {
        models[i] = random_model();
        int status = core_add_model(c, now, i, &models[i]);
        if (status == LIBSCHED_OK) {
            exists[i] = true;
            removing[i] = false;
        } else {
            expect(status == LIBSCHED_ENODEVMEM, "a model is refused");
        }
    }

    /* ------------------------------------------------------------------------------ events */

    int handle(core_event &event)
    {
        /* What comes from a worker may be said again when it is stale. */
        if (event.type != CORE_SUBMIT && event.type != CORE_DRAIN && event.type != CORE_TIMER &&
            event.type != CORE_GRANT && event.type != CORE_CANCEL &&
            event.type != CORE_MEMORY_REPORT && event.type != CORE_JOB_SUBMIT &&
            event.type != CORE_JOB_CANCEL && event.type != CORE_JOB_RELEASE && random.chance(5)) {
            if (stale.size() < 64)
                stale.push_back(event);
            else
                stale[random.below(64)] = event;
        }
        int status = core_handle(c, told = now, &event);
        check();
        return status;
    }

    uint64_t random_live()
    {
        live_ids.clear();
        if (live.empty())
            return 0;
        auto it = live.lower_bound(random.below(live.rbegin()->first + 1));
        return it == live.end() ? live.begin()->first : it->first;
    }

    void event()
    {
        now += random.chance(30) ? random.below(200) : 0;
        uint64_t dice = random.below(100);
        if (armed != 0 && armed <= now && random.chance(70)) {
            timer();
        } else if (dice < 22) {
            submit();
        } else if (dice < 25) {
            cancel();
        } else if (dice < 33) {
            grant();
        } else if (dice < 36) {
            if (random.chance(30))
                say_nonsense();
            else
                say_stale();
        } else if (dice < 37) {
            rare();
        } else if (dice < 37 + job_rate) {
            if (random.chance(75))
                submit_job();
            else
                end_job();
        } else {
            worker(static_cast<uint32_t>(random.below(n_devices)));
        }
    }

    void timer()
    {
        armed = 0;
        core_event event = {};
        event.type = CORE_TIMER;
        handle(event);
        if (lazy == 0) {
            carry_out();
            check_deadlines();
        }
    }

    void submit()
    {
        core_event event = {};
        event.type = CORE_SUBMIT;
        auto &s = event.u.submit;
        s.model = static_cast<uint32_t>(random.below(max_models + (random.chance(2) ? 3 : 0)));
        s.priority = static_cast<uint32_t>(random.below(CORE_PRIORITIES));
        s.client = random.below(12);
        s.units = 1 + random.below(random.chance(90) ? 12 : 80);
        if (random.chance(30))
            s.deadline = now + random.below(3000);
        s.wants_parts = random.chance(50);
        s.part_credit = random.chance(30) ? UINT32_MAX : static_cast<uint32_t>(random.below(5));
        uint64_t asked = s.units;
        int status = handle(event);
        bool there = s.model < max_models && exists[s.model] && !removing[s.model];
        if (status != LIBSCHED_OK) {
            expect(s.id == 0, "a refused request has an id");
            switch (status) {
            case LIBSCHED_ECLOSING:
                expect(drained, "refused as if closing");
                break;
            case LIBSCHED_ENOMODEL:
                expect(!there, "a model is denied");
                break;
            case LIBSCHED_EDEADLINE:
                expect(s.deadline != 0 && (s.deadline <= now || timed), "a deadline could be met");
                break;
            case LIBSCHED_EQUEUEFULL:
            case LIBSCHED_EBUSY:
                expect(s.retry_after > 0, "no time to come back after");
                break;
            case LIBSCHED_ETOOBIG:
                break;
            default:
                fail("a strange refusal");
            }
            return;
        }
        expect(there && !drained, "a request for nobody is taken");
        expect(live.count(s.id) == 0, "an id is given twice");
        const core_model &m = models[s.model];
        SimRequest r;
        r.id = s.id;
        r.model = s.model;
        r.deadline = s.deadline;
        r.wants_parts = s.wants_parts;
        r.unlimited = s.part_credit == UINT32_MAX;
        r.credit = r.unlimited ? 0 : s.part_credit;
        r.needs_prepare = (m.flags & CORE_MODEL_PREPARES) != 0;
        r.units = r.needs_prepare ? 1 + random.below(asked) : asked;
        r.total_parts = static_cast<uint32_t>(1 + random.below(6));
        r.poison = random.chance(poison);
        live[r.id] = r;
        ids.push_back(r.id);
        if (ids.size() > 200)
            ids.erase(ids.begin());
    }

    void cancel()
    {
        core_event event = {};
        event.type = CORE_CANCEL;
        uint64_t id =
            random.chance(80) || ids.empty() ? random_live() : ids[random.below(ids.size())];
        if (random.chance(2))
            id = random.next();
        event.u.cancel.id = id;
        int status = handle(event);
        auto it = live.find(id);
        if (it != live.end()) {
            /* Unless it has ended, and its reply was not fetched yet. */
            expect(status == LIBSCHED_OK || (lazy > 0 && status == LIBSCHED_ENOENT),
                   "a live request is not found");
            if (status == LIBSCHED_OK)
                it->second.cancelled = true;
        } else {
            expect(status == LIBSCHED_ENOENT, "a request that has ended is found");
        }
    }

    void grant()
    {
        core_event event = {};
        event.type = CORE_GRANT;
        uint64_t id = random_live();
        uint32_t parts = static_cast<uint32_t>(random.below(4));
        event.u.grant.id = id;
        event.u.grant.parts = parts;
        if (handle(event) == LIBSCHED_OK)
            live[id].credit += parts;
    }

    void say_stale()
    {
        if (stale.empty())
            return;
        core_event event = stale[random.below(stale.size())];
        if (event.device >= n_devices)
            return;
        const SimDevice &d = devices[event.device];
        if (event.type == CORE_WORKER_UP) {
            if (event.epoch != d.epoch)
                return; /* an older worker does not come up again */
        } else if (event.type == CORE_WORKER_DOWN) {
            if (event.epoch == d.epoch && d.up)
                return;
        } else if (event.epoch == d.epoch && d.up) {
            /* Of the present worker: only what speaks of a batch that is over, or another step. */
            if (event.type == CORE_LOADED || event.type == CORE_EVICTED)
                return;
            if (event.type == CORE_RANK_STARTED || event.type == CORE_RANK_STEPPED ||
                event.type == CORE_RANK_CLOSED) {
                auto it = jobs.find(event.u.rank.id);
                if (it == jobs.end() ||
                    (event.type == CORE_RANK_STEPPED && event.u.rank.step < it->second.step &&
                     event.u.rank.status == LIBSCHED_OK))
                    core_handle(c, told = now, &event);
                return;
            }
            if (event.type == CORE_PREPARED || event.type == CORE_PART ||
                event.type == CORE_ITEM_DONE) {
                uint64_t batch = event.type == CORE_PREPARED ? event.u.prepared.batch
                                 : event.type == CORE_PART   ? event.u.part.batch
                                                             : event.u.item_done.batch;
                if (d.sessions.count(batch) != 0)
                    return;
            } else if (d.sessions.count(event.u.step_done.batch) != 0 &&
                       (event.type == CORE_BATCH_DONE ||
                        event.u.step_done.status == LIBSCHED_EDEVICELOST ||
                        event.u.step_done.step == d.sessions.at(event.u.step_done.batch).step)) {
                return;
            }
        }
        core_handle(c, told = now, &event);
    }

    /* A present worker that names a live item, and a batch that it isn't in. */
    void say_nonsense()
    {
        uint32_t index = static_cast<uint32_t>(random.below(n_devices));
        SimDevice &d = devices[index];
        if (!d.up || d.order.size() < 2)
            return;
        const SimSession &one = d.sessions.at(d.order[0]);
        if (one.present.empty())
            return;
        core_event event = from(index, random.chance(50) ? CORE_PART : CORE_ITEM_DONE);
        if (event.type == CORE_PART) {
            event.u.part.id = *one.present.begin();
            event.u.part.batch = d.order[1];
        } else {
            event.u.item_done.id = *one.present.begin();
            event.u.item_done.batch = d.order[1];
        }
        core_handle(c, told = now, &event);
        check();
        expect(event.type == CORE_PART ? event.u.part.drop : event.u.item_done.drop,
               "nonsense is believed");
    }

    /* When the timer has fired and all is carried out, nobody waits whose time is over. */
    void check_deadlines()
    {
        std::set<uint64_t> busy;
        for (uint32_t i = 0; i < n_devices; i++)
            for (uint64_t batch : devices[i].order)
                busy.insert(devices[i].sessions.at(batch).members.begin(),
                            devices[i].sessions.at(batch).members.end());
        for (const auto &[id, r] : live) {
            if (r.deadline == 0 || r.deadline > told || busy.count(id) != 0)
                continue;
            /* Between steps one that may go on is looked at when it does. */
            bool may_go_on = r.in_worker && !(r.wants_parts && !r.unlimited && r.credit <= r.sent &&
                                              r.yielded >= r.sent);
            expect(may_go_on, "somebody waits though his time is over");
        }
    }

    void rare()
    {
        uint64_t dice = random.below(100);
        uint32_t i = static_cast<uint32_t>(random.below(max_models));
        if (dice < 40) {
            if (!exists[i] || (removing[i] && core_model_gone(c, i))) {
                exists[i] = false;
                if (!drained)
                    add_model(i);
            } else if (!removing[i] && random.chance(40)) {
                remove(i);
            }
        } else if (dice < 60) {
            if (exists[i] && !removing[i]) {
                core_model m = random_model();
                m.devices = models[i].devices;
                m.memory_bytes = models[i].memory_bytes;
                /* What is in flight was told to be repeatable, or not. */
                m.flags = (m.flags & ~static_cast<uint32_t>(CORE_MODEL_REPEATABLE)) |
                          (models[i].flags & CORE_MODEL_REPEATABLE);
                if (random.chance(80))
                    m.flags = models[i].flags;
                m.memory_per_unit = models[i].memory_per_unit;
                expect(core_update_model(c, now, i, &m) == LIBSCHED_OK, "an update is refused");
                models[i] = m;
            }
        } else if (dice < 90) {
            uint32_t d = static_cast<uint32_t>(random.below(n_devices));
            core_event event = {};
            event.type = CORE_MEMORY_REPORT;
            event.device = d;
            event.epoch = devices[d].epoch;
            event.u.memory.free_bytes = random.below(400);
            handle(event);
        } else if (dice < 91 && random.chance(10)) {
            core_event event = {};
            event.type = CORE_DRAIN;
            handle(event);
            drained = true;
        }
    }

    void remove(uint32_t i)
    {
        int status = random.chance(50) ? LIBSCHED_ENOMODEL : LIBSCHED_EBADMODEL;
        expect(core_remove_model(c, now, i, status) == LIBSCHED_OK, "a removal is refused");
        removing[i] = true;
    }

    /* ----------------------------------------------------------------------------- workers */

    core_event from(uint32_t index, core_event_type type)
    {
        core_event event = {};
        event.type = type;
        event.device = index;
        event.epoch = devices[index].epoch;
        return event;
    }

    void up(uint32_t index)
    {
        SimDevice &d = devices[index];
        if (d.vacated) {
            core_event event = from(index, CORE_WORKER_UP);
            event.epoch = ++epochs;
            expect(core_handle(c, told = now, &event) == LIBSCHED_EBUSY,
                   "a worker comes up on a device that is held");
            return;
        }
        d.up = true;
        d.epoch = ++epochs;
        core_event event = from(index, CORE_WORKER_UP);
        handle(event);
    }

    void down(uint32_t index)
    {
        SimDevice &d = devices[index];
        /* Whom it takes along: a request by itself in its step, with nothing else going on. */
        if (d.order.size() == 1 && d.loading.empty() && d.evicting.empty() && !d.vacating) {
            const SimSession &s = d.sessions.at(d.order[0]);
            if (s.given == 1 && s.present.size() == 1)
                live.at(*s.present.begin()).lone_deaths++;
        }
        for (uint64_t batch : d.order)
            for (uint64_t id : d.sessions.at(batch).present)
                live.at(id).suspect |= !d.vacating;
        if (d.rank != Rank::None) {
            SimJob &j = jobs.at(d.job);
            j.lost = true;
            j.on.erase(index);
            d.job = 0;
            d.rank = Rank::None;
            d.closing = d.hangs = false;
        }
        for (auto &[batch, s] : d.sessions)
            for (uint64_t id : s.members)
                leave(id);
        core_event event = from(index, CORE_WORKER_DOWN);
        handle(event);
        d.up = false;
        d.vacated = d.vacating;
        d.vacating = false;
        d.sessions.clear();
        d.order.clear();
        d.loading.clear();
        d.evicting.clear();
        d.resident.clear();
        d.memory.clear();
        deaths++;
    }

    void leave(uint64_t id)
    {
        auto it = live.find(id);
        if (it != live.end())
            it->second.in_worker = it->second.preparing = false;
    }

    void worker(uint32_t index)
    {
        SimDevice &d = devices[index];
        if (!d.up) {
            if (d.vacated && d.job != 0 && (behaving || random.chance(3)))
                release(d.job);
            else if ((behaving && !d.vacated) || random.chance(20))
                up(index);
            return;
        }
        if (!behaving && random.below(1000) < death * 4) {
            down(index);
            return;
        }
        if (d.vacating && random.chance(20)) {
            down(index);
            return;
        }
        if (d.rank != Rank::None && random.chance(30)) {
            rank(index);
            return;
        }
        uint64_t dice = random.below(100);
        if (!d.loading.empty() && dice < 40) {
            load_ends(index);
        } else if (!d.evicting.empty() && dice < 60) {
            uint32_t model = *d.evicting.begin();
            d.evicting.erase(model);
            d.memory.erase(model);
            core_event event = from(index, CORE_EVICTED);
            event.u.loaded.model = model;
            handle(event);
        } else if (!d.order.empty()) {
            step(index, d.order[random.below(d.order.size())]);
        } else if (!d.sessions.empty() && !behaving && random.chance(1)) {
            /* A session given up between its steps. */
            uint64_t batch = d.sessions.begin()->first;
            core_event event = from(index, CORE_BATCH_DONE);
            event.u.step_done.batch = batch;
            event.u.step_done.status = LIBSCHED_ENOMEM;
            end_session(index, batch);
            handle(event);
        }
    }

    /* -------------------------------------------------------------------------------- jobs */

    void submit_job()
    {
        core_event event = {};
        event.type = CORE_JOB_SUBMIT;
        core_job_submit &s = event.u.job;
        s.flags = random.chance(20) ? CORE_JOB_RESERVE : 0;
        s.n_devices = static_cast<uint32_t>(random.below(4));
        s.devices = random.chance(95) ? compute_devices() : random.next();
        s.memory_bytes = random.chance(50) ? 0 : random.below(random.chance(90) ? 120 : 400);
        s.priority = static_cast<uint32_t>(random.below(CORE_PRIORITIES));
        s.client = random.below(5);
        s.time_limit = random.chance(50) ? 0 : 1 + random.below(20000);
        s.step_limit = 1 + random.below(10000);
        int status = handle(event);
        uint64_t all = 0;
        uint32_t n = 0, roomy = 0;
        for (uint32_t i = 0; i < n_devices; i++) {
            if (devices[i].config.kind != CORE_COMPUTE)
                continue;
            all |= 1ull << i;
            if ((s.devices >> i & 1) == 0)
                continue;
            n++;
            roomy += devices[i].limit == 0 || (s.flags & CORE_JOB_RESERVE) ||
                     s.memory_bytes <= devices[i].limit;
        }
        int expected = LIBSCHED_OK;
        if (drained)
            expected = LIBSCHED_ECLOSING;
        else if (s.n_devices == 0 || (s.devices & ~all) != 0 || s.devices == 0)
            expected = LIBSCHED_EINVAL;
        else if (s.n_devices > n)
            expected = LIBSCHED_ENODEVICE;
        else if (s.n_devices > roomy)
            expected = LIBSCHED_ENODEVMEM;
        else if (jobs.size() == max_jobs || (lazy > 0 && status == LIBSCHED_EBUSY))
            expected = LIBSCHED_EBUSY;
        expect(status == expected, "a job is refused, or isn't");
        if (status != LIBSCHED_OK) {
            expect(s.id == 0 && (s.retry_after > 0) == (status == LIBSCHED_EBUSY),
                   "a job that is refused is given something");
            return;
        }
        expect(jobs.count(s.id) == 0 && s.id != 0 && (s.id & 0xffff) < max_jobs,
               "a job is named as another");
        SimJob j;
        j.id = s.id;
        j.k = s.n_devices;
        j.allowed = s.devices;
        j.reserve = (s.flags & CORE_JOB_RESERVE) != 0;
        j.memory = j.reserve ? 0 : s.memory_bytes;
        j.time_limit = s.time_limit;
        j.step_limit = s.step_limit;
        j.steps = static_cast<uint32_t>(1 + random.below(random.chance(80) ? 6 : 60));
        jobs[j.id] = j;
    }

    void end_job()
    {
        if (jobs.empty())
            return;
        auto it = jobs.begin();
        std::advance(it, static_cast<long>(random.below(jobs.size())));
        core_job_info info;
        int there = core_job_get(c, it->first, &info);
        core_event event = {};
        event.type = random.chance(70) ? CORE_JOB_CANCEL : CORE_JOB_RELEASE;
        event.u.job_id.id = it->first;
        int status = handle(event);
        expect((status == LIBSCHED_ENOENT) == (there == LIBSCHED_ENOENT), "a job is there or not");
        if (status == LIBSCHED_ENOENT) {
            expect(lazy > 0, "a live job is not found");
        } else if (event.type == CORE_JOB_RELEASE && !it->second.reserve) {
            expect(status == LIBSCHED_EINVAL, "what is no reservation is released");
        } else {
            expect(status == LIBSCHED_OK, "a live job is not ended");
            (event.type == CORE_JOB_CANCEL ? it->second.cancelled : it->second.released) = true;
        }
    }

    void release(uint64_t id)
    {
        core_event event = {};
        event.type = CORE_JOB_RELEASE;
        event.u.job_id.id = id;
        int status = handle(event);
        expect(status == LIBSCHED_OK || (status == LIBSCHED_ENOENT && lazy > 0),
               "a reservation is not released");
        if (status == LIBSCHED_OK)
            jobs.at(id).released = true;
    }

    bool happens(int which)
    {
        return !behaving && random.chance(rank_events[which]);
    }

    /* A rank does what it was asked to, or doesn't. */
    void rank(uint32_t index)
    {
        SimDevice &d = devices[index];
        SimJob &j = jobs.at(d.job);
        core_event event = {};
        bool lie = happens(1);
        if (d.hangs && !behaving)
            return;
        if (happens(2)) {
            d.hangs = true;
            return;
        }
        if (d.rank == Rank::Idle && !d.closing && !lie)
            return;
        if (d.rank == Rank::Starting) {
            event = from(index, CORE_RANK_STARTED);
            d.rank = Rank::Idle;
            if (happens(0)) {
                event.u.rank.status = random.chance(80) ? LIBSCHED_ENODEVMEM : LIBSCHED_EDEVICELOST;
                if (event.u.rank.status == LIBSCHED_ENODEVMEM)
                    rank_gone(index);
            }
        } else if (d.rank == Rank::Stepping || (lie && !d.closing && random.chance(70))) {
            event = from(index, CORE_RANK_STEPPED);
            event.u.rank.step = j.step;
            event.u.rank.finished = j.step >= j.steps;
            if (d.rank == Rank::Idle && !d.closing) {
                /* Of a step that was not given. */
                event.u.rank.step = j.step + 1;
                j.lied = true;
            } else if (lie) {
                event.u.rank.step += static_cast<uint32_t>(random.below(2));
                event.u.rank.finished = !event.u.rank.finished;
                j.lied = true;
            } else if (happens(0)) {
                event.u.rank.status = random.chance(80) ? LIBSCHED_EINVAL : LIBSCHED_EDEVICELOST;
            }
            d.rank = Rank::Idle;
        } else {
            event = from(index, CORE_RANK_CLOSED);
            if (!d.closing) {
                j.lied = true; /* it stays all the same */
            } else {
                rank_gone(index);
            }
        }
        event.u.rank.id = j.id;
        if (j.failed == 0 && !j.closing)
            j.failed = event.u.rank.status;
        handle(event);
    }

    void rank_gone(uint32_t index)
    {
        SimDevice &d = devices[index];
        jobs.at(d.job).on.erase(index);
        d.job = 0;
        d.rank = Rank::None;
        d.closing = d.hangs = false;
    }

    void start_job(const core_action &a)
    {
        SimJob *j = job(a);
        if (j == nullptr)
            return;
        expect(!j->begun && !j->cancelled && !j->released, "a job begins twice, or after its end");
        expect(a.n_ranks == j->k, "a job has other devices than it wants");
        j->begun = true;
        j->started = told;
        for (uint32_t i = 0; i < a.n_ranks; i++) {
            uint32_t index = a.ranks[i];
            expect(index < n_devices && (j->allowed >> index & 1) != 0, "a device it may not have");
            SimDevice &d = devices[index];
            expect(d.job == 0, "a device of two jobs");
            expect(j->on.insert(index).second, "a device twice");
            d.job = j->id;
            if (j->reserve) {
                expect(d.vacated && !d.up, "a device is held, and has a worker");
                continue;
            }
            expect(d.up && !d.vacating, "a rank where no worker is");
            expect(d.order.empty(), "a rank starts beside a batch");
            expect(d.limit == 0 || used(d) <= d.limit, "there is no memory for a rank");
            d.rank = Rank::Starting;
        }
        held += j->reserve;
    }

    void step_job(const core_action &a)
    {
        SimJob *j = job(a);
        if (j == nullptr)
            return;
        expect(a.step == j->step + 1, "a step is left out");
        expect(!j->closing && !j->cancelled, "a step after the end");
        expect(a.n_ranks == j->k && j->on.size() == j->k, "a step of some");
        j->step = a.step;
        for (uint32_t i = 0; i < a.n_ranks; i++) {
            SimDevice &d = devices[a.ranks[i]];
            expect(d.job == j->id && d.rank == Rank::Idle, "a rank is not ready");
            expect(d.order.empty(), "a step beside a batch");
            d.rank = Rank::Stepping;
        }
    }

    void close_job(const core_action &a)
    {
        SimJob *j = job(a);
        if (j == nullptr)
            return;
        expect(j->begun && !j->closing, "a job is closed twice");
        j->closing = true;
        for (uint32_t i = 0; i < a.n_ranks; i++) {
            SimDevice &d = devices[a.ranks[i]];
            expect(d.job == j->id && d.rank != Rank::None, "what is gone is closed");
            d.closing = true;
        }
    }

    SimJob *job(const core_action &a)
    {
        auto it = jobs.find(a.job);
        if (it == jobs.end()) {
            fail("a job that has ended does something");
            return nullptr;
        }
        return &it->second;
    }

    void job_ends(const core_action &a)
    {
        SimJob *found = job(a);
        if (found == nullptr)
            return;
        const SimJob &j = *found;
        if (!j.reserve)
            expect(j.on.empty(), "a job ends before its ranks");
        for (uint32_t i = 0; i < n_devices; i++)
            expect(devices[i].job != j.id, "a job ends, and keeps a device");
        switch (a.status) {
        case LIBSCHED_OK:
            jobs_done++;
            expect(j.reserve ? j.released : j.step >= j.steps || j.lied, "it was not done");
            break;
        case LIBSCHED_ECANCELED:
            expect(j.cancelled, "a job is cancelled by nobody");
            break;
        case LIBSCHED_ETIMELIMIT:
            jobs_limited++;
            expect(j.begun && j.time_limit != 0 && j.started + j.time_limit <= now,
                   "a time limit is early");
            break;
        case LIBSCHED_EENGINE:
            jobs_failed++;
            expect(j.lied, "nobody lied");
            break;
        case LIBSCHED_EDEVICELOST:
            jobs_failed++;
            expect(j.lost, "nobody died");
            break;
        default:
            jobs_failed++;
            expect(a.status == j.failed, "a job fails with something else");
        }
        jobs.erase(a.job);
    }

    void load_ends(uint32_t index)
    {
        SimDevice &d = devices[index];
        auto it = d.loading.begin();
        std::advance(it, static_cast<long>(random.below(d.loading.size())));
        uint32_t model = *it;
        core_event event = from(index, CORE_LOADED);
        event.u.loaded.model = model;
        event.u.loaded.memory_bytes = d.memory[model];
        if (!behaving && random.chance(10))
            event.u.loaded.status = random.chance(80) ? LIBSCHED_EENGINE : LIBSCHED_EDEVICELOST;
        if (event.u.loaded.status != LIBSCHED_EDEVICELOST)
            d.loading.erase(it);
        if (event.u.loaded.status == LIBSCHED_OK) {
            d.resident.insert(model);
            if (random.chance(20) && event.u.loaded.memory_bytes > 0)
                event.u.loaded.memory_bytes = 1 + random.below(event.u.loaded.memory_bytes);
            /* What is known of it is what the last load took. */
            if (d.config.kind == CORE_COMPUTE && event.u.loaded.memory_bytes > 0)
                models[model].memory_bytes = event.u.loaded.memory_bytes;
            d.memory[model] = d.config.kind == CORE_COMPUTE ? event.u.loaded.memory_bytes : 0;
        } else if (event.u.loaded.status != LIBSCHED_EDEVICELOST) {
            d.memory.erase(model);
        }
        handle(event);
    }

    void end_session(uint32_t index, uint64_t batch)
    {
        SimDevice &d = devices[index];
        for (uint64_t id : d.sessions.at(batch).members)
            leave(id);
        d.sessions.erase(batch);
        d.order.erase(std::remove(d.order.begin(), d.order.end(), batch), d.order.end());
    }

    /* One thing that happens in a step that is under way. */
    void step(uint32_t index, uint64_t batch)
    {
        SimDevice &d = devices[index];
        SimSession &s = d.sessions.at(batch);
        for (uint64_t id : s.runs) {
            if (live.at(id).poison && !live.at(id).cancelled && random.chance(50)) {
                down(index);
                return;
            }
        }
        bool steps = (models[s.model].flags & CORE_MODEL_STEPS) != 0;
        if (!s.runs.empty() && random.chance(80)) {
            uint64_t id = s.runs[random.below(s.runs.size())];
            if (s.prepare)
                prepare_ends(index, batch, id);
            else
                item(index, batch, id, steps);
            return;
        }
        step_ends(index, batch, steps);
    }

    void forget(SimSession &s, uint64_t id)
    {
        s.members.erase(id);
        s.present.erase(id);
        s.runs.erase(std::remove(s.runs.begin(), s.runs.end(), id), s.runs.end());
        leave(id);
    }

    void prepare_ends(uint32_t index, uint64_t batch, uint64_t id)
    {
        SimRequest &r = live.at(id);
        core_event event = from(index, CORE_PREPARED);
        event.u.prepared.id = id;
        event.u.prepared.batch = batch;
        event.u.prepared.units = r.units;
        if (!behaving && random.chance(3))
            event.u.prepared.status = LIBSCHED_EINVAL;
        else
            r.prepared = true;
        r.suspect = false;
        r.cap = UINT64_MAX;
        forget(devices[index].sessions.at(batch), id);
        handle(event);
    }

    void item(uint32_t index, uint64_t batch, uint64_t id, bool steps)
    {
        SimDevice &d = devices[index];
        SimRequest &r = live.at(id);
        SimSession &s = d.sessions.at(batch);
        bool last = r.yielded >= r.total_parts;
        if (!last) {
            core_event event = from(index, CORE_PART);
            event.u.part.id = id;
            event.u.part.batch = batch;
            r.yielded++;
            handle(event);
            if (!r.wants_parts || r.cancelled)
                expect(event.u.part.drop, "a part is kept that nobody wants");
            if (steps) { /* one part a step */
                s.runs.erase(std::remove(s.runs.begin(), s.runs.end(), id), s.runs.end());
            }
            return;
        }
        core_event event = from(index, CORE_ITEM_DONE);
        event.u.item_done.id = id;
        event.u.item_done.batch = batch;
        if (!behaving && random.chance(3))
            event.u.item_done.status = LIBSCHED_EENGINE;
        forget(s, id);
        handle(event);
        expect(event.u.item_done.drop == r.cancelled || r.deadline != 0 || removing[r.model],
               "an end is dropped, or isn't");
    }

    void step_ends(uint32_t index, uint64_t batch, bool steps)
    {
        SimDevice &d = devices[index];
        SimSession &s = d.sessions.at(batch);
        int status = LIBSCHED_OK;
        if (!behaving && random.chance(10))
            status = random.chance(60) ? LIBSCHED_ENODEVMEM : LIBSCHED_EENGINE;
        if (!behaving && random.chance(2))
            status = LIBSCHED_EDEVICELOST;
        if (status == LIBSCHED_OK && !steps && !s.runs.empty() && !random.chance(2))
            return; /* a one-shot engine ends its items */
        core_event event = from(index, s.prepare ? CORE_BATCH_DONE : CORE_STEP_DONE);
        event.u.step_done.batch = batch;
        event.u.step_done.step = s.step;
        event.u.step_done.status = status;
        event.u.step_done.begin = now;
        event.u.step_done.end = now + random.below(1000);
        timed |= !s.prepare; /* what a step costs is known from now on */
        ;
        if (status == LIBSCHED_EDEVICELOST) {
            handle(event);
            return;
        }
        d.order.erase(std::remove(d.order.begin(), d.order.end(), batch), d.order.end());
        if (status == LIBSCHED_ENODEVMEM)
            for (uint64_t id : s.present)
                live.at(id).cap = s.given / 2;
        s.under_way = false;
        s.runs.clear();
        /* A session that began when its model was of one step keeps to that. */
        if (status != LIBSCHED_OK || s.prepare || session_is_over(batch, s, steps))
            end_session(index, batch);
        handle(event);
    }

    std::set<uint64_t> step_sessions; /* batches that began as sessions of steps */

    bool session_is_over(uint64_t batch, const SimSession &, bool)
    {
        return step_sessions.count(batch) == 0;
    }

    /* ----------------------------------------------------------------------------- actions */

    uint64_t used(const SimDevice &d)
    {
        uint64_t sum = 0;
        for (const auto &[model, bytes] : d.memory)
            sum += bytes;
        for (const auto &[batch, s] : d.sessions)
            for (uint64_t id : s.members)
                if (!s.prepare)
                    sum += live.at(id).units * models[s.model].memory_per_unit;
        if (d.rank != Rank::None || (d.job != 0 && d.up))
            sum += jobs.at(d.job).memory;
        return sum;
    }

    void carry_out()
    {
        core_action a;
        while (ok && core_next_action(c, &a)) {
            expect(a.seq == ++seq, "a number is left out");
            mix(a.type);
            mix(a.device);
            mix(a.model);
            mix(a.batch);
            mix(a.id);
            mix(static_cast<uint64_t>(a.status));
            mix(a.at);
            mix(a.job);
            for (uint32_t i = 0; i < a.n_ranks; i++)
                mix(a.ranks[i]);
            for (uint32_t i = 0; i < a.n_items; i++)
                mix(a.items[i].id * 4 + a.items[i].joins * 2u + a.items[i].leaves);
            action(a);
        }
        check();
    }

    void check()
    {
        libsched_error err = {};
        if (ok && checking && !core_check(c, &err))
            fail(err.message);
    }

    SimDevice *addressed(const core_action &a)
    {
        if (a.device >= n_devices || !devices[a.device].up || devices[a.device].epoch != a.epoch) {
            fail("something is asked of a worker that is not there");
            return nullptr;
        }
        return &devices[a.device];
    }

    void action(const core_action &a)
    {
        switch (a.type) {
        case CORE_DISPATCH:
        case CORE_STEP:
            if (SimDevice *d = addressed(a))
                run_step(*d, a);
            break;
        case CORE_LOAD:
            if (SimDevice *d = addressed(a)) {
                expect(exists[a.model], "a model is loaded that isn't there");
                expect(d->loading.count(a.model) + d->evicting.count(a.model) +
                               d->resident.count(a.model) ==
                           0,
                       "a model is loaded twice");
                d->loading.insert(a.model);
                d->memory[a.model] =
                    d->config.kind == CORE_COMPUTE ? models[a.model].memory_bytes : 0;
                expect(d->limit == 0 || used(*d) <= d->limit, "a load does not fit");
            }
            break;
        case CORE_EVICT:
            if (SimDevice *d = addressed(a)) {
                expect(d->resident.erase(a.model) == 1, "what isn't loaded is evicted");
                d->evicting.insert(a.model);
                for (const auto &[batch, s] : d->sessions)
                    expect(s.model != a.model, "a model is evicted from under a session");
                evictions++;
            }
            break;
        case CORE_ABORT:
            addressed(a);
            expect(live.count(a.id) != 0 && live[a.id].cancelled && live[a.id].in_worker,
                   "an abort for somebody else");
            break;
        case CORE_KILL:
            if (addressed(a) != nullptr)
                down(a.device);
            break;
        case CORE_REPLY:
            reply(a);
            break;
        case CORE_REPLY_PART: {
            expect(live.count(a.id) != 0, "a part for nobody");
            SimRequest &r = live[a.id];
            r.sent++;
            expect(r.wants_parts, "a part that is not wanted");
            expect(r.unlimited || r.sent <= r.credit, "a part without credit");
            expect(r.sent <= r.total_parts, "a part is sent twice");
            break;
        }
        case CORE_ARM_TIMER:
            expect(a.at != 0, "a timer for nothing");
            armed = a.at;
            break;
        case CORE_JOB_START:
            start_job(a);
            break;
        case CORE_JOB_STEP:
            step_job(a);
            break;
        case CORE_JOB_CLOSE:
            close_job(a);
            break;
        case CORE_JOB_REPLY:
            job_ends(a);
            break;
        case CORE_VACATE:
            if (SimDevice *d = addressed(a)) {
                expect(!d->vacating && d->rank == Rank::None, "a device is vacated twice");
                d->vacating = true;
            }
            break;
        case CORE_OCCUPY: {
            SimDevice &d = devices[a.device];
            expect(!d.up && d.vacated, "what was not vacated is occupied");
            d.vacated = false;
            if (d.job != 0)
                jobs.at(d.job).on.erase(a.device);
            d.job = 0;
            break;
        }
        default:
            expect(false, "an action that nothing led to");
        }
    }

    bool alone(const SimSession &s)
    {
        for (uint64_t id : s.members)
            if (live.at(id).suspect)
                return true;
        return false;
    }

    void run_step(SimDevice &d, const core_action &a)
    {
        bool dispatch = a.type == CORE_DISPATCH;
        bool prepare = d.config.kind == CORE_PREPARE;
        if (dispatch) {
            expect(batches.insert(a.batch).second, "a batch's name is used again");
            expect(a.step == 1, "a session does not begin with its first step");
            SimSession s;
            s.model = a.model;
            s.prepare = prepare;
            d.sessions[a.batch] = s;
            if (!prepare && (models[a.model].flags & CORE_MODEL_STEPS))
                step_sessions.insert(a.batch);
        }
        if (d.sessions.count(a.batch) == 0) {
            fail("a step of a session that is over");
            return;
        }
        SimSession &s = d.sessions[a.batch];
        const core_model &m = models[s.model];
        expect(!s.under_way, "a step before the last has ended");
        expect(s.model == a.model && a.step > s.step, "a step of another");
        expect(d.resident.count(a.model) == 1, "a step where the model isn't loaded");
        s.step = a.step;
        s.runs.clear();
        s.present.clear();
        uint64_t units = 0;
        for (uint32_t i = 0; i < a.n_items; i++) {
            const core_action_item &item = a.items[i];
            if (live.count(item.id) == 0) {
                fail("a request that has ended is in a step");
                return;
            }
            SimRequest &r = live[item.id];
            expect(r.model == a.model, "a request in a batch of another model");
            expect(item.joins != (s.members.count(item.id) != 0), "joined twice, or never");
            if (item.leaves) {
                expect(s.members.erase(item.id) == 1, "one leaves who was not there");
                leave(item.id);
                continue;
            }
            if (item.joins) {
                expect(!r.in_worker, "in two places at a time");
                expect(r.sent == 0 || (m.flags & CORE_MODEL_REPEATABLE) != 0,
                       "what can't be repeated is tried again");
                expect(prepare == (r.needs_prepare && !r.prepared) ||
                           ((m.flags & CORE_MODEL_PREPARES) != 0) != r.needs_prepare,
                       "not prepared, or twice");
                expect(r.deadline == 0 || r.deadline > told, "begun too late");
                s.members.insert(item.id);
                r.in_worker = true;
                r.preparing = prepare;
                r.yielded = 0;
                if (!prepare && r.prepared)
                    expect(item.units == r.units, "other units than prepared");
                if (!prepare)
                    r.units = item.units;
            }
            if (!prepare && (m.flags & CORE_MODEL_STEPS) && step_sessions.count(a.batch) &&
                r.wants_parts && !r.unlimited)
                expect(r.credit > r.sent || r.yielded < r.sent, "a step without credit");

            expect(r.cap > 0, "what did not fit alone is tried again");
            units += item.units;
            s.runs.push_back(item.id);
            s.present.insert(item.id);
        }
        s.given = static_cast<uint32_t>(s.runs.size());
        for (uint64_t id : s.runs)
            expect(s.given <= live.at(id).cap, "more than did not fit before");
        if (s.runs.empty()) {
            expect(!dispatch, "a session begins with nobody");
            if (a.ends) {
                expect(s.members.empty(), "a session ends with members");
                d.sessions.erase(a.batch);
            } else {
                expect(!s.members.empty(), "a session has nobody, and goes on");
                /* Its step-done is nothing to the core. */
                if (random.chance(50)) {
                    core_event event = from(a.device, CORE_STEP_DONE);
                    event.u.step_done.batch = a.batch;
                    event.u.step_done.step = a.step;
                    stale.push_back(event);
                }
            }
            return;
        }
        expect(!a.ends, "a session ends and goes on");
        uint32_t limit = prepare ? m.max_prepare_requests : m.max_batch_requests;
        expect(s.runs.size() <= limit, "too many requests");
        expect(prepare || s.runs.size() == 1 || units <= m.max_batch_units, "too many units");
        expect(d.limit == 0 || used(d) <= d.limit, "more memory than there is");
        /* Others of a model of steps join its session. */
        if (dispatch && step_sessions.count(a.batch) != 0)
            for (const auto &[batch, other] : d.sessions)
                expect(batch == a.batch || other.model != s.model ||
                           step_sessions.count(batch) == 0 || alone(s) || alone(other) ||
                           other.members.empty(),
                       "a second session of a model");
        /* Those who have been with a death are alone. */
        s.under_way = true;
        expect((d.rank == Rank::None || d.rank == Rank::Idle) && !d.closing,
               "a step beside a rank's");
        expect(!d.vacating, "a step of a worker that ends");
        d.order.push_back(a.batch);
        uint32_t depth = d.config.depth == 0 ? 1 : d.config.depth;
        expect(d.order.size() <= depth, "more steps than the device bears");
        for (uint64_t batch : d.order)
            for (uint64_t id : d.sessions[batch].present)
                if (live[id].suspect)
                    expect(d.order.size() == 1 && s.given == 1, "company for a suspect");
    }

    void reply(const core_action &a)
    {
        auto it = live.find(a.id);
        if (it == live.end()) {
            fail("a second reply");
            return;
        }
        const SimRequest &r = it->second;
        expect(!r.in_worker, "a reply while a worker has it");
        if (r.cancelled)
            expect(a.status == LIBSCHED_ECANCELED || removing[r.model] || r.deadline != 0,
                   "a cancelled request is answered otherwise");
        switch (a.status) {
        case LIBSCHED_OK:
            completed++;
            expect(!r.wants_parts || r.sent == r.yielded, "parts are missing");
            expect(a.attempts >= 1 && a.dispatched > 0 && a.batch_size >= 1, "it never ran");
            break;
        case LIBSCHED_EDEADLINE:
            expect(r.deadline != 0 && (r.deadline <= now || timed), "too early for a deadline");
            break;
        case LIBSCHED_ECANCELED:
            expect(r.cancelled, "cancelled by nobody");
            break;
        case LIBSCHED_EPOISON:
            poisoned++;
            expect(r.lone_deaths >= max_strikes, "called poison for another's deed");
            break;
        case LIBSCHED_EDEVICELOST:
            lost++;
            break;
        case LIBSCHED_ENODEVMEM:
        case LIBSCHED_ETOOBIG:
        case LIBSCHED_EENGINE:
        case LIBSCHED_EINVAL:
        case LIBSCHED_ENOMEM:
            break;
        case LIBSCHED_ENOMODEL:
        case LIBSCHED_EBADMODEL:
            expect(removing[r.model], "its model is there");
            break;
        default:
            fail("a strange end");
        }
        live.erase(it);
    }

    /* ------------------------------------------------------------------------------- the end */

    /* From now on everybody behaves: whatever is still waiting must end. */
    void behave()
    {
        behaving = true;
        carry_out();
        for (uint32_t i = 0; i < n_devices && ok; i++) {
            if (devices[i].up)
                down(i); /* loads that failed are tried again */
            carry_out();
            if (devices[i].vacated && devices[i].job != 0)
                release(devices[i].job);
            carry_out();
            up(i);
            carry_out();
        }
        for (auto &[id, r] : live) {
            r.poison = false;
            r.unlimited = true;
            core_event event = {};
            event.type = CORE_GRANT;
            event.u.grant.id = id;
            event.u.grant.parts = UINT32_MAX;
            core_handle(c, told = now, &event);
        }
        carry_out();
        settle();
        for (int i = 0; i < 20 && ok && !jobs.empty(); i++)
            settle();
        if (ok && !jobs.empty()) {
            core_job_info info = {};
            core_job_get(c, jobs.begin()->first, &info);
            fail("job " + std::to_string(jobs.begin()->first) + " goes on for ever: state " +
                 std::to_string(info.state) + ", why " + std::to_string(info.why));
        }
        /* Who is left waits for a model that can't be had. */
        for (const auto &[id, r] : live) {
            uint64_t failed = core_model_failed(c, r.model);
            bool prepare_failed = false;
            for (uint32_t i = 0; i < n_devices; i++)
                if (devices[i].config.kind == CORE_PREPARE && (failed >> i & 1))
                    prepare_failed = true;
            if (ok && (failed & models[r.model].devices) != models[r.model].devices &&
                !(prepare_failed &&
                  (r.needs_prepare || (models[r.model].flags & CORE_MODEL_PREPARES))))
                fail("request " + std::to_string(id) + " of model " + std::to_string(r.model) +
                     " waits for ever");
        }
        for (uint32_t i = 0; i < max_models && ok; i++)
            if (exists[i] && !removing[i])
                remove(i);
        settle();
        expect(live.empty(), "somebody has no reply");
        for (uint32_t i = 0; i < max_models; i++)
            expect(core_model_gone(c, i), "a model does not go");
        core_counts counts;
        core_get_counts(c, UINT32_MAX, &counts);
        retried = counts.retried;
        expect(counts.completed == completed && counts.queued == 0 && counts.running == 0,
               "the counts are wrong");
        expect(counts.submitted ==
                   counts.completed + counts.failed + counts.cancelled + counts.expired,
               "requests were lost");
    }

    void settle()
    {
        for (int i = 0; i < 20000 && ok; i++) {
            now += 5;
            if (armed != 0 && armed <= now)
                timer();
            for (uint32_t d = 0; d < n_devices; d++) {
                worker(d);
                carry_out();
            }
            bool idle = armed == 0;
            for (uint32_t d = 0; d < n_devices; d++)
                idle = idle && devices[d].up && devices[d].loading.empty() &&
                       devices[d].evicting.empty() && devices[d].order.empty();
            if (idle)
                return;
        }
    }
};

uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}
} // namespace

TEST(Random, EverybodyIsAnsweredOnceWhateverHappens)
{
    uint64_t first = number("GPU_SCHED_SEED", 0), n = 1;
    if (first == 0) {
        first = 1;
        n = number("GPU_SCHED_SEEDS", 50);
    }
    uint64_t completed = 0, poisoned = 0, deaths = 0, retried = 0, evictions = 0, lost = 0;
    uint64_t jobs_done = 0, jobs_failed = 0, jobs_limited = 0, held = 0;
    for (uint64_t seed = first; seed < first + n; seed++) {
        auto simulation = std::make_unique<Simulation>(seed, true);
        ASSERT_TRUE(simulation->run(20000)) << "seed " << seed << ": " << simulation->what;
        completed += simulation->completed;
        poisoned += simulation->poisoned;
        lost += simulation->lost;
        deaths += simulation->deaths;
        retried += simulation->retried;
        evictions += simulation->evictions;
        jobs_done += simulation->jobs_done;
        jobs_failed += simulation->jobs_failed;
        jobs_limited += simulation->jobs_limited;
        held += simulation->held;
    }
    printf("%lu jobs done, %lu failed, %lu out of time, %lu reservations held\n", jobs_done,
           jobs_failed, jobs_limited, held);
    printf("%lu completed, %lu poisoned, %lu lost, %lu deaths, %lu retried, %lu evictions\n",
           completed, poisoned, lost, deaths, retried, evictions);
    if (n >= 20) {
        /* It has been where it should. */
        EXPECT_GT(completed, n * 50);
        EXPECT_GT(poisoned, n / 4);
        EXPECT_GT(retried, n * 5);
        EXPECT_GT(evictions, n);
        EXPECT_GT(jobs_done, n * 5);
        EXPECT_GT(jobs_failed, n);
        EXPECT_GT(jobs_limited, n / 2);
        EXPECT_GT(held, n);
    }
}

TEST(Random, TheSameSeedGivesTheSameActions)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        auto a = std::make_unique<Simulation>(seed, false);
        auto b = std::make_unique<Simulation>(seed, false);
        ASSERT_TRUE(a->run(5000)) << "seed " << seed << ": " << a->what;
        ASSERT_TRUE(b->run(5000)) << "seed " << seed << ": " << b->what;
        EXPECT_EQ(a->hash, b->hash) << "seed " << seed;
    }
}
