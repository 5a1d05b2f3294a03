/* SPDX-License-Identifier: Apache-2.0 */
/* Any tokenizer.json opens or is refused, and what opens encodes a text within its vocabulary. */
#include <string>

#include "engine/tokenizer.h"
#include "fuzz/fuzz.h"
#include "support/folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gpu_sched_test::temporary_folder folder;
    static const std::string text = "a \xc3\x81 ab!  \xe4\xb8\xad [SEP]b <x>ab<X> \xcc\x81 new a";
    folder.write("tokenizer.json", std::string(reinterpret_cast<const char *>(data), size));

    struct tokenizer *tokenizer = nullptr;
    struct tokenizer_scratch *scratch = nullptr;
    libsched_error err = {};
    int status = tokenizer_open(&tokenizer, folder.path().c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EBADMODEL);
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');
    if (tokenizer == nullptr)
        return 0;
    FUZZ_CHECK(tokenizer_scratch_open(&scratch, tokenizer, &err) == LIBSCHED_OK);
    int32_t ids[64];
    uint32_t n;
    bool truncated;
    status = tokenizer_encode(tokenizer, scratch, text.data(), text.size(), 64, ids, &n, &truncated,
                              &err);
    FUZZ_CHECK(status == LIBSCHED_OK);
    for (uint32_t i = 0; i < n; i++)
        FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < tokenizer_id_limit(tokenizer));
    tokenizer_scratch_close(scratch);
    tokenizer_close(tokenizer);
    return 0;
}
