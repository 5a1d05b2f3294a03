/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scheduler that is made up, behind the functions of libsched.h: sched-port is linked with it to
 * be tested without workers, and with answers that a real one gives rarely.
 *
 * It has these models, whose inputs are all optional (text BYTES[-1], ids INT64[-1,-1],
 * values FP32[-1,-1], half FP16[-1], small INT8[-1], mask BOOL[-1]):
 *
 *   echo     ends at once; its outputs are its inputs
 *   parts    sends as many parts as its parameter n says, under credit, then ends
 *   stuck    ends when it is cancelled, or its deadline passes (looked at when it is called)
 *   big      ends at once with one output of as many bytes as its parameter says
 *   full     refuses each request with LIBSCHED_EQUEUEFULL, to come back after 7 ms
 *   broken   ends at once with LIBSCHED_EENGINE
 *   liar     ends at once with a BYTES output whose lengths reach beyond it
 *
 * It has these programs: "done" ends at once, "fail" likewise with LIBSCHED_EENGINE, "wait" (and a
 * reservation) runs until it is cancelled or released; "full" is refused with LIBSCHED_EBUSY.
 *
 * A model that is loaded stays "loading" until fake_finish_load(), unless its engine is "instant".
 */
#ifndef TESTS_FAKE_LIBSCHED_H
#define TESTS_FAKE_LIBSCHED_H

#include <libsched.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The load of a model ends, well or with a status. Callable from any thread. */
void fake_finish_load(const char *name, int status);

/* Buffers that have not been released, and completions likewise. */
int fake_buffers(void);
int fake_completions(void);

/* What libsched_spin_budget() answers; 20 us if nothing was set. */
void fake_set_spin_budget(uint64_t ns);

/* There is a GPU "gpu:0" too, whose instruments show that; with struct_size 0 there is none. */
void fake_add_gpu(const libsched_device_readings *readings);

/* How many inputs of the last request were given in place (in a buffer). */
int fake_inputs_in_place(void);

#ifdef __cplusplus
}
#endif

#endif
