/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status codes, and the message that goes with one.
 *
 * A code is 0 or negative, and ranged by the largest thing that is affected: a request, a model, a
 * device, the scheduler. A caller that knows only the range still knows whether another request
 * may do better.
 */
#ifndef LIBSCHED_STATUS_H
#define LIBSCHED_STATUS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LIBSCHED_API __attribute__((visibility("default")))
#define LIBSCHED_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define LIBSCHED_API
#define LIBSCHED_PRINTF(fmt, args)
#endif

/* Whether a struct that has its own size in struct_size is long enough for a member, which was
 * added to its end later. */
#define LIBSCHED_HAS(type, object, member) \
    ((object)->struct_size >= offsetof(type, member) + sizeof((object)->member))

enum libsched_status {
    LIBSCHED_OK = 0,

    /* The request: everything else goes on as before. */
    LIBSCHED_EINVAL = -101,      /* an argument, tensor or parameter that is not acceptable */
    LIBSCHED_EDEADLINE = -102,   /* its deadline passed, or could not be met */
    LIBSCHED_ECANCELED = -103,   /* cancelled by its owner */
    LIBSCHED_ETOOBIG = -104,     /* larger than a limit that more patience does not lift */
    LIBSCHED_EPOISON = -105,     /* ended its worker when it ran alone, twice */
    LIBSCHED_ENOENT = -106,      /* no request, job, lease or buffer of that name */
    LIBSCHED_ECLIENTFULL = -107, /* its client has as many waiting as it may: come back later */
    LIBSCHED_ETIMELIMIT = -108,  /* a job that ran into its time limit */

    /* The model: requests for others are served. */
    LIBSCHED_ENOMODEL = -201,   /* no model of that name is loaded */
    LIBSCHED_ENOTREADY = -202,  /* still loading */
    LIBSCHED_EBADMODEL = -203,  /* its files or its parameters are not acceptable */
    LIBSCHED_EEXIST = -204,     /* a model of that name is loaded already */
    LIBSCHED_EENGINE = -205,    /* the engine failed, or does not do what was asked of it */
    LIBSCHED_EQUEUEFULL = -206, /* its queue is full: come back later */

    /* The device: other devices go on. */
    LIBSCHED_ENODEVICE = -301,   /* no such device, or it is not usable */
    LIBSCHED_EDEVICELOST = -302, /* it failed while the work ran on it */
    LIBSCHED_ENODEVMEM = -303,   /* it has not enough memory */

    /* The scheduler. */
    LIBSCHED_EBUSY = -401,     /* a limit of the whole is reached: come back later */
    LIBSCHED_ECLOSING = -402,  /* it is shutting down */
    LIBSCHED_ENOMEM = -403,    /* the host has no memory left */
    LIBSCHED_ESYSTEM = -404,   /* a system call failed; the message says which */
    LIBSCHED_ENOTSUP = -405,   /* not supported here, or by this version */
    LIBSCHED_EPROTOCOL = -406, /* the other side spoke out of turn */
};

/* The bytes of a message, its NUL included. */
#define LIBSCHED_MESSAGE_SIZE 256

/* What went wrong, for a person: what was wrong, what was got, what to do. Owned by the caller. */
typedef struct libsched_error {
    int status;
    char message[LIBSCHED_MESSAGE_SIZE];
} libsched_error;

/* The name of a code as it goes over the wire ("deadline_exceeded"); "unknown" for no known code.
 * The string is static. */
LIBSCHED_API const char *libsched_status_name(int status);

/* Fills `err` (unless it is NULL) with a formatted message and returns `status`, so that
 * `return libsched_error_set(err, ...)` is one statement. The message is always UTF-8: cut at a
 * boundary where it is too long, '?' in place of what is none. */
LIBSCHED_API int libsched_error_set(libsched_error *err, int status, const char *format, ...)
    LIBSCHED_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif

#endif
