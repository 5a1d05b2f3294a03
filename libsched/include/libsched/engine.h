/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine is: the code that turns a batch of requests into results on one device.
 *
 * An engine is one exported function, libsched_engine_entry(), that returns a const table. It runs
 * inside a device worker, one thread at a time for each model instance, and never sees a queue, a
 * clock to keep, or another process: the scheduler gathers and scatters, owns every buffer and
 * takes every timestamp.
 *
 * A batch is a session of steps. The scheduler calls step() with the items that are in the session
 * now; an item joins at one step and stays until the engine ends it (or the scheduler takes it
 * out: leave()). An engine for one-shot inference ends every item in its first step, and needs to
 * know nothing more about sessions; a text generator ends each when its text does.
 *
 * Memory: everything a call gets is valid during that call only, unless it says otherwise. All
 * strings are UTF-8.
 */
#ifndef LIBSCHED_ENGINE_H
#define LIBSCHED_ENGINE_H

#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a change breaks engines that were built before it. */
#define LIBSCHED_ENGINE_ABI 3

/* A device that is open in this worker: see libsched/device.h. An engine that brings its own way
 * to compute need not use it. */
struct libsched_device;

/* The engine's own state for one loaded model. */
typedef struct libsched_engine_model libsched_engine_model;

/* ------------------------------------------------------------------------------------ opening */

typedef struct libsched_engine_open_args {
    uint32_t struct_size;
    const char *name; /* the model's, for messages */
    const char *path; /* its folder or file, absolute; NULL where the model has none */
    const libsched_parameter *parameters; /* the manifest's and the loader's, merged */
    uint32_t n_parameters;
    struct libsched_device *device; /* NULL when prepare_only */
    uint32_t threads;               /* threads this worker may compute with (its cores) */
    bool prepare_only;              /* only prepare() will be called: load no weights */
    /* Came later. Where n_ranks > 1: as many workers load this model at this time, each the whole
     * of it, and have a communicator for that, until warmup() has returned: so that one of them may
     * read it for all (weight_share() of libsched/device.h). An engine may leave it alone; one that
     * uses it and fails is asked once more, without. */
    struct libsched_device_communicator *communicator;
    uint32_t rank, n_ranks;
} libsched_engine_open_args;

enum libsched_engine_flags {
    /* The engine has prepare(), and every request goes through it before it is queued. */
    LIBSCHED_ENGINE_PREPARES = 1u << 0,
    /* Items may outlive a step; without it an item that step() does not end is an error. */
    LIBSCHED_ENGINE_STEPS = 1u << 1,
    /* A step waits rather than computes (a network, a timer): its device's cores are idle, so
     * others may spin beside it. */
    LIBSCHED_ENGINE_WAITS = 1u << 2,
    /* The same request gives the same parts again: one whose worker died is run once more and the
     * parts already sent are left out. Without it, a request that has sent a part fails with
     * LIBSCHED_EDEVICELOST when its worker dies. */
    LIBSCHED_ENGINE_REPEATABLE = 1u << 3,
    /* A batch is padded to its longest item: it costs its number of items times the units of that
     * one. The scheduler then batches items of like length, and fills up with shorter ones. Not
     * with LIBSCHED_ENGINE_STEPS. */
    LIBSCHED_ENGINE_PADS = 1u << 4,
};

/* What a model takes, gives and bears. Filled by describe(); every limit may be lowered by the
 * model's manifest or by whoever loads it. An input that may come in several forms (INT32 or INT64)
 * has a spec for each, all of one name: a request's tensor has to fit one of them. */
typedef struct libsched_engine_description {
    uint32_t flags;
    uint32_t n_inputs, n_outputs;
    libsched_tensor_spec inputs[LIBSCHED_MAX_TENSORS];
    libsched_tensor_spec outputs[LIBSCHED_MAX_TENSORS];
    uint32_t max_batch_requests; /* items in one step; at least 1 */
    uint64_t max_batch_units;    /* units in one step; a larger single item runs alone */
    uint64_t max_request_units;  /* a request above it is refused */
    /* Until prepare() has counted it, a request of n input bytes is taken for
     * units_fixed + n * units_per_kib / 1024 units. Without prepare() that is its cost. */
    uint64_t units_fixed, units_per_kib;
    uint64_t memory_bytes;            /* device memory the loaded model holds */
    uint64_t memory_per_unit;         /* device memory a running item needs, a unit */
    char text[LIBSCHED_MESSAGE_SIZE]; /* one line for people: "BERT, 6 layers, hidden 384, f32" */
} libsched_engine_description;

/* --------------------------------------------------------------------------------------- items */

/* One request in a batch. The engine writes `user` and, in prepare(), `units` and `batch_key`;
 * nothing else. */
typedef struct libsched_item {
    uint64_t id;          /* unlike any other item's in this worker */
    uint64_t units;       /* of cost: set by prepare(), else by the description's rule */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0 for none */
    bool joined;          /* this is its first step */
    bool cancelled;       /* its owner has gone, its results will be thrown away; brought up to
                           * date by every call of the host's functions */
    uint32_t n_inputs, n_parameters;
    /* As submitted, or as prepare() wrote them. They stay where they are while the item is in the
     * session. Aligned to 64 bytes. The scheduler has checked them against the description when
     * they were submitted; nobody writes them afterwards. */
    const libsched_tensor *inputs;
    const libsched_parameter *parameters;
    void *user;         /* the engine's own, NULL when the item joins, kept between steps */
    uint64_t batch_key; /* set by prepare(): only items of one key come in one batch; 0 at first */
} libsched_item;

/* The items of one call. Their order may differ from step to step. */
typedef struct libsched_engine_batch {
    uint32_t struct_size;
    uint32_t n_items;
    libsched_item *const *items;
    uint64_t units; /* their sum */
    void *host;     /* for the calls below */
} libsched_engine_batch;

/*
 * What an engine may call during prepare() and step(). All are callable from the thread that runs
 * the call only, and never block for longer than it takes to find room for a result.
 */
typedef struct libsched_engine_host {
    uint32_t struct_size;

    /*
     * Room for an output of an item: `size` bytes aligned to 64, uninitialised, that the engine
     * fills before the item's part or end. `name` is copied. In prepare() the outputs become the
     * item's inputs at step(). NULL where there is no room for it: the item has then been ended
     * with LIBSCHED_ETOOBIG, and the engine goes on with the others.
     */
    void *(*output)(void *host, libsched_item *item, const char *name, uint32_t datatype,
                    uint32_t rank, const int64_t *shape, uint64_t size);

    /* Sends the outputs made since the item's last part as one part of its answer. */
    void (*part)(void *host, libsched_item *item);

    /* Ends an item: LIBSCHED_OK with the outputs made since its last part, or another status with
     * a message (outputs of its unfinished part are dropped). The item is not touched afterwards.
     * Ending an item twice is ignored. */
    void (*end)(void *host, libsched_item *item, int status, const char *message);

    /* For people who debug an engine: a line to the log. */
    void (*log)(void *host, const char *message);
} libsched_engine_host;

/* ------------------------------------------------------------------------------------ the table */

/*
 * Functions answer LIBSCHED_OK or a status, with a message in `err`. What step() and prepare()
 * answer speaks for the whole call:
 *
 *   LIBSCHED_OK            each item was ended, or (LIBSCHED_ENGINE_STEPS) stays for the next step;
 *   LIBSCHED_ENODEVMEM     it did not fit; items not yet ended are tried again in smaller batches,
 *                          and later batches of the model on this device are no larger;
 *   LIBSCHED_EDEVICELOST   the device can no longer be used: the worker is replaced, items not yet
 *                          ended are tried again;
 *   any other              items not yet ended fail with it.
 */
typedef struct libsched_engine {
    uint32_t abi_version; /* LIBSCHED_ENGINE_ABI */
    uint32_t struct_size; /* sizeof(libsched_engine) as the engine was built */
    const char *name;     /* "encoder" */

    /* Loads a model. On failure nothing is left behind. */
    int (*open)(libsched_engine_model **out, const libsched_engine_open_args *args,
                libsched_error *err);
    int (*describe)(libsched_engine_model *model, libsched_engine_description *out,
                    libsched_error *err);
    void (*close)(libsched_engine_model *model);

    /* Optional: runs what is slow the first time. Not called when prepare_only. */
    int (*warmup)(libsched_engine_model *model, libsched_error *err);

    /* With LIBSCHED_ENGINE_PREPARES: checks an item's inputs, writes what step() will get instead
     * and sets item->units; or ends the item with what is wrong with it. */
    int (*prepare)(libsched_engine_model *model, libsched_engine_batch *batch,
                   const libsched_engine_host *host, libsched_error *err);

    /* Runs one step of the items. Not called when prepare_only. */
    int (*step)(libsched_engine_model *model, libsched_engine_batch *batch,
                const libsched_engine_host *host, libsched_error *err);

    /* Optional: an item is taken out of its session before it ended (cancelled, or the batch was
     * given up): free what item->user holds. */
    void (*leave)(libsched_engine_model *model, libsched_item *item);

    /* Came later, both or neither: a step in two parts, so that the next one can be begun while the
     * device computes this one. Not with LIBSCHED_ENGINE_STEPS.
     *
     * begin() is step(), but that it may return before the items are ended: *pending then. The
     * batch, its items and their memory stay until the step is over. At most two are under way;
     * they are over in the order in which they were begun. */
    int (*begin)(libsched_engine_model *model, libsched_engine_batch *batch,
                 const libsched_engine_host *host, bool *pending, libsched_error *err);
    /* Goes on with the step that was begun first: it answers for that one as step() does, once
     * *pending is false. With `wait` it returns when the step is over, else at once. It may also
     * end items of the step behind it. */
    int (*finish)(libsched_engine_model *model, bool wait, bool *pending, libsched_error *err);
} libsched_engine;

/*
 * The symbol a plugin exports. `abi` is the caller's LIBSCHED_ENGINE_ABI; NULL says that the
 * plugin cannot serve it. The table lives as long as the process.
 */
typedef const libsched_engine *(*libsched_engine_entry_fn)(uint32_t abi);
#define LIBSCHED_ENGINE_ENTRY "libsched_engine_entry"
LIBSCHED_API const libsched_engine *libsched_engine_entry(uint32_t abi);

/* ---------------------------------------------------------------------------------- programs */

/*
 * What a program is: the code of a job, which runs on k devices at once, a rank on each. A program
 * is one exported function, libsched_program_entry(), that returns a const table; a plugin may
 * export an engine, a program, or both.
 *
 * Each rank runs in its device's worker, one thread at a time, beside the models that are loaded
 * there. The scheduler calls step() of all ranks for the same numbered step, so that a collective
 * in it (libsched/device.h) finds every rank there; between steps it may give the devices to
 * others. So a step should take some milliseconds, up to some hundred: a longer one keeps others
 * waiting, a shorter one is all overhead.
 */

/* Raised when a change breaks programs that were built before it. */
#define LIBSCHED_PROGRAM_ABI 1

struct libsched_device_communicator;

/* The program's own state for one rank. */
typedef struct libsched_program_rank libsched_program_rank;

typedef struct libsched_program_args {
    uint32_t struct_size;
    const char *name; /* the job's, for messages */
    const libsched_parameter *parameters;
    uint32_t n_parameters;
    uint32_t n_ranks;
    /* Below: not for check(). */
    uint32_t rank;
    uint32_t threads;
    struct libsched_device *device;
    struct libsched_device_communicator *communicator; /* of its ranks; NULL where n_ranks is 1 */
} libsched_program_args;

/* What a rank needs. Filled by check(). */
typedef struct libsched_program_needs {
    uint64_t memory_bytes;            /* of device memory, at most; 0: next to nothing */
    char text[LIBSCHED_MESSAGE_SIZE]; /* one line for people: "all-reduce, 1 KiB to 64 MiB" */
} libsched_program_needs;

/* What a program may call during start() and step(), from the thread that runs the call. */
typedef struct libsched_program_host {
    uint32_t struct_size;
    /* How far the job is: `done` of `total` (0: not known), and a line for people, or NULL. Those
     * of rank 0 are passed on. Cheap: at most some hundred a second reach anybody. */
    void (*progress)(void *host, uint64_t done, uint64_t total, const char *message);
    /* A value of the job's result, by name; one given again replaces the one before. At most 64 KiB
     * in all. Those of rank 0 are the job's. */
    int (*result)(void *host, const libsched_parameter *value);
    /* Whether the job is to end: a long step had better look, and return. */
    bool (*cancelled)(void *host);
    /* For people who debug a program: a line to the log. */
    void (*log)(void *host, const char *message);
} libsched_program_host;

/* Functions answer LIBSCHED_OK or a status, with a message in `err`; the job then fails with it.
 * LIBSCHED_EDEVICELOST: the device can no longer be used. */
typedef struct libsched_program {
    uint32_t abi_version; /* LIBSCHED_PROGRAM_ABI */
    uint32_t struct_size; /* sizeof(libsched_program) as the program was built */
    const char *name;     /* "gemm" */

    /* Checks a job's parameters before it is queued. Called without a device, in any process. */
    int (*check)(const libsched_program_args *args, libsched_program_needs *out,
                 libsched_error *err);
    /* Starts a rank. On failure nothing is left behind. */
    int (*start)(libsched_program_rank **out, const libsched_program_args *args,
                 const libsched_program_host *host, void *host_data, libsched_error *err);
    /* Runs step 1, 2, 3 … and says whether it was the last: all ranks must say so at the same
     * step. */
    int (*step)(libsched_program_rank *rank, uint64_t step, bool *finished,
                const libsched_program_host *host, void *host_data, libsched_error *err);
    /* Frees it: at the end, after a step that failed, or when the job was cancelled. */
    void (*close)(libsched_program_rank *rank);
} libsched_program;

/* The symbol a plugin exports; as libsched_engine_entry(). */
typedef const libsched_program *(*libsched_program_entry_fn)(uint32_t abi);
#define LIBSCHED_PROGRAM_ENTRY "libsched_program_entry"
LIBSCHED_API const libsched_program *libsched_program_entry(uint32_t abi);

#ifdef __cplusplus
}
#endif

#endif
