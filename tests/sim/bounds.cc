/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/bounds.h"

#include <algorithm>
#include <limits>

namespace sim
{

namespace
{

double per_second(const Place &place, uint64_t b)
{
    return 1e9 * place.devices * static_cast<double>(b) / static_cast<double>(place.cost.of(b));
}

} // namespace

double bound_u1(const Place &place)
{
    uint64_t b = place.largest();
    return b == 0 ? 0 : per_second(place, b);
}

double pace_u2(const Place &place)
{
    uint64_t n = place.devices;
    uint64_t b = place.cost.largest(place.slo_ns * n / (n + place.models));
    return b == 0 ? 0 : per_second(place, b);
}

double fluid_estimate(const Place &place, double rate)
{
    double best = 0;
    for (uint64_t b = 1; b <= place.largest(); b++) {
        double wait = static_cast<double>(place.slo_ns - place.cost.of(b)) / 1e9;
        if (b == 1 || static_cast<double>(b) <= rate / place.models * wait)
            best = std::max(best, per_second(place, b));
    }
    return std::min(best, rate);
}

uint64_t fluid_bound(const Place &place, const std::vector<Arrival> &arrivals)
{
    uint64_t b = place.largest();
    if (b == 0)
        return 0;
    /* Times the number of devices and b, to be exact: a request takes l(b) of a fluid that runs at
     * N b to the nanosecond. */
    __extension__ typedef unsigned __int128 uint128;
    uint128 speed = static_cast<uint128>(place.devices) * b, free_at = 0;
    uint64_t served = 0;
    for (const Arrival &a : arrivals) {
        uint128 end = std::max(free_at, a.at * speed) + place.cost.of(b);
        if (end <= (a.at + place.slo_ns) * speed) {
            free_at = end;
            served++;
        }
    }
    return served;
}

/* Requests are served in the order in which they come, those that are not being left out (some
 * best plan is like that). least[i][m]: the least time at which the device is free when m of the
 * first i were left out. The last batch has w requests, the i-th being its last. */
uint64_t optimum(const Place &place, const std::vector<Arrival> &arrivals, uint64_t served)
{
    constexpr double none = std::numeric_limits<double>::infinity();
    size_t n = arrivals.size();
    size_t b = place.largest();
    size_t most = n - std::min<size_t>(n, served); /* no best plan leaves out more */

    if (b == 0 || n == 0)
        return 0;
    /* Times are whole numbers below 2^53, and so they are exact. */
    std::vector<std::vector<double>> rows(b + 1, std::vector<double>(most + 1, none));
    rows[0][0] = 0;
    for (size_t i = 1; i <= n; i++) {
        std::vector<double> &row = rows[i % (b + 1)];
        const std::vector<double> &before = rows[(i - 1) % (b + 1)];
        const double arrival = static_cast<double>(arrivals[i - 1].at);
        std::vector<double> next(most + 1, none);
        for (size_t m = 1; m <= most; m++)
            next[m] = before[m - 1];
        for (size_t w = 1; w <= std::min(i, b); w++) {
            const double *from = rows[(i - w) % (b + 1)].data();
            double *to = next.data();
            const double cost = static_cast<double>(place.cost.of(w));
            const double deadline = static_cast<double>(arrivals[i - w].at + place.slo_ns);
            if (arrival + cost > deadline)
                break;
            for (size_t m = 0; m <= most; m++) {
                double end = (from[m] > arrival ? from[m] : arrival) + cost;
                end = end <= deadline ? end : none;
                to[m] = end < to[m] ? end : to[m];
            }
        }
        row = std::move(next);
    }
    const std::vector<double> &last = rows[n % (b + 1)];
    for (size_t m = 0; m <= most; m++)
        if (last[m] < none)
            return n - m;
    return served;
}

} // namespace sim
