/* SPDX-License-Identifier: Apache-2.0 */
#include "core/profile.h"

#define MOST_NS (UINT64_C(1) << 40)    /* 18 minutes: what is longer is taken for that */
#define MOST_UNITS (UINT64_C(1) << 34) /* likewise; so all products stay within 127 bits */
#define WEIGHT 4096                    /* of a sample, so that forgetting rounds little away */
#define MOST_SLOPE (UINT64_C(1) << 56) /* in 1/2^16 */
#define FORGET 64                      /* a sample's weight falls by a 64th with the next */
#define FORGET_NS (UINT64_C(1) << 28)  /* and by as much again in each quarter of a second */
#define PRIOR 4                        /* samples that make the line, before it is judged */
#define SETTLED 64                     /* and before what is off it is kept beside it */
#define STALL 2                        /* times what is expected: something else held it up */
#define STALLS 4                       /* in a row are none: it is slower now */
#define FACTOR_LEAST (PROFILE_ONE / 16)
#define FACTOR_MOST (PROFILE_ONE * 16)

static uint32_t profile_range(uint64_t units)
{
    if (units <= 32)
        return units == 0 ? 0 : (uint32_t)units - 1;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units);
    uint32_t range = 32 + (log - 5) * 4 + (uint32_t)(units >> (log - 2) & 3);
    return range < PROFILE_RANGES ? range : PROFILE_RANGES - 1;
}

static uint64_t scale(uint64_t value, uint64_t factor)
{
    unsigned __int128 product = (unsigned __int128)value * factor >> 16;
    return product > UINT64_MAX / 4 ? UINT64_MAX / 4 : (uint64_t)product;
}

static uint64_t line(const struct core_profile *p, uint64_t units)
{
    unsigned __int128 ns = p->base + ((unsigned __int128)p->slope * units >> 16);
    return ns == 0 ? 1 : ns > MOST_NS * 256 ? MOST_NS * 256 : (uint64_t)ns;
}

static uint64_t corrected(const struct core_profile *p, uint64_t units)
{
    uint32_t correction = p->correction[profile_range(units)];
    return correction == 0 ? line(p, units) : scale(line(p, units), correction);
}

uint64_t profile_expect(const struct core_profile *p, const struct profile_device *d,
                        uint64_t units)
{
    return profile_known(p) ? scale(corrected(p, units), d->factor) : 0;
}

uint64_t profile_bound(const struct core_profile *p, const struct profile_device *d, uint64_t now,
                       uint64_t units)
{
    uint32_t ratio = d->margin.ratio;

    if (now > d->last && now - d->last >= PROFILE_STALE)
        ratio = p->margin.ratio; /* a device may be left alone for what it was */
    else if (d->margin.samples < PROFILE_RECENT / 2 && p->margin.ratio > ratio)
        ratio = p->margin.ratio;
    return scale(profile_expect(p, d, units), ratio);
}

/* The line through what is summed up. Where all batches were of about one size there is none: the
 * line that is there is then made higher or lower. */
static void fit(struct core_profile *p)
{
    /* What forgetting rounds away may leave less than nothing, where all batches were of one size.
     */
    __int128 spread = (__int128)(p->n * p->uu) - (__int128)(p->u * p->u);

    if (p->n == 0)
        return;
    if ((__int128)(p->u * p->u / 256) < spread) {
        __int128 together = (__int128)(p->n * p->ut) - (__int128)(p->u * p->t);
        __int128 slope = 0;
        if (together > 0) /* below 2^111, as units and ns are bounded */
            slope = (together << 16) / spread;
        if (slope > (__int128)MOST_SLOPE)
            slope = MOST_SLOPE;
        __int128 base = ((__int128)(p->t << 16) - slope * (__int128)p->u) / (__int128)p->n >> 16;
        if (base < 0) {
            base = 0;
            slope = (__int128)(p->t << 16) / (__int128)p->u;
        }
        p->slope = (uint64_t)slope;
        p->base = (uint64_t)base;
        return;
    }
    unsigned __int128 said = p->base * (unsigned __int128)p->n + (p->slope * p->u >> 16);
    uint64_t ratio = said == 0 ? PROFILE_ONE : (uint64_t)((p->t << 16) / said);
    p->base = scale(p->base, ratio);
    p->slope = scale(p->slope, ratio);
}

static void forget(struct core_profile *p, uint64_t parts)
{
    p->n -= p->n * parts / FORGET;
    p->u -= p->u * parts / FORGET;
    p->uu -= p->uu * parts / FORGET;
    p->t -= p->t * parts / FORGET;
    p->ut -= p->ut * parts / FORGET;
}

static void add(struct core_profile *p, uint64_t units, uint64_t ns)
{
    p->n += WEIGHT;
    p->u += (unsigned __int128)units * WEIGHT;
    p->uu += (unsigned __int128)units * units * WEIGHT;
    p->t += (unsigned __int128)ns * WEIGHT;
    p->ut += (unsigned __int128)units * ns * WEIGHT;
}

/* A number so near the one before that only rounding tells them apart is taken for it. */
static uint32_t ratio_of(uint64_t observed, uint64_t expected)
{
    if (expected == 0)
        expected = 1;
    if (observed > expected && observed - expected <= expected >> 16)
        observed = expected;
    unsigned __int128 ratio = (((unsigned __int128)observed << 16) + expected - 1) / expected;
    return ratio > 64 * PROFILE_ONE ? 64 * PROFILE_ONE : (uint32_t)ratio;
}

/* One more, by a counter that never comes back to few. */
static uint32_t count(uint32_t samples)
{
    return samples < UINT32_MAX ? samples + 1 : UINT32_MAX - PROFILE_RECENT + 1;
}

static void remember(struct profile_margin *m, uint32_t ratio)
{
    uint32_t most = 0, second = 0;

    m->recent[m->samples % PROFILE_RECENT] = ratio;
    m->samples = count(m->samples);
    for (uint32_t i = 0; i < PROFILE_RECENT; i++) {
        if (m->recent[i] >= most) {
            second = most;
            most = m->recent[i];
        } else if (m->recent[i] > second) {
            second = m->recent[i];
        }
    }
    /* With few of them, the largest. */
    m->ratio = m->samples <= PROFILE_RECENT / 2 ? most : second;
    if (m->ratio < PROFILE_ONE)
        m->ratio = PROFILE_ONE;
    /* Whoever allows for a stall refuses all those that would not have met one. */
    if (m->ratio > STALL * PROFILE_ONE)
        m->ratio = STALL * PROFILE_ONE;
}

/* 1 for a ratio that is not off by more than a so-manieth. */
static uint32_t outside(uint32_t ratio, uint32_t part)
{
    uint32_t least = PROFILE_ONE - PROFILE_ONE / part, most = PROFILE_ONE + PROFILE_ONE / part;
    return ratio >= least && ratio <= most ? PROFILE_ONE : ratio;
}

/* By a so-manieth of the way, and at the end all of it. */
static uint32_t towards(uint32_t value, uint32_t target, uint32_t part)
{
    int64_t way = (int64_t)target - (int64_t)value, step = way / (int64_t)part;
    int64_t changed = (int64_t)value + (step == 0 ? way : step);

    return changed < (int64_t)FACTOR_LEAST  ? FACTOR_LEAST
           : changed > (int64_t)FACTOR_MOST ? FACTOR_MOST
                                            : (uint32_t)changed;
}

void profile_device_init(struct profile_device *d)
{
    *d = (struct profile_device){.factor = PROFILE_ONE, .margin.ratio = PROFILE_ONE};
}

/* The first sample of a device for long: what was known of it is not how it is now, and if it took
 * less than half of what it was expected to, that is believed at once. */
static void seen_again(struct profile_device *d, uint64_t expected, uint64_t ns)
{
    d->margin = (struct profile_margin){.ratio = PROFILE_ONE};
    if (d->factor > PROFILE_ONE && ns < expected / 2) {
        uint64_t factor = d->factor * ((ns << 16) / expected) >> 16;
        d->factor = factor > PROFILE_ONE ? (uint32_t)factor : PROFILE_ONE;
    }
}

/* Of what a batch took, so much is the batch's. Among those of milliseconds one of a hundred (a
 * page read, a process that was not run) would tilt the line through the last few dozen, and
 * whoever comes would be told for a second that it takes twice as long. */
static uint64_t without_stall(struct profile_device *d, uint64_t expected, uint64_t ns)
{
    if (ns / STALL <= expected) {
        d->stalls = 0;
        return ns;
    }
    if (d->stalls < STALLS)
        d->stalls++;
    return d->stalls < STALLS ? STALL * expected : ns;
}

void profile_refresh(struct core_profile *p, struct profile_device *d, uint64_t now, uint64_t units,
                     uint64_t ns)
{
    uint64_t expected = profile_expect(p, d, units);

    if (ns == 0 || ns >= profile_bound(p, d, now, units) / 2)
        return;
    p->margin = d->margin = (struct profile_margin){.ratio = PROFILE_ONE};
    if (ns >= expected / 2)
        return;
    uint64_t ratio = (ns << 16) / expected;
    /* The device's own slowness goes first. */
    if (d->factor > PROFILE_ONE) {
        uint64_t factor = d->factor * ratio >> 16;
        d->factor = factor > PROFILE_ONE ? (uint32_t)factor : PROFILE_ONE;
        ratio = factor > PROFILE_ONE ? PROFILE_ONE : factor;
    }
    p->base = scale(p->base, ratio);
    p->slope = scale(p->slope, ratio);
    p->t = p->t * ratio >> 16;
    p->ut = p->ut * ratio >> 16;
}

void profile_learn(struct core_profile *p, struct profile_device *d, uint64_t now, uint64_t units,
                   uint64_t ns)
{
    if (units == 0 || ns == 0)
        return;
    if (units > MOST_UNITS)
        units = MOST_UNITS;
    if (ns > MOST_NS)
        ns = MOST_NS;
    if (p->samples == 0) {
        *p = (struct core_profile){.samples = 1, .last = now, .margin.ratio = PROFILE_ONE};
        p->base = ns / 2;
        p->slope = ((ns - ns / 2) << 16) / units;
        profile_device_init(d);
        add(p, units, ns);
        return;
    }
    if (d->margin.samples > 0 && now > d->last && now - d->last >= PROFILE_STALE)
        seen_again(d, profile_expect(p, d, units), ns);
    /* What a prior expects says nothing of how reliable the times are. */
    if (p->samples >= PRIOR) {
        uint64_t expected = profile_expect(p, d, units);
        uint32_t ratio = ratio_of(ns, expected);
        remember(&p->margin, ratio);
        remember(&d->margin, ratio);
        ns = without_stall(d, expected, ns);
    }

    /* The device's own speed is told from the line by how far off it is: what is near belongs to
     * the line, else the two would chase each other. */
    if (p->samples >= PRIOR)
        d->factor = towards(d->factor, outside(ratio_of(ns, corrected(p, units)), 8),
                            d->stalls < STALLS ? 16 : 2);
    uint64_t at_par = (ns << 16) / d->factor;
    uint32_t *correction = &p->correction[profile_range(units)];
    if (p->samples >= SETTLED)
        *correction = towards(*correction == 0 ? PROFILE_ONE : *correction,
                              outside(ratio_of(at_par, line(p, units)), 32), 8);
    uint64_t age = (now - p->last) / FORGET_NS;
    forget(p, 1 + (age < FORGET / 2 ? age : FORGET / 2));
    add(p, units, at_par);
    fit(p);
    p->last = now;
    d->last = now;
    p->samples = count(p->samples);
}
