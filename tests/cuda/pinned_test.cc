/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that the device was told of is copied from and to straight; all else through the rings. */
#include <algorithm>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

#include "device/loader.h"
#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

constexpr uint64_t mib = UINT64_C(1) << 20, chunk = 16 * mib;
/* Of a row of the buffer. */
constexpr uint64_t row_size = 4096, columns = row_size / sizeof(float);

/* Shared memory, as a worker has it: mapped to be written to, and to be read. */
struct mapping {
    explicit mapping(uint64_t bytes) : size(bytes)
    {
        const int fd = memfd_create("pinned_test", MFD_CLOEXEC);
        EXPECT_EQ(0, ftruncate(fd, (off_t)size));
        data = static_cast<float *>(
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0));
        only_read =
            static_cast<float *>(mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0));
        close(fd);
    }
    ~mapping()
    {
        munmap(data, size);
        munmap(only_read, size);
    }
    mapping(const mapping &) = delete;
    mapping &operator=(const mapping &) = delete;
    float *at(uint64_t offset) const
    {
        return data + offset / sizeof(float);
    }

    uint64_t size;
    float *data, *only_read;
};

struct pinned : testing::Test {
    pinned()
    {
        fake_cuda_reset();
        fake_cuda_policy(FAKE_OLDEST_FIRST, 1);
    }
    ~pinned() override
    {
        fake_cuda_trace(nullptr);
        close_it();
        unsetenv("GPU_SCHED_PINNED_MIB");
        fake_cuda_reset();
        fake_cuda_policy(FAKE_RANDOM, 1);
    }
    int open_it(uint64_t rows)
    {
        libsched_device_open_args args = {};
        args.struct_size = sizeof(args);
        args.threads = 1;
        args.note = [](void *context, const char *text) {
            static_cast<pinned *>(context)->notes.push_back(text);
        };
        args.note_context = this;
        int status = device_find_driver(&driver, "cuda", EMULATED_CUDA_FOLDER, &err);
        if (status == LIBSCHED_OK)
            status = driver->open(&device, &args, &err);
        if (status == LIBSCHED_OK)
            status = driver->buffer_create(device, &b, LIBSCHED_FP32, rows, columns, &err);
        return status;
    }
    void close_it()
    {
        if (b != nullptr)
            driver->buffer_destroy(device, b);
        if (device != nullptr)
            driver->close(device);
        b = nullptr;
        device = nullptr;
    }
    int tell(void *memory, uint64_t size, uint32_t flags = 0)
    {
        libsched_device_host_args args = {};
        args.struct_size = sizeof(args);
        args.flags = flags;
        args.memory = memory;
        args.size = size;
        return driver->host_register(device, &args, &err);
    }
    int upload(const float *from, uint64_t rows, uint64_t first = 0)
    {
        return driver->upload(device, b, first, rows, from, &err);
    }
    int download(float *to, uint64_t rows, uint64_t first = 0)
    {
        return driver->download(device, b, first, rows, to, &err);
    }
    int wait()
    {
        return driver->synchronize(device, &err);
    }
    /* Copies `rows` in from one place and out to another; whether they arrived. */
    void forth_and_back(const float *from, float *to, uint64_t rows)
    {
        ASSERT_EQ(LIBSCHED_OK, upload(from, rows)) << err.message;
        ASSERT_EQ(LIBSCHED_OK, download(to, rows)) << err.message;
        ASSERT_EQ(LIBSCHED_OK, wait()) << err.message;
        EXPECT_TRUE(std::equal(from, from + rows * columns, to));
    }
    static void fill(float *at, uint64_t rows, float first)
    {
        for (uint64_t i = 0; i < rows * columns; i++)
            at[i] = first + (float)(i % 65521);
    }

    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_device_buffer *b = nullptr;
    libsched_error err = {};
    std::vector<std::string> notes;
};

TEST_F(pinned, memory_is_copied_from_and_to_straight)
{
    mapping inputs(chunk), results(chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(8)) << err.message;
    const uint64_t before = fake_cuda_live();
    fill(inputs.data, 8, 1);
    std::vector<float> elsewhere(8 * columns);
    forth_and_back(inputs.only_read, results.data, 8);
    EXPECT_EQ(0u, fake_cuda_straight_copies()) << "nobody told of it yet";

    ASSERT_EQ(LIBSCHED_OK, tell(inputs.only_read, inputs.size, LIBSCHED_HOST_READ_ONLY));
    ASSERT_EQ(LIBSCHED_OK, tell(results.data, results.size));
    EXPECT_EQ(0u, fake_cuda_registered()) << "nothing is pinned that is not used";
    fill(inputs.data, 8, 2);
    forth_and_back(inputs.only_read, results.data, 8);
    EXPECT_EQ(2u, fake_cuda_straight_copies());
    EXPECT_EQ(2 * chunk, fake_cuda_registered());
    EXPECT_TRUE(fake_cuda_registered_read_only(inputs.only_read));
    EXPECT_FALSE(fake_cuda_registered_read_only(results.data));

    fill(elsewhere.data(), 8, 3);
    forth_and_back(elsewhere.data(), results.data, 8);
    EXPECT_EQ(3u, fake_cuda_straight_copies()) << "of what nobody told of, through the ring";
    EXPECT_TRUE(notes.empty());

    driver->host_unregister(device, inputs.only_read);
    driver->host_unregister(device, results.data);
    driver->host_unregister(device, results.data);
    EXPECT_EQ(before, fake_cuda_live());
    forth_and_back(elsewhere.data(), results.data, 8);
    EXPECT_EQ(3u, fake_cuda_straight_copies());
    close_it();
    EXPECT_EQ(0u, fake_cuda_live());
}

/* A copy that is partly of pinned memory, and of several pieces of it. */
TEST_F(pinned, memory_in_the_middle_of_a_copy_is_copied_piece_by_piece)
{
    /* Told of: from 1 MiB on, a whole chunk, and half a one. */
    mapping m(chunk + chunk / 2 + 3 * mib);
    const uint64_t rows = m.size / row_size;
    ASSERT_EQ(LIBSCHED_OK, open_it(rows)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.at(mib), chunk + chunk / 2)) << err.message;
    std::vector<float> values(rows * columns), got(rows * columns);
    fill(values.data(), rows, 5);
    std::copy(values.begin(), values.end(), m.data);
    forth_and_back(m.data, got.data(), rows);
    EXPECT_EQ(values, got);
    EXPECT_EQ(2u, fake_cuda_straight_copies());
    EXPECT_EQ(chunk + chunk / 2, fake_cuda_registered());
    std::fill_n(m.data, rows * columns, -1.0f);
    ASSERT_EQ(LIBSCHED_OK, download(m.data, rows));
    ASSERT_EQ(LIBSCHED_OK, wait()) << err.message;
    EXPECT_TRUE(std::equal(values.begin(), values.end(), m.data));
    EXPECT_EQ(4u, fake_cuda_straight_copies());
}

TEST_F(pinned, memory_is_pinned_where_it_is_used_and_no_more_than_is_allowed)
{
    setenv("GPU_SCHED_PINNED_MIB", "32", 1);
    mapping m(5 * chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
    std::vector<float> to(4 * columns);
    for (uint64_t at : {uint64_t(0), 3 * chunk, uint64_t(0), 4 * chunk, chunk}) {
        fill(m.at(at), 4, (float)at);
        forth_and_back(m.at(at), to.data(), 4);
    }
    EXPECT_EQ(2 * chunk, fake_cuda_registered());
    EXPECT_EQ(3u, fake_cuda_straight_copies());
    ASSERT_EQ(1u, notes.size()) << "it is said once";
    EXPECT_NE(std::string::npos, notes[0].find("32 MiB of the memory")) << notes[0];
    EXPECT_NE(std::string::npos, notes[0].find("GPU_SCHED_PINNED_MIB")) << notes[0];
}

TEST_F(pinned, memory_can_be_done_without)
{
    setenv("GPU_SCHED_PINNED_MIB", "0", 1);
    mapping m(chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
    std::vector<float> to(4 * columns);
    fill(m.data, 4, 1);
    forth_and_back(m.data, to.data(), 4);
    EXPECT_EQ(0u, fake_cuda_registered());
    EXPECT_TRUE(notes.empty());
    close_it();
    setenv("GPU_SCHED_PINNED_MIB", "much", 1);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(1u, notes.size());
    EXPECT_NE(std::string::npos, notes[0].find("\"much\", which is no number")) << notes[0];
}

TEST_F(pinned, memory_that_the_driver_refuses_goes_through_the_ring)
{
    for (int code : {1, 2, 712, 801}) {
        SCOPED_TRACE(code);
        mapping m(3 * chunk);
        std::vector<std::string> calls;
        notes.clear();
        ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
        ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
        std::vector<float> to(4 * columns);
        fill(m.data, 4, 1);
        forth_and_back(m.data, to.data(), 4);
        fake_cuda_trace(&calls);
        fake_cuda_fail("cudaHostRegister", 0, code);
        for (uint64_t at : {chunk, 2 * chunk, chunk}) {
            fill(m.at(at), 4, (float)at);
            forth_and_back(m.at(at), to.data(), 4);
        }
        fake_cuda_trace(nullptr);
        EXPECT_EQ(1, std::count(calls.begin(), calls.end(), "cudaHostRegister"));
        ASSERT_EQ(1u, notes.size());
        EXPECT_NE(std::string::npos, notes[0].find("the memory of results can't be pinned"));
        EXPECT_NE(std::string::npos, notes[0].find("memlock")) << notes[0];
        /* What was pinned before still is. */
        fake_cuda_trace(&calls);
        const uint64_t straight = fake_cuda_straight_copies();
        forth_and_back(m.data, to.data(), 4);
        EXPECT_EQ(straight + 1, fake_cuda_straight_copies());
        fake_cuda_trace(nullptr);
        close_it();
        EXPECT_EQ(0u, fake_cuda_live());
    }
}

TEST_F(pinned, memory_that_is_only_read_takes_a_driver_that_can)
{
    mapping m(chunk);
    fake_cuda_read_only(false);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.only_read, m.size, LIBSCHED_HOST_READ_ONLY)) << err.message;
    std::vector<float> to(4 * columns);
    fill(m.data, 4, 1);
    forth_and_back(m.only_read, to.data(), 4);
    EXPECT_EQ(0u, fake_cuda_straight_copies());
    ASSERT_EQ(1u, notes.size());
    EXPECT_NE(std::string::npos, notes[0].find("can't pin memory that is only to be read"));
}

TEST_F(pinned, memory_is_checked)
{
    mapping m(chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    EXPECT_EQ(LIBSCHED_EINVAL, tell(m.data + 1, 4096));
    EXPECT_EQ(LIBSCHED_EINVAL, tell(m.data, 0));
    EXPECT_EQ(LIBSCHED_EINVAL, tell(nullptr, 4096));
    EXPECT_EQ(LIBSCHED_EINVAL, tell(m.data, UINT64_MAX));
    ASSERT_EQ(LIBSCHED_OK, tell(m.at(mib), mib)) << err.message;
    EXPECT_EQ(LIBSCHED_EINVAL, tell(m.data, 2 * mib)) << "a part of it was told of";
    EXPECT_EQ(LIBSCHED_OK, tell(m.data, mib)) << err.message;
    EXPECT_EQ(LIBSCHED_OK, tell(m.at(2 * mib), mib)) << err.message;
}

/* What is copied straight is not there before it was waited for, and not written to once that
 * failed. */
TEST_F(pinned, memory_is_the_devices_until_it_was_waited_for)
{
    for (const char *function : {"cudaEventQuery", "cudaEventSynchronize", "cudaEventRecord"}) {
        for (bool marks : {false, true}) {
            SCOPED_TRACE(std::string(function) + (marks ? ", with marks" : ""));
            mapping m(chunk);
            uint64_t mark = 0;
            ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
            ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
            std::vector<float> values(4 * columns, 3.0f);
            ASSERT_EQ(LIBSCHED_OK, upload(values.data(), 4));
            ASSERT_EQ(LIBSCHED_OK, download(m.data, 4));
            ASSERT_EQ(LIBSCHED_OK, driver->mark(device, &mark, &err));
            EXPECT_EQ(0.0f, m.data[0]) << "nobody has waited";
            /* For each of the streams. */
            for (int i = 0; i < 3; i++)
                fake_cuda_fail(function, 0, 1);
            const int status = marks ? driver->reached(device, mark, true, &err) : wait();
            if (status != LIBSCHED_OK) {
                std::fill_n(m.data, 4 * columns, -5.0f);
                ASSERT_EQ(LIBSCHED_OK, wait()) << err.message;
                EXPECT_EQ(4 * (ptrdiff_t)columns, std::count(m.data, m.data + 4 * columns, -5.0f));
            } else {
                /* It was never called. */
                EXPECT_EQ(3.0f, m.data[4 * columns - 1]);
            }
            close_it();
            fake_cuda_reset();
        }
    }
}

TEST_F(pinned, memory_that_nobody_can_wait_for_costs_the_device)
{
    mapping m(chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
    std::vector<float> values(4 * columns, 3.0f);
    ASSERT_EQ(LIBSCHED_OK, upload(values.data(), 4));
    ASSERT_EQ(LIBSCHED_OK, download(m.data, 4));
    /* Of each stream; and what is asked for instead. */
    for (int i = 0; i < 3; i++)
        fake_cuda_fail("cudaEventRecord", 0, 1);
    for (int i = 0; i < 8; i++)
        fake_cuda_fail("cudaStreamQuery", 0, 801 + i);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, wait());
    EXPECT_STRNE("", err.message);
    EXPECT_EQ(LIBSCHED_EDEVICELOST, upload(values.data(), 4));
    close_it();
}

TEST_F(pinned, memory_that_is_taken_back_is_waited_for)
{
    mapping m(chunk);
    ASSERT_EQ(LIBSCHED_OK, open_it(4)) << err.message;
    ASSERT_EQ(LIBSCHED_OK, tell(m.data, m.size)) << err.message;
    std::vector<float> to(4 * columns);
    fill(m.data, 4, 9);
    const std::vector<float> values(m.data, m.data + 4 * columns);
    ASSERT_EQ(LIBSCHED_OK, upload(m.data, 4));
    driver->host_unregister(device, m.data);
    std::fill_n(m.data, 4 * columns, 0.0f);
    ASSERT_EQ(LIBSCHED_OK, download(to.data(), 4));
    ASSERT_EQ(LIBSCHED_OK, wait());
    EXPECT_EQ(values, to);
}

/* Each call fails in turn: what says that it went well did. */
TEST_F(pinned, memory_survives_every_failure)
{
    for (int code : {1, 2, 801, 700}) {
        bool through = false;
        for (uint64_t n = 0; !through; n++) {
            SCOPED_TRACE("call " + std::to_string(n) + ", code " + std::to_string(code));
            mapping inputs(chunk), results(2 * chunk);
            fill(inputs.data, 16, 2);
            ASSERT_EQ(LIBSCHED_OK, open_it(16)) << err.message;
            const uint64_t before = fake_cuda_calls();
            fake_cuda_fail("*", n, code);
            /* Over the edge between two chunks. */
            float *to = results.at(chunk - 8 * row_size);
            int status = tell(inputs.only_read, inputs.size, LIBSCHED_HOST_READ_ONLY);
            if (status == LIBSCHED_OK)
                status = tell(results.data, results.size);
            if (status == LIBSCHED_OK)
                status = upload(inputs.only_read, 16);
            if (status == LIBSCHED_OK)
                status = download(to, 16);
            const int waited = wait();
            if (status == LIBSCHED_OK)
                status = waited;
            if (status == LIBSCHED_OK) {
                EXPECT_TRUE(std::equal(inputs.data, inputs.data + 16 * columns, to));
            } else {
                EXPECT_EQ(code == 700, status == LIBSCHED_EDEVICELOST) << err.message;
            }
            driver->host_unregister(device, inputs.only_read);
            through = fake_cuda_calls() - before <= n;
            close_it();
            if (code != 700) {
                EXPECT_LE(fake_cuda_live(), 1u);
            }
            fake_cuda_reset();
            ASSERT_LT(n, 500u);
        }
    }
}

} // namespace
