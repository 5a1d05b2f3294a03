/* SPDX-License-Identifier: Apache-2.0 */
/* A model that several ranks load at once: one of them reads it, and all have it. */
#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <thread>

#include "device/ranks.h"
#include "engine/encoder.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

struct model_copies : testing::Test {
    tiny_bert bert;

    model_copies()
    {
        fake_cuda_reset();
        bert.write();
    }
    ~model_copies() override
    {
        EXPECT_EQ(0u, fake_cuda_live());
        fake_cuda_reset();
    }

    static int load(rank &own, const std::string &folder, bool alone = false)
    {
        libsched_engine_open_args args = {};
        args.struct_size = sizeof(args);
        args.name = "test";
        args.path = folder.c_str();
        args.device = own.device;
        args.threads = 1;
        if (!alone) {
            args.communicator = own.communicator;
            args.rank = own.number;
            args.n_ranks = own.n_ranks;
        }
        libsched_engine_model *model = nullptr;
        own.err = {};
        own.status = engine_encoder()->open(&model, &args, &own.err);
        if (own.status == LIBSCHED_OK)
            engine_encoder()->close(model);
        return own.status;
    }
    /* Copies to a device of all ranks in which these load, each from its folder. */
    static size_t uploads(const std::vector<std::string> &folders, bool alone = false)
    {
        std::vector<std::string> calls;
        fake_cuda_trace(&calls);
        run_threads(emulated_case, (uint32_t)folders.size(), [&](rank &own) {
            EXPECT_EQ(LIBSCHED_OK, load(own, folders[own.number], alone)) << own.err.message;
        });
        fake_cuda_trace(nullptr);
        return (size_t)std::count(calls.begin(), calls.end(), "upload");
    }
};

TEST_F(model_copies, are_read_by_one_rank)
{
    const size_t one = uploads({bert.folder}, true);
    ASSERT_GT(one, 30u);
    EXPECT_EQ(2 * one, uploads({bert.folder, bert.folder}, true));
    /* Beside the weights each says once which file it has. */
    EXPECT_EQ(one + 2, uploads({bert.folder, bert.folder}));
    EXPECT_EQ(one + 4, uploads(std::vector<std::string>(4, bert.folder)));
}

TEST_F(model_copies, of_different_files_are_read_by_each)
{
    tiny_bert other;
    other.write();
    namespace fs = std::filesystem;
    const std::string file = other.folder + "/model.safetensors";
    fs::last_write_time(file, fs::last_write_time(file) - std::chrono::nanoseconds(1));
    const size_t one = uploads({bert.folder}, true);
    EXPECT_EQ(2 * one + 2, uploads({bert.folder, other.folder}));
}

/* The one that has no file says so; the others hear that it has given up. */
TEST_F(model_copies, that_are_not_there_are_named_by_who_lacks_them)
{
    tiny_bert other;
    other.write();
    std::filesystem::remove(other.folder + "/model.safetensors");
    run_threads(emulated_case, 2, [&](rank &own) {
        const bool lacks = own.number == 1;
        load(own, lacks ? other.folder : bert.folder);
        EXPECT_EQ(lacks ? LIBSCHED_EBADMODEL : LIBSCHED_OK, own.status) << own.err.message;
    });
}

TEST_F(model_copies, do_not_come_from_one_who_has_gone)
{
    for (uint32_t gone : {0u, 1u}) {
        std::atomic<int> there{0};
        run_threads(emulated_case, 2, [&](rank &own) {
            there++;
            while (there < 2)
                sched_yield();
            if (own.number == gone) {
                own.driver->communicator_abort(own.communicator);
                return;
            }
            EXPECT_EQ(LIBSCHED_ECANCELED, load(own, bert.folder)) << own.err.message;
        });
    }
}

TEST_F(model_copies, are_not_waited_for_beyond_the_limit)
{
    shared_memory shared(2);
    std::atomic<bool> there{false}, over{false};
    std::thread other([&] {
        there = true;
        rank own(emulated_case, shared, 0, 2);
        EXPECT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        while (!over)
            sched_yield();
    });
    while (!there)
        sched_yield();
    {
        /* So long may it take to become ranks, on a machine that is busy. */
        rank own(emulated_case, shared, 1, 2, 5000000000);
        EXPECT_EQ(LIBSCHED_OK, own.status) << own.err.message;
        EXPECT_EQ(LIBSCHED_EDEADLINE, load(own, bert.folder)) << own.err.message;
        EXPECT_NE(nullptr, strstr(own.err.message, "rank 0 did not come")) << own.err.message;
    }
    over = true;
    other.join();
}

/* What the others get is what the root's device has made of it, in any form. */
TEST_F(model_copies, are_the_same_on_all_ranks)
{
    constexpr uint32_t n = 16;
    std::vector<float> numbers(n * n), shift(n), input(n * n, 0);
    for (size_t i = 0; i < numbers.size(); i++)
        numbers[i] = (float)(i % 31) - 15;
    for (size_t i = 0; i < n; i++) {
        shift[i] = (float)i;
        input[i * n + i] = 1;
    }
    for (uint32_t root : {0u, 1u, 2u}) {
        run_threads(emulated_case, 3, [&](rank &own) {
            const bool has = own.number == root;
            libsched_device_weight *weight = nullptr, *bias = nullptr;
            libsched_device_weight_args args = {sizeof(args),
                                                LIBSCHED_WEIGHT_LINEAR,
                                                LIBSCHED_FP32,
                                                LIBSCHED_FP32,
                                                n,
                                                n,
                                                has ? numbers.data() : nullptr};
            ASSERT_EQ(LIBSCHED_OK, own.driver->weight_share(own.device, own.communicator, root,
                                                            &weight, &args, &own.err))
                << own.err.message;
            args.kind = LIBSCHED_WEIGHT_VECTOR;
            args.rows = 1;
            args.data = has ? shift.data() : nullptr;
            ASSERT_EQ(LIBSCHED_OK, own.driver->weight_share(own.device, own.communicator, root,
                                                            &bias, &args, &own.err))
                << own.err.message;
            libsched_device_linear_args product = {};
            product.struct_size = sizeof(product);
            product.rows = n;
            libsched_device_buffer *in = nullptr, *out = nullptr;
            ASSERT_EQ(LIBSCHED_OK,
                      own.driver->buffer_create(own.device, &in, LIBSCHED_FP32, n, n, &own.err));
            ASSERT_EQ(LIBSCHED_OK,
                      own.driver->buffer_create(own.device, &out, LIBSCHED_FP32, n, n, &own.err));
            own.driver->upload(own.device, in, 0, n, input.data(), &own.err);
            product.input = in;
            product.weight = weight;
            product.bias = bias;
            product.output = out;
            ASSERT_EQ(LIBSCHED_OK, own.driver->linear(own.device, &product, &own.err));
            std::vector<float> got(n * n);
            own.driver->download(own.device, out, 0, n, got.data(), &own.err);
            ASSERT_EQ(LIBSCHED_OK, own.driver->synchronize(own.device, &own.err));
            for (uint32_t r = 0; r < n; r++)
                for (uint32_t c = 0; c < n; c++)
                    ASSERT_EQ(numbers[c * n + r] + shift[c], got[r * n + c])
                        << "rank " << own.number << ", row " << r << ", column " << c;
            own.driver->buffer_destroy(own.device, in);
            own.driver->buffer_destroy(own.device, out);
            own.driver->weight_destroy(own.device, weight);
            own.driver->weight_destroy(own.device, bias);
        });
    }
    run_threads(emulated_case, 2, [&](rank &own) {
        libsched_device_weight *weight = nullptr;
        const libsched_device_weight_args args = {
            sizeof(args),  LIBSCHED_WEIGHT_LINEAR, LIBSCHED_FP32, LIBSCHED_FP32, 4, 4,
            numbers.data()};
        EXPECT_EQ(LIBSCHED_EINVAL, own.driver->weight_share(own.device, own.communicator, 2,
                                                            &weight, &args, &own.err));
        EXPECT_NE(nullptr, strstr(own.err.message, "rank 2 is the root, there are 2"));
    });
}

} // namespace
