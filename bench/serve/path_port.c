/* SPDX-License-Identifier: Apache-2.0 */
/* Speaks docs/protocol.md with a sched-port of its own. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <msgpack.h>

#include "path.h"

#define PAYLOAD 64
#define HEADER 4
#define START_MS 20000
/* The ids of requests begin here; below it are those of calls. */
#define FIRST_ID 16

struct port_path {
    struct path path;
    pid_t pid;
    int in, out; /* its input and output */
    const char *model;
    msgpack_sbuffer frame; /* being gathered, its header first */
    msgpack_packer packer;
    char *unsent; /* of frames that are complete */
    size_t n_unsent, sent, unsent_room;
    char *received;
    size_t n_received, read, received_room;
    size_t left; /* of the frame that is being read */
    msgpack_unpacked message;
};

static _Noreturn void fail(const char *why)
{
    local_die("sched-port", why);
}

/* --------------------------------------------------------------------------------------- start */

/* $GPU_SCHED_PORT, or where it lies beside this program in a build folder. */
static void find_port(char out[PATH_MAX])
{
    const char *given = getenv("GPU_SCHED_PORT");
    char self[PATH_MAX - 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (given != NULL && *given != '\0') {
        snprintf(out, PATH_MAX, "%s", given);
        return;
    }
    if (n < 0)
        fail(strerror(errno));
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(out, PATH_MAX, "%s/../port/sched-port", self);
}

static void start(struct port_path *p)
{
    int to[2], from[2];
    char program[PATH_MAX], fds[64];

    find_port(program);
    if (pipe(to) < 0 || pipe(from) < 0)
        fail(strerror(errno));
    p->in = to[1];
    p->out = from[0];
    for (int i = 0; i < 2; i++) {
        int ours = i == 0 ? p->in : p->out;
        fcntl(ours, F_SETFD, FD_CLOEXEC);
        fcntl(ours, F_SETFL, O_NONBLOCK);
    }
    p->pid = fork();
    if (p->pid < 0)
        fail(strerror(errno));
    if (p->pid == 0) {
        snprintf(fds, sizeof(fds), "--fds=%d,%d", to[0], from[1]);
        execl(program, program, fds, "--cpu-devices=1", "--cores-per-device=1", (char *)NULL);
        fprintf(stderr, "bench: %s: %s\n", program, strerror(errno));
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
}

/* --------------------------------------------------------------------------------------- frames */

static void reserve(char **buffer, size_t *room, size_t wanted)
{
    if (wanted <= *room)
        return;
    *room = 2 * wanted;
    *buffer = realloc(*buffer, *room);
    if (*buffer == NULL)
        fail("no memory");
}

static void put_text(msgpack_packer *packer, const char *text)
{
    msgpack_pack_str_with_body(packer, text, strlen(text));
}

/* What was gathered becomes a frame; as much as there is room for goes out. */
static void flush(struct port_path *p)
{
    size_t size = p->frame.size - HEADER;

    if (size > 0) {
        for (int i = 0; i < HEADER; i++)
            p->frame.data[i] = (char)(size >> (24 - 8 * i));
        reserve(&p->unsent, &p->unsent_room, p->n_unsent + p->frame.size);
        memcpy(p->unsent + p->n_unsent, p->frame.data, p->frame.size);
        p->n_unsent += p->frame.size;
        p->frame.size = HEADER;
    }
    while (p->sent < p->n_unsent) {
        ssize_t n = write(p->in, p->unsent + p->sent, p->n_unsent - p->sent);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0 && errno != EINTR)
            fail(strerror(errno));
        p->sent += n > 0 ? (size_t)n : 0;
    }
    p->sent = p->n_unsent = 0;
}

/* Reads what is there; false where nothing was. */
static bool fill(struct port_path *p)
{
    memmove(p->received, p->received + p->read, p->n_received - p->read);
    p->n_received -= p->read;
    p->read = 0;
    reserve(&p->received, &p->received_room, p->n_received + 65536);
    ssize_t n = read(p->out, p->received + p->n_received, p->received_room - p->n_received);
    if (n == 0)
        fail("it has ended");
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        fail(strerror(errno));
    p->n_received += n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* The next message of those that were read; NULL: none is complete. Messages of a frame that is
 * not there to its end are told all the same: they are complete. */
static const msgpack_object *next(struct port_path *p)
{
    for (;;) {
        size_t there = p->n_received - p->read, at = 0;

        if (p->left == 0) {
            if (there < HEADER)
                return NULL;
            for (int i = 0; i < HEADER; i++)
                p->left = p->left << 8 | (uint8_t)p->received[p->read + (size_t)i];
            p->read += HEADER;
            continue;
        }
        switch (msgpack_unpack_next(&p->message, p->received + p->read,
                                    there < p->left ? there : p->left, &at)) {
        case MSGPACK_UNPACK_SUCCESS:
        case MSGPACK_UNPACK_EXTRA_BYTES:
            p->read += at;
            p->left -= at;
            return &p->message.data;
        case MSGPACK_UNPACK_CONTINUE:
            return NULL;
        default:
            fail("it does not speak msgpack");
        }
    }
}

/* --------------------------------------------------------------------------------------- answers
 */

static const msgpack_object *find(const msgpack_object *map, const char *key)
{
    if (map->type != MSGPACK_OBJECT_MAP)
        return NULL;
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object_kv *kv = &map->via.map.ptr[i];
        if (kv->key.type == MSGPACK_OBJECT_STR && kv->key.via.str.size == strlen(key) &&
            memcmp(kv->key.via.str.ptr, key, strlen(key)) == 0)
            return &kv->val;
    }
    return NULL;
}

/* Whether it is a response; of which request, and how it ended. */
static bool is_response(const msgpack_object *message, uint64_t *id, int *status)
{
    if (message->type != MSGPACK_OBJECT_ARRAY || message->via.array.size < 3)
        fail("its messages are none");
    const msgpack_object *part = message->via.array.ptr;
    if (part[0].via.u64 == 2) {
        if (part[1].via.str.size == 9 && memcmp(part[1].via.str.ptr, "bad_frame", 9) == 0)
            fail("it does not understand a frame");
        return false;
    }
    *id = part[1].via.u64;
    *status = LIBSCHED_OK;
    if (part[2].type != MSGPACK_OBJECT_NIL) {
        const msgpack_object *value = find(&part[2], "status");
        if (value == NULL)
            fail("an error has no status");
        *status = (int)value->via.i64;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------- calls */

static void begin_request(struct port_path *p, uint64_t id, const char *method)
{
    msgpack_pack_array(&p->packer, 4);
    msgpack_pack_uint8(&p->packer, 0);
    msgpack_pack_uint64(&p->packer, id);
    put_text(&p->packer, method);
    msgpack_pack_array(&p->packer, 1);
}

static void put_parameter(msgpack_packer *packer, const libsched_parameter *parameter)
{
    put_text(packer, parameter->name);
    if (parameter->type == LIBSCHED_PARAMETER_INT)
        msgpack_pack_int64(packer, parameter->value.integer);
    else if (parameter->value.boolean)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
}

static void load(struct port_path *p, const struct local_model *model)
{
    libsched_parameter parameters[LOCAL_PARAMETERS];
    struct pollfd readable = {.fd = p->out, .events = POLLIN};
    const msgpack_object *message;
    uint64_t id;
    int status;

    local_parameters(model, parameters);
    begin_request(p, 1, "load");
    msgpack_pack_map(&p->packer, 4);
    put_text(&p->packer, "name");
    put_text(&p->packer, model->name);
    put_text(&p->packer, "engine");
    put_text(&p->packer, "synthetic");
    put_text(&p->packer, "queue_limit");
    msgpack_pack_uint32(&p->packer, model->queue_limit);
    put_text(&p->packer, "parameters");
    msgpack_pack_map(&p->packer, LOCAL_PARAMETERS);
    for (int i = 0; i < LOCAL_PARAMETERS; i++)
        put_parameter(&p->packer, &parameters[i]);
    flush(p);
    for (;;) {
        while ((message = next(p)) == NULL) {
            if (poll(&readable, 1, START_MS) <= 0)
                fail("it does not load the model");
            fill(p);
        }
        if (!is_response(message, &id, &status))
            continue;
        if (status != LIBSCHED_OK)
            fail("it cannot load the model");
        return;
    }
}

static void port_submit(struct path *path, uint64_t user, uint64_t deadline)
{
    struct port_path *p = (struct port_path *)path;
    static const char data[PAYLOAD];

    begin_request(p, user + FIRST_ID, "infer");
    msgpack_pack_map(&p->packer, 3);
    put_text(&p->packer, "model");
    put_text(&p->packer, p->model);
    put_text(&p->packer, "deadline");
    msgpack_pack_uint64(&p->packer, deadline);
    put_text(&p->packer, "inputs");
    msgpack_pack_map(&p->packer, 1);
    put_text(&p->packer, "data");
    msgpack_pack_map(&p->packer, 3);
    put_text(&p->packer, "datatype");
    put_text(&p->packer, "UINT8");
    put_text(&p->packer, "shape");
    msgpack_pack_array(&p->packer, 1);
    msgpack_pack_uint32(&p->packer, PAYLOAD);
    put_text(&p->packer, "data");
    msgpack_pack_bin_with_body(&p->packer, data, PAYLOAD);
}

static size_t port_turn(struct path *path, bool last, struct answer *out, size_t max)
{
    struct port_path *p = (struct port_path *)path;
    const msgpack_object *message;
    uint64_t id;
    size_t n = 0;
    int status;

    (void)last; /* a pipe is readable as long as there is something in it */
    flush(p);
    do {
        while (n < max && (message = next(p)) != NULL)
            if (is_response(message, &id, &status))
                out[n++] = (struct answer){id - FIRST_ID, status};
    } while (n < max && fill(p));
    return n;
}

static void port_close(struct path *path)
{
    struct port_path *p = (struct port_path *)path;

    close(p->in);
    close(p->out);
    waitpid(p->pid, NULL, 0);
    msgpack_unpacked_destroy(&p->message);
    msgpack_sbuffer_destroy(&p->frame);
    free(p->unsent);
    free(p->received);
    free(p);
}

struct path *path_open_port(const struct local_model *model)
{
    struct port_path *p = calloc(1, sizeof(*p));

    if (p == NULL)
        fail("no memory");
    p->model = model->name;
    msgpack_sbuffer_init(&p->frame);
    msgpack_sbuffer_write(&p->frame, "\0\0\0", HEADER);
    msgpack_packer_init(&p->packer, &p->frame, msgpack_sbuffer_write);
    msgpack_unpacked_init(&p->message);
    reserve(&p->received, &p->received_room, 65536);
    start(p);
    load(p, model);
    p->path = (struct path){
        .submit = port_submit,
        .turn = port_turn,
        .close = port_close,
        .fd = p->out,
        .spin_ns = 0,
    };
    return &p->path;
}
