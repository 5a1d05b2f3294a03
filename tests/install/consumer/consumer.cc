// SPDX-License-Identifier: Apache-2.0
// The same library from C++: opens a scheduler, with its own worker found, and lists the devices.
#include <cstdio>
#include <memory>
#include <string>

#include <libsched.h>
#include <libsched/device.h>
#include <libsched/engine.h>

struct close_scheduler {
    void operator()(libsched *s) const
    {
        libsched_close(s);
    }
};

int main()
{
    libsched *opened = nullptr;
    libsched_error err{};
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    if (libsched_open(&opened, &options, &err) < 0) {
        std::fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    std::unique_ptr<libsched, close_scheduler> s(opened);
    for (uint32_t i = 0; i < libsched_device_count(s.get()); i++) {
        libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
        if (libsched_device_get(s.get(), i, &info) < 0)
            return 1;
        std::printf("%s %s\n", info.name, info.model);
    }
    return std::string(libsched_version()).empty() ? 1 : 0;
}
