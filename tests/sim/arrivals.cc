/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/arrivals.h"

#include <algorithm>

#include "sim/fixed.h"

namespace sim
{

namespace
{

__extension__ typedef unsigned __int128 uint128;

constexpr fixed e = 11674931555; /* in 1/2^32 */

/* 1/2^32 .. 1, each as likely. */
fixed uniform(Random &random)
{
    return static_cast<fixed>(random.next() >> 32) + 1;
}

/* Of mean 1. */
fixed exponential(Random &random)
{
    return -fixed_ln(uniform(random));
}

uint64_t times(uint64_t ns, fixed factor)
{
    return static_cast<uint64_t>(static_cast<uint128>(ns) * static_cast<uint64_t>(factor) >> 32);
}

/* Gamma distributed with a shape below 1, its mean being the shape (GS of Ahrens and Dieter,
 * Computing 12, 1974). */
fixed gamma_below_one(Random &random, fixed shape)
{
    const fixed b = fixed_divide(e + shape, e);
    for (;;) {
        fixed p = fixed_multiply(b, uniform(random));
        if (p <= fixed_one) {
            fixed power =
                fixed_log2(static_cast<uint64_t>(p < 1 ? 1 : p)) - (static_cast<fixed>(32) << 32);
            /* A number that is too small to be told is 0. */
            fixed exponent = power / shape < -64 ? -64 * fixed_one : fixed_divide(power, shape);
            fixed x = fixed_exp2(exponent);
            if (exponential(random) >= x)
                return x;
        } else {
            fixed x = -fixed_ln(fixed_divide(b - p < 1 ? 1 : b - p, shape));
            if (x <= 0)
                continue;
            /* Accepted with probability x^(shape - 1). */
            if (exponential(random) >= fixed_multiply(fixed_one - shape, fixed_ln(x)))
                return x;
        }
    }
}

class PoissonGaps : public Gaps
{
  public:
    explicit PoissonGaps(uint64_t mean_ns) : mean(mean_ns)
    {
    }
    uint64_t next(Random &random) override
    {
        return times(mean, exponential(random));
    }

  private:
    uint64_t mean;
};

class GammaGaps : public Gaps
{
  public:
    GammaGaps(uint64_t mean_ns, uint32_t cv_percent)
    {
        uint64_t square = static_cast<uint64_t>(cv_percent) * cv_percent;
        if (square == 0)
            square = 1;
        /* shape = 1 / cv² = whole + part; scale = mean · cv² */
        whole = static_cast<uint32_t>(10000 / square);
        part = static_cast<fixed>((static_cast<uint128>(10000 % square) << 32) / square);
        scale = static_cast<uint64_t>(static_cast<uint128>(mean_ns) * square / 10000);
    }
    uint64_t next(Random &random) override
    {
        fixed sum = part > 0 ? gamma_below_one(random, part) : 0;
        for (uint32_t i = 0; i < whole; i++)
            sum += exponential(random);
        return times(scale, sum);
    }

  private:
    uint32_t whole;
    fixed part;
    uint64_t scale;
};

class BurstGaps : public Gaps
{
  public:
    BurstGaps(uint64_t mean_ns, uint32_t size_, uint64_t spread_ns)
        : mean(mean_ns), size(size_ == 0 ? 1 : size_), spread(spread_ns)
    {
    }
    uint64_t next(Random &random) override
    {
        if (left > 0) {
            left--;
            return random.below(spread / size + 1) * 2;
        }
        /* As long as the mean lets them be. */
        left = size - 1;
        uint64_t all = mean * size;
        return times(all > spread ? all - spread : 1, exponential(random));
    }

  private:
    uint64_t mean;
    uint32_t size, left = 0;
    uint64_t spread;
};

} // namespace

std::unique_ptr<Gaps> poisson_gaps(uint64_t mean_ns)
{
    return std::make_unique<PoissonGaps>(mean_ns);
}

std::unique_ptr<Gaps> gamma_gaps(uint64_t mean_ns, uint32_t cv_percent)
{
    if (cv_percent == 100)
        return poisson_gaps(mean_ns);
    return std::make_unique<GammaGaps>(mean_ns, cv_percent);
}

std::unique_ptr<Gaps> burst_gaps(uint64_t mean_ns, uint32_t size, uint64_t spread_ns)
{
    return std::make_unique<BurstGaps>(mean_ns, size, spread_ns);
}

std::vector<Arrival> make_arrivals(uint64_t seed, uint32_t models, uint64_t mean_ns_of_model,
                                   uint32_t cv_percent, uint64_t until)
{
    std::vector<Arrival> all;
    for (uint32_t m = 0; m < models; m++) {
        Random random(seed, m);
        auto gaps = gamma_gaps(mean_ns_of_model, cv_percent);
        for (uint64_t at = gaps->next(random); at < until; at += gaps->next(random))
            all.push_back({at, m, 1});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Arrival &a, const Arrival &b) { return a.at < b.at; });
    return all;
}

} // namespace sim
