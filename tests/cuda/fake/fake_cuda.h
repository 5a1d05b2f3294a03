/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine with GPUs that are none: device memory is the host's, kernels run in the emulator, and
 * streams do what they were given only when somebody waits for it, in any order that was not
 * forbidden. What tests can do to it is here.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

/* Which of several streams goes on. */
enum fake_policy { FAKE_RANDOM, FAKE_OLDEST_FIRST, FAKE_NEWEST_FIRST };
extern "C" void fake_cuda_policy(int policy, uint32_t seed);
extern "C" void fake_cuda_order(int order, uint32_t seed);

/* Lets the call after `after` others to a function ("*": any; "kernel": a kernel, when it runs)
 * fail with `code`. A code that is sticky comes again from then on. A kernel with code -1 never
 * ends. */
extern "C" void fake_cuda_fail(const char *function, uint64_t after, int code);
/* Calls so far. */
extern "C" uint64_t fake_cuda_calls();
/* What is called from now on is added to a list, copies as "upload" and "download" as well; NULL:
 * no longer. */
extern "C" void fake_cuda_trace(std::vector<std::string> *list);
/* Forgets failures, also sticky ones, and what is left over. */
extern "C" void fake_cuda_reset();
/* What is there and was not destroyed: memory, streams, events, handles. */
extern "C" uint64_t fake_cuda_live();
/* Graphs that are there; each takes 64 KiB of its device. */
extern "C" uint64_t fake_cuda_graphs();
/* Bytes of each device from now on; and those in use. */
extern "C" void fake_cuda_memory(uint64_t bytes);
extern "C" uint64_t fake_cuda_used(int device);
/* Of memory of the host: how much is registered, whether it is for reading alone where that is
 * `at`, and how many copies were from or to such. */
extern "C" uint64_t fake_cuda_registered();
extern "C" bool fake_cuda_registered_read_only(const void *at);
extern "C" uint64_t fake_cuda_straight_copies();
/* Whether the driver can register what is only to be read. */
extern "C" void fake_cuda_read_only(bool supported);
/* cuBLASLt: 0 does everything, 1 no epilogues, 2 nothing, 3 says that it does, and then does not,
 * 4 likewise by the fastest of its algorithms. */
extern "C" void fake_cublas_refuses(int what);
/* It has three, of which this one (0 unless it is said) is not slow by the clock of the device; how
 * often one ran since. */
extern "C" void fake_cublas_fastest(int algorithm);
extern "C" uint64_t fake_cublas_runs(int algorithm);

/* For the other fakes. A task is asked again until it says that it is done; one that is captured is
 * copied for each time that it is given. */
cudaError_t fake_push(cudaStream_t stream, std::function<bool()> task);
/* The device's clock goes on. */
void fake_elapse(double ms);
/* Counts a call, and answers what it shall fail with. */
int fake_called(const char *function);
/* The device of the calling thread; and memory of one that others of the process take beside the
 * pools, or give back (negative). False where there is not so much. */
extern "C" int fake_device();
extern "C" bool fake_hold(int device, int64_t bytes);
/* Something was made (1) or destroyed (-1). */
void fake_live(int change);

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

/* Makes what a process that has lost its device leaves behind; whether anything is left where it
 * should not be, fake_cuda_live() tells. */
template <class T, class... Arguments> T *fake_make(Arguments &&...arguments)
{
#if defined(__SANITIZE_ADDRESS__)
    __lsan::ScopedDisabler disabler;
#endif
    return new T{static_cast<Arguments &&>(arguments)...};
}

#endif
