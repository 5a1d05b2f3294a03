/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer_vocabulary.h"

#include <stdlib.h>
#include <string.h>

/* Spreads what the last bytes of a text have not yet mixed into the low bits. */
static uint32_t spread(uint32_t hash)
{
    return hash ^ hash >> 15;
}

int vocabulary_init(struct vocabulary *v, size_t tokens, size_t text_size, libsched_error *err)
{
    memset(v, 0, sizeof(*v));
    if (tokens > TOKENIZER_MAX_VOCABULARY)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "a vocabulary of %zu tokens, at most %zu are accepted", tokens,
                                  TOKENIZER_MAX_VOCABULARY);
    if (text_size > UINT32_MAX)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "the vocabulary is over 4 GiB");
    /* Each token may be two pieces, and half the slots stay free. */
    size_t slots = 64;
    while (slots < tokens * 4)
        slots *= 2;
    v->slots = calloc(slots, sizeof(*v->slots));
    v->text = malloc(text_size + 1);
    if (v->slots == NULL || v->text == NULL) {
        vocabulary_free(v);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %zu tokens", tokens);
    }
    v->mask = (uint32_t)slots - 1;
    v->text_capacity = text_size;
    return LIBSCHED_OK;
}

void vocabulary_free(struct vocabulary *v)
{
    free(v->slots);
    free(v->text);
    memset(v, 0, sizeof(*v));
}

static bool is_it(const struct vocabulary *v, const struct vocabulary_slot *slot, uint32_t hash,
                  bool continuing, const char *text, size_t length)
{
    return slot->hash == hash && slot->length == length && slot->continuing == continuing &&
           memcmp(v->text + slot->offset, text, length) == 0;
}

/* The slot of a text, or the free one where it would be. */
static struct vocabulary_slot *slot_of(const struct vocabulary *v, uint32_t hash, bool continuing,
                                       const char *text, size_t length)
{
    uint32_t i = spread(hash) & v->mask;
    while (v->slots[i].length != 0 && !is_it(v, &v->slots[i], hash, continuing, text, length))
        i = (i + 1) & v->mask;
    return &v->slots[i];
}

int32_t vocabulary_lookup(const struct vocabulary *v, uint32_t hash, bool continuing,
                          const char *text, size_t length)
{
    const struct vocabulary_slot *slot = slot_of(v, hash, continuing, text, length);
    return slot->length != 0 ? slot->id : -1;
}

static uint32_t hash_text(bool continuing, const char *text, size_t length)
{
    uint32_t hash = vocabulary_hash_start(continuing);
    for (size_t i = 0; i < length; i++)
        hash = vocabulary_hash_byte(hash, (unsigned char)text[i]);
    return hash;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *token, size_t length)
{
    return vocabulary_lookup(v, hash_text(false, token, length), false, token, length);
}

static void put(struct vocabulary *v, size_t offset, size_t length, bool continuing, int32_t id)
{
    if (length == 0)
        return;
    const char *text = v->text + offset;
    uint32_t hash = hash_text(continuing, text, length);
    *slot_of(v, hash, continuing, text, length) = (struct vocabulary_slot){
        hash, (uint32_t)offset, (uint16_t)length, continuing, id,
    };
    if (length > v->longest[continuing])
        v->longest[continuing] = (uint32_t)length;
}

void vocabulary_add(struct vocabulary *v, const char *token, size_t length, int32_t id,
                    const char *prefix)
{
    if ((uint32_t)id >= v->id_limit)
        v->id_limit = (uint32_t)id + 1;
    if (length == 0 || length > UINT16_MAX || length > v->text_capacity - v->text_size)
        return;
    size_t offset = v->text_size;
    memcpy(v->text + offset, token, length);
    v->text_size += length;
    put(v, offset, length, false, id);
    size_t skip = strlen(prefix);
    if (length > skip && memcmp(token, prefix, skip) == 0)
        put(v, offset + skip, length - skip, true, id);
}
