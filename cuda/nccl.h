/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL, as far as it is needed, declared here: its header is not everywhere where CUDA's is, and
 * the library is only looked for when ranks are to find each other.
 */
#ifndef CUDA_NCCL_H
#define CUDA_NCCL_H

#include "internal.h"

struct nccl_communicator;

typedef struct nccl_id {
    char bytes[128];
} nccl_id;

/* What ncclResult_t, ncclDataType_t and ncclRedOp_t have. */
enum {
    NCCL_SUCCESS = 0,
    NCCL_CUDA_ERROR = 1,
    NCCL_INVALID_ARGUMENT = 4,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7,
};
enum { NCCL_UINT8 = 1, NCCL_FLOAT32 = 7, NCCL_BFLOAT16 = 9 };
enum { NCCL_SUM = 0, NCCL_MAX = 2 };

#define NCCL_UNDEFINED INT32_MIN
#define NCCL_CONFIG_MAGIC 0xcafebeefu
/* What the struct is as of: later versions read no more of it, and fill in the rest. */
#define NCCL_CONFIG_VERSION 21800u
#define NCCL_MIN_VERSION 21800

struct nccl_config {
    size_t size;
    unsigned int magic, version;
    int blocking, cluster_size, min_ctas, max_ctas;
    const char *network;
    int split_share;
    int later; /* where later versions have something else: undefined */
};

/* Never blocks; all else as NCCL likes. */
#define NCCL_CONFIG_INIT                                                                       \
    {                                                                                          \
        .size = sizeof(struct nccl_config), .magic = NCCL_CONFIG_MAGIC,                        \
        .version = NCCL_CONFIG_VERSION, .blocking = 0, .cluster_size = NCCL_UNDEFINED,         \
        .min_ctas = NCCL_UNDEFINED, .max_ctas = NCCL_UNDEFINED, .split_share = NCCL_UNDEFINED, \
        .later = NCCL_UNDEFINED,                                                               \
    }

struct nccl {
    int version; /* 22809: 2.28.9 */
    int (*get_version)(int *version);
    const char *(*get_error_string)(int result);
    int (*get_unique_id)(nccl_id *id);
    int (*init)(struct nccl_communicator **out, int n_ranks, nccl_id id, int rank,
                struct nccl_config *config);
    int (*finalize)(struct nccl_communicator *communicator);
    int (*destroy)(struct nccl_communicator *communicator);
    int (*abort)(struct nccl_communicator *communicator);
    int (*get_async_error)(struct nccl_communicator *communicator, int *result);
    int (*all_reduce)(const void *from, void *to, size_t n, int type, int operation,
                      struct nccl_communicator *communicator, cudaStream_t stream);
    int (*broadcast)(const void *from, void *to, size_t n, int type, int root,
                     struct nccl_communicator *communicator, cudaStream_t stream);
    int (*all_gather)(const void *from, void *to, size_t n, int type,
                      struct nccl_communicator *communicator, cudaStream_t stream);
    int (*reduce_scatter)(const void *from, void *to, size_t n, int type, int operation,
                          struct nccl_communicator *communicator, cudaStream_t stream);
};

/* Loads it, once: the library that GPU_SCHED_NCCL names, else libnccl.so.2. LIBSCHED_ENOTSUP where
 * it is not there or too old. */
int nccl_get(const struct nccl **out, libsched_error *err);

#endif
