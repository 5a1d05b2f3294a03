/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the encoder on the CUDA plugin over the fake of CUDA; what it computes is compared in
 * tests/device/encoder_test.cc. */
#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

const encoder_device on_cuda = {"cuda", EMULATED_CUDA_FOLDER};

TEST(encoder_on_cuda, leaves_nothing_behind)
{
    tiny_bert bert;
    bert.write();
    {
        encoder_model model(bert.folder, {}, false, 1, on_cuda);
        ASSERT_EQ(LIBSCHED_OK, model.status) << model.err.message;
        EXPECT_EQ(LIBSCHED_OK, model.run({text_request({"a b c"})})[0].status);
    }
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
