/* SPDX-License-Identifier: Apache-2.0 */
#include "device/device_case.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/wait.h>
#include <unistd.h>

#include "device/loader.h"

#ifndef CUDA_PLUGIN_FOLDER
#define CUDA_PLUGIN_FOLDER ""
#endif

namespace gpu_sched_test
{

uint16_t bf16_of(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double of_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

matrix random_matrix(size_t rows, size_t columns, uint32_t seed, double scale)
{
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, scale);
    matrix m(rows, columns);
    for (double &v : m.values)
        v = of_bf16(bf16_of(normal(random)));
    return m;
}

double worst(const matrix &got, const matrix &expected)
{
    double largest = 1, difference = 0;
    EXPECT_EQ(got.values.size(), expected.values.size());
    for (double v : expected.values)
        largest = std::max(largest, std::fabs(v));
    for (size_t i = 0; i < got.values.size(); i++) {
        double d = std::fabs(got.values[i] - expected.values[i]);
        difference = std::isnan(d) ? INFINITY : std::max(difference, d);
    }
    return difference / largest;
}

int open_device(const device_case &which, uint32_t ordinal, const libsched_device_driver **driver,
                libsched_device **device, libsched_error *err)
{
    libsched_device_open_args args = {};
    args.struct_size = sizeof(args);
    args.threads = which.threads;
    args.ordinal = ordinal;
    args.note = [](void *, const char *text) { fprintf(stderr, "the device: %s\n", text); };
    int status = device_find_driver(driver, which.driver.c_str(), which.plugins.c_str(), err);
    return status == LIBSCHED_OK ? (*driver)->open(device, &args, err) : status;
}

namespace
{

/* On a machine that it was not built on, the variable says where the plugin is. */
std::string real_plugins()
{
    const char *given = getenv("GPU_SCHED_PLUGINS");
    return given != nullptr ? given : CUDA_PLUGIN_FOLDER;
}

const device_case gpu_case = {"gpu", "cuda", 1, real_plugins(), 1, false};

/* In a process of its own: some tests fork, which CUDA does not survive. Answers how many GPUs can
 * be opened; where none, why. */
uint32_t probe_gpus(std::string *why)
{
    if (gpu_case.plugins.empty()) {
        *why = "the CUDA plugin was not built: no CUDA toolkit was found";
        return 0;
    }
    int ends[2];
    if (pipe(ends) != 0)
        abort();
    pid_t child = fork();
    if (child == 0) {
        const libsched_device_driver *driver;
        libsched_device *device;
        libsched_error err = {};
        unsigned char n = 0;
        while (n < 16 && open_device(gpu_case, n, &driver, &device, &err) == LIBSCHED_OK)
            n++;
        if (write(ends[1], &n, 1) != 1 || write(ends[1], err.message, sizeof(err.message)) < 0)
            _exit(1);
        _exit(0);
    }
    close(ends[1]);
    unsigned char n = 0;
    char message[LIBSCHED_MESSAGE_SIZE] = "the process that looked for one ended";
    if (read(ends[0], &n, 1) == 1 && read(ends[0], message, sizeof(message)) < 0)
        n = 0;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    *why = n == 0 ? message : "";
    return n;
}

struct gpus {
    std::string why;
    uint32_t n;
    gpus() : n(probe_gpus(&why))
    {
    }
};

const gpus &found()
{
    static const gpus all;
    return all;
}

} // namespace

const std::string &no_gpu_because()
{
    return found().why;
}

std::vector<device_case> all_devices()
{
    std::vector<device_case> all = {cpu_case, cpu_case};
    all[1].name = "cpu_3";
    all[1].threads = 3;
    all.push_back({"emulated", "cuda", 1, EMULATED_CUDA_FOLDER, 2, true});
    if (found().n > 0)
        all.push_back(gpu_case);
    return all;
}

std::vector<device_case> gang_devices()
{
    std::vector<device_case> all = {cpu_case,
                                    {"emulated", "cuda", 1, EMULATED_CUDA_FOLDER, 2, true}};
    const char *shared = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    /* Several ranks on one GPU take a NCCL that can do so. */
    if (found().n > 1 || (found().n == 1 && shared != nullptr && strcmp(shared, "1") == 0)) {
        all.push_back(gpu_case);
        all.back().n_devices = found().n;
    }
    return all;
}

void device_test::SetUp()
{
    ASSERT_EQ(LIBSCHED_OK, open_device(GetParam(), 0, &driver, &device, &err)) << err.message;
}

void device_test::TearDown()
{
    if (device == nullptr)
        return;
    EXPECT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    for (auto *b : buffers)
        driver->buffer_destroy(device, b);
    for (auto *w : weights)
        driver->weight_destroy(device, w);
    for (auto *s : batches)
        driver->sequences_destroy(device, s);
    driver->close(device);
}

bool device_test::has_bf16()
{
    libsched_device_properties info = {};
    info.struct_size = sizeof(info);
    EXPECT_EQ(LIBSCHED_OK, driver->info(device, &info, &err)) << err.message;
    return (info.flags & LIBSCHED_DEVICE_BF16) != 0;
}

libsched_device_buffer *device_test::buffer(uint32_t datatype, size_t rows, size_t columns)
{
    libsched_device_buffer *b = nullptr;
    EXPECT_EQ(LIBSCHED_OK, driver->buffer_create(device, &b, datatype, rows, columns, &err))
        << err.message;
    buffers.push_back(b);
    return b;
}

libsched_device_buffer *device_test::upload(uint32_t datatype, const matrix &values)
{
    libsched_device_buffer *b = buffer(datatype, values.rows, values.columns);
    std::vector<float> wide(values.values.begin(), values.values.end());
    std::vector<uint16_t> narrow;
    for (double v : values.values)
        narrow.push_back(bf16_of(v));
    const void *source = datatype == LIBSCHED_BF16 ? (const void *)narrow.data() : wide.data();
    EXPECT_EQ(LIBSCHED_OK, driver->upload(device, b, 0, values.rows, source, &err)) << err.message;
    return b;
}

matrix device_test::download(const libsched_device_buffer *from, uint32_t datatype, size_t rows,
                             size_t columns)
{
    matrix m(rows, columns);
    std::vector<float> wide(rows * columns);
    std::vector<uint16_t> narrow(rows * columns);
    void *target = datatype == LIBSCHED_BF16 ? (void *)narrow.data() : wide.data();
    EXPECT_EQ(LIBSCHED_OK, driver->download(device, from, 0, rows, target, &err)) << err.message;
    EXPECT_EQ(LIBSCHED_OK, driver->synchronize(device, &err)) << err.message;
    for (size_t i = 0; i < m.values.size(); i++)
        m.values[i] = datatype == LIBSCHED_BF16 ? of_bf16(narrow[i]) : wide[i];
    return m;
}

libsched_device_weight *device_test::weight(uint32_t kind, uint32_t datatype, const matrix &values)
{
    libsched_device_weight *w = nullptr;
    libsched_device_weight_args args = {};
    std::vector<float> data(values.values.begin(), values.values.end());
    args.struct_size = sizeof(args);
    args.kind = kind;
    args.datatype = datatype;
    args.source_datatype = LIBSCHED_FP32;
    args.rows = values.rows;
    args.columns = values.columns;
    args.data = data.data();
    EXPECT_EQ(LIBSCHED_OK, driver->weight_create(device, &w, &args, &err)) << err.message;
    weights.push_back(w);
    return w;
}

libsched_device_sequences *device_test::sequences(const std::vector<uint32_t> &lengths,
                                                  const std::vector<int32_t> &ids)
{
    libsched_device_sequences *s = nullptr;
    std::vector<uint32_t> starts = {0};
    for (uint32_t length : lengths)
        starts.push_back(starts.back() + length);
    std::vector<int32_t> tokens = ids;
    tokens.resize(starts.back());
    EXPECT_EQ(LIBSCHED_OK,
              driver->sequences_create(device, &s, (uint32_t)lengths.size(), starts.back(), &err))
        << err.message;
    EXPECT_EQ(LIBSCHED_OK, driver->sequences_set(device, s, (uint32_t)lengths.size(), starts.data(),
                                                 tokens.data(), &err))
        << err.message;
    batches.push_back(s);
    return s;
}

} // namespace gpu_sched_test
