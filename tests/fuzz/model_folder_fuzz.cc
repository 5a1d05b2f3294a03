/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any folder is a model or is refused, and its encoder's configuration lies within its limits. The
 * input is the files gpu_sched.json, config.json, modules.json, 1_Pooling/config.json and
 * sentence_bert_config.json, separated by NULs; one that is empty is not written.
 */
#include <string>

#include <unistd.h>

#include "catalog/encoder_config.h"
#include "catalog/manifest.h"
#include "fuzz/fuzz.h"
#include "support/folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gpu_sched_test::temporary_folder folder;
    static const char *const files[] = {"gpu_sched.json", "config.json", "modules.json",
                                        "1_Pooling/config.json", "sentence_bert_config.json"};
    std::string rest(reinterpret_cast<const char *>(data), size);
    folder.write("model.safetensors", "");
    folder.write("vocab.txt", "");
    for (const char *file : files) {
        size_t end = rest.find('\0');
        std::string content = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        if (content.empty())
            unlink((folder.path() + "/" + file).c_str());
        else
            folder.write(file, content);
    }

    struct catalog_model *model = nullptr;
    libsched_error err = {};
    int status = catalog_open(&model, folder.path().c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EBADMODEL);
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');
    if (model != nullptr) {
        FUZZ_CHECK(model->engine[0] != '\0');
        FUZZ_CHECK(model->n_parameters <= LIBSCHED_MAX_PARAMETERS);
        for (uint32_t i = 0; i < model->n_parameters; i++)
            FUZZ_CHECK(libsched_parameter_find(model->parameters, model->n_parameters,
                                               model->parameters[i].name) != nullptr);
    }
    catalog_close(model);

    struct encoder_config config;
    status = encoder_config_load(&config, folder.path().c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EBADMODEL);
    if (status == LIBSCHED_OK) {
        FUZZ_CHECK(config.heads > 0 && config.hidden % config.heads == 0);
        FUZZ_CHECK(config.max_tokens >= 1 && config.max_tokens <= config.positions);
    }
    return 0;
}
