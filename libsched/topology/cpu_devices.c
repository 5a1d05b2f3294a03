/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU devices: the usable cores, dealt out so that a device keeps to one NUMA node where it can.
 *
 * Cores are grouped into domains, one for each NUMA node; where a node spans several packages, one
 * for each package. With at least as many devices as domains each domain is divided among its
 * devices; with fewer, each device takes several neighbouring domains.
 */
#include "topology/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One worker process each: far more than one machine can use, and a limit on a mistyped number. */
#define MAX_CPU_DEVICES 1024

struct core {
    hwloc_obj_t obj;
    hwloc_bitmap_t cpus; /* those that are usable; owned */
    unsigned domain;
};

struct cores {
    struct core *items; /* domain by domain */
    unsigned count;
    unsigned n_domains;
};

/* A range of cores, and the devices that divide it among themselves. */
struct share {
    unsigned first_core, n_cores;
    unsigned slot, n_slots; /* which of the devices, and how many there are */
};

static void free_cores(struct cores *cores)
{
    for (unsigned i = 0; i < cores->count; i++)
        hwloc_bitmap_free(cores->items[i].cpus);
    free(cores->items);
}

static int no_memory(libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the list of CPU devices");
}

static hwloc_obj_t package_of(const struct topology *t, hwloc_obj_t core)
{
    return hwloc_get_ancestor_obj_by_type(t->hwloc, HWLOC_OBJ_PACKAGE, core);
}

/* Gives a core its domain: that of an earlier core with its node and package, or a new one. A node
 * of fast memory beside the ordinary one does not make a domain: only the first node counts. */
static void assign_domain(const struct topology *t, struct cores *cores, struct core *core)
{
    int node = hwloc_bitmap_first(core->obj->nodeset);
    hwloc_obj_t package = package_of(t, core->obj);
    for (unsigned i = 0; i < cores->count; i++) {
        const struct core *other = &cores->items[i];
        if (hwloc_bitmap_first(other->obj->nodeset) == node &&
            package_of(t, other->obj) == package) {
            core->domain = other->domain;
            return;
        }
    }
    core->domain = cores->n_domains++;
}

static int compare_cores(const void *a, const void *b)
{
    const struct core *x = a, *y = b;
    if (x->domain != y->domain)
        return x->domain < y->domain ? -1 : 1;
    return x->obj->logical_index < y->obj->logical_index ? -1 : 1;
}

/* The cores with a usable CPU. A machine that does not tell its cores has its CPUs taken for
 * them. */
static int find_cores(const struct topology *t, struct cores *cores, libsched_error *err)
{
    hwloc_obj_type_t type = HWLOC_OBJ_CORE;
    int n = hwloc_get_nbobjs_by_type(t->hwloc, type);
    if (n <= 0) {
        type = HWLOC_OBJ_PU;
        n = hwloc_get_nbobjs_by_type(t->hwloc, type);
    }
    if (n <= 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "the machine has no processor cores");

    cores->items = calloc((size_t)n, sizeof(struct core));
    if (cores->items == NULL)
        return no_memory(err);
    hwloc_obj_t obj = NULL;
    while ((obj = hwloc_get_next_obj_by_type(t->hwloc, type, obj)) != NULL) {
        if (!hwloc_bitmap_intersects(obj->cpuset, t->usable))
            continue;
        struct core core = {.obj = obj, .cpus = hwloc_bitmap_alloc()};
        if (core.cpus == NULL || hwloc_bitmap_and(core.cpus, obj->cpuset, t->usable) != 0) {
            hwloc_bitmap_free(core.cpus);
            return no_memory(err);
        }
        assign_domain(t, cores, &core);
        cores->items[cores->count++] = core;
    }
    qsort(cores->items, cores->count, sizeof(struct core), compare_cores);
    return LIBSCHED_OK;
}

/* The first core of a domain; one beyond the last for the domain after the last. */
static unsigned domain_start(const struct cores *cores, unsigned domain)
{
    unsigned i = 0;
    while (i < cores->count && cores->items[i].domain < domain)
        i++;
    return i;
}

/* What device k of n divides, and with how many. */
static struct share find_share(const struct cores *cores, unsigned k, unsigned n)
{
    unsigned m = cores->n_domains;
    unsigned first, last, slot = 0, n_slots = 1;
    if (n < m) {
        first = k * m / n;
        last = (k + 1) * m / n;
    } else {
        /* The first n % m domains have one device more than the others. */
        unsigned each = n / m, extra = n % m;
        bool is_early = k < extra * (each + 1);
        unsigned rest = is_early ? k : k - extra * (each + 1);
        n_slots = is_early ? each + 1 : each;
        first = is_early ? rest / n_slots : extra + rest / n_slots;
        slot = rest % n_slots;
        last = first + 1;
    }
    unsigned start = domain_start(cores, first);
    return (struct share){start, domain_start(cores, last) - start, slot, n_slots};
}

/* The model, NUMA node, memory and number of cores that go with a device's CPUs. */
static void describe(const struct topology *t, const struct cores *cores,
                     struct topology_entry *entry)
{
    struct topology_device *device = &entry->device;
    const char *model = NULL;
    for (unsigned i = 0; i < cores->count; i++) {
        const struct core *core = &cores->items[i];
        if (!hwloc_bitmap_intersects(core->cpus, entry->cpus))
            continue;
        int node = hwloc_bitmap_first(core->obj->nodeset);
        device->numa_node = device->n_cores == 0 || device->numa_node == node ? node : -1;
        device->n_cores++;
        if (model == NULL)
            model = topology_find_info(core->obj, "CPUModel");
    }
    snprintf(device->model, sizeof(device->model), "%s", model != NULL ? model : "processor");

    hwloc_obj_t node = NULL;
    while ((node = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, node)) != NULL) {
        if (hwloc_bitmap_intersects(node->cpuset, entry->cpus))
            device->memory_bytes += node->attr->numanode.local_memory;
    }
    device->usable = t->is_this_machine;
    if (!device->usable)
        snprintf(device->reason, sizeof(device->reason), "it belongs to a recorded machine");
}

static int add_device(struct topology *t, const struct cores *cores, hwloc_const_bitmap_t cpus,
                      libsched_error *err)
{
    struct topology_entry *entry = topology_add_entry(t, TOPOLOGY_CPU, cpus);
    if (entry == NULL)
        return no_memory(err);
    describe(t, cores, entry);
    return LIBSCHED_OK;
}

/* Adds a device of `n` cores of a share, from the given one on, wrapping round at its end. */
static int add_cores(struct topology *t, const struct cores *cores, const struct share *share,
                     unsigned from, unsigned n, libsched_error *err)
{
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    if (cpus == NULL)
        return no_memory(err);
    int rc = LIBSCHED_OK;
    for (unsigned i = 0; i < n && rc == LIBSCHED_OK; i++) {
        const struct core *core = &cores->items[share->first_core + (from + i) % share->n_cores];
        if (hwloc_bitmap_or(cpus, cpus, core->cpus) != 0)
            rc = no_memory(err);
    }
    if (rc == LIBSCHED_OK)
        rc = add_device(t, cores, cpus, err);
    hwloc_bitmap_free(cpus);
    return rc;
}

/* The slot-th of n nearly equal parts of `total`: where it begins, and its length; parts of an
 * amount too small for all begin anew and have one. */
static unsigned even_part(unsigned total, unsigned slot, unsigned n, unsigned *length)
{
    if (total < n) {
        *length = 1;
        return slot % total;
    }
    unsigned each = total / n, extra = total % n;
    *length = each + (slot < extra);
    return slot * each + (slot < extra ? slot : extra);
}

/* As many devices as there are domains, filled in turn until the cores that we may keep busy are
 * used up. */
static int add_by_domain(struct topology *t, const struct cores *cores, unsigned budget,
                         libsched_error *err)
{
    for (unsigned k = 0; k < cores->n_domains && budget > 0; k++) {
        struct share share = find_share(cores, k, cores->n_domains);
        unsigned n = share.n_cores < budget ? share.n_cores : budget;
        budget -= n;
        int rc = add_cores(t, cores, &share, 0, n, err);
        if (rc != LIBSCHED_OK)
            return rc;
    }
    return LIBSCHED_OK;
}

/* A number of devices that was asked for. */
static int add_by_number(struct topology *t, const struct cores *cores, unsigned n,
                         unsigned cpu_cores, unsigned budget, libsched_error *err)
{
    for (unsigned k = 0; k < n; k++) {
        struct share share = find_share(cores, k, n);
        unsigned from, count, most;
        if (cpu_cores > share.n_cores)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%u cores were asked for each CPU device, but cpu:%u has "
                                      "only %u to take from",
                                      cpu_cores, k, share.n_cores);
        if (cpu_cores > 0) {
            count = cpu_cores;
            from = (unsigned)((uint64_t)share.slot * cpu_cores % share.n_cores);
        } else {
            from = even_part(share.n_cores, share.slot, share.n_slots, &count);
            if (budget < cores->count) {
                (void)even_part(budget, k, n, &most);
                count = count < most ? count : most;
            }
        }
        int rc = add_cores(t, cores, &share, from, count, err);
        if (rc != LIBSCHED_OK)
            return rc;
    }
    return LIBSCHED_OK;
}

/* One list of CPUs that was given for a device. */
static int add_list(struct topology *t, const struct cores *cores, const char *list, size_t length,
                    libsched_error *err)
{
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    if (cpus == NULL)
        return no_memory(err);
    int rc = topology_parse_cpu_list(list, length, cpus, err);
    if (rc == LIBSCHED_OK && !hwloc_bitmap_isincluded(cpus, t->usable)) {
        char *usable = NULL;
        (void)hwloc_bitmap_list_asprintf(&usable, t->usable);
        rc = libsched_error_set(
            err, LIBSCHED_EINVAL, "the CPUs \"%.*s\" are not all usable here; usable are %.120s",
            length > 60 ? 60 : (int)length, list, usable != NULL ? usable : "others");
        free(usable);
    }
    if (rc == LIBSCHED_OK)
        rc = add_device(t, cores, cpus, err);
    hwloc_bitmap_free(cpus);
    return rc;
}

static int add_by_lists(struct topology *t, const struct cores *cores,
                        const struct topology_options *options, libsched_error *err)
{
    unsigned n = 0;
    for (const char *list = options->cpu_lists;; n++) {
        size_t length = strcspn(list, ";");
        if (n == MAX_CPU_DEVICES)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "CPUs were given for more than %u devices", MAX_CPU_DEVICES);
        int rc = add_list(t, cores, list, length, err);
        if (rc != LIBSCHED_OK)
            return rc;
        if (list[length] == '\0')
            break;
        list += length + 1;
    }
    n++;
    if (options->cpu_devices != 0 && options->cpu_devices != n)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%u CPU devices were asked for, but CPUs given for %u",
                                  options->cpu_devices, n);
    return LIBSCHED_OK;
}

static void mark_sharing(struct topology *t)
{
    for (size_t i = 0; i < t->n_entries; i++) {
        for (size_t j = 0; j < t->n_entries; j++) {
            if (i != j && hwloc_bitmap_intersects(t->entries[i].cpus, t->entries[j].cpus))
                t->entries[i].device.shares_cores = true;
        }
    }
}

static int add_all(struct topology *t, const struct cores *cores,
                   const struct topology_options *options, libsched_error *err)
{
    /* Affinity has been applied to the cores already; what remains is the quota. */
    unsigned budget = cores->count;
    if (t->is_this_machine) {
        unsigned usable = topology_usable_cpus();
        budget = usable < budget ? usable : budget;
    }
    if (options->cpu_lists != NULL)
        return add_by_lists(t, cores, options, err);
    if (options->cpu_devices == 0 && options->cpu_cores == 0)
        return add_by_domain(t, cores, budget, err);
    return add_by_number(t, cores,
                         options->cpu_devices != 0 ? options->cpu_devices : cores->n_domains,
                         options->cpu_cores, budget, err);
}

int topology_add_cpus(struct topology *t, const struct topology_options *options,
                      libsched_error *err)
{
    if (options->cpu_devices > MAX_CPU_DEVICES)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%u CPU devices were asked for; at most %u are allowed",
                                  options->cpu_devices, MAX_CPU_DEVICES);
    if (options->cpu_lists != NULL && options->cpu_cores != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a number of cores and lists of CPUs were both given: give one "
                                  "of them");
    struct cores cores = {.items = NULL};
    int rc = find_cores(t, &cores, err);
    if (rc == LIBSCHED_OK)
        rc = add_all(t, &cores, options, err);
    if (rc == LIBSCHED_OK)
        mark_sharing(t);
    free_cores(&cores);
    return rc;
}
