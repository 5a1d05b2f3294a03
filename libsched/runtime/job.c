/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs: from libsched_job_submit() to their one end.
 *
 * The parameters of a program are checked before it is queued, by a worker that prepares: that is
 * somebody's code, and may fall over. Then the core has it, until it says how it ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

/* A check has so long; one that took its worker along so often is at fault itself. */
#define CHECK_LIMIT UINT64_C(10000000000)
#define CHECK_DEATHS 3u
/* Where a worker took no command: when it is asked again. */
#define CHECK_AGAIN UINT64_C(5000000)

struct runtime_job *runtime_job_by_core(const libsched *s, uint64_t core_id)
{
    struct runtime_job *job = s->jobs_by_core[core_id % CORE_MAX_JOBS];
    return core_id != 0 && job != NULL && job->core_id == core_id ? job : NULL;
}

struct runtime_job *runtime_job_find(const libsched *s, uint64_t id)
{
    LIST_EACH(&s->jobs, node, following)
    {
        struct runtime_job *job = LIST_ENTRY(node, struct runtime_job, link);
        if (job->id == id)
            return job;
    }
    return NULL;
}

void runtime_job_free(libsched *s, struct runtime_job *job)
{
    list_remove(&job->link);
    if (job->shared != NULL) {
        runtime_segment_drop(s, job->shared);
        segment_free(job->shared);
    }
    if (job->progress != NULL)
        job->progress->job = NULL;
    runtime_job_values_free(job);
    free(job->library);
    free(job->parameters);
    free(job);
}

void runtime_jobs_free(libsched *s)
{
    LIST_EACH(&s->jobs, node, following)
    runtime_job_free(s, LIST_ENTRY(node, struct runtime_job, link));
}

/* ------------------------------------------------------------------------------------- the end */

/* What to say where nobody who was nearer to it has said it. */
static void explain(libsched_error *err, const struct runtime_job *job, int status)
{
    switch (status) {
    case LIBSCHED_ECANCELED:
        libsched_error_set(err, status, "it was cancelled");
        break;
    case LIBSCHED_ETIMELIMIT:
        libsched_error_set(err, status, "it ran into its time limit of %" PRIu64 ".%03" PRIu64 " s",
                           job->time_limit / 1000000000, job->time_limit / 1000000 % 1000);
        break;
    case LIBSCHED_EDEVICELOST:
        libsched_error_set(err, status, "a device failed while it ran there");
        break;
    case LIBSCHED_ENODEVMEM:
        libsched_error_set(err, status,
                           "each of its %u ranks takes %" PRIu64 " bytes of device memory, for "
                           "which too few devices have room, even when they have nothing else",
                           job->n_devices, job->memory_bytes);
        break;
    case LIBSCHED_ENODEVICE:
        libsched_error_set(err, status, "there are no longer %u devices for it", job->n_devices);
        break;
    case LIBSCHED_ECLOSING:
        libsched_error_set(err, status, "the scheduler is closing");
        break;
    case LIBSCHED_EBUSY:
        libsched_error_set(err, status, "as many jobs wait as may be: come back later");
        break;
    case LIBSCHED_EENGINE:
        libsched_error_set(err, status, "its ranks do not agree whether it has finished");
        break;
    default:
        libsched_error_set(err, status, "it failed");
    }
}

void runtime_job_finish(libsched *s, struct runtime_job *job, int status)
{
    if (job->core_id != 0)
        s->jobs_by_core[job->core_id % CORE_MAX_JOBS] = NULL;
    for (uint32_t i = 0; i < s->n_listed; i++)
        if (job->core_id != 0 && s->devices[i].job == job->core_id)
            s->devices[i].job = 0;
    job->core_id = 0;
    list_remove(&job->link);
    s->n_jobs--;
    runtime_gang_end(s, job, runtime_job_collective_limit(job), status);
    /* A rank that was let go because another failed may be heard of first. */
    if (status == LIBSCHED_ECANCELED && !job->cancelled)
        status = job->failure.status != LIBSCHED_OK && job->failure.status != LIBSCHED_ECANCELED
                     ? job->failure.status
                     : LIBSCHED_EENGINE;
    /* What a rank said when it was told to end is no news. */
    bool told = status == LIBSCHED_ECANCELED || status == LIBSCHED_ETIMELIMIT;
    if (status < 0 && (told || job->failure.status != status || job->failure.message[0] == '\0'))
        explain(&job->failure, job, status);
    if (status < 0)
        runtime_log(s, LIBSCHED_LOG_INFO, "job %" PRIu64 " (%s): %s", job->id, job->name,
                    job->failure.message);
    runtime_job_queue_end(s, job, status);
    runtime_spin_share(s);
}

/* ------------------------------------------------------------------------------------ the core */

static int enter(libsched *s, struct runtime_job *job, libsched_error *err)
{
    struct core_event event = {
        .type = CORE_JOB_SUBMIT,
        .u.job = {.flags = job->reservation ? CORE_JOB_RESERVE : 0,
                  .n_devices = job->n_devices,
                  .devices = job->allowed,
                  .memory_bytes = job->memory_bytes,
                  .priority = job->priority,
                  .client = runtime_client_key(job->client),
                  .time_limit = job->time_limit,
                  .step_limit = job->step_limit},
    };
    int rc = core_handle(s->core, s->now, &event);
    if (rc < 0) {
        libsched_error why = {0};
        explain(&why, job, rc);
        return libsched_error_set(err, rc, "%s", why.message);
    }
    job->core_id = event.u.job.id;
    s->jobs_by_core[job->core_id % CORE_MAX_JOBS] = job;
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------ the check */

/* A check that ends its worker must not be taken for a load that does. */
static bool loads(const libsched *s, const struct runtime_device *device)
{
    for (uint32_t i = 0; i < s->n_models; i++)
        if (s->models[i]->loads[device->index] == RUNTIME_LOADING)
            return true;
    return false;
}

/* A worker that prepares, loads nothing now, and has the fewest checks. */
static struct runtime_device *choose_checker(libsched *s)
{
    struct runtime_device *best = NULL;
    uint32_t least = UINT32_MAX;
    for (uint32_t i = s->n_listed; i < s->n_devices; i++) {
        struct runtime_device *device = &s->devices[i];
        uint32_t n = 0;
        if (device->worker == NULL || !device->in_core_up || device->ending || loads(s, device))
            continue;
        LIST_EACH(&s->jobs, node, following)
        n += LIST_ENTRY(node, struct runtime_job, link)->checker == i;
        if (n < least) {
            least = n;
            best = device;
        }
    }
    return best;
}

static void fail_check(libsched *s, struct runtime_job *job, const libsched_error *why)
{
    job->checker = RUNTIME_NOBODY;
    job->failure = *why;
    runtime_job_finish(s, job, why->status);
}

static void later(libsched *s, uint64_t at)
{
    if (s->checks_at == 0 || at < s->checks_at)
        s->checks_at = at;
}

/* Its parameters go to a worker, if there is one that is up; else the next that is gets them. */
static void begin_check(libsched *s, struct runtime_job *job)
{
    struct runtime_device *device = choose_checker(s);
    if (device == NULL)
        return;
    const struct worker_rank rank = {
        .job = job->id,
        .name = job->name,
        .program = job->program,
        .library = job->library,
        .parameters = job->parameters,
        .n_parameters = job->n_parameters,
        .n_ranks = job->n_devices,
    };
    libsched_error err = {0};
    int rc = worker_rank_check(device->worker, &rank, &err);
    if (rc == LIBSCHED_EBUSY || rc == LIBSCHED_EDEVICELOST) {
        later(s, s->now + CHECK_AGAIN);
        return;
    }
    if (rc < 0) {
        fail_check(s, job, &err);
        return;
    }
    job->checker = device->index;
    job->checker_epoch = device->epoch;
    job->check_until = s->now + CHECK_LIMIT;
    later(s, job->check_until);
}

static void end_slow_check(libsched *s, struct runtime_job *job)
{
    struct runtime_device *device = &s->devices[job->checker];
    libsched_error why = {.status = LIBSCHED_EENGINE};
    snprintf(why.message, sizeof(why.message),
             "checking the parameters of \"%s\" took longer than %" PRIu64 " s", job->program,
             CHECK_LIMIT / 1000000000);
    if (device->worker != NULL && device->epoch == job->checker_epoch)
        runtime_worker_kill(s, device, why.message);
    fail_check(s, job, &why);
}

void runtime_jobs_check_soon(libsched *s)
{
    s->checks_at = s->now;
}

void runtime_jobs_check(libsched *s)
{
    s->checks_at = 0;
    LIST_EACH(&s->jobs, node, following)
    {
        struct runtime_job *job = LIST_ENTRY(node, struct runtime_job, link);
        if (job->state != LIBSCHED_JOB_CHECKING)
            continue;
        if (job->checker == RUNTIME_NOBODY)
            begin_check(s, job);
        else if (job->check_until <= s->now)
            end_slow_check(s, job);
        else
            later(s, job->check_until);
    }
}

void runtime_jobs_checker_down(libsched *s, struct runtime_device *device)
{
    runtime_jobs_check_soon(s);
    LIST_EACH(&s->jobs, node, following)
    {
        struct runtime_job *job = LIST_ENTRY(node, struct runtime_job, link);
        if (job->state != LIBSCHED_JOB_CHECKING || job->checker != device->index)
            continue;
        job->checker = RUNTIME_NOBODY;
        device->served = true; /* the job is at fault */
        if (++job->checker_deaths < CHECK_DEATHS)
            continue;
        const libsched_error why = {
            .status = LIBSCHED_EPOISON,
            .message = "each worker that checked its parameters ended over it",
        };
        fail_check(s, job, &why);
    }
}

static void checked(libsched *s, const struct runtime_device *device,
                    const struct worker_event *event)
{
    struct runtime_job *job = runtime_job_find(s, event->job);
    libsched_error err = event->error;
    if (job == NULL || job->checker != device->index || job->checker_epoch != device->epoch)
        return; /* cancelled meanwhile */
    job->checker = RUNTIME_NOBODY;
    err.status = event->status;
    if (event->status < 0) {
        fail_check(s, job, &err);
        return;
    }
    snprintf(job->text, sizeof(job->text), "%s", event->error.message);
    if (job->memory_bytes == 0)
        job->memory_bytes = event->memory_bytes;
    if (enter(s, job, &err) < 0)
        fail_check(s, job, &err);
    else
        runtime_job_set_state(s, job, LIBSCHED_JOB_PENDING);
}

void runtime_job_event(libsched *s, struct runtime_device *device, const struct worker_event *event)
{
    if (event->type != WORKER_RANK_CHECKED)
        runtime_job_rank_event(s, device, event);
    else if (device->prepares)
        checked(s, device, event);
}

/* ----------------------------------------------------------------------------------- submitting */

static int check_options(libsched *s, const libsched_job_options *options, libsched_error *err)
{
    bool reserve = (options->flags & LIBSCHED_JOB_RESERVE) != 0;
    int rc = LIBSCHED_OK;

    if (s->draining)
        return libsched_error_set(err, LIBSCHED_ECLOSING, "the scheduler is closing");
    if ((options->flags & ~(uint32_t)LIBSCHED_JOB_RESERVE) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "flags are 0x%x, of which 0x%x is known",
                                  options->flags, LIBSCHED_JOB_RESERVE);
    if (!reserve && options->program == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the job has no program: name one, or reserve devices instead");
    if (reserve && (options->program != NULL || options->library != NULL ||
                    options->n_parameters > 0 || options->memory_bytes > 0))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a reservation takes no program, library, parameters or memory");
    if (options->priority >= LIBSCHED_PRIORITIES)
        return libsched_error_set(err, LIBSCHED_EINVAL, "priority is %u, it may be from 0 to %d",
                                  options->priority, LIBSCHED_PRIORITIES - 1);
    if (options->library != NULL && options->library[0] != '/')
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "library is \"%.150s\": give an absolute path", options->library);
    if (options->n_device_names > 0 && options->devices == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "n_device_names is %u, devices is NULL",
                                  options->n_device_names);
    if (options->name != NULL)
        rc = runtime_validate_name("the name", options->name, err);
    if (rc == LIBSCHED_OK && options->program != NULL)
        rc = runtime_validate_name("the program", options->program, err);
    if (rc == LIBSCHED_OK && options->program != NULL && options->library == NULL)
        rc = worker_rank_find_program(options->program, s->options.plugin_path, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_validate_client(options->client, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_validate_parameters(options->parameters, options->n_parameters, err);
    if (rc == LIBSCHED_OK && s->n_jobs >= s->options.max_jobs)
        rc = libsched_error_set(err, LIBSCHED_EBUSY,
                                "%u jobs have not ended, which is the limit (max_jobs): come back "
                                "later",
                                s->n_jobs);
    return rc;
}

static uint64_t of_kind(const libsched *s, uint64_t devices, enum topology_kind kind)
{
    uint64_t out = 0;
    for (uint32_t i = 0; i < s->n_listed; i++)
        if ((devices >> i & 1) != 0 && s->devices[i].topology->kind == kind)
            out |= UINT64_C(1) << i;
    return out;
}

/* Which devices it may have. Ranks on devices of different kinds could not talk to each other; and
 * who names none means GPUs where there are any. */
static int choose_devices(libsched *s, struct runtime_job *job, const libsched_job_options *options,
                          libsched_error *err)
{
    int rc =
        runtime_devices_choose(s, options->devices, options->n_device_names, &job->allowed, err);
    if (rc < 0)
        return rc;
    uint64_t gpus = of_kind(s, job->allowed, TOPOLOGY_GPU);
    uint64_t cpus = of_kind(s, job->allowed, TOPOLOGY_CPU);
    if (options->n_device_names == 0 && gpus != 0)
        job->allowed = gpus;
    else if (gpus != 0 && cpus != 0 && job->n_devices > 1 && !job->reservation)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the devices are of different kinds (%s and %s): the ranks of a "
                                  "job could not talk to each other",
                                  s->devices[__builtin_ctzll(cpus)].name,
                                  s->devices[__builtin_ctzll(gpus)].name);
    uint32_t n = (uint32_t)__builtin_popcountll(job->allowed);
    if (job->n_devices <= n)
        return LIBSCHED_OK;
    char names[128];
    runtime_device_names(s, job->allowed, names, sizeof(names));
    return libsched_error_set(err, LIBSCHED_ENODEVICE,
                              "it asks for %u devices, there are %u that it may have: %s",
                              job->n_devices, n, names);
}

static int copy_library(struct runtime_job *job, const char *path, libsched_error *err)
{
    char real[PATH_MAX];
    if (path == NULL)
        return LIBSCHED_OK;
    if (realpath(path, real) == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "the program's library \"%.150s\": %s",
                                  path, strerror(errno));
    job->library = strdup(real);
    return job->library != NULL ? LIBSCHED_OK
                                : libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a job");
}

static int make(libsched *s, const libsched_job_options *options, struct runtime_job **out,
                libsched_error *err)
{
    struct runtime_job *job = calloc(1, sizeof(*job));
    if (job == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a job");
    list_init(&job->link);
    list_init(&job->end.completion.link);
    job->end.job = job;
    job->user = options->user;
    job->reservation = (options->flags & LIBSCHED_JOB_RESERVE) != 0;
    job->n_devices = options->n_devices > 0 ? options->n_devices : 1;
    job->priority = options->priority;
    job->memory_bytes = options->memory_bytes;
    job->time_limit = options->time_limit_ns;
    job->step_limit = options->step_limit_ns > 0 ? options->step_limit_ns : CORE_STEP_LIMIT;
    job->submitted_at = s->now;
    job->checker = RUNTIME_NOBODY;
    job->state = job->reservation ? LIBSCHED_JOB_PENDING : LIBSCHED_JOB_CHECKING;
    const char *name = options->name != NULL ? options->name : options->program;
    snprintf(job->name, sizeof(job->name), "%s", name != NULL ? name : "reservation");
    snprintf(job->program, sizeof(job->program), "%s",
             options->program != NULL ? options->program : "");
    snprintf(job->client, sizeof(job->client), "%s",
             options->client != NULL ? options->client : "");

    int rc = copy_library(job, options->library, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_parameters_merge(&job->parameters, &job->n_parameters, options->parameters,
                                      options->n_parameters, NULL, 0, err);
    if (rc == LIBSCHED_OK)
        rc = choose_devices(s, job, options, err);
    if (rc == LIBSCHED_OK && job->reservation)
        rc = enter(s, job, err);
    if (rc < 0) {
        runtime_job_free(s, job);
        return rc;
    }
    *out = job;
    return LIBSCHED_OK;
}

static int submit(libsched *s, const libsched_job_options *options, uint64_t *id,
                  libsched_error *err)
{
    struct runtime_job *job = NULL;
    runtime_now(s);
    int rc = check_options(s, options, err);
    if (rc == LIBSCHED_OK)
        rc = make(s, options, &job, err);
    if (rc < 0 || job == NULL)
        return rc;
    job->id = ++s->last_job;
    list_append(&s->jobs, &job->link);
    s->n_jobs++;
    *id = job->id;
    if (job->state == LIBSCHED_JOB_CHECKING)
        begin_check(s, job);
    runtime_settle(s);
    return LIBSCHED_OK;
}

int libsched_job_submit(libsched *s, const libsched_job_options *options, uint64_t *id,
                        libsched_error *err)
{
    libsched_job_options given;
    uint64_t unused;
    if (id == NULL)
        id = &unused;
    *id = 0;
    int rc = runtime_struct_read(&given, sizeof(given), options, "libsched_job_options", err);
    if (rc < 0)
        return rc;
    runtime_lock(s);
    rc = submit(s, &given, id, err);
    runtime_unlock(s);
    return rc;
}

/* -------------------------------------------------------------------------- cancel and release */

static int tell(libsched *s, uint64_t id, enum core_event_type type)
{
    struct runtime_job *job = runtime_job_find(s, id);
    if (job == NULL)
        return LIBSCHED_ENOENT;
    if (type == CORE_JOB_RELEASE && !job->reservation)
        return LIBSCHED_EINVAL;
    int rc = LIBSCHED_OK;
    job->cancelled |= type == CORE_JOB_CANCEL;
    if (job->core_id == 0) {
        runtime_job_finish(s, job, LIBSCHED_ECANCELED);
    } else {
        struct core_event event = {.type = type, .u.job_id.id = job->core_id};
        rc = core_handle(s->core, s->now, &event);
    }
    runtime_settle(s);
    return rc;
}

int libsched_job_cancel(libsched *s, uint64_t id)
{
    runtime_lock(s);
    runtime_now(s);
    int rc = tell(s, id, CORE_JOB_CANCEL);
    runtime_unlock(s);
    return rc;
}

int libsched_job_release(libsched *s, uint64_t id)
{
    runtime_lock(s);
    runtime_now(s);
    int rc = tell(s, id, CORE_JOB_RELEASE);
    runtime_unlock(s);
    return rc;
}
