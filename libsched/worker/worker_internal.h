/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler's side of a worker, between its files: worker.c starts and ends it,
 * worker_commands.c tells it what to do, worker_events.c hears what became of it, worker_rank.c
 * does both for the ranks of jobs, worker_results.c keeps account of its results.
 */
#ifndef WORKER_WORKER_INTERNAL_H
#define WORKER_WORKER_INTERNAL_H

#include <pthread.h>

#include "worker/agent.h"
#include "worker/channel.h"
#include "worker/id_map.h"
#include "worker/ledger.h"
#include "worker/ring.h"
#include "worker/wire.h"
#include "worker/worker.h"

/* What outlives the worker as long as somebody holds its results. */
struct incarnation {
    uint64_t users; /* the worker itself, and results not released */
    struct channel channel;
    const unsigned char *results;
    uint64_t result_bytes;
    uint64_t released; /* handles given back */
    int wake_worker;   /* -1 once the worker has gone */
};

struct worker_results {
    struct incarnation *incarnation;
    uint32_t handle;
    libsched_tensor outputs[]; /* their names lie behind them */
};

/* An item that is in the worker. */
struct worker_entry {
    uint64_t batch;
    uint32_t next; /* among the slots that are free */
};

/* The rank that is in the worker, as far as the host has told it and heard of it. */
struct worker_rank_state {
    bool present;
    uint64_t job;
    uint32_t rank, n_ranks;
    bool starting, stepping, closing; /* commands that are not answered yet */
    bool finished, failed;
    bool had_id;         /* of rank 0 */
    bool asked;          /* whether it has the communicator of the job before */
    bool told, has_kept; /* its answer */
    uint64_t step;
    struct ledger results;
};

struct worker {
    char name[LIBSCHED_NAME_SIZE];
    uint64_t epoch;
    struct incarnation *incarnation;
    struct ring commands, events;
    int control, wake_worker, wake_host, epoll;
    int exited; /* readable once it has: a pidfd, or an eventfd of the thread */

    bool is_thread;
    pid_t pid;
    pthread_t thread;
    struct agent_descriptors thread_fds;
    libsched_error thread_error;

    /* Items, by id; a slot is its place here and its flag's in the channel. */
    struct id_map items;
    struct worker_entry *entries;
    uint32_t free_slot, n_slots, n_used;
    struct id_map segments; /* id to the number under which it was passed */
    uint32_t next_passing;
    struct worker_rank_state rank;
    uint64_t share; /* the last load with others that it was told of; 0: none */
    bool makes_id;  /* for those with whom it loads a model */
    uint32_t makes_id_for;
    struct id_map checks; /* jobs whose parameters it is checking */

    struct wire_writer out;
    unsigned char *record; /* the event under way */
    size_t record_capacity;
    libsched_engine_description description;
    libsched_parameter result;

    /* Wake-ups: whether the flag was set, and how many writes to the eventfd are owed for it. */
    bool armed;
    uint32_t owed, events_since_arm;
    uint32_t looked; /* in vain, since its exit was last asked for */
    bool ask_for_exit;

    bool stopped;  /* asked to end */
    bool killed;   /* asked to end at once */
    bool up;       /* said so */
    bool has_gone; /* its exit was seen, and collected */
    bool is_down;  /* WORKER_DOWN was given out */
    bool faulty;   /* spoke nonsense: fault says what */
    libsched_error fault;
    libsched_error end; /* how it ended */
    int end_status;
};

#define WORKER_NO_SLOT UINT32_MAX

void worker_ring_bell(struct worker *worker);

/* worker_results.c */
struct incarnation *worker_incarnation_new(uint64_t epoch, uint64_t result_bytes, int *memory,
                                           int *results, libsched_error *err);
void worker_incarnation_release(struct incarnation *incarnation);
/* Reads an event's outputs; false where they are nonsense, and `err` says what. */
bool worker_results_read(struct worker *worker, struct wire_reader *reader,
                         struct worker_event *event, libsched_error *err);

/* worker.c: whether it has exited; then how is in worker->end. */
bool worker_look_for_exit(struct worker *worker, bool wait);

/* worker_commands.c: frees an item's slot; false where the item is not in that batch. */
bool worker_forget_item(struct worker *worker, uint64_t id, uint64_t batch);
bool worker_has_item(const struct worker *worker, uint64_t id, uint64_t batch);
int worker_send_setup(struct worker *worker, const struct worker_options *options,
                      libsched_error *err);
/* Passes what `n_ranks` (more than one) find each other by; *number is that under which the worker
 * knows it. */
int worker_pass_shared(struct worker *worker, uint32_t n_ranks, struct segment *shared,
                       uint32_t *number, libsched_error *err);
int worker_check_alive(const struct worker *worker, libsched_error *err);
/* Sends what was written into worker->out. */
int worker_send_command(struct worker *worker, enum protocol_command type, libsched_error *err);
/* Passes a segment that the worker does not have yet; its number is in worker->segments then. */
int worker_pass_segment(struct worker *worker, const struct segment *segment, libsched_error *err);
/* Sends a message over the control socket, with a descriptor for each of its `n` segments, or
 * without any (PROTOCOL_CANCEL). */
int worker_send_control(struct worker *worker, const struct protocol_segment *messages, uint32_t n,
                        const int *fds, uint32_t n_fds, libsched_error *err);

/* worker_events.c: copies a message and the status it goes with; false where the status is none. */
bool worker_read_status(struct wire_reader *reader, struct worker_event *event);
/* Nothing has ended in the future, nor before it began. */
void worker_read_times(struct wire_reader *reader, struct worker_event *event);

/* worker_rank.c: reads the events of ranks; false where they are nonsense. */
bool worker_rank_read(struct worker *worker, enum protocol_event type, struct wire_reader *reader,
                      struct worker_event *event, libsched_error *err);
/* Lets the rank that is in the worker, if there is one, hear that its job is cancelled. */
int worker_rank_interrupt(struct worker *worker, libsched_error *err);

#endif
