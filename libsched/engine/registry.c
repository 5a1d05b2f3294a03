/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/registry.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/encoder.h"
#include "engine/synthetic.h"

/* The engines that come with the library. */
static const libsched_engine *(*const builtin[])(void) = {
    engine_encoder,
    engine_synthetic,
};

const libsched_engine *engine_find_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof(builtin) / sizeof(builtin[0]); i++)
        if (strcmp(builtin[i]()->name, name) == 0)
            return builtin[i]();
    return NULL;
}

/* A name becomes part of a file's name. */
static bool acceptable(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < LIBSCHED_NAME_SIZE && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               length;
}

/* The path of a plugin in the first folder that has it; false where none does. */
static bool search(char *path, size_t size, const char *name, const char *plugin_path)
{
    for (const char *at = plugin_path; at != NULL && *at != '\0';) {
        size_t length = strcspn(at, ":");
        /* Never what the current folder happens to hold. */
        if (length > 0 && at[0] == '/') {
            int n = snprintf(path, size, "%.*s/libsched-engine-%s.so", (int)length, at, name);
            if (n > 0 && (size_t)n < size && access(path, F_OK) == 0)
                return true;
        }
        at += length;
        at += *at == ':';
    }
    return false;
}

int engine_resolve(const libsched_engine **out, const char *name, const char *library,
                   const char *plugin_path, libsched_error *err)
{
    if (library != NULL)
        return engine_load_plugin(out, library, err);
    if (!acceptable(name))
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "\"%s\" can't be an engine's name: letters, digits, '.', '_' and "
                                  "'-' can",
                                  name);
    *out = engine_find_builtin(name);
    if (*out != NULL)
        return LIBSCHED_OK;
    char path[4096];
    if (search(path, sizeof(path), name, plugin_path))
        return engine_load_plugin(out, path, err);
    if (plugin_path == NULL || plugin_path[0] == '\0')
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "no engine \"%s\": it is not built in, and there is no folder of "
                                  "plugins",
                                  name);
    return libsched_error_set(err, LIBSCHED_EENGINE,
                              "no engine \"%s\": it is not built in, and there is no "
                              "libsched-engine-%s.so in %s",
                              name, name, plugin_path);
}
