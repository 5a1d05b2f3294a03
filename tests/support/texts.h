/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The texts of tests/data and the token ids that Hugging Face's tokenizers makes of them
 * (tests/engine/make_tokenizer_goldens.py). One JSON object a line: {"text", "ids"}, and "max"
 * where the ids were cut to another length than the model's.
 */
#ifndef TESTS_SUPPORT_TEXTS_H
#define TESTS_SUPPORT_TEXTS_H

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <jansson.h>

#ifndef GPU_SCHED_SOURCE_DIR
#error "GPU_SCHED_SOURCE_DIR has to be the root of the source tree"
#endif

namespace gpu_sched_test
{

struct golden_text {
    std::string text;
    std::vector<int32_t> ids;
    uint32_t max; /* the length it was cut to */
};

/* What texts.jsonl and the small tokenizers' goldens were cut to: MiniLM's max_seq_length. */
constexpr uint32_t golden_length = 256;

/* The lines of a file under tests/data. */
inline std::vector<golden_text> golden_texts(const std::string &name = "texts.jsonl")
{
    std::string path = GPU_SCHED_SOURCE_DIR "/tests/data/" + name;
    std::ifstream in(path);
    if (!in)
        throw std::runtime_error("cannot read " + path);
    std::vector<golden_text> all;
    for (std::string line; std::getline(in, line);) {
        json_t *row = json_loadb(line.data(), line.size(), JSON_ALLOW_NUL, nullptr);
        json_t *text = json_object_get(row, "text");
        json_t *ids = json_object_get(row, "ids");
        if (!json_is_string(text) || !json_is_array(ids))
            throw std::runtime_error("not a golden in " + path + ": " + line);
        golden_text golden = {
            {json_string_value(text), json_string_length(text)}, {}, golden_length};
        for (size_t i = 0; i < json_array_size(ids); i++)
            golden.ids.push_back((int32_t)json_integer_value(json_array_get(ids, i)));
        if (json_t *max = json_object_get(row, "max"))
            golden.max = (uint32_t)json_integer_value(max);
        all.push_back(golden);
        json_decref(row);
    }
    return all;
}

} // namespace gpu_sched_test

#endif
