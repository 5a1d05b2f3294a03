/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A BERT of two small layers with random weights, written as a folder in Hugging Face layout: the
 * encoder's tests run on it where no real model is there, and on what is made wrong with it.
 */
#ifndef TESTS_ENGINE_TINY_BERT_H
#define TESTS_ENGINE_TINY_BERT_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <libsched/tensor.h>

namespace gpu_sched_test
{

class tiny_bert
{
  public:
    struct tensor {
        std::vector<int64_t> shape;
        std::vector<double> values;
    };

    tiny_bert();
    ~tiny_bert();
    tiny_bert(const tiny_bert &) = delete;
    tiny_bert &operator=(const tiny_bert &) = delete;

    size_t hidden = 48, layers = 2, heads = 3, intermediate = 80, positions = 64;
    std::string activation = "gelu";
    std::string prefix;
    uint32_t datatype = LIBSCHED_FP32; /* of the file: FP32, FP16 or BF16 */
    std::map<std::string, tensor> tensors;
    std::string folder; /* removed with the object */

    /* Writes all files. */
    void write() const;
    size_t vocabulary() const;

  private:
    void add(const std::string &name, const std::vector<int64_t> &shape, double scale,
             double center = 0);
    void write_weights() const;
    uint32_t seed = 1;
};

} // namespace gpu_sched_test

#endif
