/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FD 3
#define MAX_FDS 16

/* At a barrier of its threads libgomp spins for milliseconds unless told otherwise: where the
 * worker's cores are shared, the one that would have to come is waiting for the core of the one
 * that spins, and a batch takes ten times as long. This many rounds are some tens of microseconds.
 * A user's own setting stands. */
#define SPIN_SETTING "GOMP_SPINCOUNT=1000"

extern char **environ;

/* Copies descriptors to numbers above all that the child's get: dup2() must not hit one that is
 * still to be copied, nor copy one to itself, which would leave it to be closed. */
static int lift(int *lifted, const int *fds, int n, libsched_error *err)
{
    for (int i = 0; i < n; i++) {
        lifted[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST_FD + MAX_FDS);
        if (lifted[i] < 0) {
            libsched_error_set(err, LIBSCHED_ESYSTEM, "fcntl(F_DUPFD_CLOEXEC): %m");
            while (--i >= 0)
                close(lifted[i]);
            return LIBSCHED_ESYSTEM;
        }
    }
    return LIBSCHED_OK;
}

/* A daemon may have closed it, and then its number may be a descriptor of ours: those are closed on
 * exec, which nobody's standard error is. */
static bool has_standard_error(void)
{
    int flags = fcntl(STDERR_FILENO, F_GETFD);
    return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

static int prepare_files(posix_spawn_file_actions_t *actions, const int *fds, int n)
{
    int error = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (error == 0 && !has_standard_error())
        error = posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (error == 0)
        error = posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
    for (int i = 0; i < n && error == 0; i++)
        error = posix_spawn_file_actions_adddup2(actions, fds[i], FIRST_FD + i);
    if (error == 0)
        error = posix_spawn_file_actions_addclosefrom_np(actions, FIRST_FD + n);
    return error;
}

static int prepare_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int error = posix_spawnattr_setsigmask(attributes, &none);
    if (error == 0)
        error = posix_spawnattr_setsigdefault(attributes, &all);
    if (error == 0)
        error = posix_spawnattr_setpgroup(attributes, 0);
    if (error == 0)
        error = posix_spawnattr_setflags(
            attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    return error;
}

/* Whether a list has a setting of the same name. */
static bool has_setting(char *const *settings, const char *setting)
{
    const size_t name = strcspn(setting, "=") + 1;
    for (size_t i = 0; settings != NULL && settings[i] != NULL; i++)
        if (strncmp(settings[i], setting, name) == 0)
            return true;
    return false;
}

static size_t count(char *const *settings)
{
    size_t n = 0;
    while (settings != NULL && settings[n] != NULL)
        n++;
    return n;
}

/* The environment of the child: ours, the caller's settings and the one above. To be freed; the
 * strings are not. */
static char **make_environment(char *const *settings)
{
    static char spin[] = SPIN_SETTING;
    char **environment = calloc(count(environ) + count(settings) + 2, sizeof(*environment));
    size_t n = 0;
    if (environment == NULL)
        return NULL;
    for (size_t i = 0; i < count(environ); i++)
        if (!has_setting(settings, environ[i]))
            environment[n++] = environ[i];
    for (size_t i = 0; i < count(settings); i++)
        environment[n++] = settings[i];
    if (getenv("GOMP_SPINCOUNT") == NULL && getenv("OMP_WAIT_POLICY") == NULL)
        environment[n] = spin;
    return environment;
}

static int spawn(pid_t *pid, const char *path, const char *name, const int *fds, int n,
                 char *const *settings)
{
    char **environment = make_environment(settings);
    if (environment == NULL)
        return ENOMEM;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    char program[] = "sched-worker";
    char *const arguments[] = {program, (char *)(uintptr_t)name, NULL};
    int error = prepare_files(&actions, fds, n);
    if (error == 0)
        error = prepare_attributes(&attributes);
    if (error == 0)
        error = posix_spawn(pid, path, &actions, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return error;
}

int spawn_process(pid_t *pid, int *pidfd, const char *path, const char *name, const int *fds, int n,
                  char *const *settings, libsched_error *err)
{
    int lifted[MAX_FDS] = {0};
    if (path == NULL || path[0] != '/' || n > MAX_FDS)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the path of sched-worker has to be absolute, \"%s\" is not",
                                  path != NULL ? path : "");
    int status = lift(lifted, fds, n, err);
    if (status < 0)
        return status;
    int error = spawn(pid, path, name, lifted, n, settings);
    for (int i = 0; i < n; i++)
        close(lifted[i]);
    if (error != 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "starting %s: %s", path, strerror(error));
    *pidfd = pidfd_open(*pid, 0);
    if (*pidfd >= 0)
        return LIBSCHED_OK;
    libsched_error_set(err, LIBSCHED_ESYSTEM, "pidfd_open: %m");
    kill(*pid, SIGKILL);
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return LIBSCHED_ESYSTEM;
}

void spawn_describe_exit(char *text, size_t size, int code, int status)
{
    if (code == CLD_EXITED)
        snprintf(text, size, "exited with code %d", status);
    else
        snprintf(text, size, "killed by signal %d (%s)", status, strsignal(status));
}
