/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks of a job on CPU devices, and where they meet: memory that all their processes share.
 *
 * The memory begins with a header; behind it each rank has an area of its own, that it alone
 * writes. Every operation is a row of meetings: a rank does something to its own area, comes to
 * the meeting, and when all others have come it reads theirs. Areas have two halves that are used
 * by turns, so that one meeting for a piece of data is enough: who writes a half again has been at
 * a meeting that the others only came to once they had read it.
 *
 * What other ranks write is never an index, a length or a pointer: counters and what they say they
 * are doing are copied and compared, everything else is numbers to add up. A rank that scribbles
 * over the memory can spoil the result and keep the others waiting until their time is over.
 */
#ifndef DEVICE_CPU_COMMUNICATOR_H
#define DEVICE_CPU_COMMUNICATOR_H

#include <libsched/device.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A half of a rank's area: the largest piece of an operation. */
#define CPU_COMMUNICATOR_HALF (UINT64_C(2) << 20)
#define CPU_MAX_RANKS 1024u

enum cpu_operation {
    CPU_CREATE = 1,
    CPU_BARRIER,
    CPU_ALL_REDUCE,
    CPU_BROADCAST,
    CPU_ALL_GATHER,
    CPU_REDUCE_SCATTER,
};

/* What a rank says that it came for: the same for all of them. */
struct cpu_call {
    uint32_t operation, datatype, reduction, root;
    uint64_t count;
    uint64_t done; /* of count, before this meeting */
};

struct cpu_shared;

struct libsched_device_communicator {
    uint32_t rank, n_ranks;
    uint64_t timeout_ns; /* 0: none */
    uint32_t spins;      /* looks before it sleeps */
    struct cpu_shared *shared;
    unsigned char *areas;
    uint32_t meeting; /* the last one that this rank came to */
    uint32_t piece;   /* counts pieces of data; its lowest bit is the half */
    bool failed;
    const bool *cancelled; /* while it is created */
};

/* Comes to the next meeting, and waits for the others. */
int cpu_meet(libsched_device_communicator *communicator, const struct cpu_call *call,
             libsched_error *err);

/* The half of a rank's area that the piece under way uses. */
unsigned char *cpu_area(const libsched_device_communicator *communicator, uint32_t rank);

int cpu_communicator_create(libsched_device *device, libsched_device_communicator **out,
                            const libsched_device_communicator_args *args, libsched_error *err);
void cpu_communicator_destroy(libsched_device *device, libsched_device_communicator *communicator);
void cpu_communicator_abort(libsched_device_communicator *communicator);
uint64_t cpu_communicator_calls(const libsched_device_communicator *communicator);

/* cpu_collectives.c */
int cpu_all_reduce(libsched_device *device, libsched_device_communicator *communicator,
                   const libsched_device_collective_args *args, libsched_error *err);
int cpu_broadcast(libsched_device *device, libsched_device_communicator *communicator,
                  const libsched_device_collective_args *args, libsched_error *err);
int cpu_all_gather(libsched_device *device, libsched_device_communicator *communicator,
                   const libsched_device_collective_args *args, libsched_error *err);
int cpu_reduce_scatter(libsched_device *device, libsched_device_communicator *communicator,
                       const libsched_device_collective_args *args, libsched_error *err);
int cpu_barrier(libsched_device *device, libsched_device_communicator *communicator,
                libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
