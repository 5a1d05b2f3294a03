/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Those who watch what the core makes of its freedom: each is told what happens and complains.
 *
 *   Timeliness  nobody who is dispatched is late, nobody is given up who could be served
 *   Idleness    no device is idle beside work that it could do
 *   Fairness    clients and classes that always have work get their shares; a quiet one does not
 *               notice the others
 *   Turns       a long session lets others in between, nobody waits for ever
 */
#ifndef SIM_WATCH_H
#define SIM_WATCH_H

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/worker.h"
#include "sim/world.h"

namespace sim
{

using Workers = std::vector<std::unique_ptr<Worker>>;

class Watch
{
  public:
    virtual ~Watch() = default;
    /* Whatever became of it; `r` is nullptr where it was refused. */
    virtual void submitted(const core_submit &, int /* status */, Request * /* r */)
    {
    }
    virtual void given(const StepSeen &)
    {
    }
    virtual void replied(const Request &, int /* status */)
    {
    }
    /* The core has nothing left to say. */
    virtual void settled()
    {
    }
    /* The run is over, everybody was answered. */
    virtual void over()
    {
    }
};

std::unique_ptr<Watch> watch_timeliness(World &world, const Workers &workers);
std::unique_ptr<Watch> watch_idleness(World &world, const Workers &workers);
std::unique_ptr<Watch> watch_fairness(World &world, const Workers &workers);
std::unique_ptr<Watch> watch_turns(World &world, const Workers &workers);

} // namespace sim

#endif
