/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BERT in double precision, in plain loops: what the encoder is held against. It shares nothing
 * with the engine but the reader of safetensors files.
 */
#ifndef TESTS_ENGINE_REFERENCE_BERT_H
#define TESTS_ENGINE_REFERENCE_BERT_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace gpu_sched_test
{

class reference_bert
{
  public:
    /* Reads config.json and model.safetensors of a folder; throws where it can't. */
    explicit reference_bert(const std::string &folder);

    /* The last layer's states: ids.size() rows of hidden. */
    std::vector<double> states(const std::vector<int32_t> &ids) const;
    /* Their mean, divided by its length. */
    std::vector<double> embed(const std::vector<int32_t> &ids) const;
    /* embed() of each, on all cores. */
    std::vector<std::vector<double>> embed_all(const std::vector<std::vector<int32_t>> &ids) const;

    size_t hidden, layers, heads, intermediate;
    double epsilon;
    std::string activation;

  private:
    /* A matrix is kept transposed: [inputs, outputs]. */
    struct linear {
        size_t inputs, outputs;
        std::vector<double> weight, bias;
    };
    struct norm {
        std::vector<double> gain, shift;
    };
    struct layer {
        linear query, key, value, attention, up, down;
        norm attention_norm, output_norm;
    };

    void apply(const linear &l, const std::vector<double> &in, std::vector<double> &out) const;
    void apply(const norm &n, std::vector<double> &rows) const;
    std::vector<double> attend(const std::vector<double> &q, const std::vector<double> &k,
                               const std::vector<double> &v) const;
    double activate(double x) const;

    std::vector<double> words, positions, types;
    norm first;
    std::vector<layer> stack;
};

/* The cosine of the angle between two vectors. */
double cosine(const float *got, const std::vector<double> &expected);

} // namespace gpu_sched_test

#endif
