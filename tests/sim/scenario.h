/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A world, as a seed decides: its devices, models and clients, what befalls them, and what may be
 * expected in it.
 */
#ifndef SIM_SCENARIO_H
#define SIM_SCENARIO_H

#include <cstdint>
#include <string>
#include <vector>

#include "core/core.h"
#include "sim/arrivals.h"
#include "sim/feature.h"

namespace sim
{

/* What a world is made to show. */
enum class Profile {
    exact,    /* batches take what the line says: nobody who is dispatched is late */
    bound,    /* the same with one model: never more are served than can be */
    soft,     /* no deadlines: nobody is dropped, no device idle beside work, everybody served */
    fair,     /* clients that always have work: each gets its share */
    sessions, /* items of several steps beside others */
    memory,   /* more models than there is memory for */
    gangs,    /* jobs beside requests */
    chaos,    /* whatever there is */
};
constexpr uint32_t n_profiles = 8;
const char *profile_name(Profile profile);

struct ModelSpec {
    core_model config = {};
    uint64_t alpha_ns = 0, beta_ns = 0; /* what a step takes: alpha for each unit, and beta */
    uint64_t slo_ns = 0;
    uint32_t hard_percent = 0;
    uint64_t most_units = 1;
    uint32_t most_parts = 1; /* or steps */
    uint64_t load_ns = 0;
};

struct DeviceSpec {
    core_device config = {};
    uint32_t speed_percent = 100; /* of what a step takes */
};

struct ClientSpec {
    uint64_t key = 0;
    uint32_t weight = 0, limit = 0;
};

/* Requests of one client for one model, in one class. */
struct Source {
    uint32_t client = 0, model = 0, priority = 0;
    uint64_t gap_ns = 0;
    bool closed = false; /* as many as `backlog` all the time, but for pauses */
    uint32_t backlog = 0;
    bool floods = false;
    bool quiet = false; /* of little work beside those who flood: is not to notice them */
};

struct Limits {
    uint32_t devices = UINT32_MAX, models = UINT32_MAX, clients = UINT32_MAX;
};

struct Scenario {
    uint64_t seed = 0;
    Profile profile = Profile::chaos;
    Features features = 0;
    core_config config = {};
    std::vector<DeviceSpec> devices; /* prepare devices last */
    std::vector<ModelSpec> models;
    std::vector<ClientSpec> clients;
    std::vector<Source> sources;
    uint32_t load_percent = 0; /* of what the devices bear */
    uint32_t deaths_permille = 0, lazy_percent = 0;
    bool random_deadlines = false;

    bool has(Features f) const
    {
        return (features & f) != 0;
    }
    /* Whether steps take exactly what can be learnt of them. */
    bool exact() const
    {
        return !has(with_noise | with_spells | with_deaths | with_failures | with_poison);
    }
    /* Whether nothing befalls the workers. */
    bool calm() const
    {
        return !has(with_deaths | with_failures | with_poison | with_removals | with_reports |
                    with_updates);
    }
};

Scenario make_scenario(uint64_t seed, const Profile *profile, Features without,
                       const Limits &limits);

} // namespace sim

#endif
