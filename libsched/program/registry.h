/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs by name: those built in, and those that plugins bring.
 */
#ifndef PROGRAM_REGISTRY_H
#define PROGRAM_REGISTRY_H

#include <libsched/engine.h>
#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The built-in program of a name, or NULL. The tables live as long as the process. */
const libsched_program *program_find_builtin(const char *name);

/* What the path of a plugin has room in. */
#define PROGRAM_PATH_SIZE 4096

/*
 * Whether there is a program of that name, without loading it: the built-in one in `*builtin`, or,
 * that being NULL, the path of its plugin. Errors as below.
 */
int program_find(const libsched_program **builtin, char *path, size_t size, const char *name,
                 const char *plugin_path, libsched_error *err);

/*
 * The program to use for a name: of the plugin `library` (an absolute path) where there is one,
 * else the built-in one, else libsched-program-NAME.so in the first folder of `plugin_path`
 * (absolute, separated by ':', or NULL) that has it. LIBSCHED_ENOENT: there is none of that name,
 * and the message says what was looked for; LIBSCHED_EENGINE: a plugin that can't be used;
 * LIBSCHED_EINVAL: what is no name.
 */
int program_resolve(const libsched_program **out, const char *name, const char *library,
                    const char *plugin_path, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
