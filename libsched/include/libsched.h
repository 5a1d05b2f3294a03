/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsched: a scheduler for the devices of one machine.
 *
 * A program opens a scheduler, loads models, submits requests and reaps what became of them. The
 * scheduler batches requests of the same model, runs the batches in one worker process for each
 * device, and answers every request exactly once, whatever happens to a worker.
 *
 *     libsched *s;
 *     libsched_error err;
 *     libsched_options options = LIBSCHED_OPTIONS_INIT;
 *     if (libsched_open(&s, &options, &err) < 0) ...
 *
 *     libsched_model_options model = LIBSCHED_MODEL_OPTIONS_INIT;
 *     model.name = "minilm";
 *     model.path = "/models/all-MiniLM-L6-v2";
 *     libsched_model_load(s, &model, &err);
 *
 *     libsched_request request = LIBSCHED_REQUEST_INIT;  // model, inputs, timeout_ns, user ...
 *     uint64_t id;
 *     libsched_submit(s, &request, &id, &err);
 *
 *     while (...) {
 *         poll() on libsched_fd(s);
 *         libsched_process(s, 0);
 *         libsched_completion done[64];
 *         size_t n = libsched_reap(s, done, 64);
 *         ... look at them ...
 *         libsched_release(s, done, n);
 *     }
 *     libsched_close(s);
 *
 * Conventions. A function answers LIBSCHED_OK (0) or a negative status of libsched/status.h, and
 * says more in `err` where it takes one (which may be NULL). Times are nanoseconds of
 * CLOCK_MONOTONIC, sizes are bytes. Strings are UTF-8 and NUL-terminated; what a call is given
 * need not outlive it, unless its comment says so. Structs that a caller fills begin with
 * struct_size and have an _INIT, so that they can grow: a program that was built with an older
 * header has smaller ones, whose missing members are taken for zero; one that was built with a
 * newer header is served as long as what this version does not know is zero.
 *
 * Threads. A scheduler is used by one thread at a time; LIBSCHED_OWN_THREAD lifts that: then every
 * function may be called from any thread, the library does the pending work on a thread of its
 * own, and libsched_fd() becomes readable when there is something to reap.
 */
#ifndef LIBSCHED_H
#define LIBSCHED_H

#include <libsched/readings.h>
#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIBSCHED_VERSION_MAJOR 0
#define LIBSCHED_VERSION_MINOR 1
#define LIBSCHED_VERSION_PATCH 0

/* The version of the library that is running: "0.1.0". The string is static. */
LIBSCHED_API const char *libsched_version(void);

/* Now, in ns, on the clock that everything here uses. */
LIBSCHED_API uint64_t libsched_now(void);

/* What the _INIT of a struct is made of: all its members zero, but for its size. */
#ifdef __cplusplus
#define LIBSCHED_INIT_OF(type)            \
    ([] {                                 \
        type init_{};                     \
        init_.struct_size = sizeof(type); \
        return init_;                     \
    }())
#else
#define LIBSCHED_INIT_OF(type)      \
    {                               \
        .struct_size = sizeof(type) \
    }
#endif

/* ---------------------------------------------------------------------------- open and close */

typedef struct libsched libsched;

enum libsched_open_flags {
    /* Workers are threads of this process rather than processes: for embedding and sanitizers. A
     * fault in one then takes the process with it, a step that does not end can't be ended (and
     * libsched_close() waits for it), and engines that use OpenMP spin beside everything else
     * unless the program is started with GOMP_SPINCOUNT=1000 or the like. */
    LIBSCHED_THREAD_WORKERS = 1u << 0,
    /* The library runs the scheduler on a thread of its own. */
    LIBSCHED_OWN_THREAD = 1u << 1,
};

enum libsched_log_level { LIBSCHED_LOG_ERROR = 1, LIBSCHED_LOG_WARNING, LIBSCHED_LOG_INFO };

#define LIBSCHED_PRIORITIES 8

typedef struct libsched_options {
    uint32_t struct_size;
    uint32_t flags;            /* libsched_open_flags */
    const char *worker_path;   /* sched-worker; NULL: GPU_SCHED_WORKER, else beside the library,
                                * in ../libexec/gpu_sched, on PATH */
    const char *plugin_path;   /* folders of device and engine plugins, absolute, separated by
                                * ':'; NULL: GPU_SCHED_PLUGINS, else beside the library, then
                                * beside sched-worker */
    const char *topology_xml;  /* a recorded machine (hwloc XML); NULL: this one */
    uint32_t cpu_devices;      /* CPU devices; 0: one for each NUMA node */
    uint32_t cores_per_device; /* cores of a CPU device; 0: its share of all */
    uint32_t prepare_workers;  /* processes that prepare requests (tokenize); 0: 1 */
    uint32_t max_requests;     /* in flight, or ended and not yet released; 0: 65536 */
    uint64_t arena_bytes;      /* of inputs in flight; 0: 1 GiB (taken as it is used) */
    uint64_t result_bytes;     /* of results not yet released, a worker; 0: 256 MiB */
    uint32_t spin_us;          /* at most so long a worker looks for work before it sleeps, where
                                * cores allow it; UINT32_MAX: never. 0: 50 */
    uint32_t max_restarts;     /* of a worker that dies before it served anything, in a row,
                                * before its device is given up; 0: 5 */
    /* Called with a line for people, on the thread that does the work. NULL: none. */
    void (*log)(void *payload, int level, const char *line);
    void *log_payload;
    /* Of device time where several classes want it, relative to each other, by priority. All 0:
     * 128, 64, 32 … 1. */
    uint32_t class_shares[LIBSCHED_PRIORITIES];
    /* A request without a deadline is served as if it had one so long after it was submitted, but
     * never dropped. 0: 1 s for priority 0, twice as long for each further. */
    uint64_t class_patience_ns[LIBSCHED_PRIORITIES];
    uint32_t max_client_requests; /* waiting, of one client; 0: no limit of its own */
    uint32_t job_share_percent;   /* of device time, jobs' where inference wants it too; 0: 50 */
    uint32_t max_jobs;            /* not ended; 0: 256 */
    uint64_t first_job;       /* the id of the first job, for who goes on where another scheduler
                               * ended; 0: 1 */
    uint32_t devices_per_gpu; /* logical devices on each GPU, each with a worker; 0: 1 */
    /* The network interface by which ranks of jobs on GPUs find each other, which has to be up and
     * have an address: workers get it as NCCL_SOCKET_IFNAME and NCCL_SOCKET_FAMILY. NULL: what the
     * environment says, else the loopback. Not with LIBSCHED_THREAD_WORKERS. */
    const char *collective_interface;
    /* A model whose weights are at least so many bytes, and that is loaded on several GPUs at once,
     * is read by one worker for all. 0: 1 GiB; UINT64_MAX: never. */
    uint64_t share_weights_bytes;
} libsched_options;

#define LIBSCHED_OPTIONS_INIT LIBSCHED_INIT_OF(libsched_options)

/*
 * Opens a scheduler: finds the devices and starts their workers, which come up in the background.
 * `*out` is the caller's, to be closed. Fails with LIBSCHED_EINVAL (an option), LIBSCHED_ESYSTEM
 * or LIBSCHED_ENOMEM, leaving nothing behind.
 */
LIBSCHED_API int libsched_open(libsched **out, const libsched_options *options,
                               libsched_error *err);

/* Ends the workers, within a second, and frees everything: requests in flight are forgotten,
 * completions and buffers not released become invalid. NULL is allowed. */
LIBSCHED_API void libsched_close(libsched *s);

/* From now on libsched_submit() and libsched_model_load() answer LIBSCHED_ECLOSING, and requests
 * that wait for a model to load end with it; what is queued or runs goes on. stats.queued and
 * stats.running tell when it is done. */
LIBSCHED_API void libsched_drain(libsched *s);

/* -------------------------------------------------------------------------------- the pending */

/* A descriptor that is readable when libsched_process() has something to do; with
 * LIBSCHED_OWN_THREAD, when there is something to reap. The library's: to be polled, not to be read
 * or closed. The same as long as the scheduler is open. */
LIBSCHED_API int libsched_fd(const libsched *s);

enum libsched_process_flags {
    /* The caller comes back at once without polling the descriptor: workers need not wake it. */
    LIBSCHED_SPINNING = 1u << 0,
};

/*
 * Does what is pending, never blocking, and answers how much there was (events handled, also 0), or
 * LIBSCHED_EINVAL for flags that are not known. Without LIBSCHED_SPINNING it leaves the descriptor
 * armed: whatever happens after it returns makes it readable. Completions that are there when it
 * returns do not: reap before you sleep. With LIBSCHED_OWN_THREAD it does nothing and answers 0.
 */
LIBSCHED_API int libsched_process(libsched *s, uint32_t flags);

/* For how long the caller may spin before it polls, in ns, as the cores and the models loaded now
 * allow (at most one thread less than there are usable cores spins, and none beside a CPU device
 * that computes); 0: not at all. */
LIBSCHED_API uint64_t libsched_spin_budget(const libsched *s);

/* ------------------------------------------------------------------------------------- devices */

enum libsched_device_kind { LIBSCHED_DEVICE_CPU = 1, LIBSCHED_DEVICE_GPU = 2 };

enum libsched_device_state {
    LIBSCHED_DEVICE_ABSENT = 1, /* not usable: see reason */
    LIBSCHED_DEVICE_STARTING,
    LIBSCHED_DEVICE_UP,
    LIBSCHED_DEVICE_DOWN, /* given up: see reason */
    LIBSCHED_DEVICE_HELD, /* reserved, its worker ended: see reason */
};

typedef struct libsched_device_info {
    uint32_t struct_size;
    uint32_t kind;                  /* libsched_device_kind */
    uint32_t state;                 /* libsched_device_state */
    char name[LIBSCHED_NAME_SIZE];  /* "cpu:0", "gpu:0" */
    char model[LIBSCHED_NAME_SIZE]; /* "NVIDIA H200" */
    char reason[LIBSCHED_MESSAGE_SIZE];
    char cpus[LIBSCHED_NAME_SIZE]; /* "0-3,8"; cut with "..." where it is longer */
    char pci[32];                  /* "0000:3b:00.0"; empty for a CPU */
    int32_t numa_node;             /* -1: unknown */
    uint32_t cores;
    uint64_t memory_bytes;
    int32_t pid; /* of its worker; 0: none, or a thread */
    uint32_t restarts;
    uint64_t busy_ns; /* spent in batches */
    uint64_t batches;
} libsched_device_info;

#define LIBSCHED_DEVICE_INFO_INIT LIBSCHED_INIT_OF(libsched_device_info)

/* Devices, usable or not: their indices are 0 to one less, and neither changes while the scheduler
 * is open. */
LIBSCHED_API uint32_t libsched_device_count(const libsched *s);
/* Fills `out`, the caller's, for device `index`. LIBSCHED_ENODEVICE: there is none;
 * LIBSCHED_EINVAL: `out` does not begin with its size. */
LIBSCHED_API int libsched_device_get(libsched *s, uint32_t index, libsched_device_info *out);

#define LIBSCHED_DEVICE_READINGS_INIT LIBSCHED_INIT_OF(libsched_device_readings)

/* Fills `out` with what the instruments of device `index` showed last (libsched/readings.h). Its
 * worker reads them about once a second; this looks at what it left, and waits for nothing. Where
 * there is nothing `has` is 0, and `reason` says why: a CPU device, no worker that runs, no library
 * to read them with. Errors (`xid_count`) are those since the scheduler was opened, also of workers
 * that they ended. Statuses as above. */
LIBSCHED_API int libsched_device_get_readings(libsched *s, uint32_t index,
                                              libsched_device_readings *out);

/* -------------------------------------------------------------------------------------- models */

typedef struct libsched_model_options {
    uint32_t struct_size;
    const char *name;    /* required; [A-Za-z0-9._-], shorter than LIBSCHED_NAME_SIZE */
    const char *path;    /* a folder: with a gpu_sched.json, or in Hugging Face layout */
    const char *engine;  /* "encoder", "synthetic", or a plugin's; NULL: the folder says */
    const char *library; /* a plugin, absolute; NULL: built in, or found on plugin_path */
    const libsched_parameter *parameters; /* for the engine; they go before the manifest's */
    uint32_t n_parameters;
    const char *const *devices; /* names of the devices to use; NULL: all usable */
    uint32_t n_devices;
    /* Limits; 0: as the manifest or the engine says. They can only lower the engine's. */
    uint32_t max_batch_requests;
    uint64_t max_batch_units;
    uint64_t max_request_units;
    uint32_t queue_limit; /* requests waiting; 0: 4096 */
    /* Of one step of a batch. A worker that takes longer is ended, and what it was at is run again,
     * each request alone, as after any death of a worker. 0: 32 times what such a step was seen to
     * take, but 10 s at least and 10 minutes at most, as long as nothing was seen as well;
     * UINT64_MAX: none. Workers that are threads can't be ended, and go on. */
    uint64_t step_limit_ns;
} libsched_model_options;

#define LIBSCHED_MODEL_OPTIONS_INIT LIBSCHED_INIT_OF(libsched_model_options)

/*
 * Begins to load a model. What can be seen at once is answered at once: LIBSCHED_EINVAL (an
 * option), LIBSCHED_EBADMODEL (the folder, its manifest, the plugin's path), LIBSCHED_EEXIST,
 * LIBSCHED_ENODEVICE, LIBSCHED_EBUSY (as many models are loaded as may be), LIBSCHED_ECLOSING,
 * LIBSCHED_ENOMEM. After LIBSCHED_OK a completion of kind LIBSCHED_MODEL tells that it is ready, or
 * failed. Requests may be submitted meanwhile: they wait. A model that failed keeps its name, and
 * its reason, until it is unloaded or loaded again.
 */
LIBSCHED_API int libsched_model_load(libsched *s, const libsched_model_options *options,
                                     libsched_error *err);

/* Takes a model away: its waiting requests end with LIBSCHED_ENOMODEL, running ones run to their
 * end, then a completion of kind LIBSCHED_MODEL tells that it is gone. LIBSCHED_ENOMODEL where none
 * is called so, or it is being taken away already. */
LIBSCHED_API int libsched_model_unload(libsched *s, const char *name, libsched_error *err);

enum libsched_model_state {
    LIBSCHED_MODEL_LOADING = 1,
    LIBSCHED_MODEL_READY, /* on at least one device */
    LIBSCHED_MODEL_FAILED,
    LIBSCHED_MODEL_UNLOADING,
    LIBSCHED_MODEL_GONE, /* in completions only */
};

/* Counters only grow. */
typedef struct libsched_counters {
    uint64_t submitted; /* accepted */
    uint64_t completed, failed, cancelled, expired;
    uint64_t refused; /* not accepted: no room, no such model, wrong tensors */
    uint64_t retried; /* put back after a worker died */
    uint64_t batches, batched_requests, batched_units; /* steps, and the items and units in them */
    uint64_t queue_ns, compute_ns;                     /* summed over completed requests */
} libsched_counters;

typedef struct libsched_model_info {
    uint32_t struct_size;
    uint32_t state; /* libsched_model_state */
    char name[LIBSCHED_NAME_SIZE];
    char engine[LIBSCHED_NAME_SIZE];
    char text[LIBSCHED_MESSAGE_SIZE];
    libsched_error error; /* why it failed */
    uint64_t devices;     /* a bit for each device (by index) it is loaded on */
    uint32_t n_inputs, n_outputs;
    libsched_tensor_spec inputs[LIBSCHED_MAX_TENSORS];
    libsched_tensor_spec outputs[LIBSCHED_MAX_TENSORS];
    uint32_t max_batch_requests;
    uint64_t max_batch_units, max_request_units;
    uint32_t queue_limit;
    uint32_t queued, running;
    libsched_counters counters;
} libsched_model_info;

#define LIBSCHED_MODEL_INFO_INIT LIBSCHED_INIT_OF(libsched_model_info)

/* Models that have a name, those that are loading, failed or going included. Their indices are 0 to
 * one less, and change when one is unloaded. */
LIBSCHED_API uint32_t libsched_model_count(const libsched *s);
/* Fills `out`, the caller's, for model `index`. LIBSCHED_ENOMODEL: there is none; LIBSCHED_EINVAL:
 * `out` does not begin with its size. */
LIBSCHED_API int libsched_model_get(libsched *s, uint32_t index, libsched_model_info *out);
/* The same by name. */
LIBSCHED_API int libsched_model_find(libsched *s, const char *name, libsched_model_info *out);

/*
 * How long requests of a model took, and in what batches they were: how many of those that
 * completed. Bucket i has those that were above 2^(i-1) and not above 2^i, of times in
 * microseconds; bucket 0 those not above 1, and the last all that were above the one before.
 */
#define LIBSCHED_HISTOGRAM_BUCKETS 32

typedef struct libsched_histograms {
    uint32_t struct_size;
    uint64_t queue_us[LIBSCHED_HISTOGRAM_BUCKETS];   /* waiting */
    uint64_t compute_us[LIBSCHED_HISTOGRAM_BUCKETS]; /* in its batch */
    uint64_t total_us[LIBSCHED_HISTOGRAM_BUCKETS];   /* both */
    uint64_t batch[LIBSCHED_HISTOGRAM_BUCKETS];      /* requests in its (last) batch */
    uint64_t batch_sum;                              /* of those, over completed requests */
} libsched_histograms;

#define LIBSCHED_HISTOGRAMS_INIT LIBSCHED_INIT_OF(libsched_histograms)

/* Fills `out`, the caller's, for the model of that name. LIBSCHED_ENOMODEL: there is none;
 * LIBSCHED_EINVAL: `out` does not begin with its size. */
LIBSCHED_API int libsched_model_histograms(libsched *s, const char *name, libsched_histograms *out);

/*
 * The specs of a model's inputs without copying its info: for whoever builds tensors for each
 * request. `*specs` is the library's and valid until the next libsched_process() or
 * libsched_model_*() call. LIBSCHED_ENOMODEL; LIBSCHED_ENOTREADY while they are not known.
 */
LIBSCHED_API int libsched_model_inputs(libsched *s, const char *name,
                                       const libsched_tensor_spec **specs, uint32_t *n_specs);

/* ------------------------------------------------------------------------------------- buffers */

/* Memory that workers can read: a tensor whose data lies in a buffer, at a multiple of 64 from its
 * start, is not copied. Counted references; a request holds one until it has ended and no worker
 * reads it any more. */
typedef struct libsched_buffer libsched_buffer;

/* `size` bytes, aligned to 64, in the arena. `*out` is a reference of the caller's, to be released.
 * LIBSCHED_ETOOBIG where the arena could never hold it, LIBSCHED_EBUSY where it can't now,
 * LIBSCHED_ENOMEM. Write it before it is submitted and not afterwards. */
LIBSCHED_API int libsched_buffer_alloc(libsched *s, uint64_t size, libsched_buffer **out,
                                       libsched_error *err);

/*
 * A memfd of somebody else's as a buffer. It has to carry F_SEAL_SHRINK and F_SEAL_WRITE (so
 * nobody can change it, or take it away, while workers read it), to hold `size` bytes, and not to
 * be made of huge pages (which may turn out not to be there when they are read), else
 * LIBSCHED_EINVAL; LIBSCHED_ESYSTEM, LIBSCHED_ENOMEM. The descriptor is duplicated; the caller
 * keeps its own. `*out` is a reference of the caller's, to be released.
 */
LIBSCHED_API int libsched_buffer_import(libsched *s, int fd, uint64_t size, libsched_buffer **out,
                                        libsched_error *err);

/* Where it lies, as long as a reference is held. Writable for an allocated buffer, read-only for an
 * imported one. */
LIBSCHED_API void *libsched_buffer_data(const libsched_buffer *buffer);
/* Its bytes. */
LIBSCHED_API uint64_t libsched_buffer_size(const libsched_buffer *buffer);
/* One reference more, to be released. */
LIBSCHED_API void libsched_buffer_retain(libsched_buffer *buffer);
/* One reference less; the last one frees it. NULL is allowed. */
LIBSCHED_API void libsched_buffer_release(libsched_buffer *buffer);

/* ------------------------------------------------------------------------------------ requests */

enum libsched_request_flags {
    /* The caller wants the parts; else only the last part's outputs arrive, with the end. */
    LIBSCHED_WANT_PARTS = 1u << 0,
};

typedef struct libsched_request {
    uint32_t struct_size;
    uint32_t flags; /* libsched_request_flags */
    const char *model;
    const char *client;   /* whose share it counts to; NULL: "" */
    uint32_t priority;    /* 0, the most urgent, to LIBSCHED_PRIORITIES - 1 */
    uint32_t part_credit; /* parts that may be sent before libsched_grant() */
    uint64_t timeout_ns;  /* from now; 0: no deadline */
    uint64_t user;        /* comes back in the completions */
    const libsched_tensor *inputs;
    libsched_buffer *const *buffers; /* NULL, or for each input the buffer its data lies in (or
                                      * NULL: its data is copied) */
    uint32_t n_inputs;
    uint32_t n_parameters;
    const libsched_parameter *parameters;
} libsched_request;

#define LIBSCHED_REQUEST_INIT LIBSCHED_INIT_OF(libsched_request)

/*
 * Submits a request: `*id` names it until its end has been released. It is checked against the
 * model's description at once (LIBSCHED_EINVAL, naming the tensor), or, while the model is loading
 * for the first time and its description is not known, when it is: then it ends with
 * LIBSCHED_EINVAL. What was submitted is given to a device by the next libsched_process(), so that
 * requests submitted before it are batched together; with LIBSCHED_OWN_THREAD at once.
 *
 * Refusals: LIBSCHED_ENOMODEL; LIBSCHED_EQUEUEFULL, LIBSCHED_ECLIENTFULL and LIBSCHED_EBUSY (as
 * many requests, or bytes in the arena, as may be; with these three `*id` is the ns after which to
 * come back), LIBSCHED_ETOOBIG, LIBSCHED_EDEADLINE, LIBSCHED_ECLOSING, LIBSCHED_ENOMEM; a model
 * that failed to load answers with the reason of its failure. A refused request has no completion.
 */
LIBSCHED_API int libsched_submit(libsched *s, const libsched_request *request, uint64_t *id,
                                 libsched_error *err);

/* Its end comes, with LIBSCHED_ECANCELED, unless it was under way already. LIBSCHED_ENOENT where
 * no request of that id is in flight. */
LIBSCHED_API int libsched_cancel(libsched *s, uint64_t id);

/* Lets `n` more parts of a request come. LIBSCHED_ENOENT where none of that id is in flight. */
LIBSCHED_API int libsched_grant(libsched *s, uint64_t id, uint32_t n);

/* --------------------------------------------------------------------------------------- jobs */

/*
 * A job: a program (libsched/engine.h) that takes k devices at once and runs until it has finished,
 * or, with LIBSCHED_JOB_RESERVE, k devices held for the caller's own code, their workers ended.
 * It waits for its devices in a line of its own, beside the requests, and shares them with
 * inference while it runs (a reservation does not).
 */

enum libsched_job_flags {
    LIBSCHED_JOB_RESERVE = 1u << 0, /* no program: until released, cancelled or out of time */
};

typedef struct libsched_job_options {
    uint32_t struct_size;
    uint32_t flags;      /* libsched_job_flags */
    const char *name;    /* for people; NULL: the program's. [A-Za-z0-9._-] */
    const char *program; /* "gemm", "allreduce", "train", "embed", or a plugin's */
    const char *library; /* a plugin, absolute; NULL: built in, or found on plugin_path */
    const libsched_parameter *parameters;
    uint32_t n_parameters;
    uint32_t n_devices;         /* k; 0: 1 */
    const char *const *devices; /* names of those it may have; NULL: all usable */
    uint32_t n_device_names;
    uint64_t memory_bytes; /* of a rank, on each device; 0: as the program says */
    const char *client;
    uint32_t priority;
    uint64_t time_limit_ns; /* from its start; 0: none. Past it, it ends with LIBSCHED_ETIMELIMIT */
    uint64_t step_limit_ns; /* of one step; past it, its workers are ended. 0: 60 s */
    uint64_t user;          /* comes back in the completions */
} libsched_job_options;

#define LIBSCHED_JOB_OPTIONS_INIT LIBSCHED_INIT_OF(libsched_job_options)

enum libsched_job_state {
    LIBSCHED_JOB_CHECKING = 1, /* its parameters are being checked */
    LIBSCHED_JOB_PENDING,
    LIBSCHED_JOB_STARTING,
    LIBSCHED_JOB_RUNNING, /* or a reservation that has its devices */
    LIBSCHED_JOB_CLOSING,
    LIBSCHED_JOB_ENDED, /* in completions only */
};

/*
 * Submits a job. What can be seen at once is answered at once: LIBSCHED_EINVAL, LIBSCHED_ENOENT (no
 * such program), LIBSCHED_ENODEVICE (more devices than there are), LIBSCHED_EBUSY (as many jobs as
 * may be), LIBSCHED_ECLOSING. Whatever becomes of it later comes as completions of kind
 * LIBSCHED_JOB: a change of its state, its progress, and exactly one that is its end.
 */
LIBSCHED_API int libsched_job_submit(libsched *s, const libsched_job_options *options, uint64_t *id,
                                     libsched_error *err);

/* Its end comes, with LIBSCHED_ECANCELED unless it was under way already. LIBSCHED_ENOENT. */
LIBSCHED_API int libsched_job_cancel(libsched *s, uint64_t id);
/* Gives a reservation back: its end comes, with LIBSCHED_OK. LIBSCHED_ENOENT; LIBSCHED_EINVAL where
 * it is none. */
LIBSCHED_API int libsched_job_release(libsched *s, uint64_t id);

typedef struct libsched_job_info {
    uint32_t struct_size;
    uint32_t state; /* libsched_job_state */
    uint64_t id;
    char name[LIBSCHED_NAME_SIZE];
    char program[LIBSCHED_NAME_SIZE]; /* empty for a reservation */
    char client[LIBSCHED_NAME_SIZE];
    char text[LIBSCHED_MESSAGE_SIZE]; /* what the program says of itself */
    char why[LIBSCHED_MESSAGE_SIZE];  /* pending: what for; else why it has these devices */
    uint32_t n_devices;               /* k */
    uint64_t devices;                 /* a bit for each it has (by index); 0: none yet */
    uint64_t step;
    uint64_t done, total;                  /* its progress; total 0: not known */
    char message[LIBSCHED_MESSAGE_SIZE];   /* its latest */
    uint64_t queued_ns, run_ns, device_ns; /* waited, ran, device time taken */
    uint64_t starts_by_ns; /* pending: from now, it has its devices at the latest; 0: not known */
} libsched_job_info;

#define LIBSCHED_JOB_INFO_INIT LIBSCHED_INIT_OF(libsched_job_info)

/* Jobs have an index from 0 to libsched_job_count() - 1, in the order they were submitted, that
 * changes when one has ended. */
LIBSCHED_API uint32_t libsched_job_count(const libsched *s);
LIBSCHED_API int libsched_job_get(libsched *s, uint32_t index, libsched_job_info *out);
/* The same by id; LIBSCHED_ENOENT once it has ended. */
LIBSCHED_API int libsched_job_find(libsched *s, uint64_t id, libsched_job_info *out);

/* A client's weight in the fair share of device time among those of its class (0: 1, at most
 * 65536), and how many of its requests may wait (0: as configured). Both 0 forgets it.
 * LIBSCHED_EINVAL: a weight or a name that is too large; LIBSCHED_EBUSY: as many clients are known
 * as may be. */
LIBSCHED_API int libsched_client_set(libsched *s, const char *client, uint32_t weight,
                                     uint32_t max_requests);

/* --------------------------------------------------------------------------------- completions */

enum libsched_completion_kind {
    LIBSCHED_PART = 1, /* a part of a request's answer */
    LIBSCHED_END,      /* its end: exactly one for each request that was accepted */
    LIBSCHED_MODEL,    /* a model's state changed: `name`, `state`, `status`, `message` */
    LIBSCHED_DEVICE,   /* a device's state changed: likewise */
    LIBSCHED_JOB,      /* a job's state or progress: `id`, `user`, `name`, `state`; its end (state
                        * LIBSCHED_JOB_ENDED): `status`, `message`, its result in `values` */
};

typedef struct libsched_completion {
    uint32_t kind; /* libsched_completion_kind */
    int status;
    uint64_t id, user;
    const char *message;            /* of a status that is not LIBSCHED_OK; else "", or what a
                                     * job last said of its progress */
    const libsched_tensor *outputs; /* n_outputs of them, in shared memory: a worker could still
                                     * write there, so what is checked is copied first */
    uint32_t n_outputs;
    uint32_t device;      /* index; UINT32_MAX: it reached none */
    const char *name;     /* LIBSCHED_MODEL, LIBSCHED_DEVICE, LIBSCHED_JOB */
    uint32_t state;       /* libsched_model_state, libsched_device_state or libsched_job_state */
    uint32_t attempts;    /* 1, or more where a worker died under it */
    uint32_t batch_size;  /* requests in its last step */
    uint64_t queue_ns;    /* from its submission to its (last) dispatch */
    uint64_t compute_ns;  /* from there to its end */
    uint64_t done, total; /* LIBSCHED_JOB: its progress. Of several that were not reaped in time
                           * the latest alone is kept */
    uint64_t devices;     /* LIBSCHED_JOB: a bit for each device it has */
    const libsched_parameter *values; /* LIBSCHED_JOB, at its end: n_values results */
    uint32_t n_values;
    void *handle; /* the library's */
} libsched_completion;

/* Moves up to `max` completions to `out`, in the order in which they came about; answers how
 * many. What they point to is the library's, and is there until they are released. Where some are
 * left, the descriptor is readable. */
LIBSCHED_API size_t libsched_reap(libsched *s, libsched_completion *out, size_t max);
/* Gives back what completions that were reaped point to, in any order and at any time before
 * libsched_close(). The entries are emptied: released again, they are ignored. */
LIBSCHED_API void libsched_release(libsched *s, libsched_completion *completions, size_t n);

/* --------------------------------------------------------------------------------------- stats */

typedef struct libsched_stats {
    uint32_t struct_size;
    uint32_t queued, running; /* requests now */
    uint64_t uptime_ns;
    libsched_counters counters; /* over all models, those unloaded included */
    uint64_t arena_bytes, arena_used;
    uint64_t worker_deaths;
} libsched_stats;

#define LIBSCHED_STATS_INIT LIBSCHED_INIT_OF(libsched_stats)

/* Fills `out`, the caller's. LIBSCHED_EINVAL where it does not begin with its size. */
LIBSCHED_API int libsched_get_stats(libsched *s, libsched_stats *out);

/* ------------------------------------------------------------------------------------- workers */

/* What sched-worker's main() calls; not for others. Its exit code. */
LIBSCHED_API int libsched_worker_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
