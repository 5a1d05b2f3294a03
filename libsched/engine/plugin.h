/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plugins: shared libraries that bring engines or programs. They are found by name in folders, and
 * never unloaded: their threads may live on.
 */
#ifndef ENGINE_PLUGIN_H
#define ENGINE_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a name may become part of a file's name. */
bool plugin_acceptable_name(const char *name);

/* Finds libsched-KIND-NAME.so in the first folder of `plugin_path` (absolute, separated by ':', or
 * NULL) that has it; false where none does. */
bool plugin_search(char *path, size_t size, const char *kind, const char *name,
                   const char *plugin_path);

/* Loads the plugin at an absolute path and finds the function `entry`. `kind` is what it is
 * expected to be, for messages: "engine". LIBSCHED_EENGINE says why it can't be used. */
int plugin_load(void **function, const char *path, const char *kind, const char *entry,
                libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
