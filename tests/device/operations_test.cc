/* SPDX-License-Identifier: Apache-2.0 */
/* Every operation of a device against plain loops in double precision. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "device/device_case.h"

using namespace gpu_sched_test;

namespace
{

/* Differences allowed: FP32 sums; a result rounded to BF16; products of such results. */
constexpr double tolerance_f32 = 2e-5, tolerance_bf16 = 1e-2;

double tolerance(uint32_t datatype)
{
    return datatype == LIBSCHED_BF16 ? tolerance_bf16 : tolerance_f32;
}

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

matrix linear_reference(const matrix &input, const matrix &weight, const matrix *bias,
                        uint32_t activation)
{
    matrix out(input.rows, weight.rows);
    for (size_t r = 0; r < input.rows; r++)
        for (size_t o = 0; o < weight.rows; o++) {
            double sum = bias != nullptr ? bias->at(0, o) : 0;
            for (size_t i = 0; i < weight.columns; i++)
                sum += input.at(r, i) * weight.at(o, i);
            out.at(r, o) = activate(sum, activation);
        }
    return out;
}

void norm_reference(matrix &m, const matrix &gain, const matrix &shift, double epsilon)
{
    for (size_t r = 0; r < m.rows; r++) {
        double mean = 0, square = 0;
        for (size_t c = 0; c < m.columns; c++)
            mean += m.at(r, c) / (double)m.columns;
        for (size_t c = 0; c < m.columns; c++)
            square += (m.at(r, c) - mean) * (m.at(r, c) - mean) / (double)m.columns;
        for (size_t c = 0; c < m.columns; c++)
            m.at(r, c) =
                (m.at(r, c) - mean) / std::sqrt(square + epsilon) * gain.at(0, c) + shift.at(0, c);
    }
}

matrix attention_reference(const matrix &qkv, const std::vector<uint32_t> &lengths, size_t heads,
                           size_t head_size, double scale)
{
    const size_t width = heads * head_size;
    matrix out(qkv.rows, width);
    size_t start = 0;
    for (uint32_t n : lengths) {
        for (size_t h = 0; h < heads; h++)
            for (size_t q = 0; q < n; q++) {
                std::vector<double> p(n);
                double sum = 0, top = -INFINITY;
                for (size_t k = 0; k < n; k++) {
                    for (size_t c = 0; c < head_size; c++)
                        p[k] += scale * qkv.at(start + q, h * head_size + c) *
                                qkv.at(start + k, width + h * head_size + c);
                    top = std::max(top, p[k]);
                }
                for (double &x : p)
                    sum += x = std::exp(x - top);
                for (size_t k = 0; k < n; k++)
                    for (size_t c = 0; c < head_size; c++)
                        out.at(start + q, h * head_size + c) +=
                            p[k] / sum * qkv.at(start + k, 2 * width + h * head_size + c);
            }
        start += n;
    }
    return out;
}

matrix pool_reference(const matrix &states, const std::vector<uint32_t> &lengths, uint32_t pooling,
                      bool normalize)
{
    matrix out(lengths.size(), states.columns);
    size_t start = 0;
    for (size_t s = 0; s < lengths.size(); s++) {
        double square = 0;
        for (size_t c = 0; c < states.columns; c++) {
            double sum = 0, top = -INFINITY;
            for (size_t t = start; t < start + lengths[s]; t++) {
                sum += states.at(t, c);
                top = std::max(top, states.at(t, c));
            }
            double &to = out.at(s, c);
            to = pooling == LIBSCHED_POOLING_MEAN  ? sum / lengths[s]
                 : pooling == LIBSCHED_POOLING_MAX ? top
                                                   : states.at(start, c);
            square += to * to;
        }
        for (size_t c = 0; normalize && c < states.columns; c++)
            out.at(s, c) /= std::sqrt(square);
        start += lengths[s];
    }
    return out;
}

class operations : public device_test
{
  protected:
    std::vector<uint32_t> precisions()
    {
        if (has_bf16())
            return {LIBSCHED_FP32, LIBSCHED_BF16};
        return {LIBSCHED_FP32};
    }
    void check_linear(size_t rows, size_t inputs, size_t outputs, uint32_t datatype,
                      uint32_t output_datatype, uint32_t activation, bool accumulate, bool bias);
    void check_attention(const std::vector<uint32_t> &lengths, uint32_t heads, uint32_t head_size,
                         uint32_t datatype);
};

/* A caller that was built before something was added has room for less. */
TEST_P(operations, properties_fill_as_much_as_there_is_room_for)
{
    libsched_device_properties all = {}, less = {};
    all.struct_size = sizeof(all);
    less.struct_size = offsetof(libsched_device_properties, text);
    ASSERT_EQ(LIBSCHED_OK, driver->info(device, &all, &err)) << err.message;
    EXPECT_EQ(sizeof(all), all.struct_size);
    EXPECT_GT(all.memory_total, 0u);
    EXPECT_STRNE("", all.text);
    less.text[0] = '?';
    ASSERT_EQ(LIBSCHED_OK, driver->info(device, &less, &err)) << err.message;
    EXPECT_EQ(all.memory_total, less.memory_total);
    EXPECT_EQ(all.flags, less.flags);
    EXPECT_EQ('?', less.text[0]);
    less.struct_size = 0;
    EXPECT_EQ(LIBSCHED_EINVAL, driver->info(device, &less, &err));
    EXPECT_STREQ("properties of 0 bytes are too few", err.message);
}

TEST_P(operations, bf16_is_tested)
{
    if (!has_bf16())
        GTEST_SKIP() << "this device does not compute bf16 natively";
}

TEST(gpu, is_tested)
{
    if (!no_gpu_because().empty())
        GTEST_SKIP() << "no GPU is tested: " << no_gpu_because();
}

/* ------------------------------------------------------------------------------------- linear */

void operations::check_linear(size_t rows, size_t inputs, size_t outputs, uint32_t datatype,
                              uint32_t output_datatype, uint32_t activation, bool accumulate,
                              bool bias)
{
    SCOPED_TRACE(testing::Message()
                 << rows << " x " << inputs << " x " << outputs << ", "
                 << libsched_datatype_name(datatype) << " to "
                 << libsched_datatype_name(output_datatype) << ", activation " << activation
                 << (accumulate ? ", accumulate" : "") << (bias ? ", bias" : ""));
    matrix x = random_matrix(rows, inputs, 1);
    matrix w = random_matrix(outputs, inputs, 2, 1 / std::sqrt((double)inputs));
    matrix b = random_matrix(1, outputs, 3);
    matrix before = random_matrix(rows, outputs, 4);
    matrix expected = linear_reference(x, w, bias ? &b : nullptr, activation);
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
    for (size_t i = 0; accumulate && i < expected.values.size(); i++)
        expected.values[i] += before.values[i];
    EXPECT_LT(worst(download(args.output, output_datatype, rows, outputs), expected),
              tolerance(output_datatype));
}

TEST_P(operations, linear_of_any_number_of_rows)
{
    for (uint32_t datatype : precisions())
        for (size_t rows : {1, 2, 7, 9, 33, 65, 130, 257, 1025, 1040})
            check_linear(rows, 48, 40, datatype, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE, false,
                         true);
}

TEST_P(operations, linear_of_any_shape)
{
    for (uint32_t datatype : precisions())
        for (size_t inputs : {1, 17, 64, 384})
            for (size_t outputs : {1, 15, 100, 512})
                check_linear(19, inputs, outputs, datatype, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE,
                             false, false);
}

TEST_P(operations, linear_with_an_activation)
{
    for (uint32_t datatype : precisions())
        for (uint32_t activation :
             {LIBSCHED_ACTIVATION_GELU, LIBSCHED_ACTIVATION_GELU_TANH, LIBSCHED_ACTIVATION_RELU})
            check_linear(50, 64, 96, datatype, datatype, activation, false, true);
}

TEST_P(operations, linear_adds_to_a_residual)
{
    for (uint32_t datatype : precisions())
        check_linear(77, 64, 48, datatype, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE, true, true);
}

TEST_P(operations, linear_of_no_rows_does_nothing)
{
    check_linear(0, 8, 8, LIBSCHED_FP32, LIBSCHED_FP32, LIBSCHED_ACTIVATION_NONE, false, true);
}

/* A row's result may not depend on how many others are computed with it. */
TEST_P(operations, linear_rows_are_independent)
{
    for (uint32_t datatype : precisions()) {
        matrix x = random_matrix(700, 384, 5), w = random_matrix(384, 384, 6, 0.05);
        libsched_device_linear_args args = {};
        args.struct_size = sizeof(args);
        args.input = upload(datatype, x);
        args.weight = weight(LIBSCHED_WEIGHT_LINEAR, datatype, w);
        args.output = buffer(LIBSCHED_FP32, 700, 384);
        args.rows = 700;
        ASSERT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
        matrix all = download(args.output, LIBSCHED_FP32, 700, 384);
        for (size_t rows : {1, 5, 30, 100, 300}) {
            args.rows = rows;
            ASSERT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
            matrix some = download(args.output, LIBSCHED_FP32, rows, 384);
            matrix expected(rows, 384);
            std::copy_n(all.values.begin(), expected.values.size(), expected.values.begin());
            EXPECT_LT(worst(some, expected), 1e-6);
        }
    }
}

TEST_P(operations, linear_converts_half_precision_weights)
{
    /* 1, -2, 0.5, the smallest normal, the smallest subnormal, 65504, 0, -0 */
    const uint16_t fp16[] = {0x3c00, 0xc000, 0x3800, 0x0400, 0x0001, 0x7bff, 0x0000, 0x8000};
    const double values[] = {1, -2, 0.5, 0x1p-14, 0x1p-24, 65504, 0, 0};
    std::vector<unsigned char> odd(1 + sizeof(fp16)); /* checkpoints promise no alignment */
    std::copy_n((const unsigned char *)fp16, sizeof(fp16), odd.begin() + 1);
    libsched_device_weight_args weight_args = {};
    weight_args.struct_size = sizeof(weight_args);
    weight_args.kind = LIBSCHED_WEIGHT_LINEAR;
    weight_args.datatype = LIBSCHED_FP32;
    weight_args.source_datatype = LIBSCHED_FP16;
    weight_args.rows = 8;
    weight_args.columns = 1;
    weight_args.data = odd.data() + 1;
    libsched_device_weight *w = nullptr;
    ASSERT_EQ(LIBSCHED_OK, driver->weight_create(device, &w, &weight_args, &err)) << err.message;

    matrix one(1, 1);
    one.at(0, 0) = 1;
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.rows = 1;
    args.input = upload(LIBSCHED_FP32, one);
    args.weight = w;
    args.output = buffer(LIBSCHED_FP32, 1, 8);
    EXPECT_EQ(LIBSCHED_OK, driver->linear(device, &args, &err)) << err.message;
    matrix got = download(args.output, LIBSCHED_FP32, 1, 8);
    for (size_t i = 0; i < 8; i++)
        EXPECT_EQ(values[i], got.at(0, i));
    driver->weight_destroy(device, w);
}

/* ------------------------------------------------------------------------- embedding and norm */

TEST_P(operations, embed_sums_and_normalises)
{
    const std::vector<uint32_t> lengths = {3, 1, 7};
    const std::vector<int32_t> ids = {4, 0, 19, 7, 7, 7, 1, 2, 3, 18, 5};
    for (uint32_t datatype : precisions())
        for (bool with_types : {true, false})
            for (size_t columns : {32, 45, 384}) {
                matrix words = random_matrix(20, columns, 1),
                       positions = random_matrix(9, columns, 2);
                matrix types = random_matrix(2, columns, 3);
                matrix gain = random_matrix(1, columns, 4), shift = random_matrix(1, columns, 5);
                matrix expected(ids.size(), columns);
                size_t t = 0;
                for (uint32_t length : lengths)
                    for (uint32_t p = 0; p < length; p++, t++)
                        for (size_t c = 0; c < columns; c++)
                            expected.at(t, c) = words.at((size_t)ids[t], c) + positions.at(p, c) +
                                                (with_types ? types.at(0, c) : 0);
                norm_reference(expected, gain, shift, 1e-12);

                libsched_device_embed_args args = {};
                args.struct_size = sizeof(args);
                args.sequences = sequences(lengths, ids);
                args.words = weight(LIBSCHED_WEIGHT_TABLE, datatype, words);
                args.positions = weight(LIBSCHED_WEIGHT_TABLE, datatype, positions);
                args.types = with_types ? weight(LIBSCHED_WEIGHT_TABLE, datatype, types) : nullptr;
                args.gain = weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, gain);
                args.shift = weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, shift);
                args.epsilon = 1e-12f;
                args.output = buffer(LIBSCHED_FP32, ids.size(), columns);
                args.output_bf16 = buffer(LIBSCHED_BF16, ids.size(), columns);
                ASSERT_EQ(LIBSCHED_OK, driver->embed(device, &args, &err)) << err.message;
                EXPECT_LT(
                    worst(download(args.output, LIBSCHED_FP32, ids.size(), columns), expected),
                    tolerance_f32);
                EXPECT_LT(
                    worst(download(args.output_bf16, LIBSCHED_BF16, ids.size(), columns), expected),
                    tolerance_bf16);
            }
}

TEST_P(operations, norm_of_a_sum)
{
    for (bool with_residual : {true, false})
        for (size_t columns : {1, 31, 64, 384}) {
            const size_t rows = 21;
            matrix x = random_matrix(rows, columns, 1, 5),
                   residual = random_matrix(rows, columns, 2);
            matrix gain = random_matrix(1, columns, 3), shift = random_matrix(1, columns, 4);
            matrix expected = x;
            for (size_t i = 0; with_residual && i < x.values.size(); i++)
                expected.values[i] += residual.values[i];
            norm_reference(expected, gain, shift, 1e-5);

            libsched_device_norm_args args = {};
            args.struct_size = sizeof(args);
            args.rows = rows;
            args.output = upload(LIBSCHED_FP32, x);
            args.input = args.output;
            args.residual = with_residual ? upload(LIBSCHED_FP32, residual) : nullptr;
            args.gain = weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, gain);
            args.shift = weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, shift);
            args.epsilon = 1e-5f;
            args.output_bf16 = buffer(LIBSCHED_BF16, rows, columns);
            ASSERT_EQ(LIBSCHED_OK, driver->norm(device, &args, &err)) << err.message;
            EXPECT_LT(worst(download(args.output, LIBSCHED_FP32, rows, columns), expected),
                      tolerance_f32);
            EXPECT_LT(worst(download(args.output_bf16, LIBSCHED_BF16, rows, columns), expected),
                      tolerance_bf16);
        }
}

/* ---------------------------------------------------------------------------------- attention */

void operations::check_attention(const std::vector<uint32_t> &lengths, uint32_t heads,
                                 uint32_t head_size, uint32_t datatype)
{
    SCOPED_TRACE(testing::Message()
                 << lengths.size() << " sequences from " << lengths[0] << ", " << heads
                 << " heads of " << head_size << ", " << libsched_datatype_name(datatype));
    const size_t rows = std::accumulate(lengths.begin(), lengths.end(), (size_t)0);
    const double scale = 1 / std::sqrt((double)head_size);
    matrix qkv = random_matrix(rows, 3 * heads * head_size, 1, 1.5);
    libsched_device_attention_args args = {};

    args.struct_size = sizeof(args);
    args.sequences = sequences(lengths);
    args.qkv = upload(datatype, qkv);
    args.heads = heads;
    args.head_size = head_size;
    args.scale = (float)scale;
    args.output = buffer(datatype, rows, heads * head_size);
    ASSERT_EQ(LIBSCHED_OK, driver->attention(device, &args, &err)) << err.message;
    EXPECT_LT(worst(download(args.output, datatype, rows, heads * head_size),
                    attention_reference(qkv, lengths, heads, head_size, scale)),
              tolerance(datatype));
}

TEST_P(operations, attention_of_any_lengths)
{
    for (uint32_t datatype : {LIBSCHED_FP32, LIBSCHED_BF16}) {
        check_attention({1}, 2, 32, datatype);
        check_attention({5, 1, 16, 17, 2, 64, 33}, 3, 32, datatype);
        check_attention({127, 128, 129}, 2, 32, datatype);
        check_attention({300, 3, 512}, 1, 32, datatype);
    }
}

TEST_P(operations, attention_of_any_head_size)
{
    for (uint32_t datatype : {LIBSCHED_FP32, LIBSCHED_BF16})
        for (uint32_t head_size : {1, 8, 13, 16, 20, 48, 64, 128})
            check_attention({9, 40}, 2, head_size, datatype);
}

TEST_P(operations, attention_bears_large_scores)
{
    const std::vector<uint32_t> lengths = {40};
    matrix qkv = random_matrix(40, 96, 1, 30);
    libsched_device_attention_args args = {};

    args.struct_size = sizeof(args);
    args.sequences = sequences(lengths);
    args.qkv = upload(LIBSCHED_FP32, qkv);
    args.heads = 1;
    args.head_size = 32;
    args.scale = 1;
    args.output = buffer(LIBSCHED_FP32, 40, 32);
    ASSERT_EQ(LIBSCHED_OK, driver->attention(device, &args, &err)) << err.message;
    /* Scores of thousands: their rounding shows in the exponent. */
    EXPECT_LT(worst(download(args.output, LIBSCHED_FP32, 40, 32),
                    attention_reference(qkv, lengths, 1, 32, 1)),
              1e-3);
}

/* ------------------------------------------------------------------------------------ pooling */

TEST_P(operations, pooling)
{
    const std::vector<uint32_t> lengths = {1, 5, 130, 2};
    matrix states = random_matrix(138, 50, 1);
    for (uint32_t kind : {LIBSCHED_POOLING_MEAN, LIBSCHED_POOLING_CLS, LIBSCHED_POOLING_MAX})
        for (bool normalize : {true, false}) {
            libsched_device_pool_args args = {};
            args.struct_size = sizeof(args);
            args.sequences = sequences(lengths);
            args.input = upload(LIBSCHED_FP32, states);
            args.pooling = kind;
            args.normalize = normalize;
            args.output = buffer(LIBSCHED_FP32, lengths.size(), 50);
            ASSERT_EQ(LIBSCHED_OK, driver->pool(device, &args, &err)) << err.message;
            EXPECT_LT(worst(download(args.output, LIBSCHED_FP32, lengths.size(), 50),
                            pool_reference(states, lengths, kind, normalize)),
                      tolerance_f32);
        }
}

TEST_P(operations, a_nan_is_not_lost)
{
    matrix states = random_matrix(4, 40, 1);
    states.at(2, 33) = NAN;
    std::vector<float> values(states.values.begin(), states.values.end());
    for (uint32_t kind : {LIBSCHED_POOLING_MEAN, LIBSCHED_POOLING_MAX}) {
        libsched_device_buffer *input = buffer(LIBSCHED_FP32, 4, 40);
        libsched_device_pool_args args = {};
        ASSERT_EQ(LIBSCHED_OK, driver->upload(device, input, 0, 4, values.data(), &err));
        args.struct_size = sizeof(args);
        args.sequences = sequences({2, 2});
        args.input = input;
        args.pooling = kind;
        args.normalize = true;
        args.output = buffer(LIBSCHED_FP32, 2, 40);
        ASSERT_EQ(LIBSCHED_OK, driver->pool(device, &args, &err)) << err.message;
        matrix got = download(args.output, LIBSCHED_FP32, 2, 40);
        EXPECT_FALSE(std::isnan(got.at(0, 33)));
        EXPECT_TRUE(std::isnan(got.at(1, 33)));
    }
}

/* ---------------------------------------------------------------------------- what is refused */

TEST_P(operations, buffers_that_do_not_fit_are_refused)
{
    matrix w = random_matrix(8, 16, 1);
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.weight = weight(LIBSCHED_WEIGHT_LINEAR, LIBSCHED_FP32, w);
    args.input = buffer(LIBSCHED_FP32, 4, 16);
    args.output = buffer(LIBSCHED_FP32, 4, 8);
    args.rows = 5;
    EXPECT_EQ(LIBSCHED_EINVAL, driver->linear(device, &args, &err));
    args.rows = 4;
    args.input = buffer(LIBSCHED_FP32, 4, 15);
    EXPECT_EQ(LIBSCHED_EINVAL, driver->linear(device, &args, &err));
    args.input = buffer(LIBSCHED_BF16, 4, 16);
    EXPECT_EQ(LIBSCHED_EINVAL, driver->linear(device, &args, &err));
    EXPECT_NE(nullptr, strstr(err.message, "BF16")) << err.message;
}

TEST_P(operations, sequences_that_do_not_fit_are_refused)
{
    libsched_device_sequences *s = sequences({3, 2});
    const int32_t ids[6] = {};
    const uint32_t too_long[] = {0, 3, 6}, backwards[] = {0, 4, 3}, offset[] = {1, 2, 3};
    const uint32_t too_many[] = {0, 1, 2, 3};
    EXPECT_EQ(LIBSCHED_EINVAL, driver->sequences_set(device, s, 2, too_long, ids, &err));
    EXPECT_EQ(LIBSCHED_EINVAL, driver->sequences_set(device, s, 2, backwards, ids, &err));
    EXPECT_EQ(LIBSCHED_EINVAL, driver->sequences_set(device, s, 2, offset, ids, &err));
    EXPECT_EQ(LIBSCHED_EINVAL, driver->sequences_set(device, s, 3, too_many, ids, &err));
}

TEST_P(operations, bf16_weights_are_taken_exactly_where_bf16_is_native)
{
    matrix w = random_matrix(8, 8, 1);
    std::vector<float> data(w.values.begin(), w.values.end());
    libsched_device_weight *out = nullptr;
    libsched_device_weight_args args = {};
    args.struct_size = sizeof(args);
    args.kind = LIBSCHED_WEIGHT_LINEAR;
    args.datatype = LIBSCHED_BF16;
    args.source_datatype = LIBSCHED_FP32;
    args.rows = args.columns = 8;
    args.data = data.data();
    int status = driver->weight_create(device, &out, &args, &err);
    if (has_bf16()) {
        EXPECT_EQ(LIBSCHED_OK, status) << err.message;
        driver->weight_destroy(device, out);
    } else {
        EXPECT_EQ(LIBSCHED_ENOTSUP, status);
        EXPECT_NE(nullptr, strstr(err.message, "bf16")) << err.message;
    }
}

INSTANTIATE_TEST_SUITE_P(devices, operations, testing::ValuesIn(all_devices()), device_case_name);

} // namespace
