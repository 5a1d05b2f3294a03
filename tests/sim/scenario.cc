/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/scenario.h"

#include <algorithm>

#include "sim/random.h"

namespace sim
{

namespace
{

constexpr uint64_t us = 1000, ms = 1000 * us;

/* What a profile has always, and what it may have. */
struct Has {
    Features always, maybe;
};

constexpr Features arrivals = with_bursts | with_gamma | with_trace;
constexpr Features people = with_classes | with_weights | with_floods;

const Has has[n_profiles] = {
    /* exact */
    {with_deadlines, arrivals | with_keys | with_units | with_change | with_cancels | with_sorts |
                         with_pads | with_nonsense | with_stale | with_depth | with_stalls},
    /* bound */
    {with_deadlines, with_depth | with_bursts | with_gamma | with_stalls},
    /* soft */
    {0, arrivals | people | with_keys | with_units | with_noise | with_spells | with_sorts |
            with_slow | with_depth | with_cancels | with_pads | with_nonsense | with_stale |
            with_prepares},
    /* fair */
    {with_weights, with_depth | with_classes | with_keys | with_units | with_noise | with_floods},
    /* sessions */
    {with_steps, with_jobs | with_parts | with_deadlines | with_units | with_noise | with_cancels |
                     with_item_memory | with_depth | with_stale | with_classes | with_lazy},
    /* memory */
    {with_memory, with_depth | with_jobs | arrivals | with_deadlines | with_units | with_noise |
                      with_cancels | with_item_memory | with_deaths | with_prepares | with_reports |
                      with_failures | with_lazy | with_stale},
    /* gangs */
    {with_jobs, with_depth | with_deadlines | with_noise | with_classes | with_weights |
                    with_memory | with_deaths | with_cancels | with_stale | with_lazy | with_units |
                    with_steps},
    /* chaos */
    {0, ~UINT64_C(0)},
};

/* Between two numbers, as likely within each doubling. */
uint64_t spread(Random &random, uint64_t low, uint64_t high)
{
    uint32_t doublings = 0;
    while (low << doublings < high)
        doublings++;
    uint64_t begin = low << random.below(doublings == 0 ? 1 : doublings);
    return std::min(high, random.between(begin, 2 * begin));
}

/* Those with jobs more often than others. */
Profile draw_profile(uint64_t seed)
{
    uint64_t which = Random(seed, 1).below(n_profiles + 3);
    return which < n_profiles ? static_cast<Profile>(which) : Profile::gangs;
}

Features draw_features(uint64_t seed, Profile profile)
{
    const Has &h = has[static_cast<uint32_t>(profile)];
    Features features = h.always;
    Random random(seed, 2);
    uint64_t percent = random.below(3) == 0 ? 15 : 45;
    /* Of jobs most can be said where little else happens. */
    Features maybe = h.maybe;
    if (profile == Profile::gangs && random.percent(40))
        maybe &= with_classes | with_weights | with_cancels | with_stale | with_units;
    for (uint32_t bit = 0; bit < n_features; bit++)
        if ((maybe >> bit & 1) != 0 && random.percent(percent))
            features |= UINT64_C(1) << bit;
    return features;
}

void draw_devices(Scenario *s, const Limits &limits)
{
    Random random(s->seed, 3);
    uint32_t n = s->profile == Profile::bound ? (random.percent(60) ? 1 : 2)
                                              : static_cast<uint32_t>(1 + random.below(5));
    if (s->has(with_jobs))
        n += 2;
    n = std::min(n, std::max(1u, limits.devices));
    for (uint32_t i = 0; i < n; i++) {
        DeviceSpec d;
        Random own(s->seed, 100 + i);
        d.config.kind = CORE_COMPUTE;
        uint64_t sort = own.below(2), speed = 60 + own.below(200), slow = 110 + own.below(250);
        uint64_t depth = 1 + own.below(3);
        if (s->has(with_sorts)) {
            d.config.sort = static_cast<uint32_t>(sort);
            if (sort == 1)
                d.speed_percent = static_cast<uint32_t>(60 + Random(s->seed, 4).below(200));
        } else if (s->has(with_slow) && i == 0 && n > 1) {
            d.speed_percent = static_cast<uint32_t>(slow);
        }
        (void)speed;
        d.config.depth = s->has(with_depth) ? static_cast<uint32_t>(depth) : 0;
        if (s->has(with_depth) && own.percent(50))
            d.config.lead_ns = own.below(2000000);
        s->devices.push_back(d);
    }
    uint32_t prepares = s->has(with_prepares) ? static_cast<uint32_t>(1 + random.below(2)) : 0;
    for (uint32_t i = 0; i < prepares; i++) {
        DeviceSpec d;
        d.config.kind = CORE_PREPARE;
        s->devices.push_back(d);
    }
}

uint64_t compute_mask(const Scenario &s)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < s.devices.size(); i++)
        if (s.devices[i].config.kind == CORE_COMPUTE)
            mask |= UINT64_C(1) << i;
    return mask;
}

ModelSpec draw_model(const Scenario &s, uint32_t index)
{
    Random random(s.seed, 200 + index);
    ModelSpec m;
    bool steps = random.percent(60), pads = random.percent(40), prepares = random.percent(50);
    bool repeatable = random.percent(50), subset = random.percent(25);
    m.config.max_batch_requests = static_cast<uint32_t>(spread(random, 1, 64));
    if (s.profile == Profile::bound && random.percent(50))
        m.config.max_batch_requests = CORE_MAX_BATCH;
    m.most_units = s.has(with_units) ? spread(random, 2, 100) : 1;
    m.config.max_batch_units =
        random.percent(50) ? m.config.max_batch_requests * m.most_units
                           : spread(random, 1, m.config.max_batch_requests * m.most_units + 1);
    m.config.max_request_units = m.most_units;
    m.config.max_prepare_requests = static_cast<uint32_t>(1 + random.below(16));
    m.config.queue_limit = static_cast<uint32_t>(spread(random, 4, 2000));
    m.config.devices = compute_mask(s);
    if (subset && s.profile == Profile::chaos) {
        uint64_t mask = random.next() & m.config.devices;
        if (mask != 0)
            m.config.devices = mask;
    }
    m.beta_ns = spread(random, 100 * us, 10 * ms);
    m.alpha_ns = m.beta_ns / spread(random, 2, 64) / ((m.most_units + 1) / 2) + 1;
    m.slo_ns = (m.beta_ns + m.alpha_ns * m.most_units) * spread(random, 20, 300) / 10;
    m.hard_percent = s.has(with_deadlines)
                         ? (random.percent(60) ? 100 : static_cast<uint32_t>(random.below(100)))
                         : 0;
    m.load_ns = spread(random, 1 * ms, 500 * ms);
    m.most_parts = static_cast<uint32_t>(1 + random.below(8));
    uint64_t memory = 100 + random.below(1000), per_unit = 1 + random.below(4);
    m.config.memory_bytes = s.has(with_memory | with_jobs) ? memory : 0;
    m.config.memory_per_unit = s.has(with_item_memory) && random.percent(70) ? per_unit : 0;
    if (s.has(with_steps) && steps)
        m.config.flags |= CORE_MODEL_STEPS;
    else if (s.has(with_pads) && pads)
        m.config.flags |= CORE_MODEL_PADS;
    if (s.has(with_prepares) && prepares)
        m.config.flags |= CORE_MODEL_PREPARES;
    if (repeatable)
        m.config.flags |= CORE_MODEL_REPEATABLE;
    return m;
}

void draw_models(Scenario *s, const Limits &limits)
{
    Random random(s->seed, 5);
    uint64_t n = 1 + random.below(s->profile == Profile::memory ? 10 : 6);
    if (s->profile == Profile::bound)
        n = 1;
    if (s->profile == Profile::fair)
        n = 1 + random.below(3);
    n = std::min<uint64_t>(n, std::max(1u, limits.models));
    for (uint32_t i = 0; i < n; i++)
        s->models.push_back(draw_model(*s, i));
    if (s->profile == Profile::sessions)
        s->models[0].config.flags = (s->models[0].config.flags | CORE_MODEL_STEPS) &
                                    ~static_cast<uint32_t>(CORE_MODEL_PADS);
    /* Memory for the largest model, and some more. */
    uint64_t largest = 0, sum = 0, items = 0;
    for (const ModelSpec &m : s->models) {
        largest = std::max(largest, m.config.memory_bytes);
        sum += m.config.memory_bytes;
        items = std::max(items, m.config.memory_per_unit * m.most_units);
    }
    for (DeviceSpec &d : s->devices) {
        if (d.config.kind != CORE_COMPUTE)
            continue;
        uint64_t room = largest + items * (1 + random.below(8));
        if (s->has(with_memory))
            d.config.memory_bytes = room + random.below(std::max<uint64_t>(1, sum));
        else if (s->has(with_item_memory | with_jobs))
            d.config.memory_bytes = sum + room;
    }
}

void draw_clients(Scenario *s, const Limits &limits)
{
    Random random(s->seed, 6);
    uint64_t n = s->profile == Profile::exact || s->profile == Profile::bound
                     ? 1
                     : 1 + random.below(s->profile == Profile::fair ? 4 : 10);
    if (s->profile == Profile::fair)
        n++;
    n = std::min<uint64_t>(n, std::max(1u, limits.clients));
    for (uint32_t i = 0; i < n; i++) {
        Random own(s->seed, 300 + i);
        ClientSpec c;
        c.key = own.next() >> own.below(56);
        uint64_t weight = 1 + own.below(5), limit = 1 + own.below(64);
        if (s->has(with_weights)) {
            c.weight = static_cast<uint32_t>(weight);
            if (s->profile == Profile::chaos && own.percent(30))
                c.limit = static_cast<uint32_t>(limit);
        }
        s->clients.push_back(c);
    }
    /* A key that comes twice would be one client. */
    for (uint32_t i = 0; i < n; i++)
        s->clients[i].key = s->clients[i].key * 64 + i;
}

/* What the devices bear of a model, in requests a second, all of them running nothing else. */
uint64_t bearable(const Scenario &s, const ModelSpec &m)
{
    uint64_t mean = (m.most_units + 1) / 2, per_second = 0;
    uint64_t n = std::max<uint64_t>(
        1, std::min<uint64_t>(m.config.max_batch_requests, m.config.max_batch_units / mean));
    if (m.hard_percent > 0 && m.slo_ns > m.beta_ns)
        n = std::min(n, std::max<uint64_t>(1, (m.slo_ns - m.beta_ns) / (m.alpha_ns * mean)));
    uint64_t ns = m.beta_ns + m.alpha_ns * mean * n;
    if ((m.config.flags & CORE_MODEL_STEPS) != 0)
        ns *= (m.most_parts + 1) / 2;
    for (const DeviceSpec &d : s.devices)
        if (d.config.kind == CORE_COMPUTE)
            per_second += UINT64_C(1000000000) * n * 100 / (ns * d.speed_percent);
    return std::max<uint64_t>(1, per_second);
}

void draw_sources(Scenario *s)
{
    Random random(s->seed, 7);
    uint64_t parts = 0;
    s->load_percent = static_cast<uint32_t>(spread(random, 10, 300));
    for (uint32_t c = 0; c < s->clients.size(); c++) {
        for (uint32_t m = 0; m < s->models.size(); m++) {
            Random own(s->seed, 1000 + c * 64 + m);
            Source source;
            source.client = c;
            source.model = m;
            uint64_t priority = own.below(CORE_PRIORITIES), weight = spread(own, 1, 50);
            source.priority = s->has(with_classes) ? static_cast<uint32_t>(priority) : 0;
            source.floods = s->has(with_floods) && own.percent(25);
            source.gap_ns = weight;
            parts += weight;
            s->sources.push_back(source);
        }
    }
    /* A part's share of the load, as a gap. */
    for (Source &source : s->sources) {
        uint64_t rate = bearable(*s, s->models[source.model]);
        __extension__ typedef unsigned __int128 uint128;
        source.gap_ns =
            static_cast<uint64_t>(static_cast<uint128>(UINT64_C(1000000000)) * 100 * parts /
                                  (static_cast<uint128>(rate) * s->load_percent * source.gap_ns));
        source.gap_ns = std::max<uint64_t>(source.gap_ns, 100);
    }
    if (s->profile != Profile::fair)
        return;
    /* One class for each client, or one for all; as much work as makes a batch twice over. With
     * floods the last client has little to do, and is not to notice the others. */
    bool own_class = s->has(with_classes);
    uint64_t devices = s->devices.size();
    for (Source &source : s->sources) {
        const ModelSpec &m = s->models[source.model];
        source.closed = true;
        source.floods = false;
        source.priority = own_class ? source.client % CORE_PRIORITIES : 0;
        source.backlog = static_cast<uint32_t>((devices + 1) * m.config.max_batch_requests + 2);
        if (s->has(with_floods) && source.client + 1 == s->clients.size() &&
            s->clients.size() > 1) {
            source.closed = false;
            source.quiet = true;
            source.gap_ns = 20 * s->sources.size() *
                            (m.beta_ns + m.alpha_ns * m.most_units * m.config.max_batch_requests);
        }
    }
    uint64_t waiting = 0;
    for (const Source &source : s->sources)
        waiting += source.backlog;
    for (ModelSpec &m : s->models)
        m.config.queue_limit = static_cast<uint32_t>(waiting + 4096);
}

void draw_config(Scenario *s)
{
    Random random(s->seed, 8);
    core_config &c = s->config;
    c.max_requests = static_cast<uint32_t>(spread(random, 64, 4096));
    uint64_t clients = random.below(12), strikes = 1 + random.below(3);
    uint64_t client_limit = spread(random, 4, 512);
    c.max_clients = static_cast<uint32_t>(s->clients.size()) + 2;
    if (s->profile == Profile::chaos && random.percent(30))
        c.max_clients = static_cast<uint32_t>(clients);
    c.max_strikes = random.percent(60) ? 0 : static_cast<uint32_t>(strikes);
    if (s->profile != Profile::fair && random.percent(25))
        c.max_client_requests = static_cast<uint32_t>(client_limit);
    if (s->has(with_classes) && random.percent(50))
        for (uint32_t &share : c.class_shares)
            share = static_cast<uint32_t>(random.below(200));
    if (s->profile == Profile::fair) {
        c.max_requests = 1u << 14;
        /* So that who has what is a question of shares alone. */
        for (uint32_t &share : c.class_shares)
            share = static_cast<uint32_t>(20 + random.below(180));
    }
    if (s->has(with_jobs)) {
        Random own(s->seed, 9);
        c.max_jobs = static_cast<uint32_t>(1 + own.below(24));
        c.job_share = own.percent(50) ? 0 : static_cast<uint32_t>(own.between(64, 1024));
    }
    s->deaths_permille = static_cast<uint32_t>(spread(random, 1, 60));
    s->lazy_percent = static_cast<uint32_t>(5 + random.below(60));
    s->random_deadlines = random.percent(30);
}

} // namespace

const char *profile_name(Profile profile)
{
    static const char *const names[n_profiles] = {"exact",    "bound",  "soft",  "fair",
                                                  "sessions", "memory", "gangs", "chaos"};
    return names[static_cast<uint32_t>(profile)];
}

Scenario make_scenario(uint64_t seed, const Profile *profile, Features without,
                       const Limits &limits)
{
    Scenario s;
    s.seed = seed;
    s.profile = profile != nullptr ? *profile : draw_profile(seed);
    s.features = draw_features(seed, s.profile) & ~without;
    draw_devices(&s, limits);
    draw_models(&s, limits);
    draw_clients(&s, limits);
    draw_config(&s);
    draw_sources(&s);
    return s;
}

} // namespace sim
