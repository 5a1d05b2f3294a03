/* SPDX-License-Identifier: Apache-2.0 */
#include "reply.h"

#include <stdarg.h>
#include <stdio.h>

#include "utf8.h"

static const char *scope_of(int status)
{
    switch (-status / 100) {
    case 1:
        return "request";
    case 2:
        return "model";
    case 3:
        return "device";
    default:
        return "scheduler";
    }
}

void encode_words(struct frame_writer *w, const char *words)
{
    char clean[LIBSCHED_MESSAGE_SIZE];
    utf8_clean(clean, sizeof(clean), words);
    encode_str(w, clean);
}

void encode_error(struct frame_writer *w, int status, const char *message, uint64_t retry_ns)
{
    encode_map(w, retry_ns > 0 ? 5 : 4);
    encode_key(w, "status");
    encode_int(w, status);
    encode_key(w, "code");
    encode_str(w, libsched_status_name(status));
    encode_key(w, "scope");
    encode_str(w, scope_of(status));
    encode_key(w, "message");
    encode_words(w, message != NULL && *message != '\0' ? message : libsched_status_name(status));
    if (retry_ns > 0) {
        encode_key(w, "retry_after_ms");
        encode_uint(w, (retry_ns + 999999) / 1000000);
    }
}

static void response_head(struct port *p, uint32_t index)
{
    frame_writer_begin(&p->writer);
    frame_writer_append(&p->writer, "\x94\x01", 2); /* [1, ... of four */
    encode_uint(&p->writer, request_table_at(&p->requests, index)->id);
}

static void finish(struct port *p, uint32_t index)
{
    frame_writer_end(&p->writer);
    lease_release_all(&p->leases, request_table_at(&p->requests, index)->leases);
    request_table_remove(&p->requests, index);
}

void reply_begin(struct port *p, uint32_t index)
{
    response_head(p, index);
    encode_nil(&p->writer);
}

void reply_end(struct port *p, uint32_t index)
{
    finish(p, index);
}

void reply_abort(struct port *p)
{
    frame_writer_abort(&p->writer);
}

void reply_nil(struct port *p, uint32_t index)
{
    reply_begin(p, index);
    encode_nil(&p->writer);
    reply_end(p, index);
}

void reply_error_retry(struct port *p, uint32_t index, const libsched_error *err, uint64_t retry_ns)
{
    response_head(p, index);
    encode_error(&p->writer, err->status, err->message, retry_ns);
    encode_nil(&p->writer);
    finish(p, index);
}

void reply_error(struct port *p, uint32_t index, const libsched_error *err)
{
    reply_error_retry(p, index, err, 0);
}

void reply_failure(struct port *p, uint32_t index, int status, const char *format, ...)
{
    libsched_error err = {.status = status};
    va_list args;
    va_start(args, format);
    vsnprintf(err.message, sizeof(err.message), format, args);
    va_end(args);
    reply_error(p, index, &err);
}

void notify_begin(struct port *p, const char *method)
{
    frame_writer_begin(&p->writer);
    frame_writer_append(&p->writer, "\x93\x02", 2); /* [2, ... of three */
    encode_str(&p->writer, method);
    encode_array(&p->writer, 1);
}

void notify_end(struct port *p)
{
    frame_writer_end(&p->writer);
}

void notify_bad_frame(struct port *p, uint64_t number, const char *reason)
{
    p->counters.bad_frames++;
    frame_writer_begin(&p->writer);
    frame_writer_append(&p->writer, "\x93\x02", 2);
    encode_str(&p->writer, "bad_frame");
    encode_array(&p->writer, 2);
    encode_uint(&p->writer, number);
    encode_str(&p->writer, reason);
    frame_writer_end(&p->writer);
}
