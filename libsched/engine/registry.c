/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/registry.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "engine/encoder.h"
#include "engine/plugin.h"
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

/* ------------------------------------------------------------------------------------- plugins */

/* A step in two parts came later. */
#define SIZE_WITHOUT_BEGIN offsetof(libsched_engine, begin)

bool engine_has_begin(const libsched_engine *engine)
{
    return LIBSCHED_HAS(libsched_engine, engine, finish) && engine->begin != NULL &&
           engine->finish != NULL;
}

/* What every engine of this ABI has to have. */
static int check(const libsched_engine *engine, const char *path, libsched_error *err)
{
    if (engine->abi_version != LIBSCHED_ENGINE_ABI)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s was built for version %" PRIu32
                                  " of the engine interface, this library has %d: rebuild it",
                                  path, engine->abi_version, LIBSCHED_ENGINE_ABI);
    if (engine->struct_size < SIZE_WITHOUT_BEGIN)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s has an engine table of %" PRIu32
                                  " bytes, %zu are needed: rebuild it",
                                  path, engine->struct_size, SIZE_WITHOUT_BEGIN);
    const char *missing = engine->name == NULL       ? "name"
                          : engine->open == NULL     ? "open"
                          : engine->describe == NULL ? "describe"
                          : engine->close == NULL    ? "close"
                          : engine->step == NULL     ? "step"
                                                     : NULL;
    if (missing != NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE, "plugin %s has an engine without %s()",
                                  path, missing);
    return LIBSCHED_OK;
}

static int load_plugin(const libsched_engine **out, const char *path, libsched_error *err)
{
    libsched_engine_entry_fn entry;
    void *function;
    int status = plugin_load(&function, path, "engine", LIBSCHED_ENGINE_ENTRY, err);
    if (status < 0)
        return status;
    /* An object pointer that is a function pointer: POSIX's own way round the C standard. */
    memcpy(&entry, &function, sizeof(entry));
    const libsched_engine *engine = entry(LIBSCHED_ENGINE_ABI);
    if (engine == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s can't serve version %d of the engine interface: "
                                  "install one that was built for this library",
                                  path, LIBSCHED_ENGINE_ABI);
    status = check(engine, path, err);
    if (status == LIBSCHED_OK)
        *out = engine;
    return status;
}

int engine_resolve(const libsched_engine **out, const char *name, const char *library,
                   const char *plugin_path, libsched_error *err)
{
    if (library != NULL)
        return load_plugin(out, library, err);
    if (!plugin_acceptable_name(name))
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "\"%s\" can't be an engine's name: letters, digits, '.', '_' and "
                                  "'-' can",
                                  name);
    *out = engine_find_builtin(name);
    if (*out != NULL)
        return LIBSCHED_OK;
    char path[4096];
    if (plugin_search(path, sizeof(path), "engine", name, plugin_path))
        return load_plugin(out, path, err);
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
