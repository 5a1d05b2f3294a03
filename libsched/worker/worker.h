/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device worker, seen from the scheduler's side: one incarnation, from its start to its exit.
 *
 * A worker runs engines on one device. It is a process (sched-worker) or, for embedding and
 * sanitizers, a thread; it behaves the same to the caller. Commands go to it over a ring in shared
 * memory, events come back over another; a descriptor tells the one who sleeps that there is
 * something. A command never blocks the caller: a full ring is LIBSCHED_EBUSY, and the caller
 * bounds what it has outstanding so that it never happens.
 *
 * What the caller gives a worker it can read (segments); what the worker writes (its result memory)
 * belongs to this incarnation and is given back to the system when the incarnation has ended and
 * the last result was released. Everything that comes from a worker is copied before it is
 * checked, and checked before it is used: a worker that speaks nonsense is killed, and its exit
 * reported like any other.
 *
 * Threads: a worker and its results are used by one thread at a time, whichever that is. A worker
 * does not depend on the thread that started it.
 *
 * The process. It has descriptors of its own only, its standard output is this process's standard
 * error, and it is in a process group of its own, so that a Ctrl-C is not for it. It ends, whatever
 * it is doing, when this process does. Its exit is seen by a pidfd: no signal handler is installed
 * and no other child is waited for. Like any child it gives rise to a SIGCHLD; a program that
 * ignores SIGCHLD, or waits for all children itself, is not told how a worker ended, only that it
 * did. Shared memory is left out of core dumps.
 *
 * The thread takes no signals of the program. A fault in an engine is a fault of the program, and a
 * step that does not end can't be ended: worker_free() then waits for it.
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/device.h>
#include <libsched/engine.h>
#include <libsched/status.h>
#include <libsched/tensor.h>

#include "worker/segment.h"

#ifdef __cplusplus
extern "C" {
#endif

struct worker;

struct worker_options {
    const char *name;        /* of the device, for messages: "cpu:0", "prepare:0" */
    bool thread;             /* a thread rather than a process */
    const char *worker_path; /* absolute path of sched-worker; unused for a thread */
    const char *plugin_path; /* folders for engine and device plugins, or NULL */
    const char *driver;      /* of the device: "cpu", "cuda"; NULL: none (a prepare worker) */
    uint32_t ordinal;        /* the driver's own number for the device */
    const char *pci_bus_id;  /* where it is, which goes before the number; NULL or "": not known */
    const char *cpus;        /* cores to bind to, "0-3,8"; NULL: any */
    uint32_t threads;        /* it may compute with */
    uint32_t spin_us;        /* it looks for work so long before it sleeps; may be changed later */
    uint64_t result_bytes;   /* of its result memory */
    uint64_t epoch;          /* of the incarnation, unlike all before it */
    /* "NAME=VALUE", which a process has beside and before those of this one; NULL behind the last.
     * Unused for a thread. NULL: none. */
    char *const *environment;
};

/* Starts a worker; it comes up in the background (WORKER_UP, or WORKER_DOWN with the reason). */
int worker_start(struct worker **out, const struct worker_options *options, libsched_error *err);

/* Asks it to end after the step it is in. */
void worker_stop(struct worker *worker);
/* Ends it now: SIGKILL. A thread can't be killed: it ends after the step it is in. */
void worker_kill(struct worker *worker);
/* Frees it: kills it first if it still runs, and waits for its exit. Results that are not
 * released stay readable until they are. */
void worker_free(struct worker *worker);

/* Readable when an event may be waiting, once worker_arm() was called. The worker's. */
int worker_fd(const struct worker *worker);
/* Asks for worker_fd() to become readable at the next event. True: one is waiting already. */
bool worker_arm(struct worker *worker);
/* What the instruments of its device showed last, with its age; false where it has not said yet.
 * Also after its exit. */
bool worker_readings(const struct worker *worker, libsched_device_readings *out);
/* From now on the worker's spinning before it sleeps; 0: never. */
void worker_set_spin(struct worker *worker, uint32_t spin_us);
/* 0 for a thread, or once it has exited. */
int worker_pid(const struct worker *worker);

/* ----------------------------------------------------------------------------------- commands */

struct worker_model {
    uint32_t key;        /* the caller's name for it, in this worker */
    const char *name;    /* for messages */
    const char *engine;  /* built in or plugin's name */
    const char *library; /* a plugin's path, or NULL */
    const char *path;    /* as in libsched_engine_open_args */
    const libsched_parameter *parameters;
    uint32_t n_parameters;
    bool prepare_only;
    const struct worker_share *share; /* NULL: it is loaded alone */
};

/*
 * Several workers with a device each load the same model at the same time, and find each other as
 * ranks do: the caller makes a segment for it, tells all of them to load, and passes what comes in
 * WORKER_LOAD_ID from rank 0 on to the others. Whatever goes wrong with that, each answers by
 * WORKER_LOADED what came of its own load. When one of them ends, the others are told by
 * worker_load_interrupt(), that nobody waits for it.
 */
struct worker_share {
    uint64_t id; /* unlike all before it, and not 0 */
    uint32_t rank, n_ranks;
    uint64_t timeout_ns;
    struct segment *shared;
};

int worker_load(struct worker *worker, const struct worker_model *model, libsched_error *err);
/* What rank 0 made; or, with a status, that there will be nothing. */
int worker_load_id(struct worker *worker, uint32_t key, int status,
                   const unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE]);
int worker_load_interrupt(struct worker *worker, uint64_t id, libsched_error *err);
int worker_unload(struct worker *worker, uint32_t key);

/* A tensor that lies in a segment. */
struct worker_tensor {
    const char *name;
    uint32_t datatype, rank;
    int64_t shape[LIBSCHED_MAX_RANK];
    struct segment *segment;
    uint64_t offset, size;
};

/* Names and strings of an item's parameters, together: as long as no item has more, a step of 4096
 * of them fits. Longer ones are taken as far as there is room. */
#define WORKER_MAX_PARAMETER_BYTES 8192u

struct worker_item {
    uint64_t id;
    uint64_t units;
    uint64_t deadline; /* 0: none */
    uint32_t n_inputs, n_parameters;
    const struct worker_tensor *inputs;
    const libsched_parameter *parameters;
};

/*
 * Runs one step (or a prepare batch) of `batch`. Items that join come whole; those that stay from
 * the step before are named by id; those that leave are dropped before it runs; one of the session
 * that is not named stays without running. The answer is WORKER_PART and WORKER_ITEM events, then
 * WORKER_STEP. Where nobody joins or stays no engine is called: those that leave are dropped, with
 * `ends` all others of the session too, and WORKER_STEP comes all the same.
 *
 * A session is over, and all that was left of it dropped, after a step with `ends`, a step that
 * did not answer LIBSCHED_OK, a prepare batch, or a step of a model without LIBSCHED_ENGINE_STEPS.
 *
 * Inputs lie at multiples of 64 in their segments, which are mapped into the worker when they are
 * first named. LIBSCHED_EINVAL: an input that does not, an id that is in the worker already.
 * LIBSCHED_EBUSY: no room now; nothing was sent. LIBSCHED_ETOOBIG: there never will be.
 */
struct worker_step {
    uint64_t batch;
    uint32_t key;  /* of the model */
    uint32_t step; /* 1 begins the session */
    bool prepare;
    bool ends; /* nobody joins or stays, and the session is over */
    uint32_t n_joins, n_stays, n_leaves;
    const struct worker_item *joins;
    const uint64_t *stays, *leaves;
};

int worker_run(struct worker *worker, const struct worker_step *step, libsched_error *err);

/* Sets an item's `cancelled`, also in the middle of a step. An unknown id is ignored. */
void worker_cancel(struct worker *worker, uint64_t id);

/*
 * Jobs: a rank of a program (libsched/engine.h). A worker has at most one rank at a time. Each
 * command is answered by one event: WORKER_RANK_STARTED, WORKER_RANK_STEPPED, WORKER_RANK_CLOSED;
 * WORKER_PROGRESS and WORKER_RESULT, of rank 0 only, come in between.
 *
 * The ranks find each other as follows: the caller makes one segment for the job, by
 * segment_create_shared() and of LIBSCHED_COMMUNICATOR_SHARED_SIZE; it drops it from all workers
 * once the last rank has gone, and uses it for no other job. All ranks are started at once, as
 * each waits for the others, for `timeout_ns` at most; meanwhile its worker does nothing else.
 * Where the driver has communicator ids, WORKER_RANK_ID comes from rank 0 and is passed to each of
 * the others by worker_rank_id(), for which they wait without holding anybody up. All other drivers
 * need no id.
 *
 * A rank is there from worker_rank_start() until WORKER_RANK_CLOSED, or until WORKER_RANK_STARTED
 * with an error, where no close was sent before. One whose start or step fails lets the others of
 * its job fail with LIBSCHED_ECANCELED where they wait for it; each is then to be closed. So where
 * several ranks fail, the reason is the one that is not LIBSCHED_ECANCELED.
 */
struct worker_rank {
    uint64_t job;        /* the caller's key */
    const char *name;    /* for messages */
    const char *program; /* built in or plugin's name */
    const char *library; /* a plugin's path, or NULL */
    const libsched_parameter *parameters;
    uint32_t n_parameters;
    uint32_t rank, n_ranks;
    uint64_t timeout_ns;    /* of collectives */
    struct segment *shared; /* unused where n_ranks is 1 */
    /* A job before had this segment, with the same ranks in these workers and the same timeout, and
     * all of them finished it well: then they should have its communicator still, until the segment
     * is dropped. Each says whether it has, by WORKER_RANK_KEPT, and waits for worker_rank_go(). */
    bool kept;
};

int worker_rank_start(struct worker *worker, const struct worker_rank *rank, libsched_error *err);
/* The id that rank 0 made, for a rank that waits for it. */
int worker_rank_id(struct worker *worker, uint64_t job,
                   const unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE]);
/* When all ranks have said whether they have the communicator of the job before: with `kept` they
 * use it again; else all get a new one, in a segment that is `shared`. LIBSCHED_EINVAL unless the
 * rank has said so, and with `kept` that it has it. */
int worker_rank_go(struct worker *worker, uint64_t job, bool kept, struct segment *shared,
                   libsched_error *err);
/* LIBSCHED_EINVAL unless the rank has started, its last step has ended well and was not its last,
 * and it is not being closed. */
int worker_rank_step(struct worker *worker, uint64_t job, uint64_t step);
/* Ends a rank after the step it is in. `cancelled`: also lets that step (or its start) know, and
 * what it waits for in a collective fail, on all ranks. It may be sent once more with `cancelled`
 * before it was answered, which then happens once. LIBSCHED_ENOENT: there is no such rank (any
 * more). LIBSCHED_EBUSY: to be sent again. */
int worker_rank_close(struct worker *worker, uint64_t job, bool cancelled);

/* Whether a worker that is given `plugin_path` would find a program of that name; asks none, and
 * loads nothing. LIBSCHED_ENOENT says what was looked for. */
int worker_rank_find_program(const char *name, const char *plugin_path, libsched_error *err);

/* Checks a job's parameters, in a worker that prepares: WORKER_RANK_CHECKED, with `job`, status,
 * error, memory_bytes and text. */
int worker_rank_check(struct worker *worker, const struct worker_rank *rank, libsched_error *err);

/* The worker may forget a segment (which the caller then frees). */
void worker_drop_segment(struct worker *worker, const struct segment *segment);

/* ------------------------------------------------------------------------------------- events */

enum worker_event_type {
    WORKER_UP = 1,       /* it may be given commands */
    WORKER_LOADED,       /* key, status, error, description, memory */
    WORKER_UNLOADED,     /* key */
    WORKER_PART,         /* batch, id, outputs */
    WORKER_ITEM,         /* batch, id, status, error, outputs; after a prepare batch also units,
                          * batch_key */
    WORKER_STEP,         /* batch, step, status, error, begin, end: ready for the next */
    WORKER_MEMORY,       /* free_bytes of the device */
    WORKER_LOG,          /* error.message: a line for people */
    WORKER_RANK_CHECKED, /* job, status, error (its message is the program's text, where it is OK),
                          * memory_bytes */
    WORKER_RANK_ID,      /* job, rank_id: what the others find rank 0 by */
    WORKER_RANK_KEPT,    /* job, has_kept, calls: of collectives, the same for all that may go on */
    WORKER_RANK_STARTED, /* job, status, error */
    WORKER_RANK_STEPPED, /* job, step, status, error, finished, begin, end */
    WORKER_RANK_CLOSED,  /* job */
    WORKER_PROGRESS,     /* job, done, total (0, or at least done), error.message: a line for
                          * people; at most 50 a second, of which the last is the latest */
    WORKER_RESULT,       /* job, result */
    WORKER_LOAD_ID,      /* key, status, rank_id: of a load with others, from rank 0 */
    WORKER_FORGOT,       /* it has let communicators go, for want of memory */
    WORKER_DOWN,         /* the last event, once its exit was seen: error says how it ended */
};

/* Result memory of one event; counted in the incarnation. */
struct worker_results;

struct worker_event {
    enum worker_event_type type;
    uint32_t key;
    uint64_t batch;
    uint64_t step;
    uint64_t id;
    uint64_t units;
    uint64_t batch_key; /* with units */
    int status;
    libsched_error error;
    uint64_t begin, end;
    uint64_t memory_bytes, free_bytes;
    uint64_t job, done, total;
    bool finished, has_kept;
    uint64_t calls;
    unsigned char rank_id[LIBSCHED_COMMUNICATOR_ID_SIZE];
    /* Valid until the next worker_next_event(). All of a rank's, of which one replaces the one of
     * its name before, are 64 KiB at most. */
    const libsched_parameter *result;
    /* WORKER_LOADED: valid until the next worker_next_event(). */
    const libsched_engine_description *description;
    /* WORKER_PART, WORKER_ITEM: valid until worker_results_release(results). The names are
     * copies; the data is what the worker can still write to. */
    uint32_t n_outputs;
    libsched_tensor *outputs;
    struct worker_results *results; /* NULL where there are no outputs */
};

/* The next event; false when there is none now. */
bool worker_next_event(struct worker *worker, struct worker_event *event);

/* Gives an event's result memory back; also after worker_free(). NULL is allowed. */
void worker_results_release(struct worker_results *results);

#ifdef __cplusplus
}
#endif

#endif
