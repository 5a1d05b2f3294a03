/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices that the operations are tested on, and what the tests need of each. A further driver
 * is a further row of all_devices().
 */
#ifndef TESTS_DEVICE_DEVICE_CASE_H
#define TESTS_DEVICE_DEVICE_CASE_H

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <libsched/device.h>

namespace gpu_sched_test
{

/* A driver, and how it is opened. */
struct device_case {
    std::string name; /* of the case */
    std::string driver;
    uint32_t threads;
    std::string plugins; /* where the driver is */
    uint32_t n_devices;  /* that it has: ranks are dealt out to them */
    bool exact;          /* sums of all ranks are added up in the ranks' order */
};

inline const device_case cpu_case = {"cpu_1", "cpu", 1, "", 1, true};

/* The CPU, the CUDA plugin over the fake of CUDA, and on a GPU where there is one. */
std::vector<device_case> all_devices();
/* Those on which several ranks can work together. */
std::vector<device_case> gang_devices();
/* Why there is no GPU to test on; empty where there is one. */
const std::string &no_gpu_because();

inline std::string device_case_name(const testing::TestParamInfo<device_case> &info)
{
    return info.param.name;
}

/* An open device. */
int open_device(const device_case &which, uint32_t ordinal, const libsched_device_driver **driver,
                libsched_device **device, libsched_error *err);

/* A matrix on the host, in double precision. */
struct matrix {
    size_t rows, columns;
    std::vector<double> values;

    matrix(size_t r, size_t c) : rows(r), columns(c), values(r * c)
    {
    }
    double &at(size_t r, size_t c)
    {
        return values[r * columns + c];
    }
    double at(size_t r, size_t c) const
    {
        return values[r * columns + c];
    }
};

/* Random values that BF16 holds exactly, so that both precisions start from the same numbers. */
matrix random_matrix(size_t rows, size_t columns, uint32_t seed, double scale = 1.0);

uint16_t bf16_of(double value);
double of_bf16(uint16_t bits);

/* A test on an open device; what it makes is destroyed at its end. */
class device_test : public testing::TestWithParam<device_case>
{
  protected:
    void SetUp() override;
    void TearDown() override;

    /* Skips nothing: says whether BF16 can be tested. */
    bool has_bf16();
    libsched_device_buffer *buffer(uint32_t datatype, size_t rows, size_t columns);
    libsched_device_buffer *upload(uint32_t datatype, const matrix &values);
    matrix download(const libsched_device_buffer *from, uint32_t datatype, size_t rows,
                    size_t columns);
    libsched_device_weight *weight(uint32_t kind, uint32_t datatype, const matrix &values);
    libsched_device_sequences *sequences(const std::vector<uint32_t> &lengths,
                                         const std::vector<int32_t> &ids = {});

    libsched_device *device = nullptr;
    const libsched_device_driver *driver = nullptr;
    libsched_error err = {};

  private:
    std::vector<libsched_device_buffer *> buffers;
    std::vector<libsched_device_weight *> weights;
    std::vector<libsched_device_sequences *> batches;
};

/* The largest difference, relative to the largest value expected (or 1). */
double worst(const matrix &got, const matrix &expected);

} // namespace gpu_sched_test

#endif
