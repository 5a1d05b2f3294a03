/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>

#include "runtime/internal.h"

void runtime_log(const libsched *s, int level, const char *format, ...)
{
    if (s->options.log == NULL)
        return;
    char line[2 * LIBSCHED_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    s->options.log(s->options.log_payload, level, line);
}
