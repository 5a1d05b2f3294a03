/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel: the shared memory between the scheduler's process and one incarnation of a worker.
 *
 * One memfd, sealed against resizing: a header, the flags of cancelled items, the ring of results
 * given back, the ring of commands, the ring of events. Both sides write into the header who they
 * are; a worker from another build is refused before anything else is read.
 *
 * Descriptors of a worker process, beside 0, 1 and 2:
 *   3  the control socket (SOCK_SEQPACKET): brings segments; its end is the host's death
 *   4  the channel's memfd     5  the result memory's memfd
 *   6  eventfd that wakes the worker     7  eventfd that wakes the host
 *   8  pidfd of the host
 */
#ifndef WORKER_CHANNEL_H
#define WORKER_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/engine.h>
#include <libsched/readings.h>
#include <libsched/status.h>

#include "worker/ring.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CHANNEL_MAGIC UINT64_C(0x31304B5257444853)
/* Raised with any change to the header or to the records. */
#define CHANNEL_ABI 4

enum channel_descriptor {
    CHANNEL_FD_CONTROL = 3,
    CHANNEL_FD_MEMORY,
    CHANNEL_FD_RESULTS,
    CHANNEL_FD_WAKE_WORKER,
    CHANNEL_FD_WAKE_HOST,
    CHANNEL_FD_HOST,
    CHANNEL_FD_END
};

/* Items that may be in a worker at a time; results not yet given back. */
#define CHANNEL_ITEMS (64u * 1024)
#define CHANNEL_RESULTS (64u * 1024)
/* The rings are taken as they are used; the largest step (4096 items of 16 tensors with full names,
 * and WORKER_MAX_PARAMETER_BYTES of parameters each) is 43 MiB. */
#define CHANNEL_COMMAND_BYTES (UINT64_C(64) << 20)
#define CHANNEL_EVENT_BYTES (UINT64_C(1) << 20)

/* Who a side is. */
struct channel_identity {
    uint64_t magic;
    uint32_t abi;
    uint32_t engine_abi;
    uint32_t header_size;
    uint32_t description_size; /* sizeof(libsched_engine_description) */
    uint64_t epoch;
};

/* What a worker has to say before it ends by itself. */
struct channel_last_words {
    uint32_t spoken;
    int32_t status;
    char text[LIBSCHED_MESSAGE_SIZE];
};

#define CHANNEL_READING_WORDS ((sizeof(libsched_device_readings) + 7) / 8)

/* What the device's instruments showed last: written by the worker as it likes, read by the host
 * when somebody asks, and neither waits for the other. */
struct channel_readings {
    uint64_t version; /* odd while they are written; 0: there are none yet */
    uint64_t read_at;
    uint64_t words[CHANNEL_READING_WORDS];
};

struct channel_header {
    /* The beginning is laid out alike in every version. */
    struct channel_identity host;
    struct channel_identity worker;
    struct channel_last_words last_words;

    struct ring_control commands; /* host to worker */
    struct ring_control events;   /* worker to host */

    /* Results given back: handles, host to worker. The worker never has more than
     * CHANNEL_RESULTS outside, so it can't overflow. */
    uint64_t released __attribute__((aligned(64))); /* handles ever put in */
    uint32_t wants_room __attribute__((aligned(64)));

    /* Written by the host. */
    uint64_t result_bytes __attribute__((aligned(64)));
    uint32_t spin_us;
    uint32_t stop;      /* end after the command under way */
    uint32_t cancelled; /* counts cancellations */

    struct channel_readings readings __attribute__((aligned(64)));
};

struct channel {
    struct channel_header *header;
    unsigned char *cancelled; /* CHANNEL_ITEMS flags, by an item's slot */
    uint32_t *released;       /* CHANNEL_RESULTS handles */
    unsigned char *command_data, *event_data;
};

/* Bytes of the whole. */
uint64_t channel_size(void);

/* Makes the memfd, maps it and writes the host's identity. The caller closes `*fd`. */
int channel_create(struct channel *channel, int *fd, uint64_t epoch, uint64_t result_bytes,
                   libsched_error *err);

/* The worker's side: maps it and writes the worker's identity, then checks the host's. On
 * LIBSCHED_EPROTOCOL it stays mapped so that the last words can be left there. */
int channel_attach(struct channel *channel, int fd, libsched_error *err);

/* The host's check of the worker's identity. */
int channel_check_worker(const struct channel *channel, uint64_t epoch, libsched_error *err);

void channel_detach(struct channel *channel);

/* Leaves a message for the host, before the worker ends. */
void channel_speak(struct channel *channel, int status, const char *text);
/* Copies it; false where there is none. The status is one of libsched_status. */
bool channel_read_last_words(const struct channel *channel, libsched_error *out);

/* The worker's side; one thread's. */
void channel_put_readings(struct channel *channel, const libsched_device_readings *readings,
                          uint64_t now);
/* The host's: a copy, in which every number is what the worker wrote and every string ends. False
 * where there is none, or the worker never lets go of it. */
bool channel_get_readings(const struct channel *channel, libsched_device_readings *out,
                          uint64_t *read_at);

/* Writes to an eventfd. */
void channel_wake(int eventfd);

#ifdef __cplusplus
}
#endif

#endif
