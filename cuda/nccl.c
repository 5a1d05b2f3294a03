/* SPDX-License-Identifier: Apache-2.0 */
#include "nccl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifndef CUDA_NCCL_LIBRARY
#define CUDA_NCCL_LIBRARY "libnccl.so.2"
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct nccl table;
static bool loaded;

static int load(const char *name, struct nccl *out, libsched_error *err)
{
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
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "GPUs can't work together without NCCL: %s (install libnccl2, or "
                                  "name the library in GPU_SCHED_NCCL)",
                                  dlerror());
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *function = dlsym(library, symbols[i].name);

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
    return LIBSCHED_OK;
}

int nccl_get(const struct nccl **out, libsched_error *err)
{
    const char *name = getenv("GPU_SCHED_NCCL");
    int status = LIBSCHED_OK;

    if (name == NULL || name[0] == '\0')
        name = CUDA_NCCL_LIBRARY;
    pthread_mutex_lock(&mutex);
    if (!loaded) {
        struct nccl fresh = {0};

        status = load(name, &fresh, err);
        if (status == LIBSCHED_OK) {
            table = fresh;
            loaded = true;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (status == LIBSCHED_OK)
        *out = &table;
    return status;
}
