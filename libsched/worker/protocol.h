/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records of the two rings. Their payloads are written with wire.h, in this order.
 */
#ifndef WORKER_PROTOCOL_H
#define WORKER_PROTOCOL_H

#include <stdint.h>

/* Commands, host to worker. */
enum protocol_command {
    /* string name, plugin_path (or none), driver (or none); u32 ordinal; string pci_bus_id (or
     * none), cpus (or none); u32 threads. Always the first. */
    COMMAND_SETUP = 1,
    /* u32 key; string name, engine, library (or none), path (or none); u32 prepare_only,
     * n_parameters; parameters; struct protocol_share. */
    COMMAND_LOAD,
    /* u32 key. */
    COMMAND_UNLOAD,
    /* struct protocol_run; u64 ids that stay, u64 ids that leave; then each item that joins:
     * struct protocol_item, its inputs (string name; u32 datatype; shape; u32 segment; u64 offset,
     * size), its parameters. */
    COMMAND_RUN,
    /* u32 segment. */
    COMMAND_DROP_SEGMENT,
    /* struct protocol_rank; string name, program, library (or none); parameters. */
    COMMAND_RANK_CHECK,
    COMMAND_RANK_START,
    /* u64 job; LIBSCHED_COMMUNICATOR_ID_SIZE bytes. */
    COMMAND_RANK_ID,
    /* u64 job, step. */
    COMMAND_RANK_STEP,
    /* u64 job. */
    COMMAND_RANK_CLOSE,
    /* u64 job; u32 kept, segment (where kept is 0). To a rank that has said EVENT_RANK_KEPT. */
    COMMAND_RANK_GO,
    /* u32 key; i32 status; LIBSCHED_COMMUNICATOR_ID_SIZE bytes: of a load with others. */
    COMMAND_LOAD_ID,
};

struct protocol_run {
    uint64_t batch;
    uint32_t key, step;
    uint32_t prepare, ends;
    uint32_t n_joins, n_stays, n_leaves;
    uint32_t n_inputs, n_parameters; /* of all items that join */
};

struct protocol_item {
    uint64_t id, units, deadline;
    uint32_t slot; /* of its flag among the cancelled */
    uint32_t n_inputs, n_parameters;
    uint32_t reserved;
};

struct protocol_rank {
    uint64_t job, timeout_ns;
    uint32_t rank, n_ranks;
    uint32_t segment; /* PROTOCOL_NO_SEGMENT: none */
    uint32_t n_parameters;
    /* The ranks' communicator should be there, from a job before that had this segment: the rank
     * says whether it is, and waits to be told to go. */
    uint32_t kept;
    uint32_t reserved;
};

/* A load in which several workers take part. */
struct protocol_share {
    uint64_t id, timeout_ns; /* of the load, unlike all before it; that one waits for the others */
    uint32_t rank, n_ranks;  /* n_ranks 0: it is loaded alone */
    uint32_t segment, reserved;
};

#define PROTOCOL_NO_SEGMENT UINT32_MAX

/* Events, worker to host. */
enum protocol_event {
    /* Nothing. */
    EVENT_UP = 1,
    /* u32 key; i32 status; string message; u64 memory_bytes; with LIBSCHED_OK the
     * libsched_engine_description. */
    EVENT_LOADED,
    /* u32 key. */
    EVENT_UNLOADED,
    /* u64 batch, id; outputs. */
    EVENT_PART,
    /* u64 batch, id, units, batch_key; i32 status; string message; outputs. */
    EVENT_ITEM,
    /* u64 batch, id: an item left its session without an end. */
    EVENT_DROPPED,
    /* u64 batch; u32 step; i32 status; string message; u64 begin, end. */
    EVENT_STEP,
    /* u64 free_bytes. */
    EVENT_MEMORY,
    /* string line. */
    EVENT_LOG,
    /* u64 job; i32 status; string message (with LIBSCHED_OK the program's text); u64
     * memory_bytes. */
    EVENT_RANK_CHECKED,
    /* u64 job; LIBSCHED_COMMUNICATOR_ID_SIZE bytes. */
    EVENT_RANK_ID,
    /* u64 job; i32 status; string message. */
    EVENT_RANK_STARTED,
    /* u64 job, step; i32 status; string message; u32 finished; u64 begin, end. */
    EVENT_RANK_STEPPED,
    /* u64 job. */
    EVENT_RANK_CLOSED,
    /* u64 job, done, total; string message (or none). */
    EVENT_PROGRESS,
    /* u64 job; one parameter. */
    EVENT_RESULT,
    /* u64 job; u32 has; u64 calls: whether the communicator is there, and what was called on it. */
    EVENT_RANK_KEPT,
    /* Nothing: communicators that were kept have gone, since there was no memory. */
    EVENT_FORGOT,
    /* u32 key; i32 status; LIBSCHED_COMMUNICATOR_ID_SIZE bytes: of a load with others. */
    EVENT_LOAD_ID,
};

/* Outputs: u32 handle (PROTOCOL_NO_RESULTS: none), u32 n; each: string name; u32 datatype; shape;
 * u64 offset, size (in the result memory). */
#define PROTOCOL_NO_RESULTS UINT32_MAX

/* A message on the control socket: as many of these as it carries descriptors; or a single one
 * without a descriptor, by which a rank hears in the middle of a step that its job is cancelled, or
 * a worker that those with whom it loads a model do not come. */
struct protocol_segment {
    uint32_t id; /* of this passing: a segment that is passed again gets another */
    uint32_t flags;
    uint64_t size; /* PROTOCOL_CANCEL: the job */
};

enum protocol_segment_flags {
    PROTOCOL_WRITABLE = 1u << 0,    /* the worker may write to it */
    PROTOCOL_CANCEL = 1u << 1,      /* no segment */
    PROTOCOL_CANCEL_LOAD = 1u << 2, /* no segment either; the size is the load's id */
    PROTOCOL_LASTING = 1u << 3,     /* it stays as long as the host, which has sealed it */
};

#define PROTOCOL_MAX_SEGMENTS 64u

#endif
