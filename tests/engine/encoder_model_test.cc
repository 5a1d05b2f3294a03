/* SPDX-License-Identifier: Apache-2.0 */
/* What a model gives, on a small random one: right numbers, alone and in any company. */
#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "engine/encoder_harness.h"
#include "engine/reference/bert.h"
#include "engine/tiny_bert.h"

using namespace gpu_sched_test;

namespace
{

std::vector<std::vector<int32_t>> random_sequences(size_t n, uint32_t seed)
{
    std::mt19937 random(seed);
    std::vector<std::vector<int32_t>> all(n);
    for (auto &sequence : all) {
        sequence.resize(1 + random() % 64);
        for (int32_t &id : sequence)
            id = (int32_t)(random() % 60);
    }
    return all;
}

bool native_bf16()
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

void expect_like_reference(const tiny_bert &files, const char *precision, double least_cosine)
{
    files.write();
    reference_bert reference(files.folder);
    encoder_model model(files.folder, parameters().set("precision", std::string(precision)));
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    auto sequences = random_sequences(40, 3);
    answer got = model.step({prepared_request(sequences)})[0];
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    ASSERT_EQ((std::vector<int64_t>{40, (int64_t)files.hidden}), got.outputs.at("embedding").shape);
    for (size_t i = 0; i < sequences.size(); i++)
        EXPECT_GT(cosine(got.row("embedding", i), reference.embed(sequences[i])), least_cosine)
            << "sequence " << i << " of " << sequences[i].size();
}

TEST(encoder_model, is_like_the_reference)
{
    tiny_bert files;
    expect_like_reference(files, "f32", 0.999999);
}

TEST(encoder_model, is_like_the_reference_in_bf16)
{
    if (!native_bf16())
        GTEST_SKIP() << "this CPU does not compute bf16 natively";
    tiny_bert files;
    expect_like_reference(files, "bf16", 0.999);
}

TEST(encoder_model, has_the_activation_of_its_configuration)
{
    for (const char *activation : {"gelu_new", "relu"}) {
        tiny_bert files;
        files.activation = activation;
        expect_like_reference(files, "f32", 0.999999);
    }
}

TEST(encoder_model, reads_checkpoints_of_all_datatypes_and_prefixes)
{
    for (uint32_t datatype : {LIBSCHED_FP16, LIBSCHED_BF16}) {
        tiny_bert files;
        files.datatype = datatype;
        files.prefix = "bert.";
        expect_like_reference(files, "f32", 0.999999);
    }
}

TEST(encoder_model, reads_norms_named_gamma_and_beta)
{
    tiny_bert files;
    files.write();
    encoder_model plain(files.folder);
    auto sequences = random_sequences(3, 1);
    answer expected = plain.step({prepared_request(sequences)})[0];

    auto tensors = files.tensors;
    for (const auto &[name, t] : tensors) {
        size_t at = name.find("LayerNorm.");
        if (at == std::string::npos)
            continue;
        std::string base = name.substr(0, at + 10);
        files.tensors[base + (name.back() == 't' ? "gamma" : "beta")] = t;
        files.tensors.erase(name);
    }
    files.write();
    encoder_model renamed(files.folder);
    ASSERT_EQ(LIBSCHED_OK, renamed.status) << renamed.err.message;
    answer got = renamed.step({prepared_request(sequences)})[0];
    EXPECT_EQ(expected.outputs.at("embedding").data, got.outputs.at("embedding").data);
}

TEST(encoder_model, gives_token_states)
{
    tiny_bert files;
    files.write();
    reference_bert reference(files.folder);
    encoder_model model(files.folder);
    auto sequences = random_sequences(30, 5); /* more than one chunk */
    request wanted = prepared_request(sequences), other = prepared_request(sequences);
    wanted.options.set("output", std::string("token_states"));
    std::vector<answer> got = model.step({wanted, other});
    ASSERT_EQ(LIBSCHED_OK, got[0].status) << got[0].message;
    ASSERT_EQ(LIBSCHED_OK, got[1].status) << got[1].message;
    EXPECT_EQ(1u, got[1].outputs.count("embedding"));

    size_t at = 0;
    for (size_t i = 0; i < sequences.size(); i++) {
        int32_t length;
        memcpy(&length, got[0].outputs.at("lengths").data.data() + 4 * i, 4);
        ASSERT_EQ((int32_t)sequences[i].size(), length);
        std::vector<double> expected = reference.states(sequences[i]);
        for (size_t j = 0; j < expected.size(); j++)
            ASSERT_NEAR(expected[j], got[0].row("token_states", at)[j], 1e-4) << i;
        at += sequences[i].size();
    }
    EXPECT_EQ((std::vector<int64_t>{(int64_t)at, (int64_t)files.hidden}),
              got[0].outputs.at("token_states").shape);
}

TEST(encoder_model, pools_as_it_is_told)
{
    tiny_bert files;
    files.write();
    reference_bert reference(files.folder);
    auto sequences = random_sequences(4, 6);
    for (const char *pooling : {"mean", "cls", "max"}) {
        encoder_model model(
            files.folder,
            parameters().set("pooling", std::string(pooling)).set("normalize", false));
        ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
        answer got = model.step({prepared_request(sequences)})[0];
        for (size_t i = 0; i < sequences.size(); i++) {
            std::vector<double> states = reference.states(sequences[i]);
            for (size_t c = 0; c < files.hidden; c++) {
                double mean = 0, top = -INFINITY;
                for (size_t t = 0; t < sequences[i].size(); t++) {
                    mean += states[t * files.hidden + c] / (double)sequences[i].size();
                    top = std::max(top, states[t * files.hidden + c]);
                }
                double expected = *pooling == 'c' ? states[c] : pooling[1] == 'e' ? mean : top;
                ASSERT_NEAR(expected, got.row("embedding", i)[c], 1e-4) << pooling;
            }
        }
    }
}

/* ---------------------------------------------------------------------------------- in company */

void expect_company_changes_nothing(const char *precision, double tolerance, double least_cosine)
{
    tiny_bert files;
    files.write();
    encoder_model model(files.folder, parameters().set("precision", std::string(precision)));
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    auto sequences = random_sequences(200, 7);
    std::vector<request> together;
    for (size_t i = 0; i < sequences.size(); i += 4) /* items of four */
        together.push_back(prepared_request(
            {sequences.begin() + (ptrdiff_t)i, sequences.begin() + (ptrdiff_t)i + 4}));
    std::vector<answer> all = model.step(together);
    for (size_t i = 0; i < sequences.size(); i++) {
        answer alone = model.step({prepared_request({sequences[i]})})[0];
        const float *a = alone.row("embedding", 0), *b = all[i / 4].row("embedding", i % 4);
        std::vector<double> wide(a, a + files.hidden);
        for (size_t c = 0; c < files.hidden; c++)
            ASSERT_NEAR(a[c], b[c], tolerance) << "sequence " << i;
        ASSERT_GE(cosine(b, wide), least_cosine);
    }
}

TEST(encoder_model, company_changes_nothing)
{
    expect_company_changes_nothing("f32", 1e-5, 0.9999999);
}

TEST(encoder_model, company_changes_nothing_in_bf16)
{
    if (!native_bf16())
        GTEST_SKIP() << "this CPU does not compute bf16 natively";
    expect_company_changes_nothing("bf16", 1e-2, 0.9999);
}

TEST(encoder_model, each_item_has_its_own_end)
{
    tiny_bert files;
    files.write();
    encoder_model model(files.folder);
    auto sequences = random_sequences(60, 8);
    request good = prepared_request(sequences), empty = prepared_request({});
    request bad_id = prepared_request({{1, 2, 3}, {4, 1000, 5}});
    request negative_id = prepared_request({{-1}});
    request long_claim = prepared_request({{1, 2, 3}});
    request short_claim = prepared_request({{1, 2, 3}});
    request gone = prepared_request({{1, 2}});
    long_claim.inputs["lengths"] = int32_tensor({1}, {4});
    short_claim.inputs["lengths"] = int32_tensor({1}, {2});
    gone.cancelled = true;
    std::vector<answer> got =
        model.step({bad_id, good, long_claim, empty, negative_id, gone, short_claim, good});
    EXPECT_EQ(LIBSCHED_EINVAL, got[0].status);
    EXPECT_NE(std::string::npos, got[0].message.find("1000")) << got[0].message;
    EXPECT_EQ(LIBSCHED_OK, got[1].status) << got[1].message;
    EXPECT_EQ(LIBSCHED_EINVAL, got[2].status);
    ASSERT_EQ(LIBSCHED_OK, got[3].status) << got[3].message;
    EXPECT_EQ((std::vector<int64_t>{0, (int64_t)files.hidden}),
              got[3].outputs.at("embedding").shape);
    EXPECT_EQ(LIBSCHED_EINVAL, got[4].status);
    EXPECT_EQ(LIBSCHED_ECANCELED, got[5].status);
    EXPECT_EQ(LIBSCHED_EINVAL, got[6].status);
    ASSERT_EQ(LIBSCHED_OK, got[7].status) << got[7].message;

    answer alone = model.step({good})[0];
    for (const answer *a : {&got[1], &got[7]})
        for (size_t i = 0; i < sequences.size(); i++)
            for (size_t c = 0; c < files.hidden; c++)
                ASSERT_NEAR(alone.row("embedding", i)[c], a->row("embedding", i)[c], 1e-5);
}

TEST(encoder_model, an_answer_without_room_leaves_the_others)
{
    tiny_bert files;
    files.write();
    encoder_model model(files.folder);
    model.result_limit = 4 * files.hidden * 4;
    std::vector<answer> got = model.step(
        {prepared_request(random_sequences(5, 1)), prepared_request(random_sequences(4, 1))});
    EXPECT_EQ(LIBSCHED_ETOOBIG, got[0].status);
    EXPECT_EQ(LIBSCHED_OK, got[1].status) << got[1].message;
}

TEST(encoder_model, an_answer_that_is_not_finite_is_an_error)
{
    tiny_bert files;
    /* The embedding of one word is damaged: only who uses it is told. */
    for (size_t c = 0; c < files.hidden; c++)
        files.tensors["embeddings.word_embeddings.weight"].values[9 * files.hidden + c] = NAN;
    files.write();
    encoder_model model(files.folder);
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    std::vector<answer> got =
        model.step({prepared_request({{2, 8, 3}}), prepared_request({{2, 8, 3}, {2, 9, 3}}),
                    prepared_request({{2, 7, 3}})});
    EXPECT_EQ(LIBSCHED_OK, got[0].status) << got[0].message;
    EXPECT_EQ(LIBSCHED_EENGINE, got[1].status);
    EXPECT_NE(std::string::npos, got[1].message.find("sequence 1")) << got[1].message;
    EXPECT_EQ(LIBSCHED_OK, got[2].status) << got[2].message;
}

TEST(encoder_model, warms_up)
{
    tiny_bert files;
    files.write();
    encoder_model model(files.folder);
    EXPECT_EQ(LIBSCHED_OK, model.engine->warmup(model.model, &model.err)) << model.err.message;
}

} // namespace
