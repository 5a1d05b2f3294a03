/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers where cuBLASLt does not do all that is wanted of it. */
#include <cmath>
#include <string>

#include "fake_cuda.h"
#include "pipeline.h"

using namespace gpu_sched_test;

namespace
{

struct products : device_test {
    ~products() override
    {
        fake_cublas_refuses(0);
    }
    void check(uint32_t datatype, uint32_t output_datatype, uint32_t activation, bool accumulate,
               bool bias);
    void check_all(int refused);
};
INSTANTIATE_TEST_SUITE_P(devices, products, testing::Values(emulated_case), device_case_name);

double activate(double x, uint32_t activation)
{
    switch (activation) {
    case LIBSCHED_ACTIVATION_GELU:
        return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case LIBSCHED_ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case LIBSCHED_ACTIVATION_RELU:
        return std::max(x, 0.0);
    default:
        return x;
    }
}

void products::check(uint32_t datatype, uint32_t output_datatype, uint32_t activation,
                     bool accumulate, bool bias)
{
    const size_t rows = 21, inputs = 37, outputs = 43;
    matrix x = random_matrix(rows, inputs, 1), w = random_matrix(outputs, inputs, 2, 0.2);
    matrix b = random_matrix(1, outputs, 3), before = random_matrix(rows, outputs, 4);
    matrix expected(rows, outputs);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < outputs; o++) {
            double sum = bias ? b.at(0, o) : 0;
            for (size_t i = 0; i < inputs; i++)
                sum += x.at(r, i) * w.at(o, i);
            expected.at(r, o) = activate(sum, activation) + (accumulate ? before.at(r, o) : 0);
        }
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.rows = rows;
    args.input = upload(datatype, x);
    args.weight = weight(LIBSCHED_WEIGHT_LINEAR, datatype, w);
    args.bias = bias ? weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, b) : nullptr;
    args.activation = activation;
    args.accumulate = accumulate;
    args.output = upload(output_datatype, before);
    ASSERT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
    EXPECT_LT(worst(download(args.output, output_datatype, rows, outputs), expected),
              output_datatype == LIBSCHED_BF16 ? 1e-2 : 2e-5)
        << libsched_datatype_name(datatype) << " to " << libsched_datatype_name(output_datatype)
        << ", activation " << activation << (accumulate ? ", accumulate" : "")
        << (bias ? ", bias" : "");
}

/* What is refused: nothing; all epilogues; everything; and that only when it is run. A device
 * keeps its plans, so each has one of its own. */
void products::check_all(int refused)
{
    fake_cublas_refuses(refused);
    for (uint32_t datatype : {LIBSCHED_FP32, LIBSCHED_BF16})
        for (bool bias : {true, false}) {
            for (uint32_t activation : {LIBSCHED_ACTIVATION_NONE, LIBSCHED_ACTIVATION_GELU,
                                        LIBSCHED_ACTIVATION_GELU_TANH, LIBSCHED_ACTIVATION_RELU})
                check(datatype, datatype, activation, false, bias);
            check(datatype, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE, true, bias);
            check(datatype, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE, false, bias);
        }
}

TEST_P(products, are_right_where_cublaslt_does_all)
{
    check_all(0);
}

TEST_P(products, are_right_where_it_has_no_epilogues)
{
    check_all(1);
}

TEST_P(products, are_right_where_it_does_nothing)
{
    check_all(2);
}

TEST_P(products, are_right_where_it_says_so_too_late)
{
    check_all(3);
}

/* A plan is found again: of many batches few ask cuBLASLt anything. */
TEST_P(products, of_a_shape_are_planned_once)
{
    matrix w = random_matrix(16, 16, 2);
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.input = buffer(LIBSCHED_BF16, 1000, 16);
    args.weight = weight(LIBSCHED_WEIGHT_LINEAR, LIBSCHED_BF16, w);
    args.output = buffer(LIBSCHED_BF16, 1000, 16);
    uint64_t first = 0, second = 0;
    for (int round = 0; round < 2; round++) {
        const uint64_t before = fake_cuda_calls();
        for (args.rows = 513; args.rows <= 640; args.rows += 9)
            ASSERT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
        (round == 0 ? first : second) = fake_cuda_calls() - before;
    }
    /* One call for each product, and nothing else. */
    EXPECT_EQ(15u, second);
    EXPECT_LT(first, second + 16);
}

/* A device that measures. */
struct measured_products : products {
    measured_products()
    {
        setenv("GPU_SCHED_MEASURE_PRODUCTS", "1", 1);
        fake_cublas_fastest(1);
    }
    ~measured_products() override
    {
        unsetenv("GPU_SCHED_MEASURE_PRODUCTS");
        fake_cublas_fastest(0);
    }
};
INSTANTIATE_TEST_SUITE_P(devices, measured_products, testing::Values(emulated_case),
                         device_case_name);

TEST_P(measured_products, are_those_of_the_fastest_algorithm)
{
    check_all(0);
    const uint64_t slow = fake_cublas_runs(2), fast = fake_cublas_runs(1);
    EXPECT_GT(slow, 0u);
    EXPECT_GT(fast, slow);
    EXPECT_EQ(slow, fake_cublas_runs(0));
    /* No shape is measured again. */
    check_all(0);
    EXPECT_EQ(slow, fake_cublas_runs(2));
    EXPECT_GT(fake_cublas_runs(1), fast);
}

TEST_P(measured_products, are_right_where_the_fastest_can_not_be_done)
{
    check_all(4);
    EXPECT_EQ(0u, fake_cublas_runs(1));
    EXPECT_GT(fake_cublas_runs(0), fake_cublas_runs(2)) << "the next after it";
}

TEST_P(measured_products, are_right_where_none_can_be_done)
{
    check_all(3);
}

/* It is the first that it recommends then, and no error. */
TEST_P(measured_products, take_no_memory_that_is_not_there)
{
    fake_cuda_fail("cudaMallocFromPoolAsync", 0, cudaErrorMemoryAllocation);
    check_all(0);
}

/* What fails is told, and measured the next time. */
TEST_P(measured_products, fail_where_measuring_fails)
{
    matrix x = random_matrix(4, 16, 1), w = random_matrix(16, 16, 2);
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.rows = 4;
    args.input = upload(LIBSCHED_FP32, x);
    args.weight = weight(LIBSCHED_WEIGHT_LINEAR, LIBSCHED_FP32, w);
    args.output = buffer(LIBSCHED_FP32, 4, 16);
    const uint64_t live = fake_cuda_live();
    for (const char *function : {"cudaEventCreateWithFlags", "cudaEventRecord", "cudaEventQuery",
                                 "cudaEventElapsedTime"}) {
        fake_cuda_fail(function, 0, cudaErrorInvalidValue);
        EXPECT_NE(LIBSCHED_OK, driver->linear(device, &args, &err)) << function;
        EXPECT_NE(std::string(err.message).find(function), std::string::npos) << err.message;
    }
    ASSERT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
    EXPECT_GT(fake_cublas_runs(2), 0u);
    /* A plan has four objects; events and memory are gone. */
    EXPECT_EQ(live + 4, fake_cuda_live());
}

} // namespace
