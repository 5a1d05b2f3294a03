/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranks that load the same model: whether it is the same. A file that was replaced in between, or
 * that is another one on another host, would give a model that is nobody's; and where one rank has
 * no such file, that rank is to say so.
 */
#include <sys/stat.h>

#include "engine/encoder_internal.h"

/* A device adds and compares in FP32, which has such integers exactly. */
#define PART_BITS 16
#define PARTS 4
#define LARGEST ((1u << PART_BITS) - 1)

static bool can_share(const libsched_device_driver *driver)
{
    return LIBSCHED_HAS(libsched_device_driver, driver, weight_share) &&
           driver->weight_share != NULL;
}

static uint64_t mix(uint64_t seed, uint64_t value)
{
    uint64_t z = (seed ^ value) + UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Of one that is not there 0. */
static uint64_t identify(const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return 0;
    return mix(mix(mix(1, (uint64_t)info.st_size), (uint64_t)info.st_mtim.tv_sec),
               (uint64_t)info.st_mtim.tv_nsec);
}

int encoder_copies_agree(bool *out, libsched_device *device, const struct encoder_copies *copies,
                         const char *path, libsched_error *err)
{
    const libsched_device_driver *driver = device->driver;
    const uint64_t identity = identify(path);
    libsched_device_buffer *buffer = NULL;
    float parts[2 * PARTS];
    int status;

    *out = false;
    if (copies == NULL || !can_share(driver))
        return LIBSCHED_OK;
    /* The largest, and the largest of what is missing to the largest possible: the smallest. */
    for (uint32_t i = 0; i < PARTS; i++) {
        const uint32_t part = (uint32_t)(identity >> (i * PART_BITS)) & LARGEST;
        parts[i] = (float)part;
        parts[PARTS + i] = (float)(LARGEST - part);
    }
    status = driver->buffer_create(device, &buffer, LIBSCHED_FP32, 1, 2 * PARTS, err);
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .reduction = LIBSCHED_REDUCE_MAX,
        .count = 2 * PARTS,
        .input = buffer,
        .output = buffer,
    };
    if (status == LIBSCHED_OK)
        status = driver->upload(device, buffer, 0, 1, parts, err);
    if (status == LIBSCHED_OK)
        status = driver->all_reduce(device, copies->communicator, &args, err);
    if (status == LIBSCHED_OK)
        status = driver->download(device, buffer, 0, 1, parts, err);
    if (status == LIBSCHED_OK)
        status = driver->synchronize(device, err);
    driver->buffer_destroy(device, buffer);
    *out = status == LIBSCHED_OK && identity != 0;
    for (uint32_t i = 0; i < PARTS; i++)
        *out = *out && parts[i] + parts[PARTS + i] == (float)LARGEST;
    return status;
}
