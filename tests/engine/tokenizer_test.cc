/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer against Hugging Face's, on real and on small vocabularies. */
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <jansson.h>

#include "engine/tokenizer.h"
#include "support/folder.h"
#include "support/minilm.h"
#include "support/texts.h"

using gpu_sched_test::golden_text;
using gpu_sched_test::golden_texts;
using gpu_sched_test::temporary_folder;
using testing::ElementsAre;
using testing::HasSubstr;

namespace
{

std::string small_folder(const std::string &name)
{
    return GPU_SCHED_SOURCE_DIR "/tests/data/tokenizers/" + name;
}

/* A tokenizer with one scratch. */
class encoder
{
  public:
    explicit encoder(const std::string &folder)
    {
        if (tokenizer_open(&tokenizer_, folder.c_str(), &err) != LIBSCHED_OK ||
            tokenizer_scratch_open(&scratch_, tokenizer_, &err) != LIBSCHED_OK)
            throw std::runtime_error(err.message);
    }
    ~encoder()
    {
        tokenizer_scratch_close(scratch_);
        tokenizer_close(tokenizer_);
    }
    encoder(const encoder &) = delete;
    encoder &operator=(const encoder &) = delete;

    std::vector<int32_t> operator()(const std::string &text, uint32_t max = 256)
    {
        /* Exactly sized, without a NUL behind the text, so that a sanitizer sees an access beyond
         * either. */
        std::vector<int32_t> ids(max, -1);
        std::vector<char> exact(text.begin(), text.end());
        uint32_t n = 0;
        status = tokenizer_encode(tokenizer_, scratch_, exact.data(), exact.size(), max, ids.data(),
                                  &n, &truncated, &err);
        ids.resize(n);
        return ids;
    }

    const struct tokenizer *get() const
    {
        return tokenizer_;
    }

    int status = LIBSCHED_OK;
    bool truncated = false;
    libsched_error err = {};

  private:
    struct tokenizer *tokenizer_ = nullptr;
    struct tokenizer_scratch *scratch_ = nullptr;
};

void expect_goldens(encoder &encode, const std::vector<golden_text> &goldens)
{
    for (const golden_text &golden : goldens) {
        EXPECT_EQ(encode(golden.text, golden.max), golden.ids) << "\"" << golden.text << "\"";
        EXPECT_EQ(encode.status, LIBSCHED_OK) << encode.err.message;
    }
}

/* --------------------------------------------------------------------- against Hugging Face's */

class SmallTokenizer : public testing::TestWithParam<const char *>
{
};

TEST_P(SmallTokenizer, GivesTheIdsOfHuggingFace)
{
    std::vector<golden_text> goldens =
        golden_texts(std::string("tokenizers/") + GetParam() + "/goldens.jsonl");
    ASSERT_GE(goldens.size(), 250u);
    encoder encode(small_folder(GetParam()));
    expect_goldens(encode, goldens);
}

INSTANTIATE_TEST_SUITE_P(Options, SmallTokenizer,
                         testing::Values("uncased", "cased", "stripped", "lowered", "added"),
                         [](const auto &one) { return std::string(one.param); });

TEST(MiniLMTokenizer, GivesTheIdsOfHuggingFace)
{
    GPU_SCHED_NEED_MINILM(minilm);
    std::vector<golden_text> goldens = golden_texts();
    ASSERT_GE(goldens.size(), 250u);
    encoder encode(minilm);
    expect_goldens(encode, goldens);
    EXPECT_EQ(tokenizer_id_limit(encode.get()), 30522u);
}

TEST(MiniLMTokenizer, CutsAsHuggingFaceDoes)
{
    GPU_SCHED_NEED_MINILM(minilm);
    encoder encode(minilm);
    expect_goldens(encode, golden_texts("tokenizer_cuts.jsonl"));
}

TEST(MiniLMTokenizer, GivesTheSameIdsFromVocabTxt)
{
    GPU_SCHED_NEED_MINILM(minilm);
    temporary_folder folder;
    for (const char *file : {"vocab.txt", "tokenizer_config.json"})
        std::filesystem::copy(minilm + "/" + file, folder.path() + "/" + file);
    encoder encode(folder.path());
    expect_goldens(encode, golden_texts());
}

/* A vocab.txt with the tokens of a tokenizer.json. */
std::string vocabulary_of(const std::string &folder, const char *newline = "\n")
{
    json_t *root = json_load_file((folder + "/tokenizer.json").c_str(), 0, nullptr);
    json_t *vocabulary = json_object_get(json_object_get(root, "model"), "vocab");
    std::vector<std::string> lines(json_object_size(vocabulary));
    const char *token;
    json_t *id;
    json_object_foreach(vocabulary, token, id) lines.at((size_t)json_integer_value(id)) = token;
    json_decref(root);
    std::string text;
    for (const std::string &line : lines)
        text += line + newline;
    return text;
}

TEST(VocabTxt, GivesTheIdsOfTokenizerJson)
{
    for (const char *newline : {"\n", "\r\n"}) {
        temporary_folder folder;
        folder.write("vocab.txt", vocabulary_of(small_folder("uncased"), newline));
        encoder encode(folder.path());
        expect_goldens(encode, golden_texts("tokenizers/uncased/goldens.jsonl"));
    }
}

TEST(VocabTxt, TakesOptionsFromTokenizerConfig)
{
    temporary_folder folder;
    folder.write("vocab.txt", vocabulary_of(small_folder("cased")));
    folder.write("tokenizer_config.json",
                 R"({"do_lower_case":false,"strip_accents":null,"cls_token":"[CLS]",
                     "unk_token":{"content":"[UNK]","lstrip":false}})");
    encoder encode(folder.path());
    expect_goldens(encode, golden_texts("tokenizers/cased/goldens.jsonl"));
}

TEST(VocabTxt, NeedsItsSpecialTokens)
{
    temporary_folder folder;
    libsched_error err;
    struct tokenizer *tokenizer;
    folder.write("vocab.txt", "[CLS]\n[SEP]\n");
    EXPECT_EQ(tokenizer_open(&tokenizer, folder.path().c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("no \"[UNK]\", which is the unknown token"));
    folder.write("tokenizer_config.json", R"({"unk_token":"<unk>"})");
    folder.write("vocab.txt", "[CLS]\n[SEP]\n<unk>");
    ASSERT_EQ(tokenizer_open(&tokenizer, folder.path().c_str(), &err), LIBSCHED_OK) << err.message;
    EXPECT_EQ(tokenizer_special_ids(tokenizer)->unk, 2);
    EXPECT_EQ(tokenizer_special_ids(tokenizer)->pad, -1);
    EXPECT_EQ(tokenizer_special_ids(tokenizer)->mask, -1);
    tokenizer_close(tokenizer);
    folder.write("vocab.txt", "[CLS]\n[SEP]\n<unk>\n\xff\n");
    EXPECT_EQ(tokenizer_open(&tokenizer, folder.path().c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("vocab.txt: not UTF-8 at byte 18"));
}

/* ---------------------------------------------------------------------------------- behaviour */

TEST(Tokenizer, ExposesItsSpecialTokens)
{
    encoder encode(small_folder("uncased"));
    const struct tokenizer_specials *specials = tokenizer_special_ids(encode.get());
    EXPECT_EQ(specials->pad, 0);
    EXPECT_EQ(specials->unk, 1);
    EXPECT_EQ(specials->cls, 2);
    EXPECT_EQ(specials->sep, 3);
    EXPECT_EQ(specials->mask, 4);
}

TEST(Tokenizer, SaysWhetherItCut)
{
    encoder encode(small_folder("uncased"));
    std::vector<int32_t> whole = encode("the cat sat");
    ASSERT_EQ(whole.size(), 5u);
    EXPECT_FALSE(encode.truncated);
    EXPECT_EQ(encode("the cat sat", 5), whole);
    EXPECT_FALSE(encode.truncated);
    EXPECT_THAT(encode("the cat sat", 4), ElementsAre(2, whole[1], whole[2], 3));
    EXPECT_TRUE(encode.truncated);
    EXPECT_THAT(encode("the cat sat", 2), ElementsAre(2, 3));
    EXPECT_TRUE(encode.truncated);
    EXPECT_THAT(encode("", 2), ElementsAre(2, 3));
    EXPECT_FALSE(encode.truncated);
}

TEST(Tokenizer, CutsInsideAWord)
{
    encoder encode(small_folder("uncased"));
    std::vector<int32_t> whole = encode("unaffable");
    ASSERT_EQ(whole.size(), 5u);
    EXPECT_THAT(encode("unaffable", 4), ElementsAre(2, whole[1], whole[2], 3));
    EXPECT_TRUE(encode.truncated);
}

TEST(Tokenizer, NeedsRoomForTwo)
{
    encoder encode(small_folder("uncased"));
    EXPECT_TRUE(encode("a", 1).empty());
    EXPECT_EQ(encode.status, LIBSCHED_EINVAL);
    EXPECT_THAT(encode.err.message, HasSubstr("max_tokens is 1"));
}

TEST(Tokenizer, RefusesWhatIsNotUtf8)
{
    encoder encode(small_folder("uncased"));
    const struct {
        std::string text;
        size_t at;
    } cases[] = {
        {"\x80", 0},
        {"abc\xff", 3},
        {"abcdefgh\xc3", 8},     /* cut */
        {"\xc3(", 0},            /* no continuation */
        {"a\xc0\x80", 1},        /* overlong NUL */
        {"a\xc1\xbf", 1},        /* overlong */
        {"\xe0\x80\x80", 0},     /* overlong */
        {"\xe2\x82", 0},         /* cut */
        {"\xed\xa0\x80", 0},     /* surrogate */
        {"\xf0\x80\x80\x80", 0}, /* overlong */
        {"\xf4\x90\x80\x80", 0}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", 0}, /* no such lead */
        {std::string(1000, 'x') + "\xfe", 1000},
        {"\xe4\xb8\xad\xe6\x96\x87 ok \xb8", 10},
    };
    for (const auto &c : cases) {
        EXPECT_TRUE(encode(c.text).empty());
        EXPECT_EQ(encode.status, LIBSCHED_EINVAL);
        EXPECT_THAT(encode.err.message,
                    HasSubstr("not UTF-8 at byte " + std::to_string(c.at) + " "));
    }
    /* Also where the text would have been cut before it. */
    EXPECT_TRUE(encode("the cat sat \xff", 3).empty());
    EXPECT_EQ(encode.status, LIBSCHED_EINVAL);
    /* And the scratch is as good as new. */
    EXPECT_THAT(encode("the"), ElementsAre(2, testing::_, 3));
}

TEST(Tokenizer, ForgetsTheTextBefore)
{
    encoder encode(small_folder("added"));
    std::vector<golden_text> goldens = golden_texts("tokenizers/added/goldens.jsonl");
    for (uint32_t max : {2u, 3u, 4u}) {
        for (const golden_text &golden : goldens) {
            encode(golden.text, max); /* stops somewhere in the text */
            EXPECT_EQ(encode("the cat").size(), 4u) << golden.text;
        }
    }
}

TEST(Tokenizer, HoldsAgainstWordsWithoutEnd)
{
    for (const char *name : {"uncased", "cased", "stripped", "lowered", "added"}) {
        encoder encode(small_folder(name));
        std::string ascii(100000, 'x'), wide;
        for (int i = 0; i < 100000; i++)
            wide += "\xf0\x90\x8d\x88";
        for (const std::string &word : {ascii, wide, ascii + wide, wide + ascii})
            EXPECT_THAT(encode(word + " [SEP]" + word), ElementsAre(2, 1, 3, 1, 3)) << name;
    }
}

TEST(Tokenizer, HoldsAgainstManyCombiningMarks)
{
    /* Spacing marks of the classes 216 and 226, which strip_accents keeps, out of order. */
    encoder encode(small_folder("uncased"));
    std::string marks;
    for (int i = 0; i < 200000; i++)
        marks += i % 2 ? "\xf0\x9d\x85\xa5" : "\xf0\x9d\x85\xad";
    EXPECT_THAT(encode("a" + marks), ElementsAre(2, 1, 3));
    EXPECT_THAT(encode(marks + " [SEP]"), ElementsAre(2, 1, 3, 3));
}

TEST(Tokenizer, AnyTextGivesIdsInRange)
{
    std::mt19937 random(20240229);
    for (const char *name : {"uncased", "cased", "stripped", "lowered", "added"}) {
        encoder encode(small_folder(name));
        uint32_t limit = tokenizer_id_limit(encode.get());
        for (int i = 0; i < 3000; i++) {
            std::string text;
            for (unsigned n = random() % 60; n > 0; n--)
                text.push_back((char)(i % 2 ? random() : random() % 0x80));
            uint32_t max = 2 + random() % 40;
            std::vector<int32_t> ids = encode(text, max);
            if (encode.status != LIBSCHED_OK) {
                EXPECT_EQ(encode.status, LIBSCHED_EINVAL);
                continue;
            }
            ASSERT_GE(ids.size(), 2u);
            ASSERT_LE(ids.size(), max);
            for (int32_t id : ids)
                ASSERT_LT((uint32_t)id, limit);
        }
    }
}

TEST(Tokenizer, ServesManyThreads)
{
    std::vector<golden_text> goldens = golden_texts("tokenizers/uncased/goldens.jsonl");
    encoder shared(small_folder("uncased"));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([&] {
            struct tokenizer_scratch *scratch;
            ASSERT_EQ(tokenizer_scratch_open(&scratch, shared.get(), nullptr), LIBSCHED_OK);
            for (const golden_text &golden : goldens) {
                std::vector<int32_t> ids(golden.max);
                uint32_t n;
                bool truncated;
                ASSERT_EQ(tokenizer_encode(shared.get(), scratch, golden.text.data(),
                                           golden.text.size(), golden.max, ids.data(), &n,
                                           &truncated, nullptr),
                          LIBSCHED_OK);
                ids.resize(n);
                EXPECT_EQ(ids, golden.ids);
            }
            tokenizer_scratch_close(scratch);
        });
    }
    for (std::thread &thread : threads)
        thread.join();
}

/* ------------------------------------------------------------------------------------ refusals */

class TokenizerFile : public testing::Test
{
  protected:
    TokenizerFile()
    {
        root = json_load_file((small_folder("uncased") + "/tokenizer.json").c_str(), 0, nullptr);
    }
    ~TokenizerFile() override
    {
        json_decref(root);
    }

    /* Opens what `root` says. */
    int open()
    {
        char *text = json_dumps(root, 0);
        folder.write("tokenizer.json", text);
        free(text);
        struct tokenizer *tokenizer;
        int status = tokenizer_open(&tokenizer, folder.path().c_str(), &err);
        tokenizer_close(tokenizer);
        return status;
    }

    void refused(const std::string &why)
    {
        EXPECT_EQ(open(), LIBSCHED_EBADMODEL) << why;
        EXPECT_THAT(err.message, HasSubstr(why));
    }

    /* Sets a key of a section (or of the root: ""), as JSON text. */
    void set(const char *section, const char *key, const std::string &value)
    {
        json_t *object = *section == '\0' ? root : json_object_get(root, section);
        json_object_set_new(object, key, json_loads(value.c_str(), JSON_DECODE_ANY, nullptr));
    }

    temporary_folder folder;
    json_t *root;
    libsched_error err = {};
};

TEST_F(TokenizerFile, RefusesOtherModels)
{
    set("model", "type", "\"BPE\"");
    refused("\"model\" is of type \"BPE\", only \"WordPiece\" is supported");
    json_object_del(root, "model");
    refused("\"model\" is missing");
}

TEST_F(TokenizerFile, RefusesOtherNormalizers)
{
    set("normalizer", "type", "\"NFC\"");
    refused("\"normalizer\" is of type \"NFC\"");
}

TEST_F(TokenizerFile, RefusesOtherPreTokenizers)
{
    set("pre_tokenizer", "type", "\"Whitespace\"");
    refused("\"pre_tokenizer\" is of type \"Whitespace\"");
    set("", "pre_tokenizer", "null");
    refused("\"pre_tokenizer\" is missing");
}

TEST_F(TokenizerFile, RefusesOtherTemplates)
{
    set("post_processor", "single", "[]");
    refused("only templates of one token");
    set("", "post_processor", R"({"type":"ByteLevel"})");
    refused("\"post_processor\" is of type \"ByteLevel\"");
    set("", "post_processor", R"({"type":"BertProcessing","cls":["x",1]})");
    refused("\"sep\" has no id");
    set("", "post_processor", R"({"type":"BertProcessing","cls":["x",1],"sep":["y",16777215]})");
    refused("names an id that no token has");
    set("", "post_processor", "null");
    refused("\"post_processor\" is missing");
}

TEST_F(TokenizerFile, RefusesVocabulariesThatAreNone)
{
    set("model", "vocab", R"({"[UNK]":-1})");
    refused("the id of \"[UNK]\" is not within");
    set("model", "vocab", R"({"[UNK]":16777216})");
    refused("the id of \"[UNK]\" is not within");
    set("model", "vocab", R"({"[UNK]":"1"})");
    refused("the id of \"[UNK]\" is not within");
    set("model", "vocab", R"({"a":0})");
    refused("no \"[UNK]\"");
    set("model", "vocab", "[]");
    refused("\"vocab\" is missing or not an object");
}

TEST_F(TokenizerFile, RefusesNumbersOutOfRange)
{
    set("model", "max_input_chars_per_word", "0");
    refused("\"max_input_chars_per_word\" is 0, expected 1 to 1000");
    set("model", "max_input_chars_per_word", "1001");
    refused("\"max_input_chars_per_word\" is 1001");
}

TEST_F(TokenizerFile, RefusesAddedTokensThatLie)
{
    set("", "added_tokens", R"([{"id":7,"content":"[SEP]"}])");
    refused("added token \"[SEP]\" has id 7, the vocabulary says 3");
    set("", "added_tokens", R"([{"content":"[SEP]"}])");
    refused("\"id\" is missing");
    set("", "added_tokens", R"([3])");
    refused("not an object");
    set("", "added_tokens", R"([{"id":99999999,"content":"x"}])");
    refused("\"id\" is 99999999");
}

TEST_F(TokenizerFile, IgnoresTruncationAndPadding)
{
    set("", "truncation", R"({"max_length":4,"strategy":"LongestFirst","stride":0})");
    set("", "padding", R"({"strategy":{"Fixed":128}})");
    ASSERT_EQ(open(), LIBSCHED_OK) << err.message;
    encoder encode(folder.path());
    EXPECT_EQ(encode("the cat sat on the mat").size(), 8u);
}

TEST_F(TokenizerFile, RefusesWhatIsNotThere)
{
    struct tokenizer *tokenizer;
    EXPECT_EQ(tokenizer_open(&tokenizer, folder.path().c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_EQ(tokenizer, nullptr);
    EXPECT_THAT(err.message, HasSubstr("vocab.txt: cannot be opened"));
    folder.write("tokenizer.json", "{");
    EXPECT_EQ(tokenizer_open(&tokenizer, folder.path().c_str(), &err), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("tokenizer.json: not JSON"));
}

} // namespace
