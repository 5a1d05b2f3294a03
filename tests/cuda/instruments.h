/* SPDX-License-Identifier: Apache-2.0 */
/* What the instruments of the fake's GPUs show (fake/fake_nvml.cc). */
#ifndef INSTRUMENTS_H
#define INSTRUMENTS_H

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "support/folder.h"

namespace gpu_sched_test
{

struct instruments {
    temporary_folder folder;
    std::string text;
    instruments()
    {
        show("");
        setenv("FAKE_NVML", path().c_str(), 1);
    }
    ~instruments()
    {
        unsetenv("FAKE_NVML");
    }
    std::string path() const
    {
        return folder.path() + "/nvml";
    }
    /* All at once, for who looks meanwhile. */
    void show(const std::string &lines)
    {
        const std::string next = path() + ".next";
        text = lines;
        std::ofstream(next) << text;
        if (rename(next.c_str(), path().c_str()) != 0)
            abort();
    }
    void add(const std::string &line)
    {
        show(text + line);
    }
};

} // namespace gpu_sched_test

#endif
