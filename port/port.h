/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of sched-port, and what its parts offer each other.
 *
 *   loop         waits, reads, lets libsched work, writes
 *   dispatch     a frame: checks it, lists its ids, hands each message to its method
 *   methods      method_infer.c, method_models.c, method_jobs.c, method_status.c, method_lease.c,
 *                method_histograms.c
 *   completions  what libsched has finished becomes responses and notifications
 */
#ifndef PORT_PORT_H
#define PORT_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include <msgpack.h>

#include <libsched.h>

#include "frame_check.h"
#include "frame_reader.h"
#include "frame_writer.h"
#include "held.h"
#include "lease.h"
#include "options.h"
#include "overload.h"
#include "request_table.h"
#include "waiters.h"

#define PORT_PROTOCOL 1
/* A response larger than this is an error instead: a frame of 2 GiB ends the Erlang node. */
#define PORT_MAX_REPLY ((uint64_t)64 << 20)
/* No results are fetched and no requests read while so much waits to be read by the other side. */
#define PORT_MAX_BACKLOG ((size_t)16 << 20)
/* Devices whose names are kept. */
#define PORT_NAMED_DEVICES 64

struct port_counters {
    uint64_t messages_in, bad_frames, parts_out, sleeps;
};

struct port {
    const struct port_options *options;
    libsched *sched;
    struct frame_reader reader;
    struct frame_writer writer;
    struct request_table requests;
    struct lease_table leases;
    struct waiters waiters;
    struct held held;
    struct overload overload;
    /* The frame at hand, and which of its messages is to be carried out next. */
    struct frame frame;
    struct message_list messages;
    size_t next_message;
    msgpack_zone zone; /* its decoded values, and what is converted from them */
    struct port_counters counters;
    uint64_t now;       /* libsched_now(), as of this round of the loop */
    uint32_t in_flight; /* requests that libsched has */
    bool draining;
    char device_names[PORT_NAMED_DEVICES][LIBSCHED_NAME_SIZE]; /* as they were needed */

    /* The description looked up last; libsched's, and valid until it is called to work. */
    struct {
        char name[LIBSCHED_NAME_SIZE];
        const libsched_tensor_spec *specs;
        uint32_t n_specs;
    } described;
};

/* A message at hand. */
struct message {
    const struct frame *frame; /* NULL: it had been held */
    const uint8_t *data;       /* its bytes */
    size_t size;
    uint32_t index; /* of the request; REQUEST_NONE for a notification */
    uint32_t n_params;
    const msgpack_object *params;
};

/* ---------------------------------------------------------------------------------- dispatch.c */

/* Carries out a frame, or answers that it is bad. False where some of its messages are left: their
 * answers would be more than may wait to be read. It has to stay valid until they are done. */
bool dispatch_frame(struct port *p, const struct frame *frame);
/* Goes on with the frame at hand; the same answer. True where there is none. */
bool dispatch_rest(struct port *p);
/* Decodes a request that had been held, and carries it out as if it had just come. */
void dispatch_held(struct port *p, uint32_t index, const uint8_t *data, size_t size);

/* ------------------------------------------------------------------------------------- methods */

/* They answer the request themselves, now or when it is done. */
void method_infer(struct port *p, const struct message *m);
void method_load(struct port *p, const struct message *m);
void method_unload(struct port *p, const struct message *m);
void method_wait_ready(struct port *p, const struct message *m);
void method_models(struct port *p, const struct message *m);
void method_devices(struct port *p, const struct message *m);
void method_stats(struct port *p, const struct message *m);
void method_histograms(struct port *p, const struct message *m);
void method_drain(struct port *p, const struct message *m);
void method_ping(struct port *p, const struct message *m);
void method_lease(struct port *p, const struct message *m);
void method_submit(struct port *p, const struct message *m);
void method_reserve(struct port *p, const struct message *m);
void method_release(struct port *p, const struct message *m);
void method_cancel_job(struct port *p, const struct message *m);
void method_job(struct port *p, const struct message *m);
void method_jobs(struct port *p, const struct message *m);

/* Notifications. */
void method_cancel(struct port *p, const struct message *m);
void method_grant(struct port *p, const struct message *m);
void method_lease_write(struct port *p, const struct message *m);
void method_lease_release(struct port *p, const struct message *m);

/* --------------------------------------------------------------------------------- completions */

/* Answers what libsched has finished, as far as the backlog allows; how many there were. */
size_t completions_reap(struct port *p);

/* ---------------------------------------------------------------------------------- describe.c */

/* The values that stand for a model and a device in responses; -1 where it is not there. */
int describe_model(struct port *p, const char *name);
void describe_models(struct port *p);
void describe_devices(struct port *p);
void describe_counters(struct port *p, const libsched_counters *c, uint32_t queued,
                       uint32_t running);
#define DESCRIBE_COUNTERS 14
const char *describe_model_state(uint32_t state);
const char *describe_device_state(uint32_t state);
void describe_device_name(struct port *p, uint32_t index);
void describe_device_names(struct port *p, uint64_t bits);

/* ------------------------------------------------------------------------- describe_readings.c */

void describe_readings(struct port *p, uint32_t device);

/* ------------------------------------------------------------------------------ describe_job.c */

void describe_job(struct port *p, const libsched_job_info *info);
void describe_jobs(struct port *p);
/* What became of one. */
void describe_job_event(struct port *p, const libsched_completion *c);
const char *describe_job_state(uint32_t state);

/* ------------------------------------------------------------------------------------- hello.c */

void hello_send(struct port *p);

/* ------------------------------------------------------------------------------------ timers.c */

/* Does what is due at p->now, and answers when it is to be called again (UINT64_MAX: never). */
uint64_t timers_run(struct port *p);

/* -------------------------------------------------------------------------------------- loop.c */

/* Runs until the input ends, or nobody reads the output any more. The program's exit code. */
int loop_run(struct port *p);

/* -------------------------------------------------------------------------------------- port.c */

int port_open(struct port *p, const struct port_options *options, int fd_in, int fd_out,
              libsched_error *err);
void port_close(struct port *p);

#endif
