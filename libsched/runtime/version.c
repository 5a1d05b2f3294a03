/* SPDX-License-Identifier: Apache-2.0 */
#include "runtime/version.h"

const char *libsched_version(void)
{
    return RUNTIME_VERSION;
}
