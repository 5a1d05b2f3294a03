/* SPDX-License-Identifier: Apache-2.0 */
/* A device that computes nothing, and says what memory it is told of. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <libsched/device.h>

struct telling {
    libsched_device base;
    void (*note)(void *context, const char *text);
    void *context;
};

static int telling_open(libsched_device **out, const libsched_device_open_args *args,
                        libsched_error *err)
{
    struct telling *device = calloc(1, sizeof(*device));

    (void)err;
    if (device == NULL)
        return LIBSCHED_ENOMEM;
    device->base.driver = libsched_device_entry(LIBSCHED_DEVICE_ABI);
    device->note = args->note;
    device->context = args->note_context;
    *out = &device->base;
    return LIBSCHED_OK;
}

static void telling_close(libsched_device *device)
{
    free(device);
}

static int telling_info(libsched_device *device, libsched_device_properties *out,
                        libsched_error *err)
{
    const uint32_t size = out->struct_size;

    (void)device;
    (void)err;
    *out = (libsched_device_properties){.struct_size = size, .threads = 1, .text = "telling"};
    return LIBSCHED_OK;
}

static int telling_register(libsched_device *base, const libsched_device_host_args *args,
                            libsched_error *err)
{
    struct telling *device = (struct telling *)base;
    char text[100];

    (void)err;
    /* It is there. */
    snprintf(text, sizeof(text), "told of %" PRIu64 " bytes to be %s, beginning with %d",
             args->size, (args->flags & LIBSCHED_HOST_READ_ONLY) != 0 ? "read" : "written",
             *(const unsigned char *)args->memory);
    device->note(device->context, text);
    return LIBSCHED_OK;
}

static void telling_unregister(libsched_device *base, const void *memory)
{
    struct telling *device = (struct telling *)base;
    char text[100];

    snprintf(text, sizeof(text), "told no more, beginning with %d", *(const unsigned char *)memory);
    device->note(device->context, text);
}

const libsched_device_driver *libsched_device_entry(uint32_t abi)
{
    static const libsched_device_driver driver = {
        .abi_version = LIBSCHED_DEVICE_ABI,
        .struct_size = sizeof(libsched_device_driver),
        .name = "telling",
        .open = telling_open,
        .close = telling_close,
        .info = telling_info,
        .host_register = telling_register,
        .host_unregister = telling_unregister,
    };

    (void)abi;
    return &driver;
}
