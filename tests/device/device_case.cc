/* SPDX-License-Identifier: Apache-2.0 */
#include "device/device_case.h"

#include <cmath>
#include <cstring>

#include "device/loader.h"

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

void device_test::SetUp()
{
    libsched_device_open_args args = {};
    args.struct_size = sizeof(args);
    args.threads = GetParam().threads;
    ASSERT_EQ(LIBSCHED_OK, device_find_driver(&driver, GetParam().driver.c_str(), nullptr, &err))
        << err.message;
    ASSERT_EQ(LIBSCHED_OK, driver->open(&device, &args, &err)) << err.message;
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
