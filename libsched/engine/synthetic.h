/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine "synthetic": imitates a device, for load tests and for trying things out. A step of
 * n units takes a + b·n of time, in which nothing is computed, and answers a checksum of what each
 * request brought.
 *
 * Input    data      UINT8 [-1]  anything, also nothing
 * Outputs  checksum  UINT64 [1]  length + Σ wᵢ·(2i + 1) modulo 2⁶⁴, where wᵢ are the data's
 *                                little-endian 64-bit words, the last one filled up with zeros
 *          part      UINT32 [1]  1, 2, 3 ...; only for a request with "parts"
 *          data      UINT8 [-1]  the input again; only for a request with "echo"
 *
 * Parameters of a model, all optional:
 *   a_us, b_us           int or float: a step takes a_us + b_us · units microseconds; 0
 *   units                units of a request, before its bytes count; 1
 *   units_per_kib        further units for each KiB of input; 0
 *   max_batch_requests   64
 *   max_batch_units      2³²
 *   max_request_units    2³²
 *   stream               bool, false: requests with "parts" are refused, and every request ends in
 *                        its first step; true
 *   prepare_us           requests go through prepare(), which takes so long for a batch and counts
 *                        their units; absent: there is no prepare()
 *   spin_us              the last part of a wait that is spent looking at the clock rather than
 *                        asleep: more precise, and it takes the core away from others; 0
 *   load_us              loading takes so long; 0
 *   memory_bytes, memory_per_unit   as the description has them; 0
 *   fit_units            a step of more units answers that it has no memory; 0: all fit
 *   fault_folder         a folder where "fault_once" keeps its marks
 *
 * Parameters of a request, all optional:
 *   units        int: what it costs, rather than what the model's parameters say. The scheduler
 *                learns of it only where there is a prepare(); else it is surprised.
 *   parts        int: answers in so many parts, one a step. The last comes with the end.
 *   echo         bool: the data comes back
 *   fault        string: what goes wrong in its first step:
 *                  "exit", "abort", "segv", "kill"   the worker ends so
 *                  "hang"                            the step never ends
 *                  "error"                           the request alone fails
 *                  "fail"                            the whole step fails
 *                  "no_memory"                       the whole step does not fit
 *                  "device_lost"                     the device is gone
 *   fault_once   string: only if the file of this name is not in fault_folder, which is made then;
 *                so that a fault strikes once, whatever worker runs the retry
 *   fault_part   int: strikes in the step that makes this part; 1
 *
 * Whoever may submit a request to such a model can end its worker: it is not for production. In a
 * worker that is a thread, "exit", "abort", "segv" and "kill" end the program and "hang" can't be
 * ended.
 *
 * Time. A step ends at a time on the clock, not after a sleep: where one step follows the other at
 * once, what a sleep took too long is taken off the next.
 */
#ifndef ENGINE_SYNTHETIC_H
#define ENGINE_SYNTHETIC_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The table lives as long as the process. */
const libsched_engine *engine_synthetic(void);

/* The checksum that the engine answers. */
uint64_t synthetic_checksum(const void *data, uint64_t size);

#ifdef __cplusplus
}
#endif

#endif
