/* SPDX-License-Identifier: Apache-2.0 */
/* Models that can't be opened, and how they say so; what one says of itself. */
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"

using namespace gpu_sched_test;

namespace
{

struct encoder_open : testing::Test {
    tiny_bert files;

    void expect_refused(const std::string &says, const parameters &options = {})
    {
        encoder_model model(files.folder, options);
        EXPECT_EQ(LIBSCHED_EBADMODEL, model.status);
        EXPECT_NE(nullptr, strstr(model.err.message, says.c_str())) << model.err.message;
    }
};

TEST_F(encoder_open, a_missing_tensor_is_named)
{
    files.tensors.erase("encoder.layer.1.attention.self.key.bias");
    files.write();
    expect_refused("encoder.layer.1.attention.self.key.bias");
}

TEST_F(encoder_open, a_misshapen_tensor_is_named_with_both_shapes)
{
    auto &t = files.tensors["encoder.layer.0.intermediate.dense.weight"];
    std::swap(t.shape[0], t.shape[1]);
    files.write();
    expect_refused(
        "encoder.layer.0.intermediate.dense.weight\" is [48, 80], config.json asks for [80, 48]");
}

TEST_F(encoder_open, a_file_cut_short_is_refused)
{
    files.write();
    std::string path = files.folder + "/model.safetensors";
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 100);
    expect_refused("model.safetensors");
}

TEST_F(encoder_open, missing_files_are_named)
{
    files.write();
    std::filesystem::remove(files.folder + "/model.safetensors");
    expect_refused("model.safetensors");
    std::filesystem::remove(files.folder + "/config.json");
    expect_refused("config.json");
}

TEST_F(encoder_open, a_vocabulary_larger_than_the_table_is_refused)
{
    files.write();
    std::ofstream(files.folder + "/vocab.txt", std::ios::app) << "onemore\n";
    expect_refused("vocab_size");
}

TEST_F(encoder_open, parameters_are_checked)
{
    files.write();
    expect_refused("\"speed\"", parameters().set("speed", (int64_t)1));
    expect_refused("\"fp8\"", parameters().set("precision", std::string("fp8")));
    expect_refused("precision", parameters().set("precision", (int64_t)32));
    expect_refused("from 2 to 64, got 65", parameters().set("max_length", (int64_t)65));
    expect_refused("got 1", parameters().set("max_length", (int64_t)1));
    expect_refused("got -1", parameters().set("max_batch_units", (int64_t)-1));
    expect_refused("\"median\"", parameters().set("pooling", std::string("median")));
    expect_refused("normalize", parameters().set("normalize", std::string("yes")));
}

TEST_F(encoder_open, describes_itself)
{
    files.write();
    encoder_model model(files.folder, parameters()
                                          .set("max_batch_requests", (int64_t)7)
                                          .set("max_batch_units", (int64_t)900)
                                          .set("precision", std::string("auto")));
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    libsched_engine_description d = model.describe();
    EXPECT_TRUE(d.flags & LIBSCHED_ENGINE_PREPARES);
    EXPECT_FALSE(d.flags & LIBSCHED_ENGINE_STEPS);
    EXPECT_EQ(7u, d.max_batch_requests);
    EXPECT_EQ(900u, d.max_batch_units);
    EXPECT_GT(d.memory_bytes, 100000u);
    EXPECT_NE(nullptr, strstr(d.text, "2 layers, hidden 48")) << d.text;
    EXPECT_STREQ("text", d.inputs[0].name);
    EXPECT_STREQ("embedding", d.outputs[0].name);
    EXPECT_EQ((int64_t)files.hidden, d.outputs[0].shape[1]);
}

} // namespace
