/* SPDX-License-Identifier: Apache-2.0 */
/* Engines that can't be used, each for one reason: see CMakeLists.txt. */
#include <libsched/engine.h>

#ifndef ABI_VERSION
#define ABI_VERSION LIBSCHED_ENGINE_ABI
#endif
#ifndef STRUCT_SIZE
#define STRUCT_SIZE sizeof(libsched_engine)
#endif
#ifndef ENTRY
#define ENTRY libsched_engine_entry
#endif

static int broken_open(libsched_engine_model **out, const libsched_engine_open_args *args,
                       libsched_error *err)
{
    (void)out;
    (void)args;
    (void)err;
    return LIBSCHED_ENOTSUP;
}

static int broken_describe(libsched_engine_model *model, libsched_engine_description *out,
                           libsched_error *err)
{
    (void)model;
    (void)out;
    (void)err;
    return LIBSCHED_ENOTSUP;
}

static void broken_close(libsched_engine_model *model)
{
    (void)model;
}

#ifndef INCOMPLETE
static int broken_step(libsched_engine_model *model, libsched_engine_batch *batch,
                       const libsched_engine_host *host, libsched_error *err)
{
    (void)model;
    (void)batch;
    (void)host;
    (void)err;
    return LIBSCHED_ENOTSUP;
}
#endif

LIBSCHED_API const libsched_engine *ENTRY(uint32_t abi);

const libsched_engine *ENTRY(uint32_t abi)
{
    static const libsched_engine table = {
        .abi_version = ABI_VERSION,
        .struct_size = STRUCT_SIZE,
        .name = "broken",
        .open = broken_open,
        .describe = broken_describe,
        .close = broken_close,
#ifndef INCOMPLETE
        .step = broken_step,
#endif
    };
    (void)abi;
#ifdef UNWILLING
    (void)table;
    return 0;
#else
    return &table;
#endif
}
