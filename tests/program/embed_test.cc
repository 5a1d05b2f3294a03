// SPDX-License-Identifier: Apache-2.0
// Vectors of a file of texts: the same ones however the work is shared, on all devices that ranks
// can be on.
#include <cmath>
#include <filesystem>
#include <tuple>

#include <gmock/gmock.h>

#include "catalog/safetensors.h"
#include "engine/encoder.h"
#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "program/harness.h"
#include "support/folder.h"
#include "support/minilm.h"

using namespace program_test;
using gpu_sched_test::device_case;
using gpu_sched_test::encoder_model;
using gpu_sched_test::text_request;
using testing::HasSubstr;

namespace
{

struct Vectors {
    int64_t n = -1, width = 0;
    std::vector<float> values;
};

Vectors read_vectors(const std::string &path)
{
    safetensors *file = nullptr;
    libsched_error err = {};
    Vectors out;
    EXPECT_EQ(safetensors_open(&file, path.c_str(), &err), LIBSCHED_OK) << err.message;
    const libsched_tensor *t = file != nullptr ? safetensors_find(file, "embeddings") : nullptr;
    EXPECT_NE(t, nullptr);
    if (t != nullptr) {
        EXPECT_EQ(safetensors_count(file), 1u);
        EXPECT_EQ(t->datatype, uint32_t(LIBSCHED_FP32));
        EXPECT_EQ(t->rank, 2u);
        out.n = t->shape[0];
        out.width = t->shape[1];
        const float *data = static_cast<const float *>(t->data);
        out.values.assign(data, data + t->size / sizeof(float));
    }
    safetensors_close(file);
    return out;
}

double largest_difference(const Vectors &a, const Vectors &b)
{
    EXPECT_EQ(a.values.size(), b.values.size());
    double most = a.values.size() == b.values.size() && !a.values.empty() ? 0 : INFINITY;
    for (size_t i = 0; std::isfinite(most) && i < a.values.size(); i++)
        most = std::max(most, std::fabs(double(a.values[i]) - b.values[i]));
    return most;
}

double least_cosine(const Vectors &a, const Vectors &b)
{
    EXPECT_EQ(a.values.size(), b.values.size());
    double least = a.values.size() == b.values.size() ? 1 : -1;
    for (int64_t row = 0; least >= 0 && row < a.n; row++) {
        double ab = 0, aa = 0, bb = 0;
        for (int64_t c = 0; c < a.width; c++) {
            const double x = a.values[size_t(row * a.width + c)];
            const double y = b.values[size_t(row * a.width + c)];
            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        least = std::min(least, ab / std::sqrt(aa * bb));
    }
    return least;
}

class Embed : public testing::TestWithParam<device_case>
{
  protected:
    Embed()
    {
        /* Heads and feed-forward width that two and four devices divide. */
        bert.heads = 4;
        bert.write();
        const char *const words[] = {"the", "cat", "sat", "on", "a", "mat", "!", "x"};
        for (unsigned i = 0; i < 90; i++) {
            std::string text;
            for (unsigned n = i % 11; n > 0; n--)
                text += std::string(words[(i * 5 + n * n) % 8]) + " ";
            texts.push_back(text);
        }
    }
    Parameters parameters(const std::string &output)
    {
        std::string lines;
        for (const std::string &text : texts)
            lines += text + "\n";
        return Parameters({{"model", bert.folder},
                           {"input", folder.write("texts.txt", lines)},
                           {"output", path(output)}})
            .set("batch", 32);
    }
    std::string path(const std::string &name)
    {
        return folder.path() + "/" + name;
    }
    /* All ranks agree on how it went. */
    Outcome run_well(const Parameters &given, uint32_t n_ranks)
    {
        auto outcomes = run("embed", given, n_ranks, UINT64_MAX, GetParam());
        for (const Outcome &o : outcomes) {
            EXPECT_EQ(o.status, LIBSCHED_OK) << o.message;
            EXPECT_EQ(o.steps, outcomes[0].steps);
            EXPECT_EQ(o.numbers, outcomes[0].numbers);
        }
        return outcomes[0];
    }
    std::vector<std::string> files()
    {
        std::vector<std::string> out;
        for (auto &entry : std::filesystem::directory_iterator(folder.path()))
            out.push_back(entry.path().filename());
        return out;
    }
    bool has_bf16()
    {
        const libsched_device_driver *driver = nullptr;
        libsched_device *device = nullptr;
        libsched_error err = {};
        libsched_device_properties info = {};
        info.struct_size = sizeof(info);
        EXPECT_EQ(open_device(GetParam(), 0, &driver, &device, &err), LIBSCHED_OK) << err.message;
        if (device == nullptr)
            return false;
        EXPECT_EQ(driver->info(device, &info, &err), LIBSCHED_OK) << err.message;
        driver->close(device);
        return (info.flags & LIBSCHED_DEVICE_BF16) != 0;
    }

    gpu_sched_test::tiny_bert bert;
    gpu_sched_test::temporary_folder folder;
    std::vector<std::string> texts;
};

TEST_P(Embed, WritesTheVectorsThatAServedModelAnswers)
{
    Outcome o = run_well(parameters("out.safetensors"), 1);
    EXPECT_EQ(o.texts.at("path"), path("out.safetensors"));
    EXPECT_EQ(o.numbers.at("texts"), 90);
    EXPECT_EQ(o.numbers.at("width"), 48);
    EXPECT_GT(o.numbers.at("batches"), 5);
    EXPECT_EQ(o.done, 90u);
    EXPECT_EQ(o.total, 90u);
    EXPECT_FALSE(o.went_back);
    EXPECT_EQ(o.line, "90 of 90 texts");
    EXPECT_GT(o.steps, 1u) << "others have their turn between steps";

    Vectors got = read_vectors(path("out.safetensors"));
    ASSERT_EQ(got.n, 90);
    ASSERT_EQ(got.width, 48);
    encoder_model served(bert.folder);
    ASSERT_EQ(served.status, LIBSCHED_OK) << served.err.message;
    auto answer = served.run({text_request(texts)})[0];
    ASSERT_EQ(answer.status, LIBSCHED_OK) << answer.message;
    for (int64_t row = 0; row < got.n; row++)
        for (int64_t c = 0; c < got.width; c++)
            ASSERT_NEAR(got.values[size_t(row * 48 + c)], answer.row("embedding", size_t(row))[c],
                        1e-5)
                << "row " << row;
    EXPECT_THAT(files(), testing::UnorderedElementsAre("texts.txt", "out.safetensors"));
}

TEST_P(Embed, SharesTheTextsWithoutChangingAVector)
{
    run_well(parameters("one"), 1);
    Vectors one = read_vectors(path("one"));
    for (uint32_t n_ranks : {2, 3}) {
        const std::string name = "data" + std::to_string(n_ranks);
        Outcome o = run_well(parameters(name).set("split", "data"), n_ranks);
        EXPECT_EQ(o.done, o.total);
        EXPECT_EQ(read_vectors(path(name)).values, one.values) << n_ranks << " devices";
    }
}

TEST_P(Embed, SplitsTheLayersWithoutChangingAVector)
{
    run_well(parameters("one"), 1);
    Vectors one = read_vectors(path("one"));
    for (uint32_t n_ranks : {2, 4}) {
        const std::string name = "tensor" + std::to_string(n_ranks);
        Outcome o = run_well(parameters(name).set("split", "tensor"), n_ranks);
        EXPECT_EQ(o.done, o.total);
        EXPECT_LE(largest_difference(read_vectors(path(name)), one), 1e-5) << n_ranks << " devices";
    }
}

TEST_P(Embed, SplitsTheLayersInHalfPrecision)
{
    if (!has_bf16())
        GTEST_SKIP() << "the device does not compute in BF16";
    run_well(parameters("one").set("precision", "bf16"), 1);
    Vectors one = read_vectors(path("one"));
    for (uint32_t n_ranks : {2, 4}) {
        const std::string name = "tensor" + std::to_string(n_ranks);
        run_well(parameters(name).set("split", "tensor").set("precision", "bf16"), n_ranks);
        Vectors got = read_vectors(path(name));
        EXPECT_GE(least_cosine(got, one), 0.9999) << n_ranks << " devices";
    }
}

/* Three of six heads each; the first rank's columns are not those of the second. */
TEST_P(Embed, SplitsAModelWhateverItsActivationAndPooling)
{
    for (const char *activation : {"relu", "gelu_new"}) {
        bert.activation = activation;
        bert.heads = 6;
        bert.datatype = LIBSCHED_FP16;
        bert.prefix = "bert.";
        bert.write();
        std::ofstream(bert.folder + "/gpu_sched.json")
            << "{\"engine\": \"encoder\", \"parameters\": {\"pooling\": \"max\", \"normalize\": "
               "false}}";
        const std::string one = std::string("one-") + activation, two = one + "-split";
        run_well(parameters(one), 1);
        run_well(parameters(two).set("split", "tensor"), 2);
        EXPECT_LE(largest_difference(read_vectors(path(two)), read_vectors(path(one))), 1e-4)
            << activation << ", of values above one";
    }
}

TEST_P(Embed, SplitsARealModel)
{
    GPU_SCHED_NEED_MINILM(minilm);
    texts = {"A cat sits on the mat.", "Stocks fell today.", "", "Grüße aus Köln", "A GPU."};
    run_well(parameters("one").set("model", minilm), 1);
    run_well(parameters("two").set("model", minilm).set("split", "tensor"), 2);
    Vectors one = read_vectors(path("one")), two = read_vectors(path("two"));
    EXPECT_EQ(one.width, 384);
    EXPECT_LE(largest_difference(two, one), 1e-5);
}

TEST_P(Embed, TakesTokenIdsAsWell)
{
    /* [CLS] the cat [SEP] */
    const std::string ids = folder.write("ids.jsonl", "{\"input_ids\": [2, 57, 58, 3]}\n"
                                                      "\n"
                                                      "{\"text\": \"the cat\", \"id\": 7}\n");
    run_well(parameters("out").set("input", ids), 1);
    Vectors got = read_vectors(path("out"));
    ASSERT_EQ(got.n, 2);
    for (size_t c = 0; c < 48; c++)
        EXPECT_NEAR(got.values[c], got.values[48 + c], 1e-6);
}

TEST_P(Embed, SaysWhichLineIsWrongAndLeavesNothing)
{
    const std::string input = folder.write(
        "ids.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n\n{\"input_ids\": [2, 4000, 3]}\n");
    for (const char *split : {"data", "tensor"}) {
        auto outcomes =
            run("embed", parameters("out").set("input", input).set("split", split).set("batch", 1),
                2, UINT64_MAX, GetParam());
        int told = 0;
        for (const Outcome &o : outcomes) {
            EXPECT_LT(o.status, 0);
            told += o.status == LIBSCHED_EINVAL &&
                    o.message.find("ids.jsonl, line 4: id 4000") != std::string::npos;
        }
        EXPECT_GE(told, 1) << outcomes[0].message << "\n" << outcomes[1].message;
        EXPECT_THAT(files(), testing::UnorderedElementsAre("texts.txt", "ids.jsonl"));
    }
}

TEST_P(Embed, EndsBetweenBatchesWhenItIsCancelled)
{
    for (const char *split : {"data", "tensor"}) {
        auto outcomes =
            run("embed", parameters("out").set("split", split).set("batch", 1), 2, 2, GetParam());
        for (const Outcome &o : outcomes)
            EXPECT_EQ(o.status, LIBSCHED_ECANCELED) << o.message;
        EXPECT_GE(outcomes[0].done, 1u);
        EXPECT_LT(outcomes[0].done, 90u);
        EXPECT_THAT(files(), testing::ElementsAre("texts.txt"));
    }
}

INSTANTIATE_TEST_SUITE_P(Devices, Embed, testing::ValuesIn(gpu_sched_test::gang_devices()),
                         gpu_sched_test::device_case_name);

/* ---------------------------------------------------------------------- without ranks */

class EmbedCheck : public testing::Test
{
  protected:
    EmbedCheck()
    {
        bert.heads = 4;
        bert.write();
    }
    Parameters parameters(const std::string &content = "a\nb\n", const char *name = "in.txt")
    {
        return Parameters({{"model", bert.folder},
                           {"input", folder.write(name, content)},
                           {"output", folder.path() + "/out"}});
    }

    gpu_sched_test::tiny_bert bert;
    gpu_sched_test::temporary_folder folder;
};

TEST_F(EmbedCheck, SaysWhatItWillDo)
{
    Checked fine = check("embed", parameters());
    EXPECT_EQ(fine.status, LIBSCHED_OK) << fine.message;
    EXPECT_EQ(fine.message, "2 texts, 48 components");
    EXPECT_GT(fine.memory_bytes, std::filesystem::file_size(bert.folder + "/model.safetensors"));
    EXPECT_EQ(check("embed", parameters("a"), 2).message, "1 text, 48 components, over 2 devices");
    Checked split = check("embed", parameters().set("split", "tensor"), 4);
    EXPECT_EQ(split.message, "2 texts, 48 components, each by 4 devices");
    EXPECT_LT(split.memory_bytes, fine.memory_bytes);
}

TEST_F(EmbedCheck, TakesTheMemoryThatItSaid)
{
    for (const gpu_sched_test::device_case &on : gpu_sched_test::gang_devices()) {
        if (on.driver == "cpu" || on.n_devices < 2)
            continue; /* they share their memory with others */
        for (const char *precision : {"f32", "bf16"}) {
            for (const char *split : {"data", "tensor"}) {
                const std::string out = folder.path() + "/" + on.name + precision + split;
                const Parameters given =
                    parameters().set("precision", precision).set("split", split).set("output", out);
                const Checked said = check("embed", given, 2);
                const double least = std::string(precision) == "f32" ? 0.9 : 0.5;
                for (const Outcome &rank : run("embed", given, 2, UINT64_MAX, on)) {
                    ASSERT_EQ(rank.status, LIBSCHED_OK) << rank.message;
                    EXPECT_LE(rank.memory, said.memory_bytes) << out;
                    EXPECT_GT(double(rank.memory), least * double(said.memory_bytes)) << out;
                }
            }
        }
    }
}

TEST_F(EmbedCheck, RefusesWhatIsWrong)
{
    const Parameters fine = parameters();
    const std::vector<std::pair<Parameters, const char *>> wrong = {
        {Parameters({{"input", "/i"}, {"output", "/o"}}), "\"model\" is missing"},
        {Parameters(fine).set("model", "/no/such"), "\"model\": /no/such"},
        {Parameters(fine).set("model", folder.path()), "not a model"},
        {Parameters(fine).set("input", "/no/such"), "\"input\""},
        {Parameters(fine).set("input", folder.path()), "\"input\""},
        {Parameters(fine).set("output", bert.folder + "/vocab.txt"), "is there already"},
        {Parameters(fine).set("output", "/no/such/file"), "not a folder that can be written to"},
        {Parameters(fine).set("split", "rows"),
         "\"split\" has to be \"data\" or \"tensor\", got \"rows\""},
        {Parameters(fine).set("precision", 16),
         "\"precision\" has to be \"f32\", \"bf16\" or \"auto\", got \"no string\""},
        {Parameters(fine).set("batch", 0), "\"batch\" has to be from 1"},
        {Parameters(fine).set("batches", 1), "unknown parameter \"batches\""},
        {parameters("", "none.txt"), "none.txt has no texts"},
        {parameters("\n \n", "none.jsonl"), "none.jsonl has no texts"},
        {parameters("{\"text\": 1}", "a.jsonl"), "a.jsonl, line 1: \"text\" is not a string"},
        {parameters("\n{\"ids\": []}", "b.jsonl"), "b.jsonl, line 2: either \"text\" or"},
        {parameters("{\"text\": \"a\", \"input_ids\": [2]}", "c.jsonl"), "line 1: either"},
        {parameters("{\"input_ids\": []}", "d.jsonl"), "\"input_ids\" is empty"},
        {parameters("{\"input_ids\": 2}", "e.jsonl"), "\"input_ids\" is not a list"},
        {parameters("{\"input_ids\": [2, -1]}", "f.jsonl"), "a list of token ids"},
        {parameters("{\"input_ids\": [2, 1.5]}", "g.jsonl"), "a list of token ids"},
        {parameters("{\"input_ids\": [4294967298]}", "h.jsonl"), "a list of token ids"},
        {parameters("{\"text\": \"a\"\n", "i.jsonl"), "i.jsonl, line 1"},
    };
    for (auto &[given, reason] : wrong) {
        Checked got = check("embed", given);
        EXPECT_EQ(got.status, LIBSCHED_EINVAL) << reason;
        EXPECT_THAT(got.message, HasSubstr(reason));
    }
}

TEST_F(EmbedCheck, SaysTheNumbersThatDoNotGoTogether)
{
    for (uint32_t n_ranks : {3, 5, 8}) {
        Checked got = check("embed", parameters().set("split", "tensor"), n_ranks);
        EXPECT_EQ(got.status, LIBSCHED_EINVAL);
        EXPECT_THAT(got.message, HasSubstr("a model of 4 heads and a feed-forward width of 80 "
                                           "can't be split over " +
                                           std::to_string(n_ranks) + " devices"));
        EXPECT_EQ(check("embed", parameters(), n_ranks).status, LIBSCHED_OK)
            << "each has the whole of it";
    }
}

/* A plain file's line is a text, whatever is in it. */
TEST_F(EmbedCheck, CountsEveryLineOfAPlainFile)
{
    EXPECT_EQ(check("embed", parameters("\n\na\r\n{\"text\": 1}")).message,
              "4 texts, 48 components");
}

TEST_F(EmbedCheck, HoldsOnlyItsShareOfTheLayers)
{
    const libsched_device_driver *driver = nullptr;
    libsched_device *device = nullptr;
    libsched_error err = {};
    ASSERT_EQ(open_device(gpu_sched_test::cpu_case, 0, &driver, &device, &err), LIBSCHED_OK);
    auto bytes = [&](uint32_t rank, uint32_t n_ranks) {
        libsched_engine_open_args args = {};
        args.struct_size = sizeof(args);
        args.name = "test";
        args.path = bert.folder.c_str();
        args.device = device;
        args.threads = 1;
        const encoder_split split = {rank, n_ranks, nullptr};
        libsched_engine_model *model = nullptr;
        libsched_engine_description description = {};
        EXPECT_EQ(encoder_open_split(&model, &args, &split, &err), LIBSCHED_OK) << err.message;
        if (model == nullptr)
            return 0.0;
        EXPECT_EQ(engine_encoder()->describe(model, &description, &err), LIBSCHED_OK);
        engine_encoder()->close(model);
        return double(description.memory_bytes);
    };
    const double whole = bytes(0, 1), half = bytes(0, 2), quarter = bytes(0, 4);
    EXPECT_LT(half, whole);
    /* What halves is halved again; the rest, which each has whole, stays. */
    EXPECT_EQ(whole - half, 2 * (half - quarter));
    EXPECT_LT(bytes(3, 4), quarter) << "rank 0 has the biases that are added once";
    driver->close(device);
}

} // namespace
