/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder gives the device the next chunk, and the next batch, before it waits for the one that
 * is under way; what goes wrong with one is not the other's. */
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>

#include "batch.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

const encoder_device on_cuda = {"cuda", EMULATED_CUDA_FOLDER};
/* With graphs and without. */
struct overlap : testing::TestWithParam<bool> {
    overlap()
    {
        setenv("GPU_SCHED_GRAPHS", GetParam() ? "1" : "0", 1);
        fake_cuda_reset();
        fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
        bert.write();
        /* Chunks of one text of the longest there are. */
        model = std::make_unique<encoder_model>(
            bert.folder, parameters().set("max_batch_units", (int64_t)64), false, 1, on_cuda);
        EXPECT_EQ(LIBSCHED_OK, model->status) << model->err.message;
    }
    ~overlap() override
    {
        fake_cuda_trace(nullptr);
        model.reset();
        EXPECT_EQ(0u, fake_cuda_live());
        fake_cuda_reset();
        fake_cuda_policy(FAKE_RANDOM, 1);
        unsetenv("GPU_SCHED_GRAPHS");
    }
    int begin(Batch &batch)
    {
        bool pending = false;
        int status = model->engine->begin(model->model, &batch.raw, &Batch::host, &pending, &err);
        EXPECT_TRUE(pending);
        return status;
    }
    int finish()
    {
        bool pending = true;
        int status = model->engine->finish(model->model, true, &pending, &err);
        EXPECT_FALSE(pending);
        return status;
    }
    std::vector<float> alone(const std::vector<token_ids> &sequences)
    {
        Batch batch({sequences});
        EXPECT_EQ(LIBSCHED_OK, model->engine->step(model->model, &batch.raw, &Batch::host, &err))
            << err.message;
        EXPECT_EQ(1, batch.items[0].ends);
        return batch.items[0].output;
    }
    /* Where something is in what was called; the end where it is not. */
    static size_t find(const std::vector<std::string> &calls, const std::string &what,
                       size_t times = 1)
    {
        for (size_t i = 0; i < calls.size(); i++)
            if (calls[i] == what && --times == 0)
                return i;
        return calls.size();
    }
    static size_t first_wait(const std::vector<std::string> &calls)
    {
        return std::min({find(calls, "cudaEventQuery"), find(calls, "cudaEventSynchronize"),
                         find(calls, "cudaStreamSynchronize")});
    }

    tiny_bert bert;
    std::unique_ptr<encoder_model> model;
    libsched_error err = {};
};

INSTANTIATE_TEST_SUITE_P(graphs, overlap, testing::Bool());

const token_ids a = {2, 57, 58, 3}, b = {2, 60, 3}, c = {2, 59, 59, 59, 61, 3};

TEST_P(overlap, a_batch_is_given_before_the_one_under_way_is_waited_for)
{
    const auto expected_a = alone({a, b}), expected_b = alone({c});
    Batch first({{a, b}}), second({{c}});
    std::vector<std::string> calls;
    fake_cuda_trace(&calls);
    ASSERT_EQ(LIBSCHED_OK, begin(first)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, begin(second)) << err.message;
    fake_cuda_trace(nullptr);
    /* Of both: what is copied in, computed and copied out. */
    EXPECT_LT(find(calls, "upload", 2), calls.size());
    EXPECT_LT(find(calls, "download", 2), calls.size());
    EXPECT_LT(find(calls, "download", 1), find(calls, "upload", 2));
    EXPECT_EQ(calls.size(), first_wait(calls)) << "nothing was waited for";
    EXPECT_EQ(0u, first.ended() + second.ended());

    EXPECT_EQ(LIBSCHED_OK, finish()) << err.message;
    EXPECT_EQ(1u, first.ended());
    EXPECT_EQ(0u, second.ended());
    EXPECT_EQ(expected_a, first.items[0].output);
    EXPECT_EQ(LIBSCHED_OK, finish()) << err.message;
    EXPECT_EQ(expected_b, second.items[0].output);
    EXPECT_EQ(LIBSCHED_EINVAL, finish()) << "none is under way";
}

TEST_P(overlap, one_need_not_be_waited_for)
{
    Batch first({{a}});
    ASSERT_EQ(LIBSCHED_OK, begin(first)) << err.message;
    bool pending = false;
    EXPECT_EQ(LIBSCHED_OK, model->engine->finish(model->model, false, &pending, &err));
    EXPECT_TRUE(pending);
    EXPECT_EQ(0u, first.ended());
    while (pending)
        ASSERT_EQ(LIBSCHED_OK, model->engine->finish(model->model, false, &pending, &err));
    EXPECT_EQ(LIBSCHED_OK, first.items[0].status);
    EXPECT_EQ(alone({a}), first.items[0].output);
}

/* In any order that the device may do it in. */
TEST_P(overlap, of_many_batches_of_many_chunks_gives_what_each_gives_alone)
{
    std::vector<std::vector<token_ids>> requests;
    for (int i = 0; i < 12; i++) {
        std::vector<token_ids> sequences;
        for (int k = 0; k < 1 + i % 3; k++) {
            token_ids sequence = {2};
            for (int n = 0; n < (i * 17 + k * 29) % 60; n++)
                sequence.push_back(57 + (i + n) % 8);
            sequence.push_back(3);
            sequences.push_back(sequence);
        }
        requests.push_back(sequences);
    }
    std::vector<std::vector<float>> expected;
    for (const auto &request : requests)
        expected.push_back(alone(request));
    for (uint32_t seed = 0; seed < 4; seed++) {
        fake_cuda_policy(seed == 0 ? FAKE_NEWEST_FIRST : FAKE_RANDOM, seed);
        std::deque<Batch> batches;
        for (size_t i = 0; i < requests.size(); i += 3)
            batches.emplace_back(std::vector<std::vector<token_ids>>(
                requests.begin() + (long)i, requests.begin() + (long)i + 3));
        ASSERT_EQ(LIBSCHED_OK, begin(batches[0])) << err.message;
        for (size_t i = 0; i < batches.size(); i++) {
            if (i + 1 < batches.size()) {
                ASSERT_EQ(LIBSCHED_OK, begin(batches[i + 1])) << err.message;
            }
            ASSERT_EQ(LIBSCHED_OK, finish()) << err.message;
            for (size_t k = 0; k < 3; k++) {
                ASSERT_EQ(1, batches[i].items[k].ends);
                EXPECT_EQ(expected[i * 3 + k], batches[i].items[k].output) << "seed " << seed;
            }
        }
    }
}

TEST_P(overlap, a_chunk_is_given_before_the_one_before_is_waited_for)
{
    const std::vector<token_ids> sequences(3, token_ids(40, 57));
    const auto expected = alone({sequences[0]});
    Batch batch({sequences});
    std::vector<std::string> calls;
    fake_cuda_trace(&calls);
    ASSERT_EQ(LIBSCHED_OK, model->engine->step(model->model, &batch.raw, &Batch::host, &err));
    fake_cuda_trace(nullptr);
    EXPECT_LT(find(calls, "upload", 2), first_wait(calls)) << "the second before the first wait";
    EXPECT_LT(first_wait(calls), find(calls, "upload", 3)) << "and no more than two";
    EXPECT_LT(find(calls, "upload", 3), calls.size());
    for (int row = 0; row < 3; row++)
        EXPECT_TRUE(
            std::equal(expected.begin(), expected.end(), batch.items[0].output.begin() + row * 48));
}

TEST_P(overlap, what_fails_is_one_batch_and_no_other)
{
    const auto expected = alone({a});
    for (const char *function : {"cudaMemcpyAsync", "cudaLaunchKernel", "cudaEventRecord"}) {
        for (int failing : {0, 1}) {
            /* What fails while it is recorded is tried without (section_test.cc). */
            if (GetParam() && std::string(function) == "cudaLaunchKernel")
                continue;
            SCOPED_TRACE(std::string(function) + " of batch " + std::to_string(failing));
            Batch batches[3] = {Batch({{a}}), Batch({{a}}), Batch({{a}})};
            for (int i = 0; i < 2; i++) {
                if (i == failing)
                    fake_cuda_fail(function, 0, 1);
                ASSERT_EQ(LIBSCHED_OK, begin(batches[i])) << err.message;
            }
            for (int i = 0; i < 2; i++) {
                const int status = finish();
                EXPECT_EQ(i == failing, status != LIBSCHED_OK) << "batch " << i;
                if (i == failing) {
                    EXPECT_NE(LIBSCHED_EDEVICELOST, status);
                    EXPECT_EQ(0u, batches[i].ended()) << "that is the host's to do";
                } else {
                    EXPECT_EQ(expected, batches[i].items[0].output);
                }
            }
            ASSERT_EQ(LIBSCHED_OK, begin(batches[2]));
            EXPECT_EQ(LIBSCHED_OK, finish()) << err.message;
            EXPECT_EQ(expected, batches[2].items[0].output);
        }
    }
}

/* What the second has computed went with it: that is no answer. */
TEST_P(overlap, what_is_lost_in_the_end_of_one_is_told_of_the_other)
{
    const auto expected = alone({b});
    Batch batches[3] = {Batch({{a}}), Batch({{b}}), Batch({{b}})};
    fake_cuda_fail("cudaMemcpyAsync", 0, 1);
    ASSERT_EQ(LIBSCHED_OK, begin(batches[0])) << err.message;
    ASSERT_EQ(LIBSCHED_OK, begin(batches[1])) << err.message;
    /* That all of it is waited for. */
    fake_cuda_fail("cudaEventRecord", 0, 1);
    EXPECT_NE(LIBSCHED_OK, finish());
    EXPECT_NE(LIBSCHED_OK, finish());
    EXPECT_EQ(0u, batches[0].ended() + batches[1].ended()) << "that is the host's to do";
    ASSERT_EQ(LIBSCHED_OK, begin(batches[2])) << err.message;
    EXPECT_EQ(LIBSCHED_OK, finish()) << err.message;
    EXPECT_EQ(expected, batches[2].items[0].output);
}

/* Its first chunk is still under way when the second is found to be wrong: only then may the host
 * take its memory back. */
TEST_P(overlap, a_request_that_is_wrong_ends_when_nothing_of_it_is_under_way)
{
    const token_ids good(40, 57), bad = {2, 100000, 3};
    Batch batch({{good, token_ids(40, 58), bad}, {a}});
    ASSERT_EQ(LIBSCHED_OK, begin(batch)) << err.message;
    EXPECT_EQ(0u, batch.ended());
    EXPECT_EQ(LIBSCHED_OK, finish()) << err.message;
    EXPECT_EQ(1, batch.items[0].ends);
    EXPECT_EQ(LIBSCHED_EINVAL, batch.items[0].status);
    EXPECT_NE(std::string::npos, batch.items[0].message.find("id 100000 is not in the vocabulary"));
    EXPECT_EQ(1, batch.items[1].ends);
    EXPECT_EQ(alone({a}), batch.items[1].output);
}

TEST_P(overlap, a_lost_device_is_lost_for_both)
{
    Batch first({{a}}), second({{b}});
    ASSERT_EQ(LIBSCHED_OK, begin(first)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, begin(second)) << err.message;
    fake_cuda_fail("kernel", 0, 700);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, finish());
    EXPECT_EQ(LIBSCHED_EDEVICELOST, finish());
    EXPECT_EQ(0u, first.ended() + second.ended());
    model.reset();
    /* What a lost device leaves, the end of its process takes. */
    fake_cuda_reset();
}

TEST_P(overlap, a_model_may_be_closed_with_steps_under_way)
{
    Batch first({{a}}), second({{b}});
    ASSERT_EQ(LIBSCHED_OK, begin(first)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, begin(second)) << err.message;
    model.reset();
    EXPECT_EQ(0u, fake_cuda_live());
}

} // namespace
