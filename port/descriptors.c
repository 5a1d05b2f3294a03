/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Beyond what a program is commonly given. */
#define LOWEST 16
#define PIPE_BYTES (1 << 20)

static int move_away(int from, int *to, libsched_error *err)
{
    int fd = fcntl(from, F_DUPFD_CLOEXEC, LOWEST);
    if (fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "descriptor %d of the stream: %s", from,
                                  strerror(errno));
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int saved = errno;
        close(fd);
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "descriptor %d of the stream: %s", from,
                                  strerror(saved));
    }
    /* Best effort: a socket has no such size, and an unprivileged user's pipes may be limited. */
    (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES);
    *to = fd;
    return LIBSCHED_OK;
}

/* Standard descriptors that were closed would be taken by the next files that are opened. */
static void keep_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            int null = open("/dev/null", O_RDWR);
            if (null >= 0 && null != fd) {
                dup2(null, fd);
                close(null);
            }
        }
}

int descriptors_claim(int *in, int *out, libsched_error *err)
{
    int old_in = *in, old_out = *out, new_in, new_out;
    int rc = move_away(old_in, &new_in, err);
    if (rc < 0)
        return rc;
    rc = move_away(old_out, &new_out, err);
    if (rc < 0) {
        close(new_in);
        return rc;
    }
    close(old_in);
    if (old_out != old_in)
        close(old_out);

    keep_standard_descriptors();
    dup2(STDERR_FILENO, STDOUT_FILENO);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        close(null);
    }
    *in = new_in;
    *out = new_out;
    return LIBSCHED_OK;
}
