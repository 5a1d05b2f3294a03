/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease, lease_write and lease_release.
 */
#include <stdio.h>
#include <unistd.h>

#include "decode.h"
#include "port.h"
#include "reply.h"

/* Others are written and released soon. */
#define LEASE_RETRY_NS (20 * UINT64_C(1000000))

static int read_size(const struct message *m, uint64_t *size, libsched_error *err)
{
    if (m->n_params != 1 || m->params[0].type != MSGPACK_OBJECT_MAP)
        return libsched_error_set(err, LIBSCHED_EINVAL, "lease takes one map");
    const msgpack_object_map *map = &m->params[0].via.map;
    bool there = false;
    for (uint32_t i = 0; i < map->size; i++) {
        struct text key = {0};
        decode_text(&map->ptr[i].key, &key);
        if (!text_is(key, "size"))
            return decode_unknown_key("lease", &map->ptr[i].key, "size", err);
        int rc = decode_number("size", &map->ptr[i].val, UINT64_MAX, size, err);
        if (rc < 0)
            return rc;
        there = true;
    }
    if (!there)
        return libsched_error_set(err, LIBSCHED_EINVAL, "lease: size is missing");
    return LIBSCHED_OK;
}

void method_lease(struct port *p, const struct message *m)
{
    libsched_error err;
    const struct lease *lease;
    uint64_t size = 0;

    int rc = read_size(m, &size, &err);
    if (rc == LIBSCHED_OK && p->draining)
        rc = libsched_error_set(&err, LIBSCHED_ECLOSING, "the scheduler is shutting down");
    if (rc == LIBSCHED_OK)
        rc = lease_open(&p->leases, size, p->now, &lease, &err);
    if (rc < 0) {
        reply_error_retry(p, m->index, &err, rc == LIBSCHED_EBUSY ? LEASE_RETRY_NS : 0);
        return;
    }

    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), lease->fd);
    struct frame_writer *w = &p->writer;
    reply_begin(p, m->index);
    encode_map(w, 4);
    encode_key(w, "lease");
    encode_uint(w, lease->id);
    encode_key(w, "path");
    encode_str(w, path);
    encode_key(w, "size");
    encode_uint(w, lease->size);
    encode_key(w, "expires_ms");
    encode_uint(w, p->leases.expiry_ns / 1000000);
    reply_end(p, m->index);
}

void method_lease_write(struct port *p, const struct message *m)
{
    uint64_t id, offset;
    struct text piece;
    if (m->n_params == 0 || !decode_uint(&m->params[0], &id) || id > UINT32_MAX)
        return;
    if (m->n_params != 3 || !decode_uint(&m->params[1], &offset) ||
        !decode_text(&m->params[2], &piece)) {
        lease_refuse_piece(&p->leases, (uint32_t)id,
                           "a piece that is not [lease, offset, binary] was sent for it");
        return;
    }
    lease_write(&p->leases, (uint32_t)id, offset, piece.data, piece.size);
}

void method_lease_release(struct port *p, const struct message *m)
{
    uint64_t id;
    if (m->n_params == 1 && decode_uint(&m->params[0], &id) && id <= UINT32_MAX)
        lease_give_back(&p->leases, (uint32_t)id);
}
