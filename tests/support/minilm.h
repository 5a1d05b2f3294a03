/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the tests find all-MiniLM-L6-v2 in Hugging Face layout: $GPU_SCHED_MINILM, else
 * .cache/models/all-MiniLM-L6-v2 in the source tree. A test that needs it begins with
 * GPU_SCHED_NEED_MINILM(folder), which skips it where the model is not there.
 */
#ifndef TESTS_SUPPORT_MINILM_H
#define TESTS_SUPPORT_MINILM_H

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#ifndef GPU_SCHED_SOURCE_DIR
#error "GPU_SCHED_SOURCE_DIR has to be the root of the source tree"
#endif

namespace gpu_sched_test
{

/* The folder, or "" where the model is not there. */
inline std::string minilm_folder()
{
    const char *given = std::getenv("GPU_SCHED_MINILM");
    std::string folder = given != nullptr && *given != '\0' ? given
                                                            : GPU_SCHED_SOURCE_DIR
                             "/.cache/models/all-MiniLM-L6-v2";
    return access((folder + "/config.json").c_str(), R_OK) == 0 ? folder : "";
}

} // namespace gpu_sched_test

#define GPU_SCHED_NEED_MINILM(folder)                     \
    std::string folder = gpu_sched_test::minilm_folder(); \
    if (folder.empty())                                   \
    GTEST_SKIP() << "all-MiniLM-L6-v2 is not here: set GPU_SCHED_MINILM to its folder"

#endif
