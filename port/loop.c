/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop: read, let libsched work, answer, write; look again for a little while; sleep.
 *
 * After traffic it spins rather than sleeps, as long as libsched allows, since the next request of
 * a client that waits for its answer comes within microseconds, and waking from a sleep takes
 * longer than that.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "port.h"
#include "reply.h"

/* What is read from the input before libsched and the output get their turn. */
#define READ_PER_ROUND ((size_t)256 << 10)
/* For how long the last answers may take to leave once the input has ended. */
#define LAST_FLUSH_MS 100
/* While the output is full and results are not fetched, how often libsched gets its turn: its
 * descriptor stays readable as long as there are some, and so cannot be waited for. */
#define FULL_ROUND_MS 5

#define EXIT_GOING_ON_FAILED 70

enum source { SOURCE_INPUT, SOURCE_OUTPUT, SOURCE_LIBSCHED, SOURCE_SIGNAL };

struct loop {
    struct port *p;
    int epoll;
    bool input_armed;  /* the input's data wakes us, not only its end */
    bool output_armed; /* room in the output wakes us */
    bool sched_armed;  /* libsched wakes us */
    bool more;         /* complete frames, or messages of one, have not been carried out */
    bool ended;        /* the input has ended, or the output has nobody who reads it */
    bool failed;
};

static int signal_fd = -1;                  /* wakes the loop */
static volatile sig_atomic_t was_signalled; /* ends it, though it may never sleep */

static void on_signal(int number)
{
    int saved = errno;
    uint64_t one = 1;
    (void)number;
    was_signalled = 1;
    ssize_t ignored = write(signal_fd, &one, sizeof(one));
    (void)ignored;
    errno = saved;
}

static void fail(struct loop *l, const char *what)
{
    port_log(LIBSCHED_LOG_ERROR, "%s", what);
    l->failed = true;
}

static int watch(struct loop *l, int op, int fd, uint32_t events, enum source source)
{
    struct epoll_event event = {.events = events, .data.u32 = source};
    return epoll_ctl(l->epoll, op, fd, &event);
}

static int open_loop(struct loop *l, struct port *p)
{
    *l = (struct loop){.p = p, .input_armed = true, .sched_armed = true};
    was_signalled = 0;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->epoll < 0 || signal_fd < 0 ||
        watch(l, EPOLL_CTL_ADD, libsched_fd(p->sched), EPOLLIN, SOURCE_LIBSCHED) < 0 ||
        watch(l, EPOLL_CTL_ADD, signal_fd, EPOLLIN, SOURCE_SIGNAL) < 0) {
        port_log(LIBSCHED_LOG_ERROR, "cannot wait for events: %s", strerror(errno));
        return -1;
    }
    if (watch(l, EPOLL_CTL_ADD, p->reader.fd, EPOLLIN | EPOLLRDHUP, SOURCE_INPUT) < 0) {
        port_log(LIBSCHED_LOG_ERROR, "the input is neither a pipe nor a socket: %s",
                 strerror(errno));
        return -1;
    }
    /* That its reader has gone is always told. A file would always take what is written. */
    if (watch(l, EPOLL_CTL_ADD, p->writer.fd, 0, SOURCE_OUTPUT) < 0 && errno != EPERM) {
        port_log(LIBSCHED_LOG_ERROR, "the output cannot be waited for: %s", strerror(errno));
        return -1;
    }
    /* The end of the input is what ends us: not a key pressed in the terminal that we share with
     * the Erlang node, nor a reader who has gone. */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    return 0;
}

static void close_loop(struct loop *l)
{
    signal(SIGTERM, SIG_DFL);
    if (l->epoll >= 0)
        close(l->epoll);
    if (signal_fd >= 0)
        close(signal_fd);
    signal_fd = -1;
}

/* Whether requests may be read: not while their answers pile up. */
static bool may_read(const struct loop *l)
{
    return frame_writer_backlog(&l->p->writer) < PORT_MAX_BACKLOG;
}

/* Carries out the frames that are there. */
static void run_frames(struct loop *l, char *reason, size_t reason_size)
{
    struct port *p = l->p;
    struct frame frame;
    size_t bytes = 0;

    l->more = true;
    if (!dispatch_rest(p))
        return;
    while (bytes < READ_PER_ROUND && may_read(l)) {
        switch (frame_reader_next(&p->reader, &frame, reason, reason_size)) {
        case FRAME_READER_MORE:
            l->more = false;
            return;
        case FRAME_READER_FRAME:
            if (!dispatch_frame(p, &frame))
                return;
            bytes += frame.size;
            break;
        case FRAME_READER_BAD:
            notify_bad_frame(p, frame.number, reason);
            bytes++;
            break;
        }
    }
}

/* Reads once, unless frames are left from before. Whether there was something to do. */
static bool read_input(struct loop *l)
{
    char reason[LIBSCHED_MESSAGE_SIZE];

    if (l->ended || !may_read(l))
        return false;
    if (!l->more) {
        ptrdiff_t got = frame_reader_fill(&l->p->reader);
        if (got < 0) {
            l->ended = true;
            uint64_t number;
            if (frame_reader_cut(&l->p->reader, &number, reason, sizeof(reason)))
                notify_bad_frame(l->p, number, reason);
            return true;
        }
        if (got == 0)
            return false;
    }
    run_frames(l, reason, sizeof(reason));
    return true;
}

/* While the input is not read, its end has to be asked for. */
static void look_for_hangup(struct loop *l)
{
    struct pollfd input = {.fd = l->p->reader.fd, .events = POLLRDHUP};
    if (poll(&input, 1, 0) > 0 && (input.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0)
        l->ended = true;
}

static bool work(struct loop *l)
{
    struct port *p = l->p;
    bool busy = read_input(l);

    p->described.specs = NULL;
    int done = libsched_process(p->sched, LIBSCHED_SPINNING);
    if (done < 0) {
        fail(l, "the scheduler cannot go on");
        return false;
    }
    size_t reaped = completions_reap(p);
    int wrote = frame_writer_flush(&p->writer);
    if (wrote < 0)
        l->ended = true;
    if (p->writer.failed)
        fail(l, "no memory left for the output");
    if (!may_read(l))
        look_for_hangup(l);
    return busy || done > 0 || reaped > 0 || wrote > 0;
}

/* What wakes us depends on whether there is something to write, and room to read. */
static void arm(struct loop *l)
{
    bool input = may_read(l);
    bool output = frame_writer_backlog(&l->p->writer) > 0;
    if (input != l->input_armed) {
        watch(l, EPOLL_CTL_MOD, l->p->reader.fd, (input ? EPOLLIN : 0) | EPOLLRDHUP, SOURCE_INPUT);
        l->input_armed = input;
    }
    if (input != l->sched_armed) {
        watch(l, EPOLL_CTL_MOD, libsched_fd(l->p->sched), input ? EPOLLIN : 0, SOURCE_LIBSCHED);
        l->sched_armed = input;
    }
    if (output != l->output_armed) {
        watch(l, EPOLL_CTL_MOD, l->p->writer.fd, output ? EPOLLOUT : 0, SOURCE_OUTPUT);
        l->output_armed = output;
    }
}

/* Sleeps until something happens, or `until` on libsched's clock. */
static void sleep_until(struct loop *l, uint64_t until)
{
    struct epoll_event events[4];
    int timeout = -1;

    arm(l);
    if (until != UINT64_MAX) {
        uint64_t now = libsched_now();
        uint64_t ms = until > now ? (until - now + 999999) / 1000000 : 0;
        timeout = ms < 3600000 ? (int)ms : 3600000;
    }
    if (!l->sched_armed && (timeout < 0 || timeout > FULL_ROUND_MS))
        timeout = FULL_ROUND_MS;
    l->p->counters.sleeps++;
    int n = epoll_wait(l->epoll, events, 4, timeout);
    if (n < 0 && errno != EINTR)
        fail(l, "cannot wait for events");
    for (int i = 0; i < n; i++) {
        uint32_t what = events[i].events;
        switch (events[i].data.u32) {
        case SOURCE_INPUT:
            /* Where it is read, reading tells; a last frame may be in front of the end. */
            if (!l->input_armed && (what & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0)
                l->ended = true;
            break;
        case SOURCE_OUTPUT:
            if ((what & EPOLLERR) != 0)
                l->ended = true;
            break;
        default:
            break;
        }
    }
}

/* Answers that were made before the end leave, if somebody reads them. */
static void flush_last(struct loop *l)
{
    struct frame_writer *w = &l->p->writer;
    uint64_t until = libsched_now() + LAST_FLUSH_MS * UINT64_C(1000000);

    while (frame_writer_flush(w) >= 0 && frame_writer_backlog(w) > 0) {
        uint64_t now = libsched_now();
        struct pollfd output = {.fd = w->fd, .events = POLLOUT};
        if (now >= until || poll(&output, 1, (int)((until - now) / 1000000) + 1) <= 0 ||
            (output.revents & POLLERR) != 0)
            return;
    }
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* For how long to spin. */
static uint64_t spin_budget(const struct port *p)
{
    uint64_t wanted = p->options->spin_us * UINT64_C(1000);
    uint64_t allowed = wanted > 0 ? libsched_spin_budget(p->sched) : 0;
    return wanted < allowed ? wanted : allowed;
}

int loop_run(struct port *p)
{
    struct loop l;
    if (open_loop(&l, p) < 0) {
        close_loop(&l);
        return EXIT_GOING_ON_FAILED;
    }

    uint64_t idle_since = 0, spin = 0;
    bool idle = false;
    while (!l.ended && !l.failed && !was_signalled) {
        p->now = libsched_now();
        uint64_t next = timers_run(p);
        if (work(&l)) {
            idle = false;
            continue;
        }
        if (!idle) {
            idle = true;
            idle_since = p->now;
            spin = spin_budget(p);
        }
        if (p->now - idle_since < spin) {
            relax();
            continue;
        }
        /* From here on libsched makes its descriptor readable; what came before that is looked
         * for once more. */
        p->described.specs = NULL;
        int done = libsched_process(p->sched, 0);
        if (done < 0)
            fail(&l, "the scheduler cannot go on");
        else if (done > 0 || completions_reap(p) > 0 || (l.more && may_read(&l)))
            idle = false;
        else
            sleep_until(&l, next);
    }
    flush_last(&l);
    close_loop(&l);
    return l.failed ? EXIT_GOING_ON_FAILED : 0;
}
