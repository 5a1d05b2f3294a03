/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/reference/bert.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>

#include <jansson.h>

#include "catalog/safetensors.h"
#include "device/half.h"

namespace gpu_sched_test
{

namespace
{

/* The compiler may use what the machine has, as the sums are the same in any width. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define WIDE
#endif

/* out[o] += x · row[o] */
WIDE void add_scaled(double *out, const double *row, double x, size_t n)
{
    for (size_t o = 0; o < n; o++)
        out[o] += x * row[o];
}

class weights_file
{
  public:
    explicit weights_file(const std::string &path)
    {
        libsched_error err = {};
        if (safetensors_open(&file, path.c_str(), &err) != LIBSCHED_OK)
            throw std::runtime_error(err.message);
        if (safetensors_find(file, "bert.embeddings.word_embeddings.weight") != nullptr)
            prefix = "bert.";
    }
    ~weights_file()
    {
        safetensors_close(file);
    }
    std::vector<double> read(const std::string &name) const
    {
        const libsched_tensor *t = safetensors_find(file, (prefix + name).c_str());
        if (t == nullptr)
            throw std::runtime_error("no tensor " + prefix + name);
        std::vector<float> wide((size_t)libsched_shape_elements(t->shape, t->rank));
        if (t->datatype == LIBSCHED_FP16)
            half_widen_fp16(t->data, wide.size(), wide.data());
        else if (t->datatype == LIBSCHED_BF16)
            half_widen_bf16(t->data, wide.size(), wide.data());
        else
            memcpy(wide.data(), t->data, t->size);
        return {wide.begin(), wide.end()};
    }

  private:
    safetensors *file = nullptr;
    std::string prefix;
};

} // namespace

reference_bert::reference_bert(const std::string &folder)
{
    json_t *config = json_load_file((folder + "/config.json").c_str(), 0, nullptr);
    if (config == nullptr)
        throw std::runtime_error("no config.json in " + folder);
    hidden = (size_t)json_integer_value(json_object_get(config, "hidden_size"));
    layers = (size_t)json_integer_value(json_object_get(config, "num_hidden_layers"));
    heads = (size_t)json_integer_value(json_object_get(config, "num_attention_heads"));
    intermediate = (size_t)json_integer_value(json_object_get(config, "intermediate_size"));
    epsilon = json_number_value(json_object_get(config, "layer_norm_eps"));
    activation = json_string_value(json_object_get(config, "hidden_act"));
    json_decref(config);

    weights_file file(folder + "/model.safetensors");
    auto read_linear = [&](const std::string &name, size_t inputs, size_t outputs) {
        linear l = {inputs, outputs, std::vector<double>(inputs * outputs),
                    file.read(name + ".bias")};
        std::vector<double> weight = file.read(name + ".weight");
        for (size_t o = 0; o < outputs; o++)
            for (size_t i = 0; i < inputs; i++)
                l.weight[i * outputs + o] = weight[o * inputs + i];
        return l;
    };
    auto read_norm = [&](const std::string &name) {
        return norm{file.read(name + ".weight"), file.read(name + ".bias")};
    };
    words = file.read("embeddings.word_embeddings.weight");
    positions = file.read("embeddings.position_embeddings.weight");
    types = file.read("embeddings.token_type_embeddings.weight");
    first = read_norm("embeddings.LayerNorm");
    for (size_t i = 0; i < layers; i++) {
        std::string base = "encoder.layer." + std::to_string(i);
        stack.push_back({read_linear(base + ".attention.self.query", hidden, hidden),
                         read_linear(base + ".attention.self.key", hidden, hidden),
                         read_linear(base + ".attention.self.value", hidden, hidden),
                         read_linear(base + ".attention.output.dense", hidden, hidden),
                         read_linear(base + ".intermediate.dense", hidden, intermediate),
                         read_linear(base + ".output.dense", intermediate, hidden),
                         read_norm(base + ".attention.output.LayerNorm"),
                         read_norm(base + ".output.LayerNorm")});
    }
}

double reference_bert::activate(double x) const
{
    if (activation == "relu")
        return std::max(x, 0.0);
    if (activation == "gelu")
        return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

void reference_bert::apply(const linear &l, const std::vector<double> &in,
                           std::vector<double> &out) const
{
    const size_t rows = in.size() / l.inputs;
    out.assign(rows * l.outputs, 0);
    for (size_t r = 0; r < rows; r++)
        std::copy(l.bias.begin(), l.bias.end(), out.begin() + (ptrdiff_t)(r * l.outputs));
    /* Rows inside, so that a row of the matrix is used while it is in the cache. */
    for (size_t i = 0; i < l.inputs; i++)
        for (size_t r = 0; r < rows; r++)
            add_scaled(&out[r * l.outputs], &l.weight[i * l.outputs], in[r * l.inputs + i],
                       l.outputs);
}

void reference_bert::apply(const norm &n, std::vector<double> &rows) const
{
    for (size_t start = 0; start < rows.size(); start += hidden) {
        double mean = 0, square = 0;
        for (size_t c = 0; c < hidden; c++)
            mean += rows[start + c] / (double)hidden;
        for (size_t c = 0; c < hidden; c++)
            square += (rows[start + c] - mean) * (rows[start + c] - mean) / (double)hidden;
        for (size_t c = 0; c < hidden; c++)
            rows[start + c] =
                (rows[start + c] - mean) / std::sqrt(square + epsilon) * n.gain[c] + n.shift[c];
    }
}

std::vector<double> reference_bert::attend(const std::vector<double> &q,
                                           const std::vector<double> &k,
                                           const std::vector<double> &v) const
{
    const size_t n = q.size() / hidden, d = hidden / heads;
    std::vector<double> out(q.size(), 0), p(n);
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < n; i++) {
            double sum = 0, top = -INFINITY;
            for (size_t j = 0; j < n; j++) {
                p[j] = 0;
                for (size_t c = h * d; c < (h + 1) * d; c++)
                    p[j] += q[i * hidden + c] * k[j * hidden + c];
                p[j] /= std::sqrt((double)d);
                top = std::max(top, p[j]);
            }
            for (size_t j = 0; j < n; j++)
                sum += p[j] = std::exp(p[j] - top);
            for (size_t j = 0; j < n; j++)
                for (size_t c = h * d; c < (h + 1) * d; c++)
                    out[i * hidden + c] += p[j] / sum * v[j * hidden + c];
        }
    return out;
}

std::vector<double> reference_bert::states(const std::vector<int32_t> &ids) const
{
    std::vector<double> x(ids.size() * hidden), q, k, v, y;
    for (size_t t = 0; t < ids.size(); t++)
        for (size_t c = 0; c < hidden; c++)
            x[t * hidden + c] =
                words[(size_t)ids[t] * hidden + c] + positions[t * hidden + c] + types[c];
    apply(first, x);
    for (const layer &l : stack) {
        apply(l.query, x, q);
        apply(l.key, x, k);
        apply(l.value, x, v);
        apply(l.attention, attend(q, k, v), y);
        for (size_t i = 0; i < x.size(); i++)
            x[i] += y[i];
        apply(l.attention_norm, x);
        apply(l.up, x, q);
        for (double &value : q)
            value = activate(value);
        apply(l.down, q, y);
        for (size_t i = 0; i < x.size(); i++)
            x[i] += y[i];
        apply(l.output_norm, x);
    }
    return x;
}

std::vector<double> reference_bert::embed(const std::vector<int32_t> &ids) const
{
    std::vector<double> x = states(ids), out(hidden, 0);
    double square = 0;
    for (size_t i = 0; i < x.size(); i++)
        out[i % hidden] += x[i] / (double)ids.size();
    for (double value : out)
        square += value * value;
    for (double &value : out)
        value /= std::sqrt(square);
    return out;
}

std::vector<std::vector<double>>
reference_bert::embed_all(const std::vector<std::vector<int32_t>> &ids) const
{
    std::vector<std::vector<double>> all(ids.size());
    std::vector<std::thread> threads;
    std::atomic<size_t> next{0};
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); i++)
        threads.emplace_back([&] {
            for (size_t at = next++; at < ids.size(); at = next++)
                all[at] = embed(ids[at]);
        });
    for (std::thread &thread : threads)
        thread.join();
    return all;
}

double cosine(const float *got, const std::vector<double> &expected)
{
    double product = 0, a = 0, b = 0;
    for (size_t i = 0; i < expected.size(); i++) {
        product += got[i] * expected[i];
        a += (double)got[i] * got[i];
        b += expected[i] * expected[i];
    }
    return product / std::sqrt(a * b);
}

} // namespace gpu_sched_test
