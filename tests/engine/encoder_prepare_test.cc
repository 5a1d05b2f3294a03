/* SPDX-License-Identifier: Apache-2.0 */
/* What a request may hold, and what it becomes; a model that only prepares. */
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"

using namespace gpu_sched_test;

namespace
{

std::vector<int32_t> values(const owned_tensor &t)
{
    std::vector<int32_t> v(t.data.size() / 4);
    if (!v.empty())
        memcpy(v.data(), t.data.data(), t.data.size());
    return v;
}

struct encoder_prepare : testing::Test {
    tiny_bert files;
    std::unique_ptr<encoder_model> model;

    void open(const parameters &options = {})
    {
        files.write();
        model = std::make_unique<encoder_model>(files.folder, options, true);
        ASSERT_EQ(LIBSCHED_OK, model->status) << model->err.message;
    }
    answer prepare(const request &r)
    {
        return model->prepare({r})[0];
    }
    void expect_refused(const request &r, int status, const std::string &says)
    {
        answer got = prepare(r);
        EXPECT_EQ(status, got.status);
        EXPECT_NE(std::string::npos, got.message.find(says)) << got.message;
    }
};

TEST_F(encoder_prepare, needs_no_weights)
{
    files.tensors.clear();
    open();
    EXPECT_EQ(LIBSCHED_OK, prepare(text_request({"the cat"})).status);
}

TEST_F(encoder_prepare, texts_become_ids)
{
    open();
    answer got = prepare(text_request({"the cat", "", "The CAT sat!"}));
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    EXPECT_EQ((std::vector<int32_t>{4, 2, 6}), values(got.outputs.at("lengths")));
    EXPECT_EQ((std::vector<int32_t>{2, 57, 58, 3, 2, 3, 2, 57, 58, 59, 64, 3}),
              values(got.outputs.at("ids")));
    /* Each sequence costs its tokens and a little more. */
    EXPECT_EQ(12u + 3u, got.units);
}

TEST_F(encoder_prepare, no_texts_are_an_answer)
{
    open();
    answer got = prepare(text_request({}));
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    EXPECT_EQ(0u, got.outputs.at("ids").data.size());
    EXPECT_EQ(0u, got.outputs.at("lengths").data.size());
    EXPECT_GE(got.units, 1u);
}

TEST_F(encoder_prepare, ids_are_taken_with_and_without_a_mask)
{
    open();
    request r;
    r.inputs["input_ids"] = int64_tensor({2, 3}, {2, 7, 3, 2, 3, 0});
    answer got = prepare(r);
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    EXPECT_EQ((std::vector<int32_t>{2, 7, 3, 2, 3, 0}), values(got.outputs.at("ids")));
    r.inputs["attention_mask"] = int32_tensor({2, 3}, {1, 1, 1, 1, 1, 0});
    got = prepare(r);
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    EXPECT_EQ((std::vector<int32_t>{2, 7, 3, 2, 3}), values(got.outputs.at("ids")));
    EXPECT_EQ((std::vector<int32_t>{3, 2}), values(got.outputs.at("lengths")));
}

TEST_F(encoder_prepare, ids_that_do_not_make_sense_are_refused)
{
    open();
    request r;
    r.inputs["input_ids"] = int32_tensor({2, 2}, {2, 3, 2, 1000});
    expect_refused(r, LIBSCHED_EINVAL, "1000 in row 1, column 1");
    r.inputs["input_ids"] = int64_tensor({1, 2}, {2, (int64_t)1 << 32});
    expect_refused(r, LIBSCHED_EINVAL, "vocabulary");
    r.inputs["input_ids"] = int64_tensor({1, 2}, {2, -1});
    expect_refused(r, LIBSCHED_EINVAL, "vocabulary");
    r.inputs["input_ids"] = int32_tensor({1, 65}, std::vector<int32_t>(65, 2));
    expect_refused(r, LIBSCHED_ETOOBIG, "65 tokens");
    r.inputs["input_ids"] = int32_tensor({3, 0}, {});
    expect_refused(r, LIBSCHED_EINVAL, "row 0 has no tokens");
    r.inputs["input_ids"] = int32_tensor({4}, {2, 3, 2, 3});
    expect_refused(r, LIBSCHED_EINVAL, "two dimensions");
    r.inputs["input_ids"] = int32_tensor({1, 3}, {2, 7, 3});
    r.inputs["attention_mask"] = int32_tensor({1, 3}, {1, 0, 1});
    expect_refused(r, LIBSCHED_EINVAL, "ones and then zeros");
    r.inputs["attention_mask"] = int32_tensor({1, 3}, {0, 0, 0});
    expect_refused(r, LIBSCHED_EINVAL, "no tokens");
    r.inputs["attention_mask"] = int32_tensor({3, 1}, {1, 1, 1});
    expect_refused(r, LIBSCHED_EINVAL, "alike");
}

TEST_F(encoder_prepare, takes_texts_or_ids)
{
    open();
    request r;
    expect_refused(r, LIBSCHED_EINVAL, "neither");
    r = text_request({"the"});
    r.inputs["input_ids"] = int32_tensor({1, 1}, {2});
    expect_refused(r, LIBSCHED_EINVAL, "both");
    r = text_request({"the"});
    r.inputs["attention_mask"] = int32_tensor({1, 1}, {1});
    expect_refused(r, LIBSCHED_EINVAL, "goes with");
}

TEST_F(encoder_prepare, a_long_text_is_cut_or_refused)
{
    open(parameters().set("max_length", (int64_t)8));
    std::string text;
    for (int i = 0; i < 20; i++)
        text += "cat ";
    answer got = prepare(text_request({text}));
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    EXPECT_EQ((std::vector<int32_t>{8}), values(got.outputs.at("lengths")));
    request strict = text_request({"cat", text});
    strict.options.set("truncate", false);
    expect_refused(strict, LIBSCHED_ETOOBIG, "text 1 has 22 tokens, the limit is 8");
}

TEST_F(encoder_prepare, text_that_is_not_utf8_is_refused_alone)
{
    open();
    std::vector<answer> got = model->prepare(
        {text_request({"cat"}), text_request({"cat", "\xff\xfe"}), text_request({"mat"})});
    EXPECT_EQ(LIBSCHED_OK, got[0].status);
    EXPECT_EQ(LIBSCHED_EINVAL, got[1].status);
    EXPECT_EQ(0u, got[1].message.find("text 1: ")) << got[1].message;
    EXPECT_EQ(LIBSCHED_OK, got[2].status);
}

TEST_F(encoder_prepare, a_request_has_a_limit)
{
    open(parameters().set("max_request_units", (int64_t)20));
    EXPECT_EQ(LIBSCHED_OK, prepare(text_request({"cat", "cat"})).status);
    expect_refused(text_request(std::vector<std::string>(10, "cat")), LIBSCHED_ETOOBIG, "20");
}

TEST_F(encoder_prepare, lying_lengths_inside_a_text_tensor_are_refused)
{
    open();
    request r = text_request({"cat"});
    r.inputs["text"].data[0] = 200;
    expect_refused(r, LIBSCHED_EINVAL, "cut short");
    r.inputs["text"].data.resize(2);
    expect_refused(r, LIBSCHED_EINVAL, "cut short");
}

TEST_F(encoder_prepare, unknown_options_of_a_request_are_refused)
{
    open();
    request r = text_request({"cat"});
    r.options.set("temperature", (int64_t)1);
    expect_refused(r, LIBSCHED_EINVAL, "temperature");
    r = text_request({"cat"});
    r.options.set("output", std::string("logits"));
    expect_refused(r, LIBSCHED_EINVAL, "logits");
    r = text_request({"cat"});
    r.options.set("truncate", (int64_t)1);
    expect_refused(r, LIBSCHED_EINVAL, "truncate");
}

TEST_F(encoder_prepare, a_cancelled_request_is_not_prepared)
{
    open();
    request r = text_request({"cat"});
    r.cancelled = true;
    EXPECT_EQ(LIBSCHED_ECANCELED, prepare(r).status);
}

} // namespace
