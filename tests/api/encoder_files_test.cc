// SPDX-License-Identifier: Apache-2.0
// The encoder through the whole of the library, on a small model made here: what it takes and
// gives, and what is wrong with its files.
#include <cmath>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "engine/tiny_bert.h"
#include "scheduler.h"
#include "support/folder.h"

using namespace api_test;
using gpu_sched_test::tiny_bert;
using testing::HasSubstr;

namespace
{

// An input that owns its data.
struct Input {
    std::string name;
    uint32_t datatype;
    std::vector<int64_t> shape;
    std::string data;
};

Input texts(const std::vector<std::string> &all)
{
    Input input{"text", LIBSCHED_BYTES, {int64_t(all.size())}, ""};
    for (const std::string &text : all) {
        uint32_t length = uint32_t(text.size());
        input.data.append(reinterpret_cast<const char *>(&length), sizeof(length));
        input.data += text;
    }
    return input;
}

template <class T>
Input integers(const std::string &name, const std::vector<int64_t> &shape,
               const std::vector<T> &values)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "INT32 or INT64");
    return {name, uint32_t(sizeof(T) == 4 ? LIBSCHED_INT32 : LIBSCHED_INT64), shape,
            std::string(reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T))};
}

} // namespace

class EncoderFiles : public ApiTest
{
  protected:
    static int begin_load(Scheduler &s, const std::string &name, const std::string &folder,
                          libsched_error *err, Parameters parameters = {})
    {
        libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
        options.name = name.c_str();
        options.path = folder.c_str();
        options.parameters = parameters.data();
        options.n_parameters = parameters.size();
        return libsched_model_load(s.get(), &options, err);
    }

    static void load(Scheduler &s, const std::string &name, const std::string &folder,
                     Parameters parameters = {})
    {
        libsched_error err{};
        ASSERT_EQ(begin_load(s, name, folder, &err, parameters), LIBSCHED_OK) << err.message;
        s.run_until([&] { return s.model(name).state != LIBSCHED_MODEL_LOADING; });
        ASSERT_EQ(s.model(name).state, uint32_t(LIBSCHED_MODEL_READY))
            << s.model(name).error.message;
    }

    static int submit(Scheduler &s, const std::string &model, const std::vector<Input> &inputs,
                      Parameters parameters, uint64_t *id, libsched_error *err)
    {
        std::vector<libsched_tensor> tensors;
        for (const Input &input : inputs) {
            libsched_tensor t{};
            t.name = input.name.c_str();
            t.datatype = input.datatype;
            t.rank = uint32_t(input.shape.size());
            std::copy(input.shape.begin(), input.shape.end(), t.shape);
            t.data = input.data.data();
            t.size = input.data.size();
            tensors.push_back(t);
        }
        libsched_request request = LIBSCHED_REQUEST_INIT;
        request.model = model.c_str();
        request.inputs = tensors.data();
        request.n_inputs = uint32_t(tensors.size());
        request.parameters = parameters.data();
        request.n_parameters = parameters.size();
        return libsched_submit(s.get(), &request, id, err);
    }

    static uint64_t submit(Scheduler &s, const std::vector<Input> &inputs,
                           Parameters parameters = {}, const std::string &model = "tiny")
    {
        uint64_t id = 0;
        libsched_error err{};
        EXPECT_EQ(submit(s, model, inputs, parameters, &id, &err), LIBSCHED_OK) << err.message;
        return id;
    }

    static Done infer(Scheduler &s, const std::vector<Input> &inputs, Parameters parameters = {})
    {
        return s.end_of(submit(s, inputs, parameters));
    }

    static void refused(Scheduler &s, const std::vector<Input> &inputs, const std::string &why)
    {
        uint64_t id;
        libsched_error err{};
        EXPECT_EQ(submit(s, "tiny", inputs, {}, &id, &err), LIBSCHED_EINVAL) << why;
        EXPECT_THAT(err.message, HasSubstr(why));
    }

    static void ends_with(Scheduler &s, const std::vector<Input> &inputs, int status,
                          const std::string &why, Parameters parameters = {})
    {
        const Done done = infer(s, inputs, parameters);
        EXPECT_EQ(done.status(), status) << done.message;
        EXPECT_THAT(done.message, HasSubstr(why));
    }
};

TEST_P(EncoderFiles, TakesTextsAndTokenIdsOfEitherDatatype)
{
    tiny_bert files;
    files.write();
    Scheduler s(GetParam());
    load(s, "tiny", files.folder);
    // "the cat": the same ids as the tokenizer gives.
    std::string expected = infer(s, {texts({"the cat"})}).outputs.at("embedding").bytes;
    ASSERT_EQ(expected.size(), files.hidden * sizeof(float));
    const std::vector<int32_t> narrow = {2, 57, 58, 3, 0, 0};
    const std::vector<int64_t> wide(narrow.begin(), narrow.end());
    Input mask32 = integers<int32_t>("attention_mask", {1, 6}, {1, 1, 1, 1, 0, 0});
    Input mask64 = integers<int64_t>("attention_mask", {1, 6}, {1, 1, 1, 1, 0, 0});
    for (const Input &ids :
         {integers("input_ids", {1, 6}, narrow), integers("input_ids", {1, 6}, wide)})
        for (const Input &mask : {mask32, mask64}) {
            const Done done = infer(s, {ids, mask});
            ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
            EXPECT_EQ(done.outputs.at("embedding").bytes, expected);
            EXPECT_EQ(done.outputs.at("embedding").shape,
                      (std::vector<int64_t>{1, int64_t(files.hidden)}));
        }
}

TEST_P(EncoderFiles, GivesTokenStatesThatPoolToTheEmbedding)
{
    tiny_bert files;
    files.write();
    Scheduler s(GetParam());
    load(s, "tiny", files.folder);
    const std::vector<std::string> all = {"the cat sat", "", "on the mat!"};
    std::vector<float> embeddings = infer(s, {texts(all)}).outputs.at("embedding").floats();
    const Done done = infer(s, {texts(all)}, Parameters().string("output", "token_states"));
    ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
    std::vector<float> states = done.outputs.at("token_states").floats();
    const Output &lengths = done.outputs.at("lengths");
    ASSERT_EQ(lengths.bytes.size(), 3 * sizeof(int32_t));
    size_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        int32_t length;
        memcpy(&length, lengths.bytes.data() + 4 * i, 4);
        std::vector<double> mean(files.hidden);
        double square = 0;
        for (int32_t t = 0; t < length; t++)
            for (size_t c = 0; c < files.hidden; c++)
                mean[c] += states.at((at + size_t(t)) * files.hidden + c) / length;
        for (double value : mean)
            square += value * value;
        for (size_t c = 0; c < files.hidden; c++)
            EXPECT_NEAR(mean[c] / std::sqrt(square), embeddings.at(i * files.hidden + c), 1e-5);
        at += size_t(length);
    }
    EXPECT_EQ(states.size(), at * files.hidden);
}

TEST_P(EncoderFiles, NamesWhatIsWrongWithARequest)
{
    tiny_bert files;
    files.write();
    Scheduler s(GetParam());
    load(s, "tiny", files.folder);
    Input ids = integers<int32_t>("input_ids", {1, 2}, {2, 3});
    refused(s, {texts({"x"}), {"title", LIBSCHED_BYTES, {0}, ""}},
            "no input is called \"title\", the model takes \"text\", \"input_ids\", "
            "\"attention_mask\"");
    refused(s, {{"input_ids", LIBSCHED_FP32, {1, 2}, std::string(8, '\0')}},
            "\"input_ids\" has datatype FP32, the model takes INT32 or INT64");
    refused(s, {{"text", LIBSCHED_UINT8, {1}, "x"}},
            "\"text\" has datatype UINT8, the model takes BYTES");
    refused(s, {integers<int64_t>("input_ids", {2}, {2, 3})},
            "\"input_ids\" has shape [2], the model takes [-1, -1]");
    ends_with(s, {}, LIBSCHED_EINVAL, "got neither");
    ends_with(s, {texts({"x"}), ids}, LIBSCHED_EINVAL, "got both");
    ends_with(s, {integers<int64_t>("input_ids", {1, 2}, {2, 1000})}, LIBSCHED_EINVAL,
              "id 1000 in row 0, column 1 is not in the vocabulary");
    ends_with(s, {texts({"fine", "\xf0\x28\x8c\x28"})}, LIBSCHED_EINVAL,
              "text 1: the text is not UTF-8 at byte 0");
    ends_with(s, {texts({"x"})}, LIBSCHED_EINVAL, "\"temperature\"",
              Parameters().real("temperature", 0.5));
    EXPECT_EQ(infer(s, {texts({"the cat"})}).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(EncoderFiles, CutsOrRefusesLongTextsAsTheRequestSays)
{
    tiny_bert files;
    files.write();
    Scheduler s(GetParam());
    load(s, "tiny", files.folder, Parameters().integer("max_length", 16));
    std::string text, kept;
    for (int i = 0; i < 200000; i++)
        text += "cat ";
    for (int i = 0; i < 14; i++)
        kept += "cat ";
    std::vector<uint64_t> neighbours;
    for (int i = 0; i < 5; i++)
        neighbours.push_back(submit(s, {texts({"the mat"})}));
    uint64_t strict = submit(s, {texts({"cat", text})}, Parameters().boolean("truncate", false));
    uint64_t cut = submit(s, {texts({text})}, Parameters().boolean("truncate", true));
    uint64_t unsaid = submit(s, {texts({text})});
    EXPECT_EQ(s.end_of(strict).status(), LIBSCHED_ETOOBIG);
    EXPECT_THAT(s.end_of(strict).message, HasSubstr("text 1 has"));
    EXPECT_THAT(s.end_of(strict).message, HasSubstr("the limit is 16"));
    std::string expected = infer(s, {texts({kept})}).outputs.at("embedding").bytes;
    EXPECT_EQ(s.end_of(cut).outputs.at("embedding").bytes, expected);
    EXPECT_EQ(s.end_of(unsaid).outputs.at("embedding").bytes, expected);
    for (uint64_t id : neighbours)
        EXPECT_EQ(s.end_of(id).status(), LIBSCHED_OK);
}

/* ---------------------------------------------------------------------------------- the files */

namespace
{

std::string read(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::string &path, const std::string &content)
{
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

// Replaces the first `from` in a file by as many bytes.
void patch(const std::string &path, const std::string &from, const std::string &to)
{
    std::string content = read(path);
    size_t at = content.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(from.size(), to.size());
    write(path, content.replace(at, from.size(), to));
}

struct Lie {
    const char *what;
    void (*tell)(const std::string &folder);
    const char *message;
};

const Lie weight_lies[] = {
    {"offsets behind the end",
     [](const std::string &folder) {
         std::string path = folder + "/model.safetensors", content = read(path);
         size_t begin = content.rfind("\"data_offsets\":["), end = content.find(']', begin);
         // As many digits, the last of them all nines.
         size_t comma = content.find(',', begin);
         std::string number(end - comma - 1, '9');
         write(path, content.replace(comma + 1, number.size(), number));
     },
     "of data, there are"},
    {"offsets of another tensor",
     [](const std::string &folder) {
         patch(folder + "/model.safetensors", "\"data_offsets\":[0,192]",
               "\"data_offsets\":[9,201]");
     },
     "is not aligned"},
    {"another shape",
     [](const std::string &folder) {
         patch(folder + "/model.safetensors", "\"shape\":[48]", "\"shape\":[84]");
     },
     "not what its shape and dtype take"},
    {"a header longer than the file",
     [](const std::string &folder) {
         std::string path = folder + "/model.safetensors", content = read(path);
         content[5] = '\x7f';
         write(path, content);
     },
     "truncated, or not safetensors"},
    {"data cut short",
     [](const std::string &folder) {
         std::string path = folder + "/model.safetensors";
         std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
     },
     "of data, there are"},
    {"nothing at all", [](const std::string &folder) { write(folder + "/model.safetensors", ""); },
     "too few"},
    {"another number of layers",
     [](const std::string &folder) {
         patch(folder + "/config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
     },
     "has no tensor \"encoder.layer.2"},
    {"a vocabulary that is larger",
     [](const std::string &folder) {
         std::ofstream(folder + "/vocab.txt", std::ios::app) << "onemore\n";
     },
     "vocab_size"},
};

const Lie manifest_lies[] = {
    {"not JSON", [](const std::string &folder) { write(folder + "/gpu_sched.json", "{"); },
     "gpu_sched.json: not JSON"},
    {"a negative limit",
     [](const std::string &folder) {
         write(folder + "/gpu_sched.json", R"({"batch":{"max_units":-1}})");
     },
     "\"max_units\" is -1"},
    {"a key that is none",
     [](const std::string &folder) { write(folder + "/gpu_sched.json", R"({"max_batch":1})"); },
     "unknown key \"max_batch\""},
    {"a number that is none",
     [](const std::string &folder) {
         write(folder + "/gpu_sched.json", R"({"parameters":{"max_length":1e999}})");
     },
     "gpu_sched.json: not JSON"},
    {"a plugin outside",
     [](const std::string &folder) {
         write(folder + "/gpu_sched.json", R"({"library":"../../../../../../../../etc/passwd"})");
     },
     "leads out of the model's folder"},
    {"another type",
     [](const std::string &folder) { patch(folder + "/config.json", "\"bert\"", "\"gpt2\""); },
     "\"model_type\" is \"gpt2\""},
    {"no weights",
     [](const std::string &folder) { std::filesystem::remove(folder + "/model.safetensors"); },
     "there is no model.safetensors"},
    {"no folder", [](const std::string &folder) { std::filesystem::remove_all(folder); },
     "there is no such folder"},
};

} // namespace

// Each lie is told at once or as the model's failure, and costs another model nothing.
TEST_P(EncoderFiles, ThatLieFailTheirModelAlone)
{
    tiny_bert good;
    good.write();
    Scheduler s(GetParam());
    load(s, "tiny", good.folder);
    std::string expected = infer(s, {texts({"the cat"})}).outputs.at("embedding").bytes;
    for (const Lie &lie : weight_lies) {
        tiny_bert bad;
        bad.write();
        lie.tell(bad.folder);
        libsched_error err{};
        ASSERT_EQ(begin_load(s, "bad", bad.folder, &err), LIBSCHED_OK) << lie.what << err.message;
        uint64_t waiting = submit(s, {texts({"the cat"})}, {}, "bad");
        uint64_t other = submit(s, {texts({"the cat"})});
        EXPECT_EQ(s.end_of(waiting).status(), LIBSCHED_EBADMODEL) << lie.what;
        EXPECT_EQ(s.end_of(other).outputs.at("embedding").bytes, expected) << lie.what;
        EXPECT_EQ(s.model("bad").state, uint32_t(LIBSCHED_MODEL_FAILED)) << lie.what;
        EXPECT_EQ(s.model("bad").error.status, LIBSCHED_EBADMODEL) << lie.what;
        EXPECT_THAT(s.model("bad").error.message, HasSubstr(lie.message)) << lie.what;
        EXPECT_THAT(s.end_of(waiting).message, HasSubstr(lie.message)) << lie.what;
    }
    EXPECT_EQ(s.stats().worker_deaths, 0u);
    // One that is right takes the name over.
    load(s, "bad", good.folder);
    EXPECT_EQ(s.end_of(submit(s, {texts({"the cat"})}, {}, "bad")).status(), LIBSCHED_OK);
}

TEST_P(EncoderFiles, ThatCanBeSeenToLieAreRefusedAtOnce)
{
    Scheduler s(GetParam());
    for (const Lie &lie : manifest_lies) {
        tiny_bert bad;
        bad.write();
        lie.tell(bad.folder);
        libsched_error err{};
        EXPECT_EQ(begin_load(s, "bad", bad.folder, &err), LIBSCHED_EBADMODEL) << lie.what;
        EXPECT_THAT(err.message, HasSubstr(lie.message)) << lie.what;
        EXPECT_THAT(err.message, HasSubstr(bad.folder)) << lie.what;
    }
    EXPECT_EQ(libsched_model_count(s.get()), 0u);
}

// A damaged weight is no lie that loading sees: who uses it is told, and nobody else.
TEST_P(EncoderFiles, WithANanAmongTheWeightsAnswerNoNan)
{
    tiny_bert files;
    for (size_t c = 0; c < files.hidden; c++)
        files.tensors["embeddings.word_embeddings.weight"].values[58 * files.hidden + c] = NAN;
    files.write();
    Scheduler s(GetParam());
    load(s, "tiny", files.folder);
    std::vector<uint64_t> good;
    for (int i = 0; i < 4; i++)
        good.push_back(submit(s, {texts({"the mat"})}));
    uint64_t bad = submit(s, {texts({"the mat", "the cat"})});
    for (int i = 0; i < 4; i++)
        good.push_back(submit(s, {texts({"the mat"})}));
    EXPECT_EQ(s.end_of(bad).status(), LIBSCHED_EENGINE);
    EXPECT_THAT(s.end_of(bad).message, HasSubstr("sequence 1 is not finite"));
    for (uint64_t id : good) {
        ASSERT_EQ(s.end_of(id).status(), LIBSCHED_OK) << s.end_of(id).message;
        for (float value : s.end_of(id).outputs.at("embedding").floats())
            ASSERT_TRUE(std::isfinite(value));
    }
}

API_TESTS_FOR_BOTH(EncoderFiles);
