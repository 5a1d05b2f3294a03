/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Added tokens: texts such as "[SEP]" that become one token wherever they stand, before anything
 * is split. Of several that begin at one place the longest wins.
 *
 * Whether white space around a token belongs to it ("lstrip", "rstrip") makes no difference here:
 * white space has no tokens of its own.
 */
#ifndef ENGINE_TOKENIZER_ADDED_H
#define ENGINE_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct added_token {
    char *text;
    size_t length;
    int32_t id;
    bool single_word; /* only where no letter or digit touches it */
};

struct added_tokens {
    struct added_token *tokens; /* sorted by text */
    size_t count;
    bool begins[256]; /* whether one begins with that byte */
};

/* Adds a token; `text` is copied. Returns false without memory. Sort before matching. */
bool added_tokens_add(struct added_tokens *set, const char *text, size_t length, int32_t id,
                      bool single_word);
void added_tokens_sort(struct added_tokens *set);
void added_tokens_free(struct added_tokens *set);

/* The longest token that begins at `text`, or NULL. */
const struct added_token *added_tokens_match(const struct added_tokens *set, const char *text,
                                             size_t length);

#endif
