/* SPDX-License-Identifier: Apache-2.0 */
/* A classifier on top of the encoder. */
#include <cmath>
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "catalog/safetensors.h"
#include "engine/encoder_harness.h"
#include "engine/encoder_head.h"
#include "engine/tiny_bert.h"

using namespace gpu_sched_test;
using testing::HasSubstr;

namespace
{

class head : public testing::Test
{
  protected:
    static constexpr uint32_t classes = 3, hidden = 48;
    tiny_bert bert;
    std::vector<float> weight, bias = {0.1f, -0.2f, 0.3f};
    std::vector<std::string> labels = {"first", "", "dritte Größe"};

    head()
    {
        bert.write();
        for (uint32_t i = 0; i < classes * hidden; i++)
            weight.push_back((float)std::sin(i) * 3);
        write();
    }
    std::string file() const
    {
        return bert.folder + "/head.safetensors";
    }
    void write(uint32_t n = classes, uint32_t width = hidden)
    {
        std::vector<encoder_label> views;
        for (const std::string &l : labels)
            views.push_back({l.data(), (uint32_t)l.size()});
        libsched_error err = {};
        remove(file().c_str());
        ASSERT_EQ(LIBSCHED_OK, encoder_head_write(file().c_str(), n, width, weight.data(),
                                                  bias.data(), views.data(), &err))
            << err.message;
    }
};

TEST_F(head, scores_are_what_its_weights_say)
{
    encoder_model model(bert.folder);
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    const std::vector<std::string> texts = {"the cat sat", "on a mat", "x", ""};
    request plain = text_request(texts);
    plain.options.set("output", std::string("embedding"));
    auto embedding = model.run({plain})[0];
    auto scored = model.run({text_request(texts)})[0];
    ASSERT_EQ(LIBSCHED_OK, embedding.status) << embedding.message;
    ASSERT_EQ(LIBSCHED_OK, scored.status) << scored.message;
    EXPECT_EQ(1u, embedding.outputs.size());
    EXPECT_EQ(2u, scored.outputs.size());
    EXPECT_EQ((std::vector<int64_t>{4, classes}), scored.outputs.at("scores").shape);
    EXPECT_EQ((std::vector<int64_t>{4}), scored.outputs.at("label").shape);
    std::vector<std::string> expected_labels;
    for (size_t t = 0; t < texts.size(); t++) {
        double logits[classes], sum = 0;
        uint32_t best = 0;
        for (uint32_t c = 0; c < classes; c++) {
            logits[c] = bias[c];
            for (uint32_t i = 0; i < hidden; i++)
                logits[c] += (double)weight[c * hidden + i] * embedding.row("embedding", t)[i];
            best = logits[c] > logits[best] ? c : best;
            sum += std::exp(logits[c]);
        }
        for (uint32_t c = 0; c < classes; c++)
            EXPECT_NEAR(std::exp(logits[c]) / sum, scored.row("scores", t)[c], 1e-5);
        expected_labels.push_back(labels[best]);
    }
    EXPECT_EQ(bytes_tensor(expected_labels).data, scored.outputs.at("label").data);
}

TEST_F(head, serves_every_output_in_one_batch)
{
    encoder_model model(bert.folder);
    request embedding = text_request({"the cat", "mat"}), states = embedding, scores = embedding,
            none = text_request({});
    embedding.options.set("output", std::string("embedding"));
    states.options.set("output", std::string("token_states"));
    scores.options.set("output", std::string("scores"));
    auto answers = model.run({embedding, states, scores, none});
    for (auto &a : answers)
        ASSERT_EQ(LIBSCHED_OK, a.status) << a.message;
    EXPECT_EQ(1u, answers[0].outputs.count("embedding"));
    EXPECT_EQ(1u, answers[1].outputs.count("token_states"));
    EXPECT_EQ(1u, answers[2].outputs.count("label"));
    EXPECT_EQ(0u, answers[3].outputs.at("label").data.size());
    EXPECT_EQ((std::vector<int64_t>{0, classes}), answers[3].outputs.at("scores").shape);
}

/* More texts than one chunk of tokens holds. */
TEST_F(head, scores_long_requests)
{
    encoder_model model(bert.folder);
    std::vector<std::string> texts;
    for (int i = 0; i < 300; i++)
        texts.push_back(i % 3 == 0 ? "the cat sat on the mat" : i % 3 == 1 ? "x q z" : "sat");
    auto answer = model.run({text_request(texts)})[0];
    ASSERT_EQ(LIBSCHED_OK, answer.status) << answer.message;
    for (size_t i = 3; i < texts.size(); i++)
        for (uint32_t c = 0; c < classes; c++)
            ASSERT_NEAR(answer.row("scores", i % 3)[c], answer.row("scores", i)[c], 1e-5);
}

TEST_F(head, is_described)
{
    for (bool prepare_only : {false, true}) {
        encoder_model model(bert.folder, {}, prepare_only);
        ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
        libsched_engine_description d = model.describe();
        ASSERT_EQ(5u, d.n_outputs);
        EXPECT_STREQ("scores", d.outputs[3].name);
        EXPECT_EQ(classes, d.outputs[3].shape[1]);
        EXPECT_STREQ("label", d.outputs[4].name);
        EXPECT_EQ((uint32_t)LIBSCHED_BYTES, d.outputs[4].datatype);
        EXPECT_THAT(d.text, HasSubstr(", 3 classes,"));
    }
    remove(file().c_str());
    encoder_model without(bert.folder);
    EXPECT_EQ(3u, without.describe().n_outputs);
    request r = text_request({"cat"});
    r.options.set("output", std::string("scores"));
    auto answer = without.run({r})[0];
    EXPECT_EQ(LIBSCHED_EINVAL, answer.status);
    EXPECT_EQ("parameter \"output\" has to be \"embedding\" or \"token_states\", got \"scores\"",
              answer.message);
}

TEST_F(head, with_no_room_for_labels_says_so)
{
    encoder_model model(bert.folder);
    labels[0] = labels[1] = labels[2] = std::string(1000, 'l');
    write();
    encoder_model wordy(bert.folder);
    wordy.result_limit = 500;
    EXPECT_EQ(LIBSCHED_ETOOBIG, wordy.run({text_request({"cat"})})[0].status);
}

TEST_F(head, that_does_not_fit_is_refused)
{
    auto refused = [&](const char *reason) {
        encoder_model model(bert.folder);
        EXPECT_EQ(LIBSCHED_EBADMODEL, model.status) << reason;
        EXPECT_THAT(model.err.message, HasSubstr(reason));
    };
    write(classes, hidden - 1);
    refused("\"weight\" is [3, 47], \"bias\" [3]: the model needs [classes, 48] and [classes]");
    weight[5] = NAN;
    write();
    refused("not finite");
    weight[5] = 0;

    auto write_tensors = [&](std::vector<libsched_tensor> tensors) {
        libsched_error err = {};
        remove(file().c_str());
        ASSERT_EQ(LIBSCHED_OK,
                  safetensors_write(file().c_str(), tensors.data(), tensors.size(), &err))
            << err.message;
    };
    const libsched_tensor w = {"weight",          LIBSCHED_FP32, 2,
                               {classes, hidden}, weight.data(), weight.size() * 4};
    const libsched_tensor b = {"bias", LIBSCHED_FP32, 1, {classes}, bias.data(), bias.size() * 4};
    const libsched_tensor l = {"labels", LIBSCHED_UINT8, 1, {5}, "\1\0\0\0x", 5};
    write_tensors({w, b});
    refused("no tensor \"labels\"");
    write_tensors({w, b, l});
    refused("\"labels\" are not 3 texts");
    write_tensors({b, l});
    refused("no tensor \"weight\"");
    libsched_tensor flat = w;
    flat.rank = 1;
    flat.shape[0] = classes * hidden;
    write_tensors({flat, b, l});
    refused("\"weight\" is FP32 with 1 dimensions, FP32 with 2 is needed");
    std::ofstream(file()) << "nonsense";
    refused("head.safetensors");
}

} // namespace
