// SPDX-License-Identifier: Apache-2.0
// Training in real workers: the same weights from one process as from two.
#include <cmath>
#include <filesystem>

#include "catalog/safetensors.h"
#include "engine/tiny_bert.h"
#include "support/folder.h"
#include "worker/rank_harness.h"

using namespace worker_test;

namespace
{

std::vector<float> weights(const std::string &folder)
{
    safetensors *file = nullptr;
    libsched_error err = {};
    std::vector<float> values;
    EXPECT_EQ(safetensors_open(&file, (folder + "/head.safetensors").c_str(), &err), 0)
        << err.message;
    if (file == nullptr)
        return values;
    const libsched_tensor *t = safetensors_find(file, "weight");
    const float *data = static_cast<const float *>(t->data);
    values.assign(data, data + t->size / sizeof(float));
    safetensors_close(file);
    return values;
}

TEST(TrainProcesses, OneOrTwoGiveTheSameWeights)
{
    gpu_sched_test::tiny_bert bert;
    gpu_sched_test::temporary_folder folder;
    bert.write();
    std::string lines;
    for (int i = 0; i < 200; i++)
        lines += i % 2 == 0 ? "{\"text\": \"the cat sat on a mat\", \"label\": \"animal\"}\n"
                            : "{\"text\": \"x q z " + std::string(size_t(i % 7), 'q') +
                                  "\", \"label\": \"letter\"}\n";
    std::string data = folder.write("data.jsonl", lines);
    for (uint32_t n_ranks : {1, 2}) {
        std::string out = folder.path() + "/" + std::to_string(n_ranks);
        Job job(false, "train",
                {text("model", bert.folder.c_str()), text("data", data.c_str()),
                 text("out", out.c_str()), integer("epochs", 3)},
                n_ranks);
        job.start();
        EXPECT_GT(job.run(), 0u);
        job.close();
        auto got = results(job[0]);
        EXPECT_EQ(got["path"], out);
        EXPECT_EQ(got["examples"], "200");
        std::vector<Event> told = of_type(job[0], WORKER_PROGRESS);
        ASSERT_FALSE(told.empty());
        EXPECT_EQ(told.back().raw.done, told.back().raw.total);
    }
    std::vector<float> one = weights(folder.path() + "/1"), two = weights(folder.path() + "/2");
    ASSERT_EQ(one.size(), 2u * 48);
    ASSERT_EQ(two.size(), one.size());
    for (size_t i = 0; i < one.size(); i++)
        EXPECT_NEAR(one[i], two[i], 1e-6);
}

} // namespace
