/* SPDX-License-Identifier: Apache-2.0 */
#include "nccl.h"

#include <dlfcn.h>
#include <string.h>

#include "library.h"

#ifndef CUDA_NCCL_LIBRARY
#define CUDA_NCCL_LIBRARY "libnccl.so.2"
#endif

static struct nccl table;

static int load(const char *name, libsched_error *err)
{
    struct nccl fresh = {0}, *out = &fresh;
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"ncclGetVersion", &out->get_version},    {"ncclGetErrorString", &out->get_error_string},
        {"ncclGetUniqueId", &out->get_unique_id}, {"ncclCommInitRankConfig", &out->init},
        {"ncclCommFinalize", &out->finalize},     {"ncclCommDestroy", &out->destroy},
        {"ncclCommAbort", &out->abort},           {"ncclCommGetAsyncError", &out->get_async_error},
        {"ncclAllReduce", &out->all_reduce},      {"ncclBroadcast", &out->broadcast},
        {"ncclAllGather", &out->all_gather},      {"ncclReduceScatter", &out->reduce_scatter},
    };
    /* Never closed: it may have threads. */
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (handle == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "GPUs can't work together without NCCL: %s (install libnccl2, or "
                                  "name the library in GPU_SCHED_NCCL)",
                                  dlerror());
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *function = dlsym(handle, symbols[i].name);

        if (function == NULL)
            return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                      "%s is no NCCL that can be used: it "
                                      "lacks %s",
                                      name, symbols[i].name);
        memcpy(symbols[i].to, &function, sizeof(function));
    }
    if (out->get_version(&out->version) != NCCL_SUCCESS || out->version < NCCL_MIN_VERSION)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "%s is NCCL %d, 2.18 (%d) or later is needed", name, out->version,
                                  NCCL_MIN_VERSION);
    table = fresh;
    return LIBSCHED_OK;
}

static struct cuda_library library = {
    .variable = "GPU_SCHED_NCCL",
    .name = CUDA_NCCL_LIBRARY,
    .load = load,
    .mutex = PTHREAD_MUTEX_INITIALIZER,
};

int nccl_get(const struct nccl **out, libsched_error *err)
{
    int status = cuda_library_need(&library, err);

    if (status == LIBSCHED_OK)
        *out = &table;
    return status;
}
