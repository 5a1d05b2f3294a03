/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share: the topology behind its handle. */
#ifndef TOPOLOGY_INTERNAL_H
#define TOPOLOGY_INTERNAL_H

#include <hwloc.h>

#include "topology/topology.h"

/* A device and what hwloc knows about it. */
struct topology_entry {
    struct topology_device device;
    hwloc_bitmap_t cpus; /* the set behind device.cpu_list; owned */
    hwloc_obj_t pci;     /* a GPU's PCI device; NULL for a CPU device; belongs to hwloc */
    char *cpu_list;      /* owned */
    cpu_set_t *cpu_set;  /* owned */
};

struct topology {
    hwloc_topology_t hwloc;
    hwloc_bitmap_t usable; /* CPUs that this process may use; owned */
    bool is_this_machine;
    struct topology_entry *entries;
    size_t n_entries;
    uint64_t *links; /* n_entries × n_entries, MB/s; NULL where no link is known; owned */
};

/* Appends an empty device of a kind, named after its number among those of its kind, with the given
 * CPUs, which are copied. NULL when there is no memory; the pointer holds until the next call. */
struct topology_entry *topology_add_entry(struct topology *t, enum topology_kind kind,
                                          hwloc_const_bitmap_t cpus);

/* Append the CPU devices, the GPUs, and the links between what is there. */
int topology_add_cpus(struct topology *t, const struct topology_options *options,
                      libsched_error *err);
int topology_add_gpus(struct topology *t, const struct topology_options *options,
                      libsched_error *err);
int topology_add_links(struct topology *t, libsched_error *err);

/* Reads a list in the kernel's notation ("0-3,8"), of `length` bytes, into `set`. LIBSCHED_EINVAL
 * with a message that shows the list where it is not one or names no CPU at all. */
int topology_parse_cpu_list(const char *list, size_t length, hwloc_bitmap_t set,
                            libsched_error *err);

/* The CPU quota of this process's control groups in thousandths of a CPU; 0: none. `root` comes
 * before every path that is read ("" for this system), so that tests can show it another one. */
unsigned topology_read_cpu_quota(const char *root);

/* The value of an information that hwloc attached to the object or one above it; NULL: none. */
const char *topology_find_info(hwloc_obj_t obj, const char *name);

#endif
