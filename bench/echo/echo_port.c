/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare limit that ./dev bench port is held against: a port that speaks just enough of
 * docs/protocol.md for the same client to talk to it, and does nothing. It reads what there is,
 * answers every request with a canned result of the size of a real one, writes once, looks for
 * more for a while, and sleeps.
 *
 *     echo-port [--hop] [--spin-us=N] [--first-job=N, which means nothing to it]
 *
 * With --hop every infer goes through a second process first (hop.h). Nothing that comes from
 * outside is checked here further than memory safety needs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <msgpack.h>

#include "hop.h"
#include "msgpack_skip.h"

#define IN 3
#define OUT 4
#define MAX_FRAME ((size_t)64 << 20)
#define READ_SIZE ((size_t)1 << 20)
#define PIPE_SIZE (1 << 20)

struct echo {
    uint8_t *in; /* begin .. end of what was read and not handled yet */
    size_t begin, end;
    msgpack_sbuffer out; /* a frame in the making: four bytes for its length come first */
    msgpack_sbuffer infer, stats;
    struct hop *hop;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------------------------ answers */

static void pack_key(msgpack_packer *pack, const char *key)
{
    msgpack_pack_str_with_body(pack, key, strlen(key));
}

static void pack_pair(msgpack_packer *pack, const char *key, uint64_t value)
{
    pack_key(pack, key);
    msgpack_pack_uint64(pack, value);
}

static void pack_counters(msgpack_packer *pack)
{
    static const char *const names[] = {
        "submitted", "completed",  "failed",  "cancelled",        "expired",
        "refused",   "retried",    "batches", "batched_requests", "batched_units",
        "queue_us",  "compute_us", "queued",  "running"};
    msgpack_pack_map(pack, sizeof(names) / sizeof(names[0]));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        pack_pair(pack, names[i], 12345 * i);
}

/* Both key by key as sched-port answers them, with one model and one device: what the client takes
 * to read them is part of either time. */
static void make_results(struct echo *e)
{
    static const char *const port[] = {"frames_in",  "messages_in", "bytes_in",  "bad_frames",
                                       "frames_out", "parts_out",   "bytes_out", "backlog_bytes",
                                       "in_flight",  "held",        "leases",    "lease_bytes",
                                       "sleeps"};
    msgpack_packer pack;
    msgpack_sbuffer_init(&e->infer);
    msgpack_packer_init(&pack, &e->infer, msgpack_sbuffer_write);
    msgpack_pack_map(&pack, 6);
    pack_key(&pack, "outputs");
    msgpack_pack_map(&pack, 1);
    pack_key(&pack, "checksum");
    msgpack_pack_map(&pack, 3);
    pack_key(&pack, "datatype");
    pack_key(&pack, "UINT64");
    pack_key(&pack, "shape");
    msgpack_pack_array(&pack, 1);
    msgpack_pack_uint64(&pack, 1);
    pack_key(&pack, "data");
    msgpack_pack_bin_with_body(&pack, "\1\2\3\4\5\6\7", 8);
    pack_key(&pack, "device");
    pack_key(&pack, "cpu:0");
    pack_pair(&pack, "batch", 1);
    pack_pair(&pack, "queue_us", 12);
    pack_pair(&pack, "compute_us", 345);
    pack_pair(&pack, "attempts", 1);

    msgpack_sbuffer_init(&e->stats);
    msgpack_packer_init(&pack, &e->stats, msgpack_sbuffer_write);
    msgpack_pack_map(&pack, 8);
    pack_pair(&pack, "uptime_us", 1234567);
    pack_pair(&pack, "arena_bytes", 1u << 30);
    pack_pair(&pack, "arena_used", 0);
    pack_pair(&pack, "worker_deaths", 0);
    pack_key(&pack, "requests");
    pack_counters(&pack);
    pack_key(&pack, "models");
    msgpack_pack_map(&pack, 1);
    pack_key(&pack, "noop");
    pack_counters(&pack);
    pack_key(&pack, "devices");
    msgpack_pack_map(&pack, 1);
    pack_key(&pack, "cpu:0");
    msgpack_pack_map(&pack, 3);
    pack_pair(&pack, "batches", 123456);
    pack_pair(&pack, "busy_us", 123456);
    pack_pair(&pack, "restarts", 0);
    pack_key(&pack, "port");
    msgpack_pack_map(&pack, sizeof(port) / sizeof(port[0]));
    for (size_t i = 0; i < sizeof(port) / sizeof(port[0]); i++)
        pack_pair(&pack, port[i], 12345 * i);
}

static void begin_frame(struct echo *e)
{
    if (e->out.size == 0)
        msgpack_sbuffer_write(&e->out, "\0\0\0", 4);
}

static void answer(struct echo *e, uint32_t id, const msgpack_sbuffer *result)
{
    msgpack_packer pack;
    begin_frame(e);
    msgpack_packer_init(&pack, &e->out, msgpack_sbuffer_write);
    msgpack_pack_array(&pack, 4);
    msgpack_pack_int(&pack, 1);
    msgpack_pack_uint32(&pack, id);
    msgpack_pack_nil(&pack);
    if (result != NULL)
        msgpack_sbuffer_write(&e->out, result->data, result->size);
    else
        msgpack_pack_nil(&pack);
}

static void say_hello(struct echo *e)
{
    msgpack_packer pack;
    begin_frame(e);
    msgpack_packer_init(&pack, &e->out, msgpack_sbuffer_write);
    msgpack_pack_array(&pack, 3);
    msgpack_pack_int(&pack, 2);
    pack_key(&pack, "hello");
    msgpack_pack_array(&pack, 1);
    msgpack_pack_map(&pack, 9);
    pack_pair(&pack, "protocol", 1);
    pack_key(&pack, "version");
    pack_key(&pack, "echo");
    pack_pair(&pack, "pid", (uint64_t)getpid());
    pack_pair(&pack, "clock_ns", now_ns());
    pack_pair(&pack, "max_frame_bytes", MAX_FRAME);
    pack_pair(&pack, "max_nesting", 64);
    pack_key(&pack, "credit");
    msgpack_pack_map(&pack, 2);
    pack_pair(&pack, "requests", HOP_MAX);
    pack_pair(&pack, "bytes", (uint64_t)1 << 30);
    pack_key(&pack, "devices");
    msgpack_pack_array(&pack, 0);
    pack_key(&pack, "models");
    msgpack_pack_array(&pack, 0);
}

/* Writes the frame that was made; waits for room as long as it takes. */
static void flush(struct echo *e)
{
    if (e->out.size == 0)
        return;
    uint32_t length = (uint32_t)e->out.size - 4;
    for (int i = 0; i < 4; i++)
        e->out.data[i] = (char)(length >> (24 - 8 * i));
    for (size_t at = 0; at < e->out.size;) {
        ssize_t n = write(OUT, e->out.data + at, e->out.size - at);
        if (n > 0) {
            at += (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd p = {.fd = OUT, .events = POLLOUT};
            poll(&p, 1, -1);
        } else {
            exit(0);
        }
    }
    msgpack_sbuffer_clear(&e->out);
}

/* ----------------------------------------------------------------------------------- requests */

/* Behind the value at `at`; NULL where it is cut short. */
static const uint8_t *skip(const uint8_t *at, const uint8_t *end)
{
    for (uint64_t values = 1; values > 0; values--) {
        struct msgpack_head head;
        if (msgpack_head_read(at, (size_t)(end - at), &head) != 0)
            return NULL;
        at += head.size;
        switch (head.kind) {
        case MSGPACK_KIND_STR:
        case MSGPACK_KIND_BIN:
        case MSGPACK_KIND_EXT:
            if (head.value > (uint64_t)(end - at))
                return NULL;
            at += head.value;
            break;
        case MSGPACK_KIND_ARRAY:
            values += head.value;
            break;
        case MSGPACK_KIND_MAP:
            values += 2 * head.value;
            break;
        default:
            break;
        }
    }
    return at;
}

static void handle_request(struct echo *e, const uint8_t *at, const uint8_t *end)
{
    struct msgpack_head array, type, id, method;
    if (msgpack_head_read(at, (size_t)(end - at), &array) != 0 || array.value != 4)
        return;
    at += array.size;
    if (msgpack_head_read(at, (size_t)(end - at), &type) != 0)
        return;
    at += type.size;
    if (msgpack_head_read(at, (size_t)(end - at), &id) != 0)
        return;
    at += id.size;
    if (msgpack_head_read(at, (size_t)(end - at), &method) != 0 || end - at < method.size + 5)
        return;
    at += method.size;
    if (memcmp(at, "infer", 5) == 0 && e->hop != NULL)
        hop_send(e->hop, (uint32_t)id.value);
    else if (memcmp(at, "infer", 5) == 0)
        answer(e, (uint32_t)id.value, &e->infer);
    else if (memcmp(at, "stats", 5) == 0)
        answer(e, (uint32_t)id.value, &e->stats);
    else
        answer(e, (uint32_t)id.value, NULL);
}

static void handle_frame(struct echo *e, const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        const uint8_t *next = skip(at, end);
        if (next == NULL)
            return;
        handle_request(e, at, next);
        at = next;
    }
}

static void handle_frames(struct echo *e)
{
    while (e->end - e->begin >= 4) {
        const uint8_t *at = e->in + e->begin;
        size_t length = (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
        if (length > MAX_FRAME)
            exit(70);
        if (e->end - e->begin < 4 + length)
            break;
        handle_frame(e, at + 4, at + 4 + length);
        e->begin += 4 + length;
    }
    if (e->begin == e->end) {
        e->begin = e->end = 0;
    } else if (e->begin > MAX_FRAME) {
        memmove(e->in, e->in + e->begin, e->end - e->begin);
        e->end -= e->begin;
        e->begin = 0;
    }
}

/* Whether something was read, or came back. */
static bool work(struct echo *e)
{
    bool busy = false;
    ssize_t n = read(IN, e->in + e->end, READ_SIZE);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        exit(0);
    if (n > 0) {
        e->end += (size_t)n;
        handle_frames(e);
        busy = true;
    }
    uint32_t id;
    while (e->hop != NULL && hop_receive(e->hop, &id)) {
        answer(e, id, &e->infer);
        busy = true;
    }
    flush(e);
    return busy;
}

static void sleep_until_more(struct echo *e)
{
    struct pollfd p[2] = {{.fd = IN, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    if (e->hop != NULL) {
        if (hop_arm(e->hop)) {
            hop_awake(e->hop);
            return;
        }
        p[1].fd = hop_fd(e->hop);
    }
    poll(p, 2, -1);
    if (e->hop != NULL)
        hop_awake(e->hop);
}

int main(int argc, char **argv)
{
    struct echo e = {0};
    uint32_t spin_us = 50;
    bool hop = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--hop") == 0) {
            hop = true;
        } else if (sscanf(argv[i], "--spin-us=%" SCNu32, &spin_us) != 1 &&
                   strncmp(argv[i], "--first-job", strlen("--first-job")) != 0) {
            fprintf(stderr, "echo-port: unknown option %s\n", argv[i]);
            return 64;
        }
    }
    e.in = mmap(NULL, 2 * MAX_FRAME + READ_SIZE + 8, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (e.in == MAP_FAILED)
        return 70;
    /* The same rule as sched-port's: one thread less than there are cores may spin. */
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (hop && (e.hop = hop_start(cores > 2 ? spin_us : 0)) == NULL)
        return 70;
    if (cores < 2)
        spin_us = 0;
    fcntl(IN, F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(OUT, F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(IN, F_SETFL, fcntl(IN, F_GETFL) | O_NONBLOCK);
    fcntl(OUT, F_SETFL, fcntl(OUT, F_GETFL) | O_NONBLOCK);
    msgpack_sbuffer_init(&e.out);
    make_results(&e);
    say_hello(&e);
    flush(&e);

    uint64_t idle_since = 0;
    for (;;) {
        if (work(&e)) {
            idle_since = 0;
            continue;
        }
        uint64_t now = now_ns();
        if (idle_since == 0)
            idle_since = now;
        if (now - idle_since < spin_us * UINT64_C(1000))
            continue;
        sleep_until_more(&e);
    }
}
