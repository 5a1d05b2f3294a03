/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Something like an encoder on the CUDA plugin over the fake of CUDA: three batches, one after the
 * other without waiting, that use the same memory, some of which is given back early.
 */
#ifndef TESTS_CUDA_PIPELINE_H
#define TESTS_CUDA_PIPELINE_H

#include <vector>

#include "device/device_case.h"

namespace gpu_sched_test
{

inline const device_case emulated_case = {"emulated", "cuda", 1, EMULATED_CUDA_FOLDER, 2, true};

struct pipeline_result {
    int status = 0; /* the first that was not LIBSCHED_OK */
    libsched_error err = {};
    int close_status = 0;             /* of a call after everything was destroyed */
    std::vector<float> embeddings[3]; /* of each batch */
};

/* Opens a device, runs it, closes it. Goes on to destroy what there is where something failed. */
pipeline_result run_pipeline(uint32_t precision);

} // namespace gpu_sched_test

#endif
