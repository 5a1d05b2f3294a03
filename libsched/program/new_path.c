/* SPDX-License-Identifier: Apache-2.0 */
#include "program/new_path.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Room behind the path for what is written under a name of its own at first. */
#define SUFFIX 16

int new_path_check(const char *path, const char *program, const char *option, const char *what,
                   libsched_error *err)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    struct stat info;
    size_t length = strlen(path);

    if (length >= sizeof(parent) - SUFFIX || slash == NULL || slash[1] == '\0')
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: \"%s\" has to be the path of a new %s, got \"%.64s\"",
                                  program, option, what, path);
    if (lstat(path, &info) == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: \"%s\": %.160s is there already: name a new %s", program,
                                  option, path, what);
    snprintf(parent, sizeof(parent), "%.*s", slash > path ? (int)(slash - path) : 1, path);
    if (stat(parent, &info) != 0 || !S_ISDIR(info.st_mode) || access(parent, W_OK | X_OK) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: \"%s\": %.160s is not a folder that can be written to",
                                  program, option, parent);
    return LIBSCHED_OK;
}
