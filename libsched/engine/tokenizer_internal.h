/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the tokenizer share: loading fills it, encoding reads it. */
#ifndef ENGINE_TOKENIZER_INTERNAL_H
#define ENGINE_TOKENIZER_INTERNAL_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_added.h"
#include "engine/tokenizer_vocabulary.h"

/* A word takes memory of the scratch in proportion, and time in proportion to its square. */
#define TOKENIZER_MAX_WORD 1000

struct tokenizer {
    struct vocabulary vocabulary;
    struct tokenizer_specials specials;
    uint32_t max_word; /* characters; a longer word is unknown */

    /* How text is normalized. */
    bool clean, ideographs, strip, lower;

    struct added_tokens raw;        /* sought in the text as it is */
    struct added_tokens normalized; /* sought in what normalization leaves */

    /* character_class of each character of the basic plane, as far as it matters under the options
     * above; `meaning` is that mask. */
    uint8_t classes[0x10000];
    uint8_t meaning;
    /* A byte of ASCII that only has to be put in its word: what is put there; else 0. */
    unsigned char plain[256];
};

/* Fills what is derived from the options above. */
void tokenizer_prepare_classes(struct tokenizer *tokenizer);

/* The normal form of a text, for added tokens that are sought in it. `*out` is the caller's
 * (free()). The text has to be UTF-8. */
int tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t length,
                        char **out, size_t *out_length, libsched_error *err);

#endif
