/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs that take several devices at once, and reservations: who submits them, and what is to hold
 * of them. */
#ifndef SIM_GANGS_H
#define SIM_GANGS_H

#include <memory>

#include "sim/watch.h"

namespace sim
{

class Gangs
{
  public:
    virtual ~Gangs() = default;
    virtual void begin() = 0;
    virtual void happen(const Happening &h) = 0;
    virtual void action(const core_action &action) = 0;
    /* A device is given a step of requests. */
    virtual void given(const StepSeen &step) = 0;
    /* A worker is no more, and the core was told. */
    virtual void lost(uint32_t device) = 0;
    /* Whether a job is reason enough to end a worker. */
    virtual bool may_kill(uint32_t device) const = 0;
    /* A worker may come up, if its device is not somebody else's. */
    virtual void comes_up(uint32_t device) = 0;
    virtual void settled() = 0;
    /* From now on all jobs end by themselves. */
    virtual void behave() = 0;
    virtual bool idle() const = 0;
};

std::unique_ptr<Gangs> make_gangs(World &world, const Workers &workers);

} // namespace sim

#endif
