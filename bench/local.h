/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scheduler in this process, with workers that are processes and imitate a device, for benchmarks
 * that know libsched.h only; and the clock and the random numbers that go with it. Whatever fails
 * ends the program.
 */
#ifndef BENCH_LOCAL_H
#define BENCH_LOCAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched.h>

/* A device that is imitated: a step of n requests takes a_us + b_us · n. */
struct local_model {
    const char *name;
    int64_t a_us, b_us;
    int64_t max_batch;    /* requests in a step */
    uint32_t queue_limit; /* 0: the library's */
    bool stream;          /* its requests may take several steps */
};

/* The parameters of the engine. */
#define LOCAL_PARAMETERS 5
void local_parameters(const struct local_model *model, libsched_parameter out[LOCAL_PARAMETERS]);

/* So that the clock is kept to as closely as the kernel can. */
void local_be_punctual(void);

libsched *local_open(uint32_t cpu_devices);
/* Loads it and waits until it is ready. */
void local_load(libsched *s, const struct local_model *model);

void local_relax(void);
/* Sleeps until `fd` is readable, or shortly before `until`: a sleep ends late, so the rest of the
 * wait had better be spent looking at the clock. False where it is not worth a sleep. */
bool local_sleep(int fd, uint64_t until);

/* The times at which requests come that do not know of each other (Poisson): so many a second, for
 * so long, after `begin`. To be freed. */
uint64_t *local_arrivals(double per_s, double seconds, uint64_t begin, uint64_t seed, size_t *n);

/* Of `n` values, which are sorted: that which p percent do not exceed; 0 where there are none. */
double local_percentile(double *values, size_t n, double p);

_Noreturn void local_die(const char *what, const char *why);

#endif
