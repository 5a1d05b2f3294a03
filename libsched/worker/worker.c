/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/spawn.h"
#include "worker/worker_main.h"

/* ------------------------------------------------------------------------------------- starting */

static int system_error(const char *what, libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s: %m", what);
}

static int new_eventfd(int *fd, int flags, libsched_error *err)
{
    *fd = eventfd(0, EFD_CLOEXEC | flags);
    return *fd >= 0 ? LIBSCHED_OK : system_error("eventfd", err);
}

static void *thread_main(void *argument)
{
    struct worker *worker = argument;
    agent_run(&worker->thread_fds, &worker->thread_error);
    channel_wake(worker->exited);
    return NULL;
}

/* The fds are the thread's to use and the worker's to close. */
static int start_thread(struct worker *worker, int control, int memory, int results,
                        libsched_error *err)
{
    int status = new_eventfd(&worker->exited, EFD_NONBLOCK, err);
    if (status < 0)
        return status;
    worker->thread_fds = (struct agent_descriptors){
        .control = control,
        .memory = memory,
        .results = results,
        .wake_worker = worker->wake_worker,
        .wake_host = worker->wake_host,
        .host = -1,
    };
    /* The program's signals are for the program's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&worker->thread, NULL, thread_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        return LIBSCHED_OK;
    worker->thread_fds.control = -1;
    return libsched_error_set(err, LIBSCHED_ESYSTEM, "starting a thread for %s: %s", worker->name,
                              strerror(error));
}

static int start_process(struct worker *worker, const struct worker_options *options, int control,
                         int memory, int results, libsched_error *err)
{
    int host = pidfd_open(getpid(), 0);
    if (host < 0)
        return system_error("pidfd_open", err);
    const int fds[] = {control, memory, results, worker->wake_worker, worker->wake_host, host};
    int status = spawn_process(&worker->pid, &worker->exited, options->worker_path, worker->name,
                               fds, sizeof(fds) / sizeof(fds[0]), options->environment, err);
    close(host);
    return status;
}

static int watch(const struct worker *worker, int fd, libsched_error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return system_error("epoll_ctl", err);
    return LIBSCHED_OK;
}

static int open_descriptors(struct worker *worker, int *theirs, libsched_error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return system_error("socketpair", err);
    worker->control = pair[0];
    *theirs = pair[1];
    /* The worker sleeps in read(); the host only in poll(). */
    int status = new_eventfd(&worker->wake_worker, 0, err);
    if (status == 0)
        status = new_eventfd(&worker->wake_host, EFD_NONBLOCK, err);
    if (status == 0 && (worker->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        status = system_error("epoll_create1", err);
    if (status == 0)
        status = watch(worker, worker->wake_host, err);
    return status;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void free_worker(struct worker *worker)
{
    close_fd(&worker->control);
    close_fd(&worker->wake_host);
    close_fd(&worker->epoll);
    close_fd(&worker->exited);
    close_fd(&worker->thread_fds.control);
    close_fd(&worker->thread_fds.memory);
    close_fd(&worker->thread_fds.results);
    if (worker->incarnation != NULL) {
        worker->incarnation->wake_worker = -1;
        worker_incarnation_release(worker->incarnation);
    }
    close_fd(&worker->wake_worker);
    id_map_free(&worker->items);
    id_map_free(&worker->segments);
    id_map_free(&worker->checks);
    ledger_free(&worker->rank.results);
    wire_writer_free(&worker->out);
    free(worker->entries);
    free(worker->record);
    free(worker);
}

static int start(struct worker *worker, const struct worker_options *options, libsched_error *err)
{
    int memory, results, theirs = -1;
    worker->incarnation =
        worker_incarnation_new(options->epoch, options->result_bytes, &memory, &results, err);
    if (worker->incarnation == NULL)
        return err != NULL ? err->status : LIBSCHED_ESYSTEM;
    struct channel *channel = &worker->incarnation->channel;
    ring_attach(&worker->commands, &channel->header->commands, channel->command_data,
                CHANNEL_COMMAND_BYTES);
    ring_attach(&worker->events, &channel->header->events, channel->event_data,
                CHANNEL_EVENT_BYTES);
    channel->header->spin_us = options->spin_us;
    /* Whoever polls before he arms hears of its first words. */
    ring_sleep(&worker->events);
    worker->armed = true;

    int status = open_descriptors(worker, &theirs, err);
    worker->incarnation->wake_worker = worker->wake_worker;
    if (status == 0)
        status = worker_send_setup(worker, options, err);
    if (status == 0 && options->thread)
        status = start_thread(worker, theirs, memory, results, err);
    else if (status == 0)
        status = start_process(worker, options, theirs, memory, results, err);
    if (status == 0 && options->thread)
        return watch(worker, worker->exited, err);
    if (theirs >= 0)
        close(theirs);
    close(memory);
    close(results);
    worker->thread_fds = (struct agent_descriptors){-1, -1, -1, -1, -1, -1};
    if (status == 0)
        status = watch(worker, worker->exited, err);
    return status;
}

int worker_start(struct worker **out, const struct worker_options *options, libsched_error *err)
{
    libsched_error own;
    if (err == NULL)
        err = &own;
    if (options->name == NULL || strlen(options->name) >= LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a worker needs a name of at most %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    struct worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a worker");
    snprintf(worker->name, sizeof(worker->name), "%s", options->name);
    worker->epoch = options->epoch;
    worker->is_thread = options->thread;
    worker->control = worker->wake_worker = worker->wake_host = worker->epoll = worker->exited = -1;
    worker->thread_fds = (struct agent_descriptors){-1, -1, -1, -1, -1, -1};
    worker->free_slot = WORKER_NO_SLOT;
    int status = start(worker, options, err);
    if (status < 0) {
        if (worker->pid != 0 || worker->thread_fds.control >= 0)
            worker_free(worker);
        else
            free_worker(worker);
        return status;
    }
    *out = worker;
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- ending */

void worker_ring_bell(struct worker *worker)
{
    channel_wake(worker->wake_worker);
}

void worker_stop(struct worker *worker)
{
    if (worker->has_gone)
        return;
    worker->stopped = true;
    __atomic_store_n(&worker->incarnation->channel.header->stop, 1, __ATOMIC_SEQ_CST);
    worker_ring_bell(worker);
    /* A rank may be waiting for others, who will not come any more; so may one who loads a model.
     */
    worker_rank_interrupt(worker, NULL);
    if (worker->share != 0)
        worker_load_interrupt(worker, worker->share, NULL);
}

void worker_kill(struct worker *worker)
{
    if (worker->has_gone)
        return;
    bool stopped = worker->stopped;
    worker->killed = true;
    worker_stop(worker);
    worker->stopped = stopped;
    if (!worker->is_thread)
        pidfd_send_signal(worker->exited, SIGKILL, NULL, 0);
}

/* What a process left behind: its last words, where it ended by itself. */
static void explain_process(struct worker *worker, int code, int status)
{
    char how[128];
    libsched_error words;
    spawn_describe_exit(how, sizeof(how), code, status);
    bool spoke = channel_read_last_words(&worker->incarnation->channel, &words);
    worker->end_status = LIBSCHED_EDEVICELOST;
    if (code == CLD_EXITED && status == 0 && worker->stopped) {
        worker->end_status = LIBSCHED_OK;
        libsched_error_set(&worker->end, LIBSCHED_OK, "stopped as it was told");
    } else if (code == CLD_EXITED && spoke) {
        worker->end_status = words.status;
        libsched_error_set(&worker->end, words.status, "%s: %s", how, words.message);
    } else if (code == CLD_EXITED && status == WORKER_EXIT_USAGE) {
        libsched_error_set(&worker->end, LIBSCHED_EDEVICELOST, "%s: it is not a sched-worker", how);
    } else {
        libsched_error_set(&worker->end, LIBSCHED_EDEVICELOST, "%s", how);
    }
}

static bool collect_process(struct worker *worker, bool wait)
{
    siginfo_t info = {0};
    int result;
    do
        result = waitid(P_PIDFD, (id_t)worker->exited, &info, WEXITED | (wait ? 0 : WNOHANG));
    while (result < 0 && errno == EINTR);
    if (result == 0 && info.si_pid == 0)
        return false;
    if (result == 0) {
        explain_process(worker, info.si_code, info.si_status);
        return true;
    }
    /* The program ignores SIGCHLD, or waits for children it does not know: then the kernel or it
     * has seen the exit status, not this. The exit itself is told by the pidfd all the same. */
    struct pollfd fd = {.fd = worker->exited, .events = POLLIN};
    if (poll(&fd, 1, wait ? -1 : 0) <= 0)
        return false;
    libsched_error words;
    worker->end_status = LIBSCHED_EDEVICELOST;
    if (channel_read_last_words(&worker->incarnation->channel, &words)) {
        worker->end_status = words.status;
        libsched_error_set(&worker->end, words.status, "ended: %s", words.message);
    } else if (worker->stopped) {
        worker->end_status = LIBSCHED_OK;
        libsched_error_set(&worker->end, LIBSCHED_OK, "stopped as it was told");
    } else {
        libsched_error_set(&worker->end, LIBSCHED_EDEVICELOST,
                           "ended; how is unknown, as the program itself waits for all children");
    }
    return true;
}

static bool collect_thread(struct worker *worker, bool wait)
{
    struct pollfd fd = {.fd = worker->exited, .events = POLLIN};
    if (poll(&fd, 1, wait ? -1 : 0) <= 0)
        return false;
    pthread_join(worker->thread, NULL);
    const libsched_error *error = &worker->thread_error;
    if (error->status < 0) {
        worker->end_status = error->status;
        libsched_error_set(&worker->end, error->status, "ended: %s", error->message);
    } else {
        worker->end_status = worker->stopped ? LIBSCHED_OK : LIBSCHED_EDEVICELOST;
        libsched_error_set(&worker->end, worker->end_status, "%s",
                           worker->stopped ? "stopped as it was told" : "killed: its thread ended");
    }
    return true;
}

bool worker_look_for_exit(struct worker *worker, bool wait)
{
    if (worker->has_gone)
        return true;
    if (worker->is_thread ? !collect_thread(worker, wait) : !collect_process(worker, wait))
        return false;
    worker->has_gone = true;
    worker->pid = 0;
    worker->incarnation->wake_worker = -1;
    epoll_ctl(worker->epoll, EPOLL_CTL_DEL, worker->exited, NULL);
    return true;
}

void worker_free(struct worker *worker)
{
    if (worker == NULL)
        return;
    worker_kill(worker);
    worker_look_for_exit(worker, true);
    free_worker(worker);
}

/* -------------------------------------------------------------------------------------- waiting */

int worker_fd(const struct worker *worker)
{
    return worker->epoll;
}

int worker_pid(const struct worker *worker)
{
    return worker->pid;
}

void worker_set_spin(struct worker *worker, uint32_t spin_us)
{
    __atomic_store_n(&worker->incarnation->channel.header->spin_us, spin_us, __ATOMIC_RELAXED);
}

/* Empties the eventfd, if it has been written to, or will be in a moment. */
static void drain_bell(struct worker *worker)
{
    if (worker->armed && !ring_sleeps(&worker->events))
        worker->owed++;
    /* Nothing came since the last time: then a bell that was rung was rung for nothing, or by one
     * who does not keep to the rules. */
    if (worker->owed == 0 && worker->events_since_arm > 0)
        return;
    uint64_t count;
    if (read(worker->wake_host, &count, sizeof(count)) == sizeof(count))
        worker->owed = count < worker->owed ? worker->owed - (uint32_t)count : 0;
}

bool worker_arm(struct worker *worker)
{
    if (worker->is_down)
        return false;
    drain_bell(worker);
    worker->events_since_arm = 0;
    worker->armed = true;
    worker->ask_for_exit = true;
    bool waiting = ring_sleep(&worker->events);
    /* Of one that is not listened to any more only its exit is waited for. */
    return (waiting && !worker->faulty) || worker->has_gone;
}
