/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may look for work without sleeping. A thread that spins answers a few microseconds sooner,
 * and takes a core; where there is none left for it, it makes everything slower. So at most one
 * thread less than there are usable cores spins, and none beside a CPU device that computes. The
 * caller comes first, as every request passes it twice, then those who compute, then those who
 * prepare.
 */
#include "runtime/internal.h"

static bool computes(const libsched *s, const struct runtime_device *device)
{
    if (device->prepares || device->topology->kind != TOPOLOGY_CPU || device->worker == NULL)
        return false;
    if (device->job != 0)
        return true;
    for (uint32_t i = 0; i < s->n_models; i++) {
        const struct runtime_model *model = s->models[i];
        if (model->loads[device->index] == RUNTIME_LOADED && model->described &&
            (model->description.flags & LIBSCHED_ENGINE_WAITS) == 0)
            return true;
    }
    return false;
}

static uint32_t threads_that_may_spin(const libsched *s)
{
    if (s->options.spin_us == 0)
        return 0;
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (computes(s, &s->devices[i]))
            return 0;
    return s->usable_cpus - 1;
}

void runtime_spin_share(libsched *s)
{
    uint32_t left = threads_that_may_spin(s);
    uint64_t spin_ns = left > 0 ? (uint64_t)s->options.spin_us * 1000 : 0;
    __atomic_store_n(&s->spin_ns, spin_ns, __ATOMIC_RELAXED);
    left -= left > 0;
    for (int prepares = 0; prepares < 2; prepares++)
        for (uint32_t i = 0; i < s->n_devices; i++) {
            struct runtime_device *device = &s->devices[i];
            if (device->prepares != (prepares == 1) || device->worker == NULL)
                continue;
            uint32_t spin_us = left > 0 ? s->options.spin_us : 0;
            left -= left > 0;
            if (spin_us != device->spin_us)
                worker_set_spin(device->worker, spin_us);
            device->spin_us = spin_us;
        }
}

uint64_t libsched_spin_budget(const libsched *s)
{
    return __atomic_load_n(&s->spin_ns, __ATOMIC_RELAXED);
}
