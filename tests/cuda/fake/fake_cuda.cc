/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include <time.h>
#include <unistd.h>

#include "emulator.h"

struct stream_core {
    int device;
    uint64_t number;
    std::deque<std::function<bool()>> tasks;
    uint64_t given = 0, done = 0;
    /* While it captures: what gives it one thing after the other, later. */
    bool capturing = false, invalid = false;
    std::vector<std::function<cudaError_t(cudaStream_t)>> captured;
};

struct CUstream_st {
    std::shared_ptr<stream_core> core;
};

struct CUevent_st {
    std::shared_ptr<stream_core> core; /* null: never recorded */
    uint64_t at = 0;
    bool timed = false;
    std::shared_ptr<double> ms; /* when it was come to */
    bool complete() const
    {
        return core == nullptr || core->done >= at;
    }
};

struct CUgraph_st {
    std::vector<std::function<cudaError_t(cudaStream_t)>> nodes;
};

struct CUgraphExec_st {
    std::vector<std::function<cudaError_t(cudaStream_t)>> nodes;
    int device;
};

struct CUmemPoolHandle_st {
    int device;
};

namespace
{

/* By which the device's clock is ahead of the host's. */
std::atomic<double> elapsed_ms{0};

struct rule {
    std::string function;
    uint64_t after;
    int code;
};

struct device_state {
    std::string pci;
    uint64_t used = 0, kept = 0;             /* bytes handed out; freed, and kept by the pool */
    uint64_t held = 0;                       /* by others than pools */
    std::multimap<uint64_t, int> kept_sizes; /* one that fits exactly is used again */
};

struct machine {
    std::recursive_mutex mutex;
    std::vector<device_state> devices;
    std::map<void *, std::pair<int, uint64_t>> memory; /* device, size */
    std::map<void *, uint64_t> pinned;
    std::map<void *, std::pair<uint64_t, bool>> registered; /* size, read-only */
    uint64_t straight = 0;                                  /* copies from and to it */
    bool read_only = true;                                  /* can be registered */
    std::vector<std::weak_ptr<stream_core>> streams;
    std::vector<rule> rules;
    uint64_t calls = 0, memory_size = UINT64_C(1) << 30, graphs = 0;
    int64_t live = 0;
    int sticky = 0;
    int policy = FAKE_RANDOM;
    std::mt19937 random{1};
    uint64_t next_stream = 0;
    std::vector<std::string> *trace = nullptr;

    machine()
    {
        const char *pci = getenv("FAKE_CUDA_PCI");
        std::string list = pci != nullptr ? pci : "0000:01:00.0,0000:02:00.0";
        for (size_t at = 0; at <= list.size() && !list.empty();) {
            size_t end = std::min(list.find(',', at), list.size());
            device_state d;
            d.pci = list.substr(at, end - at);
            devices.push_back(d);
            at = end + 1;
        }
        if (const char *size = getenv("FAKE_CUDA_MEMORY"))
            memory_size = strtoull(size, nullptr, 10);
        if (const char *fail = getenv("FAKE_CUDA_FAIL")) {
            char name[64];
            unsigned long long after;
            int code;
            if (sscanf(fail, "%63[^:]:%llu:%d", name, &after, &code) == 3)
                rules.push_back({name, after, code});
        }
    }
};

/* Never destroyed: threads of the plugin may outlive main(). */
machine &the()
{
    static auto *m = new machine;
    return *m;
}

thread_local int current_device;
thread_local int last_error;
/* The stream that captures in this thread. */
thread_local std::shared_ptr<stream_core> capturing;

constexpr uint64_t graph_size = UINT64_C(64) << 10;

bool is_sticky(int code)
{
    for (int s : {214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
        if (s == code)
            return true;
    return false;
}

int failure_of(const char *function)
{
    machine &m = the();
    for (auto r = m.rules.begin(); r != m.rules.end(); ++r) {
        if (r->function != "*" && r->function != function)
            continue;
        if (r->function == "*" && strcmp(function, "kernel") == 0)
            continue;
        if (r->after > 0) {
            r->after--;
            continue;
        }
        int code = r->code;
        m.rules.erase(r);
        return code;
    }
    return 0;
}

using lock = std::lock_guard<std::recursive_mutex>;

cudaError_t answer(int code)
{
    if (code != 0 && code != cudaErrorNotReady)
        last_error = code;
    return (cudaError_t)code;
}

/* What a capture does not mind; the driver is less strict. All else spoils it. */
cudaError_t spoil(const char *function)
{
    for (const char *harmless : {"cudaStreamEndCapture", "cudaSetDevice", "cudaDeviceGetAttribute"})
        if (strcmp(function, harmless) == 0)
            return cudaSuccess;
    if (capturing == nullptr)
        return cudaSuccess;
    capturing->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

#define ENTER                             \
    lock guard(the().mutex);              \
    if (int code = fake_called(__func__)) \
        return answer(code);              \
    if (int code = spoil(__func__))       \
        return answer(code);

/* ------------------------------------------------------------------------------------- streams */

/* One task of one stream, if any can go on. */
bool advance()
{
    machine &m = the();
    std::vector<std::shared_ptr<stream_core>> line;
    for (auto &weak : m.streams)
        if (auto core = weak.lock(); core != nullptr && !core->tasks.empty())
            line.push_back(core);
    if (m.policy == FAKE_RANDOM)
        std::shuffle(line.begin(), line.end(), m.random);
    if (m.policy == FAKE_NEWEST_FIRST)
        std::reverse(line.begin(), line.end());
    for (auto &core : line) {
        auto task = core->tasks.front();
        if (!task())
            continue;
        core->tasks.pop_front();
        core->done++;
        return true;
    }
    return false;
}

/* As far as the policy lets streams get before anybody waits. */
void stray()
{
    machine &m = the();
    if (m.policy == FAKE_NEWEST_FIRST)
        while (advance()) {
        }
    if (m.policy == FAKE_RANDOM)
        for (uint32_t n = m.random() % 3; n > 0; n--)
            advance();
}

/* Whether all of it is mapped, and may be written to where that is wanted. */
bool is_mapped(const void *memory, size_t size, bool writable)
{
    auto at = (uintptr_t)memory;
    const uintptr_t until = at + size;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; at < until && std::getline(maps, line);) {
        uintptr_t begin = 0, end = 0;
        char mode[8] = "";
        if (sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, mode) == 3 && at >= begin &&
            at < end && mode[0] == 'r' && (mode[1] == 'w' || !writable))
            at = end;
    }
    return at >= until;
}

void rest()
{
    const timespec time = {0, 50000};
    nanosleep(&time, nullptr);
}

} // namespace

int fake_called(const char *function)
{
    machine &m = the();
    lock guard(m.mutex);
    m.calls++;
    if (m.trace != nullptr)
        m.trace->push_back(function);
    if (int code = failure_of(function)) {
        if (is_sticky(code))
            m.sticky = code;
        return code;
    }
    return m.sticky;
}

void fake_cuda_trace(std::vector<std::string> *list)
{
    lock guard(the().mutex);
    the().trace = list;
}

void fake_live(int change)
{
    lock guard(the().mutex);
    the().live += change;
}

cudaError_t fake_push(cudaStream_t stream, std::function<bool()> task)
{
    lock guard(the().mutex);
    if (stream->core->capturing) {
        stream->core->captured.push_back([task](cudaStream_t to) { return fake_push(to, task); });
        return answer(the().sticky);
    }
    stream->core->tasks.push_back(std::move(task));
    stream->core->given++;
    stray();
    return answer(the().sticky);
}

namespace
{

cudaError_t push_kernel(cudaStream_t stream, const std::function<void()> &kernel)
{
    auto failure = std::make_shared<int>(0);
    auto begun = std::make_shared<bool>(false);
    return fake_push(stream, [=] {
        if (!*begun) {
            /* In a worker: the kernel that finds this file, and removes it, fails. */
            const char *file = getenv("FAKE_CUDA_FAIL_FILE");
            *begun = true;
            *failure = file != nullptr && unlink(file) == 0 ? 700 : failure_of("kernel");
        }
        if (*failure == -1)
            return false;
        if (*failure != 0)
            the().sticky = *failure;
        else if (the().sticky == 0)
            kernel();
        return true;
    });
}

} // namespace

void fake_elapse(double ms)
{
    elapsed_ms = elapsed_ms + ms;
}

cudaError_t fake_launch(cudaStream_t stream, std::function<void()> kernel)
{
    lock guard(the().mutex);
    if (int code = fake_called("cudaLaunchKernel"))
        return answer(code);
    if (stream->core->capturing) {
        stream->core->captured.push_back(
            [kernel](cudaStream_t to) { return push_kernel(to, kernel); });
        return answer(the().sticky);
    }
    return push_kernel(stream, kernel);
}

/* --------------------------------------------------------------------------------- for the tests
 */

extern "C" {

void fake_cuda_policy(int policy, uint32_t seed)
{
    lock guard(the().mutex);
    the().policy = policy;
    the().random.seed(seed);
}

void fake_cuda_order(int order, uint32_t seed)
{
    lock guard(the().mutex);
    emulator::set_order((emulator::order)order, seed);
}

void fake_cuda_fail(const char *function, uint64_t after, int code)
{
    lock guard(the().mutex);
    the().rules.push_back({function, after, code});
}

uint64_t fake_cuda_calls()
{
    lock guard(the().mutex);
    return the().calls;
}

void fake_cuda_reset()
{
    machine &m = the();
    lock guard(m.mutex);
    m.rules.clear();
    m.sticky = 0;
    last_error = 0;
    for (auto &weak : m.streams)
        if (auto core = weak.lock())
            core->tasks.clear();
    m.streams.clear();
    capturing = nullptr;
    m.graphs = 0;
    for (auto &entry : m.memory)
        free(entry.first);
    for (auto &entry : m.pinned)
        free(entry.first);
    m.memory.clear();
    m.pinned.clear();
    m.registered.clear();
    m.straight = 0;
    m.read_only = true;
    m.live = 0;
    for (device_state &d : m.devices) {
        d.used = d.kept = d.held = 0;
        d.kept_sizes.clear();
    }
}

uint64_t fake_cuda_live()
{
    lock guard(the().mutex);
    return (uint64_t)the().live + the().memory.size() + the().pinned.size() +
           the().registered.size();
}

uint64_t fake_cuda_graphs()
{
    lock guard(the().mutex);
    return the().graphs;
}

void fake_cuda_memory(uint64_t bytes)
{
    lock guard(the().mutex);
    the().memory_size = bytes;
}

uint64_t fake_cuda_used(int device)
{
    lock guard(the().mutex);
    return the().devices[(size_t)device].used;
}

int fake_device()
{
    return current_device;
}

bool fake_hold(int device, int64_t bytes)
{
    lock guard(the().mutex);
    device_state &d = the().devices[(size_t)device];
    if (bytes > 0 && d.used + d.kept + d.held + (uint64_t)bytes > the().memory_size)
        return false;
    d.held += (uint64_t)bytes;
    return true;
}

uint64_t fake_cuda_registered()
{
    lock guard(the().mutex);
    uint64_t size = 0;
    for (const auto &entry : the().registered)
        size += entry.second.first;
    return size;
}

bool fake_cuda_registered_read_only(const void *at)
{
    lock guard(the().mutex);
    for (const auto &[begin, what] : the().registered)
        if (at >= begin && at < static_cast<const char *>(begin) + what.first)
            return what.second;
    return false;
}

uint64_t fake_cuda_straight_copies()
{
    lock guard(the().mutex);
    return the().straight;
}

void fake_cuda_read_only(bool supported)
{
    lock guard(the().mutex);
    the().read_only = supported;
}

/* ----------------------------------------------------------------------------- errors, devices */

cudaError_t cudaGetLastError(void)
{
    lock guard(the().mutex);
    int code = the().sticky != 0 ? the().sticky : last_error;
    last_error = 0;
    return (cudaError_t)code;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch ((int)error) {
    case 2:
        return "out of memory";
    case 35:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case 100:
        return "no CUDA-capable device is detected";
    case 700:
        return "an illegal memory access was encountered";
    default:
        return "an error of the fake";
    }
}

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER
    *count = (int)the().devices.size();
    return answer(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    ENTER
    if (device < 0 || (size_t)device >= the().devices.size())
        return answer(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id)
{
    ENTER
    for (size_t i = 0; i < the().devices.size(); i++)
        if (strcasecmp(the().devices[i].pci.c_str(), id) == 0) {
            *device = (int)i;
            return cudaSuccess;
        }
    return answer(cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    ENTER
    snprintf(id, (size_t)size, "%s", the().devices[(size_t)device].pci.c_str());
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device)
{
    ENTER(void) device;
    const char *capability = getenv("FAKE_CUDA_CAPABILITY");
    int number = capability != nullptr ? atoi(capability) : 90;
    *value = which == cudaDevAttrComputeCapabilityMajor          ? number / 10
             : which == cudaDevAttrComputeCapabilityMinor        ? number % 10
             : which == cudaDevAttrHostRegisterReadOnlySupported ? the().read_only
                                                                 : 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    ENTER
    snprintf(out->name, sizeof(out->name), "emulated GPU %d", device);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    ENTER
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    ENTER
    *version = 13000;
    return cudaSuccess;
}

/* ---------------------------------------------------------------------------- streams, events */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags)
{
    ENTER(void) flags;
    std::shared_ptr<stream_core> core(fake_make<stream_core>());
    core->device = current_device;
    core->number = the().next_stream++;
    the().streams.push_back(core);
    *out = fake_make<CUstream_st>(core);
    the().live++;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER
    /* What it was given still runs. */
    auto core = stream->core;
    while (!core->tasks.empty() && advance()) {
    }
    delete stream;
    the().live--;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER
    advance();
    if (the().sticky != 0)
        return answer(the().sticky);
    return stream->core->tasks.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    ENTER(void) flags;
    const CUevent_st now = *event;
    return fake_push(stream, [now] { return now.complete(); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags)
{
    ENTER
    *out = fake_make<CUevent_st>();
    (*out)->timed = (flags & cudaEventDisableTiming) == 0;
    the().live++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER
    delete event;
    the().live--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER
    event->core = stream->core;
    event->at = stream->core->given + 1;
    if (!event->timed)
        return fake_push(stream, [] { return true; });
    auto ms = event->ms = std::make_shared<double>(0);
    return fake_push(stream, [ms] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        *ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6 + elapsed_ms;
        return true;
    });
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    ENTER
    if (!begin->timed || !end->timed || begin->ms == nullptr || end->ms == nullptr)
        return answer(cudaErrorInvalidResourceHandle);
    if (!begin->complete() || !end->complete())
        return cudaErrorNotReady;
    *ms = (float)(*end->ms - *begin->ms);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER
    advance();
    if (the().sticky != 0)
        return answer(the().sticky);
    return event->complete() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    {
        ENTER
    }
    for (;;) {
        bool progress;
        {
            lock guard(the().mutex);
            if (the().sticky != 0)
                return answer(the().sticky);
            if (event->complete())
                return cudaSuccess;
            progress = advance();
        }
        if (!progress)
            rest();
    }
}

/* -------------------------------------------------------------------------------------- graphs */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    ENTER
    if (mode != cudaStreamCaptureModeThreadLocal || stream->core->capturing)
        return answer(cudaErrorInvalidValue);
    capturing = stream->core;
    capturing->capturing = true;
    capturing->invalid = false;
    capturing->captured.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    lock guard(the().mutex);
    const int failure = fake_called(__func__);
    /* However it ends, it has. */
    *out = nullptr;
    if (!stream->core->capturing)
        return answer(failure != 0 ? failure : (int)cudaErrorInvalidValue);
    stream->core->capturing = false;
    capturing = nullptr;
    if (failure != 0)
        return answer(failure);
    if (stream->core->invalid)
        return answer(cudaErrorStreamCaptureInvalidated);
    *out = fake_make<CUgraph_st>(std::move(stream->core->captured));
    the().live++;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER
    delete graph;
    the().live--;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    ENTER(void) flags;
    device_state &d = the().devices[(size_t)current_device];
    if (d.used + d.kept + d.held + graph_size > the().memory_size)
        return answer(cudaErrorMemoryAllocation);
    d.used += graph_size;
    *out = fake_make<CUgraphExec_st>(graph->nodes, current_device);
    the().live++;
    the().graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    ENTER
    the().devices[(size_t)graph->device].used -= graph_size;
    /* What was given of it still runs. */
    delete graph;
    the().live--;
    the().graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    ENTER
    for (const auto &node : graph->nodes)
        if (cudaError_t code = node(stream))
            return code;
    return cudaSuccess;
}

/* -------------------------------------------------------------------------------------- memory */

cudaError_t cudaHostAlloc(void **out, size_t size, unsigned int flags)
{
    ENTER(void) flags;
    *out = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    /* No more of it, since touching memory takes its time. */
    memset(*out, 0xab, std::min<size_t>(size, 1 << 20));
    the().pinned[*out] = size;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    ENTER
    if (the().pinned.erase(memory) == 0)
        return answer(cudaErrorInvalidValue);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *memory, size_t size, unsigned int flags)
{
    ENTER
    const bool read_only = (flags & cudaHostRegisterReadOnly) != 0;
    auto *begin = static_cast<unsigned char *>(memory), *end = begin + size;
    for (const auto &[other, what] : the().registered)
        if (begin < static_cast<unsigned char *>(other) + what.first && other < end)
            return answer(cudaErrorHostMemoryAlreadyRegistered);
    if (size == 0 || !is_mapped(memory, size, !read_only) || (read_only && !the().read_only))
        return answer(cudaErrorInvalidValue);
    the().registered[memory] = {size, read_only};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    ENTER
    if (the().registered.erase(memory) == 0)
        return answer(cudaErrorHostMemoryNotRegistered);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t size)
{
    ENTER
    device_state &d = the().devices[(size_t)current_device];
    if (size > the().memory_size || d.used + d.kept + d.held > the().memory_size - size)
        return answer(cudaErrorMemoryAllocation);
    if (posix_memalign(out, 256, size) != 0)
        abort();
    memset(*out, 0xff, size);
    d.used += size;
    the().memory[*out] = {current_device, size};
    the().live++;
    return cudaSuccess;
}

/* Waits for all that the device was given, as the driver does. */
cudaError_t cudaFree(void *memory)
{
    ENTER
    auto entry = the().memory.find(memory);
    if (entry == the().memory.end())
        return answer(memory == nullptr ? cudaSuccess : cudaErrorInvalidValue);
    while (advance()) {
    }
    the().devices[(size_t)entry->second.first].used -= entry->second.second;
    the().memory.erase(entry);
    the().live--;
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    ENTER
    memset(memory, value, size);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    ENTER
    const device_state &d = the().devices[(size_t)current_device];
    *total = the().memory_size;
    const uint64_t taken = d.used + d.kept + d.held;
    *free = taken < the().memory_size ? the().memory_size - taken : 0;
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *out, const struct cudaMemPoolProps *props)
{
    ENTER
    *out = fake_make<CUmemPoolHandle_st>(props->location.id);
    the().live++;
    return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    ENTER
    the().devices[(size_t)pool->device].kept = 0;
    the().devices[(size_t)pool->device].kept_sizes.clear();
    delete pool;
    the().live--;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr which, void *value)
{
    ENTER(void) pool;
    (void)which;
    (void)value;
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr which, void *value)
{
    ENTER
    const device_state &d = the().devices[(size_t)pool->device];
    *static_cast<uint64_t *>(value) =
        which == cudaMemPoolAttrUsedMemCurrent ? d.used : d.used + d.kept;
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep)
{
    ENTER(void) keep;
    device_state &d = the().devices[(size_t)pool->device];
    d.kept = 0;
    d.kept_sizes.clear();
    return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void **out, size_t size, cudaMemPool_t pool,
                                    cudaStream_t stream)
{
    ENTER
    device_state &d = the().devices[(size_t)pool->device];
    auto again = d.kept_sizes.find(size);
    if (again != d.kept_sizes.end()) {
        d.kept_sizes.erase(again);
        d.kept -= size;
    } else if (size > the().memory_size || d.used + d.kept + d.held > the().memory_size - size) {
        return answer(cudaErrorMemoryAllocation);
    }
    d.used += size;
    /* Aligned as the device's is; the end is exactly where it was asked for. */
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, size) != 0)
        abort();
    the().memory[memory] = {pool->device, size};
    *out = memory;
    /* What is written to it before its time is lost; and what is read is a NaN. */
    return fake_push(stream, [=] {
        memset(memory, 0xff, size);
        return true;
    });
}

cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream)
{
    ENTER
    if (the().memory.count(memory) == 0)
        return answer(cudaErrorInvalidValue);
    return fake_push(stream, [=] {
        auto entry = the().memory.find(memory);
        if (entry == the().memory.end())
            return true;
        device_state &d = the().devices[(size_t)entry->second.first];
        d.used -= entry->second.second;
        d.kept += entry->second.second;
        d.kept_sizes.insert({entry->second.second, 0});
        memset(memory, 0xff, entry->second.second);
        the().memory.erase(entry);
        free(memory);
        return true;
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    ENTER
    if (the().trace != nullptr)
        the().trace->push_back(kind == cudaMemcpyHostToDevice ? "upload" : "download");
    /* For those who can't ask a worker. */
    if (const char *count = getenv("FAKE_CUDA_UPLOADS"); count && kind == cudaMemcpyHostToDevice)
        std::ofstream(count, std::ios::app) << size << "\n";
    /* The host's side has to be pinned, or the copy would not be what it seems. */
    const auto *host =
        static_cast<const unsigned char *>(kind == cudaMemcpyHostToDevice ? from : to);
    bool pinned = kind == cudaMemcpyDeviceToDevice;
    for (const auto &entry : the().pinned)
        pinned |= host >= entry.first &&
                  host + size <= static_cast<const unsigned char *>(entry.first) + entry.second;
    /* Within what was registered by one call; and what can only be read is not written to. */
    for (const auto &[begin, what] : the().registered)
        if (host >= begin &&
            host + size <= static_cast<const unsigned char *>(begin) + what.first &&
            !(what.second && kind == cudaMemcpyDeviceToHost)) {
            pinned = true;
            the().straight++;
        }
    if (!pinned)
        return answer(cudaErrorInvalidValue);
    return fake_push(stream, [=] {
        if (the().sticky == 0)
            memcpy(to, from, size);
        return true;
    });
}

} // extern "C"
