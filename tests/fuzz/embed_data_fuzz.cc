/* SPDX-License-Identifier: Apache-2.0 */
/* Any file is one of texts to embed, or is refused; and is cut into batches without a gap. */
#include <string>

#include "fuzz/fuzz.h"
#include "program/embed_data.h"
#include "support/folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gpu_sched_test::temporary_folder folder;
    const bool json = size > 0 && data[0] == '{';
    const std::string path = folder.write(json ? "data.jsonl" : "data",
                                          std::string(reinterpret_cast<const char *>(data), size));

    struct embed_data read = {};
    libsched_error err = {};
    int status = embed_data_read(&read, path.c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EINVAL);
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');
    size_t bytes = 0;
    for (uint32_t i = 0; i < read.n; i++) {
        const embedder_text &text = read.texts[i];
        if (text.text != nullptr)
            bytes += std::string(text.text, text.length).size();
        for (uint32_t k = 0; text.text == nullptr && k < text.length; k++)
            FUZZ_CHECK(text.ids[k] >= 0);
    }
    FUZZ_CHECK(bytes <= size);
    if (status == LIBSCHED_OK) {
        FUZZ_CHECK(embed_data_plan(&read, 16, 8, &err) == LIBSCHED_OK);
        FUZZ_CHECK(read.n_batches > 0 && read.batches[0] == 0);
        FUZZ_CHECK(read.batches[read.n_batches] == read.n);
        for (uint32_t b = 0; b < read.n_batches; b++) {
            FUZZ_CHECK(read.batches[b] < read.batches[b + 1]);
            FUZZ_CHECK(read.batches[b + 1] - read.batches[b] <= read.most);
        }
    }
    embed_data_free(&read);
    return 0;
}
