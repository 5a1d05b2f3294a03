/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that a seed decides (SplitMix64). What is drawn for one purpose has a stream of its own,
 * so that switching something off leaves the rest of a run as it was.
 */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <cstdint>

namespace sim
{

class Random
{
  public:
    explicit Random(uint64_t seed = 0, uint64_t stream = 0)
        : state(mix(seed + 0x632BE59BD9B4E019u) ^ mix(stream * 0x9E3779B97F4A7C15u + 1))
    {
    }

    uint64_t next()
    {
        state += 0x9E3779B97F4A7C15u;
        return mix(state);
    }
    /* 0 .. n - 1 */
    uint64_t below(uint64_t n)
    {
        return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * n) >> 64);
    }
    /* first .. last */
    uint64_t between(uint64_t first, uint64_t last)
    {
        return first + below(last - first + 1);
    }
    bool chance(uint64_t part, uint64_t of)
    {
        return below(of) < part;
    }
    bool percent(uint64_t part)
    {
        return chance(part, 100);
    }

  private:
    static uint64_t mix(uint64_t z)
    {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

    uint64_t state;
};

} // namespace sim

#endif
