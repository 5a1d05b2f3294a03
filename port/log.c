/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>

static int log_level = LIBSCHED_LOG_WARNING;

void port_log_set_level(int level)
{
    log_level = level;
}

void port_log_line(void *payload, int level, const char *line)
{
    static const char *const names[] = {"", "error", "warning", "info"};
    (void)payload;
    if (level > log_level)
        return;
    fprintf(stderr, "sched-port: %s: %s\n", level >= 1 && level <= 3 ? names[level] : "log", line);
}

void port_log(int level, const char *format, ...)
{
    char line[512];
    va_list args;
    if (level > log_level)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    port_log_line(NULL, level, line);
}
