/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CUDA_OPEN_H
#define CUDA_OPEN_H

#include "internal.h"

int cuda_open(libsched_device **out, const libsched_device_open_args *args, libsched_error *err);
void cuda_close(libsched_device *device);
int cuda_info(libsched_device *device, libsched_device_properties *out, libsched_error *err);

#endif
