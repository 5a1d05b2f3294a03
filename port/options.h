/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of sched-port's command line.
 */
#ifndef PORT_OPTIONS_H
#define PORT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched.h>

struct port_options {
    int fd_in, fd_out;
    uint32_t max_frame_bytes;
    uint32_t spin_us; /* 0: never */
    uint64_t lease_max_bytes;
    uint64_t lease_min_bytes;
    uint32_t lease_expiry_ms;
    int log_level;             /* libsched_log_level; 0: none */
    libsched_options libsched; /* its strings are argv's */
};

enum options_result { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_WRONG };

/* OPTIONS_DONE: --help or --version was answered on standard output; OPTIONS_WRONG: the reason is
 * on standard error. */
enum options_result options_parse(struct port_options *out, int argc, char **argv);

/* A size, as "4096", "64K", "64M" or "2G" gives it. 0; -1 where it is none. */
int options_parse_size(const char *text, uint64_t *out);

#endif
