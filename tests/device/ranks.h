/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks of a job: threads with a device each, or processes that were forked, over the same
 * shared memory.
 */
#ifndef TESTS_DEVICE_RANKS_H
#define TESTS_DEVICE_RANKS_H

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include <libsched/device.h>

#include "device/device_case.h"

namespace gpu_sched_test
{

inline uint64_t clock_ns()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Memory as a job's segment is: shared with children, zeroed. Behind it, what a job passes on
 * otherwise: the id that rank 0 makes. */
struct shared_memory {
    struct id {
        int made; /* atomic */
        unsigned char bytes[LIBSCHED_COMMUNICATOR_ID_SIZE];
    };
    void *data;
    uint64_t size;

    explicit shared_memory(uint32_t n_ranks) : size(LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks))
    {
        data = mmap(nullptr, size + sizeof(id), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(MAP_FAILED, data);
    }
    shared_memory(const shared_memory &) = delete;
    shared_memory &operator=(const shared_memory &) = delete;
    ~shared_memory()
    {
        munmap(data, size + sizeof(id));
    }
    id &communicator_id() const
    {
        return *reinterpret_cast<id *>(static_cast<unsigned char *>(data) + size);
    }
};

/* One rank. Nothing in it is an expectation: it also runs in children. */
struct rank {
    uint32_t number, n_ranks;
    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_device_communicator *communicator = nullptr;
    libsched_error err = {};
    int status;

    rank(const device_case &which, const shared_memory &shared, uint32_t number_, uint32_t n_ranks_,
         uint64_t timeout_ns = UINT64_C(60000000000), const bool *cancelled = nullptr)
        : number(number_), n_ranks(n_ranks_)
    {
        libsched_device_communicator_args args = {};
        args.struct_size = sizeof(args);
        args.rank = number;
        args.n_ranks = n_ranks;
        args.timeout_ns = timeout_ns;
        args.shared = shared.data;
        args.shared_size = shared.size;
        args.cancelled = cancelled;
        status = open_device(which, number % which.n_devices, &driver, &device, &err);
        if (status == LIBSCHED_OK && driver->communicator_id != nullptr)
            status = share_id(shared.communicator_id());
        if (driver->communicator_id != nullptr)
            args.id = shared.communicator_id().bytes;
        if (status == LIBSCHED_OK)
            status = driver->communicator_create(device, &communicator, &args, &err);
    }
    rank(const rank &) = delete;
    rank &operator=(const rank &) = delete;
    ~rank()
    {
        if (communicator != nullptr)
            driver->communicator_destroy(device, communicator);
        for (auto *b : buffers)
            driver->buffer_destroy(device, b);
        if (device != nullptr)
            driver->close(device);
    }

    libsched_device_buffer *buffer(uint32_t datatype, uint64_t elements)
    {
        libsched_device_buffer *b = nullptr;
        status = driver->buffer_create(device, &b, datatype, 1, elements, &err);
        buffers.push_back(b);
        return b;
    }
    libsched_device_buffer *buffer(const std::vector<float> &values)
    {
        libsched_device_buffer *b = buffer(LIBSCHED_FP32, values.size());
        status = driver->upload(device, b, 0, 1, values.data(), &err);
        return b;
    }
    libsched_device_buffer *buffer(const std::vector<uint16_t> &values)
    {
        libsched_device_buffer *b = buffer(LIBSCHED_BF16, values.size());
        status = driver->upload(device, b, 0, 1, values.data(), &err);
        return b;
    }
    template <class T> std::vector<T> read(const libsched_device_buffer *from, uint64_t elements)
    {
        std::vector<T> values(elements);
        status = driver->download(device, from, 0, 1, values.data(), &err);
        if (status == LIBSCHED_OK)
            status = driver->synchronize(device, &err);
        return values;
    }

    using operation = int (*)(libsched_device *, libsched_device_communicator *,
                              const libsched_device_collective_args *, libsched_error *);
    int run(operation what, const libsched_device_buffer *input, libsched_device_buffer *output,
            uint64_t count, uint32_t reduction = LIBSCHED_REDUCE_SUM, uint32_t root = 0)
    {
        libsched_device_collective_args args = {};
        args.struct_size = sizeof(args);
        args.reduction = reduction;
        args.root = root;
        args.count = count;
        args.input = input;
        args.output = output;
        status = what(device, communicator, &args, &err);
        if (status == LIBSCHED_OK)
            status = driver->synchronize(device, &err);
        return status;
    }
    int barrier()
    {
        return status = driver->barrier(device, communicator, &err);
    }

  private:
    std::vector<libsched_device_buffer *> buffers;

    int share_id(shared_memory::id &id)
    {
        if (number == 0 && __atomic_load_n(&id.made, __ATOMIC_ACQUIRE) == 0) {
            int rc = driver->communicator_id(device, id.bytes, &err);
            __atomic_store_n(&id.made, 1, __ATOMIC_RELEASE);
            return rc;
        }
        while (number < n_ranks && __atomic_load_n(&id.made, __ATOMIC_ACQUIRE) == 0)
            sched_yield();
        return LIBSCHED_OK;
    }
};

/* Runs `body` for each rank in a thread of its own. */
inline void run_threads(const device_case &which, uint32_t n_ranks,
                        const std::function<void(rank &)> &body)
{
    shared_memory shared(n_ranks);
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < n_ranks; r++)
        threads.emplace_back([&, r] {
            rank own(which, shared, r, n_ranks);
            ASSERT_EQ(LIBSCHED_OK, own.status) << own.err.message;
            body(own);
        });
    for (auto &t : threads)
        t.join();
}

} // namespace gpu_sched_test

#endif
