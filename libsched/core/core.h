/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core: decides what runs where and when. It does nothing else.
 *
 * No I/O, no clock, no thread, no system call, no floating point: a time in nanoseconds and an
 * event go in, actions come out. The runtime carries the actions out and feeds back what became
 * of them; a simulator does the same with invented workers. The same events give the same actions,
 * to the byte.
 *
 *     core_handle(core, now, &event);            // submit, batch-done, worker-down, timer ...
 *     while (core_next_action(core, &action))    // dispatch, load, reply, arm-timer ...
 *         carry_out(&action);
 *
 * The vocabulary is the contract; the policy behind it may be replaced without touching anybody.
 *
 * core_next_action() is called until it says false after every event, or after several: what is
 * decided is decided there, so events taken in together are decided upon together. Events may also
 * be taken in between two actions.
 *
 * Devices. A device is a place where batches run, one step at a time (or `depth`). It is up in
 * one incarnation of its worker, its epoch, that worker-up names; an event that carries another
 * epoch than the device's present one is stale, and ignored. A device of kind PREPARE runs
 * nothing but prepare batches.
 *
 * A request's life: submit → [prepare queue → prepare batch → prepared] → queue → session of steps
 * (parts) → exactly one reply. A deadline is looked at until a request is dispatched and, where it
 * takes several steps, between them; a step that has begun is not cut short by it. A request that
 * was cancelled in a batch is answered once the worker has let go of it: with its item-done, or
 * with the step by which it leaves.
 *
 * A session: dispatch names its first items and starts step 1. After every step-done the core
 * gives the next step (who runs in it, who joins, who leaves) or, nobody being left, ends the
 * session. Items end by item-done, before the step-done of their step. A one-shot model's session
 * ends with its first step-done, without a further action, and so does every session with a step
 * that failed: the worker drops what it holds of it.
 *   - Sessions of different models live on a device side by side and take turns, step by step.
 *     While it is another's turn nothing is said to a session; its items stay.
 *   - An item of the session that a step neither names as running nor as leaving stays in the
 *     session without running. So it is with one without credit for parts, or for which there was
 *     no room in the step's limits; a session none of whose items may run waits, and the device
 *     does others' work meanwhile. (It keeps the memory of its items, until they are granted
 *     more, cancelled, or their deadline passes.)
 *   - A step in which nobody runs takes items out (`leaves`), or ends the session (`ends`). It is
 *     not waited for: a step-done for it is ignored.
 *
 * Parts. Each part that an item yields goes out with a CORE_REPLY_PART, at once or when credit is
 * granted; the reply of a request that ended well waits until its last part has gone out. Parts
 * that were not sent are forgotten when a request fails or is retried.
 *
 * A worker's death puts the members of its sessions back at the head of their queue. Those of the
 * steps it was in are retried alone: in a batch of one, with nothing else under way on their
 * device. A death in a batch of one, nothing else being under way, counts against the request (a
 * strike), and with `max_strikes` of them it fails with LIBSCHED_EPOISON. A load under way is given
 * again when the worker is back, and has strikes likewise: see core_model_failed().
 *
 * Loading and eviction take time and are two-phase: memory is reserved before `load` is given and
 * freed after `evicted` has come back; a model with a session on a device, or a load under way,
 * is pinned there. A model that is loaded nowhere and has requests waiting (or was never loaded)
 * has idle models evicted for it, the longest unused first; requests younger than its oldest then
 * wait on that device until it has had its turn. A load that failed is tried again when the
 * device's worker comes up anew.
 *
 * Jobs. A job takes k devices at once (a gang), one rank on each, and runs in numbered steps that
 * are given to all ranks as one action; between steps its devices do others' work when that has
 * fallen behind its share. No device has ranks of two jobs. It waits until its devices, and memory
 * for a rank on each, can be had at the same time; the first in line has them kept for it, and
 * others go first only where that does not delay it (backfill). A reservation is a job without
 * ranks: its devices are drained, their workers ended (`vacate`), and it holds them until it is
 * released, cancelled or out of time; then their workers may be started anew (`occupy`).
 *   - In line, clients share device time (by class and weight, as requests do, but apart from
 *     them). A job whose devices are down for more than a minute, or whose memory others keep as
 *     long as they like, does not hold up those behind it.
 *   - job_start names a device for each rank; each answers rank-started. When all have, job_step is
 *     given; each answers rank-stepped; and so on until all say that they have finished, or one
 *     fails, or the job is cancelled or out of time: then job_close is given, each rank answers
 *     rank-closed, and the job is answered by exactly one job_reply. job_close comes at any time,
 *     also while ranks start or step (they had better stop, and need not answer that any more). It
 *     names only ranks that are there: not one whose worker is being ended, or that has answered
 *     that it could not be started. A device is free for others with its own rank-closed.
 *   - A rank that does not start, step or close within the job's step limit has its worker ended by
 *     `kill`; in a start or a step that ends the job with LIBSCHED_EDEVICELOST. At its time limit
 *     it is closed with LIBSCHED_ETIMELIMIT.
 *   - A worker that dies ends the job with LIBSCHED_EDEVICELOST: its other ranks are closed. (Not
 *     before job_start was handed out: then the job waits anew, where it was in line. And not when
 *     it is being closed: that goes on, with the status it has.)
 *   - What a rank says of another job or an earlier step, or says again, is stale. What was not
 *     asked for (a step that was not given, a rank-closed before job_close), and a rank that has
 *     finished while others have not, fail the job with LIBSCHED_EENGINE; its ranks are closed all
 *     the same, that one included.
 *   - A reservation's devices end what they are at, but for no longer than the step limit; then all
 *     are vacated. What was still under way is tried again elsewhere, as after a death, and is not
 *     suspected of anything. A worker-up of a device that was vacated and not yet occupied is
 *     refused. `occupy` comes after the worker-down that `vacate` asked for.
 *
 * Memory: bounded by the configuration and taken in core_new() and when a model or device is
 * added; nothing is allocated while requests flow.
 */
#ifndef CORE_CORE_H
#define CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct core;

#define CORE_MAX_DEVICES 64
#define CORE_MAX_MODELS 256
#define CORE_MAX_BATCH 4096 /* items in one session */
#define CORE_MAX_DEPTH 64
#define CORE_PRIORITIES 8

#define CORE_MAX_SORTS 16 /* of devices */
#define CORE_MAX_JOBS 4096
#define CORE_STEP_LIMIT UINT64_C(60000000000) /* ns, where a job says nothing else */

struct core_config {
    uint32_t max_requests;        /* in flight; at most 2^24 */
    uint32_t max_clients;         /* known at one time; above it they share one entry */
    uint32_t max_strikes;         /* deaths in a batch of one before a request is poison; 0: 2 */
    uint32_t max_client_requests; /* waiting, of one client; 0: no limit of its own */
    uint32_t max_jobs;            /* that have not ended; 0: 256, at most CORE_MAX_JOBS */
    /* Of device time, relative to each other, of the priority classes when several have work. All
     * 0: 128, 64, 32 … 1. Some 0: those have a share of 1. */
    uint32_t class_shares[CORE_PRIORITIES];
    /* A request without a deadline is served as if it had one so long after it was submitted (but
     * is never dropped), so it ages; and one whose deadline is further away likewise. 0: 1 s for
     * class 0, and twice as long for each further. */
    uint64_t class_patience[CORE_PRIORITIES];
    /* Of device time, in 1/1024: jobs' where inference wants the device too. 0: 512; at most
     * 1024: all of it. */
    uint32_t job_share;
};

/* NULL where memory is short or a limit is out of range. */
struct core *core_new(const struct core_config *config);
void core_free(struct core *core);

/* ----------------------------------------------------------------------------------- set-up */

enum core_device_kind { CORE_COMPUTE, CORE_PREPARE };

struct core_device {
    enum core_device_kind kind;
    uint64_t memory_bytes; /* for models, running items and ranks; 0: not counted */
    uint32_t depth;        /* steps under way at a time; 0: 1, at most CORE_MAX_DEPTH */
    uint32_t sort;         /* below CORE_MAX_SORTS: devices of one sort learn costs together */
    /* With depth: a further step is given only when those under way are expected to be done within
     * so long, so that the device needs not rest while they are told of and the next is given, and
     * who comes until then is still in it. 0: at once. */
    uint64_t lead_ns;
};

/* Adds a device, which is down until worker-up. `index` is the caller's, below CORE_MAX_DEVICES.
 * LIBSCHED_EINVAL, LIBSCHED_EEXIST, LIBSCHED_ENOMEM. */
int core_add_device(struct core *core, uint32_t index, const struct core_device *device);

/* How far two devices are from each other, for the choice of a job's devices: 0 is the best, and
 * what is not set. LIBSCHED_EINVAL. */
int core_set_distance(struct core *core, uint32_t a, uint32_t b, uint32_t distance);

/* A client's weight (0: 1; at most 2^16) in the fair share among those of its class, and how many
 * of its requests may wait (0: as configured). Kept until it is set to 0, 0. LIBSCHED_EBUSY: as
 * many clients are known as may be. */
int core_set_client(struct core *core, uint64_t client, uint32_t weight, uint32_t max_requests);

enum core_model_flags {
    CORE_MODEL_PREPARES = 1u << 0,   /* goes through a prepare batch before it is queued */
    CORE_MODEL_STEPS = 1u << 1,      /* its items may outlive a step */
    CORE_MODEL_REPEATABLE = 1u << 2, /* parts come again alike: a retry leaves out those sent */
    /* A batch costs its number of items times the units of its longest: so requests of like
     * length are batched together, and what is shorter fills up what room there is. Not with
     * CORE_MODEL_STEPS. */
    CORE_MODEL_PADS = 1u << 3,
};

struct core_model {
    uint32_t flags;
    uint64_t devices;            /* bit i: may run on device i (compute devices only) */
    uint32_t max_batch_requests; /* 1 .. CORE_MAX_BATCH */
    uint64_t max_batch_units;    /* a single item above it runs alone */
    uint64_t max_request_units;
    uint32_t max_prepare_requests; /* items in one prepare batch */
    uint64_t memory_bytes;         /* on each device, while loaded; an estimate until `loaded` */
    uint64_t memory_per_unit;      /* of a running item */
    uint32_t queue_limit;          /* requests waiting, prepared or not */
    uint64_t step_limit;           /* ns; a worker that takes longer for one is ended. 0: none */
};

/* As step_limit: 32 times what a step rarely takes longer than, as far as is known, between 10 s
 * and 10 minutes. */
#define CORE_STEP_LEARNT UINT64_MAX

/*
 * Adds a model (`index` is the caller's, below CORE_MAX_MODELS) and asks for its load on every
 * prepare device (if it prepares) and on each of its devices, as memory allows. LIBSCHED_EINVAL,
 * LIBSCHED_EEXIST, LIBSCHED_ENODEVMEM (it fits on none of its devices even alone).
 */
int core_add_model(struct core *core, uint64_t now, uint32_t index, const struct core_model *model);

/* Changes what became known of a model when it was loaded the first time (everything but
 * `devices`). Requests already queued are not looked at again. */
int core_update_model(struct core *core, uint64_t now, uint32_t index,
                      const struct core_model *model);

/* Its waiting requests are answered with `status` (LIBSCHED_ENOMODEL, or why it failed to load),
 * running ones run to their end, then it is evicted everywhere; core_model_gone() tells when. */
int core_remove_model(struct core *core, uint64_t now, uint32_t index, int status);
/* Whether the index may be used anew. */
bool core_model_gone(const struct core *core, uint32_t index);

/* ----------------------------------------------------------------------------------- events */

enum core_event_type {
    CORE_SUBMIT = 1,
    CORE_PREPARED, /* an item of a prepare batch: its units are known, or it failed */
    CORE_CANCEL,
    CORE_GRANT,      /* more parts may be sent */
    CORE_PART,       /* an item yielded a part */
    CORE_ITEM_DONE,  /* an item ended */
    CORE_STEP_DONE,  /* a step of a session ended, its items' parts and ends before it */
    CORE_BATCH_DONE, /* the same for a prepare batch; a session given up by its worker */
    CORE_LOADED,     /* a load ended */
    CORE_EVICTED,
    CORE_MEMORY_REPORT, /* device memory that is free, as measured */
    CORE_WORKER_UP,
    CORE_WORKER_DOWN, /* its exit has been seen: nothing more comes from that epoch */
    CORE_TIMER,
    CORE_DRAIN, /* submit is answered with LIBSCHED_ECLOSING from now on */
    CORE_JOB_SUBMIT,
    CORE_JOB_CANCEL,
    CORE_JOB_RELEASE,  /* a reservation is given back */
    CORE_RANK_STARTED, /* of a device, as the two below */
    CORE_RANK_STEPPED,
    CORE_RANK_CLOSED,
};

/* A request. Its id is the core's: below 2^24 in its low 24 bits (the slot, for the caller's own
 * table beside it), a generation above, and never 0. */
struct core_submit {
    uint32_t model;
    uint32_t priority;
    uint64_t client;      /* a key of the caller's, such as a hash */
    uint64_t units;       /* its cost, or its bound until it is prepared; at least 1 */
    uint64_t deadline;    /* 0: none */
    uint64_t batch_key;   /* only those of one key are batched together */
    uint32_t part_credit; /* parts that may be sent; UINT32_MAX: no end of them */
    bool wants_parts;     /* else CORE_REPLY_PART never comes, and parts need no credit */
    /* Out: */
    uint64_t id;
    uint64_t retry_after; /* ns, of LIBSCHED_EQUEUEFULL, LIBSCHED_ECLIENTFULL, LIBSCHED_EBUSY */
};

enum core_job_flags {
    CORE_JOB_RESERVE = 1u << 0, /* no ranks: its devices are vacated and held */
};

/* A job. Its id is the core's: below CORE_MAX_JOBS in its low 16 bits, a generation above, and
 * never 0. */
struct core_job_submit {
    uint32_t flags;        /* core_job_flags */
    uint32_t n_devices;    /* k */
    uint64_t devices;      /* bits: of which (compute devices only) */
    uint64_t memory_bytes; /* of a rank; a reservation's counts for nothing */
    uint32_t priority;
    uint64_t client;
    uint64_t time_limit; /* ns from its start; 0: none */
    uint64_t step_limit; /* ns that starting, a step, or closing may take, and draining is waited
                          * for before the job waits anew (or its devices are vacated); 0: 60 s */
    /* Out: */
    uint64_t id;
    uint64_t retry_after; /* ns, of LIBSCHED_EBUSY */
};

struct core_event {
    enum core_event_type type;
    uint32_t device;
    uint64_t epoch;
    union {
        struct core_submit submit;
        struct {
            uint64_t id;
            uint64_t batch;
            uint64_t units; /* LIBSCHED_OK: what it costs */
            uint64_t batch_key;
            int status;
        } prepared;
        struct {
            uint64_t id;
        } cancel;
        struct {
            uint64_t id;
            uint32_t parts;
        } grant;
        struct {
            uint64_t id;
            uint64_t batch;
            bool drop; /* Out: nobody will be told of this part; forget it */
        } part;
        struct {
            uint64_t id;
            uint64_t batch;
            int status;
            bool drop; /* Out: the same for the outputs of its end */
        } item_done;
        struct {
            uint64_t batch;
            uint32_t step;
            /* LIBSCHED_OK; LIBSCHED_ENODEVMEM: items not ended did not fit and are tried again in
             * smaller batches; LIBSCHED_EDEVICELOST (also of a load): the worker is of no use any
             * more, and ended with CORE_KILL; other: items not ended fail with it. */
            int status;
            uint64_t begin, end; /* when it ran */
            bool warm_up;        /* not to be learnt from */
        } step_done;             /* also batch_done */
        struct {
            uint32_t model;
            int status;
            uint64_t memory_bytes; /* what it took */
        } loaded;                  /* also evicted */
        struct {
            uint64_t free_bytes;
        } memory;
        struct core_job_submit job;
        struct {
            uint64_t id;
        } job_id; /* job_cancel, job_release */
        struct {
            uint64_t id;
            uint32_t step;       /* rank_stepped */
            int status;          /* not LIBSCHED_OK: the job fails with it */
            bool finished;       /* rank_stepped: it wants no further step. All ranks must agree */
            uint64_t begin, end; /* rank_stepped: when it ran */
        } rank;
    } u;
};

/*
 * Takes an event in. Answers LIBSCHED_OK, or for CORE_SUBMIT why the request is refused (it then
 * has no id and no reply): LIBSCHED_ENOMODEL, LIBSCHED_EQUEUEFULL, LIBSCHED_EBUSY,
 * LIBSCHED_ETOOBIG, LIBSCHED_EDEADLINE (it has passed, or is predicted to be missed),
 * LIBSCHED_ECLIENTFULL, LIBSCHED_ECLOSING, LIBSCHED_EINVAL. CORE_JOB_SUBMIT: LIBSCHED_EINVAL,
 * LIBSCHED_ENODEVICE (there are not so many), LIBSCHED_ENODEVMEM (not even alone), LIBSCHED_EBUSY,
 * LIBSCHED_ECLOSING. CORE_CANCEL, CORE_JOB_CANCEL and CORE_JOB_RELEASE of an unknown id are
 * LIBSCHED_ENOENT, CORE_JOB_RELEASE of what is no reservation is LIBSCHED_EINVAL. CORE_WORKER_UP of
 * a device that was vacated is LIBSCHED_EBUSY. Stale events are LIBSCHED_OK and change nothing.
 * `now` never goes back.
 */
int core_handle(struct core *core, uint64_t now, struct core_event *event);

/* ---------------------------------------------------------------------------------- actions */

enum core_action_type {
    CORE_DISPATCH = 1, /* begin a session (or a prepare batch) with these items */
    CORE_STEP,         /* its next step, with these items */
    CORE_LOAD,         /* load a model on a device */
    CORE_EVICT,        /* take it off again */
    CORE_ABORT,        /* tell the worker that this item's results are no longer wanted */
    CORE_KILL,         /* end a device's worker; worker-down follows, and says what then holds */
    CORE_REPLY,        /* a request ended: its last outputs, or its status */
    CORE_REPLY_PART,   /* the oldest part not yet sent of a request may go out */
    CORE_ARM_TIMER,    /* send CORE_TIMER at `at`; replaces the timer before; 0 disarms */
    CORE_JOB_START,    /* start `n_ranks` ranks: rank i on device `ranks[i]`. A reservation has its
                        * devices now: nothing answers */
    CORE_JOB_STEP,     /* each rank runs step `step` */
    CORE_JOB_CLOSE,    /* each rank that is named ends; `status` says why */
    CORE_JOB_REPLY,    /* a job ended: LIBSCHED_OK, or why it did not end well */
    CORE_VACATE, /* end a device's worker in good order; worker-down follows; start no other */
    CORE_OCCUPY, /* the device is the scheduler's again: start its worker */
};

struct core_action_item {
    uint64_t id;
    uint64_t units;
    bool joins;  /* CORE_STEP: its first step in this session */
    bool leaves; /* CORE_STEP: taken out (cancelled): it does not run */
};

struct core_action {
    enum core_action_type type;
    uint64_t seq; /* of all actions: 1, 2, 3 ... */
    uint32_t device;
    uint64_t epoch;
    uint32_t model;
    uint64_t batch; /* of a session or prepare batch: never used again */
    uint32_t step;  /* 1, 2, 3 ... */
    uint32_t n_items;
    const struct core_action_item *items; /* valid until the next call on the core */
    bool ends;   /* STEP: the session is over, nobody in it runs: drop those who leave, and it */
    uint64_t id; /* ABORT, REPLY, REPLY_PART */
    int status;  /* REPLY */
    uint32_t attempts;     /* REPLY: dispatches for compute */
    uint64_t dispatched;   /* REPLY: when the last of them began, as far as is known; 0: never */
    uint32_t batch_size;   /* REPLY: items in its last step */
    uint64_t at;           /* ARM_TIMER; KILL: the limit that a step has overrun, or 0 */
    uint64_t job;          /* JOB_* */
    uint32_t n_ranks;      /* JOB_START, JOB_STEP, JOB_CLOSE */
    const uint32_t *ranks; /* devices, in the order of the ranks; valid as `items`. Those of
                            * JOB_CLOSE may be some of them */
};

/* The next action, in the order they were decided; false when there is none. After CORE_REPLY an
 * id is free: the caller forgets the request. */
bool core_next_action(struct core *core, struct core_action *action);

/* ----------------------------------------------------------------------------------- looking */

struct core_counts {
    uint32_t queued, running; /* requests; queued includes those being prepared */
    uint64_t submitted, completed, failed, cancelled, expired, refused, retried;
    uint64_t batches, batched_requests, batched_units; /* compute steps */
};

/* Of one model, or of all (those removed included) with UINT32_MAX. */
void core_get_counts(const struct core *core, uint32_t model, struct core_counts *out);

/* Devices (bits) on which a model is loaded now. */
uint64_t core_model_devices(const struct core *core, uint32_t model);

/* Devices (bits) on which it is not loaded because its load failed, or because `max_strikes` times
 * a worker died while it did nothing but load it: then no event says so, hence to be looked at
 * after a worker-down. */
uint64_t core_model_failed(const struct core *core, uint32_t model);

/* What a job is at, and what for. */
enum core_job_state {
    CORE_JOB_PENDING = 1,
    CORE_JOB_STARTING, /* has its devices; its ranks have not all started */
    CORE_JOB_RUNNING,  /* or, a reservation: is held */
    CORE_JOB_CLOSING,
};

enum core_job_why {
    CORE_WHY_NONE,     /* it isn't pending */
    CORE_WHY_ORDER,    /* others are before it, the first of which is `blocker` */
    CORE_WHY_DEVICES,  /* of the devices it may have, `have` of `need` are up and without a job */
    CORE_WHY_MEMORY,   /* so many have memory for a rank */
    CORE_WHY_DRAINING, /* its devices are chosen and finish what they are at; `have` have */
    CORE_WHY_DOWN,     /* so many of its devices have a worker that is up */
};

struct core_job_info {
    enum core_job_state state;
    enum core_job_why why;
    uint32_t have, need;
    uint64_t blocker;   /* a job that is before it, or holds what it needs; 0: none */
    uint64_t starts_by; /* when it will have its devices at the latest, by the limits of those that
                         * hold them; 0: not known */
    uint32_t n_ranks;
    uint32_t ranks[CORE_MAX_DEVICES]; /* once it has them */
    uint64_t distance; /* summed over pairs of its devices, and the least that any choice among */
    uint64_t least_distance; /* all devices it may have would give: why it got these */
    uint32_t step;
    uint64_t submitted, started; /* ns; 0: not started */
    uint64_t device_ns;          /* device time taken so far, over all ranks */
};

/* LIBSCHED_ENOENT. */
int core_job_get(const struct core *core, uint64_t id, struct core_job_info *out);

/*
 * Whether everything the core holds fits together (lists, counts, memory, conservation of
 * requests): for tests and the simulator, O(everything). On a violation false, with what is wrong
 * in `err`.
 */
bool core_check(const struct core *core, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
