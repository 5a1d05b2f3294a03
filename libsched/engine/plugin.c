/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <libsched/tensor.h>

bool plugin_acceptable_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < LIBSCHED_NAME_SIZE && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               length;
}

bool plugin_search(char *path, size_t size, const char *kind, const char *name,
                   const char *plugin_path)
{
    for (const char *at = plugin_path; at != NULL && *at != '\0';) {
        size_t length = strcspn(at, ":");
        /* Never what the current folder happens to hold. */
        if (length > 0 && at[0] == '/') {
            int n = snprintf(path, size, "%.*s/libsched-%s-%s.so", (int)length, at, kind, name);
            if (n > 0 && (size_t)n < size && access(path, F_OK) == 0)
                return true;
        }
        at += length;
        at += *at == ':';
    }
    return false;
}

int plugin_load(void **function, const char *path, const char *kind, const char *entry,
                libsched_error *err)
{
    if (path[0] != '/')
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin \"%s\" has to be named by its absolute path", path);
    if (access(path, R_OK) < 0)
        return libsched_error_set(err, LIBSCHED_EENGINE, "plugin %s: %m", path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *reason = dlerror();
        return libsched_error_set(err, LIBSCHED_EENGINE, "plugin can't be loaded: %s",
                                  reason != NULL ? reason : path);
    }
    *function = dlsym(library, entry);
    if (*function == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s is no %s: it does not export %s()", path, kind, entry);
    return LIBSCHED_OK;
}
