/* SPDX-License-Identifier: Apache-2.0 */
/* Opening topologies in tests. */
#ifndef TESTS_TOPOLOGY_HELPER_H
#define TESTS_TOPOLOGY_HELPER_H

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "topology/topology.h"

struct TopologyCloser {
    void operator()(topology *t) const
    {
        topology_close(t);
    }
};
using Topology = std::unique_ptr<topology, TopologyCloser>;

/* Opens what must open; a null pointer and a failed test where it does not. */
inline Topology open_topology(const topology_options &options)
{
    topology *t = nullptr;
    libsched_error err = {};
    EXPECT_EQ(topology_open(&t, &options, &err), LIBSCHED_OK) << err.message;
    return Topology(t);
}

inline Topology open_synthetic(const char *description, unsigned devices = 0, unsigned cores = 0,
                               const char *lists = nullptr)
{
    topology_options options = {};
    options.synthetic = description;
    options.cpu_devices = devices;
    options.cpu_cores = cores;
    options.cpu_lists = lists;
    return open_topology(options);
}

/* The message with which options are refused as invalid; empty, and a failed test, if they are
 * not. */
inline std::string refusal(const topology_options &options)
{
    topology *t = nullptr;
    libsched_error err = {};
    EXPECT_EQ(topology_open(&t, &options, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(t, nullptr);
    topology_close(t);
    return err.message;
}

inline std::vector<const topology_device *> devices_of(const Topology &t, topology_kind kind)
{
    std::vector<const topology_device *> found;
    for (size_t i = 0; i < topology_n_devices(t.get()); i++) {
        const topology_device *device = topology_get_device(t.get(), i);
        if (device->kind == kind)
            found.push_back(device);
    }
    return found;
}

/* The CPU lists of all CPU devices, in order. */
inline std::vector<std::string> cpu_lists(const Topology &t)
{
    std::vector<std::string> lists;
    for (const topology_device *device : devices_of(t, TOPOLOGY_CPU))
        lists.push_back(device->cpu_list);
    return lists;
}

#endif
