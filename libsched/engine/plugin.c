/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/registry.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* What every engine of this ABI has to have. */
static int check(const libsched_engine *engine, const char *path, libsched_error *err)
{
    if (engine->abi_version != LIBSCHED_ENGINE_ABI)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s was built for version %" PRIu32
                                  " of the engine interface, this library has %d: rebuild it",
                                  path, engine->abi_version, LIBSCHED_ENGINE_ABI);
    if (engine->struct_size < sizeof(libsched_engine))
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s has an engine table of %" PRIu32
                                  " bytes, %zu are needed: rebuild it",
                                  path, engine->struct_size, sizeof(libsched_engine));
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

int engine_load_plugin(const libsched_engine **out, const char *path, libsched_error *err)
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
    libsched_engine_entry_fn entry;
    void *symbol = dlsym(library, LIBSCHED_ENGINE_ENTRY);
    /* An object pointer that is a function pointer: POSIX's own way round the C standard. */
    memcpy(&entry, &symbol, sizeof(entry));
    if (entry == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s is no engine: it does not export %s()", path,
                                  LIBSCHED_ENGINE_ENTRY);
    const libsched_engine *engine = entry(LIBSCHED_ENGINE_ABI);
    if (engine == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s can't serve version %d of the engine interface: "
                                  "install one that was built for this library",
                                  path, LIBSCHED_ENGINE_ABI);
    int status = check(engine, path, err);
    if (status == LIBSCHED_OK)
        *out = engine;
    return status;
}
