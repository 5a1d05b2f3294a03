/* SPDX-License-Identifier: Apache-2.0 */
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "catalog/encoder_config.h"
#include "support/folder.h"
#include "support/minilm.h"

using gpu_sched_test::temporary_folder;
using testing::HasSubstr;

namespace
{

const char complete[] = R"({"model_type":"bert","num_hidden_layers":2,"hidden_size":32,
    "num_attention_heads":4,"intermediate_size":64,"vocab_size":100,
    "max_position_embeddings":40,"type_vocab_size":2,"layer_norm_eps":1e-7})";

/* `text` with the first `from` made `to`. */
std::string with(std::string text, const std::string &from, const std::string &to)
{
    size_t at = text.find(from);
    if (at == std::string::npos)
        throw std::invalid_argument(from);
    return text.replace(at, from.size(), to);
}

/* `text` with one more key. */
std::string plus(const std::string &text, const std::string &member)
{
    return with(text, "{", "{" + member + ",");
}

const std::string transformer = R"({"path":"","type":"sentence_transformers.models.Transformer"})";
const std::string pooling = R"({"path":"1_Pooling","type":"sentence_transformers.models.Pooling"})";
const std::string normalize =
    R"({"path":"2_Normalize","type":"sentence_transformers.models.Normalize"})";

class EncoderConfig : public testing::Test
{
  protected:
    int load(const std::string &content = complete)
    {
        folder.write("config.json", content);
        return encoder_config_load(&config, folder.path().c_str(), &err);
    }

    void refused(const std::string &content, const std::string &why)
    {
        EXPECT_EQ(load(content), LIBSCHED_EBADMODEL) << why;
        EXPECT_THAT(err.message, HasSubstr(why));
    }

    temporary_folder folder;
    struct encoder_config config = {};
    libsched_error err = {};
};

TEST_F(EncoderConfig, ReadsTheTransformer)
{
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.layers, 2u);
    EXPECT_EQ(config.hidden, 32u);
    EXPECT_EQ(config.heads, 4u);
    EXPECT_EQ(config.intermediate, 64u);
    EXPECT_EQ(config.vocabulary, 100u);
    EXPECT_EQ(config.positions, 40u);
    EXPECT_EQ(config.token_types, 2u);
    EXPECT_EQ(config.layer_norm_eps, 1e-7);
    EXPECT_EQ(config.activation, ENCODER_GELU);
}

TEST_F(EncoderConfig, HasDefaultsWithoutSentenceTransformers)
{
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.pooling, ENCODER_POOL_MEAN);
    EXPECT_TRUE(config.normalize);
    EXPECT_EQ(config.max_tokens, 40u);
    EXPECT_FALSE(config.do_lower_case);
    ASSERT_EQ(load(with(complete, ":40", ":4000")), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.max_tokens, 512u);
}

TEST_F(EncoderConfig, NamesActivations)
{
    ASSERT_EQ(load(plus(complete, R"("hidden_act":"relu")")), LIBSCHED_OK);
    EXPECT_EQ(config.activation, ENCODER_RELU);
    ASSERT_EQ(load(plus(complete, R"("hidden_act":"gelu_new")")), LIBSCHED_OK);
    EXPECT_EQ(config.activation, ENCODER_GELU_TANH);
    ASSERT_EQ(load(plus(complete, R"("hidden_act":"gelu_pytorch_tanh")")), LIBSCHED_OK);
    EXPECT_EQ(config.activation, ENCODER_GELU_TANH);
    refused(plus(complete, R"("hidden_act":"silu")"), "config.json: \"hidden_act\" is \"silu\"");
}

TEST_F(EncoderConfig, ChecksEveryNumber)
{
    for (const char *key :
         {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
          "vocab_size", "max_position_embeddings", "type_vocab_size"}) {
        std::string renamed = with(complete, key, std::string("no_") + key);
        std::string quoted = std::string("config.json: \"") + key + "\"";
        refused(renamed, quoted + " is missing");
        for (const char *value : {"0", "-1", "1000000000", "9223372036854775807"})
            refused(plus(renamed, std::string("\"") + key + "\":" + value),
                    quoted + " is " + value);
        refused(plus(renamed, std::string("\"") + key + "\":\"2\""), quoted + " is a string");
        refused(plus(renamed, std::string("\"") + key + "\":2.0"), quoted);
    }
    refused(with(complete, ":32", ":30"), "\"hidden_size\" 30 is not a multiple of");
    refused(with(complete, "1e-7", "0"), "\"layer_norm_eps\" is 0");
    refused(with(complete, "1e-7", "-1e-7"), "\"layer_norm_eps\"");
}

TEST_F(EncoderConfig, RefusesVariantsItWouldComputeWrongly)
{
    refused(with(complete, "\"bert\"", "\"roberta\""), "\"model_type\" is \"roberta\"");
    refused(plus(complete, R"("position_embedding_type":"relative_key")"), "relative_key");
    refused(plus(complete, R"("is_decoder":true)"), "\"is_decoder\" is true");
    refused(plus(complete, R"("add_cross_attention":true)"), "\"add_cross_attention\" is true");
}

TEST_F(EncoderConfig, ReadsModules)
{
    folder.write("modules.json", "[" + transformer + "," + pooling + "]");
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_FALSE(config.normalize);
    EXPECT_EQ(config.pooling, ENCODER_POOL_MEAN);

    folder.write("1_Pooling/config.json", R"({"word_embedding_dimension":32,
        "pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false})");
    folder.write("modules.json", "[" + transformer + "," + pooling + "," + normalize + "]");
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_TRUE(config.normalize);
    EXPECT_EQ(config.pooling, ENCODER_POOL_CLS);

    folder.write("modules.json", "[" + transformer + "," + normalize + "," +
                                     with(pooling, "1_Pooling", "5_Pooling") + "]");
    folder.write("5_Pooling/config.json", R"({"pooling_mode_max_tokens":true})");
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.pooling, ENCODER_POOL_MAX);
}

TEST_F(EncoderConfig, RefusesModulesItDoesNotRun)
{
    auto modules = [this](const std::string &list, const std::string &why) {
        folder.write("modules.json", list);
        refused(complete, why);
    };
    modules("{}", "modules.json: expected an array");
    modules("[1]", "module 0 has no \"type\"");
    modules("[" + transformer + "," + with(pooling, ".Pooling", ".Dense") + "]",
            "module 1 is a \"Dense\"");
    modules("[" + with(transformer, "\"path\":\"\"", "\"path\":\"0_Transformer\"") + "]",
            "\"0_Transformer\"");
    modules("[" + pooling + "," + transformer + "]", "has to be the first module");
    modules("[" + transformer + "," + with(pooling, "1_Pooling", "../../etc") + "]",
            "expected a folder's name");
}

TEST_F(EncoderConfig, RefusesPoolingsItDoesNotDo)
{
    auto mode = [this](const std::string &content, const std::string &why) {
        folder.write("1_Pooling/config.json", content);
        refused(complete, why);
    };
    mode(R"({"pooling_mode_lasttoken":true})", "\"pooling_mode_lasttoken\" is not supported");
    mode(R"({"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true})", "2 pooling modes");
    mode(R"({})", "0 pooling modes");
    mode(R"({"pooling_mode_cls_token":1})", "expected true or false");
    mode(R"({"pooling_mode_cls_token":true,"word_embedding_dimension":64})",
         "\"word_embedding_dimension\" is 64, expected 32 to 32");
}

TEST_F(EncoderConfig, TakesItsLengthFromSentenceTransformers)
{
    folder.write("sentence_bert_config.json", R"({"max_seq_length":16,"do_lower_case":true})");
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.max_tokens, 16u);
    EXPECT_TRUE(config.do_lower_case);
    folder.write("sentence_bert_config.json", R"({"max_seq_length":null})");
    ASSERT_EQ(load(), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.max_tokens, 40u);
    folder.write("sentence_bert_config.json", R"({"max_seq_length":41})");
    refused(complete, "sentence_bert_config.json: \"max_seq_length\" is 41, expected 2 to 40");
    folder.write("sentence_bert_config.json", R"({"max_seq_length":1})");
    refused(complete, "\"max_seq_length\" is 1");
}

TEST_F(EncoderConfig, ReadsARealModel)
{
    GPU_SCHED_NEED_MINILM(minilm);
    ASSERT_EQ(encoder_config_load(&config, minilm.c_str(), &err), LIBSCHED_OK) << err.message;
    EXPECT_EQ(config.layers, 6u);
    EXPECT_EQ(config.hidden, 384u);
    EXPECT_EQ(config.heads, 12u);
    EXPECT_EQ(config.intermediate, 1536u);
    EXPECT_EQ(config.vocabulary, 30522u);
    EXPECT_EQ(config.positions, 512u);
    EXPECT_EQ(config.pooling, ENCODER_POOL_MEAN);
    EXPECT_TRUE(config.normalize);
    EXPECT_EQ(config.max_tokens, 256u);
}

} // namespace
