/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder as a whole on the CUDA plugin over the fake of CUDA, against the CPU device. */
#include <cmath>

#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "pipeline.h"
#include "support/minilm.h"

using namespace gpu_sched_test;

namespace
{

const encoder_device on_cuda = {"cuda", EMULATED_CUDA_FOLDER};

double least_cosine(const std::string &folder, const std::string &precision,
                    const std::vector<std::string> &texts)
{
    const parameters f32 = parameters().set("precision", std::string("f32"));
    encoder_model cpu(folder, f32);
    encoder_model cuda(folder, parameters().set("precision", precision), false, 1, on_cuda);
    EXPECT_EQ(LIBSCHED_OK, cpu.status) << cpu.err.message;
    EXPECT_EQ(LIBSCHED_OK, cuda.status) << cuda.err.message;
    if (cpu.status != LIBSCHED_OK || cuda.status != LIBSCHED_OK)
        return -1;
    const answer expected = cpu.run({text_request(texts)})[0];
    const answer got = cuda.run({text_request(texts)})[0];
    EXPECT_EQ(LIBSCHED_OK, got.status) << got.message;
    double least = 1;
    for (size_t i = 0; got.status == LIBSCHED_OK && i < texts.size(); i++) {
        const int64_t n = got.outputs.at("embedding").shape[1];
        const float *a = expected.row("embedding", i), *b = got.row("embedding", i);
        double ab = 0, aa = 0, bb = 0;
        for (int64_t c = 0; c < n; c++) {
            ab += (double)a[c] * b[c];
            aa += (double)a[c] * a[c];
            bb += (double)b[c] * b[c];
        }
        least = std::min(least, ab / std::sqrt(aa * bb));
    }
    return least;
}

TEST(encoder_on_cuda, is_that_on_the_cpu)
{
    for (const char *activation : {"gelu", "gelu_new", "relu"}) {
        tiny_bert bert;
        bert.activation = activation;
        bert.write();
        const std::vector<std::string> texts = {"a", "b c", "c a b a", ""};
        EXPECT_GE(least_cosine(bert.folder, "f32", texts), 0.99999) << activation;
        EXPECT_GE(least_cosine(bert.folder, "bf16", texts), 0.9995) << activation;
    }
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST(encoder_on_cuda, is_right_with_minilm)
{
    GPU_SCHED_NEED_MINILM(folder);
    const std::vector<std::string> texts = {
        "A GPU is a machine of its own.",
        "Ein Satz auf Deutsch, mit Umlauten: äöü.",
        "short",
    };
    EXPECT_GE(least_cosine(folder, "f32", texts), 0.99999);
    EXPECT_GE(least_cosine(folder, "bf16", texts), 0.9995);
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST(encoder_on_cuda, that_does_not_fit_is_refused_with_the_numbers)
{
    tiny_bert bert;
    bert.write();
    fake_cuda_memory(UINT64_C(36) << 20);
    encoder_model model(bert.folder, {}, false, 1, on_cuda);
    EXPECT_EQ(LIBSCHED_ENODEVMEM, model.status);
    EXPECT_NE(std::string::npos, std::string(model.err.message).find("of 36 MiB are free"))
        << model.err.message;
    fake_cuda_memory(UINT64_C(1) << 30);
}

} // namespace
