/* SPDX-License-Identifier: Apache-2.0 */
#include "device/loader.h"

#include <dlfcn.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/cpu.h"

/* Letters, digits and underscores: nothing that leaves a folder. */
static bool valid_name(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return length > 0 && length < LIBSCHED_NAME_SIZE && name[length] == '\0';
}

/* Collectives came later than the rest. */
#define SIZE_WITHOUT_COLLECTIVES offsetof(libsched_device_driver, communicator_id)

bool device_has_collectives(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, barrier) &&
           driver->communicator_create != NULL && driver->communicator_destroy != NULL &&
           driver->communicator_abort != NULL && driver->all_reduce != NULL &&
           driver->broadcast != NULL && driver->all_gather != NULL &&
           driver->reduce_scatter != NULL && driver->barrier != NULL;
}

uint64_t device_communicator_calls(const libsched_device_driver *driver,
                                   const libsched_device_communicator *communicator)
{
    if (!LIBSCHED_HAS(libsched_device_driver, driver, communicator_calls) ||
        driver->communicator_calls == NULL)
        return 0;
    return driver->communicator_calls(communicator);
}

bool device_has_readings(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, readings) && driver->readings != NULL;
}

bool device_has_host_memory(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, host_unregister) &&
           driver->host_register != NULL && driver->host_unregister != NULL;
}

/* The plugin's table, once it is known to be one that we can use. */
static int check_driver(const libsched_device_driver *driver, const char *name, const char *path,
                        libsched_error *err)
{
    if (driver == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "%s does not serve device ABI %d: build it again", path,
                                  LIBSCHED_DEVICE_ABI);
    if (driver->abi_version != LIBSCHED_DEVICE_ABI ||
        driver->struct_size < SIZE_WITHOUT_COLLECTIVES)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "%s has device ABI %u and a table of %u bytes, not %d and %zu: "
                                  "build it again",
                                  path, driver->abi_version, driver->struct_size,
                                  LIBSCHED_DEVICE_ABI, SIZE_WITHOUT_COLLECTIVES);
    if (driver->name == NULL || strcmp(driver->name, name) != 0)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "%s holds driver \"%s\", not \"%s\"", path,
                                  driver->name != NULL ? driver->name : "", name);
    return LIBSCHED_OK;
}

static int load(const libsched_device_driver **out, const char *name, const char *path,
                libsched_error *err)
{
    libsched_device_entry_fn entry;
    const libsched_device_driver *driver;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int status;

    if (library == NULL)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "cannot load a device driver: %s",
                                  dlerror());
    entry = (libsched_device_entry_fn)dlsym(library, LIBSCHED_DEVICE_ENTRY);
    if (entry == NULL) {
        /* Nothing of it has run but its constructors. */
        dlclose(library);
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "%s is no device driver: it lacks %s",
                                  path, LIBSCHED_DEVICE_ENTRY);
    }
    driver = entry(LIBSCHED_DEVICE_ABI);
    status = check_driver(driver, name, path, err);
    if (status == LIBSCHED_OK)
        *out = driver;
    return status;
}

int device_find_driver(const libsched_device_driver **out, const char *name,
                       const char *plugin_path, libsched_error *err)
{
    const char *folder = plugin_path != NULL ? plugin_path : "";
    char path[PATH_MAX];

    if (!valid_name(name))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%.64s\" is no name of a device driver: small letters, digits "
                                  "and underscores are",
                                  name);
    if (strcmp(name, "cpu") == 0) {
        *out = device_cpu_driver();
        return LIBSCHED_OK;
    }
    while (*folder != '\0') {
        size_t length = strcspn(folder, ":");

        /* Not relative to wherever the process happens to be. */
        if (*folder == '/') {
            int n = snprintf(path, sizeof(path), "%.*s/libsched-device-%s.so", (int)length, folder,
                             name);
            if (n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0)
                return load(out, name, path, err);
        }
        folder += length + (folder[length] == ':');
    }
    return libsched_error_set(err, LIBSCHED_ENODEVICE,
                              "no driver for \"%s\" devices: libsched-device-%s.so is in none of "
                              "the plugin folders (%s)",
                              name, name,
                              plugin_path != NULL && *plugin_path != '\0' ? plugin_path : "none");
}
