/* SPDX-License-Identifier: Apache-2.0 */
/* What the core decided, in a file if one is wanted, and as one number that runs are compared by:
 * the same seed gives the same, to the byte, however the program was compiled. */
#ifndef SIM_DECISION_LOG_H
#define SIM_DECISION_LOG_H

#include <cstdint>
#include <cstdio>

#include "core/core.h"

namespace sim
{

class DecisionLog
{
  public:
    /* `file` stays the caller's; nullptr: the number alone. */
    explicit DecisionLog(FILE *file_) : file(file_)
    {
    }
    void action(uint64_t now, const core_action &action);
    void event(uint64_t now, const core_event &event, int status);
    uint64_t hash() const
    {
        return sum;
    }

  private:
    void mix(uint64_t value)
    {
        sum = (sum ^ value) * 0x9E3779B97F4A7C15u;
        sum ^= sum >> 29;
    }

    FILE *file;
    uint64_t sum = 14695981039346656037u;
};

} // namespace sim

#endif
