/* SPDX-License-Identifier: Apache-2.0 */
#include <libsched/status.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *libsched_status_name(int status)
{
    switch (status) {
    case LIBSCHED_OK:
        return "ok";
    case LIBSCHED_EINVAL:
        return "invalid_argument";
    case LIBSCHED_EDEADLINE:
        return "deadline_exceeded";
    case LIBSCHED_ECANCELED:
        return "cancelled";
    case LIBSCHED_ETOOBIG:
        return "too_large";
    case LIBSCHED_EPOISON:
        return "poisoned";
    case LIBSCHED_ENOENT:
        return "not_found";
    case LIBSCHED_ECLIENTFULL:
        return "client_limit";
    case LIBSCHED_ETIMELIMIT:
        return "time_limit";
    case LIBSCHED_ENOMODEL:
        return "unknown_model";
    case LIBSCHED_ENOTREADY:
        return "model_not_ready";
    case LIBSCHED_EBADMODEL:
        return "bad_model";
    case LIBSCHED_EEXIST:
        return "already_loaded";
    case LIBSCHED_EENGINE:
        return "engine_failed";
    case LIBSCHED_EQUEUEFULL:
        return "queue_full";
    case LIBSCHED_ENODEVICE:
        return "no_device";
    case LIBSCHED_EDEVICELOST:
        return "device_lost";
    case LIBSCHED_ENODEVMEM:
        return "out_of_device_memory";
    case LIBSCHED_EBUSY:
        return "overloaded";
    case LIBSCHED_ECLOSING:
        return "closing";
    case LIBSCHED_ENOMEM:
        return "out_of_memory";
    case LIBSCHED_ESYSTEM:
        return "system_error";
    case LIBSCHED_ENOTSUP:
        return "not_supported";
    case LIBSCHED_EPROTOCOL:
        return "protocol_error";
    }
    return "unknown";
}

/* Takes back a UTF-8 sequence that the end of the buffer cut in two. */
static void trim_partial_utf8(char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (length - (start - 1) < need)
        text[start - 1] = '\0';
}

/* Bytes of the UTF-8 sequence that begins at `text`; 0 where none does. */
static size_t utf8_length(const unsigned char *text)
{
    unsigned char lead = text[0];
    size_t n = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead > 0xF4)
        return 0;
    /* Its end, if there is one before, is no continuation. */
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    /* Longer than need be, a surrogate, or above U+10FFFF. */
    if ((lead == 0xE0 && text[1] < 0xA0) || (lead == 0xED && text[1] > 0x9F) ||
        (lead == 0xF0 && text[1] < 0x90) || (lead == 0xF4 && text[1] > 0x8F))
        return 0;
    return n;
}

/* A message quotes what was got: a name that a precision has cut in two, an engine's words, a text
 * that was refused for not being UTF-8. What is not UTF-8 in it becomes '?'. */
static void replace_non_utf8(char *text)
{
    while (*text != '\0') {
        size_t n = utf8_length((const unsigned char *)text);
        if (n == 0)
            *text = '?';
        text += n > 0 ? n : 1;
    }
}

int libsched_error_set(libsched_error *err, int status, const char *format, ...)
{
    if (err == NULL)
        return status;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    if (n < 0)
        err->message[0] = '\0';
    else if ((size_t)n >= sizeof(err->message))
        trim_partial_utf8(err->message, strlen(err->message));
    replace_non_utf8(err->message);
    err->status = status;
    return status;
}
