// SPDX-License-Identifier: Apache-2.0
// A host whose worker is in the middle of a step when it ends: by itself ("exit"), or killed by the
// test ("wait"), perhaps with a child that still holds all its descriptors ("fork").
// Prints the worker's pid.
#include <cstdio>
#include <cstring>

#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "worker/harness.h"

using namespace worker_test;

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    Worker *w = new Worker(false);
    w->up();
    if (w->load({integer("a_us", 60000000)}).raw.status != 0 || w->run(1, 1, {{1, "x"}}) != 0)
        return 1;
    if (strcmp(argv[1], "fork") == 0 && fork() == 0) {
        /* Lives until the test closes its end of the pipe. */
        char byte;
        close(STDOUT_FILENO);
        while (read(STDIN_FILENO, &byte, 1) > 0)
            ;
        _exit(0);
    }
    printf("%d\n", worker_pid(w->raw));
    fflush(stdout);
    if (strcmp(argv[1], "exit") == 0)
        _exit(0);
    for (;;)
        pause();
}
