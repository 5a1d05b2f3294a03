// SPDX-License-Identifier: Apache-2.0
// Training from the data to the model that is served, with a small encoder of random weights: what
// a text is about can be told from its words all the same.
#include <filesystem>
#include <random>

#include <gmock/gmock.h>

#include "catalog/safetensors.h"
#include "engine/encoder_harness.h"
#include "engine/tiny_bert.h"
#include "program/harness.h"
#include "support/folder.h"
#include "support/minilm.h"

using namespace program_test;
using gpu_sched_test::encoder_model;
using gpu_sched_test::text_request;
using testing::HasSubstr;

namespace
{

class Train : public testing::Test
{
  protected:
    Train()
    {
        bert.write();
        std::mt19937 random(5);
        const char *const animals[] = {"cat", "sat", "mat"}, *const letters[] = {"x", "q", "z"};
        for (int i = 0; i < 150; i++) {
            const char *const *words = i % 2 == 0 ? animals : letters;
            std::string text;
            for (unsigned n = 2 + random() % 6; n > 0; n--)
                text += std::string(words[random() % 3]) + " ";
            data += "{\"text\": \"" + text + "\", \"label\": \"" +
                    (i % 2 == 0 ? "animal" : "letter") + "\"}\n";
        }
    }
    Parameters parameters(const std::string &out)
    {
        return Parameters({{"model", bert.folder},
                           {"data", folder.write("data.jsonl", data)},
                           {"out", path(out)}})
            .set("epochs", 5);
    }
    std::string path(const std::string &name)
    {
        return folder.path() + "/" + name;
    }
    std::vector<float> weights(const std::string &out)
    {
        safetensors *file = nullptr;
        libsched_error err = {};
        std::vector<float> values;
        EXPECT_EQ(safetensors_open(&file, (path(out) + "/head.safetensors").c_str(), &err), 0)
            << err.message;
        for (const char *name : {"weight", "bias"}) {
            const libsched_tensor *t = file != nullptr ? safetensors_find(file, name) : nullptr;
            if (t == nullptr)
                continue;
            const float *data_ = static_cast<const float *>(t->data);
            values.insert(values.end(), data_, data_ + t->size / sizeof(float));
        }
        safetensors_close(file);
        return values;
    }

    gpu_sched_test::tiny_bert bert;
    gpu_sched_test::temporary_folder folder;
    std::string data;
};

TEST_F(Train, ChecksItsParameters)
{
    Checked fine = check("train", parameters("out"));
    EXPECT_EQ(fine.status, LIBSCHED_OK) << fine.message;
    EXPECT_EQ(fine.message, "150 examples of 2 classes, 48 components, 5 epochs");
    EXPECT_GT(fine.memory_bytes, std::filesystem::file_size(bert.folder + "/model.safetensors"));
    const std::vector<std::pair<Parameters, const char *>> wrong = {
        {Parameters({{"data", "/d"}, {"out", "/o"}}), "\"model\" is missing"},
        {parameters("out").set("model", "relative"), "has to be an absolute path"},
        {parameters("out").set("model", 1), "has to be an absolute path"},
        {parameters("out").set("model", "/no/such"), "\"model\": /no/such"},
        {parameters("out").set("model", folder.path()), "not a model"},
        {parameters("out").set("data", "/no/such"), "\"data\""},
        {parameters("out").set("out", bert.folder), "is there already"},
        {parameters("out").set("out", "/no/such/folder"), "not a folder that can be written to"},
        {parameters("out").set("out", bert.folder + "/"), "the path of a new folder"},
        {parameters("out").set("out", "/" + std::string(5000, 'o')), "the path of a new folder"},
        {parameters("out").set("epochs", 0), "\"epochs\""},
        {parameters("out").set("batch", 1 << 20), "\"batch\""},
        {parameters("out").set("learning_rate", -1.0), "\"learning_rate\""},
        {parameters("out").set("seed", -1), "\"seed\""},
        {parameters("out").set("rate", 1), "unknown parameter \"rate\""},
    };
    for (auto &[given, reason] : wrong) {
        Checked got = check("train", given);
        EXPECT_EQ(got.status, LIBSCHED_EINVAL) << reason;
        EXPECT_THAT(got.message, HasSubstr(reason));
    }
    /* A folder of another engine. */
    folder.write("synthetic/gpu_sched.json", "{\"engine\": \"synthetic\"}");
    Checked other = check("train", parameters("out").set("model", path("synthetic")));
    EXPECT_EQ(other.status, LIBSCHED_EINVAL);
    EXPECT_THAT(other.message, HasSubstr("engine \"synthetic\" is not the encoder"));
}

/* What it says that it needs is what it takes, on a device that tells: no less, and little more. */
TEST_F(Train, TakesTheMemoryThatItSaid)
{
    for (const gpu_sched_test::device_case &on : gpu_sched_test::gang_devices()) {
        if (on.driver == "cpu" || on.n_devices < 2)
            continue; /* they share their memory with others */
        for (uint32_t n_ranks : {1, 2}) {
            const std::string out = on.name + std::to_string(n_ranks);
            const Checked said = check("train", parameters(out), n_ranks);
            for (const Outcome &rank : run("train", parameters(out), n_ranks, UINT64_MAX, on)) {
                ASSERT_EQ(rank.status, LIBSCHED_OK) << rank.message;
                EXPECT_LE(rank.memory, said.memory_bytes) << on.name;
                /* In BF16 it takes less than in FP32, which it might have been. */
                EXPECT_GT(rank.memory, said.memory_bytes / 2) << on.name;
            }
        }
    }
}

TEST_F(Train, WritesAModelThatKnowsWhatItLearnt)
{
    Outcome o = run("train", parameters("out"))[0];
    ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
    EXPECT_EQ(o.texts.at("path"), path("out"));
    EXPECT_EQ(o.numbers.at("examples"), 150);
    EXPECT_EQ(o.numbers.at("classes"), 2);
    EXPECT_EQ(o.numbers.at("batches"), 5 * 5);
    EXPECT_GT(o.numbers.at("accuracy"), 0.95);
    EXPECT_LT(o.numbers.at("loss"), 0.3);
    EXPECT_EQ(o.done, o.total);
    EXPECT_EQ(o.total, 150u * 6);
    EXPECT_FALSE(o.went_back);
    EXPECT_THAT(o.line, HasSubstr("epoch 5 of 5: loss 0."));

    encoder_model served(path("out"));
    ASSERT_EQ(served.status, LIBSCHED_OK) << served.err.message;
    auto answers = served.run({text_request({"cat mat sat", "z x q", "mat"})});
    ASSERT_EQ(answers[0].status, LIBSCHED_OK) << answers[0].message;
    EXPECT_EQ(answers[0].outputs.at("label").data,
              gpu_sched_test::bytes_tensor({"animal", "letter", "animal"}).data);
    EXPECT_GT(answers[0].row("scores", 0)[0], 0.8f);
    EXPECT_GT(answers[0].row("scores", 1)[1], 0.8f);
    /* It can be trained further: then it is its embeddings that count. */
    Outcome again = run("train", parameters("again").set("model", path("out")))[0];
    EXPECT_EQ(again.status, LIBSCHED_OK) << again.message;
    EXPECT_EQ(weights("out"), weights("again"));
}

/* A real encoder knows words that were not in the examples. */
TEST_F(Train, LearnsFromAFewSentencesWithARealEncoder)
{
    GPU_SCHED_NEED_MINILM(minilm);
    data.clear();
    for (const char *text :
         {"The cat sleeps on the sofa.", "Dogs love long walks.", "A horse gallops over the field.",
          "The parrot talks all day.", "Our goldfish needs a larger tank.", "Cows graze in June."})
        data += "{\"text\": \"" + std::string(text) + "\", \"label\": \"animals\"}\n";
    for (const char *text :
         {"The central bank raised interest rates.", "Shares fell by three percent.",
          "She opened a savings account.", "Inflation is higher than expected.",
          "The company reported record profits.", "He pays back his loan every month."})
        data += "{\"text\": \"" + std::string(text) + "\", \"label\": \"money\"}\n";
    Outcome o = run("train", parameters("out").set("model", minilm).set("batch", 4))[0];
    ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
    encoder_model served(path("out"));
    ASSERT_EQ(served.status, LIBSCHED_OK) << served.err.message;
    auto answer = served.run(
        {text_request({"A rabbit hides in its burrow.", "The mortgage was too expensive.",
                       "Elephants never forget.", "Bonds and stocks went up."})})[0];
    EXPECT_EQ(answer.outputs.at("label").data,
              gpu_sched_test::bytes_tensor({"animals", "money", "animals", "money"}).data);
}

TEST_F(Train, GivesTheSameWeightsOnAnyNumberOfDevices)
{
    for (uint32_t n_ranks : {1, 2, 3, 6}) {
        auto outcomes = run("train", parameters("out" + std::to_string(n_ranks)), n_ranks);
        for (const Outcome &o : outcomes) {
            ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
            EXPECT_EQ(o.steps, outcomes[0].steps);
            EXPECT_EQ(o.numbers, outcomes[0].numbers);
        }
    }
    std::vector<float> one = weights("out1");
    ASSERT_EQ(one.size(), 2u * 49);
    for (const char *other : {"out2", "out3", "out6"}) {
        std::vector<float> got = weights(other);
        ASSERT_EQ(got.size(), one.size());
        for (size_t i = 0; i < one.size(); i++)
            EXPECT_NEAR(one[i], got[i], 1e-6) << other;
        EXPECT_EQ(one, got) << "not by a bit, on devices of one kind";
    }
}

TEST_F(Train, DependsOnItsSeed)
{
    for (const char *out : {"first", "second"})
        ASSERT_EQ(run("train", parameters(out).set("seed", 3))[0].status, LIBSCHED_OK);
    ASSERT_EQ(run("train", parameters("third").set("seed", 4))[0].status, LIBSCHED_OK);
    EXPECT_EQ(weights("first"), weights("second"));
    EXPECT_NE(weights("first"), weights("third"));
}

TEST_F(Train, KeepsTheEncodersParameters)
{
    std::ofstream(bert.folder + "/gpu_sched.json")
        << "{\"engine\": \"encoder\", \"parameters\": {\"pooling\": \"cls\", \"max_length\": 12, "
           "\"normalize\": false}, \"queue_limit\": 3}";
    std::filesystem::create_directory(bert.folder + "/1_Pooling");
    std::ofstream(bert.folder + "/1_Pooling/config.json")
        << "{\"word_embedding_dimension\": 48, \"pooling_mode_cls_token\": false, "
           "\"pooling_mode_mean_tokens\": true}";
    std::ofstream(bert.folder + "/modules.json")
        << "[{\"idx\": 0, \"name\": \"0\", \"path\": \"\", \"type\": "
           "\"sentence_transformers.models.Transformer\"}, {\"idx\": 1, \"name\": \"1\", \"path\": "
           "\"1_Pooling\", \"type\": \"sentence_transformers.models.Pooling\"}]";
    Outcome o = run("train", parameters("out"))[0];
    ASSERT_EQ(o.status, LIBSCHED_OK) << o.message;
    encoder_model served(path("out"));
    ASSERT_EQ(served.status, LIBSCHED_OK) << served.err.message;
    EXPECT_TRUE(std::filesystem::exists(path("out") + "/1_Pooling/config.json"));
    std::ifstream manifest(path("out") + "/gpu_sched.json");
    std::string text((std::istreambuf_iterator<char>(manifest)), {});
    EXPECT_THAT(text, HasSubstr("\"pooling\": \"cls\""));
    EXPECT_THAT(text, HasSubstr("\"max_length\": 12"));
    EXPECT_THAT(text, HasSubstr("\"normalize\": false"));
}

TEST_F(Train, LeavesNothingWhereItCannotWrite)
{
    /* Somebody else made the folder meanwhile. */
    Parameters given = parameters("out");
    std::filesystem::create_directory(path("out"));
    std::ofstream(path("out") + "/file") << "x";
    Outcome o = run("train", given)[0];
    EXPECT_LT(o.status, 0);
    EXPECT_THAT(o.message, HasSubstr("is there already"));
    size_t files = 0;
    for ([[maybe_unused]] auto &entry : std::filesystem::directory_iterator(folder.path()))
        files++;
    EXPECT_EQ(files, 2u) << "the data and the other's folder";
}

TEST_F(Train, SaysThatItsWeightsGrewBeyondAllBounds)
{
    Outcome o = run("train", parameters("out").set("learning_rate", 1e6).set("epochs", 1))[0];
    EXPECT_EQ(o.status, LIBSCHED_OK) << "large, but finite";
}

} // namespace
