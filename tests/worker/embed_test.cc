// SPDX-License-Identifier: Apache-2.0
// A model split over workers that are processes of their own: the vectors are those of one.
#include <filesystem>

#include "catalog/safetensors.h"
#include "engine/tiny_bert.h"
#include "support/folder.h"
#include "worker/rank_harness.h"

using namespace worker_test;

namespace
{

std::vector<float> vectors(const std::string &path)
{
    safetensors *file = nullptr;
    libsched_error err = {};
    std::vector<float> values;
    EXPECT_EQ(safetensors_open(&file, path.c_str(), &err), 0) << err.message;
    const libsched_tensor *t = file != nullptr ? safetensors_find(file, "embeddings") : nullptr;
    if (t != nullptr) {
        const float *data = static_cast<const float *>(t->data);
        values.assign(data, data + t->size / sizeof(float));
    }
    safetensors_close(file);
    return values;
}

class EmbedProcesses : public testing::Test
{
  protected:
    EmbedProcesses()
    {
        bert.heads = 4;
        bert.write();
        std::string lines;
        for (int i = 0; i < 120; i++)
            lines += "the cat sat on a " + std::string(size_t(i % 9), 'x') + " mat\n";
        input = folder.write("in.txt", lines);
    }
    std::vector<libsched_parameter> parameters(const std::string &out, const char *split)
    {
        return {text("model", bert.folder.c_str()), text("input", input.c_str()),
                text("output", out.c_str()), text("split", split), integer("batch", 64)};
    }

    gpu_sched_test::tiny_bert bert;
    gpu_sched_test::temporary_folder folder;
    std::string input;
};

TEST_F(EmbedProcesses, GiveTheSameVectorsHoweverTheyShareTheWork)
{
    std::map<std::string, std::vector<float>> got;
    for (const char *split : {"one", "data", "tensor"}) {
        const bool alone = std::string(split) == "one";
        const std::string out = folder.path() + "/" + split;
        Job job(false, "embed", parameters(out, alone ? "data" : split), alone ? 1 : 2);
        job.start();
        EXPECT_GT(job.run(), 0u);
        job.close();
        EXPECT_EQ(results(job[0])["path"], out);
        EXPECT_EQ(results(job[0])["texts"], "120");
        std::vector<Event> told = of_type(job[0], WORKER_PROGRESS);
        ASSERT_FALSE(told.empty());
        EXPECT_EQ(told.back().raw.done, 120u);
        EXPECT_EQ(told.back().raw.total, 120u);
        got[split] = vectors(out);
        ASSERT_EQ(got[split].size(), 120u * 48);
    }
    EXPECT_EQ(got["data"], got["one"]);
    for (size_t i = 0; i < got["one"].size(); i++)
        ASSERT_NEAR(got["tensor"][i], got["one"][i], 1e-5);
}

TEST_F(EmbedProcesses, LeaveNothingWhenTheyAreCancelled)
{
    const std::string out = folder.path() + "/out";
    Job job(false, "embed", parameters(out, "tensor"), 2);
    job.start();
    job.send_step(1);
    for (auto &w : job.workers)
        EXPECT_EQ(w->wait(WORKER_RANK_STEPPED).raw.status, 0);
    job.close(true);
    EXPECT_FALSE(std::filesystem::exists(out));
    size_t files = 0;
    for ([[maybe_unused]] auto &entry : std::filesystem::directory_iterator(folder.path()))
        files++;
    EXPECT_EQ(files, 1u) << "the input";
}

} // namespace
