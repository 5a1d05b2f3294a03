// SPDX-License-Identifier: Apache-2.0
// The benchmark "gpu" over the fake of CUDA: that each of its parts measures something, beside what
// it is to be held against, so that nothing of it runs for the first time where there is a GPU.
// What the numbers are says nothing.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <jansson.h>
#include <sys/wait.h>

#include "catalog/safetensors.h"
#include "support/folder.h"
#include "two_gpus.h"

namespace
{

struct Result {
    json_t *json;
    double number(const char *name) const
    {
        const json_t *value = json_object_get(json, name);
        return value != nullptr ? json_number_value(value) : NAN;
    }
    std::string param(const char *name) const
    {
        const json_t *value = json_object_get(json_object_get(json, "params"), name);
        return json_is_string(value) ? json_string_value(value)
                                     : std::to_string(json_integer_value(value));
    }
};

class Bench : public testing::Test
{
  protected:
    ~Bench() override
    {
        json_decref(all_);
    }
    // Runs it; the exit code.
    int run(const std::string &arguments)
    {
        const std::string command = BENCH_GPU " " + arguments + " 2>" + folder.path() + "/stderr";
        FILE *pipe = popen(command.c_str(), "r");
        char buffer[4096];
        output.clear();
        while (size_t n = fread(buffer, 1, sizeof(buffer), pipe))
            output.append(buffer, n);
        const int status = pclose(pipe);
        std::ifstream file(folder.path() + "/stderr");
        said.assign(std::istreambuf_iterator<char>(file), {});
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    void measure(const std::string &arguments)
    {
        ASSERT_EQ(run("--small --json --seconds 0.01 " + arguments), 0) << said;
        json_decref(all_);
        all_ = json_loads(output.c_str(), 0, nullptr);
        json_t *results = json_object_get(all_, "results"), *result;
        size_t i;
        found.clear();
        json_array_foreach(results, i, result)
        {
            const std::string metric = json_string_value(json_object_get(result, "metric"));
            found[metric].push_back({result});
            EXPECT_GT(found[metric].back().number("value"), 0) << metric;
            EXPECT_TRUE(std::isfinite(found[metric].back().number("value"))) << metric;
        }
    }
    // How often something was measured, each time with something beside it.
    size_t beside(const std::string &metric)
    {
        for (const Result &result : found[metric]) {
            EXPECT_GT(result.number("baseline"), 0) << metric;
            EXPECT_TRUE(std::isfinite(result.number("ratio"))) << metric;
        }
        return found[metric].size();
    }

    gpu_sched_test::temporary_folder folder;
    gpu_sched_test::two_gpus gpus{folder.path()};
    std::string output, said;
    std::map<std::string, std::vector<Result>> found;

  private:
    json_t *all_ = nullptr;
};

TEST_F(Bench, ComparesValues)
{
    measure("--only crosscheck --out " + folder.path() + "/out");
    ASSERT_EQ(beside("least_cosine_to_cpu"), 2u);
    for (const Result &result : found["least_cosine_to_cpu"])
        EXPECT_GE(result.number("value"), result.param("precision") == "f32" ? 0.99999 : 0.9995);
    // For those who compare as well.
    safetensors *file = nullptr;
    libsched_error err = {};
    ASSERT_EQ(
        safetensors_open(&file, (folder.path() + "/out/crosscheck.safetensors").c_str(), &err),
        LIBSCHED_OK)
        << err.message;
    for (const char *name : {"ids", "lengths", "embeddings", "attention_lengths", "qkv", "context"})
        EXPECT_NE(safetensors_find(file, name), nullptr) << name;
    safetensors_close(file);
}

TEST_F(Bench, MeasuresTheEncoder)
{
    measure("--only encoder");
    EXPECT_EQ(beside("engine_sequences_per_s"), 4u);
    EXPECT_EQ(beside("sequences_per_s"), 8u);
    EXPECT_EQ(beside("device_busy_percent"), 8u);
    EXPECT_EQ(beside("in_batches_percent"), 8u);
    for (const char *length : {"4", "8", "16", "mixed"})
        EXPECT_EQ(std::count_if(found["sequences_per_s"].begin(), found["sequences_per_s"].end(),
                                [&](const Result &r) { return r.param("length") == length; }),
                  2)
            << length;
}

TEST_F(Bench, MeasuresOneRequest)
{
    measure("--only single");
    EXPECT_EQ(beside("single_request_p50_us"), 1u);
    EXPECT_EQ(beside("single_request_p99_us"), 1u);
}

TEST_F(Bench, MeasuresWhatIsBesideTheEncoder)
{
    measure("--only graphs");
    EXPECT_EQ(beside("graph_batch_us"), 3u);
    measure("--only gemm");
    EXPECT_EQ(beside("gemm_gflop_per_s"), 2u);
    measure("--only copies");
    for (const char *metric : {"upload_gb_per_s", "download_gb_per_s", "direct_upload_gb_per_s",
                               "direct_download_gb_per_s"})
        EXPECT_EQ(beside(metric), 2u) << metric;
}

TEST_F(Bench, MeasuresJobsOnOneGpuAndOnSeveral)
{
    measure("--only jobs");
    EXPECT_EQ(beside("job_gemm_gflop_per_s"), 1u);
    ASSERT_EQ(beside("allreduce_busbw_gb_per_s"), 3u) << said;
    EXPECT_EQ(found["allreduce_busbw_gb_per_s"][0].param("gpus"), "2");
}

TEST_F(Bench, MeasuresJobsOnTheOnlyGpu)
{
    setenv("FAKE_CUDA_PCI", "0000:01:00.0", 1);
    measure("--only jobs");
    ASSERT_EQ(beside("allreduce_busbw_gb_per_s"), 3u) << said;
    EXPECT_EQ(found["allreduce_busbw_gb_per_s"][0].param("gpus"), "1");
    EXPECT_EQ(found["allreduce_busbw_gb_per_s"][0].param("ranks"), "2");
}

TEST_F(Bench, GoesOnWithoutNccl)
{
    setenv("GPU_SCHED_NCCL", "/nowhere/libnccl.so.2", 1);
    measure("--only jobs");
    unsetenv("GPU_SCHED_NCCL");
    EXPECT_EQ(beside("job_gemm_gflop_per_s"), 1u);
    EXPECT_EQ(found.count("allreduce_busbw_gb_per_s"), 0u);
    EXPECT_NE(said.find("not measured: allreduce: "), std::string::npos) << said;
    EXPECT_NE(said.find("/nowhere/libnccl.so.2"), std::string::npos) << said;
}

TEST_F(Bench, TellsWhatBoundsEachOperation)
{
    measure("--only roofline");
    EXPECT_EQ(found["peak_gflop_per_s"].size(), 1u);
    EXPECT_EQ(found["peak_gb_per_s"].size(), 1u);
    EXPECT_EQ(beside("roofline_gflop_per_s") + beside("roofline_gb_per_s"), 3u * 10u);
}

TEST_F(Bench, SaysWhyItSkips)
{
    setenv("FAKE_CUDA_FAIL", "cudaGetDeviceCount:0:35", 1);
    EXPECT_EQ(run("--json"), 77);
    unsetenv("FAKE_CUDA_FAIL");
    EXPECT_NE(said.find("skipped: "), std::string::npos) << said;
    EXPECT_NE(said.find("install the NVIDIA driver"), std::string::npos) << said;
    EXPECT_EQ(output, "");
    EXPECT_EQ(run("--small --only no-such-part"), 64);
    EXPECT_EQ(run("--seconds 0"), 64);
    EXPECT_EQ(run("--device tpu"), 64);
}

} // namespace
