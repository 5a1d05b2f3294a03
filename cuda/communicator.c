/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators of NCCL, which never block: what it began is looked at until it has ended, and
 * when somebody gives up, or the time is over, it is aborted. All calls to a communicator are made
 * by the device's thread, so that none is inside of it when it is aborted; another thread only sets
 * a flag. Should the abort not return, the device is lost, and the process has to end.
 */
#include "communicator.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How long NCCL may take to abort; tests have less patience. */
#ifndef CUDA_ABORT_NS
#define CUDA_ABORT_NS UINT64_C(10000000000)
#endif
#define FINALIZE_NS UINT64_C(3000000000)
#define NAP_NS 200000

static void nap(void)
{
    const struct timespec time = {.tv_nsec = NAP_NS};

    nanosleep(&time, NULL);
}

/* -------------------------------------------------------------------------------------- aborting
 */

/* Belongs to whoever is last. */
struct abortion {
    const struct nccl *nccl;
    struct nccl_communicator *handle;
    int ordinal;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int users;
    bool done;
};

static void let_go(struct abortion *a)
{
    bool last;

    pthread_mutex_lock(&a->mutex);
    last = --a->users == 0;
    pthread_mutex_unlock(&a->mutex);
    if (last) {
        pthread_mutex_destroy(&a->mutex);
        pthread_cond_destroy(&a->cond);
        free(a);
    }
}

static void *run_abort(void *context)
{
    struct abortion *a = context;

    (void)cudaSetDevice(a->ordinal);
    (void)a->nccl->abort(a->handle);
    pthread_mutex_lock(&a->mutex);
    a->done = true;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->mutex);
    let_go(a);
    return NULL;
}

static bool await(struct abortion *a)
{
    struct timespec until;
    int error = 0;
    bool done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(CUDA_ABORT_NS / 1000000000);
    pthread_mutex_lock(&a->mutex);
    while (!a->done && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&a->cond, &a->mutex, &until);
    done = a->done;
    pthread_mutex_unlock(&a->mutex);
    return done;
}

/* Whether it returned. */
static bool abort_handle(libsched_device_communicator *c)
{
    struct abortion *a = calloc(1, sizeof(*a));
    pthread_condattr_t attributes;
    pthread_t thread;
    bool done;

    if (a == NULL)
        return false;
    a->nccl = c->nccl;
    a->handle = c->handle;
    a->ordinal = c->device->ordinal;
    a->users = 2;
    pthread_mutex_init(&a->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&a->cond, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&thread, NULL, run_abort, a) != 0) {
        a->users = 1;
        let_go(a);
        return false;
    }
    pthread_detach(thread);
    done = await(a);
    let_go(a);
    return done;
}

/* It can only be destroyed from here on. */
static int give_up(libsched_device_communicator *c, int status, libsched_error *err)
{
    c->failed = true;
    if (c->device->collective == c)
        c->device->collective = NULL;
    /* The process ends, and NCCL with it: it would call CUDA, and might wait for what never ends.
     */
    if (c->handle != NULL && c->device->lost == 0 && !abort_handle(c)) {
        c->handle = NULL;
        return cuda_give_up(c->device, "NCCL could not be aborted", err);
    }
    c->handle = NULL;
    return status;
}

void cuda_communicator_abort(libsched_device_communicator *c)
{
    __atomic_store_n(&c->aborted, true, __ATOMIC_SEQ_CST);
    meeting_end(&c->meeting, MEETING_ABORTED);
}

uint64_t cuda_communicator_calls(const libsched_device_communicator *c)
{
    return c->meeting.calls;
}

/* --------------------------------------------------------------------------------------- looking
 */

static bool is_aborted(const libsched_device_communicator *c)
{
    return __atomic_load_n(&c->aborted, __ATOMIC_ACQUIRE) ||
           (c->cancelled != NULL && __atomic_load_n(c->cancelled, __ATOMIC_ACQUIRE));
}

static int explain(const libsched_device_communicator *c, int result, const char *what,
                   libsched_error *err)
{
    const int status = result == NCCL_INVALID_ARGUMENT ? LIBSCHED_EINVAL
                       : result == NCCL_REMOTE_ERROR   ? LIBSCHED_ECANCELED
                                                       : LIBSCHED_ESYSTEM;

    if (result == NCCL_CUDA_ERROR &&
        cuda_check(c->device, cudaGetLastError(), what, err) == LIBSCHED_EDEVICELOST)
        return LIBSCHED_EDEVICELOST;
    return libsched_error_set(err, status, "%s: NCCL: %s (%d): NCCL_DEBUG=INFO tells more", what,
                              c->nccl->get_error_string(result), result);
}

static int time_is_over(libsched_device_communicator *c, libsched_error *err)
{
    const uint32_t missing = meeting_missing(&c->meeting);
    const char *name = meeting_operation_name(c->operation);

    meeting_end(&c->meeting, MEETING_TIMEOUT);
    if (missing < c->meeting.n_ranks)
        return libsched_error_set(err, LIBSCHED_EDEADLINE,
                                  "%s: rank %" PRIu32 " did not come within %" PRIu64
                                  " ms: its process has ended, or hangs",
                                  name, missing, c->timeout_ns / 1000000);
    return libsched_error_set(err, LIBSCHED_EDEADLINE,
                              "%s: has not ended within %" PRIu64
                              " ms, though all ranks have come to it: is the link between the "
                              "GPUs in order? NCCL_P2P_DISABLE=1 goes another way",
                              name, c->timeout_ns / 1000000);
}

/* Why it can't go on, if so; *state is NCCL's. */
static int look(libsched_device_communicator *c, uint64_t waited_ns, int *state,
                libsched_error *err)
{
    int status, result;

    *state = NCCL_SUCCESS;
    if (is_aborted(c))
        meeting_end(&c->meeting, MEETING_ABORTED);
    status = meeting_look(&c->meeting, c->operation, err);
    if (status == LIBSCHED_OK && is_aborted(c))
        status = libsched_error_set(err, LIBSCHED_ECANCELED, "%s: given up",
                                    meeting_operation_name(c->operation));
    if (status != LIBSCHED_OK)
        return status;
    result = c->nccl->get_async_error(c->handle, state);
    if (result == NCCL_SUCCESS)
        result = *state;
    if (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS) {
        status = explain(c, result, meeting_operation_name(c->operation), err);
        meeting_end(&c->meeting, MEETING_ABORTED);
        return status;
    }
    if (c->timeout_ns != 0 && waited_ns >= c->timeout_ns)
        return time_is_over(c, err);
    return LIBSCHED_OK;
}

int cuda_communicator_look(struct cuda_device *device, uint64_t waited_ns, libsched_error *err)
{
    libsched_device_communicator *c = device->collective;
    int state, status;

    if (c == NULL)
        return LIBSCHED_OK;
    status = look(c, waited_ns, &state, err);
    return status == LIBSCHED_OK ? LIBSCHED_OK : give_up(c, status, err);
}

int cuda_communicator_announce(libsched_device_communicator *c, const struct meeting_call *call,
                               libsched_error *err)
{
    int status, state;

    if (c->failed)
        return libsched_error_set(
            err, LIBSCHED_ECANCELED,
            "%s: the communicator has failed before: it can only be destroyed",
            meeting_operation_name(call->operation));
    c->operation = call->operation;
    status = look(c, 0, &state, err);
    if (status == LIBSCHED_OK)
        status = meeting_announce(&c->meeting, call, err);
    return status == LIBSCHED_OK ? LIBSCHED_OK : give_up(c, status, err);
}

int cuda_communicator_settle(libsched_device_communicator *c, int result, const char *what,
                             libsched_error *err)
{
    const uint64_t begin = cuda_now();
    int state = NCCL_IN_PROGRESS, status = LIBSCHED_OK;

    if (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS) {
        status = explain(c, result, what, err);
        meeting_end(&c->meeting, MEETING_ABORTED);
        return give_up(c, status, err);
    }
    while (result == NCCL_IN_PROGRESS && state == NCCL_IN_PROGRESS) {
        status = look(c, cuda_now() - begin, &state, err);
        if (status != LIBSCHED_OK)
            return give_up(c, status, err);
        if (state == NCCL_IN_PROGRESS)
            nap();
    }
    return LIBSCHED_OK;
}

/* -------------------------------------------------------------------------------------- creation
 */

int cuda_communicator_id(libsched_device *base, unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE],
                         libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const struct nccl *nccl;
    nccl_id made;
    int status = cuda_enter(device, err);
    int result;

    if (status == LIBSCHED_OK)
        status = nccl_get(&nccl, err);
    if (status != LIBSCHED_OK)
        return status;
    result = nccl->get_unique_id(&made);
    if (result != NCCL_SUCCESS)
        return libsched_error_set(err, LIBSCHED_ESYSTEM,
                                  "ncclGetUniqueId: %s (%d): is there a network interface that "
                                  "NCCL_SOCKET_IFNAME and NCCL_SOCKET_FAMILY admit?",
                                  nccl->get_error_string(result), result);
    _Static_assert(sizeof(made) == LIBSCHED_COMMUNICATOR_ID_SIZE, "an id is passed on whole");
    memcpy(id, &made, sizeof(made));
    return LIBSCHED_OK;
}

static int check(const libsched_device_communicator_args *args, libsched_error *err)
{
    if (args->struct_size < sizeof(*args) || args->n_ranks < 1 ||
        args->n_ranks > MEETING_MAX_RANKS || args->rank >= args->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "rank %" PRIu32 " of %" PRIu32 ": 1 to %u ranks, counted from 0",
                                  args->rank, args->n_ranks, MEETING_MAX_RANKS);
    if (args->id == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a communicator needs the id that rank 0 has made");
    return LIBSCHED_OK;
}

static int join(libsched_device_communicator *c, const libsched_device_communicator_args *args,
                libsched_error *err)
{
    struct nccl_config config = NCCL_CONFIG_INIT;
    const struct meeting_call call = {.operation = MEETING_CREATE, .count = args->n_ranks};
    nccl_id id;
    int status, result;

    memcpy(&id, args->id, sizeof(id));
    c->operation = MEETING_CREATE;
    /* Somebody may have given up before this one came. */
    status = meeting_look(&c->meeting, c->operation, err);
    if (status == LIBSCHED_OK)
        status = meeting_announce(&c->meeting, &call, err);
    if (status != LIBSCHED_OK)
        return status;
    result = c->nccl->init(&c->handle, (int)args->n_ranks, id, (int)args->rank, &config);
    return cuda_communicator_settle(c, result, "ncclCommInitRankConfig", err);
}

int cuda_communicator_create(libsched_device *base, libsched_device_communicator **out,
                             const libsched_device_communicator_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_communicator *c;
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check(args, err);
    if (status != LIBSCHED_OK)
        return status;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a communicator");
    c->device = device;
    c->timeout_ns = args->timeout_ns;
    c->cancelled = args->cancelled;
    /* First, so that the others hear of whatever goes wrong from here on. */
    status = meeting_enter(&c->meeting, args, err);
    if (status == LIBSCHED_OK)
        status = nccl_get(&c->nccl, err);
    if (status == LIBSCHED_OK)
        status = cuda_allocate(device, &c->word, sizeof(float), "a communicator", err);
    /* NCCL's buffers are none of the pool's. */
    if (status == LIBSCHED_OK)
        status = cuda_trim(device, err);
    if (status == LIBSCHED_OK)
        status = join(c, args, err);
    c->cancelled = NULL;
    if (status != LIBSCHED_OK) {
        /* The others hear of it. */
        meeting_end(&c->meeting, MEETING_ABORTED);
        c->failed = true;
        cuda_communicator_destroy(base, c);
        return status;
    }
    *out = c;
    return LIBSCHED_OK;
}

/* In good order, as long as the others take part in it. */
static void leave(libsched_device_communicator *c)
{
    const uint64_t begin = cuda_now();
    int result = c->nccl->finalize(c->handle), state = result;

    while (state == NCCL_IN_PROGRESS && cuda_now() - begin < FINALIZE_NS && !is_aborted(c)) {
        result = c->nccl->get_async_error(c->handle, &state);
        if (result != NCCL_SUCCESS)
            state = result;
        if (state == NCCL_IN_PROGRESS)
            nap();
    }
    if (state == NCCL_SUCCESS) {
        (void)c->nccl->destroy(c->handle);
        c->handle = NULL;
    } else {
        (void)give_up(c, LIBSCHED_ECANCELED, NULL);
    }
}

void cuda_communicator_destroy(libsched_device *base, libsched_device_communicator *c)
{
    struct cuda_device *device = cuda_device_of(base);

    if (c == NULL)
        return;
    if (cuda_enter(device, NULL) == LIBSCHED_OK) {
        libsched_error err = {0};

        /* What is under way still ends first, or is given up. */
        if (device->collective == c && cuda_synchronize(base, &err) != LIBSCHED_OK &&
            device->failure.status == LIBSCHED_OK)
            device->failure = err;
        if (c->handle != NULL && !c->failed)
            leave(c);
        else if (c->handle != NULL)
            (void)give_up(c, LIBSCHED_ECANCELED, NULL);
        cuda_release(device, &c->word);
    }
    if (device->collective == c)
        device->collective = NULL;
    free(c);
}
