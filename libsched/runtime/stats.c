/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters. What became of requests is counted where their end is made; what the core did with
 * them (batches, retries) is asked of it.
 */
#include "runtime/internal.h"

uint32_t runtime_counters_waiting(const libsched_counters *c, uint32_t running)
{
    return (uint32_t)(c->submitted - c->completed - c->failed - c->cancelled - c->expired -
                      running);
}

int libsched_get_stats(libsched *s, libsched_stats *out)
{
    libsched_stats stats = LIBSCHED_STATS_INIT;
    struct core_counts counts;

    runtime_lock(s);
    core_get_counts(s->core, UINT32_MAX, &counts);
    stats.running = counts.running;
    stats.queued = runtime_counters_waiting(&s->counters, counts.running);
    stats.uptime_ns = libsched_now() - s->opened_at;
    stats.counters = s->counters;
    stats.counters.retried = counts.retried;
    stats.counters.batches = counts.batches;
    stats.counters.batched_requests = counts.batched_requests;
    stats.counters.batched_units = counts.batched_units;
    stats.arena_bytes = runtime_arena_size(s->arena);
    stats.arena_used = runtime_arena_used(s->arena);
    stats.worker_deaths = s->worker_deaths;
    runtime_unlock(s);
    return runtime_struct_write(out, &stats, sizeof(stats));
}
