/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the driver of a kind of device: the one built in, or a plugin's. */
#ifndef DEVICE_LOADER_H
#define DEVICE_LOADER_H

#include <libsched/device.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The driver called `name`. "cpu" is built in; any other is the plugin libsched-device-NAME.so in
 * one of the folders of plugin_path (absolute, parted by ':'; NULL: none), the first that has it.
 * A plugin is never unloaded: it may have threads.
 *
 * LIBSCHED_ENODEVICE: there is none of that name. LIBSCHED_ENOTSUP: there is, but it was built for
 * another version, or is no driver, or a library it needs is missing; the message says which.
 */
int device_find_driver(const libsched_device_driver **out, const char *name,
                       const char *plugin_path, libsched_error *err);

/* Whether a driver has all collectives but communicator_id(), which it need not have. */
bool device_has_collectives(const libsched_device_driver *driver);

/* What a rank has called on a communicator; 0 where the driver does not count. */
uint64_t device_communicator_calls(const libsched_device_driver *driver,
                                   const libsched_device_communicator *communicator);

/* Whether the instruments of its devices can be read. */
bool device_has_readings(const libsched_device_driver *driver);

/* Whether it wants to know of memory that will be copied from and to. */
bool device_has_host_memory(const libsched_device_driver *driver);

#ifdef __cplusplus
}
#endif

#endif
