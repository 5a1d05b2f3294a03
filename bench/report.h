/* SPDX-License-Identifier: Apache-2.0 */
/* What a benchmark in C prints: a table for people, or one JSON object, as ./dev bench promises. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

struct report;

/* Results are printed with their params as columns. */
struct report *report_open(const char *bench, bool json);
/* A further fact about the machine. */
void report_machine(struct report *report, const char *key, const char *value);
/* A result; `params` is taken over, and `baseline` 0 where there is none. In a table the line is
 * printed at once, under a head of its own where the params are others than in the line before. */
void report_add(struct report *report, const char *metric, json_t *params, double value,
                const char *unit, double baseline);
/* Prints what is left, and frees it. */
void report_close(struct report *report);

#endif
