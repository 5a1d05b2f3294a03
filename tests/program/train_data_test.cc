// SPDX-License-Identifier: Apache-2.0
// The files that a classifier is trained on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "program/train_data.h"
#include "support/folder.h"

using testing::HasSubstr;

namespace
{

struct Data {
    gpu_sched_test::temporary_folder folder;
    train_data raw = {};
    libsched_error err = {};
    int status;

    explicit Data(const std::string &content)
    {
        status = train_data_read(&raw, folder.write("data.jsonl", content).c_str(), &err);
    }
    ~Data()
    {
        train_data_free(&raw);
    }
    std::string text(uint32_t i) const
    {
        return std::string(raw.examples[i].text, raw.examples[i].length);
    }
    std::string label(uint32_t i) const
    {
        const encoder_label &l = raw.classes[raw.examples[i].label];
        return std::string(l.text, l.length);
    }
};

TEST(TrainData, IsReadLineByLine)
{
    Data d("{\"text\": \"grüße\", \"label\": \"b\", \"more\": [1, 2]}\n"
           "\n  \r\n"
           "{\"label\": \"a\", \"text\": \"\"}\r\n"
           "{\"text\": \"c\", \"label\": 7}\n"
           "{\"text\": \"last\", \"label\": \"b\"}");
    ASSERT_EQ(d.status, LIBSCHED_OK) << d.err.message;
    ASSERT_EQ(d.raw.n, 4u);
    ASSERT_EQ(d.raw.n_classes, 3u);
    EXPECT_EQ(d.text(0), "grüße");
    EXPECT_EQ(d.text(1), "");
    EXPECT_EQ(d.text(3), "last");
    EXPECT_EQ(d.label(0), "b");
    EXPECT_EQ(d.label(1), "a");
    EXPECT_EQ(d.label(2), "7");
    EXPECT_EQ(d.label(3), "b");
    EXPECT_EQ(d.raw.examples[2].label, 0u) << "in the order of their bytes";
    EXPECT_EQ(d.raw.examples[0].label, 2u);
}

TEST(TrainData, ThatIsWrongIsRefusedWithItsLine)
{
    const std::string good = "{\"text\": \"x\", \"label\": \"a\"}\n";
    const std::vector<std::pair<std::string, std::string>> wrong = {
        {"", "0 examples with 0 different labels: 2 to 1024 are needed"},
        {good + good, "2 examples with 1 different labels"},
        {good + "{\"text\": 1, \"label\": \"a\"}", "line 2: \"text\" is missing or not a string"},
        {good + "{\"label\": \"a\"}", "line 2: \"text\" is missing"},
        {good + "\n{\"text\": \"x\"}", "line 3: \"label\" is missing"},
        {good + "{\"text\": \"x\", \"label\": 1.5}", "neither a string nor an integer"},
        {good + "{\"text\": \"x\", \"label\": \"\"}", "1 to 256 bytes"},
        {good + "[1]", "line 2: expected an object"},
        {good + "{\"text\": \"x", "line 2: not JSON"},
        {good + "{\"text\": \"\xff\", \"label\": \"a\"}", "line 2: not JSON"},
        {good + "{\"text\": \"\\u0000\", \"label\": \"a\"}", "line 2: not JSON"},
        {std::string(300, '['), "line 1: nested deeper"},
    };
    for (auto &[content, reason] : wrong) {
        Data d(content);
        EXPECT_EQ(d.status, LIBSCHED_EINVAL) << reason;
        EXPECT_THAT(d.err.message, HasSubstr(reason));
        EXPECT_THAT(d.err.message, HasSubstr("data.jsonl"));
    }
    std::string many;
    for (int i = 0; i < 1025; i++)
        many += "{\"text\": \"x\", \"label\": " + std::to_string(i) + "}\n";
    EXPECT_THAT(Data(many).err.message, HasSubstr("1025 different labels"));
}

TEST(TrainData, ThatIsNotThereIsRefused)
{
    train_data data;
    libsched_error err = {};
    EXPECT_EQ(train_data_read(&data, "/no/such/file", &err), LIBSCHED_EINVAL);
    EXPECT_EQ(train_data_read(&data, "/", &err), LIBSCHED_EINVAL);
    EXPECT_EQ(train_data_read(&data, "/dev/null", &err), LIBSCHED_EINVAL) << err.message;
}

} // namespace
