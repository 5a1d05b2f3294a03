/* SPDX-License-Identifier: Apache-2.0 */
/* A device plugin that can be loaded and nothing more; with PLUGIN_OLD, one of another version. */
#include <libsched/device.h>

#ifdef PLUGIN_OLD
#define ABI (LIBSCHED_DEVICE_ABI - 1)
#define NAME "old"
#else
#define ABI LIBSCHED_DEVICE_ABI
#define NAME "toy"
#endif

const libsched_device_driver *libsched_device_entry(uint32_t abi)
{
    static const libsched_device_driver driver = {
        .abi_version = ABI,
        .struct_size = sizeof(libsched_device_driver),
        .name = NAME,
    };

    (void)abi;
    return &driver;
}
