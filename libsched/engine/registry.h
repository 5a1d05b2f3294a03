/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines by name: those built in, and those that plugins bring.
 */
#ifndef ENGINE_REGISTRY_H
#define ENGINE_REGISTRY_H

#include <libsched/engine.h>
#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The built-in engine of a name, or NULL. The tables live as long as the process. */
const libsched_engine *engine_find_builtin(const char *name);

/* Whether its steps can be begun while one before is under way. */
bool engine_has_begin(const libsched_engine *engine);

/*
 * The engine to use for a name: of the plugin `library` (an absolute path) where there is one, else
 * the built-in one, else libsched-engine-NAME.so in the first folder of `plugin_path` (absolute,
 * separated by ':', or NULL) that has it. LIBSCHED_EENGINE says what was looked for, or why a
 * plugin can't be used.
 */
int engine_resolve(const libsched_engine **out, const char *name, const char *library,
                   const char *plugin_path, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
