/* SPDX-License-Identifier: Apache-2.0 */
/* What a BERT tokenizer knows of characters, and UTF-8. */
#ifndef ENGINE_TOKENIZER_UNICODE_H
#define ENGINE_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum character_class {
    CHARACTER_CONTROL = 1 << 0,     /* removed when text is cleaned */
    CHARACTER_BLANK = 1 << 1,       /* a space when text is cleaned */
    CHARACTER_IDEOGRAPH = 1 << 2,   /* a word of its own in Chinese */
    CHARACTER_MARK = 1 << 3,        /* removed with the accents, once decomposed */
    CHARACTER_SPACE = 1 << 4,       /* ends a word */
    CHARACTER_PUNCTUATION = 1 << 5, /* a word of its own */
    CHARACTER_DECOMPOSES = 1 << 6,  /* into others, or takes part in the canonical order */
    CHARACTER_UPPER = 1 << 7,       /* has another lower case */
};

/* All classes of a character. Slow: binary searches. */
uint8_t character_classify(uint32_t c);

/* Longest decomposition of a character, in characters. */
#define CHARACTER_MAX_DECOMPOSED 8
/* The canonical decomposition of a character; returns how many characters it has. */
unsigned character_decompose(uint32_t c, uint32_t out[CHARACTER_MAX_DECOMPOSED]);
/* The canonical combining class: 0 for a starter. */
unsigned character_combining_class(uint32_t c);
/* The lower case; returns how many characters it has, 1 or 2. */
unsigned character_lower(uint32_t c, uint32_t out[2]);
/* Whether it is part of a word as regular expressions see it (\w). */
bool character_is_word(uint32_t c);

/* The offset of the first byte that is not UTF-8 (overlong forms, surrogates and what lies beyond
 * U+10FFFF are not), or `length`. */
size_t utf8_check(const char *text, size_t length);

/* The character at *at in valid UTF-8, and moves *at behind it. */
static inline uint32_t utf8_next(const unsigned char **at)
{
    const unsigned char *p = *at;
    if (p[0] < 0x80) {
        *at = p + 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *at = p + 2;
        return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    }
    if (p[0] < 0xF0) {
        *at = p + 3;
        return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    }
    *at = p + 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

/* Writes a character; returns its bytes, 1 to 4. */
static inline unsigned utf8_put(unsigned char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (unsigned char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (unsigned char)(0xC0 | c >> 6);
        to[1] = (unsigned char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (unsigned char)(0xE0 | c >> 12);
        to[1] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        to[2] = (unsigned char)(0x80 | (c & 0x3F));
        return 3;
    }
    to[0] = (unsigned char)(0xF0 | c >> 18);
    to[1] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
    to[2] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
    to[3] = (unsigned char)(0x80 | (c & 0x3F));
    return 4;
}

#endif
