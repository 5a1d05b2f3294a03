/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core's state, and what its files may call of each other.
 *
 *     core.c       set-up, the event dispatcher, the order in which decisions are made
 *     request.c    a request's life, from submit to reply
 *     list.c       lists of requests, linked through the slab
 *     deadline.c   the heap of deadlines
 *     client.c     the table of clients, and whose turn it is among them and among classes
 *     flow.c       those who wait, in the order in which they are to be served
 *     pair.h       the heaps that this takes
 *     profile.c    what batches cost, learnt
 *     plan.c       which batch to run next when not everybody can be served in time
 *     model.c      models: limits, removal, counters
 *     device.c     devices: their worker's coming and going, their memory
 *     residency.c  which model is loaded where
 *     batch.c      what a device does next, and who is in it
 *     session.c    sessions, and what a worker says of them
 *     gang.c       a job's life, and what its ranks say
 *     gang_plan.c  which job is next, and on which devices
 *     gang_turn.c  when a job's ranks run, beside the batches on its devices
 *     gang_info.c  what a job is at, and what for
 *     gang_check.c whether jobs fit together
 *     action.c     what the caller has to carry out
 *     check.c      whether all of it fits together
 *
 * Requests live in a slab and are named by their slot; a list of them is linked through the slab.
 * Actions are not stored: what is to be carried out is seen from the state of a request, session
 * or placement, which is linked into one FIFO while it has something to say. So the FIFO is
 * bounded by the state itself, and what has become pointless is unlinked.
 */
#ifndef CORE_INTERNAL_H
#define CORE_INTERNAL_H

#include "core/core.h"
#include "core/pair.h"
#include "core/profile.h"

#define CORE_NONE UINT32_MAX           /* no slot, model, device, session */
#define CORE_UNLINKED (UINT32_MAX - 1) /* core_link.prev of what is not in the FIFO */

#define CORE_SLOT_BITS 24
#define CORE_SLOT_MASK ((UINT64_C(1) << CORE_SLOT_BITS) - 1)
/* Units are clamped to it, so that the sum over all requests stays within 64 bits. */
#define CORE_MAX_UNITS (UINT64_C(1) << 38)
/* Of a device: so that sums of what its models hold stay within 64 bits. */
#define CORE_MAX_MEMORY (UINT64_C(1) << 50)
/* Sessions of one item to be retried alone, waiting on a device for their next step. */
#define CORE_MAX_ALONE 64
/* Sessions of a device: those with a step under way, one of each model between steps, and those
 * alone. */
#define CORE_MAX_SESSIONS (CORE_MAX_DEPTH + CORE_MAX_MODELS + CORE_MAX_ALONE)
/* A batch id has the session's index in its low bits. */
#define CORE_SESSION_BITS 16
/* Deaths of a worker that a request outlives in all, whoever was to blame. */
#define CORE_MAX_DEATHS 16

struct core_link {
    uint32_t next, prev;
};

/* Requests, linked through core_request.next and .prev. */
struct core_list {
    uint32_t head, tail, n;
};

/* ----------------------------------------------------------------------------------- requests */

enum core_request_state {
    CORE_FREE,       /* in core.free */
    CORE_UNPREPARED, /* in model.unprepared: waits for a prepare batch */
    CORE_PREPARING,  /* in a prepare batch */
    CORE_READY,      /* in model.ready: waits for a session */
    CORE_UNCREDITED, /* in model.uncredited: may not yield parts, so it isn't begun */
    CORE_RUNNING,    /* in a session */
    CORE_HELD,       /* in no list: has ended well, its last parts wait for credit */
    CORE_ENDED,      /* in the FIFO only: its reply is on its way */
};

enum core_request_flags {
    CORE_WANTS_PARTS = 1u << 0,
    CORE_PREPARED_ONCE = 1u << 1,
    CORE_ALONE = 1u << 2,   /* suspected of killing workers: nothing else beside it */
    CORE_IN_STEP = 1u << 3, /* of the members of a session: runs in the present step */
    CORE_JOINS = 1u << 4,   /* ... its first */
    CORE_LEAVES = 1u << 5,  /* to be taken out, and answered with `status` */
    CORE_PROBES = 1u << 7, /* may be late: whether what is known of its model still holds is seen */
    CORE_SAY_ABORT = 1u << 6,
};

struct core_request {
    uint64_t id; /* of the slot's present or last request; in the order of submission */
    uint64_t deadline;
    uint64_t key; /* when it is to be served at the latest, to be fair: orders those who wait */
    uint64_t units;
    uint64_t dispatched;
    uint32_t next, prev; /* in the list of its state */
    struct core_link action;
    uint32_t flow;         /* that it waits in, or CORE_NONE */
    struct core_pair pair; /* in its flow: `next` and `prev` where it is in its list, all three in
                            * its heap */
    uint32_t client;
    uint32_t credit;  /* parts that may still be sent */
    uint32_t sent;    /* parts given out, over all attempts */
    uint32_t skip;    /* parts of this attempt that come again */
    uint32_t held;    /* parts that wait for credit */
    uint32_t to_send; /* parts for which CORE_REPLY_PART is due */
    int16_t status;
    uint16_t attempts;
    uint16_t lane;    /* that it waits in, or waited in before it ran; UINT16_MAX: none yet */
    uint16_t model;   /* UINT16_MAX: removed while this one was held */
    uint16_t session; /* index on `device` */
    uint16_t batch_size;
    uint16_t batch_cap; /* items of a batch it may be in, after one did not fit; 0: any */
    uint8_t device;
    uint8_t state;
    uint8_t flags;
    uint8_t strikes;
    uint8_t deaths;
    uint8_t priority;
};

/* -------------------------------------------------------------------------------------- queues */

/*
 * Those who wait for one thing (a model, a batch key, a range of lengths; or to be prepared) are a
 * lane; within it those of one class and client are a flow. A flow is in the order of its keys: a
 * list, as most come in order, and a heap for those that do not. A lane keeps its flows in heaps
 * by their first key, those whose client is ahead of its fair share apart.
 */
#define CORE_MAX_LANES 4096u
/* core_pair.child of a request that is in its flow's list. */
#define CORE_LISTED (UINT32_MAX - 1)
/* Of a lane, so many are looked at when a batch is planned. */
#define CORE_LANE_LIST 128u

struct core_flow {
    uint64_t key;        /* of its first */
    uint64_t time;       /* its client's virtual time when it was put where it is */
    uint32_t head, tail; /* the list, linked by pair.next and pair.prev */
    uint32_t heap;       /* the root of those out of order */
    uint32_t n;
    uint32_t client;
    uint32_t next; /* in its bucket of the table, or free */
    uint16_t lane;
    uint8_t priority;
    bool ahead;
    struct core_pair pair;
};

struct core_lane_class {
    uint32_t due;   /* root of its flows, by key */
    uint32_t ahead; /* root of those that have had more than their share, by virtual time */
    uint32_t n;     /* requests */
};

struct core_lane {
    uint64_t batch_key;
    uint64_t length;    /* to which its items are padded; 0: they are not */
    uint64_t units;     /* waiting */
    uint32_t n, n_hard; /* waiting; with a deadline */
    uint32_t flows;
    uint32_t users;  /* requests that name it */
    uint32_t passed; /* times that another was given a batch while this one was the most urgent */
    uint16_t model;
    uint16_t next; /* of its model, or free */
    bool prepare;
    uint8_t waiting; /* bits: classes of which somebody waits */
    /* Arrivals: in the window that began at `since`, and in the one before. */
    uint64_t since;
    uint32_t arrived, arrived_before;
    uint64_t slack; /* from submission to deadline, a running mean */
    struct core_lane_class classes[CORE_PRIORITIES];
};

/* ------------------------------------------------------------------------------------- models */

enum core_placement_state {
    CORE_ABSENT,  /* not wanted, or evicted: loaded again when its requests need it */
    CORE_WANTED,  /* to be loaded as soon as there is memory */
    CORE_LOADING, /* its memory is reserved */
    CORE_RESIDENT,
    CORE_EVICTING, /* its memory is still reserved */
    CORE_FAILED,
};

/* A model on a device. */
struct core_placement {
    struct core_link action; /* CORE_LOADING, CORE_EVICTING: linked until the caller knows */
    uint8_t state;
    uint8_t strikes;
    bool given_up; /* CORE_FAILED for good: it kills the worker */
    bool suspect;  /* suspected of it: loaded with nothing else under way */
    uint16_t sessions;
    uint16_t open; /* index of the session that others may join, or UINT16_MAX */
    bool warm;     /* a step of it has run since it was loaded */
    uint64_t memory;
    uint64_t used;             /* core.ticks when a session of it last began, or it was loaded */
    uint64_t fits;             /* units of a step, after more did not fit; 0: the model's limit */
    uint16_t fitted, patience; /* steps that nearly filled it, and after how many more is tried */
    struct profile_device speed;
};

struct core_model_state {
    bool used, removing;
    bool loaded_once;
    bool unfit; /* fits on none of its devices even alone */
    bool stuck; /* waits for memory that others keep for as long as they like */
    int status; /* removing: what those who wait are answered */
    struct core_model config;
    struct core_list unprepared, ready, uncredited;
    uint32_t waiting; /* requests in these, and in prepare batches */
    uint64_t waiting_units;
    uint64_t max_item_memory; /* what a running item may need at most, to fit anywhere */
    uint64_t since;           /* an id: between those before it was added and those after */
    uint32_t sessions;        /* on all devices, prepare batches included */
    uint64_t resident;        /* devices it may run on now, prepare devices included */
    struct core_profile *profiles[CORE_MAX_SORTS]; /* of sorts that it may run on */
    uint16_t lanes;                                /* the first of its lanes */
    uint16_t lane, prepare_lane;                   /* those that are always there */
    uint32_t claim; /* device on which room is being made for it, or CORE_NONE */
    uint64_t tried; /* when a step of it was last given, or somebody was let through */
    bool probes;    /* ... and that has not ended */
    struct core_counts counts;
    struct core_placement placement[CORE_MAX_DEVICES];
};

/* ----------------------------------------------------------------------------------- sessions */

struct core_session {
    struct core_link action; /* linked while the caller has to hear of it */
    uint64_t batch;          /* 0: the session is free */
    uint64_t memory;         /* of its members */
    uint64_t memory_per_unit;
    uint64_t step_units;
    uint64_t step_bound, step_expected; /* ns, that its step takes; 0: not known */
    struct core_list members;
    uint32_t model;
    uint32_t step;
    uint32_t step_items; /* that run in this step, as it was given */
    uint32_t n_runnable; /* between steps: members who may run, */
    uint32_t n_leaving;  /* and who leave */
    uint16_t next, prev; /* free, or between steps */
    uint16_t lane;       /* of those who join */
    bool prepare, steps, alone;
    bool in_flight; /* a step of it is under way, or about to be given */
    bool ending;    /* about to be ended */
};

/* --------------------------------------------------------------------------------------- jobs */

enum core_job_phase {
    CORE_JOB_FREE,     /* in core.free_job */
    CORE_JOB_WAITING,  /* in core.waiting_jobs; has no devices */
    CORE_JOB_DRAINING, /* has its devices, which end what they are at */
    CORE_JOB_VACATING, /* a reservation: their workers end */
    CORE_JOB_HELD,     /* a reservation: they have ended */
    CORE_JOB_BEGINS,   /* its ranks start */
    CORE_JOB_READY,    /* between steps */
    CORE_JOB_STEPPING,
    CORE_JOB_ENDING, /* gives its devices back, one by one */
    CORE_JOB_ENDED,  /* in the FIFO only: its reply is on its way */
};

/* What the caller has to hear of a job, while it is in the FIFO. */
enum core_job_say { CORE_SAY_START = 1, CORE_SAY_STEP, CORE_SAY_CLOSE, CORE_SAY_REPLY };

/* Those that wait, and the shares of those whose jobs ran: see gang_plan.c. */
struct core_job_client {
    uint64_t key;
    uint64_t time;  /* virtual: device time, by its weight */
    uint64_t since; /* when it was served last, or began to wait */
    uint32_t jobs;  /* that have not ended */
    uint32_t waiting;
    uint8_t priority;
    bool used;
};

struct core_job_class {
    uint64_t time;  /* virtual, by its share */
    uint64_t least; /* virtual time of clients: of the last whose turn it was */
    uint32_t waiting;
};

struct core_job {
    uint64_t id;
    uint64_t allowed; /* devices it may have */
    uint64_t memory;  /* of a rank */
    uint64_t time_limit, step_limit;
    uint64_t submitted, started;
    uint64_t devices;  /* that it has */
    uint64_t begun;    /* of them, ranks that have started */
    uint64_t awaits;   /* of them, ranks that have to answer */
    uint64_t finished; /* of them, ranks that want no further step */
    uint64_t due;      /* when the present phase has lasted too long; CORE_NEVER */
    uint64_t ready_at; /* when its last device will have ended what it is at; CORE_NEVER: unknown */
    uint64_t device_ns, charged; /* device time it took, and what its client was charged for it */
    uint64_t distance, least_distance;
    struct core_link action;
    uint32_t next, prev; /* free, or waiting */
    uint32_t client;     /* of core.job_clients */
    uint32_t n_devices;
    uint32_t step;
    int status;
    uint8_t phase, say, priority;
    bool reserves;
    bool wants; /* its devices are to come to rest for it */
    bool again; /* ENDING: it then waits anew */
};

#define CORE_NEVER UINT64_MAX

/* ------------------------------------------------------------------------------------ devices */

enum core_device_say { CORE_SAY_KILL = 1, CORE_SAY_VACATE = 2, CORE_SAY_OCCUPY = 4 };

struct core_device_state {
    struct core_link action;         /* linked while the caller has to hear of it: */
    uint8_t say;                     /* core_device_say, in this order */
    bool closed;                     /* a job needs it empty: no session begins, nobody joins one */
    bool reserved;                   /* ... of its worker, too: nothing is loaded */
    bool vacated;                    /* `vacate` was given, and `occupy` was not */
    uint32_t gang;                   /* the job that has it, or CORE_NONE */
    uint64_t gang_memory;            /* taken for its rank */
    uint64_t down_at;                /* when its worker ended, or may be started again */
    uint64_t gang_since;             /* when its rank was given what it is at */
    int64_t owed;                    /* device time by which inference is behind its share, ns */
    uint64_t busy_since;             /* when the steps under way began, or the last of them ended */
    uint64_t limits[CORE_MAX_DEPTH]; /* of the steps under way, 0: none; in a ring, as they end in
                                      * the order in which they were given */
    uint32_t loads_before[CORE_MAX_DEPTH]; /* of the same: loads that they wait for */
    uint32_t first_limit;
    uint64_t loaded_at;     /* when the last load ended */
    uint64_t overdue_since; /* when the step that runs was first seen to have overrun its limit */
    uint64_t overrun;       /* the limit for which its worker is ended, or 0 */
    bool up, ever_up;
    bool dying;     /* its worker is being ended: nothing more is given to it */
    bool exclusive; /* what is under way there must not have company */
    bool hold;      /* a load that must not have company waits for the rest to end */
    bool rest;      /* a step that must not have company waits: no load begins */
    bool had_new;   /* the last step given began a session: next, one goes on */
    struct core_device config;
    uint64_t epoch;    /* of the worker, or of the last one */
    uint64_t memory;   /* taken: by models, and by items that run */
    uint64_t external; /* by somebody else, as measured */
    uint32_t in_flight;
    uint32_t loads; /* loads and evictions that have not come back */
    uint32_t claim; /* model for which room is being made, or CORE_NONE */
    uint64_t claim_since;
    /* Of the steps under way, together, ns: what they take, but rarely more, and on average. */
    uint64_t bound, expected;
    uint32_t n_unknown;            /* of them, of which that is not known */
    struct core_session *sessions; /* CORE_MAX_SESSIONS */
    uint16_t free_session;
    uint16_t parked_head, parked_tail; /* between steps, the longest waiting first */
    uint32_t n_sessions, n_alone;
    uint32_t sessions_used; /* those from here on were never taken */
};

/* ------------------------------------------------------------------------------------ clients */

/* A client's part in a class. Its virtual time is the device time it had, divided by its weight;
 * one that comes back is lifted to where the batch that runs began, so nobody saves up. */
struct core_share {
    uint64_t time;
    uint32_t waiting;      /* requests */
    struct core_pair pair; /* among the class's that have some, by time */
};

struct core_client {
    uint64_t key;
    uint32_t next;     /* in its bucket, or free */
    uint32_t requests; /* in flight */
    uint32_t waiting;
    uint32_t weight, max_waiting; /* 0: as configured */
    struct core_share shares[CORE_PRIORITIES];
};

/* A priority class; its virtual time likewise, by its share. */
struct core_class {
    uint64_t time;
    uint64_t least; /* virtual time at which clients begin who come now */
    uint32_t share;
    uint32_t waiting;
    uint32_t clients; /* the root of those that wait */
};

/* ------------------------------------------------------------------------------------ the core */

/* When somebody is to be looked at, in 2^10 ns: 10 bits of the time are left out, and those above
 * 42, so that the heap stays small. */
struct core_deadline {
    uint32_t at;
    uint32_t slot;
};

struct core {
    uint64_t now;
    struct core_config config;
    bool draining;
    bool dirty;       /* something happened since decisions were made */
    bool plan;        /* something that concerns what is loaded where */
    bool pressure;    /* somebody waits for memory: every event may concern it */
    bool planned;     /* ... has been looked at, in this round of decisions */
    bool blocked;     /* somebody who is loaded found no memory to run */
    uint64_t look_at; /* devices that may have something new to do */

    struct core_request *requests; /* config.max_requests */
    uint32_t free_head;
    uint32_t n_requests; /* not free */
    uint64_t generation; /* of the last request, in the bits of an id above the slot's */
    uint64_t batches;
    uint64_t ticks;

    struct core_deadline *deadlines;
    uint32_t *positions; /* of each request among them, or CORE_NONE */
    uint32_t n_deadlines;
    uint64_t armed;

    struct core_job *jobs; /* config.max_jobs */
    uint32_t free_job;
    uint32_t n_jobs;       /* not free */
    uint32_t waiting_jobs; /* the first that waits, in the order of submission; and the last */
    uint32_t last_job;
    uint32_t head_job;       /* the one that devices are kept for, or CORE_NONE */
    uint64_t job_generation; /* of the last, in the bits of an id above the slot's */
    uint64_t job_devices;    /* bits: those that jobs have */
    uint64_t job_look;       /* bits: of them, those whose job may have something new to do */
    uint64_t job_yields;     /* bits: those whose job lets batches go first */
    uint64_t job_due;        /* the least time of any that has one */
    uint64_t job_plan_at;    /* when who is next has to be thought about again */
    bool job_plan;           /* something that concerns who is next */
    bool job_starved;        /* somebody is short of memory that may come any time */
    uint32_t *job_order;     /* config.max_jobs, while it is planned */
    struct core_job_client *job_clients;
    uint32_t max_job_clients;
    struct core_job_class job_classes[CORE_PRIORITIES];
    uint64_t job_least;   /* virtual time of classes: of the last whose turn it was */
    uint64_t job_typical; /* device time of a rank of those that ended of late */
    uint64_t jobs_submitted, jobs_ended;
    uint32_t ranks[CORE_MAX_DEVICES]; /* of the action handed out last */
    uint32_t distances[CORE_MAX_DEVICES][CORE_MAX_DEVICES];

    struct core_lane *lanes; /* CORE_MAX_LANES */
    uint16_t free_lane;
    struct core_flow *flows;
    uint32_t flows_used, free_flow; /* those from flows_used on were never taken */
    uint32_t *flow_buckets;
    uint32_t flow_mask;
    struct core_class classes[CORE_PRIORITIES];
    uint64_t class_least;   /* virtual time at which classes begin that come now */
    uint32_t class_waiting; /* bits: classes of which somebody waits */
    uint64_t longest;       /* of the batches of late, ns */
    struct core_plan *planner;

    struct core_client *clients; /* 0 is shared by those for whom there is no room */
    uint32_t *client_buckets;
    uint32_t client_mask;
    uint32_t free_client;

    struct core_model_state *models[CORE_MAX_MODELS];
    uint64_t leads;       /* devices that are to be looked at before their steps are done */
    uint64_t passed_over; /* idle devices that are too slow for who is next */
    uint64_t waiting_models[CORE_MAX_MODELS / 64]; /* bits: someone is ready or unprepared */
    struct core_device_state *devices[CORE_MAX_DEVICES];
    uint32_t n_devices; /* their indices are below it */
    struct core_counts counts;

    uint32_t action_head, action_tail;
    uint64_t seq;
    struct core_link timer_action;
    struct core_action_item items[CORE_MAX_BATCH];
};

/* What is in the FIFO, as one number: requests by their slots, then these. */
#define CORE_NODE_SESSIONS (UINT32_C(1) << CORE_SLOT_BITS)
#define CORE_NODE_PLACEMENTS (CORE_NODE_SESSIONS + CORE_MAX_DEVICES * CORE_MAX_SESSIONS)
#define CORE_NODE_DEVICES (CORE_NODE_PLACEMENTS + CORE_MAX_MODELS * CORE_MAX_DEVICES)
#define CORE_NODE_TIMER (CORE_NODE_DEVICES + CORE_MAX_DEVICES)
#define CORE_NODE_JOBS (CORE_NODE_TIMER + 1)

static inline uint32_t core_session_node(uint32_t device, uint32_t session)
{
    return CORE_NODE_SESSIONS + device * CORE_MAX_SESSIONS + session;
}

static inline uint32_t core_placement_node(uint32_t model, uint32_t device)
{
    return CORE_NODE_PLACEMENTS + model * CORE_MAX_DEVICES + device;
}

/* Whether `a` was submitted before `b`; right also when the generation wraps. */
static inline bool core_id_before(uint64_t a, uint64_t b)
{
    return (int64_t)((a & ~CORE_SLOT_MASK) - (b & ~CORE_SLOT_MASK)) < 0;
}

static inline uint64_t core_multiply(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static inline uint64_t core_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static inline uint64_t core_bit(uint32_t i)
{
    return UINT64_C(1) << i;
}

/* ------------------------------------------------------------------------------------- list.c */

void core_list_init(struct core_list *list);
void core_list_append(struct core *core, struct core_list *list, uint32_t slot);
void core_list_remove(struct core *core, struct core_list *list, uint32_t slot);
/* In the order of submission; quick near either end. */
void core_list_insert(struct core *core, struct core_list *list, uint32_t slot);

/* --------------------------------------------------------------------------------- deadline.c */

/* Nothing without a deadline, or if it is there already. */
void core_deadline_add(struct core *core, uint32_t slot);
void core_deadline_remove(struct core *core, uint32_t slot);
/* When a request that waits is to be looked at. */
uint64_t core_deadline_due(const struct core *core, const struct core_request *r);
uint64_t core_deadline_first(const struct core *core);
uint32_t core_deadline_pop(struct core *core);

/* ----------------------------------------------------------------------------------- client.c */

int core_clients_init(struct core *core);
/* The entry of a key, with one request more. */
uint32_t core_client_enter(struct core *core, uint64_t key);
void core_client_leave(struct core *core, uint32_t client);
/* The entry of a key that is known, or CORE_NONE. */
uint32_t core_client_find(const struct core *core, uint64_t key);
uint32_t core_client_weight(const struct core *core, uint32_t client);
/* How many of its requests may wait. */
uint32_t core_client_limit(const struct core *core, uint32_t client);
/* One request more, or less, waits in a class. */
void core_share_wait(struct core *core, uint32_t client, uint32_t priority);
void core_share_unwait(struct core *core, uint32_t client, uint32_t priority);
/* Each of those who run in a session's step is given `ns` of device time. */
void core_shares_charge(struct core *core, const struct core_session *s, uint64_t ns);
/* Whether it has had so much more than the least of the others that it has to let them pass. */
bool core_share_ahead(const struct core *core, uint32_t client, uint32_t priority);
bool core_class_ahead(const struct core *core, uint32_t priority);

/* ------------------------------------------------------------------------------------- flow.c */

int core_flows_init(struct core *core);
/* A lane for a model's requests of a key and of so many units, or UINT16_MAX: none is free. */
uint16_t core_lane_open(struct core *core, uint32_t model, bool prepare, uint64_t batch_key,
                        uint64_t units);
/* The same for one that is prepared, or needs not be: quick where it is the model's own. */
uint16_t core_lane_join(struct core *core, uint32_t model, uint64_t batch_key, uint64_t units);
/* One that names it less; it is closed with the last, unless it is one of the model's own. */
void core_lane_leave(struct core *core, uint16_t lane);
/* Puts a request into the flow of its lane, class and client; takes it out again. */
void core_flow_add(struct core *core, uint32_t slot);
void core_flow_remove(struct core *core, uint32_t slot);
/* Who is to be served next in a lane, or NULL. */
struct core_request *core_lane_next(struct core *core, uint16_t lane);
/* Whether one who is next in its lane has had more than its share: others' lanes go first. */
bool core_lane_ahead(const struct core *core, const struct core_request *next);
/* The first `max` of those who would be served next, in their order; how many there are. */
uint32_t core_lane_list(struct core *core, uint16_t lane, uint32_t *slots, uint32_t max);
/* Requests that arrive, in 1/2^32 for each ns. */
uint64_t core_lane_rate(struct core *core, struct core_lane *lane);

/* ------------------------------------------------------------------------------------- plan.c */

int core_plan_init(struct core *core);

/* Who is next in a lane, and could begin. */
struct core_candidate {
    struct core_request *next;
    uint16_t lane;
};

/* What a device that is free had better begin with. */
struct core_choice {
    struct core_request *next; /* of its lane; NULL: nothing */
    uint16_t lane;
    uint16_t urgent; /* the lane of the most urgent of all */
    uint32_t drop;   /* so many of the first are given up */
    uint32_t n;      /* so many are taken at most; 0: as many as fit */
};

/* Chooses among lanes, one at least. */
struct core_choice core_plan_choose(struct core *core, uint32_t device,
                                    const struct core_candidate *candidates, uint32_t n);

/* ---------------------------------------------------------------------------------- request.c */

int core_request_submit(struct core *core, struct core_submit *submit);
int core_request_cancel(struct core *core, uint64_t id);
int core_request_grant(struct core *core, uint64_t id, uint32_t parts);
/* The request of an id, or NULL. */
struct core_request *core_request_find(struct core *core, uint64_t id);
uint32_t core_request_slot(const struct core *core, const struct core_request *r);

/* Counts a request where its state says; the caller has unlinked it and links it anew. */
void core_request_enter(struct core *core, struct core_request *r, enum core_request_state state);
/* Queues a request that is in no list: to be prepared, for a session, or until it has credit. */
void core_request_wait(struct core *core, struct core_request *r);
/* Takes it out of the queue it waits in. */
void core_request_unqueue(struct core *core, struct core_request *r);
/* Changes the units of one that waits. */
void core_request_set_units(struct core *core, struct core_request *r, uint64_t units);
/* Ends a request that is in no list. */
void core_request_end(struct core *core, struct core_request *r, int status);
/* Ends one that has run well, once its last parts have gone out. */
void core_request_finish(struct core *core, struct core_request *r);
/* Marks a member of a session as one to be taken out. */
void core_request_leave(struct core *core, struct core_request *r, int status);
/* Puts one that ran and is in no list now back into its queue, or ends it with `status` where it
 * can't be repeated. */
void core_request_retry(struct core *core, struct core_request *r, int status);
/* Whether it may not run now, in a session of steps, for want of credit. */
bool core_request_stalled(const struct core_request *r);
bool core_request_part(struct core *core, struct core_request *r);
/* Ends, or takes out, those whose deadline has passed. */
void core_requests_expire(struct core *core);
void core_request_free(struct core *core, struct core_request *r);

/* ------------------------------------------------------------------------------------ model.c */

struct core_model_state *core_model_get(const struct core *core, uint32_t index);
/* Whether anything of it waits that a device could begin with. */
void core_model_note(struct core *core, uint32_t index);
/* What a running item may need at most, from the memory of its devices. */
void core_model_measure(struct core *core, struct core_model_state *m);
/* Frees the index of a model that is removed and gone. */
void core_model_finish(struct core *core, uint32_t index);
/* What a step of so many units takes on a device, but rarely more; 0: not known. */
uint64_t core_model_bound(const struct core *core, const struct core_model_state *m,
                          uint32_t device, uint64_t units);
/* The same as expected: what is right on average. */
uint64_t core_model_expect(const struct core *core, const struct core_model_state *m,
                           uint32_t device, uint64_t units);
/* The least that is expected, of all devices where it is loaded. */
uint64_t core_model_least(const struct core *core, const struct core_model_state *m,
                          uint64_t units);
/* The most units of a step of several items there. */
uint64_t core_model_most(const struct core_model_state *m, uint32_t device);
/* Whether a step of so many units had room in the device's memory. */
void core_model_fitted(struct core_model_state *m, uint32_t device, uint64_t units, bool fitted);
void core_model_free(struct core_model_state *m);
void core_model_learn(struct core *core, struct core_model_state *m, uint32_t device,
                      uint64_t units, uint64_t ns);
/* Whether nothing of it has run for so long that what is known may be wrong by now, and one of so
 * many units may be late to see. */
bool core_model_untried(const struct core *core, const struct core_model_state *m, uint64_t units);
uint64_t core_model_retry_after(const struct core *core, const struct core_model_state *m);
/* Ends all that wait. */
void core_model_fail_waiting(struct core *core, struct core_model_state *m, int status);

/* ----------------------------------------------------------------------------------- device.c */

void core_device_up(struct core *core, uint32_t device, uint64_t epoch);
void core_device_down(struct core *core, uint32_t device);
void core_device_measured(struct core_device_state *d, uint64_t free_bytes);
uint64_t core_device_free(const struct core_device_state *d);
/* When a step that is given now will begin, as far as is known. */
uint64_t core_device_begins(const struct core *core, const struct core_device_state *d);
/* Whether a step may be given beside those under way. */
bool core_device_bears(const struct core *core, const struct core_device_state *d);
/* It is to be looked at as soon as that is so. */
void core_device_await_lead(struct core *core, uint32_t device);
/* Looks at those for which the time has come. */
void core_devices_look(struct core *core);
/* When the first of the others is to be looked at, or CORE_NEVER. */
uint64_t core_devices_due(const struct core *core);
/* A step of that session is given, or is done. */
void core_device_begin(const struct core *core, struct core_device_state *d,
                       const struct core_session *s);
/* A load or an eviction has come back: steps that were given after it wait for one less. */
void core_device_loaded(const struct core *core, struct core_device_state *d);
void core_device_end(const struct core *core, struct core_device_state *d,
                     const struct core_session *s);
/* When the steps under way will be done, or rarely later; now where there are none. */
uint64_t core_device_free_at(const struct core *core, const struct core_device_state *d);
void core_device_take(struct core_device_state *d, uint64_t bytes);
void core_device_give(struct core_device_state *d, uint64_t bytes);
/* Ends its worker: what then becomes of its work is seen when it has died. */
void core_device_kill(struct core *core, uint32_t device);
/* The caller has to hear something of it. */
void core_device_say(struct core *core, uint32_t device, enum core_device_say what);
/* Memory that is taken beyond what there is. */
uint64_t core_device_excess(const struct core_device_state *d);

/* -------------------------------------------------------------------------------- residency.c */

/* Decides loads and evictions. */
void core_residency_plan(struct core *core);
void core_residency_loaded(struct core *core, uint32_t device, uint32_t model, int status,
                           uint64_t memory_bytes);
void core_residency_evicted(struct core *core, uint32_t device, uint32_t model);
/* The worker is gone: what was loaded is lost. `strike`: it died while it did nothing but load. */
void core_residency_lost(struct core *core, uint32_t device, bool strike);
/* A worker is there: what failed is tried anew. */
void core_residency_renew(struct core *core, uint32_t device);
/* Asks for a model where it is to be: on prepare devices, and (`compute`) on its own. */
void core_residency_want(struct core *core, uint32_t model, bool compute);
/* The same for its removal: what is not there yet is not wanted any more. */
void core_residency_unwant(struct core *core, uint32_t model);
/* What a job could have on a device, if all went that goes by itself or can be evicted. */
uint64_t core_residency_attainable(const struct core *core, uint32_t device);
/* Evicts idle models as long as more is taken than there is. Answers how much of that stays even
 * when those under way have come back. */
uint64_t core_residency_yield(struct core *core, uint32_t device);

/* ------------------------------------------------------------------------------------ batch.c */

/* Gives a device what there is for it to do. */
void core_batch_schedule(struct core *core, uint32_t device);

/* ---------------------------------------------------------------------------------- session.c */

/* A new session, or NULL where there is no room for one. */
struct core_session *core_session_new(struct core *core, uint32_t device, uint32_t model,
                                      uint16_t lane, bool alone);
/* Adds one that waits to its members; it runs in the coming step. */
void core_session_join(struct core *core, uint32_t device, struct core_session *s,
                       struct core_request *r);
void core_session_begin_step(struct core *core, uint32_t device, struct core_session *s);
/* Between steps: counts who may run, and puts it at the end of those that wait for a turn. */
void core_session_park(struct core *core, uint32_t device, struct core_session *s);
void core_session_unpark(struct core_device_state *d, struct core_session *s);
/* Links a step in which nobody runs: for those who leave, or to end the session. */
void core_session_dismiss(struct core *core, uint32_t device, struct core_session *s);
void core_session_free(struct core *core, uint32_t device, struct core_session *s);
/* Takes a member out, and its memory back. */
void core_session_remove(struct core *core, struct core_session *s, struct core_request *r);
/* The session of a member, or of a batch id (NULL where it is not one of the device's). */
struct core_session *core_session_of(const struct core *core, const struct core_request *r);
struct core_session *core_session_find(const struct core *core, uint32_t device, uint64_t batch);
uint32_t core_session_index(const struct core_device_state *d, const struct core_session *s);

void core_session_prepared(struct core *core, uint32_t device, const struct core_event *event);
void core_session_part(struct core *core, uint32_t device, struct core_event *event);
void core_session_item_done(struct core *core, uint32_t device, struct core_event *event);
void core_session_step_done(struct core *core, uint32_t device, const struct core_event *event);
/* The worker has died: everybody back to the queue. */
void core_sessions_lost(struct core *core, uint32_t device);

/* ------------------------------------------------------------------------------------- gang.c */

int core_gangs_init(struct core *core);
int core_gang_submit(struct core *core, struct core_job_submit *submit);
/* `status`: LIBSCHED_ECANCELED, or LIBSCHED_OK where a reservation is released. */
int core_gang_cancel(struct core *core, uint64_t id, int status);
void core_gang_rank(struct core *core, uint32_t device, const struct core_event *event);
/* The device's worker is gone. */
void core_gang_lost(struct core *core, uint32_t device);
/* Whether its worker was at something of a job. */
bool core_gang_busy(const struct core *core, uint32_t device);
/* The job of an id, or NULL: it has ended. */
struct core_job *core_gang_find(const struct core *core, uint64_t id);
uint32_t core_gang_slot(const struct core *core, const struct core_job *j);
static inline uint32_t core_job_node(uint32_t slot)
{
    return CORE_NODE_JOBS + slot;
}
/* Its devices are these: they come to rest for it. */
void core_gang_assign(struct core *core, struct core_job *j, uint64_t devices);
/* Ends what has lasted too long. */
void core_gang_expire(struct core *core);
/* When its time limit ends it; CORE_NEVER: not now. */
uint64_t core_gang_ends_at(const struct core_job *j);
/* Ends it: its ranks are closed, or its devices are occupied. */
void core_gang_close(struct core *core, struct core_job *j, int status);
/* Its devices are at rest, those of a reservation empty. */
void core_gang_start(struct core *core, struct core_job *j);
/* The workers of a reservation have ended. */
void core_gang_hold(struct core *core, struct core_job *j);
void core_gang_step(struct core *core, struct core_job *j);
/* Its share is charged for what a device of it has been at until now. */
void core_gang_account(struct core *core, struct core_job *j, uint32_t device);
/* The action of a job that has something to say; false: it is pointless. */
bool core_gang_action(struct core *core, uint32_t slot, struct core_action *out);

/* -------------------------------------------------------------------------------- gang_plan.c */

/* Gives those devices who can have them now. */
void core_gang_plan(struct core *core);
/* The one that is next, or CORE_NONE. */
uint32_t core_gang_first(const struct core *core);
/* Devices that it may have and that are up, or (`soon`) will be; of them, those with memory for a
 * rank. */
uint64_t core_gang_up(const struct core *core, const struct core_job *j, bool soon);
uint64_t core_gang_roomy(const struct core *core, const struct core_job *j, uint64_t devices);
/* The entry of a client in a class, with one job more. */
uint32_t core_gang_enter(struct core *core, uint64_t key, uint32_t priority);
void core_gang_leave(struct core *core, const struct core_job *j);
void core_gang_wait(struct core *core, struct core_job *j);
/* It has its turn, or doesn't wait any more. */
void core_gang_unwait(struct core *core, struct core_job *j);
/* It took device time. */
void core_gang_charge(struct core *core, struct core_job *j);
/* It takes none any more: its client is charged for what it took, and not for more. */
void core_gang_settle(struct core *core, struct core_job *j);

/* -------------------------------------------------------------------------------- gang_turn.c */

/* Decides what jobs do next, before batches are begun. */
void core_gang_schedule(struct core *core);
/* The same once those have begun that could: jobs that let them go first, for nothing, go on. */
void core_gang_resume(struct core *core);
/* By when a batch on the device has to end: 0: none may begin; CORE_NEVER: any may. */
uint64_t core_gang_until(const struct core *core, uint32_t device);
/* Whether a batch may begin there that takes so long (0: not known). */
static inline bool core_gang_admits(const struct core *core, uint32_t device, uint64_t ns)
{
    uint64_t until = core_gang_until(core, device);
    return until == CORE_NEVER || (ns != 0 && core_add(core->now, ns) <= until);
}
/* Batches took so much of the device. */
void core_gang_served(struct core *core, uint32_t device, uint64_t ns);
/* A rank took so much of it. */
void core_gang_took(struct core *core, uint32_t device, uint64_t ns);

/* ------------------------------------------------------------------------------- gang_check.c */

bool core_gang_check(const struct core *core, libsched_error *err);

/* ----------------------------------------------------------------------------------- action.c */

/* At the end of the FIFO, also if it was in it before. */
void core_action_link(struct core *core, uint32_t node);
void core_action_unlink(struct core *core, uint32_t node);
static inline bool core_action_linked(const struct core_link *link)
{
    return link->prev != CORE_UNLINKED;
}

/* ------------------------------------------------------------------------------------- core.c */

/* Makes all decisions that are due. */
void core_schedule(struct core *core);
/* When the clock brings the next; CORE_NEVER: it does not. */
uint64_t core_next_due(const struct core *core);

#endif
