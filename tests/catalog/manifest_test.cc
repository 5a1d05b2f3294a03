/* SPDX-License-Identifier: Apache-2.0 */
#include <cstdio>
#include <cstring>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/manifest.h"
#include "support/folder.h"
#include "support/minilm.h"

using gpu_sched_test::temporary_folder;
using testing::HasSubstr;
using testing::StartsWith;

namespace
{

class Manifest : public testing::Test
{
  protected:
    ~Manifest() override
    {
        catalog_close(model);
    }

    int open(const std::string &manifest)
    {
        folder.write("gpu_sched.json", manifest);
        return open_folder(folder.path());
    }

    int open_folder(const std::string &path)
    {
        catalog_close(model);
        model = nullptr;
        return catalog_open(&model, path.c_str(), &err);
    }

    void refused(const std::string &manifest, const std::string &why)
    {
        EXPECT_EQ(open(manifest), LIBSCHED_EBADMODEL) << manifest;
        EXPECT_EQ(model, nullptr);
        EXPECT_THAT(err.message, HasSubstr(why));
        EXPECT_THAT(err.message, StartsWith(folder.path() + ": "));
    }

    /* Files that look like a model; what is in them is not read here. */
    void write_encoder(const std::string &type = "bert")
    {
        folder.write("config.json", "{\"model_type\":\"" + type + "\"}");
        folder.write("model.safetensors", "");
        folder.write("tokenizer.json", "");
    }

    const libsched_parameter *parameter(const char *name)
    {
        return libsched_parameter_find(model->parameters, model->n_parameters, name);
    }

    temporary_folder folder;
    struct catalog_model *model = nullptr;
    libsched_error err = {};
};

TEST_F(Manifest, NamesAnEngine)
{
    ASSERT_EQ(open(R"({"engine":"synthetic"})"), LIBSCHED_OK) << err.message;
    EXPECT_STREQ(model->engine, "synthetic");
    EXPECT_EQ(model->path, folder.path());
    EXPECT_EQ(model->library, nullptr);
    EXPECT_EQ(model->n_parameters, 0u);
    EXPECT_EQ(model->max_batch_requests, 0u);
    EXPECT_EQ(model->max_batch_units, 0u);
    EXPECT_EQ(model->max_request_units, 0u);
    EXPECT_EQ(model->queue_limit, 0u);
}

TEST_F(Manifest, GivesParametersAndLimits)
{
    ASSERT_EQ(open(R"({"engine":"synthetic",
                       "parameters":{"a":true,"b":-3,"c":2.5,"d":"text","e":false},
                       "batch":{"max_requests":64,"max_units":8192},
                       "max_request_units":512,"queue_limit":1024})"),
              LIBSCHED_OK)
        << err.message;
    ASSERT_EQ(model->n_parameters, 5u);
    EXPECT_EQ(parameter("a")->type, (uint32_t)LIBSCHED_PARAMETER_BOOL);
    EXPECT_TRUE(parameter("a")->value.boolean);
    EXPECT_EQ(parameter("b")->type, (uint32_t)LIBSCHED_PARAMETER_INT);
    EXPECT_EQ(parameter("b")->value.integer, -3);
    EXPECT_EQ(parameter("c")->type, (uint32_t)LIBSCHED_PARAMETER_FLOAT);
    EXPECT_EQ(parameter("c")->value.real, 2.5);
    EXPECT_EQ(parameter("d")->type, (uint32_t)LIBSCHED_PARAMETER_STRING);
    EXPECT_STREQ(parameter("d")->value.string, "text");
    EXPECT_FALSE(parameter("e")->value.boolean);
    EXPECT_EQ(model->max_batch_requests, 64u);
    EXPECT_EQ(model->max_batch_units, 8192u);
    EXPECT_EQ(model->max_request_units, 512u);
    EXPECT_EQ(model->queue_limit, 1024u);
}

TEST_F(Manifest, IsStrict)
{
    refused(R"({"engine":"synthetic","Engine":"x"})", "unknown key \"Engine\"");
    refused(R"({"engine":"synthetic","batch":{"max_request":1}})",
            "gpu_sched.json, \"batch\": unknown key \"max_request\"");
    refused(R"({"engine":5})", "\"engine\" is an integer, expected a string");
    refused(R"({"engine":""})", "\"engine\" is \"\"");
    refused(R"({"engine":"a/b"})", "\"engine\" is \"a/b\"");
    refused(R"({"engine":")" + std::string(64, 'x') + R"("})", "1 to 63");
    refused(R"({"engine":"a","engine":"b"})", "duplicate");
    refused(R"({"engine":"synthetic","parameters":[]})", "\"parameters\" is not an object");
    refused(R"({"engine":"synthetic","parameters":{"a":null}})", "parameter \"a\" is neither");
    refused(R"({"engine":"synthetic","parameters":{"a":[1]}})", "parameter \"a\" is neither");
    refused(R"({"engine":"synthetic","parameters":{"a b":1}})", "named \"a b\"");
    refused(R"({"engine":"synthetic","batch":7})", "\"batch\" is not an object");
    refused(R"({"engine":"synthetic","batch":{"max_requests":0}})",
            "\"max_requests\" is 0, expected 1 to 65536");
    refused(R"({"engine":"synthetic","batch":{"max_units":-1}})", "\"max_units\" is -1");
    refused(R"({"engine":"synthetic","max_request_units":1.5})", "a number with a fraction");
    refused(R"({"engine":"synthetic","queue_limit":99999999999})",
            "\"queue_limit\" is 99999999999");
    refused("", "not JSON");
    refused("[]", "expected an object");
    refused(std::string(20, '[') + std::string(20, ']'), "nested deeper than 16");
    refused(R"({"engine":"synthetic"} x)", "not JSON");
}

TEST_F(Manifest, LimitsItsSize)
{
    refused("{\"engine\":\"synthetic\"" + std::string(1 << 20, ' ') + "}",
            "at most 1048576 are accepted");
    std::string many = R"({"engine":"synthetic","parameters":{)";
    for (int i = 0; i < LIBSCHED_MAX_PARAMETERS; i++)
        many += "\"p" + std::to_string(i) + "\":1,";
    ASSERT_EQ(open(many.substr(0, many.size() - 1) + "}}"), LIBSCHED_OK) << err.message;
    EXPECT_EQ(model->n_parameters, (uint32_t)LIBSCHED_MAX_PARAMETERS);
    refused(many + "\"one_more\":1}}", "33 parameters, at most 32");
}

TEST_F(Manifest, FindsItsPluginInsideTheFolderOnly)
{
    std::string library = folder.write("lib/engine.so", "");
    ASSERT_EQ(open(R"({"engine":"mine","library":"lib/engine.so"})"), LIBSCHED_OK) << err.message;
    EXPECT_EQ(model->library, library);

    temporary_folder other;
    std::string outside = other.write("engine.so", "");
    ASSERT_EQ(symlink(outside.c_str(), (folder.path() + "/link.so").c_str()), 0);
    refused(R"({"engine":"mine","library":"link.so"})", "leads out of the model's folder");
    refused(R"({"engine":"mine","library":"../)" +
                outside.substr(outside.find_last_of('/', outside.size() - 11) + 1) + R"("})",
            "leads out of the model's folder");
    refused(R"({"engine":"mine","library":")" + outside + R"("})", "expected a path relative");
    refused(R"({"engine":"mine","library":""})", "expected a path relative");
    refused(R"({"engine":"mine","library":"absent.so"})", "No such file");
    refused(R"({"engine":"mine","library":"lib"})", "not a regular file");
    refused(R"({"engine":"mine","library":"."})", "leads out of the model's folder");
}

TEST_F(Manifest, RecognisesHuggingFaceLayout)
{
    write_encoder();
    ASSERT_EQ(open_folder(folder.path()), LIBSCHED_OK) << err.message;
    EXPECT_STREQ(model->engine, "encoder");
    EXPECT_EQ(model->n_parameters, 0u);

    /* A manifest beside it adds to it, and need not name the engine. */
    ASSERT_EQ(open(R"({"parameters":{"precision":"bf16"},"queue_limit":5})"), LIBSCHED_OK)
        << err.message;
    EXPECT_STREQ(model->engine, "encoder");
    EXPECT_STREQ(parameter("precision")->value.string, "bf16");
    EXPECT_EQ(model->queue_limit, 5u);

    /* Or names another. */
    ASSERT_EQ(open(R"({"engine":"other"})"), LIBSCHED_OK) << err.message;
    EXPECT_STREQ(model->engine, "other");
}

TEST_F(Manifest, RefusesOtherKindsOfModel)
{
    write_encoder("xlm-roberta");
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("\"model_type\" is \"xlm-roberta\", the encoder runs only "
                                       "\"bert\""));
    folder.write("config.json", "{}");
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("config.json: \"model_type\" is missing"));
}

TEST_F(Manifest, SaysWhichFileIsMissing)
{
    write_encoder();
    unlink((folder.path() + "/tokenizer.json").c_str());
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("neither tokenizer.json nor vocab.txt"));
    folder.write("vocab.txt", "");
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_OK) << err.message;
    unlink((folder.path() + "/model.safetensors").c_str());
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("there is no model.safetensors"));
    folder.write("pytorch_model.bin", "");
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("convert it to safetensors"));
}

TEST_F(Manifest, RefusesFoldersThatAreNone)
{
    EXPECT_EQ(open_folder(folder.path() + "/absent"), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("/absent: there is no such folder"));
    EXPECT_EQ(open_folder(folder.write("file", "")), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("/file: not a folder"));
    EXPECT_EQ(open_folder(""), LIBSCHED_EBADMODEL);
    EXPECT_EQ(open_folder(folder.path()), LIBSCHED_EBADMODEL);
    EXPECT_THAT(err.message, HasSubstr("not a model: neither gpu_sched.json nor config.json"));
    refused("{}", "\"engine\" is missing");
}

TEST_F(Manifest, RefusesAFolderThatIsNotReadable)
{
    ASSERT_EQ(open(R"({"engine":"synthetic"})"), LIBSCHED_OK) << err.message;
    ASSERT_EQ(chmod(folder.path().c_str(), 0), 0);
    /* Root reads every folder: a child that is nobody tries. */
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        bool refused = open_folder(folder.path()) == LIBSCHED_EBADMODEL &&
                       strstr(err.message, "not readable") != nullptr;
        if (!refused)
            fprintf(stderr, "%s\n", err.message);
        _exit(refused ? 0 : 1);
    }
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    chmod(folder.path().c_str(), 0700);
}

TEST_F(Manifest, RecognisesARealModel)
{
    GPU_SCHED_NEED_MINILM(minilm);
    ASSERT_EQ(open_folder(minilm), LIBSCHED_OK) << err.message;
    EXPECT_STREQ(model->engine, "encoder");
}

} // namespace
