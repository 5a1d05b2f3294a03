// SPDX-License-Identifier: Apache-2.0
// The programs that measure: gemm and allreduce.
#include <gmock/gmock.h>

#include "program/harness.h"

using namespace program_test;
using testing::HasSubstr;

namespace
{

TEST(Gemm, ChecksItsParameters)
{
    Checked fine = check("gemm", Parameters());
    EXPECT_EQ(fine.status, LIBSCHED_OK);
    EXPECT_EQ(fine.message, "products of [1024, 1024] and [1024, 1024] in f32, 5 s");
    EXPECT_EQ(fine.memory_bytes, 4u * 4 * 1024 * 1024);
    const std::vector<std::pair<Parameters, const char *>> wrong = {
        {Parameters().set("m", 0), "\"m\" has to be from 1 to 65536, got 0"},
        {Parameters().set("n", -1), "got -1"},
        {Parameters().set("k", 1 << 20), "got 1048576"},
        {Parameters().set("k", 1.5), "\"k\" has to be an integer"},
        {Parameters().set("datatype", "f64"), "\"f32\" or \"bf16\", got \"f64\""},
        {Parameters().set("datatype", 1), "got \"no string\""},
        {Parameters().set("seconds", "long"), "\"seconds\" has to be a number"},
        {Parameters().set("seconds", 0), "from 0.001 to 1e+06, got 0"},
        {Parameters().set("seconds", 1).set("steps", 1), "exclude each other"},
        {Parameters().set("colour", "red"), "unknown parameter \"colour\""},
    };
    for (auto &[parameters, reason] : wrong) {
        Checked got = check("gemm", parameters);
        EXPECT_EQ(got.status, LIBSCHED_EINVAL) << reason;
        EXPECT_THAT(got.message, HasSubstr(reason));
    }
}

TEST(Gemm, TellsHowFastItIs)
{
    for (uint32_t n_ranks : {1, 2}) {
        auto outcomes =
            run("gemm", Parameters().set("m", 70).set("n", 30).set("k", 50).set("seconds", 0.12),
                n_ranks);
        for (const Outcome &o : outcomes) {
            ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
            EXPECT_EQ(o.steps, outcomes[0].steps) << "all end with the same step";
            EXPECT_GE(o.numbers.at("seconds"), 0.12);
            EXPECT_EQ(o.numbers.at("flops_per_s"), outcomes[0].numbers.at("flops_per_s"));
            double own = 2.0 * 70 * 30 * 50 * o.numbers.at("products") / o.numbers.at("seconds");
            EXPECT_GE(o.numbers.at("flops_per_s"), own * 0.99) << "the sum of all";
            EXPECT_FALSE(o.went_back);
        }
    }
}

TEST(Gemm, RunsTheStepsItIsTold)
{
    Outcome o = run("gemm", Parameters().set("m", 16).set("n", 16).set("k", 16).set("steps", 2))[0];
    ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
    EXPECT_EQ(o.steps, 2u);
    EXPECT_EQ(o.done, 2u);
    EXPECT_EQ(o.total, 2u);
    EXPECT_THAT(o.line, HasSubstr("GFLOP/s"));
}

TEST(Gemm, SeesThatItIsCancelled)
{
    Outcome o = run("gemm", Parameters().set("m", 16).set("n", 16).set("k", 16), 1, 1)[0];
    EXPECT_EQ(o.status, LIBSCHED_ECANCELED);
    EXPECT_EQ(o.steps, 1u);
}

TEST(Allreduce, ChecksItsParameters)
{
    Checked fine = check("allreduce", Parameters(), 2);
    EXPECT_EQ(fine.status, LIBSCHED_OK);
    EXPECT_EQ(fine.message, "all-reduce of 1 KiB to 64 MiB in f32, 20 times each");
    EXPECT_EQ(fine.memory_bytes, 128u << 20);
    const std::vector<std::pair<Parameters, const char *>> wrong = {
        {Parameters().set("min_bytes", 2), "\"min_bytes\" has to be from 4"},
        {Parameters().set("min_bytes", 6), "a multiple of 4, got 6"},
        {Parameters().set("max_bytes", 512), "\"min_bytes\" is 1024, more than"},
        {Parameters().set("iterations", 0), "\"iterations\" has to be from 1"},
        {Parameters().set("sizes", 1), "unknown parameter"},
    };
    for (auto &[parameters, reason] : wrong) {
        Checked got = check("allreduce", parameters, 2);
        EXPECT_EQ(got.status, LIBSCHED_EINVAL) << reason;
        EXPECT_THAT(got.message, HasSubstr(reason));
    }
    EXPECT_THAT(check("allreduce", Parameters(), 1).message, HasSubstr("at least 2 devices"));
}

TEST(Allreduce, MeasuresEachSize)
{
    for (const char *datatype : {"f32", "bf16"}) {
        for (uint32_t n_ranks : {2, 3}) {
            auto outcomes = run("allreduce",
                                Parameters()
                                    .set("min_bytes", 12)
                                    .set("max_bytes", 1 << 20)
                                    .set("iterations", 3)
                                    .set("datatype", datatype),
                                n_ranks);
            for (const Outcome &o : outcomes) {
                ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
                EXPECT_EQ(o.steps, outcomes[0].steps);
                EXPECT_EQ(o.done, o.total);
                EXPECT_FALSE(o.went_back);
                size_t sizes = 0;
                for (uint64_t bytes = 12; bytes <= 1 << 20; bytes *= 2, sizes++) {
                    double algbw = o.numbers.at("algbw_" + std::to_string(bytes));
                    double busbw = o.numbers.at("busbw_" + std::to_string(bytes));
                    EXPECT_GT(algbw, 0);
                    EXPECT_DOUBLE_EQ(busbw, algbw * 2 * (n_ranks - 1) / n_ranks);
                    EXPECT_GE(o.numbers.at("max_busbw"), busbw);
                }
                EXPECT_EQ(o.numbers.size(), 2 * sizes + 1);
            }
        }
    }
}

} // namespace
