/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of a machine, found with hwloc: groups of processor cores, and the NVIDIA GPUs that
 * PCI shows, whether or not anything here can drive them.
 *
 * A topology is read once and does not change afterwards, so any number of threads may read it.
 * Devices are numbered from 0: first the CPU devices ("cpu:0", ...), then the GPUs in the order of
 * their bus ids ("gpu:0", ...).
 */
#ifndef TOPOLOGY_TOPOLOGY_H
#define TOPOLOGY_TOPOLOGY_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct topology;

/* Where the machine is read from, and how its cores become CPU devices. All zeroes: this machine,
 * one CPU device for each NUMA node, or for each package where a node spans several. */
struct topology_options {
    const char *xml_path;  /* a recorded machine as hwloc 1 or 2 exports it; NULL: this machine */
    const char *synthetic; /* a machine in hwloc's synthetic notation; NULL: none. Not with
                            * xml_path */

    /* How many CPU devices. They never straddle NUMA nodes unless there are fewer of them than
     * nodes. Where more are asked for than there are cores, devices share cores: meant for tests.
     * 0: one for each NUMA node that has cores. */
    unsigned cpu_devices;

    /* Cores of each CPU device. 0: an even share of what is there, and no more in total than
     * topology_usable_cpus() says, so that a container with a quota of 4 CPUs on a host of 64
     * computes with 4 cores. A number given here stands even where it exceeds that quota. */
    unsigned cpu_cores;

    /* The CPUs of each CPU device as lists in the kernel's notation, one device after the other,
     * separated by ';': "0-3,8;4-7". NULL: chosen as above. Not with cpu_cores; cpu_devices must
     * agree or be 0. */
    const char *cpu_lists;

    /* Logical devices on each GPU, which share it; 0: one. */
    unsigned devices_per_gpu;
};

enum topology_kind {
    TOPOLOGY_CPU,
    TOPOLOGY_GPU,
};

struct topology_device {
    char name[16]; /* "cpu:0", "gpu:0" */
    enum topology_kind kind;
    char model[64]; /* the maker's name of it, for a person */

    /* The number that the system gives its NUMA node; -1: it spans several. */
    int numa_node;

    /* Its CPUs, hardware threads included; for a GPU those nearest to it. Only CPUs that this
     * process may use. As a list in the kernel's notation ("0-3,8") and as a set for
     * sched_setaffinity(0, cpu_set_size, cpu_set). Both belong to the topology. */
    const char *cpu_list;
    const cpu_set_t *cpu_set;
    size_t cpu_set_size; /* bytes */
    unsigned n_cpus;     /* hardware threads in the set */
    unsigned n_cores;    /* physical cores in the set; 0 for a GPU */
    bool shares_cores;   /* another CPU device has some of its cores as well */

    /* A CPU device: the memory of its NUMA nodes, which other devices of these nodes share. A GPU:
     * its own memory. 0: not known. */
    uint64_t memory_bytes;

    /* GPUs only: "0000:3b:00.0", and the ids of maker and product. Logical devices of one GPU have
     * the same, and a part of its memory each. */
    char pci_bus_id[16];
    uint16_t pci_vendor;
    uint16_t pci_device;

    bool usable;
    char reason[128]; /* why it is not usable; empty where it is */
};

/* How close two devices are, the closest first. */
enum topology_locality {
    TOPOLOGY_SAME_DEVICE,  /* or parts of one GPU */
    TOPOLOGY_SAME_SWITCH,  /* below one PCI bridge: their traffic need not reach the host's */
    TOPOLOGY_SAME_NUMA,    /* one NUMA node */
    TOPOLOGY_SAME_PACKAGE, /* one processor package */
    TOPOLOGY_SAME_MACHINE, /* nothing closer */
};

/* Reads a machine. `options` may be NULL. On success the caller owns *out and closes it.
 *
 * LIBSCHED_EINVAL: options that contradict each other or ask for CPUs that are not there, or a
 * description that is not one; LIBSCHED_ESYSTEM: the file cannot be read, or discovery failed;
 * LIBSCHED_ENOMEM; LIBSCHED_ENOTSUP: a hwloc that is not 2.x. */
int topology_open(struct topology **out, const struct topology_options *options,
                  libsched_error *err);

/* Frees it, with every device and string that it handed out. NULL is allowed. */
void topology_close(struct topology *t);

/* The number of devices, usable or not. */
size_t topology_n_devices(const struct topology *t);

/* A device by its number, or NULL beyond the last. Belongs to the topology. */
const struct topology_device *topology_get_device(const struct topology *t, size_t index);

/* A device by its name ("gpu:1"), or NULL. Belongs to the topology. */
const struct topology_device *topology_find_device(const struct topology *t, const char *name);

/* Whether it describes the machine that this process runs on; a recorded or synthetic one does
 * not, and none of its devices is usable. */
bool topology_is_this_machine(const struct topology *t);

/* The NVLink bandwidth between two devices in MB/s, in one direction: direct links, and those
 * through NVSwitches. 0: no link, or none known (hwloc knows of links where it was built with NVML,
 * or from a recorded machine). */
uint64_t topology_link_bandwidth(const struct topology *t, size_t a, size_t b);

/* How close two devices are; TOPOLOGY_SAME_MACHINE for a number beyond the last. */
enum topology_locality topology_get_locality(const struct topology *t, size_t a, size_t b);

/* Binds the calling thread to the CPUs of a device of this topology. Threads that it starts later
 * inherit that. LIBSCHED_ENOTSUP for a machine that is not this one: hwloc would report success and
 * do nothing. LIBSCHED_ENODEVICE: no such device; LIBSCHED_ESYSTEM: the system refused. */
int topology_bind_self(const struct topology *t, size_t index, libsched_error *err);

/* The CPUs that the calling thread can keep busy: those of its affinity, and no more than the CPU
 * quota of its control groups (versions 1 and 2) allows, rounded down. At least 1. It reads some
 * files under /proc and /sys: ask once, not for each request. */
unsigned topology_usable_cpus(void);

#ifdef __cplusplus
}
#endif

#endif
