/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sched-port: a gpu_sched scheduler behind two descriptors. See docs/protocol.md.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

#include "descriptors.h"
#include "log.h"
#include "port.h"
#include "reply.h"

#define EXIT_USAGE_WRONG 64
#define EXIT_NOT_STARTED 70
/* All is over within a second of the end of the input. libsched_close() takes a fraction of that;
 * should it ever not, we end all the same, and the workers, who notice that, do too. */
#define CLOSE_LIMIT_US 700000

static int exit_code;

static void on_alarm(int number)
{
    (void)number;
    _exit(exit_code);
}

int main(int argc, char **argv)
{
    static struct port port;
    struct port_options options;
    libsched_error err = {0};

    switch (options_parse(&options, argc, argv)) {
    case OPTIONS_DONE:
        return 0;
    case OPTIONS_WRONG:
        return EXIT_USAGE_WRONG;
    case OPTIONS_RUN:
        break;
    }
    port_log_set_level(options.log_level);

    int in = options.fd_in, out = options.fd_out;
    if (descriptors_claim(&in, &out, &err) < 0 || port_open(&port, &options, in, out, &err) < 0) {
        port_log(LIBSCHED_LOG_ERROR, "could not start: %s", err.message);
        return EXIT_NOT_STARTED;
    }
    hello_send(&port);
    exit_code = loop_run(&port);

    const struct itimerval limit = {.it_value = {.tv_usec = CLOSE_LIMIT_US}};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &limit, NULL);
    port_close(&port);
    return exit_code;
}
