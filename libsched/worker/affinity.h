/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binding to cores.
 */
#ifndef WORKER_AFFINITY_H
#define WORKER_AFFINITY_H

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Binds the calling thread, and those it starts from now on, to a list of cores ("0-3,8"). */
int affinity_bind(const char *cpus, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
