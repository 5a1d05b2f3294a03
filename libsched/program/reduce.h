/* SPDX-License-Identifier: Apache-2.0 */
/* What programs tell each other between ranks, in a buffer's own place. */
#ifndef PROGRAM_REDUCE_H
#define PROGRAM_REDUCE_H

#include <libsched/device.h>

/* All ranks' first `count` elements of a buffer, put together by one of LIBSCHED_REDUCE_*. */
int program_reduce(libsched_device *device, libsched_device_communicator *communicator,
                   libsched_device_buffer *buffer, uint64_t count, uint32_t reduction,
                   libsched_error *err);
/* The same of a number, with FP32's precision, by way of a buffer of one FP32; and it is waited
 * for. A rank that is alone keeps its own. */
int program_reduce_number(libsched_device *device, libsched_device_communicator *communicator,
                          uint32_t n_ranks, libsched_device_buffer *buffer, uint32_t reduction,
                          double *inout, libsched_error *err);

#endif
