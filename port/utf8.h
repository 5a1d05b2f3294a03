/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes out as a msgpack str is UTF-8, whatever came in: a message may quote a name that a
 * client has sent as any bytes, and another client's decoder would refuse the whole frame for it.
 */
#ifndef PORT_UTF8_H
#define PORT_UTF8_H

#include <stddef.h>

/* Copies a text, of at most size - 1 bytes and its NUL, with '?' in place of each byte that belongs
 * to no well-formed sequence. */
void utf8_clean(char *out, size_t size, const char *text);

#endif
