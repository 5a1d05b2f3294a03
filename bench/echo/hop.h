/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second process behind the echo: numbers go to it over a ring in shared memory and come back
 * over another, as batches go to a worker. Both sides look for a while before they sleep, and wake
 * the other only when it sleeps.
 */
#ifndef BENCH_ECHO_HOP_H
#define BENCH_ECHO_HOP_H

#include <stdbool.h>
#include <stdint.h>

struct hop;

/* Starts the process, which spins for `spin_us` before it sleeps and ends with its parent. NULL,
 * with errno set, where that fails. */
struct hop *hop_start(uint32_t spin_us);

/* Sends a number. Never full: at most HOP_MAX are under way. */
#define HOP_MAX 65536
void hop_send(struct hop *hop, uint32_t number);

/* Takes a number that came back; false when there is none. */
bool hop_receive(struct hop *hop, uint32_t *number);

/* Before sleeping on hop_fd(): true where something has come back meanwhile. */
bool hop_arm(struct hop *hop);
void hop_awake(struct hop *hop);
int hop_fd(const struct hop *hop);

#endif
