// SPDX-License-Identifier: Apache-2.0
#include "kinds.h"

#include <cstdlib>
#include <stdexcept>

using api_test::Scheduler;
using api_test::Workers;

namespace faults_test
{

namespace
{

// What was built, or where it was packed.
std::string place(const char *variable, const char *built)
{
    const char *packed = getenv(variable);
    return packed != nullptr ? packed : built;
}

std::string plugins(Kind kind)
{
    const std::string breakers = place("GPU_SCHED_FAULTS", BREAKERS_FOLDER);
    std::string path = breakers + "/" + kind_name(kind) + ":" + breakers + "/program";
    if (kind == Kind::emulated)
        path += ":" EMULATED_CUDA_FOLDER;
    if (kind == Kind::gpu)
        path += ":" + place("GPU_SCHED_PLUGINS", CUDA_PLUGIN_FOLDER);
    return path;
}

std::unique_ptr<Scheduler> start(Kind kind, uint32_t devices_per_gpu)
{
    const std::string path = plugins(kind), worker = place("GPU_SCHED_WORKER", SCHED_WORKER_PATH);
    return std::make_unique<Scheduler>(Workers::process, [&](libsched_options &options) {
        options.worker_path = worker.c_str();
        options.plugin_path = path.c_str();
        options.cpu_devices = kind == Kind::cpu ? 3 : 1;
        options.cores_per_device = 1;
        options.devices_per_gpu = devices_per_gpu;
        // Faults come one after the other.
        options.max_restarts = 100;
    });
}

libsched_device_info find(Scheduler &s, const std::string &name)
{
    libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
    for (uint32_t i = 0; i < libsched_device_count(s.get()); i++)
        if (libsched_device_get(s.get(), i, &info) == LIBSCHED_OK && name == info.name)
            return info;
    info = LIBSCHED_DEVICE_INFO_INIT;
    info.state = LIBSCHED_DEVICE_ABSENT;
    return info;
}

bool is_settled(Scheduler &s, const std::string &name)
{
    return find(s, name).state != LIBSCHED_DEVICE_STARTING;
}

struct Gpus {
    uint32_t n = 0; // that can be used, up to three
    std::string why;

    Gpus()
    {
        auto s = start(Kind::gpu, 1);
        for (const char *name : {"gpu:0", "gpu:1", "gpu:2"}) {
            s->run_until([&] { return is_settled(*s, name); });
            const libsched_device_info info = find(*s, name);
            n += info.state == LIBSCHED_DEVICE_UP;
            if (n == 0 && why.empty())
                why = info.name[0] == '\0' ? "hwloc sees no GPU"
                                           : std::string(name) + ": " + info.reason;
        }
        if (n > 0)
            why.clear();
    }
};

const Gpus &found()
{
    static const Gpus gpus;
    return gpus;
}

} // namespace

std::string kind_name(Kind kind)
{
    return kind == Kind::cpu ? "cpu" : kind == Kind::emulated ? "emulated" : "gpu";
}

const std::string &no_gpu_because()
{
    return found().why;
}

Machine::Machine(Kind kind) : kind_(kind)
{
    if (kind == Kind::emulated)
        emulated_ = std::make_unique<gpu_sched_test::two_gpus>(folder.path());
    if (kind != Kind::cpu)
        gpus_ = kind == Kind::emulated ? 2 : found().n;
    // What NCCL needs for several ranks on one GPU; 2.30 is the first that can.
    if (gpus_ == 1) {
        setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
        setenv("NCCL_MAX_CTAS", "4", 0);
        setenv("NCCL_NVLS_ENABLE", "0", 0);
    }
    // Devices are counted GPU by GPU; of two each is two.
    static const char *const names[][3] = {
        {"cpu:0", "cpu:1", "cpu:2"}, {"gpu:0", "gpu:1", "gpu:2"}, {"gpu:0", "gpu:2", "gpu:3"}};
    for (int i = 0; i < 3; i++)
        devices_[i] = names[gpus_ == 0 ? 0 : gpus_ == 2 ? 2 : 1][i];
}

Machine::~Machine() = default;

std::unique_ptr<Scheduler> Machine::open() const
{
    auto s = start(kind_, gpus_ == 1 ? 3 : gpus_ == 2 ? 2 : 1);
    for (const char *name : devices_) {
        s->run_until([&] { return is_settled(*s, name); });
        const libsched_device_info info = find(*s, name);
        if (info.state != LIBSCHED_DEVICE_UP)
            throw std::runtime_error(std::string(name) + ": " + info.reason);
    }
    return s;
}

} // namespace faults_test
