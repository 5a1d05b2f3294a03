/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "path.h"

#define PAYLOAD 64

struct process_path {
    struct path path;
    libsched *s;
    const char *model;
    /* Refused by the last submits, not yet told. */
    struct answer *refused;
    size_t n_refused, room;
    uint8_t data[PAYLOAD];
};

static void refuse(struct process_path *p, uint64_t user, int status)
{
    if (p->n_refused == p->room) {
        p->room = p->room > 0 ? 2 * p->room : 64;
        p->refused = realloc(p->refused, p->room * sizeof(*p->refused));
        if (p->refused == NULL)
            local_die("answers", "no memory");
    }
    p->refused[p->n_refused++] = (struct answer){user, status};
}

static void process_submit(struct path *path, uint64_t user, uint64_t deadline)
{
    struct process_path *p = (struct process_path *)path;
    libsched_request request = LIBSCHED_REQUEST_INIT;
    const libsched_tensor data = {
        .name = "data",
        .datatype = LIBSCHED_UINT8,
        .rank = 1,
        .shape = {PAYLOAD},
        .data = p->data,
        .size = PAYLOAD,
    };
    uint64_t now = libsched_now(), id;

    request.model = p->model;
    request.user = user;
    request.timeout_ns = deadline > now ? deadline - now : 1;
    request.inputs = &data;
    request.n_inputs = 1;
    int status = libsched_submit(p->s, &request, &id, NULL);
    if (status != LIBSCHED_OK)
        refuse(p, user, status);
}

static size_t process_turn(struct path *path, bool last, struct answer *out, size_t max)
{
    struct process_path *p = (struct process_path *)path;
    libsched_completion done[64];
    size_t n = 0;

    while (p->n_refused > 0 && n < max)
        out[n++] = p->refused[--p->n_refused];
    if (libsched_process(p->s, last ? 0 : LIBSCHED_SPINNING) < 0)
        local_die("the scheduler", "it cannot go on");
    while (n < max) {
        size_t got = libsched_reap(p->s, done, max - n < 64 ? max - n : 64);
        if (got == 0)
            break;
        for (size_t i = 0; i < got; i++)
            if (done[i].kind == LIBSCHED_END)
                out[n++] = (struct answer){done[i].user, done[i].status};
        libsched_release(p->s, done, got);
    }
    return n;
}

static void process_close(struct path *path)
{
    struct process_path *p = (struct process_path *)path;

    libsched_close(p->s);
    free(p->refused);
    free(p);
}

struct path *path_open_process(const struct local_model *model)
{
    struct process_path *p = calloc(1, sizeof(*p));

    if (p == NULL)
        local_die("the path", "no memory");
    p->model = model->name;
    p->s = local_open(1);
    local_load(p->s, model);
    p->path = (struct path){
        .submit = process_submit,
        .turn = process_turn,
        .close = process_close,
        .fd = libsched_fd(p->s),
        .spin_ns = libsched_spin_budget(p->s),
    };
    return &p->path;
}
