/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The account of a job's results: named values, of which one given again replaces the one before.
 * Both sides keep it, the worker so as to refuse what is too much, the host so as to believe no
 * worker.
 */
#ifndef WORKER_LEDGER_H
#define WORKER_LEDGER_H

#include <stddef.h>

#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Names, strings and a little for each value, together. */
#define LEDGER_MAX_BYTES ((size_t)64 << 10)

struct ledger_entry {
    char *name;
    size_t bytes;
};

/* All zero is an empty account. */
struct ledger {
    struct ledger_entry *entries;
    size_t n, capacity;
    size_t bytes;
};

/* Enters a value. LIBSCHED_EINVAL: it is no parameter; LIBSCHED_ETOOBIG: no room for it;
 * LIBSCHED_ENOMEM. */
int ledger_put(struct ledger *ledger, const libsched_parameter *value, libsched_error *err);

/* Empties it. */
void ledger_free(struct ledger *ledger);

#ifdef __cplusplus
}
#endif

#endif
