/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVML of GPUs whose instruments show what a file says, FAKE_NVML, which is read anew at each call,
 * so that a test can change it under a worker:
 *
 *     0000:01:00.0 uuid GPU-1234         what is not there is not supported
 *     0000:01:00.0 utilization 37 12
 *     0000:01:00.0 link 0 1              one line a link
 *     0000:01:00.0 xid 31                one line an event, of which those are told that come later
 *                                        than who listens
 *     fails temperature 15               that function, on every GPU
 *
 * Without the file the driver is not loaded.
 */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

struct nvml_device {
    std::string pci;
};

struct nvml_events {
    std::string pci;
    size_t told = 0;
};

namespace
{

constexpr int SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
              INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10;

struct event {
    nvml_device *device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
};

using words = std::vector<std::string>;

/* The lines that begin with both words, without them. */
std::vector<words> lines(const std::string &first, const std::string &second)
{
    std::vector<words> found;
    const char *path = getenv("FAKE_NVML");
    std::ifstream file(path != nullptr ? path : "");
    for (std::string line; std::getline(file, line);) {
        std::istringstream in(line);
        std::string a, b;
        in >> a >> b;
        if (a != first || (!second.empty() && b != second))
            continue;
        words rest;
        for (std::string word; in >> word;)
            rest.push_back(word);
        found.push_back(rest);
    }
    return found;
}

/* The numbers of a device's line, or why there are none. */
int numbers(nvml_device *device, const char *what, std::vector<unsigned long long> &out, size_t n)
{
    for (const words &w : lines("fails", what))
        return std::stoi(w.at(0));
    const auto found = lines(device->pci, what);
    if (found.empty())
        return NOT_SUPPORTED;
    for (const std::string &word : found[0])
        out.push_back(std::stoull(word));
    return out.size() == n ? SUCCESS : INVALID_ARGUMENT;
}

template <class T> int number(nvml_device *device, const char *what, T *out)
{
    std::vector<unsigned long long> values;
    const int code = numbers(device, what, values, 1);
    if (code == SUCCESS)
        *out = static_cast<T>(values[0]);
    return code;
}

std::mutex mutex;
std::vector<nvml_device *> &devices()
{
    static auto *known = new std::vector<nvml_device *>;
    return *known;
}

} // namespace

extern "C" {

int nvmlInit_v2(void)
{
    const char *path = getenv("FAKE_NVML");
    return path != nullptr && std::ifstream(path).good() ? SUCCESS : DRIVER_NOT_LOADED;
}

const char *nvmlErrorString(int code)
{
    return code == NOT_FOUND           ? "Not Found"
           : code == DRIVER_NOT_LOADED ? "Driver Not Loaded"
           : code == 15                ? "GPU is lost"
                                       : "Some Error";
}

/* A device has one handle for as long as the process lives, as the real one's. */
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, nvml_device **out)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (lines(pci, "").empty())
        return NOT_FOUND;
    for (nvml_device *known : devices())
        if (known->pci == pci) {
            *out = known;
            return SUCCESS;
        }
    devices().push_back(new nvml_device{pci});
    *out = devices().back();
    return SUCCESS;
}

int nvmlDeviceGetUUID(nvml_device *device, char *uuid, unsigned int length)
{
    const auto found = lines(device->pci, "uuid");
    if (found.empty())
        return NOT_SUPPORTED;
    const std::string &text = found[0].at(0);
    if (text.size() >= length)
        return INSUFFICIENT_SIZE;
    memcpy(uuid, text.c_str(), text.size() + 1);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(nvml_device *device, unsigned int out[2])
{
    std::vector<unsigned long long> values;
    const int code = numbers(device, "utilization", values, 2);
    if (code == SUCCESS)
        std::copy(values.begin(), values.end(), out);
    return code;
}

int nvmlDeviceGetMemoryInfo(nvml_device *device, unsigned long long out[3])
{
    std::vector<unsigned long long> values;
    const int code = numbers(device, "memory", values, 2);
    if (code != SUCCESS)
        return code;
    out[0] = values[0];
    out[1] = values[0] - values[1];
    out[2] = values[1];
    return SUCCESS;
}

int nvmlDeviceGetTemperature(nvml_device *device, int sensor, unsigned int *out)
{
    return sensor == 0 ? number(device, "temperature", out) : INVALID_ARGUMENT;
}

int nvmlDeviceGetPowerUsage(nvml_device *device, unsigned int *out)
{
    return number(device, "power", out);
}

int nvmlDeviceGetEnforcedPowerLimit(nvml_device *device, unsigned int *out)
{
    return number(device, "power_limit", out);
}

int nvmlDeviceGetTotalEnergyConsumption(nvml_device *device, unsigned long long *out)
{
    return number(device, "energy", out);
}

/* By its older name alone: one of both is enough. */
int nvmlDeviceGetCurrentClocksThrottleReasons(nvml_device *device, unsigned long long *out)
{
    return number(device, "clocks", out);
}

int nvmlDeviceGetNvLinkState(nvml_device *device, unsigned int link, int *out)
{
    for (const words &w : lines(device->pci, "link"))
        if (w.at(0) == std::to_string(link)) {
            *out = std::stoi(w.at(1));
            return SUCCESS;
        }
    return link < 18 ? NOT_SUPPORTED : INVALID_ARGUMENT;
}

int nvmlDeviceGetTotalEccErrors(nvml_device *device, int type, int counter, unsigned long long *out)
{
    std::vector<unsigned long long> values;
    const int code = counter == 0 ? numbers(device, "ecc", values, 2) : INVALID_ARGUMENT;
    if (code == SUCCESS)
        *out = values.at((size_t)type);
    return code;
}

int nvmlEventSetCreate(nvml_events **out)
{
    *out = new nvml_events;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(nvml_device *device, unsigned long long types, nvml_events *set)
{
    if (!lines("fails", "events").empty())
        return NOT_SUPPORTED;
    if (types != 8)
        return INVALID_ARGUMENT;
    set->pci = device->pci;
    set->told = lines(device->pci, "xid").size();
    return SUCCESS;
}

int nvmlEventSetWait_v2(nvml_events *set, event *out, unsigned int)
{
    const auto events = lines(set->pci, "xid");
    if (set->told >= events.size())
        return TIMEOUT;
    *out = {nullptr, 8, std::stoull(events[set->told].at(0)), 0, 0};
    set->told++;
    return SUCCESS;
}

int nvmlEventSetFree(nvml_events *set)
{
    delete set;
    return SUCCESS;
}

} // extern "C"
