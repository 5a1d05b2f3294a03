/* SPDX-License-Identifier: Apache-2.0 */
/* The version as text. */
#ifndef RUNTIME_VERSION_H
#define RUNTIME_VERSION_H

#include <libsched.h>

#define RUNTIME_TEXT_OF(x) #x
#define RUNTIME_TEXT(x) RUNTIME_TEXT_OF(x)
#define RUNTIME_VERSION                  \
    RUNTIME_TEXT(LIBSCHED_VERSION_MAJOR) \
    "." RUNTIME_TEXT(LIBSCHED_VERSION_MINOR) "." RUNTIME_TEXT(LIBSCHED_VERSION_PATCH)

#endif
