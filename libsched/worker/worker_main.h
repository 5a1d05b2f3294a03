/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker process: all of sched-worker, which is only a main() for it, so that both come from
 * one build.
 */
#ifndef WORKER_WORKER_MAIN_H
#define WORKER_WORKER_MAIN_H

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Exit statuses of a worker process, as sysexits.h has them. */
#define WORKER_EXIT_USAGE 64
#define WORKER_EXIT_FAULT 70

/* Runs the worker that the descriptors 3 to 8 belong to (worker/channel.h) to its end, and answers
 * the status to exit with. Not for use by programs. */
LIBSCHED_API int libsched_worker_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
