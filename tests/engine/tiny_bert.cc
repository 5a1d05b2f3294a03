/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tiny_bert.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

namespace gpu_sched_test
{

namespace
{

std::vector<std::string> vocabulary_words()
{
    std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (char c = 'a'; c <= 'z'; c++) {
        words.push_back(std::string(1, c));
        words.push_back(std::string("##") + c);
    }
    for (const char *word : {"the", "cat", "sat", "on", "mat", ".", ",", "!", "##ing", "##ed"})
        words.push_back(word);
    return words;
}

uint16_t to_bf16(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

/* Weights are normal numbers well within FP16's range, or zero, or NaN. */
uint16_t to_fp16(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    int exponent = (int)(bits >> 23 & 0xff) - 127;
    if (std::isnan(value))
        return 0x7e00;
    if (exponent < -14)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)(exponent + 15) << 10 |
                      (bits >> 13 & 0x3ff));
}

} // namespace

tiny_bert::tiny_bert()
{
    std::string name = std::filesystem::temp_directory_path() / "tiny-bert-XXXXXX";
    if (mkdtemp(name.data()) == nullptr)
        throw std::runtime_error("no folder for a model");
    folder = name;

    const int64_t h = (int64_t)hidden, m = (int64_t)intermediate;
    add("embeddings.word_embeddings.weight", {(int64_t)vocabulary(), h}, 1);
    add("embeddings.position_embeddings.weight", {(int64_t)positions, h}, 0.3);
    add("embeddings.token_type_embeddings.weight", {2, h}, 0.1);
    auto add_norm = [&](const std::string &base) {
        add(base + ".weight", {h}, 0.1, 1);
        add(base + ".bias", {h}, 0.1);
    };
    auto add_linear = [&](const std::string &base, int64_t outputs, int64_t inputs) {
        add(base + ".weight", {outputs, inputs}, 1.5 / std::sqrt((double)inputs));
        add(base + ".bias", {outputs}, 0.1);
    };
    add_norm("embeddings.LayerNorm");
    for (size_t i = 0; i < layers; i++) {
        std::string base = "encoder.layer." + std::to_string(i);
        for (const char *part : {"query", "key", "value"})
            add_linear(base + ".attention.self." + part, h, h);
        add_linear(base + ".attention.output.dense", h, h);
        add_norm(base + ".attention.output.LayerNorm");
        add_linear(base + ".intermediate.dense", m, h);
        add_linear(base + ".output.dense", h, m);
        add_norm(base + ".output.LayerNorm");
    }
}

tiny_bert::~tiny_bert()
{
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
}

size_t tiny_bert::vocabulary() const
{
    return vocabulary_words().size();
}

void tiny_bert::add(const std::string &name, const std::vector<int64_t> &shape, double scale,
                    double center)
{
    std::mt19937 random(seed++);
    std::normal_distribution<double> normal(center, scale);
    tensor t = {shape, std::vector<double>(
                           (size_t)libsched_shape_elements(shape.data(), (uint32_t)shape.size()))};
    for (double &value : t.values)
        value = normal(random);
    tensors[name] = t;
}

void tiny_bert::write_weights() const
{
    const size_t element = libsched_datatype_size(datatype);
    std::string header = "{", data;
    for (const auto &[name, t] : tensors) {
        std::string shape;
        for (int64_t n : t.shape)
            shape += (shape.empty() ? "" : ",") + std::to_string(n);
        const char *type = datatype == LIBSCHED_FP16   ? "F16"
                           : datatype == LIBSCHED_BF16 ? "BF16"
                                                       : "F32";
        header += (header.size() > 1 ? ",\"" : "\"") + prefix + name + "\":{\"dtype\":\"" + type +
                  "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(data.size()) +
                  "," + std::to_string(data.size() + t.values.size() * element) + "]}";
        for (double value : t.values) {
            float f = (float)value;
            uint16_t half = datatype == LIBSCHED_FP16 ? to_fp16(value) : to_bf16(value);
            data.append(element == 4 ? (const char *)&f : (const char *)&half, element);
        }
    }
    header += "}";
    while (header.size() % 8 != 0)
        header += ' ';
    uint64_t length = header.size();
    std::ofstream out(folder + "/model.safetensors", std::ios::binary);
    out.write((const char *)&length, sizeof(length));
    out << header << data;
}

void tiny_bert::write() const
{
    std::ofstream(folder + "/config.json")
        << "{\"model_type\": \"bert\", \"hidden_size\": " << hidden
        << ", \"num_hidden_layers\": " << layers << ", \"num_attention_heads\": " << heads
        << ", \"intermediate_size\": " << intermediate << ", \"vocab_size\": " << vocabulary()
        << ", \"max_position_embeddings\": " << positions
        << ", \"type_vocab_size\": 2, \"layer_norm_eps\": 1e-12, \"hidden_act\": \"" << activation
        << "\"}";
    std::ofstream vocab(folder + "/vocab.txt");
    for (const std::string &word : vocabulary_words())
        vocab << word << "\n";
    std::ofstream(folder + "/tokenizer_config.json")
        << "{\"do_lower_case\": true, \"tokenizer_class\": \"BertTokenizer\"}";
    write_weights();
}

} // namespace gpu_sched_test
