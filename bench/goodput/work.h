/* SPDX-License-Identifier: Apache-2.0 */
/* Several threads for what does not depend on each other; what comes of it is taken in order. */
#ifndef GOODPUT_WORK_H
#define GOODPUT_WORK_H

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace goodput
{

template <typename Work, typename Take>
void run_in_order(uint32_t n_threads, size_t n, Work work, Take take)
{
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<bool> done(n, false);
    std::vector<std::thread> threads;
    size_t next = 0;

    if (n_threads == 0)
        n_threads = std::thread::hardware_concurrency();
    for (uint32_t i = 0; i < std::max(1u, n_threads) && i < n; i++) {
        threads.emplace_back([&] {
            std::unique_lock<std::mutex> lock(mutex);
            while (next < n) {
                size_t mine = next++;
                lock.unlock();
                work(mine);
                lock.lock();
                done[mine] = true;
                changed.notify_all();
            }
        });
    }
    for (size_t i = 0; i < n; i++) {
        {
            std::unique_lock<std::mutex> lock(mutex);
            changed.wait(lock, [&] { return done[i]; });
        }
        take(i);
    }
    for (std::thread &t : threads)
        t.join();
}

} // namespace goodput

#endif
