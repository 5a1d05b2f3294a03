/* SPDX-License-Identifier: Apache-2.0 */
/* What is given again and again is recorded as a graph, and computes the same to the bit. */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#include "batch.h"
#include "device/loader.h"
#include "engine/tiny_bert.h"
#include "fake_cuda.h"
#include "device/arguments.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

const encoder_device on_cuda = {"cuda", EMULATED_CUDA_FOLDER};

/* A list of what is called, from its construction on. */
struct calls {
    std::vector<std::string> list;

    calls()
    {
        fake_cuda_trace(&list);
    }
    ~calls()
    {
        fake_cuda_trace(nullptr);
    }
    calls(const calls &) = delete;
    calls &operator=(const calls &) = delete;
    long of(const char *name) const
    {
        return std::count(list.begin(), list.end(), name);
    }
    long launches() const
    {
        return of("cudaLaunchKernel") + of("cublasLtMatmul");
    }
};

struct clean : testing::Test {
    clean()
    {
        unsetenv("GPU_SCHED_GRAPHS");
        fake_cuda_reset();
        fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
    }
    ~clean() override
    {
        unsetenv("GPU_SCHED_GRAPHS");
        fake_cuda_reset();
        fake_cuda_memory(UINT64_C(1) << 30);
        fake_cuda_policy(FAKE_RANDOM, 1);
        fake_cuda_order(0, 1);
    }
};

/* -------------------------------------------------------------------------- an encoder, as a whole
 */

/* Of so many tokens each. */
std::vector<token_ids> texts(const std::vector<size_t> &lengths, int seed = 0)
{
    std::vector<token_ids> all;
    for (size_t length : lengths) {
        token_ids one;
        for (size_t t = 0; t < length; t++)
            one.push_back(57 + (int32_t)((t * 7 + (size_t)seed + all.size()) % 8));
        all.push_back(one);
    }
    return all;
}

struct of_an_encoder : clean {
    of_an_encoder()
    {
        bert.write();
    }
    std::unique_ptr<encoder_model> open(bool graphs, const std::string &precision = "bf16")
    {
        setenv("GPU_SCHED_GRAPHS", graphs ? "1" : "0", 1);
        auto model = std::make_unique<encoder_model>(
            bert.folder,
            parameters().set("precision", precision).set("max_batch_units", (int64_t)256), false, 1,
            on_cuda);
        EXPECT_EQ(LIBSCHED_OK, model->status) << model->err.message;
        return model;
    }
    /* The embeddings; empty where it fails. */
    static std::vector<float> run(encoder_model &model, const std::vector<token_ids> &sequences)
    {
        Batch batch({sequences});
        const int status = model.engine->step(model.model, &batch.raw, &Batch::host, &model.err);
        return status == LIBSCHED_OK ? batch.items[0].output : std::vector<float>();
    }

    tiny_bert bert;
};

/* Some of them are the same when they are rounded up. */
const std::vector<std::vector<size_t>> shapes = {
    {1},          {3},          {4},          {17},    {32},     {64, 2},      {5, 60, 1},
    {40, 40, 40}, {10, 10, 10}, {8, 8, 8, 8}, {2, 30}, {33, 31}, {7, 8, 9, 1},
};

TEST_F(of_an_encoder, graphs_compute_the_same)
{
    for (const char *precision : {"bf16", "f32"}) {
        auto plain = open(false, precision), model = open(true, precision);
        for (uint32_t seed = 0; seed < 4; seed++) {
            fake_cuda_policy(seed == 0 ? FAKE_NEWEST_FIRST : FAKE_RANDOM, seed);
            fake_cuda_order((int)seed % 3, seed);
            for (const auto &shape : shapes) {
                const auto sequences = texts(shape, (int)seed);
                const auto expected = run(*plain, sequences);
                ASSERT_FALSE(expected.empty()) << plain->err.message;
                for (int i = 0; i < 4; i++)
                    ASSERT_EQ(expected, run(*model, sequences)) << model->err.message;
            }
        }
        EXPECT_GE(fake_cuda_graphs(), shapes.size() / 2);
        model.reset();
        EXPECT_EQ(0u, fake_cuda_graphs());
    }
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST_F(of_an_encoder, graphs_are_given_as_one)
{
    auto model = open(true);
    long before = 0;
    for (int i = 0; i < 8; i++) {
        /* Others of the same size, when it is rounded up: four sequences, 32 tokens. */
        const auto sequences = i % 2 == 0 ? texts({10, 10, 10}, i) : texts({7, 8, 9, 1}, i);
        calls c;
        ASSERT_FALSE(run(*model, sequences).empty()) << model->err.message;
        if (i == 0)
            before = c.launches();
        /* There are two chunks, each with its own recordings, made when sizes come again. */
        if (i >= 4) {
            EXPECT_EQ(0, c.launches());
            EXPECT_EQ(1, c.of("cudaGraphLaunch"));
        }
        EXPECT_EQ(i == 2 || i == 3 ? 1 : 0, c.of("cudaStreamBeginCapture")) << i;
    }
    EXPECT_GT(before, 15) << "that is what is saved";
    EXPECT_EQ(2u, fake_cuda_graphs());
    model.reset();
    model = open(false);
    for (int i = 0; i < 4; i++) {
        calls c;
        ASSERT_FALSE(run(*model, texts({10, 10, 10})).empty());
        EXPECT_EQ(before, c.launches());
        EXPECT_EQ(0, c.of("cudaGraphLaunch") + c.of("cudaStreamBeginCapture"));
    }
}

TEST_F(of_an_encoder, graphs_of_two_models_are_their_own)
{
    auto a = open(true), b = open(true, "f32");
    const auto sequences = texts({9, 12});
    const auto of_a = run(*a, sequences), of_b = run(*b, sequences);
    EXPECT_NE(of_a, of_b);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(of_a, run(*a, sequences));
        EXPECT_EQ(of_b, run(*b, sequences));
    }
    /* One is loaded anew, where the other was. */
    a.reset();
    EXPECT_EQ(of_b, run(*b, sequences));
    a = open(true);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(of_a, run(*a, sequences));
        EXPECT_EQ(of_b, run(*b, sequences));
    }
    a.reset();
    b.reset();
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST_F(of_an_encoder, graphs_for_which_there_is_no_memory_are_done_without)
{
    auto model = open(true);
    const auto sequences = texts({9, 12});
    const auto expected = run(*model, sequences);
    fake_cuda_memory(1);
    for (int i = 0; i < 6; i++)
        EXPECT_EQ(expected, run(*model, sequences)) << model->err.message;
    EXPECT_EQ(0u, fake_cuda_graphs());
}

/* Each call of six steps fails in turn: what says that it went well did. */
TEST_F(of_an_encoder, graphs_survive_every_failure)
{
#if defined(__SANITIZE_ADDRESS__)
    constexpr uint64_t stride = 61;
#else
    constexpr uint64_t stride = 17;
#endif
    const auto sequences = texts({9, 12});
    const auto expected = run(*open(false), sequences);
    uint64_t total = 0;
    {
        auto model = open(true);
        const uint64_t before = fake_cuda_calls();
        for (int i = 0; i < 6; i++)
            ASSERT_EQ(expected, run(*model, sequences));
        total = fake_cuda_calls() - before;
    }
    ASSERT_GT(total, 100u);
    for (int code : {1, 2, 900, 901, 700}) {
        for (uint64_t n = (uint64_t)code % stride; n < total; n += stride) {
            SCOPED_TRACE("call " + std::to_string(n) + ", code " + std::to_string(code));
            auto model = open(true);
            uint64_t good = 0;
            bool failed = false;
            fake_cuda_fail("*", n, code);
            for (int i = 0; i < 6 + 4; i++) {
                const auto got = run(*model, sequences);
                if (got.empty()) {
                    EXPECT_TRUE(!failed || code == 700) << "a second time: " << model->err.message;
                    failed = true;
                } else {
                    EXPECT_EQ(expected, got);
                    good++;
                }
            }
            EXPECT_GE(good, code == 700 ? 0u : 9u);
            model.reset();
            if (code != 700) {
                EXPECT_LE(fake_cuda_live(), 1u);
            }
            fake_cuda_reset();
        }
    }
}

/* ------------------------------------------------------------------------------ the section itself
 */

constexpr uint64_t columns = 32, most_tokens = 1024;

/* embed, norm and pool. */
struct section : clean {
    ~section() override
    {
        close_it();
    }
    void open_it(uint64_t pooled_rows = 64, size_t n_positions = 200)
    {
        libsched_device_open_args args = {};
        args.struct_size = sizeof(args);
        args.threads = 1;
        args.note = [](void *context, const char *text) {
            static_cast<section *>(context)->notes.push_back(text);
        };
        args.note_context = this;
        ASSERT_EQ(LIBSCHED_OK, device_find_driver(&driver, "cuda", EMULATED_CUDA_FOLDER, &err));
        ASSERT_EQ(LIBSCHED_OK, driver->open(&device, &args, &err)) << err.message;
        words = weight(LIBSCHED_WEIGHT_TABLE, 50, 1);
        positions = weight(LIBSCHED_WEIGHT_TABLE, n_positions, 2);
        gain = weight(LIBSCHED_WEIGHT_VECTOR, 1, 3);
        shift = weight(LIBSCHED_WEIGHT_VECTOR, 1, 4);
        ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &states, LIBSCHED_FP32, most_tokens,
                                                     columns, &err));
        ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &pooled, LIBSCHED_FP32, pooled_rows,
                                                     columns, &err));
        ASSERT_EQ(LIBSCHED_OK, driver->sequences_create(device, &sequences, 64, most_tokens, &err));
        ASSERT_EQ(LIBSCHED_OK, driver->section_create(device, &it, sequences, &bytes, &err));
    }
    void close_it()
    {
        if (device == nullptr)
            return;
        driver->section_destroy(device, it);
        driver->section_destroy(device, nullptr);
        for (auto *w : {words, positions, gain, shift})
            driver->weight_destroy(device, w);
        driver->buffer_destroy(device, states);
        driver->buffer_destroy(device, pooled);
        driver->sequences_destroy(device, sequences);
        driver->close(device);
        device = nullptr;
    }
    libsched_device_weight *weight(uint32_t kind, size_t rows, uint32_t seed)
    {
        libsched_device_weight_args args = {};
        libsched_device_weight *w = nullptr;
        const matrix values = random_matrix(rows, columns, seed, 1);
        const std::vector<float> data(values.values.begin(), values.values.end());
        args.struct_size = sizeof(args);
        args.kind = kind;
        args.datatype = LIBSCHED_FP32;
        args.source_datatype = LIBSCHED_FP32;
        args.rows = rows;
        args.columns = columns;
        args.data = data.data();
        EXPECT_EQ(LIBSCHED_OK, driver->weight_create(device, &w, &args, &err)) << err.message;
        return w;
    }
    int operations(uint64_t norm_rows)
    {
        const auto embed = embed_args(sequences, words, positions, gain, shift, states);
        const auto norm = norm_args(norm_rows, states, shift, gain);
        const auto pool = pool_args(sequences, states, LIBSCHED_POOLING_MAX, false, pooled);
        int status = driver->embed(device, &embed, &err);
        if (status == LIBSCHED_OK)
            status = driver->norm(device, &norm, &err);
        if (between)
            between();
        if (status == LIBSCHED_OK)
            status = driver->pool(device, &pool, &err);
        return status;
    }
    /* n sequences of so many tokens in all, as a section; how often its operations were called. */
    int run(uint32_t n, uint32_t tokens, std::vector<float> &got, uint32_t variant = 0)
    {
        std::vector<uint32_t> starts = {0};
        std::vector<int32_t> tokens_of_it;
        for (uint32_t i = 0; i < n; i++)
            starts.push_back((uint32_t)((uint64_t)tokens * (i + 1) / n));
        for (uint32_t t = 0; t < tokens; t++)
            tokens_of_it.push_back((int32_t)((t * 7 + n) % 50));
        int status =
            driver->sequences_set(device, sequences, n, starts.data(), tokens_of_it.data(), &err);
        bool given = false, again = true;
        called = 0;
        while (status == LIBSCHED_OK && again) {
            again = false;
            status = driver->section_begin(device, it, variant, &given, &err);
            if (status != LIBSCHED_OK || given)
                break;
            called++;
            const int ran = operations(other_rows == 0 ? tokens : other_rows);
            status = driver->section_end(device, it, ran, &again, &err);
            if (status == LIBSCHED_OK && !again)
                status = ran;
        }
        got.assign(n * columns, -1);
        if (status == LIBSCHED_OK)
            status = driver->download(device, pooled, 0, n, got.data(), &err);
        const int waited = driver->synchronize(device, &err);
        return status == LIBSCHED_OK ? waited : status;
    }
    std::vector<float> values(uint32_t n, uint32_t tokens, uint32_t variant = 0)
    {
        std::vector<float> got;
        EXPECT_EQ(LIBSCHED_OK, run(n, tokens, got, variant)) << err.message;
        return got;
    }

    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_device_weight *words = nullptr, *positions = nullptr, *gain = nullptr,
                           *shift = nullptr;
    libsched_device_buffer *states = nullptr, *pooled = nullptr;
    libsched_device_sequences *sequences = nullptr;
    libsched_device_section *it = nullptr;
    libsched_error err = {};
    std::vector<std::string> notes;
    std::function<void()> between;
    uint64_t bytes = 0, other_rows = 0;
    int called = 0;
};

TEST_F(section, is_recorded_when_its_sizes_come_again)
{
    open_it();
    const auto expected = values(3, 30);
    EXPECT_EQ(1, called);
    EXPECT_EQ(0u, fake_cuda_graphs());
    EXPECT_EQ(expected, values(3, 30));
    EXPECT_EQ(1, called) << "for the recording";
    EXPECT_EQ(1u, fake_cuda_graphs());
    EXPECT_EQ(expected, values(3, 30));
    EXPECT_EQ(0, called);
    /* Less of it, up to what it is rounded up to, and more. */
    values(4, 32);
    EXPECT_EQ(0, called);
    values(3, 17);
    EXPECT_EQ(0, called);
    values(3, 33);
    EXPECT_EQ(1, called);
    values(5, 30);
    EXPECT_EQ(1, called);
    /* Other operations. */
    values(3, 30, 1);
    EXPECT_EQ(1, called);
    EXPECT_EQ(1u, fake_cuda_graphs());
    EXPECT_GE(bytes, fake_cuda_graphs() * 65536);
    const uint64_t before = fake_cuda_used(0);
    driver->section_destroy(device, it);
    it = nullptr;
    EXPECT_EQ(before - 65536, fake_cuda_used(0));
    EXPECT_TRUE(notes.empty());
}

TEST_F(section, that_is_too_large_is_not_recorded)
{
    open_it();
    ASSERT_EQ(LIBSCHED_OK, driver->synchronize(device, &err));
    driver->section_destroy(device, it);
    driver->sequences_destroy(device, sequences);
    driver->buffer_destroy(device, states);
    driver->buffer_destroy(device, pooled);
    ASSERT_EQ(LIBSCHED_OK,
              driver->buffer_create(device, &states, LIBSCHED_FP32, 8192, columns, &err));
    ASSERT_EQ(LIBSCHED_OK,
              driver->buffer_create(device, &pooled, LIBSCHED_FP32, 256, columns, &err));
    ASSERT_EQ(LIBSCHED_OK, driver->sequences_create(device, &sequences, 256, 8192, &err));
    ASSERT_EQ(LIBSCHED_OK, driver->section_create(device, &it, sequences, &bytes, &err));
    for (int i = 0; i < 3; i++) {
        values(128, 4097);
        EXPECT_EQ(1, called);
    }
    EXPECT_EQ(0u, fake_cuda_graphs());
}

TEST_F(section, has_so_many_recordings_and_no_more)
{
    open_it();
    for (uint32_t variant = 0; variant < 60; variant++)
        for (int i = 0; i < 2; i++)
            values(1, 5, variant);
    EXPECT_EQ(48u, fake_cuda_graphs());
    /* Those that come in turn are not recorded for nothing. */
    for (uint32_t variant = 0; variant < 60; variant++) {
        values(1, 5, variant);
        EXPECT_EQ(variant < 48 ? 0 : 1, called);
    }
    /* What is used no more makes room for what is. */
    for (int i = 0; i < 4 * 48; i++)
        values(1, 5, 47);
    values(1, 9);
    const auto expected = values(1, 9);
    EXPECT_EQ(1, called);
    EXPECT_EQ(expected, values(1, 9));
    EXPECT_EQ(0, called);
    EXPECT_EQ(48u, fake_cuda_graphs());
    values(1, 5, 0);
    EXPECT_EQ(1, called) << "that made room";
    close_it();
    EXPECT_EQ(0u, fake_cuda_live());
}

TEST_F(section, that_cannot_be_recorded_is_called_again)
{
    for (const char *function :
         {"cudaStreamBeginCapture", "cudaLaunchKernel", "cudaStreamEndCapture",
          "cudaGraphInstantiate", "cudaGraphLaunch"}) {
        SCOPED_TRACE(function);
        notes.clear();
        open_it();
        const auto expected = values(3, 30);
        fake_cuda_fail(function, 0, 801);
        EXPECT_EQ(expected, values(3, 30));
        EXPECT_EQ(strcmp(function, "cudaStreamBeginCapture") == 0 ? 1 : 2, called);
        EXPECT_EQ(0u, fake_cuda_graphs());
        ASSERT_EQ(1u, notes.size());
        EXPECT_NE(std::string::npos,
                  notes[0].find("a batch of up to 32 tokens can't be given as one graph"))
            << notes[0];
        /* For good; others are. */
        for (int i = 0; i < 3; i++) {
            EXPECT_EQ(expected, values(3, 30));
            EXPECT_EQ(1, called);
        }
        for (int i = 0; i < 3; i++)
            values(3, 60);
        EXPECT_EQ(0, called);
        EXPECT_EQ(1u, notes.size());
        close_it();
        EXPECT_EQ(0u, fake_cuda_live());
    }
}

TEST_F(section, that_fails_all_the_time_is_recorded_no_more)
{
    open_it();
    for (uint32_t tokens = 16; tokens <= 112; tokens += 16) {
        fake_cuda_fail("cudaGraphInstantiate", 0, 801);
        for (int i = 0; i < 3; i++)
            values(2, tokens);
    }
    calls c;
    for (int i = 0; i < 4; i++)
        values(2, 8);
    EXPECT_EQ(0, c.of("cudaStreamBeginCapture"));
    ASSERT_EQ(2u, notes.size());
    EXPECT_NE(std::string::npos, notes[1].find("are used no more")) << notes[1];
}

/* A kernel of a recording that goes wrong is told when somebody waits. */
TEST_F(section, that_is_given_as_one_fails_as_one)
{
    open_it();
    for (int i = 0; i < 3; i++)
        values(3, 30);
    std::vector<float> got;
    fake_cuda_fail("kernel", 1, 700);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, run(3, 30, got));
    EXPECT_EQ(0, called);
    close_it();
}

TEST_F(section, in_which_something_else_is_called_is_not_recorded)
{
    open_it();
    const auto expected = values(3, 30);
    libsched_device_buffer *other = nullptr;
    ASSERT_EQ(LIBSCHED_OK, driver->buffer_create(device, &other, LIBSCHED_FP32, 1, columns, &err));
    libsched_device_buffer *made = nullptr;
    std::vector<float> row(columns, 2.0f);
    const std::vector<std::function<void()>> others = {
        [&] { EXPECT_EQ(LIBSCHED_OK, driver->upload(device, other, 0, 1, row.data(), &err)); },
        [&] { EXPECT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)); },
        [&] {
            EXPECT_EQ(LIBSCHED_OK,
                      driver->buffer_create(device, &made, LIBSCHED_FP32, 4, columns, &err));
            driver->buffer_destroy(device, made);
        },
    };
    for (size_t i = 0; i < others.size(); i++) {
        const uint32_t tokens = 40 + 20 * (uint32_t)i;
        const auto plain = values(3, tokens);
        between = others[i];
        EXPECT_EQ(plain, values(3, tokens));
        EXPECT_EQ(2, called);
        between = nullptr;
        EXPECT_EQ(plain, values(3, tokens));
        EXPECT_EQ(1, called);
    }
    EXPECT_EQ(0u, fake_cuda_graphs());
    EXPECT_EQ(expected, values(3, 30));
    driver->buffer_destroy(device, other);
}

/* Nobody knows how many rows it would have the next time. */
TEST_F(section, of_other_rows_than_tokens_is_not_recorded)
{
    open_it();
    other_rows = 7;
    const auto expected = values(3, 30);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(expected, values(3, 30));
    EXPECT_EQ(0u, fake_cuda_graphs());
    ASSERT_EQ(1u, notes.size());
    EXPECT_NE(std::string::npos, notes[0].find("not such that they can be recorded")) << notes[0];
}

/* Three sequences are four when they are rounded up. */
TEST_F(section, whose_padding_has_no_room_is_not_recorded)
{
    open_it(17);
    std::vector<float> expected = values(17, 60);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(expected, values(17, 60)) << "32 rows would be written";
    EXPECT_EQ(1u, fake_cuda_graphs()) << "a product's rows leave room for them";
    close_it();
    notes.clear();
    open_it(40);
    expected = values(40, 60);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(expected, values(40, 60)) << "64 rows would be written where there are 48";
    EXPECT_EQ(0u, fake_cuda_graphs());
    EXPECT_EQ(1u, notes.size());
}

TEST_F(section, with_a_sequence_that_is_too_long_is_refused_all_the_same)
{
    open_it(64, 40);
    for (int i = 0; i < 3; i++)
        values(1, 35);
    EXPECT_EQ(0, called);
    std::vector<float> got;
    EXPECT_EQ(LIBSCHED_EINVAL, run(1, 45, got));
    EXPECT_EQ(LIBSCHED_EINVAL, run(1, 45, got)) << "47 and 35 are 48 when they are rounded up";
    EXPECT_NE(nullptr, strstr(err.message, "45 tokens where there are 40 positions"))
        << err.message;
    values(1, 40);
    EXPECT_EQ(0, called);
}

TEST_F(section, can_be_done_without)
{
    setenv("GPU_SCHED_GRAPHS", "0", 1);
    open_it();
    const auto expected = values(3, 30);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(expected, values(3, 30));
    EXPECT_EQ(1, called);
    EXPECT_EQ(0u, fake_cuda_graphs());
    EXPECT_EQ(0u, bytes);
    close_it();
    EXPECT_TRUE(notes.empty());
    setenv("GPU_SCHED_GRAPHS", "no", 1);
    open_it();
    ASSERT_EQ(1u, notes.size());
    EXPECT_NE(std::string::npos, notes[0].find("\"no\", neither 0 nor 1")) << notes[0];
}

} // namespace
