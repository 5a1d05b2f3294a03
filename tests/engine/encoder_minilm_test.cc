/* SPDX-License-Identifier: Apache-2.0 */
/* The real model on the texts of tests/data, against the reference in double precision. */
#include <algorithm>
#include <memory>

#include <gtest/gtest.h>

#include "engine/encoder_harness.h"
#include "engine/reference/bert.h"
#include "support/minilm.h"
#include "support/texts.h"

using namespace gpu_sched_test;

namespace
{

/* The reference takes its time, and more of it under a sanitizer: then one text in eight. */
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t every = 8;
#else
constexpr size_t every = 1;
#endif

struct goldens {
    std::vector<std::string> texts;
    std::vector<std::vector<int32_t>> ids;
    std::vector<std::vector<double>> expected;
};

const goldens &minilm_goldens(const std::string &folder)
{
    static const goldens all = [&] {
        goldens g;
        std::vector<golden_text> texts = golden_texts();
        for (size_t i = 0; i < texts.size(); i += every) {
            g.texts.push_back(texts[i].text);
            g.ids.push_back(texts[i].ids);
        }
        g.expected = reference_bert(folder).embed_all(g.ids);
        return g;
    }();
    return all;
}

void expect_like_reference(const std::string &folder, const char *precision, double least_cosine)
{
    const goldens &g = minilm_goldens(folder);
    encoder_model model(folder, parameters().set("precision", std::string(precision)));
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    std::vector<request> requests;
    for (size_t i = 0; i < g.texts.size(); i += 16)
        requests.push_back(
            text_request({g.texts.begin() + (ptrdiff_t)i,
                          g.texts.begin() + (ptrdiff_t)std::min(i + 16, g.texts.size())}));
    std::vector<answer> got = model.run(requests);
    double least = 1;
    for (size_t i = 0; i < g.texts.size(); i++) {
        const answer &a = got[i / 16];
        ASSERT_EQ(LIBSCHED_OK, a.status) << a.message;
        double c = cosine(a.row("embedding", i % 16), g.expected[i]);
        EXPECT_GE(c, least_cosine) << g.texts[i].substr(0, 60);
        least = std::min(least, c);
    }
    testing::Test::RecordProperty("least_cosine", std::to_string(least));
    testing::Test::RecordProperty("texts", (int)g.texts.size());
}

TEST(encoder_minilm, is_like_the_reference)
{
    GPU_SCHED_NEED_MINILM(folder);
    expect_like_reference(folder, "f32", 0.99999);
}

TEST(encoder_minilm, is_like_the_reference_in_bf16)
{
    GPU_SCHED_NEED_MINILM(folder);
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512bf16"))
#endif
        GTEST_SKIP() << "this CPU does not compute bf16 natively";
    expect_like_reference(folder, "bf16", 0.999);
}

void expect_company_changes_nothing(const std::string &folder, const char *precision,
                                    double tolerance, double least_cosine)
{
    std::vector<golden_text> texts = golden_texts();
    encoder_model model(folder, parameters().set("precision", std::string(precision)));
    ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
    std::vector<std::vector<int32_t>> ids;
    for (size_t i = 0; i < texts.size(); i += 4 * every)
        ids.push_back(texts[i].ids);
    answer all = model.step({prepared_request(ids)})[0];
    ASSERT_EQ(LIBSCHED_OK, all.status) << all.message;
    for (size_t i = 0; i < ids.size(); i++) {
        answer alone = model.step({prepared_request({ids[i]})})[0];
        const float *a = alone.row("embedding", 0), *b = all.row("embedding", i);
        for (size_t c = 0; c < 384; c++)
            ASSERT_NEAR(a[c], b[c], tolerance) << i;
        ASSERT_GE(cosine(b, std::vector<double>(a, a + 384)), least_cosine) << i;
    }
}

TEST(encoder_minilm, company_changes_nothing)
{
    GPU_SCHED_NEED_MINILM(folder);
    expect_company_changes_nothing(folder, "f32", 1e-5, 0.9999999);
}

TEST(encoder_minilm, company_changes_nothing_in_bf16)
{
    GPU_SCHED_NEED_MINILM(folder);
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512bf16"))
#endif
        GTEST_SKIP() << "this CPU does not compute bf16 natively";
    expect_company_changes_nothing(folder, "bf16", 1e-2, 0.9999);
}

/* The nearest of some sentences are those that mean the same. */
TEST(encoder_minilm, knows_what_is_alike)
{
    GPU_SCHED_NEED_MINILM(folder);
    encoder_model model(folder);
    answer got = model.run(
        {text_request({"How do I reset my password?", "I forgot the code for my account, what now?",
                       "The cat sat on the mat.", "A feline was resting on a rug."})})[0];
    ASSERT_EQ(LIBSCHED_OK, got.status) << got.message;
    auto alike = [&](size_t a, size_t b) {
        const float *row = got.row("embedding", b);
        return cosine(got.row("embedding", a), std::vector<double>(row, row + 384));
    };
    EXPECT_GT(alike(0, 1), alike(0, 2) + 0.2);
    EXPECT_GT(alike(2, 3), alike(1, 3) + 0.2);
}

} // namespace
