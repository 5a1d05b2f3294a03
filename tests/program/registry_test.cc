// SPDX-License-Identifier: Apache-2.0
// How programs are found. What plugins do is told by the tests of workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "program/registry.h"

using testing::HasSubstr;

namespace
{

TEST(Registry, HasTheProgramsThatAreBuiltIn)
{
    for (const char *name : {"gemm", "allreduce", "train", "embed"}) {
        const libsched_program *program = nullptr;
        libsched_error err = {};
        ASSERT_EQ(program_resolve(&program, name, nullptr, nullptr, &err), LIBSCHED_OK);
        EXPECT_STREQ(program->name, name);
        EXPECT_EQ(program->abi_version, uint32_t(LIBSCHED_PROGRAM_ABI));
        EXPECT_EQ(program->struct_size, sizeof(libsched_program));
    }
    EXPECT_EQ(program_find_builtin("nothing"), nullptr);
}

TEST(Registry, SaysWhatItLookedFor)
{
    const libsched_program *program = nullptr;
    libsched_error err = {};
    EXPECT_EQ(program_resolve(&program, "nothing", nullptr, nullptr, &err), LIBSCHED_ENOENT);
    EXPECT_THAT(err.message, HasSubstr("there is no folder of plugins"));
    EXPECT_EQ(program_resolve(&program, "nothing", nullptr, "/no/such", &err), LIBSCHED_ENOENT);
    EXPECT_THAT(err.message, HasSubstr("libsched-program-nothing.so in /no/such"));
    EXPECT_EQ(program_resolve(&program, "../gemm", nullptr, "/", &err), LIBSCHED_EINVAL);
    EXPECT_EQ(program_resolve(&program, "", nullptr, "/", &err), LIBSCHED_EINVAL);
    EXPECT_EQ(program_resolve(&program, "x", "relative.so", nullptr, &err), LIBSCHED_EENGINE);
}

} // namespace
