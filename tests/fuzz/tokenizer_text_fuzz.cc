/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any text gives ids within the vocabulary, or is refused as no UTF-8. The input's first byte
 * chooses a tokenizer of tests/data/tokenizers, its second the length; the rest is the text.
 */
#include <memory>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "fuzz/fuzz.h"

namespace
{

const char *const names[] = {"uncased", "cased", "stripped", "lowered", "added"};
constexpr size_t count = sizeof(names) / sizeof(names[0]);

struct opened {
    struct tokenizer *tokenizer[count];
    struct tokenizer_scratch *scratch[count];

    opened()
    {
        for (size_t i = 0; i < count; i++) {
            std::string folder =
                std::string(GPU_SCHED_SOURCE_DIR "/tests/data/tokenizers/") + names[i];
            FUZZ_CHECK(tokenizer_open(&tokenizer[i], folder.c_str(), nullptr) == LIBSCHED_OK);
            FUZZ_CHECK(tokenizer_scratch_open(&scratch[i], tokenizer[i], nullptr) == LIBSCHED_OK);
        }
    }
    ~opened()
    {
        for (size_t i = 0; i < count; i++) {
            tokenizer_scratch_close(scratch[i]);
            tokenizer_close(tokenizer[i]);
        }
    }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static opened all;
    if (size < 2)
        return 0;
    const struct tokenizer *tokenizer = all.tokenizer[data[0] % count];
    uint32_t max = data[1];
    std::vector<int32_t> ids(max);
    uint32_t n = 0;
    bool truncated;
    libsched_error err = {};
    int status = tokenizer_encode(tokenizer, all.scratch[data[0] % count],
                                  reinterpret_cast<const char *>(data) + 2, size - 2, max,
                                  ids.data(), &n, &truncated, &err);
    FUZZ_CHECK(status == LIBSCHED_OK || (status == LIBSCHED_EINVAL && n == 0));
    FUZZ_CHECK(n <= max && (n >= 2 || status != LIBSCHED_OK));
    FUZZ_CHECK(!truncated || n == max);
    for (uint32_t i = 0; i < n; i++)
        FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < tokenizer_id_limit(tokenizer));
    if (status == LIBSCHED_OK) {
        FUZZ_CHECK(ids[0] == tokenizer_special_ids(tokenizer)->cls);
        FUZZ_CHECK(ids[n - 1] == tokenizer_special_ids(tokenizer)->sep);
    }
    return 0;
}
