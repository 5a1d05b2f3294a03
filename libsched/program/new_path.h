/* SPDX-License-Identifier: Apache-2.0 */
/* Where a program is to write something new. */
#ifndef PROGRAM_NEW_PATH_H
#define PROGRAM_NEW_PATH_H

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a file or folder (`what`, for messages) can be made at `path`, which `option` of the
 * program named: there is nothing yet, and its parent is a folder that can be written to. */
int new_path_check(const char *path, const char *program, const char *option, const char *what,
                   libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
