/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CUDA_READINGS_H
#define CUDA_READINGS_H

#include "internal.h"

int cuda_readings(libsched_device *device, libsched_device_readings *out, libsched_error *err);
/* When a device is closed, and nobody reads any more. */
void cuda_readings_close(struct cuda_device *device);

#endif
