/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How devices are connected: NVLinks, and how close they are in the tree of the machine.
 *
 * hwloc reports NVLinks as a matrix of distances between GPUs, NVSwitches and, on POWER, packages.
 * Where there are NVSwitches, a transformation of hwloc's turns GPU-switch-GPU paths into GPU-GPU
 * bandwidth. It is applied only there: without a switch it would wipe out the direct links.
 */
#include "topology/internal.h"

#include <stdlib.h>
#include <string.h>

#include <hwloc/distances.h>

#define NVLINK_MATRIX "NVLinkBandwidth"

static bool is_switch(hwloc_obj_t obj)
{
    return obj->subtype != NULL && strcmp(obj->subtype, "NVSwitch") == 0;
}

/* Whether an object of the matrix stands for a device: a GPU by its PCI device or one of the
 * software devices below that, a CPU device by the package that holds it. */
static bool stands_for(hwloc_obj_t obj, const struct topology_entry *entry)
{
    if (obj == NULL)
        return false;
    if (obj->cpuset != NULL)
        return entry->pci == NULL && hwloc_bitmap_isincluded(entry->cpus, obj->cpuset);
    if (obj->type == HWLOC_OBJ_OS_DEVICE)
        obj = obj->parent;
    return entry->pci != NULL && obj == entry->pci;
}

static void read_matrix(struct topology *t, const struct hwloc_distances_s *matrix)
{
    for (size_t i = 0; i < matrix->nbobjs; i++) {
        for (size_t j = 0; j < matrix->nbobjs; j++) {
            uint64_t bandwidth = matrix->values[i * matrix->nbobjs + j];
            if (i == j || bandwidth == 0)
                continue;
            for (size_t a = 0; a < t->n_entries; a++) {
                if (!stands_for(matrix->objs[i], &t->entries[a]))
                    continue;
                for (size_t b = 0; b < t->n_entries; b++) {
                    uint64_t *link = &t->links[a * t->n_entries + b];
                    if (a != b && bandwidth > *link && stands_for(matrix->objs[j], &t->entries[b]))
                        *link = bandwidth;
                }
            }
        }
    }
}

int topology_add_links(struct topology *t, libsched_error *err)
{
    struct hwloc_distances_s *matrix = NULL;
    unsigned count = 1;
    if (hwloc_distances_get_by_name(t->hwloc, NVLINK_MATRIX, &count, &matrix, 0) != 0 ||
        count == 0 || matrix == NULL)
        return LIBSCHED_OK;

    bool switched = false;
    for (unsigned i = 0; i < matrix->nbobjs; i++)
        switched = switched || (matrix->objs[i] != NULL && is_switch(matrix->objs[i]));

    int rc = LIBSCHED_OK;
    if (switched &&
        hwloc_distances_transform(t->hwloc, matrix, HWLOC_DISTANCES_TRANSFORM_TRANSITIVE_CLOSURE,
                                  NULL, 0) != 0)
        rc = libsched_error_set(err, LIBSCHED_ESYSTEM,
                                "hwloc cannot follow the NVLinks through their switches");
    if (rc == LIBSCHED_OK) {
        t->links = calloc(t->n_entries * t->n_entries, sizeof(uint64_t));
        if (t->links == NULL)
            rc = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the table of links");
        else
            read_matrix(t, matrix);
    }
    hwloc_distances_release(t->hwloc, matrix);
    return rc;
}

uint64_t topology_link_bandwidth(const struct topology *t, size_t a, size_t b)
{
    if (t->links == NULL || a >= t->n_entries || b >= t->n_entries)
        return 0;
    return t->links[a * t->n_entries + b];
}

/* Whether both GPUs are below one bridge from PCI to PCI. The bridge of the host does not count:
 * what passes through it passes through the processor. */
static bool share_a_switch(hwloc_obj_t a, hwloc_obj_t b)
{
    for (hwloc_obj_t up = a->parent; up != NULL && up->type == HWLOC_OBJ_BRIDGE; up = up->parent) {
        if (up->attr->bridge.upstream_type != HWLOC_OBJ_BRIDGE_PCI)
            continue;
        for (hwloc_obj_t other = b->parent; other != NULL; other = other->parent) {
            if (other == up)
                return true;
        }
    }
    return false;
}

enum topology_locality topology_get_locality(const struct topology *t, size_t a, size_t b)
{
    if (a >= t->n_entries || b >= t->n_entries)
        return TOPOLOGY_SAME_MACHINE;
    if (a == b)
        return TOPOLOGY_SAME_DEVICE;
    const struct topology_entry *x = &t->entries[a], *y = &t->entries[b];
    if (x->pci != NULL && x->pci == y->pci)
        return TOPOLOGY_SAME_DEVICE;
    if (x->pci != NULL && y->pci != NULL && share_a_switch(x->pci, y->pci))
        return TOPOLOGY_SAME_SWITCH;
    if (x->device.numa_node >= 0 && x->device.numa_node == y->device.numa_node)
        return TOPOLOGY_SAME_NUMA;

    hwloc_obj_t package = NULL;
    while ((package = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_PACKAGE, package)) != NULL) {
        if (hwloc_bitmap_isincluded(x->cpus, package->cpuset) &&
            hwloc_bitmap_isincluded(y->cpus, package->cpuset))
            return TOPOLOGY_SAME_PACKAGE;
    }
    return TOPOLOGY_SAME_MACHINE;
}
