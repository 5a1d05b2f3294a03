/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the ranks on one host tell each other beside NCCL, in memory that they share: which
 * operation each has come to, and that somebody has given up. NCCL has neither: ranks that call
 * different things wait for each other for ever, and an abort is heard of by the rank's own
 * communicator only.
 *
 * What others write is compared, and never an index or a length.
 */
#ifndef CUDA_MEETING_H
#define CUDA_MEETING_H

#include "internal.h"

#define MEETING_MAX_RANKS 1024u

enum meeting_operation {
    MEETING_CREATE = 1,
    MEETING_BARRIER,
    MEETING_ALL_REDUCE,
    MEETING_BROADCAST,
    MEETING_ALL_GATHER,
    MEETING_REDUCE_SCATTER,
};

enum meeting_end { MEETING_ABORTED = 1, MEETING_TIMEOUT, MEETING_DIFFERENT };

/* What a rank calls: the same for all of them. */
struct meeting_call {
    uint32_t operation, datatype, reduction, root;
    uint64_t count;
};

struct meeting_memory;

struct meeting {
    struct meeting_memory *memory; /* NULL: the ranks share none, and find nothing out here */
    uint32_t rank, n_ranks;
    uint64_t calls; /* that this rank has announced */
};

const char *meeting_operation_name(uint32_t operation);
/* Takes the rank's place. */
int meeting_enter(struct meeting *meeting, const libsched_device_communicator_args *args,
                  libsched_error *err);
/* Says what this rank calls next. LIBSCHED_EINVAL where another one called something else there. */
int meeting_announce(struct meeting *meeting, const struct meeting_call *call, libsched_error *err);
/* All ranks hear that it is over; the first reason stands. */
void meeting_end(struct meeting *meeting, enum meeting_end why);
/* LIBSCHED_OK, or why it is over; `operation` is what is waited for. */
int meeting_look(const struct meeting *meeting, uint32_t operation, libsched_error *err);
/* The first rank that has not come to this one's latest call; n_ranks: all have, or it is not
 * known. */
uint32_t meeting_missing(const struct meeting *meeting);

#endif
