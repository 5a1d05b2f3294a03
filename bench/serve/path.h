/* SPDX-License-Identifier: Apache-2.0 */
/* The two ways to a worker: through libsched.h in this process, and through sched-port. */
#ifndef BENCH_SERVE_PATH_H
#define BENCH_SERVE_PATH_H

#include "../local.h"

/* What became of a request; refusals come so as well. */
struct answer {
    uint64_t user;
    int status;
};

struct path {
    /* Hands a request on, at the latest with the next turn. `deadline`: on libsched_now()'s clock.
     */
    void (*submit)(struct path *path, uint64_t user, uint64_t deadline);
    /* Does what can be done without waiting, and tells the answers. `last`: from now on whatever
     * happens makes the descriptor readable; what happened before is among the answers. */
    size_t (*turn)(struct path *path, bool last, struct answer *out, size_t max);
    void (*close)(struct path *path);
    int fd;           /* to be polled */
    uint64_t spin_ns; /* for how long to look for answers before one sleeps */
};

/* With one device, and the model loaded. */
struct path *path_open_process(const struct local_model *model);
struct path *path_open_port(const struct local_model *model);

#endif
