/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two descriptors of the stream, kept where nobody else reaches them: a worker that inherited
 * one would keep the stream open after our death, and a library that prints to standard output
 * would break it.
 */
#ifndef PORT_DESCRIPTORS_H
#define PORT_DESCRIPTORS_H

#include <libsched/status.h>

/*
 * Moves the stream's descriptors away from the numbers they came with, closed on exec and
 * non-blocking, asks for pipes of 1 MiB, points standard output to standard error and standard
 * input to /dev/null. The new numbers are in `*in` and `*out`, which name the old ones before.
 */
int descriptors_claim(int *in, int *out, libsched_error *err);

#endif
