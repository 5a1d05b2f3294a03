/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting the parts together, and taking them apart.
 */
#include "port.h"

#include "log.h"

/* Decoded values of ordinary messages fit in one chunk, so that nothing is allocated for them. */
#define ZONE_CHUNK ((size_t)64 << 10)

int port_open(struct port *p, const struct port_options *options, int fd_in, int fd_out,
              libsched_error *err)
{
    *p = (struct port){.options = options};
    p->reader.fd = p->writer.fd = -1;
    held_init(&p->held);
    waiters_init(&p->waiters);

    int rc = lease_table_init(&p->leases, options->lease_max_bytes,
                              options->lease_expiry_ms * UINT64_C(1000000), err);
    if (rc < 0)
        return rc;
    libsched_options opening = options->libsched;
    opening.log = port_log_line;
    rc = libsched_open(&p->sched, &opening, err);
    if (rc < 0) {
        lease_table_free(&p->leases);
        return rc;
    }
    frame_writer_init(&p->writer, p->sched, fd_out);
    bool zone = msgpack_zone_init(&p->zone, ZONE_CHUNK);
    if (!zone || request_table_init(&p->requests) < 0 ||
        frame_reader_init(&p->reader, p->sched, fd_in, options->max_frame_bytes) < 0) {
        rc = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to start with");
        if (!zone)
            p->zone.chunk_list.head = NULL;
        port_close(p);
        return rc;
    }
    p->now = libsched_now();
    return LIBSCHED_OK;
}

void port_close(struct port *p)
{
    frame_writer_free(&p->writer);
    frame_reader_free(&p->reader);
    held_free(&p->held);
    waiters_free(&p->waiters);
    message_list_free(&p->messages);
    request_table_free(&p->requests);
    if (p->zone.chunk_list.head != NULL)
        msgpack_zone_destroy(&p->zone);
    libsched_close(p->sched);
    lease_table_free(&p->leases);
}
