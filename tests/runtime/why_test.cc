// SPDX-License-Identifier: Apache-2.0
// What a job is said to wait for, and why it is said to have its devices, on recorded machines.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include <gtest/gtest.h>

// A member's name that C++ keeps for itself.
#define public shown
#include "runtime/internal.h"
#undef public

namespace
{

struct Free {
    void operator()(void *memory) const
    {
        free(memory);
    }
};

class Why : public testing::Test
{
  protected:
    // A scheduler that has the devices of a machine and nothing else.
    void open(const topology_options &options)
    {
        libsched_error err{};
        s.reset(static_cast<libsched *>(calloc(1, sizeof(libsched))));
        list_init(&s->jobs);
        ASSERT_EQ(topology_open(&s->topology, &options, &err), LIBSCHED_OK) << err.message;
        s->n_listed = uint32_t(topology_n_devices(s->topology));
        s->now = 1000;
        for (uint32_t i = 0; i < s->n_listed; i++) {
            runtime_device *device = &s->devices[i];
            device->index = i;
            device->topology = topology_get_device(s->topology, i);
            device->state = LIBSCHED_DEVICE_UP;
            strcpy(device->name, device->topology->name);
        }
    }

    void open_recorded(const char *name)
    {
        const char *given = getenv("GPU_SCHED_SHARED_DATA");
        std::string folder = given != nullptr ? given : GPU_SCHED_SOURCE_DIR "/../shared/data";
        std::string path = folder + "/topologies/" + name;
        if (!std::ifstream(path))
            GTEST_SKIP() << path << " is not here";
        topology_options options{};
        options.xml_path = path.c_str();
        open(options);
    }

    void open_synthetic(const char *machine, unsigned devices)
    {
        topology_options options{};
        options.synthetic = machine;
        options.cpu_devices = devices;
        open(options);
    }

    void TearDown() override
    {
        if (s)
            topology_close(s->topology);
    }

    uint32_t device(const char *name) const
    {
        for (uint32_t i = 0; i < s->n_listed; i++)
            if (strcmp(s->devices[i].name, name) == 0)
                return i;
        ADD_FAILURE() << name << " is not there";
        return 0;
    }

    // One that may have all devices of a kind.
    runtime_job *add(uint64_t id, const char *kind, uint32_t n_devices)
    {
        runtime_job *job = &jobs[id];
        *job = {};
        job->id = id;
        job->core_id = id << 16 | id;
        strcpy(job->name, "a_job");
        job->n_devices = n_devices;
        job->state = LIBSCHED_JOB_PENDING;
        for (uint32_t i = 0; i < s->n_listed; i++)
            if (strncmp(s->devices[i].name, kind, strlen(kind)) == 0)
                job->allowed |= UINT64_C(1) << i;
        list_append(&s->jobs, &job->link);
        s->jobs_by_core[job->core_id % CORE_MAX_JOBS] = job;
        return job;
    }

    void place(runtime_job *job, std::initializer_list<const char *> names)
    {
        job->n_ranks = 0;
        job->devices = 0;
        job->state = LIBSCHED_JOB_RUNNING;
        job->started_at = s->now;
        for (const char *name : names) {
            job->ranks[job->n_ranks++] = device(name);
            job->devices |= UINT64_C(1) << device(name);
        }
    }

    std::string why(const runtime_job *job, const core_job_info *info = nullptr)
    {
        char text[LIBSCHED_MESSAGE_SIZE];
        runtime_job_why(s.get(), job, info, text, sizeof(text));
        return text;
    }

    std::unique_ptr<libsched, Free> s;
    runtime_job jobs[8];
};

core_job_info waits(core_job_why why, uint32_t have, uint32_t need, uint64_t blocker = 0)
{
    core_job_info info{};
    info.state = CORE_JOB_PENDING;
    info.why = why;
    info.have = have;
    info.need = need;
    info.blocker = blocker;
    return info;
}

TEST_F(Why, OfOneThatWaits)
{
    open_synthetic("node:1 core:4 pu:1", 3);
    runtime_job *first = add(1, "cpu", 2), *second = add(2, "cpu", 2);
    place(first, {"cpu:0", "cpu:1"});
    first->time_limit = 40000000000;

    core_job_info info = waits(CORE_WHY_DEVICES, 1, 2);
    EXPECT_EQ(
        why(second, &info),
        "waits for 2 devices: 1 of the 3 that it may have is free; cpu:0 is held by job 1 for "
        "40 s at most; cpu:1 is held by job 1 for 40 s at most");
    first->time_limit = 0;
    s->devices[2].state = LIBSCHED_DEVICE_STARTING;
    info = waits(CORE_WHY_DEVICES, 0, 2);
    EXPECT_EQ(why(second, &info),
              "waits for 2 devices: 0 of the 3 that it may have are free; cpu:0 is held by job 1; "
              "cpu:1 is held by job 1; cpu:2 is starting");
    info = waits(CORE_WHY_ORDER, 0, 0, first->core_id);
    EXPECT_EQ(why(second, &info), "waits for its turn: job 1 (a_job) is before it");
    info = waits(CORE_WHY_ORDER, 0, 0);
    EXPECT_EQ(why(second, &info), "waits for its turn: another job is before it");
    second->memory_bytes = 3 << 20;
    info = waits(CORE_WHY_MEMORY, 1, 2, first->core_id);
    EXPECT_EQ(why(second, &info), "waits for memory: a rank of it takes 3 MiB, for which 1 of 2 "
                                  "devices has room; job 1 (a_job) has some of it");
    info = waits(CORE_WHY_DRAINING, 1, 2);
    EXPECT_EQ(why(second, &info),
              "its 2 devices are chosen, and finish what they are at: 1 of them has");
    info = waits(CORE_WHY_DOWN, 1, 2);
    EXPECT_NE(why(second, &info).find("1 of the 2 devices that it needs is up"), std::string::npos);
    second->state = LIBSCHED_JOB_CHECKING;
    EXPECT_EQ(why(second), "its parameters are being checked");
    second->checker = RUNTIME_NOBODY;
    EXPECT_EQ(why(second), "waits for a worker that checks its parameters");
}

TEST_F(Why, OfOneThatWaitsForManyIsCut)
{
    open_synthetic("node:4 core:4 pu:1", 16);
    runtime_job *first = add(1, "cpu", 16), *second = add(2, "cpu", 16);
    place(first, {"cpu:0", "cpu:1", "cpu:2", "cpu:3", "cpu:4", "cpu:5", "cpu:6", "cpu:7", "cpu:8"});
    core_job_info info = waits(CORE_WHY_DEVICES, 7, 16);
    std::string text = why(second, &info);
    EXPECT_LT(text.size(), size_t(LIBSCHED_MESSAGE_SIZE));
    EXPECT_EQ(text.substr(text.size() - 5), "; ...");
    char names[40];
    runtime_device_names(s.get(), first->devices, names, sizeof(names));
    EXPECT_STREQ(names, "cpu:0, cpu:1, cpu:2 and 6 more");
}

TEST_F(Why, OfDevicesOfTheHost)
{
    open_synthetic("package:2 node:2 core:2 pu:1", 4);
    runtime_job *job = add(1, "cpu", 2);
    place(job, {"cpu:0", "cpu:1"});
    EXPECT_EQ(why(job), "has cpu:0 and cpu:1, on one processor: no 2 of the 4 that it may have are "
                        "nearer to each other");
    place(job, {"cpu:0", "cpu:3"});
    job->distance = 100;
    job->least_distance = 60;
    EXPECT_EQ(why(job), "has cpu:0 and cpu:3, on different processors: the nearest that were free "
                        "(distance 100; among all 4 that it may have the least is 60)");
    place(job, {"cpu:2"});
    EXPECT_EQ(why(job), "has cpu:2: one of the 4 that it may have, and free");
    place(job, {"cpu:0", "cpu:1", "cpu:2", "cpu:3"});
    EXPECT_EQ(why(job), "has cpu:0, cpu:1, cpu:2 and cpu:3, on different processors: all that it "
                        "may have");
}

TEST_F(Why, OfDevicesWithNVLink)
{
    open_recorded("dgx2-16v100-nvswitch.xml");
    if (!s)
        return;
    runtime_job *job = add(1, "gpu", 2);
    place(job, {"gpu:0", "gpu:1"});
    EXPECT_NE(why(job).find("joined by NVLink ("), std::string::npos) << why(job);
    EXPECT_NE(why(job).find("GB/s each way)"), std::string::npos) << why(job);
    place(job, {"gpu:0", "gpu:1", "gpu:2"});
    EXPECT_NE(why(job).find(" or more)"), std::string::npos) << why(job);
}

TEST_F(Why, OfDevicesOfWhichSomeHaveNVLink)
{
    open_recorded("power8-4p100-nvlink.xml");
    if (!s)
        return;
    runtime_job *job = add(1, "gpu", 4);
    place(job, {"gpu:0", "gpu:1", "gpu:2", "gpu:3"});
    EXPECT_NE(why(job).find("some of them joined by NVLink"), std::string::npos) << why(job);
}

TEST_F(Why, DevicesAreAlike)
{
    open_synthetic("node:1 core:6 pu:1", 3);
    s->devices[0].sort = runtime_device_sort(s.get(), &s->devices[0]);
    s->devices[1].sort = runtime_device_sort(s.get(), &s->devices[1]);
    EXPECT_EQ(s->devices[0].sort, 1u);
    EXPECT_EQ(s->devices[1].sort, 1u);
    topology_device other = *s->devices[2].topology;
    other.n_cores = 7;
    s->devices[2].topology = &other;
    EXPECT_EQ(runtime_device_sort(s.get(), &s->devices[2]), 2u);
    s->devices[3].prepares = true;
    EXPECT_EQ(runtime_device_sort(s.get(), &s->devices[3]), 0u);
}

} // namespace
