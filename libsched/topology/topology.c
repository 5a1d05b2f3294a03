/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a topology, and answering questions about it. */
#include "topology/topology.h"
#include "topology/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* hwloc reads a recorded machine whole; the largest known is 3 MB. */
#define XML_MAX_BYTES (64 * 1024 * 1024)

const char *topology_find_info(hwloc_obj_t obj, const char *name)
{
    for (; obj != NULL; obj = obj->parent) {
        const char *value = hwloc_obj_get_info_by_name(obj, name);
        if (value != NULL && value[0] != '\0')
            return value;
    }
    return NULL;
}

/* The CPUs of a bitmap as a set of the C library, large enough for the highest. */
static cpu_set_t *make_cpu_set(hwloc_const_bitmap_t cpus, size_t *size)
{
    int last = hwloc_bitmap_last(cpus);
    int n = last < 0 ? 1 : last + 1;
    cpu_set_t *set = CPU_ALLOC(n);
    if (set == NULL)
        return NULL;
    *size = CPU_ALLOC_SIZE(n);
    CPU_ZERO_S(*size, set);
    for (int cpu = hwloc_bitmap_first(cpus); cpu >= 0; cpu = hwloc_bitmap_next(cpus, cpu))
        CPU_SET_S((size_t)cpu, *size, set);
    return set;
}

static void free_entry(struct topology_entry *entry)
{
    hwloc_bitmap_free(entry->cpus);
    free(entry->cpu_list);
    if (entry->cpu_set != NULL)
        CPU_FREE(entry->cpu_set);
}

struct topology_entry *topology_add_entry(struct topology *t, enum topology_kind kind,
                                          hwloc_const_bitmap_t cpus)
{
    unsigned number = 0;
    for (size_t i = 0; i < t->n_entries; i++)
        number += t->entries[i].device.kind == kind;

    struct topology_entry *grown =
        realloc(t->entries, (t->n_entries + 1) * sizeof(struct topology_entry));
    if (grown == NULL)
        return NULL;
    t->entries = grown;

    struct topology_entry *entry = &grown[t->n_entries];
    memset(entry, 0, sizeof(*entry));
    struct topology_device *device = &entry->device;
    entry->cpus = hwloc_bitmap_dup(cpus);
    entry->cpu_set = make_cpu_set(cpus, &device->cpu_set_size);
    if (entry->cpus == NULL || entry->cpu_set == NULL ||
        hwloc_bitmap_list_asprintf(&entry->cpu_list, cpus) < 0) {
        free_entry(entry);
        return NULL;
    }
    device->kind = kind;
    device->numa_node = -1;
    device->cpu_list = entry->cpu_list;
    device->cpu_set = entry->cpu_set;
    device->n_cpus = (unsigned)hwloc_bitmap_weight(cpus);
    snprintf(device->name, sizeof(device->name), "%s:%u", kind == TOPOLOGY_CPU ? "cpu" : "gpu",
             number);
    t->n_entries++;
    return entry;
}

/* hwloc says EINVAL for nearly everything; so the file itself is looked at first. */
static int set_xml(struct topology *t, const char *path, libsched_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "cannot open the recorded machine %s: %s",
                                  path, strerror(errno));
    struct stat st;
    int rc = fstat(fd, &st);
    close(fd);
    if (rc != 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "cannot examine %s: %s", path,
                                  strerror(errno));
    if (!S_ISREG(st.st_mode))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a recorded machine must be a regular file, and %s is not one",
                                  path);
    if (st.st_size > XML_MAX_BYTES)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the recorded machine %s has %lld bytes, more than the %d that "
                                  "are read",
                                  path, (long long)st.st_size, XML_MAX_BYTES);
    if (hwloc_topology_set_xml(t->hwloc, path) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s is not a machine recorded by hwloc 1 or 2 (lstopo x.xml)",
                                  path);
    return LIBSCHED_OK;
}

static int choose_source(struct topology *t, const struct topology_options *options,
                         libsched_error *err)
{
    if (options->xml_path != NULL && options->synthetic != NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a recorded machine and a synthetic one were both asked for: "
                                  "name one of them");
    if (options->xml_path != NULL)
        return set_xml(t, options->xml_path, err);
    if (options->synthetic != NULL &&
        hwloc_topology_set_synthetic(t->hwloc, options->synthetic) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%s\" does not describe a synthetic machine; an example that "
                                  "does: \"pack:2 numa:1 core:8 pu:2\"",
                                  options->synthetic);
    return LIBSCHED_OK;
}

static int load(struct topology *t, const struct topology_options *options, libsched_error *err)
{
    /* These would start OpenCL, CUDA, an X client and so on in the process that schedules, which
     * the workers that it forks do not survive. "pci" finds what "linux" finds as well, and leaks.
     * A component that hwloc was built without is no error. */
    static const char *const unwanted[] = {"opencl", "cuda", "gl", "rsmi", "levelzero", "pci"};
    for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
        (void)hwloc_topology_set_components(t->hwloc, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
                                            unwanted[i]);
    if (hwloc_topology_set_io_types_filter(t->hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "hwloc refuses to look for PCI devices");

    int rc = choose_source(t, options, err);
    if (rc != LIBSCHED_OK)
        return rc;
    if (hwloc_topology_load(t->hwloc) != 0) {
        if (options->xml_path != NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%s is not a machine recorded by hwloc 1 or 2 "
                                      "(lstopo x.xml): %s",
                                      options->xml_path, strerror(errno));
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "hwloc cannot read this machine: %s",
                                  strerror(errno));
    }
    t->is_this_machine = hwloc_topology_is_thissystem(t->hwloc) != 0;
    return LIBSCHED_OK;
}

/* The CPUs that this process may use: what hwloc was allowed to see, within our affinity. */
static int find_usable(struct topology *t, libsched_error *err)
{
    t->usable = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(t->hwloc));
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (t->usable == NULL || bound == NULL) {
        hwloc_bitmap_free(bound);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a set of CPUs");
    }
    if (t->is_this_machine && hwloc_get_cpubind(t->hwloc, bound, HWLOC_CPUBIND_THREAD) == 0)
        (void)hwloc_bitmap_and(t->usable, t->usable, bound);
    hwloc_bitmap_free(bound);
    if (hwloc_bitmap_iszero(t->usable))
        return libsched_error_set(err, LIBSCHED_ESYSTEM,
                                  "this process may use no CPU that hwloc knows of");
    return LIBSCHED_OK;
}

static int discover(struct topology *t, const struct topology_options *options, libsched_error *err)
{
    if (hwloc_topology_init(&t->hwloc) != 0) {
        t->hwloc = NULL;
        return libsched_error_set(err, LIBSCHED_ENOMEM, "hwloc cannot start: %s", strerror(errno));
    }
    if (hwloc_topology_abi_check(t->hwloc) != 0)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "the hwloc library found (API %x) does not fit the one that "
                                  "libsched was built with (API %x)",
                                  hwloc_get_api_version(), HWLOC_API_VERSION);
    int rc = load(t, options, err);
    if (rc == LIBSCHED_OK)
        rc = find_usable(t, err);
    if (rc == LIBSCHED_OK)
        rc = topology_add_cpus(t, options, err);
    if (rc == LIBSCHED_OK)
        rc = topology_add_gpus(t, options, err);
    if (rc == LIBSCHED_OK)
        rc = topology_add_links(t, err);
    return rc;
}

int topology_open(struct topology **out, const struct topology_options *options,
                  libsched_error *err)
{
    static const struct topology_options defaults;

    *out = NULL;
    struct topology *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a topology");
    int rc = discover(t, options != NULL ? options : &defaults, err);
    if (rc != LIBSCHED_OK) {
        topology_close(t);
        return rc;
    }
    *out = t;
    return LIBSCHED_OK;
}

void topology_close(struct topology *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->n_entries; i++)
        free_entry(&t->entries[i]);
    free(t->entries);
    free(t->links);
    hwloc_bitmap_free(t->usable);
    if (t->hwloc != NULL)
        hwloc_topology_destroy(t->hwloc);
    free(t);
}

size_t topology_n_devices(const struct topology *t)
{
    return t->n_entries;
}

const struct topology_device *topology_get_device(const struct topology *t, size_t index)
{
    return index < t->n_entries ? &t->entries[index].device : NULL;
}

const struct topology_device *topology_find_device(const struct topology *t, const char *name)
{
    for (size_t i = 0; i < t->n_entries; i++) {
        if (strcmp(t->entries[i].device.name, name) == 0)
            return &t->entries[i].device;
    }
    return NULL;
}

bool topology_is_this_machine(const struct topology *t)
{
    return t->is_this_machine;
}

int topology_bind_self(const struct topology *t, size_t index, libsched_error *err)
{
    if (index >= t->n_entries)
        return libsched_error_set(err, LIBSCHED_ENODEVICE,
                                  "there is no device %zu: the machine has %zu", index,
                                  t->n_entries);
    const struct topology_entry *entry = &t->entries[index];
    if (!t->is_this_machine)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "cannot bind to %s: it belongs to a recorded machine, not to "
                                  "this one",
                                  entry->device.name);
    if (hwloc_set_cpubind(t->hwloc, entry->cpus, HWLOC_CPUBIND_THREAD) != 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "cannot bind to the CPUs %s of %s: %s",
                                  entry->cpu_list, entry->device.name, strerror(errno));
    return LIBSCHED_OK;
}
