/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler's state, and what the files of this room may call of each other.
 *
 *     open.c        opening and closing; the pieces put together and taken apart
 *     options.c     what libsched_open() was given, checked and completed
 *     process.c     the pending work: events of workers and timers in, decisions carried out
 *     thread.c      LIBSCHED_OWN_THREAD: the lock, the library's own thread
 *     wakeup.c      the descriptors that a caller sleeps on
 *     actions.c     what the core decided, carried out
 *     workers.c     workers: starting, their events, their end, starting them again
 *     device.c      devices: what there are, and what is told of them
 *     distance.c    how far they are from each other, and which are alike
 *     spin.c        who may spin
 *     model.c       models: loading, unloading, what becomes of them
 *     model_source.c  where they come from; parameters.c
 *     model_info.c  what is told of them
 *     description.c a model's description: checked, limits applied
 *     submit.c      requests: taking them in
 *     validate.c    whether a request is what its model takes
 *     request.c     a request's memory and its place in the table
 *     finish.c      a request's parts and its end
 *     job.c         jobs: taking them in, checking them, ending them
 *     job_gang.c    a job's ranks: what the core decided about them, and what they say
 *     job_notice.c  what callers are told while it happens: states, progress, results, the end
 *     job_info.c    what callers are told when they ask; why.c: in words, why it is so
 *     completion.c  completions: queued, reaped, released
 *     buffer.c      memory that workers read
 *     arena.c       which bytes of it are taken
 *     stats.c       counters; histograms.c: how long requests took
 *     structs.c     structs of callers that were built with another size of them
 *     log.c, clock.c, version.c
 *
 * A request has two ids. The caller's is given when it is accepted; the core's when its model is
 * known well enough to check it, which may be later: until then the request is held by its model.
 */
#ifndef RUNTIME_INTERNAL_H
#define RUNTIME_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched.h>
#include <libsched/engine.h>

#include "core/core.h"
#include "runtime/arena.h"
#include "runtime/list.h"
#include "topology/topology.h"
#include "worker/segment.h"
#include "worker/worker.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The slot of a request's id, as in the core. */
#define RUNTIME_SLOT_BITS 24
#define RUNTIME_SLOT_MASK ((UINT64_C(1) << RUNTIME_SLOT_BITS) - 1)
/* After how long to come back where a limit of the runtime's own was met. */
#define RUNTIME_RETRY_AFTER UINT64_C(5000000)
/* A string parameter, its NUL included; and the same for its name. */
#define RUNTIME_MAX_STRING 16384u
/* Events taken in by one call of libsched_process(), so that its caller gets to reap; the rest
 * keeps the descriptor readable. */
#define RUNTIME_MAX_EVENTS 512u

/* ------------------------------------------------------------------------------------ options */

/* Settings in the environment of workers, and the NULL behind them. */
#define RUNTIME_ENVIRONMENT 3

struct runtime_options {
    uint32_t flags;
    char *worker_path; /* absolute; NULL with worker threads */
    char *plugin_path; /* NULL: none */
    char *topology_xml;
    uint32_t cpu_devices, cores_per_device, devices_per_gpu, prepare_workers;
    uint32_t max_requests;
    uint64_t arena_bytes, result_bytes;
    uint32_t spin_us; /* 0: never */
    uint32_t max_restarts;
    uint32_t class_shares[LIBSCHED_PRIORITIES];
    uint64_t class_patience_ns[LIBSCHED_PRIORITIES];
    uint32_t max_client_requests; /* 0: no limit */
    void (*log)(void *payload, int level, const char *line);
    void *log_payload;
    uint32_t job_share_percent, max_jobs;
    uint64_t first_job;
    uint64_t share_weights_bytes;
    char *environment[RUNTIME_ENVIRONMENT]; /* of workers, beside our own; NULL behind the last */
};

/* Checks what the caller gave and completes it. On failure nothing is left behind. */
int runtime_options_read(struct runtime_options *out, const libsched_options *options,
                         libsched_error *err);
void runtime_options_free(struct runtime_options *options);
/* interface.c: what tells NCCL by which network interface ranks find each other: `given`, which has
 * to be one that can be used; NULL: what the user's environment says, or else the loopback. */
int runtime_interface_choose(char *environment[RUNTIME_ENVIRONMENT], const char *given,
                             libsched_error *err);

/* -------------------------------------------------------------------------------- completions */

struct runtime_request;

/* What libsched_completion.handle points to. */
struct runtime_completion {
    struct list link; /* in libsched.ready, libsched.reaped, or a request's parts */
    libsched_completion public;
    struct worker_results *results;  /* of its outputs */
    struct runtime_request *request; /* of an end: the record lies in it */
};

/* A change of a model or device; its strings lie in it. */
struct runtime_notice {
    struct runtime_completion completion;
    char name[LIBSCHED_NAME_SIZE];
    char message[LIBSCHED_MESSAGE_SIZE];
};

/* ------------------------------------------------------------------------------------ buffers */

struct libsched_buffer {
    struct list link; /* in libsched.buffers */
    libsched *s;
    uint32_t references;
    struct runtime_arena_block *block; /* in the arena, or */
    struct segment *segment;           /* imported: its own */
    uint64_t offset, size;             /* in its segment */
    unsigned char *data;
};

/* ------------------------------------------------------------------------------------ requests */

/* What a worker gets of a request: as it was submitted, or as it was prepared. */
struct runtime_inputs {
    uint32_t n;
    struct worker_tensor *tensors;
    struct runtime_arena_block *block; /* of those that were copied */
    struct libsched_buffer **buffers;  /* n, held; NULL: none */
    void *memory;                      /* of the above, where it is not the request's */
};

struct runtime_request {
    uint64_t id;      /* the caller's */
    uint64_t core_id; /* 0: held by its model, or ended */
    uint64_t user;
    uint64_t client;
    uint64_t units;
    uint64_t deadline;
    uint64_t submitted_at;
    uint64_t input_bytes;
    uint32_t priority, part_credit;
    bool wants_parts;
    bool ended;                  /* its end was queued */
    bool released;               /* its end was released */
    struct runtime_model *model; /* NULL once it has ended */
    struct list held;            /* in its model's held */

    /* The worker that has it: its inputs stay where they are meanwhile. */
    struct list at; /* in a device's running; in no list: none has it */
    uint64_t batch;
    uint32_t device; /* the last */
    uint32_t leaves; /* the step by which it is out of its session; 0: it stays */

    struct runtime_inputs inputs;
    uint32_t n_parameters;
    const libsched_parameter *parameters;

    struct list parts; /* that came and may not go out yet; or the last, where nobody wants them */
    libsched_error failure; /* what is to be said if it fails */
    bool fails;             /* it ends with `failure` whatever the core calls it */
    struct runtime_completion end;
};

/* ------------------------------------------------------------------------------------- models */

enum runtime_load_state { RUNTIME_NOT_LOADED, RUNTIME_LOADING, RUNTIME_LOADED, RUNTIME_FAILED };

struct runtime_model {
    uint32_t index; /* in the core, and its key in the workers */
    bool in_core;   /* until core_model_gone() */
    bool removing;  /* the core was told so */
    bool hidden;    /* another has taken its name: it is only waited for */
    bool announce;  /* its state is to be told */
    enum libsched_model_state state;
    libsched_error error;

    char name[LIBSCHED_NAME_SIZE];
    char engine[LIBSCHED_NAME_SIZE];
    char *path, *library;           /* NULL: none */
    libsched_parameter *parameters; /* one block with its strings */
    uint32_t n_parameters;

    /* Limits that lower the engine's; 0: none. */
    uint32_t limit_batch_requests;
    uint64_t limit_batch_units, limit_request_units;
    uint32_t queue_limit;
    uint64_t step_limit; /* as core_model.step_limit */

    uint64_t devices; /* bits: where it may be loaded */
    enum runtime_load_state loads[CORE_MAX_DEVICES];
    bool described;
    libsched_engine_description description; /* limits applied */

    struct list held; /* requests that wait for the description */
    uint32_t n_held;

    libsched_counters counters;     /* those that the runtime counts */
    libsched_histograms histograms; /* of those that completed */
};

/* --------------------------------------------------------------------------------------- jobs */

/* What a job's completions hold: its strings lie in it. */
struct runtime_job_notice {
    struct runtime_completion completion;
    struct runtime_job *job; /* that it is the progress, or the end, of; NULL: of none any more */
    char name[LIBSCHED_NAME_SIZE];
    char message[LIBSCHED_MESSAGE_SIZE];
};

struct runtime_job {
    uint64_t id;      /* the caller's: 1, 2, 3 ... */
    uint64_t core_id; /* 0: it is being checked, or ended */
    uint64_t user;
    struct list link; /* in libsched.jobs, until it has ended */
    enum libsched_job_state state;
    bool reservation;
    bool cancelled; /* by somebody */
    bool announce;  /* its state is to be told */

    /* As it was submitted. */
    char name[LIBSCHED_NAME_SIZE], program[LIBSCHED_NAME_SIZE], client[LIBSCHED_NAME_SIZE];
    char *library;
    libsched_parameter *parameters; /* one block with its strings */
    uint32_t n_parameters;
    uint32_t n_devices, priority;
    uint64_t allowed; /* bits: devices it may have */
    uint64_t memory_bytes, time_limit, step_limit;
    uint64_t submitted_at;

    /* While it is being checked: the device that has it, and what that was. */
    uint32_t checker; /* RUNTIME_NOBODY: none has */
    uint64_t checker_epoch, check_until;
    uint32_t checker_deaths;
    char text[LIBSCHED_MESSAGE_SIZE]; /* what the program says of itself */

    /* Its gang. */
    uint32_t n_ranks;
    uint32_t ranks[CORE_MAX_DEVICES];  /* devices */
    uint64_t devices;                  /* bits: those that it has */
    struct segment *shared;            /* by which the ranks find each other */
    bool kept;                         /* they should know each other by it from a job before */
    uint32_t n_asked;                  /* ranks that have said whether they do */
    bool renewed;                      /* one does not: they get to know each other anew */
    uint64_t calls;                    /* of collectives, that the first of them has made */
    uint64_t epochs[CORE_MAX_DEVICES]; /* of their workers */
    uint64_t started_at;
    uint64_t distance, least_distance; /* as they were when it was placed */

    /* What it says. */
    uint64_t step, done, total;
    char message[LIBSCHED_MESSAGE_SIZE];
    libsched_parameter *values; /* of its result */
    uint32_t n_values;
    size_t value_bytes;
    libsched_error failure; /* what is to be said if it fails */

    struct runtime_job_notice *progress; /* that was not reaped yet; NULL: none */
    struct runtime_job_notice end;
};

/* No device. */
#define RUNTIME_NOBODY UINT32_MAX

/* ------------------------------------------------------------------------------------ devices */

struct runtime_device {
    uint32_t index; /* in the core; the caller's, unless it prepares */
    bool prepares;
    bool in_core;  /* it can be used */
    bool announce; /* its state is to be told */
    uint32_t sort; /* of what it is alike */
    char name[LIBSCHED_NAME_SIZE];
    const struct topology_device *topology; /* NULL: it prepares */
    const char *driver;
    uint32_t ordinal, threads;

    enum libsched_device_state state;
    char reason[LIBSCHED_MESSAGE_SIZE];
    struct worker *worker; /* NULL: none runs */
    int worker_fd;         /* in epoll */
    uint64_t epoch, started_at;
    bool ending;                      /* killed by us, and its exit not seen yet */
    char hung[LIBSCHED_MESSAGE_SIZE]; /* ... since a step took too long: says so */
    bool lost;                        /* it said that it can't be used any more */
    bool in_core_up;                  /* the core knows that it is up */
    bool served;                      /* it ended an item or a load since it started */
    uint32_t deaths;                  /* in a row, without having served */
    uint32_t restarts;
    uint64_t restart_at; /* 0: no restart is due */
    uint32_t spin_us;    /* as the worker was told */
    uint64_t busy_ns, batches;
    uint64_t xid_count; /* that its workers saw which are gone */
    uint32_t last_xid;
    struct list running; /* requests that its worker has */
    uint64_t job;        /* the core's id of the job that has a rank in its worker; 0: none */
    bool rank_closes;    /* that was told to end */
    bool vacated;        /* no worker is started until it is the scheduler's again */
    bool stopping;       /* its worker was asked to end for that */
    uint64_t stop_by;    /* then it is made to; 0: it need not */
};

/* -------------------------------------------------------------------------------- the scheduler */

/* So many sets of devices are remembered: what they keep is device memory of each. */
#define RUNTIME_GANGS 4u

/* Ranks of a job that ended well, and know each other still. */
struct runtime_gang {
    struct segment *shared; /* NULL: none */
    uint32_t n_ranks;
    uint32_t ranks[CORE_MAX_DEVICES];  /* devices */
    uint64_t epochs[CORE_MAX_DEVICES]; /* of their workers */
    uint64_t timeout_ns;               /* of their collectives */
    uint64_t used;                     /* when, as s->gang_uses counts */
};

/* Workers that load a model together. */
struct runtime_together {
    uint64_t id; /* 0: none do */
    uint32_t model, n_ranks;
    uint32_t ranks[CORE_MAX_DEVICES];  /* devices */
    uint64_t epochs[CORE_MAX_DEVICES]; /* of their workers */
    uint64_t left;                     /* bits: ranks that have not answered */
    bool told;                         /* the others have what rank 0 made */
    bool given_up;                     /* each that is not done loads it by itself */
    struct segment *shared;            /* by which they find each other */
};

struct libsched {
    struct runtime_options options;
    uint64_t opened_at;
    uint64_t now; /* when it was last looked at: once a call, a round, a step */
    struct core *core;
    struct topology *topology;
    unsigned usable_cpus;
    uint64_t spin_ns; /* atomic: for how long the caller may spin */
    bool draining;

    /* wakeup.c */
    int epoll_fd; /* the workers, the timer, `wake_fd` */
    int timer_fd;
    int wake_fd; /* work is left */
    int reap_fd; /* LIBSCHED_OWN_THREAD: there is something to reap; else -1 */
    bool woken, reap_signalled;
    bool spinning;     /* the caller comes back without being woken */
    uint64_t timer_at; /* armed; 0: not */
    uint64_t core_at;  /* when the core wants its timer; 0: not */
    uint64_t hold_at;  /* the earliest deadline of a held request; 0: none */

    /* thread.c */
    bool own_thread;
    pthread_mutex_t mutex;
    pthread_t thread;
    bool thread_ends; /* atomic */

    /* Devices: those of the machine, then those that prepare. */
    struct runtime_device devices[CORE_MAX_DEVICES];
    uint32_t n_listed, n_devices;
    uint64_t next_epoch;
    uint64_t load_wanted[CORE_MAX_MODELS]; /* bits: devices, to be sent once all are known */
    bool loads_wanted;
    struct runtime_together together;
    uint64_t next_together;

    struct runtime_gang gangs[RUNTIME_GANGS];
    uint64_t gang_uses;
    uint64_t worker_deaths;

    /* Models: by the core's index; and in the order they were loaded. */
    struct runtime_model *by_index[CORE_MAX_MODELS];
    struct runtime_model *models[CORE_MAX_MODELS];
    uint32_t n_models;
    uint32_t n_leaving; /* told to go, still in the core */
    bool announcements; /* a state could not be told for want of memory */

    /* Input memory. */
    struct segment *segment;
    struct runtime_arena *arena;
    struct list buffers;

    /* Requests: by the slot of their id; by the slot of the core's. */
    struct runtime_request **requests;
    struct runtime_request **by_core;
    uint32_t *free_slots;
    uint32_t n_free_slots;
    uint64_t generation;

    /* Jobs that have not ended, in the order they were submitted; by the slot of the core's id. */
    struct list jobs;
    uint32_t n_jobs;
    struct runtime_job *jobs_by_core[CORE_MAX_JOBS];
    uint64_t last_job;  /* id */
    uint64_t checks_at; /* when checks are to be looked after; 0: never */

    struct list ready; /* completions to be reaped */
    size_t n_ready;
    struct list reaped;

    libsched_counters counters; /* those that the runtime counts, over all */

    /* Of one step, for the worker. */
    struct worker_item *step_joins;
    uint64_t *step_ids; /* those that stay; from the other end, those that leave */
};

/* structs.c. Reads a caller's struct, which begins with its size, into one of ours: what it lacks
 * is zero; what we lack has to be. */
int runtime_struct_read(void *out, size_t size, const void *in, const char *what,
                        libsched_error *err);
/* Writes as much of `in` as the caller's struct holds, its struct_size kept. LIBSCHED_EINVAL where
 * that is not set. */
int runtime_struct_write(void *out, const void *in, size_t size);

/* clock.c. Looks at the clock. */
uint64_t runtime_now(libsched *s);

/* log.c */
void runtime_log(const libsched *s, int level, const char *format, ...) LIBSCHED_PRINTF(3, 4);

/* thread.c. The lock is nothing without LIBSCHED_OWN_THREAD. */
void runtime_lock(libsched *s);
void runtime_unlock(libsched *s);
int runtime_thread_start(libsched *s, libsched_error *err);
void runtime_thread_stop(libsched *s);

/* wakeup.c */
int runtime_wakeup_open(libsched *s, libsched_error *err);
void runtime_wakeup_close(libsched *s);
int runtime_wakeup_watch(libsched *s, int fd, libsched_error *err);
void runtime_wakeup_forget(libsched *s, int fd);
/* Makes the descriptor readable, so that libsched_process() is called (again). */
void runtime_wake(libsched *s);
void runtime_wake_taken(libsched *s);
void runtime_reap_signal(libsched *s);
void runtime_reap_taken(libsched *s);
/* Sees to it that the timer is not armed for later than what is wanted. */
void runtime_timer_arm(libsched *s);
/* Where it has fired: makes it unreadable. */
void runtime_timer_taken(libsched *s, uint64_t now);
/* What an API function does at its end that may have left work: does it (with a thread of our own)
 * or has libsched_process() called. */
void runtime_settle(libsched *s);

/* process.c: everything the core decided, and all that follows from it. */
void runtime_decide(libsched *s);
/* One round: timers and workers' events. How many there were. */
uint32_t runtime_round(libsched *s);
/* Arms the workers' descriptors; true: one has something already. */
bool runtime_arm_workers(libsched *s);
int runtime_process(libsched *s, bool spinning);

/* actions.c */
void runtime_carry_out(libsched *s, const struct core_action *action);

/* device.c */
int runtime_devices_find(libsched *s, libsched_error *err);
void runtime_device_announce(libsched *s, struct runtime_device *device);
void runtime_device_set_state(libsched *s, struct runtime_device *device,
                              enum libsched_device_state state, const char *reason);
/* The device of a name, among those listed; NULL. */
struct runtime_device *runtime_device_by_name(libsched *s, const char *name);
/* Whether work may be meant for it: it is up, or will be again. */
bool runtime_device_usable(const struct runtime_device *device);
/* The bits of the devices of some names, all of which can be used; of none: of all that can be. */
int runtime_devices_choose(libsched *s, const char *const *names, uint32_t n, uint64_t *out,
                           libsched_error *err);

/* readings.c. A worker has gone: what is remembered of what it saw. */
void runtime_readings_keep(libsched *s, struct runtime_device *device);

/* distance.c. Tells the core how far the devices are from each other. */
int runtime_distances_set(libsched *s, libsched_error *err);
/* Devices of one sort are alike, as far as the time they take is concerned. */
uint32_t runtime_device_sort(const libsched *s, const struct runtime_device *device);

/* workers.c */
void runtime_worker_start(libsched *s, struct runtime_device *device);
uint32_t runtime_worker_events(libsched *s, struct runtime_device *device, uint32_t max);
void runtime_worker_kill(libsched *s, struct runtime_device *device, const char *why);
/* Ends a worker in good order and starts no other; starts one again. */
void runtime_worker_vacate(libsched *s, struct runtime_device *device);
void runtime_worker_occupy(libsched *s, struct runtime_device *device);
/* Restarts that are due, and workers that take too long to end; and when the next is (0: none). */
void runtime_workers_restart(libsched *s, uint64_t now);
uint64_t runtime_workers_restart_at(const libsched *s);
void runtime_workers_end(libsched *s);
void runtime_segment_drop(libsched *s, const struct segment *segment);

/* spin.c: tells the workers, after something changed. */
void runtime_spin_share(libsched *s);

/* model.c */
struct runtime_model *runtime_model_by_name(const libsched *s, const char *name);
void runtime_model_loaded(libsched *s, struct runtime_model *model, struct runtime_device *device,
                          const struct worker_event *event);
void runtime_model_unloaded(libsched *s, struct runtime_model *model, struct runtime_device *device,
                            int status);
/* After a worker has come or gone: ready, failed, or neither. */
void runtime_models_review(libsched *s);
/* Forgets models that the core has let go. */
void runtime_models_collect(libsched *s);
void runtime_models_announce(libsched *s);
void runtime_models_free(libsched *s);
/* Reads where a model is and what it is told: a folder, or an engine alone. */
int runtime_model_source(struct runtime_model *model, const libsched_model_options *options,
                         libsched_error *err);
void runtime_model_free(struct runtime_model *model);
/* A copy of parameters in one block; `more` go behind those of `first` that they do not repeat. */
int runtime_parameters_merge(libsched_parameter **out, uint32_t *n_out,
                             const libsched_parameter *first, uint32_t n_first,
                             const libsched_parameter *more, uint32_t n_more, libsched_error *err);

/* description.c */
int runtime_description_check(const libsched_engine_description *description, libsched_error *err);
/* Lowers the description's limits to the model's. */
void runtime_description_limit(struct runtime_model *model);
/* What the core is told of a model. */
void runtime_description_to_core(const struct runtime_model *model, struct core_model *out);

/* validate.c */
/* Whether it is a name: of characters that can be typed anywhere, and not too long. */
int runtime_validate_name(const char *what, const char *name, libsched_error *err);
int runtime_validate_client(const char *client, libsched_error *err);
int runtime_validate_parameters(const libsched_parameter *parameters, uint32_t n,
                                libsched_error *err);
/* What can be said of tensors without knowing the model. */
int runtime_validate_tensors(const libsched_tensor *tensors, uint32_t n, libsched_error *err);
/* What the description says of them. */
int runtime_validate_inputs(const struct runtime_model *model, const struct worker_tensor *tensors,
                            uint32_t n, libsched_error *err);
uint64_t runtime_units(const libsched_engine_description *description, uint64_t bytes);

/* request.c */
int runtime_requests_open(libsched *s, libsched_error *err);
void runtime_requests_close(libsched *s);
int runtime_request_new(struct runtime_request **out, libsched *s, const libsched_request *from,
                        libsched_error *err);
/* Frees one that was never in the core, nor ended. */
void runtime_request_discard(libsched *s, struct runtime_request *request);
struct runtime_request *runtime_request_find(const libsched *s, uint64_t id);
struct runtime_request *runtime_request_by_core(const libsched *s, uint64_t core_id);
void runtime_inputs_free(libsched *s, struct runtime_inputs *inputs);
/* Frees what nobody needs any more: its inputs; at last the request itself. */
void runtime_request_release(libsched *s, struct runtime_request *request);
/* The worker has it, and has it no more. */
void runtime_request_given(struct runtime_request *request, struct runtime_device *device,
                           uint64_t batch);
void runtime_request_taken_back(libsched *s, struct runtime_request *request);
/* Replaces the inputs of a request by what was made of them. */
int runtime_request_prepare(libsched *s, struct runtime_request *request,
                            const struct worker_event *event, libsched_error *err);

/* submit.c: the core's key of a client, by its name. */
uint64_t runtime_client_key(const char *client);
/* Gives a request to the core, its model being described. */
int runtime_request_enter(libsched *s, struct runtime_request *request, uint64_t *retry_after,
                          libsched_error *err);
/* Held requests: enter them, end them all, end those whose deadline passed. */
void runtime_held_enter(libsched *s, struct runtime_model *model);
void runtime_held_fail(libsched *s, struct runtime_model *model, const libsched_error *why);
void runtime_held_expire(libsched *s, uint64_t now);

/* finish.c */
void runtime_part_came(libsched *s, struct runtime_request *request, struct worker_event *event);
void runtime_part_send(libsched *s, struct runtime_request *request);
void runtime_parts_forget(struct runtime_request *request);
void runtime_outputs_keep(struct runtime_request *request, struct worker_event *event);
/* Its end, as the core says; or of a held one. */
void runtime_request_finish(libsched *s, struct runtime_request *request,
                            const struct core_action *reply);
void runtime_request_finish_held(libsched *s, struct runtime_request *request, int status,
                                 const char *message);

/* job.c */
void runtime_jobs_free(libsched *s);
struct runtime_job *runtime_job_by_core(const libsched *s, uint64_t core_id);
struct runtime_job *runtime_job_find(const libsched *s, uint64_t id);
/* Gives jobs that wait for it to workers that prepare, and ends checks that take too long. */
void runtime_jobs_check(libsched *s);
/* The same, once what was decided meanwhile is carried out. */
void runtime_jobs_check_soon(libsched *s);
/* The worker of a device that prepares has ended. */
void runtime_jobs_checker_down(libsched *s, struct runtime_device *device);
/* It has ended; `status` is told of it. */
void runtime_job_finish(libsched *s, struct runtime_job *job, int status);
void runtime_job_free(libsched *s, struct runtime_job *job);

/* What a worker says of a job: of its check, or of its ranks. */
void runtime_job_event(libsched *s, struct runtime_device *device,
                       const struct worker_event *event);

/* load.c */

/* The core wants something to be loaded: it is sent with all else that it wants now. */
void runtime_load_plan(libsched *s, const struct core_action *action);
/* Sends what is planned; whether there was anything. */
bool runtime_loads_send(libsched *s);
/* What those who load a model together find each other by. */
void runtime_load_id(libsched *s, struct runtime_device *device, const struct worker_event *event);
/* A device is about to be given something else to do; `with_others`: as one of several. */
void runtime_load_beside(libsched *s, const struct runtime_device *device, bool with_others);
/* A worker has answered its load, or has ended. */
void runtime_load_over(libsched *s, const struct runtime_device *device, bool ended);
void runtime_together_free(libsched *s);

/* job_kept.c: what ranks find each other by, kept for the next job on the same devices. */

/* A segment for the job's ranks: a kept one, or a new one. */
int runtime_gang_begin(libsched *s, struct runtime_job *job, uint64_t timeout_ns,
                       libsched_error *err);
/* What a rank says of what it has kept. True once all have spoken: `job->kept` tells whether all
 * can go on with it, and where not `job->shared` is a new segment; NULL and `err` where there is
 * none. */
bool runtime_gang_hear(libsched *s, struct runtime_job *job, const struct worker_event *event,
                       libsched_error *err);
/* The job is over: its segment is kept if it ended well, and is dropped otherwise. */
void runtime_gang_end(libsched *s, struct runtime_job *job, uint64_t timeout_ns, int status);
/* A device's worker is gone, or has none left: forgets those that it was one of. NULL: all. */
void runtime_gangs_forget(libsched *s, const struct runtime_device *device);
/* How long ranks of a job wait for each other. */
uint64_t runtime_job_collective_limit(const struct runtime_job *job);

/* job_gang.c: actions of the core, events of the ranks. */
void runtime_job_act(libsched *s, const struct core_action *action);
void runtime_job_rank_event(libsched *s, struct runtime_device *device,
                            const struct worker_event *event);
/* The worker of a device that has a rank has ended. */
void runtime_job_rank_down(libsched *s, struct runtime_device *device, const char *why);
/* That a worker is given up by the core, in words, where it has a rank. */
const char *runtime_job_kill_text(libsched *s, struct runtime_device *device, char *out,
                                  size_t size);

/* job_notice.c */
void runtime_job_set_state(libsched *s, struct runtime_job *job, enum libsched_job_state state);
void runtime_job_progress(libsched *s, struct runtime_job *job, const struct worker_event *event);
void runtime_job_value(libsched *s, struct runtime_job *job, const libsched_parameter *value);
void runtime_job_queue_end(libsched *s, struct runtime_job *job, int status);
void runtime_job_values_free(struct runtime_job *job);
void runtime_jobs_announce(libsched *s);
/* A completion was reaped, and released. */
void runtime_job_notice_reaped(struct runtime_completion *completion);
void runtime_job_notice_release(libsched *s, struct runtime_completion *completion);

/* why.c. What a job that is pending waits for; or why one has the devices it has. */
void runtime_job_why(const libsched *s, const struct runtime_job *job,
                     const struct core_job_info *core, char *out, size_t size);
/* As many names of devices as fit: "gpu:0, gpu:1 and 3 more". */
void runtime_device_names(const libsched *s, uint64_t devices, char *out, size_t size);

/* completion.c */
void runtime_completion_queue(libsched *s, struct runtime_completion *completion);
void runtime_completions_free(libsched *s);
/* Queues a model's or a device's change; false where there is no memory for it. */
bool runtime_notice_queue(libsched *s, const libsched_completion *what, const char *name,
                          const char *message);

/* stats.c. Accepted, not running, and not ended: whoever holds them. */
/* One more has completed. */
void runtime_histograms_count(libsched_histograms *histograms, const libsched_completion *end);
uint32_t runtime_counters_waiting(const libsched_counters *counters, uint32_t running);

/* buffer.c, with the lock held. */
void runtime_buffer_put(libsched_buffer *buffer);
void runtime_buffers_free(libsched *s);

#ifdef __cplusplus
}
#endif

#endif
