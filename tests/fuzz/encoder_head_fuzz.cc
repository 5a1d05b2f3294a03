/* SPDX-License-Identifier: Apache-2.0 */
/* Any head.safetensors is a classifier for embeddings of four numbers, or is refused. */
#include <cmath>
#include <string>

#include "engine/encoder_head.h"
#include "fuzz/fuzz.h"
#include "support/folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gpu_sched_test::temporary_folder folder;
    folder.write("head.safetensors", std::string(reinterpret_cast<const char *>(data), size));

    struct encoder_head *head = nullptr;
    libsched_error err = {};
    int status = encoder_head_load(&head, folder.path().c_str(), 4, &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EBADMODEL);
    FUZZ_CHECK((status == LIBSCHED_OK) == (head != nullptr));
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');
    if (head != nullptr) {
        const float embedding[4] = {1, -1, 0.5f, 0};
        std::string scores(head->classes * sizeof(float), '\0');
        float *values = reinterpret_cast<float *>(scores.data());
        encoder_head_scores(head, embedding, values);
        uint32_t best = encoder_head_best(head, values);
        FUZZ_CHECK(best < head->classes);
        std::string label(head->labels[best].text, head->labels[best].length);
        FUZZ_CHECK(label.size() == head->labels[best].length);
        for (uint32_t c = 0; c < head->classes; c++)
            FUZZ_CHECK(values[c] >= 0 && values[c] <= 1);
    }
    encoder_head_free(head);
    return 0;
}
