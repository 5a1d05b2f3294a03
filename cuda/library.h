/* SPDX-License-Identifier: Apache-2.0 */
/* A library that is loaded when it is first needed, once a process, and never closed. */
#ifndef CUDA_LIBRARY_H
#define CUDA_LIBRARY_H

#include <pthread.h>
#include <stdbool.h>

#include <libsched/status.h>

struct cuda_library {
    const char *variable; /* of the environment, which may name it */
    const char *name;     /* or else */
    /* Loads the library `name` and keeps what it has; after a failure it is called again the next
     * time. */
    int (*load)(const char *name, libsched_error *err);
    pthread_mutex_t mutex;
    bool loaded;
};

/* Whether it is there: LIBSCHED_OK, or what load() answered. */
int cuda_library_need(struct cuda_library *library, libsched_error *err);

#endif
