/* SPDX-License-Identifier: Apache-2.0 */
#include "program/registry.h"

#include <inttypes.h>
#include <string.h>

#include "engine/plugin.h"
#include "program/allreduce.h"
#include "program/embed.h"
#include "program/gemm.h"
#include "program/train.h"

/* The programs that come with the library. */
static const libsched_program *(*const builtins[])(void) = {
    program_gemm,
    program_allreduce,
    program_train,
    program_embed,
};

const libsched_program *program_find_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof(builtins) / sizeof(builtins[0]); i++)
        if (strcmp(builtins[i]()->name, name) == 0)
            return builtins[i]();
    return NULL;
}

/* What every program of this ABI has to have. */
static int check(const libsched_program *program, const char *path, libsched_error *err)
{
    if (program->abi_version != LIBSCHED_PROGRAM_ABI)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s was built for version %" PRIu32
                                  " of the program interface, this library has %d: rebuild it",
                                  path, program->abi_version, LIBSCHED_PROGRAM_ABI);
    if (program->struct_size < sizeof(libsched_program))
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s has a program table of %" PRIu32
                                  " bytes, %zu are needed: rebuild it",
                                  path, program->struct_size, sizeof(libsched_program));
    const char *missing = program->name == NULL    ? "name"
                          : program->check == NULL ? "check"
                          : program->start == NULL ? "start"
                          : program->step == NULL  ? "step"
                          : program->close == NULL ? "close"
                                                   : NULL;
    if (missing != NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE, "plugin %s has a program without %s()",
                                  path, missing);
    return LIBSCHED_OK;
}

static int load_plugin(const libsched_program **out, const char *path, libsched_error *err)
{
    libsched_program_entry_fn entry;
    void *function;
    int status = plugin_load(&function, path, "program", LIBSCHED_PROGRAM_ENTRY, err);
    if (status < 0)
        return status;
    memcpy(&entry, &function, sizeof(entry));
    const libsched_program *program = entry(LIBSCHED_PROGRAM_ABI);
    if (program == NULL)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "plugin %s can't serve version %d of the program interface: "
                                  "install one that was built for this library",
                                  path, LIBSCHED_PROGRAM_ABI);
    status = check(program, path, err);
    if (status == LIBSCHED_OK)
        *out = program;
    return status;
}

int program_find(const libsched_program **builtin, char *path, size_t size, const char *name,
                 const char *plugin_path, libsched_error *err)
{
    *builtin = NULL;
    if (!plugin_acceptable_name(name))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%.64s\" can't be a program's name: letters, digits, '.', '_' "
                                  "and '-' can",
                                  name);
    *builtin = program_find_builtin(name);
    if (*builtin != NULL || plugin_search(path, size, "program", name, plugin_path))
        return LIBSCHED_OK;
    if (plugin_path == NULL || plugin_path[0] == '\0')
        return libsched_error_set(err, LIBSCHED_ENOENT,
                                  "no program \"%s\": gemm, allreduce, train and embed are built "
                                  "in, and there is no folder of plugins",
                                  name);
    return libsched_error_set(err, LIBSCHED_ENOENT,
                              "no program \"%s\": gemm, allreduce, train and embed are built in, "
                              "and there is no libsched-program-%s.so in %s",
                              name, name, plugin_path);
}

int program_resolve(const libsched_program **out, const char *name, const char *library,
                    const char *plugin_path, libsched_error *err)
{
    char path[PROGRAM_PATH_SIZE];
    if (library != NULL)
        return load_plugin(out, library, err);
    int status = program_find(out, path, sizeof(path), name, plugin_path, err);
    if (status == LIBSCHED_OK && *out == NULL)
        status = load_plugin(out, path, err);
    return status;
}
