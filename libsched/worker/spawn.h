/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a worker's process.
 */
#ifndef WORKER_SPAWN_H
#define WORKER_SPAWN_H

#include <sys/types.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Starts the program `path` (absolute) with `name` as its argument and the `n` descriptors `fds` as
 * 3, 4, 5 ... It gets /dev/null as its input, this process's standard error as its output and
 * error, no other descriptor, default signal handling, and a process group of its own, so that a
 * Ctrl-C is not for it. Its environment is this process's, with `settings` ("NAME=VALUE", NULL
 * behind the last; NULL: none) in the place of those of the same names. `*pidfd` is the caller's.
 */
int spawn_process(pid_t *pid, int *pidfd, const char *path, const char *name, const int *fds, int n,
                  char *const *settings, libsched_error *err);

/* Says in words how a process ended, from what waitid() answered. */
void spawn_describe_exit(char *text, size_t size, int code, int status);

#ifdef __cplusplus
}
#endif

#endif
