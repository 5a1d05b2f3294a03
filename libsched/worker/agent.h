/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent: a worker's own side. It takes commands from the ring, runs engines on the device,
 * and sends events.
 *
 * One thread does all of it, in a process of its own (sched-worker) or in the host's; a second
 * one listens meanwhile (control.h), a third one watches the device (monitor.h). The files: agent.c
 * the loop, agent_models.c loading, agent_items.c the items of sessions, agent_step.c running a
 * step, agent_host.c what an engine may call, agent_results.c its result memory, agent_events.c
 * what is sent, agent_rank.c the rank of a job, agent_rank_host.c what a program may call and
 * agent_gang.c what is kept for the next job; agent_share.c a load with others.
 */
#ifndef WORKER_AGENT_H
#define WORKER_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/device.h>
#include <libsched/engine.h>
#include <libsched/status.h>

#include "worker/channel.h"
#include "worker/control.h"
#include "worker/heap.h"
#include "worker/id_map.h"
#include "worker/monitor.h"
#include "worker/protocol.h"
#include "worker/ring.h"
#include "worker/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the agent is given; it closes none of it. */
struct agent_descriptors {
    int control, memory, results, wake_worker, wake_host;
    int host; /* pidfd of the host; -1: the agent is a thread of the host */
};

/* Runs a worker until it is told to stop. LIBSCHED_OK then, or what ended it, which the channel's
 * last words tell too. */
int agent_run(const struct agent_descriptors *descriptors, libsched_error *err);

/* ------------------------------------------------------------------ between the agent's files */

struct agent_model {
    uint32_t key;
    bool prepare_only;
    char name[LIBSCHED_NAME_SIZE];
    const libsched_engine *engine;
    libsched_engine_model *model;
    libsched_engine_description description;
};

/* An output that was made, and not yet sent. */
struct agent_output {
    struct agent_output *next;
    struct heap_block *block;
    char name[LIBSCHED_NAME_SIZE];
    uint32_t datatype, rank;
    int64_t shape[LIBSCHED_MAX_RANK];
    uint64_t size;
};

/* The memory of items that joined together; freed with the last of them. */
struct agent_joins {
    uint32_t users;
    unsigned char *record; /* their names and strings lie in it */
    size_t record_capacity;
};

struct agent_item {
    libsched_item item; /* the first: engines know the item by its address */
    struct agent_item *previous, *next;
    struct agent_joins *joins;
    struct agent_model *model;
    struct control_segment **segments; /* of its inputs */
    uint64_t batch;
    uint32_t slot;
    bool seen;  /* an engine was called with it */
    bool ended; /* its end was sent */
    uint32_t n_outputs;
    struct agent_output *outputs, *last_output;
};

/* Steps that an engine may have under way. */
#define AGENT_STEPS 2u

struct agent_step {
    struct protocol_run run;
    struct agent_model *model;
    libsched_item **items;
    uint32_t n_items, capacity;
    libsched_engine_batch batch;
    uint64_t begin;
};

struct agent {
    const struct agent_descriptors *fds;
    char name[LIBSCHED_NAME_SIZE];
    char *plugin_path;
    uint32_t threads;

    struct channel channel;
    struct ring commands, events;
    struct wire_writer out;
    bool unannounced;      /* something was sent since the host was last woken */
    unsigned char *record; /* the command under way */
    size_t record_capacity;
    unsigned char *spare_record; /* the memory of one before, for the next; NULL: none */
    size_t spare_capacity;

    struct control *control;
    struct control_segment *last_segment; /* most tensors lie where the one before did */
    libsched_device *device;
    struct monitor *monitor; /* NULL: it has no instruments */
    struct id_map models;    /* key to struct agent_model */
    struct id_map items;     /* id to struct agent_item */
    struct agent_item *first_item;
    uint32_t cancellations; /* seen */

    /* Result memory. A handle stands for the blocks of one event. */
    unsigned char *results;
    struct heap heap;
    struct heap_block **handles; /* CHANNEL_RESULTS: blocks of each, by sibling */
    uint32_t *free_handles;
    uint32_t n_free_handles;
    uint64_t released;   /* seen */
    uint64_t wait_until; /* for room, in this call of an engine; 0: did not wait yet */
    struct agent_output *spare_outputs;

    /* Those that are under way, from first_step on. */
    struct agent_step steps[AGENT_STEPS];
    uint32_t first_step, n_steps;
    struct agent_step *step; /* the one that the engine is called for */
    uint64_t last_end;       /* of the step before */

    struct agent_rank *rank;
    struct agent_share *share;
};

/* The agent's own end: leaves last words, and answers `status`. */
int agent_fail(struct agent *agent, int status, const char *format, ...) LIBSCHED_PRINTF(3, 4);

/* Tells the device of memory that requests' inputs or results will lie in for long. */
int agent_tell_memory(struct agent *agent, void *memory, uint64_t size, bool writable);

uint64_t agent_now(void);
bool agent_must_stop(const struct agent *agent);

/* agent_events.c: write into agent->out, then send. Waits for room while the host reads; what is
 * left when the agent must stop is lost. */
void agent_send(struct agent *agent, enum protocol_event type);
/* Wakes the host if it sleeps and there is something for it. */
void agent_wake_host(struct agent *agent);
void agent_log(struct agent *agent, const char *format, ...) LIBSCHED_PRINTF(2, 3);
/* Sleeps until the host rings or `until` (0: for ever). */
void agent_sleep(struct agent *agent, uint64_t until);

/* agent_results.c */
int agent_results_open(struct agent *agent, libsched_error *err);
void agent_results_close(struct agent *agent);
void agent_results_collect(struct agent *agent);
/* NULL and a message: larger than the memory, or no room within the time. */
struct agent_output *agent_results_take(struct agent *agent, uint64_t size, libsched_error *err);
void agent_results_drop(struct agent *agent, struct agent_output *outputs);
/* Writes the outputs into agent->out under a handle, and frees their records. */
int agent_results_put(struct agent *agent, struct agent_item *item, libsched_error *err);

/* agent_models.c */
int agent_load(struct agent *agent, struct wire_reader *reader);
int agent_unload(struct agent *agent, uint32_t key);
void agent_models_close(struct agent *agent);
struct agent_model *agent_model_find(const struct agent *agent, uint32_t key);

/* agent_items.c. An item is put into agent->items when it joins. */
int agent_items_join(struct agent *agent, struct wire_reader *reader,
                     const struct protocol_run *run, struct agent_model *model);
struct agent_item *agent_item_find(const struct agent *agent, uint64_t id, uint64_t batch);
/* Tells the engine that an item goes without the engine's having ended it. */
void agent_item_leave(struct agent_item *item);
/* Takes an item out of its session without an end, and says so. */
void agent_item_drop(struct agent *agent, struct agent_item *item);
/* Without the outputs that were made. */
void agent_item_clear(struct agent *agent, struct agent_item *item);
/* Sends an item's end. `error` may be NULL with LIBSCHED_OK. */
void agent_item_end(struct agent *agent, struct agent_item *item, int status, const char *message);
/* Takes an item out that has ended. */
void agent_item_remove(struct agent *agent, struct agent_item *item);
void agent_items_drop_batch(struct agent *agent, uint64_t batch);
void agent_items_drop_model(struct agent *agent, const struct agent_model *model);
void agent_items_drop_all(struct agent *agent);
/* Brings `cancelled` of the step's items up to date. */
void agent_items_refresh(struct agent *agent);
int agent_drop_segment(struct agent *agent, uint32_t id);
/* One user less; the last one's going unmaps a segment that was dropped. */
void agent_release_segment(struct agent *agent, struct control_segment *segment);

/* agent_step.c */
int agent_step(struct agent *agent, struct wire_reader *reader);
/* Waits until at most `n` steps are under way. */
int agent_steps_finish(struct agent *agent, uint32_t n);
/* Goes on with those that are; `*over`: one of them is. */
int agent_steps_go_on(struct agent *agent, bool *over);
void agent_steps_free(struct agent *agent);

/* What an engine or a program answered, made a status of ours with a message. `what` is which of
 * them. */
int agent_known_status(int status, const char *what, libsched_error *err);

/* agent_rank.c */
int agent_rank_open(struct agent *agent, libsched_error *err);
/* Closes a rank that is still there, without an event. */
void agent_rank_end(struct agent *agent);
/* Once the ear has stopped. */
void agent_rank_free(struct agent *agent);
/* Called by the ear (control.h). */
void agent_rank_cancel(struct agent *agent, uint64_t job);
int agent_rank_check(struct agent *agent, struct wire_reader *reader);
int agent_rank_start(struct agent *agent, struct wire_reader *reader);
int agent_rank_id(struct agent *agent, struct wire_reader *reader);
int agent_rank_go(struct agent *agent, struct wire_reader *reader);
int agent_rank_step(struct agent *agent, struct wire_reader *reader);
int agent_rank_close(struct agent *agent, struct wire_reader *reader);
/* When the progress that is held back may be sent; 0: there is none. */
uint64_t agent_rank_due(const struct agent *agent);
/* Sends it. */
void agent_rank_flush(struct agent *agent);

/* agent_models.c */
void agent_report_memory(struct agent *agent);

/* agent_host.c */
extern const libsched_engine_host agent_host;

#ifdef __cplusplus
}
#endif

#endif
