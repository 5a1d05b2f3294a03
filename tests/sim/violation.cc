/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/violation.h"

#include <cstdarg>
#include <cstdio>

namespace sim
{

void violate(const char *check, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    std::vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    throw Violation{check, text};
}

} // namespace sim
