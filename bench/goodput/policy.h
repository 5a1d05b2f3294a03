/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small interface behind which the policies that are compared stand: requests come, batches
 * end, a timer fires; a policy dispatches and drops.
 */
#ifndef GOODPUT_POLICY_H
#define GOODPUT_POLICY_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/cost.h"

namespace goodput
{

using sim::Cost;

enum class Outcome : uint8_t { waiting, running, in_time, late, dropped };

struct Request {
    uint64_t at, deadline;
    uint64_t units;
    uint32_t model;
    uint32_t device = 0;
    uint64_t dispatched = 0, end = 0;
    uint64_t batch = 0;
    Outcome outcome = Outcome::waiting;
};

/* What a policy sees and may do. Requests are named by their place in `requests`. */
class World
{
  public:
    virtual ~World() = default;
    virtual void dispatch(uint32_t device, const uint32_t *ids, uint32_t n) = 0;
    virtual void drop(uint32_t id) = 0;

    uint64_t now = 0, slo = 0;
    uint32_t devices = 0, models = 0;
    Cost cost = {};
    std::vector<Request> requests;
};

class Policy
{
  public:
    virtual ~Policy() = default;
    /* So many batches of a device it may have under way, the second behind the first. */
    virtual uint32_t depth() const
    {
        return 1;
    }
    virtual void arrive(World &world, uint32_t id) = 0;
    virtual void end(World &world, uint32_t device, const std::vector<uint32_t> &ids,
                     uint64_t began) = 0;
    /* After all that happens at one time. Answers when it wants to be asked again at the latest. */
    virtual uint64_t decide(World &world) = 0;
};

/* "default" (the core), "ahead" (the core that gives the next batch before the one under way has
 * ended, as sched-port has it), "eager", "timeout" and "window". The timeout policy has settings:
 * so many parts of a thousand of the largest batch, and of the deadline. */
struct PolicyName {
    std::string name;
    uint32_t size_permille = 0, wait_permille = 0;

    /* A baseline otherwise. */
    bool core() const
    {
        return name == "default" || name == "ahead";
    }
};

std::unique_ptr<Policy> make_policy(const PolicyName &name, const World &world);
std::unique_ptr<Policy> make_core_policy(const World &world, bool ahead);

/* The timeout policy is given the best of these. */
extern const std::vector<PolicyName> timeout_settings;

} // namespace goodput

#endif
