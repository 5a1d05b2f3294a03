/* SPDX-License-Identifier: Apache-2.0 */
/* Any file opens as safetensors, with tensors that can be read, or is refused. */
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "catalog/safetensors.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("safetensors", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(write(fd, data, size) == (ssize_t)size);

    struct safetensors *file = nullptr;
    libsched_error err = {};
    std::string path = "/proc/self/fd/" + std::to_string(fd);
    int status = safetensors_open(&file, path.c_str(), &err);
    FUZZ_CHECK(status == LIBSCHED_OK || status == LIBSCHED_EBADMODEL);
    FUZZ_CHECK((status == LIBSCHED_OK) == (file != nullptr));
    FUZZ_CHECK(status == LIBSCHED_OK || err.message[0] != '\0');

    volatile unsigned sum = 0;
    for (size_t i = 0; file != nullptr && i < safetensors_count(file); i++) {
        const libsched_tensor *tensor = safetensors_at(file, i);
        FUZZ_CHECK(safetensors_find(file, tensor->name) == tensor);
        for (uint64_t at = 0; at < tensor->size; at++)
            sum = sum + static_cast<const unsigned char *>(tensor->data)[at];
    }
    safetensors_close(file);
    close(fd);
    return 0;
}
