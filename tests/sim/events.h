/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is to happen, in the order in which it does: by time in nanoseconds, and what happens at
 * one time in the order in which it was put in. So the order is total.
 */
#ifndef SIM_EVENTS_H
#define SIM_EVENTS_H

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace sim
{

constexpr uint64_t never = UINT64_MAX;

template <typename T> class Events
{
  public:
    void add(uint64_t at, T what)
    {
        heap.push_back({at, ++put, std::move(what)});
        std::push_heap(heap.begin(), heap.end(), later);
    }
    bool empty() const
    {
        return heap.empty();
    }
    size_t size() const
    {
        return heap.size();
    }
    uint64_t first_at() const
    {
        return heap.empty() ? never : heap.front().at;
    }
    T take()
    {
        std::pop_heap(heap.begin(), heap.end(), later);
        T what = std::move(heap.back().what);
        heap.pop_back();
        return what;
    }

  private:
    struct Entry {
        uint64_t at, put;
        T what;
    };
    static bool later(const Entry &a, const Entry &b)
    {
        return a.at != b.at ? a.at > b.at : a.put > b.put;
    }

    std::vector<Entry> heap;
    uint64_t put = 0;
};

} // namespace sim

#endif
