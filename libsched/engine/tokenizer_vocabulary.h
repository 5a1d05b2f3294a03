/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A WordPiece vocabulary: pieces that begin a word and pieces that continue one ("##ing"), in one
 * hash table over one string of all texts.
 *
 * The hash of a text is built byte by byte, so that the hashes of all prefixes of a word cost one
 * pass. Open addressing, at most half full.
 */
#ifndef ENGINE_TOKENIZER_VOCABULARY_H
#define ENGINE_TOKENIZER_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

/* Limits of what is accepted from a file. */
#define TOKENIZER_MAX_VOCABULARY ((size_t)1 << 20)
#define TOKENIZER_MAX_ID ((int64_t)1 << 24)

struct vocabulary_slot {
    uint32_t hash;
    uint32_t offset; /* of its text */
    uint16_t length; /* 0: the slot is free */
    uint16_t continuing;
    int32_t id;
};

struct vocabulary {
    struct vocabulary_slot *slots;
    uint32_t mask; /* slots - 1, a power of two minus one */
    char *text;
    size_t text_size, text_capacity;
    uint32_t longest[2]; /* bytes of the longest piece that begins, continues */
    uint32_t id_limit;
};

static inline uint32_t vocabulary_hash_start(bool continuing)
{
    return continuing ? 0x9747B28Cu : 0x811C9DC5u;
}

static inline uint32_t vocabulary_hash_byte(uint32_t hash, unsigned char byte)
{
    return (hash ^ byte) * 0x01000193u; /* FNV-1a */
}

/* An empty vocabulary with room for `tokens` tokens of `text_size` bytes together. */
int vocabulary_init(struct vocabulary *v, size_t tokens, size_t text_size, libsched_error *err);
void vocabulary_free(struct vocabulary *v);

/* Adds a token with its id (0 to TOKENIZER_MAX_ID - 1); one that is there already gets the new id.
 * A token that begins with `prefix` is also the piece behind the prefix. Tokens that are empty or
 * longer than UINT16_MAX are left out: no word has such pieces. */
void vocabulary_add(struct vocabulary *v, const char *token, size_t length, int32_t id,
                    const char *prefix);

/* The id of a text whose hash is known, or -1. */
int32_t vocabulary_lookup(const struct vocabulary *v, uint32_t hash, bool continuing,
                          const char *text, size_t length);
/* The id of a token by its whole text, or -1. */
int32_t vocabulary_find(const struct vocabulary *v, const char *token, size_t length);

#endif
