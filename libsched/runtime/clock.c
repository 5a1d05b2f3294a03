/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "runtime/internal.h"

uint64_t libsched_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t runtime_now(libsched *s)
{
    s->now = libsched_now();
    return s->now;
}
