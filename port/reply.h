/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Responses and notifications: their frame of msgpack-RPC, and the end of a request.
 */
#ifndef PORT_REPLY_H
#define PORT_REPLY_H

#include "encode.h"
#include "port.h"

/* A response with a result: begin, encode the result, end; the request is gone then. */
void reply_begin(struct port *p, uint32_t index);
void reply_end(struct port *p, uint32_t index);
/* The response begun is not sent; the request stays. */
void reply_abort(struct port *p);

/* A response that is nothing but this. */
void reply_nil(struct port *p, uint32_t index);
void reply_error(struct port *p, uint32_t index, const libsched_error *err);
/* The same, with the time after which to come back; 0: none. */
void reply_error_retry(struct port *p, uint32_t index, const libsched_error *err,
                       uint64_t retry_ns);
void reply_failure(struct port *p, uint32_t index, int status, const char *format, ...)
    LIBSCHED_PRINTF(4, 5);

/* [2, method, [...]]: begin, encode the one parameter, end. */
void notify_begin(struct port *p, const char *method);
void notify_end(struct port *p);
void notify_bad_frame(struct port *p, uint64_t number, const char *reason);

/* Words for people that somebody else has chosen, as UTF-8; at most as many as a message has. */
void encode_words(struct frame_writer *w, const char *words);
/* The map that stands for an error wherever one is told. */
void encode_error(struct frame_writer *w, int status, const char *message, uint64_t retry_ns);

#endif
