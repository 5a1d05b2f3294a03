/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far devices are from each other, for the choice of a job's: what one byte costs between them,
 * roughly. NVLink is near, the more of it the nearer; then a PCI switch, a NUMA node, a package.
 */
#include <string.h>

#include "runtime/internal.h"

/* The nearest that NVLink can be, the furthest; and what the ways through the host count. */
#define LINK_NEAREST 1u
#define LINK_FURTHEST 20u

static uint32_t host_distance(enum topology_locality locality)
{
    switch (locality) {
    case TOPOLOGY_SAME_DEVICE:
        return LINK_NEAREST;
    case TOPOLOGY_SAME_SWITCH:
        return 40;
    case TOPOLOGY_SAME_NUMA:
        return 60;
    case TOPOLOGY_SAME_PACKAGE:
        return 80;
    case TOPOLOGY_SAME_MACHINE:
        break;
    }
    return 100;
}

static uint64_t most_bandwidth(const libsched *s)
{
    uint64_t most = 0;
    for (uint32_t a = 0; a < s->n_listed; a++)
        for (uint32_t b = 0; b < a; b++) {
            uint64_t bandwidth = topology_link_bandwidth(s->topology, a, b);
            most = bandwidth > most ? bandwidth : most;
        }
    return most;
}

static uint32_t distance(const libsched *s, uint32_t a, uint32_t b, uint64_t most)
{
    uint64_t bandwidth = topology_link_bandwidth(s->topology, a, b);
    if (bandwidth == 0)
        return host_distance(topology_get_locality(s->topology, a, b));
    return LINK_NEAREST + (uint32_t)((LINK_FURTHEST - LINK_NEAREST) * (most - bandwidth) / most);
}

int runtime_distances_set(libsched *s, libsched_error *err)
{
    uint64_t most = most_bandwidth(s);
    for (uint32_t a = 0; a < s->n_listed; a++)
        for (uint32_t b = 0; b < a; b++) {
            if (!s->devices[a].in_core || !s->devices[b].in_core)
                continue;
            int rc = core_set_distance(s->core, a, b, distance(s, a, b, most));
            if (rc < 0)
                return libsched_error_set(err, rc, "the distance of %s and %s can't be set",
                                          s->devices[a].name, s->devices[b].name);
        }
    return LIBSCHED_OK;
}

static bool alike(const struct topology_device *a, const struct topology_device *b)
{
    return a->kind == b->kind && a->n_cores == b->n_cores && strcmp(a->model, b->model) == 0;
}

/* Those that prepare are of the sort 0; the first device of a kind gives its sort the next number.
 * Of more sorts than the core knows, the rest is one. */
uint32_t runtime_device_sort(const libsched *s, const struct runtime_device *device)
{
    uint32_t sort = 1;
    if (device->prepares)
        return 0;
    for (uint32_t i = 0; i < device->index; i++) {
        const struct runtime_device *other = &s->devices[i];
        if (alike(other->topology, device->topology))
            return other->sort;
        sort = other->sort >= sort ? other->sort + 1 : sort;
    }
    return sort < CORE_MAX_SORTS ? sort : CORE_MAX_SORTS - 1;
}
