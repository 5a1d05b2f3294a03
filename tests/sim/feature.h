/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a simulated world may have, by name, so that a failing one can be tried without it.
 *
 * What each draws has a stream of its own: without one of them the others stay as they were, as
 * far as that can be.
 */
#ifndef SIM_FEATURE_H
#define SIM_FEATURE_H

#include <cstdint>
#include <string>

namespace sim
{

#define SIM_FEATURES(X)                                                         \
    X(deadlines)   /* some requests have one */                                 \
    X(noise)       /* steps take longer or shorter than the line says */        \
    X(spells)      /* a device is slow for a while */                           \
    X(change)      /* a model becomes slower or faster */                       \
    X(sorts)       /* devices of several sorts, of different speed */           \
    X(slow)        /* one device is slower than others of its sort */           \
    X(depth)       /* devices take several steps at a time */                   \
    X(deaths)      /* workers die */                                            \
    X(poison)      /* requests kill the worker they run on */                   \
    X(stale)       /* events come late, twice, or from a worker that is dead */ \
    X(lazy)        /* actions are fetched after several events */               \
    X(failures)    /* items, steps and loads fail */                            \
    X(cancels)     /* requests are cancelled */                                 \
    X(nonsense)    /* submits that must be refused */                           \
    X(bursts)      /* many arrive at a time */                                  \
    X(gamma)       /* arrivals of CV 3 */                                       \
    X(trace)       /* recorded arrivals, where there are some */                \
    X(floods)      /* a client sends far more than its share for a while */     \
    X(weights)     /* clients have weights and limits of their own */           \
    X(classes)     /* requests of several classes */                            \
    X(keys)        /* requests of several batch keys */                         \
    X(units)       /* requests of different size */                             \
    X(pads)        /* models whose batches are padded */                        \
    X(steps)       /* models whose items take several steps */                  \
    X(parts)       /* requests that want parts, by credit */                    \
    X(prepares)    /* models that prepare */                                    \
    X(memory)      /* devices have not enough for all models */                 \
    X(item_memory) /* running items take memory */                              \
    X(reports)     /* somebody else takes device memory */                      \
    X(updates)     /* a model's limits change */                                \
    X(removals)    /* models come and go */                                     \
    X(jobs)        /* gangs and reservations */                                 \
    X(stalls)      /* a device stands still in the middle of a step */

enum Feature : uint64_t {
#define X(name) bit_of_##name,
    SIM_FEATURES(X)
#undef X
        n_features
};

using Features = uint64_t;

#define X(name) constexpr Features with_##name = UINT64_C(1) << bit_of_##name;
SIM_FEATURES(X)
#undef X

const char *feature_name(uint32_t bit);
/* Names with ',' between them; false: one is not known. */
bool parse_features(const std::string &names, Features *out);
std::string feature_names(Features features);

} // namespace sim

#endif
