/* SPDX-License-Identifier: Apache-2.0 */
#include "program/reduce.h"

#define STEP_NS 50e6
#define MOST_PER_STEP 100000

int program_reduce(const struct rank_head *rank, libsched_device_buffer *buffer, uint64_t count,
                   uint32_t reduction, libsched_error *err)
{
    const libsched_device_collective_args args = {
        .struct_size = sizeof(args),
        .reduction = reduction,
        .count = count,
        .input = buffer,
        .output = buffer,
    };

    return rank->device->driver->all_reduce(rank->device, rank->communicator, &args, err);
}

int program_reduce_number(const struct rank_head *rank, libsched_device_buffer *buffer,
                          uint32_t reduction, double *inout, libsched_error *err)
{
    libsched_device *device = rank->device;
    float number = (float)*inout;
    int status;

    if (rank->n == 1)
        return LIBSCHED_OK;
    status = device->driver->upload(device, buffer, 0, 1, &number, err);
    if (status == LIBSCHED_OK)
        status = program_reduce(rank, buffer, 1, reduction, err);
    if (status == LIBSCHED_OK)
        status = device->driver->download(device, buffer, 0, 1, &number, err);
    if (status == LIBSCHED_OK)
        status = device->driver->synchronize(device, err);
    *inout = number;
    return status;
}

int program_plan_step(const struct rank_head *rank, libsched_device_buffer *buffer, uint64_t ns,
                      uint64_t done, uint64_t *out, libsched_error *err)
{
    double longest = (double)ns / (double)(done > 0 ? done : 1), fitting;
    int status = program_reduce_number(rank, buffer, LIBSCHED_REDUCE_MAX, &longest, err);

    fitting = longest > 0 ? STEP_NS / longest : MOST_PER_STEP;
    *out = fitting < 1 ? 1 : fitting > MOST_PER_STEP ? MOST_PER_STEP : (uint64_t)fitting;
    return status;
}
