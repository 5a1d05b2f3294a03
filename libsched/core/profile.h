/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a batch of a model costs on devices of a sort, learnt from those that ran.
 *
 * The expected time is a line, base + slope · units, by least squares in which a sample's weight
 * halves with every 44 that follow it (or every few seconds); times a correction for each range of
 * units, since real devices don't keep to a line; times a factor for each device, which follows a
 * slow spell within some ten batches. Beside it the ratio of what was observed to what was
 * expected is kept of the last batches of each device, and its second largest is taken for the 98th
 * percentile: that makes the time that is counted on. A device of which little is known yet is
 * taken to be no more reliable than the others of its sort.
 *
 * What was seen of a device seconds ago says nothing of how reliable it is now. And where nobody
 * was let through any more, as all would have been late, one is now and then: it may have become
 * faster.
 *
 * The first sample is a prior: half of it for the batch, half for its units; from the second of
 * another size on there is a line. All in integers: ns, and fractions of 2^16.
 */
#ifndef CORE_PROFILE_H
#define CORE_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#define PROFILE_ONE (UINT32_C(1) << 16)
#define PROFILE_RANGES 168 /* of units, each 1.19 times the one before; one by one up to 32 */
#define PROFILE_RECENT 64
#define PROFILE_STALE (UINT64_C(1) << 31) /* ns without a sample: what is known may be wrong */
/* Of a model none of whose requests could be in time as far as is known, one is let through after
 * so many times what it would take, but not sooner than that, nor later than PROFILE_STALE. */
#define PROFILE_TRY_EVERY 32
#define PROFILE_TRY_LEAST (UINT64_C(1) << 24) /* ns */

/* How far times were off. */
struct profile_margin {
    uint32_t samples; /* saturates */
    uint32_t ratio;   /* the second largest of the last ones, but 2 at most, in 1/2^16 */
    uint32_t recent[PROFILE_RECENT]; /* observed / expected */
};

/* What is known of one device beside its sort. */
struct profile_device {
    uint32_t factor; /* what it takes beside what the profile says, in 1/2^16 */
    uint32_t stalls; /* its last samples, of those that took far longer than expected */
    uint64_t last;   /* when its last sample was taken */
    struct profile_margin margin;
};

struct core_profile {
    uint32_t samples; /* saturates */
    uint64_t base;    /* ns */
    uint64_t slope;   /* ns of a unit, in 1/2^16 */
    uint64_t last;    /* when the last sample was taken */
    /* Sums with weights: of 1, u, u², t, u·t. */
    uint64_t n;
    unsigned __int128 u, uu, t, ut;
    uint32_t correction[PROFILE_RANGES]; /* in 1/2^16; 0: not known */
    struct profile_margin margin;        /* of all devices */
};

/* Whether it says anything. */
static inline bool profile_known(const struct core_profile *p)
{
    return p->samples > 0;
}

/* A device of which nothing is known yet. */
void profile_device_init(struct profile_device *d);

/* A batch of so many units took so long on that device. */
void profile_learn(struct core_profile *p, struct profile_device *d, uint64_t now, uint64_t units,
                   uint64_t ns);

/* The same, said before, of one that was let through to see whether what is known still holds: if
 * it took less than half of what was counted on, that is believed at once. */
void profile_refresh(struct core_profile *p, struct profile_device *d, uint64_t now, uint64_t units,
                     uint64_t ns);

/* What it takes, as expected; and the time that it will not exceed but rarely. 0 where nothing is
 * known. */
uint64_t profile_expect(const struct core_profile *p, const struct profile_device *d,
                        uint64_t units);
uint64_t profile_bound(const struct core_profile *p, const struct profile_device *d, uint64_t now,
                       uint64_t units);

#endif
