/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Structs that grow. A caller that was built before a member was added has a smaller one: members
 * it lacks keep their default, zero. One that was built later has a larger one: what it asks for
 * and we do not know is refused, not ignored.
 */
#include <string.h>

#include "runtime/internal.h"
#include "runtime/version.h"

int runtime_struct_read(void *out, size_t size, const void *in, const char *what,
                        libsched_error *err)
{
    uint32_t given;
    memcpy(&given, in, sizeof(given));
    if (given < sizeof(given))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s has struct_size %u: begin with its _INIT", what, given);
    const unsigned char *bytes = in;
    for (size_t i = size; i < given; i++)
        if (bytes[i] != 0)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%s has %u bytes, this version (" RUNTIME_VERSION
                                      ") knows %zu and the rest is not zero",
                                      what, given, size);
    memset(out, 0, size);
    memcpy(out, in, given < size ? given : size);
    return LIBSCHED_OK;
}

int runtime_struct_write(void *out, const void *in, size_t size)
{
    uint32_t given;
    memcpy(&given, out, sizeof(given));
    if (given < sizeof(given))
        return LIBSCHED_EINVAL;
    size_t n = given < size ? given : size;
    memcpy((unsigned char *)out + sizeof(given), (const unsigned char *)in + sizeof(given),
           n - sizeof(given));
    if (given > size)
        memset((unsigned char *)out + size, 0, given - size);
    return LIBSCHED_OK;
}
