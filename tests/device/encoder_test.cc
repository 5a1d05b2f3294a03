/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder as a whole on each device that is not the CPU, against the CPU device. */
#include <cmath>

#include "device/device_case.h"
#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "support/minilm.h"

using namespace gpu_sched_test;

namespace
{

class encoder_on : public testing::TestWithParam<device_case>
{
  protected:
    double least_cosine(const std::string &folder, const std::string &precision,
                        const std::vector<std::string> &texts)
    {
        const encoder_device on = {GetParam().driver, GetParam().plugins};
        const parameters f32 = parameters().set("precision", std::string("f32"));
        encoder_model cpu(folder, f32);
        encoder_model other(folder, parameters().set("precision", precision), false, 1, on);
        EXPECT_EQ(LIBSCHED_OK, cpu.status) << cpu.err.message;
        EXPECT_EQ(LIBSCHED_OK, other.status) << other.err.message;
        if (cpu.status != LIBSCHED_OK || other.status != LIBSCHED_OK)
            return -1;
        const answer expected = cpu.run({text_request(texts)})[0];
        const answer got = other.run({text_request(texts)})[0];
        EXPECT_EQ(LIBSCHED_OK, got.status) << got.message;
        double least = got.status == LIBSCHED_OK ? 1 : -1;
        for (size_t i = 0; got.status == LIBSCHED_OK && i < texts.size(); i++) {
            const int64_t n = got.outputs.at("embedding").shape[1];
            const float *a = expected.row("embedding", i), *b = got.row("embedding", i);
            double ab = 0, aa = 0, bb = 0;
            for (int64_t c = 0; c < n; c++) {
                ab += (double)a[c] * b[c];
                aa += (double)a[c] * a[c];
                bb += (double)b[c] * b[c];
            }
            /* A NaN is not at least anything. */
            const double cosine = ab / std::sqrt(aa * bb);
            least = cosine >= least || cosine < least ? std::min(least, cosine) : -1;
        }
        return least;
    }
};

std::vector<device_case> other_devices()
{
    std::vector<device_case> others;
    for (const device_case &each : all_devices())
        if (each.driver != "cpu")
            others.push_back(each);
    return others;
}

INSTANTIATE_TEST_SUITE_P(encoder, encoder_on, testing::ValuesIn(other_devices()), device_case_name);

TEST_P(encoder_on, gives_the_vectors_of_the_cpu)
{
    for (const char *activation : {"gelu", "gelu_new", "relu"}) {
        tiny_bert bert;
        bert.activation = activation;
        bert.write();
        const std::vector<std::string> texts = {"a", "b c", "c a b a", ""};
        EXPECT_GE(least_cosine(bert.folder, "f32", texts), 0.99999) << activation;
        EXPECT_GE(least_cosine(bert.folder, "bf16", texts), 0.9995) << activation;
    }
}

TEST_P(encoder_on, gives_the_vectors_of_minilm)
{
    GPU_SCHED_NEED_MINILM(folder);
    const std::vector<std::string> texts = {
        "A GPU is a machine of its own.",
        "Ein Satz auf Deutsch, mit Umlauten: äöü.",
        "short",
    };
    EXPECT_GE(least_cosine(folder, "f32", texts), 0.99999);
    EXPECT_GE(least_cosine(folder, "bf16", texts), 0.9995);
}

} // namespace
