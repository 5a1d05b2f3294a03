/* SPDX-License-Identifier: Apache-2.0 */
/* Any file is one of examples to train on, or is refused. */
#include <string>

#include "fuzz/fuzz.h"
#include "program/train_data.h"
#include "support/folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gpu_sched_test::temporary_folder folder;
    const std::string path =
        folder.write("data", std::string(reinterpret_cast<const char *>(data), size));

    struct train_data read = {};
    libsched_error err = {};
    int status = train_data_read(&read, path.c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EINVAL);
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');
    size_t bytes = 0;
    for (uint32_t i = 0; i < read.n; i++) {
        FUZZ_CHECK(read.examples[i].label < read.n_classes);
        bytes += std::string(read.examples[i].text, read.examples[i].length).size();
        bytes += read.classes[read.examples[i].label].length;
    }
    FUZZ_CHECK(bytes <= size);
    train_data_free(&read);
    return 0;
}
