/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines for people, on standard error.
 */
#ifndef PORT_LOG_H
#define PORT_LOG_H

#include <libsched.h>

/* Lines above this level are dropped; 0 drops all. */
void port_log_set_level(int level);

void port_log(int level, const char *format, ...) LIBSCHED_PRINTF(2, 3);

/* What libsched calls with its lines. */
void port_log_line(void *payload, int level, const char *line);

#endif
