// SPDX-License-Identifier: Apache-2.0
// The sorts of devices on which faults are provoked.
#ifndef TESTS_FAULTS_KINDS_H
#define TESTS_FAULTS_KINDS_H

#include <memory>
#include <string>

#include "../api/scheduler.h"
#include "../cuda/two_gpus.h"
#include "../support/folder.h"

namespace faults_test
{

enum class Kind { cpu, emulated, gpu };

std::string kind_name(Kind kind);

// Why there is no GPU to test on; empty where there is one.
const std::string &no_gpu_because();

// Schedulers with three devices of a kind: two that work together, where possible on GPUs of their
// own, and one beside them. A machine with fewer GPUs has several devices on each.
class Machine
{
  public:
    explicit Machine(Kind kind);
    ~Machine();
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;

    // Waits until they are up.
    std::unique_ptr<api_test::Scheduler> open() const;
    // 0 and 1 work together, 2 is beside them.
    const char *device(int which) const
    {
        return devices_[which];
    }
    // How many GPUs they are on; 0: none.
    uint32_t gpus() const
    {
        return gpus_;
    }

    gpu_sched_test::temporary_folder folder;

  private:
    Kind kind_;
    uint32_t gpus_ = 0;
    const char *devices_[3];
    std::unique_ptr<gpu_sched_test::two_gpus> emulated_;
};

} // namespace faults_test

#endif
