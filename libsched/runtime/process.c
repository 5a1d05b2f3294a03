/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pending work: what timers and workers say goes into the core, what it decides is carried
 * out.
 */
#include "runtime/internal.h"

void runtime_decide(libsched *s)
{
    struct core_action action;
    do
        while (core_next_action(s->core, &action))
            runtime_carry_out(s, &action);
    while (runtime_loads_send(s));
    if (s->n_leaving > 0)
        runtime_models_collect(s);
    if (s->announcements) {
        s->announcements = false;
        runtime_models_announce(s);
        for (uint32_t i = 0; i < s->n_listed; i++)
            if (s->devices[i].announce)
                runtime_device_announce(s, &s->devices[i]);
        runtime_jobs_announce(s);
    }
}

static uint32_t take_timers(libsched *s, uint64_t now)
{
    uint32_t n = 0;
    runtime_timer_taken(s, now);
    if (s->core_at != 0 && now >= s->core_at) {
        struct core_event event = {.type = CORE_TIMER};
        s->core_at = 0;
        core_handle(s->core, now, &event);
        n++;
    }
    if (s->hold_at != 0 && now >= s->hold_at) {
        runtime_held_expire(s, now);
        n++;
    }
    if (s->checks_at != 0 && now >= s->checks_at)
        runtime_jobs_check(s);
    runtime_workers_restart(s, now);
    return n;
}

uint32_t runtime_round(libsched *s)
{
    uint32_t n = take_timers(s, runtime_now(s));
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].worker != NULL)
            n += runtime_worker_events(s, &s->devices[i], RUNTIME_MAX_EVENTS / 4);
    return n;
}

bool runtime_arm_workers(libsched *s)
{
    bool waiting = false;
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].worker != NULL && worker_arm(s->devices[i].worker))
            waiting = true;
    return waiting;
}

int runtime_process(libsched *s, bool spinning)
{
    uint32_t total = 0;
    bool more;

    s->spinning = spinning;
    runtime_wake_taken(s);
    do {
        uint32_t n;
        do {
            runtime_decide(s);
            n = runtime_round(s);
            total += n;
        } while (n > 0 && total < RUNTIME_MAX_EVENTS);
        runtime_decide(s);
        more = !spinning && (total >= RUNTIME_MAX_EVENTS || runtime_arm_workers(s));
    } while (more && total < RUNTIME_MAX_EVENTS);
    if (!spinning) {
        runtime_timer_arm(s);
        if (more)
            runtime_wake(s);
    }
    return (int)total;
}

int libsched_process(libsched *s, uint32_t flags)
{
    if ((flags & ~(uint32_t)LIBSCHED_SPINNING) != 0)
        return LIBSCHED_EINVAL;
    if (s->own_thread)
        return 0;
    return runtime_process(s, (flags & LIBSCHED_SPINNING) != 0);
}
