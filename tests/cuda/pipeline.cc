/* SPDX-License-Identifier: Apache-2.0 */
#include "pipeline.h"

#include "device/arguments.h"

#include <algorithm>
#include <cmath>

namespace gpu_sched_test
{

namespace
{

constexpr uint32_t hidden = 32, heads = 2, middle = 64, vocabulary = 50;

struct pipeline {
    pipeline_result out;
    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    std::vector<libsched_device_weight *> weights;
    std::vector<libsched_device_buffer *> buffers;
    std::vector<libsched_device_sequences *> batches;

    /* Whether to go on. */
    bool ok(int status, const libsched_error &err)
    {
        if (status != LIBSCHED_OK && out.status == LIBSCHED_OK) {
            out.status = status;
            out.err = err;
        }
        return out.status == LIBSCHED_OK;
    }

    libsched_device_weight *weight(uint32_t kind, uint32_t datatype, size_t rows, size_t columns,
                                   uint32_t seed, double scale)
    {
        libsched_device_weight_args args = {};
        libsched_device_weight *w = nullptr;
        libsched_error err = {};
        matrix values = random_matrix(rows, columns, seed, scale);
        std::vector<float> data(values.values.begin(), values.values.end());
        args.struct_size = sizeof(args);
        args.kind = kind;
        args.datatype = datatype;
        args.source_datatype = LIBSCHED_FP32;
        args.rows = rows;
        args.columns = columns;
        args.data = data.data();
        if (out.status == LIBSCHED_OK && ok(driver->weight_create(device, &w, &args, &err), err))
            weights.push_back(w);
        return w;
    }
    libsched_device_weight *vector(size_t n, uint32_t seed)
    {
        return weight(LIBSCHED_WEIGHT_VECTOR, LIBSCHED_FP32, 1, n, seed, 1);
    }
    libsched_device_buffer *buffer(uint32_t datatype, size_t rows, size_t columns)
    {
        libsched_device_buffer *b = nullptr;
        libsched_error err = {};
        if (out.status == LIBSCHED_OK &&
            ok(driver->buffer_create(device, &b, datatype, rows, columns, &err), err))
            buffers.push_back(b);
        return b;
    }
    bool linear(size_t rows, const libsched_device_buffer *input, const libsched_device_weight *w,
                const libsched_device_weight *bias, uint32_t activation, bool accumulate,
                libsched_device_buffer *output)
    {
        const auto args = linear_args(rows, input, w, bias, activation, accumulate, output);
        libsched_error err = {};
        return out.status == LIBSCHED_OK && ok(driver->linear(device, &args, &err), err);
    }

    void run(uint32_t precision);
    void end();
};

void pipeline::run(uint32_t precision)
{
    const std::vector<uint32_t> lengths[3] = {{5, 70, 1}, {20}, {3, 3, 64, 2}};
    libsched_error err = {};
    if (!ok(open_device(emulated_case, 0, &driver, &device, &err), err))
        return;
    auto *words = weight(LIBSCHED_WEIGHT_TABLE, precision, vocabulary, hidden, 1, 1);
    auto *positions = weight(LIBSCHED_WEIGHT_TABLE, precision, 80, hidden, 2, 1);
    auto *gain = vector(hidden, 3), *shift = vector(hidden, 4);
    auto *qkv_weight = weight(LIBSCHED_WEIGHT_LINEAR, precision, 3 * hidden, hidden, 5, 0.2);
    auto *qkv_bias = vector(3 * hidden, 6);
    auto *out_weight = weight(LIBSCHED_WEIGHT_LINEAR, precision, hidden, hidden, 7, 0.2);
    auto *up = weight(LIBSCHED_WEIGHT_LINEAR, precision, middle, hidden, 8, 0.2);
    auto *up_bias = vector(middle, 9);
    auto *down = weight(LIBSCHED_WEIGHT_LINEAR, precision, hidden, middle, 10, 0.2);
    auto *states = buffer(LIBSCHED_FP32, 100, hidden);
    auto *half = precision == LIBSCHED_BF16 ? buffer(LIBSCHED_BF16, 100, hidden) : nullptr;
    auto *qkv = buffer(precision, 100, 3 * hidden), *context = buffer(precision, 100, hidden);
    auto *inner = buffer(precision, 100, middle), *pooled = buffer(LIBSCHED_FP32, 8, hidden);
    libsched_device_sequences *batch = nullptr;
    if (out.status != LIBSCHED_OK ||
        !ok(driver->sequences_create(device, &batch, 8, 100, &err), err))
        return;
    batches.push_back(batch);

    for (int i = 0; i < 3 && out.status == LIBSCHED_OK; i++) {
        std::vector<uint32_t> starts = {0};
        std::vector<int32_t> ids;
        for (uint32_t length : lengths[i])
            starts.push_back(starts.back() + length);
        for (uint32_t t = 0; t < starts.back(); t++)
            ids.push_back((int32_t)((t * 7 + (uint32_t)i) % vocabulary));
        const auto n = (uint32_t)lengths[i].size();
        const size_t tokens = starts.back();
        if (!ok(driver->sequences_set(device, batch, n, starts.data(), ids.data(), &err), err))
            return;
        /* What was given is copied, so it may change now. */
        std::fill(ids.begin(), ids.end(), -1);

        const auto embed = embed_args(batch, words, positions, gain, shift, states, half);
        if (!ok(driver->embed(device, &embed, &err), err))
            return;
        const auto *input = half != nullptr ? half : states;
        const auto attention = attention_args(batch, qkv, heads, hidden / heads, 0.25f, context);
        const auto norm = norm_args(tokens, states, gain, shift, half);
        const auto pool = pool_args(batch, states, LIBSCHED_POOLING_MEAN, true, pooled);
        if (!linear(tokens, input, qkv_weight, qkv_bias, LIBSCHED_ACTIVATION_NONE, false, qkv) ||
            !ok(driver->attention(device, &attention, &err), err) ||
            !linear(tokens, context, out_weight, gain, LIBSCHED_ACTIVATION_NONE, true, states) ||
            !ok(driver->norm(device, &norm, &err), err) ||
            !linear(tokens, input, up, up_bias, LIBSCHED_ACTIVATION_GELU, false, inner) ||
            !linear(tokens, inner, down, nullptr, LIBSCHED_ACTIVATION_NONE, true, states) ||
            !ok(driver->norm(device, &norm, &err), err) ||
            !ok(driver->pool(device, &pool, &err), err))
            return;
        out.embeddings[i].assign(n * hidden, -7);
        if (!ok(driver->download(device, pooled, 0, n, out.embeddings[i].data(), &err), err))
            return;
        /* Over what is still being computed with, and at once computed with again. */
        std::vector<float> row(hidden, (float)i);
        if (!ok(driver->upload(device, pooled, 0, 1, row.data(), &err), err))
            return;
        std::fill(row.begin(), row.end(), NAN);
    }
    /* In use still, and gone for the caller. */
    for (auto **b : {&qkv, &context, &inner}) {
        driver->buffer_destroy(device, *b);
        buffers.erase(std::find(buffers.begin(), buffers.end(), *b));
    }
    /* What may come to lie where they were. */
    auto *next = buffer(precision, 100, middle);
    if (next != nullptr) {
        std::vector<float> values(100 * middle, NAN);
        if (!ok(driver->upload(device, next, 0, 100, values.data(), &err), err))
            return;
    }
    ok(driver->synchronize(device, &err), err);
}

void pipeline::end()
{
    if (device == nullptr)
        return;
    libsched_error err = {};
    for (auto *b : buffers)
        driver->buffer_destroy(device, b);
    for (auto *w : weights)
        driver->weight_destroy(device, w);
    for (auto *s : batches)
        driver->sequences_destroy(device, s);
    out.close_status = driver->synchronize(device, &err);
    driver->close(device);
}

} // namespace

pipeline_result run_pipeline(uint32_t precision)
{
    pipeline p;
    p.run(precision);
    p.end();
    return std::move(p.out);
}

} // namespace gpu_sched_test
