/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding: text flows through one character at a time and nothing is stored but the word that is
 * being read, so that a long text costs no memory and stops where the ids are full.
 */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer_internal.h"
#include "engine/tokenizer_unicode.h"

/* A character that waits for its place in the canonical order. */
struct waiting {
    uint32_t c;
    uint32_t combining_class;
};

struct tokenizer_scratch {
    /* The word so far. Beyond max_word characters only `characters` grows. */
    unsigned char *word;
    uint32_t length;
    size_t characters;

    /* While a word is split: its pieces, and the prefixes that may be the next. */
    int32_t *pieces;
    uint32_t *hashes, *ends;

    /* Combining characters behind the last starter, sorted; only those that survive. */
    struct waiting *waiting;
    uint32_t n_waiting;

    /* The normal form of a stretch of text, where added tokens are sought in it. */
    char *text;
    size_t text_length, text_capacity;
};

/* One call of tokenizer_encode(). */
struct run {
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    int32_t *ids;
    uint32_t n, limit;
    bool full;      /* there was a token that had no room */
    bool collects;  /* characters go to scratch->text, not to words */
    bool no_memory; /* while collecting */
};

/* --------------------------------------------------------------------------------------- words */

static void add_ids(struct run *run, const int32_t *ids, uint32_t n)
{
    uint32_t room = run->limit - run->n;
    if (n > room) {
        run->full = true;
        n = room;
    }
    for (uint32_t i = 0; i < n; i++)
        run->ids[run->n + i] = ids[i];
    run->n += n;
}

/* The longest piece at the word's byte `start`: its id and its end, or -1. */
static int32_t longest_piece(const struct run *run, uint32_t start, uint32_t *end)
{
    const struct tokenizer_scratch *scratch = run->scratch;
    const struct vocabulary *vocabulary = &run->tokenizer->vocabulary;
    const unsigned char *word = scratch->word;
    bool continuing = start > 0;
    uint32_t stop = scratch->length;
    if (stop - start > vocabulary->longest[continuing])
        stop = start + vocabulary->longest[continuing];

    uint32_t hash = vocabulary_hash_start(continuing), n = 0;
    for (uint32_t at = start; at < stop; at++) {
        hash = vocabulary_hash_byte(hash, word[at]);
        /* A piece ends where a character does. */
        if (at + 1 == scratch->length || (word[at + 1] & 0xC0) != 0x80) {
            scratch->hashes[n] = hash;
            scratch->ends[n++] = at + 1;
        }
    }
    while (n-- > 0) {
        int32_t id = vocabulary_lookup(vocabulary, scratch->hashes[n], continuing,
                                       (const char *)word + start, scratch->ends[n] - start);
        if (id >= 0) {
            *end = scratch->ends[n];
            return id;
        }
    }
    return -1;
}

static void end_word(struct run *run)
{
    struct tokenizer_scratch *scratch = run->scratch;
    if (scratch->characters == 0)
        return;
    uint32_t n = 0, at = 0;
    bool known = scratch->characters <= run->tokenizer->max_word;
    while (known && at < scratch->length) {
        int32_t id = longest_piece(run, at, &at);
        if (id < 0)
            known = false;
        else
            scratch->pieces[n++] = id;
    }
    if (known)
        add_ids(run, scratch->pieces, n);
    else
        add_ids(run, &run->tokenizer->specials.unk, 1);
    scratch->length = 0;
    scratch->characters = 0;
}

static inline void put_in_word(struct run *run, uint32_t c)
{
    struct tokenizer_scratch *scratch = run->scratch;
    if (scratch->characters < run->tokenizer->max_word)
        scratch->length += utf8_put(scratch->word + scratch->length, c);
    scratch->characters++;
}

static inline uint8_t classes_of(const struct tokenizer *tokenizer, uint32_t c)
{
    if (c < 0x10000)
        return tokenizer->classes[c];
    return character_classify(c) & tokenizer->meaning;
}

/* A normalized character goes to its word. */
static void split(struct run *run, uint32_t c)
{
    uint8_t classes = classes_of(run->tokenizer, c);
    if (classes & CHARACTER_SPACE) {
        end_word(run);
    } else if (classes & CHARACTER_PUNCTUATION) {
        end_word(run);
        put_in_word(run, c);
        end_word(run);
    } else {
        put_in_word(run, c);
    }
}

/* ------------------------------------------------------------------------------- normalization */

static void collect(struct run *run, uint32_t c)
{
    struct tokenizer_scratch *scratch = run->scratch;
    if (scratch->text_capacity - scratch->text_length < 4) {
        size_t capacity = scratch->text_capacity * 2 + 256;
        char *text = realloc(scratch->text, capacity);
        if (text == NULL) {
            run->no_memory = true;
            return;
        }
        scratch->text = text;
        scratch->text_capacity = capacity;
    }
    scratch->text_length += utf8_put((unsigned char *)scratch->text + scratch->text_length, c);
}

static void emit(struct run *run, uint32_t c)
{
    if (run->collects)
        collect(run, c);
    else
        split(run, c);
}

static void lower(struct run *run, uint32_t c)
{
    if (!(classes_of(run->tokenizer, c) & CHARACTER_UPPER)) {
        emit(run, c);
        return;
    }
    uint32_t lowered[2];
    unsigned n = character_lower(c, lowered);
    for (unsigned i = 0; i < n; i++)
        emit(run, lowered[i]);
}

static void flush_waiting(struct run *run)
{
    struct tokenizer_scratch *scratch = run->scratch;
    for (uint32_t i = 0; i < scratch->n_waiting; i++)
        lower(run, scratch->waiting[i].c);
    scratch->n_waiting = 0;
}

/* Keeps a combining character until the next starter, in the order of their classes. Characters of
 * one class stay in the order of the text. */
static void wait_in_order(struct run *run, uint32_t c, uint32_t combining_class)
{
    struct tokenizer_scratch *scratch = run->scratch;
    /* So many of them are a word that is unknown in any order. */
    if (scratch->n_waiting > run->tokenizer->max_word)
        flush_waiting(run);
    uint32_t i = scratch->n_waiting++;
    for (; i > 0 && scratch->waiting[i - 1].combining_class > combining_class; i--)
        scratch->waiting[i] = scratch->waiting[i - 1];
    scratch->waiting[i] = (struct waiting){c, combining_class};
}

/* A decomposed character: to its place in the canonical order, unless it is an accent. */
static void strip(struct run *run, uint32_t c)
{
    uint8_t classes = classes_of(run->tokenizer, c);
    unsigned combining_class = classes & CHARACTER_DECOMPOSES ? character_combining_class(c) : 0;
    if (combining_class == 0)
        flush_waiting(run);
    if (classes & CHARACTER_MARK)
        return;
    if (combining_class == 0)
        lower(run, c);
    else
        wait_in_order(run, c, combining_class);
}

/* A character of the text whose classes ask for something. */
static void normalize(struct run *run, uint32_t c, uint8_t classes)
{
    bool apart = classes & CHARACTER_IDEOGRAPH;
    if (classes & CHARACTER_CONTROL)
        return;
    if (classes & CHARACTER_BLANK)
        c = ' ';
    if (apart) {
        flush_waiting(run);
        emit(run, ' ');
    }
    if (!run->tokenizer->strip) {
        lower(run, c);
    } else if (classes & CHARACTER_DECOMPOSES) {
        uint32_t decomposed[CHARACTER_MAX_DECOMPOSED];
        unsigned n = character_decompose(c, decomposed);
        for (unsigned i = 0; i < n; i++)
            strip(run, decomposed[i]);
    } else {
        strip(run, c);
    }
    if (apart) {
        flush_waiting(run);
        emit(run, ' ');
    }
}

static inline void take_character(struct run *run, uint32_t c)
{
    uint8_t classes = classes_of(run->tokenizer, c);
    if (classes != 0 || run->scratch->n_waiting > 0)
        normalize(run, c, classes);
    else
        emit(run, c);
}

/* ------------------------------------------------------------------------------- added tokens */

/* The character that ends at `at`. */
static uint32_t character_before(const char *text, const char *at)
{
    const unsigned char *p = (const unsigned char *)at - 1;
    while ((const char *)p > text && (*p & 0xC0) == 0x80)
        p--;
    return utf8_next(&p);
}

static bool stands_alone(const char *text, const char *end, const char *at, size_t length)
{
    const unsigned char *behind = (const unsigned char *)at + length;
    if (at > text && character_is_word(character_before(text, at)))
        return false;
    return (const char *)behind == end || !character_is_word(utf8_next(&behind));
}

/* The added token at `at`, or NULL. A token that may not stand here takes its text with it all the
 * same: nothing is sought again before `*blocked`, as Hugging Face has it. */
static const struct added_token *added_token_at(const struct added_tokens *set, const char *text,
                                                const char *end, const char *at,
                                                const char **blocked)
{
    if (!set->begins[(unsigned char)*at] || at < *blocked)
        return NULL;
    const struct added_token *token = added_tokens_match(set, at, (size_t)(end - at));
    if (token == NULL)
        return NULL;
    *blocked = at + token->length;
    if (token->single_word && !stands_alone(text, end, at, token->length))
        return NULL;
    return token;
}

static void add_added(struct run *run, const struct added_token *token)
{
    flush_waiting(run);
    end_word(run);
    add_ids(run, &token->id, 1);
}

/* Splits what was collected, between the added tokens that are found in it. */
static void split_collected(struct run *run)
{
    struct tokenizer_scratch *scratch = run->scratch;
    flush_waiting(run);
    run->collects = false;
    const char *text = scratch->text, *at = text, *blocked = text;
    const char *end = text != NULL ? text + scratch->text_length : NULL;
    while (at < end && !run->full) {
        const struct added_token *token =
            added_token_at(&run->tokenizer->normalized, text, end, at, &blocked);
        if (token != NULL) {
            add_added(run, token);
            at += token->length;
            continue;
        }
        const unsigned char *next = (const unsigned char *)at;
        split(run, utf8_next(&next));
        at = (const char *)next;
    }
    end_word(run);
    scratch->text_length = 0;
    run->collects = true;
}

/* -------------------------------------------------------------------------------------- texts */

/* The bytes from `at` that only have to be put in the word. */
static const char *take_plain(struct run *run, const char *at, const char *end)
{
    const unsigned char *plain = run->tokenizer->plain;
    struct tokenizer_scratch *scratch = run->scratch;
    uint32_t max_word = run->tokenizer->max_word;
    uint32_t length = scratch->length;
    size_t characters = scratch->characters;
    unsigned char c;
    for (; at < end && (c = plain[(unsigned char)*at]) != 0; at++, characters++)
        if (characters < max_word)
            scratch->word[length++] = c;
    scratch->length = length;
    scratch->characters = characters;
    return at;
}

static void take_text(struct run *run, const char *text, size_t length)
{
    const struct tokenizer *tokenizer = run->tokenizer;
    struct tokenizer_scratch *scratch = run->scratch;
    const char *end = text + length, *at = text, *blocked = text;
    run->collects = tokenizer->normalized.count > 0;
    while (at < end && !run->full && !run->no_memory) {
        if (scratch->n_waiting == 0 && !run->collects) {
            at = take_plain(run, at, end);
            if (at == end)
                break;
        }
        const struct added_token *token = added_token_at(&tokenizer->raw, text, end, at, &blocked);
        if (token != NULL) {
            if (run->collects)
                split_collected(run);
            add_added(run, token);
            at += token->length;
            continue;
        }
        const unsigned char *next = (const unsigned char *)at;
        take_character(run, utf8_next(&next));
        at = (const char *)next;
    }
    if (run->collects && !run->no_memory)
        split_collected(run);
    flush_waiting(run);
    end_word(run);
}

static void reset(struct tokenizer_scratch *scratch)
{
    scratch->length = 0;
    scratch->characters = 0;
    scratch->n_waiting = 0;
    scratch->text_length = 0;
}

int tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                     const char *text, size_t length, uint32_t max_tokens, int32_t *ids,
                     uint32_t *n_ids, bool *truncated, libsched_error *err)
{
    *n_ids = 0;
    *truncated = false;
    if (max_tokens < 2)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "max_tokens is %u, it has to be at least 2: [CLS] and [SEP]",
                                  max_tokens);
    size_t valid = utf8_check(text, length);
    if (valid != length)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "the text is not UTF-8 at byte %zu (0x%02x)", valid,
                                  (unsigned char)text[valid]);

    reset(scratch);
    struct run run = {
        .tokenizer = tokenizer, .scratch = scratch, .ids = ids + 1, .limit = max_tokens - 2};
    ids[0] = tokenizer->specials.cls;
    take_text(&run, text, length);
    if (run.no_memory)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to normalize %zu bytes of text",
                                  length);
    ids[run.n + 1] = tokenizer->specials.sep;
    *n_ids = run.n + 2;
    *truncated = run.full;
    return LIBSCHED_OK;
}

int tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t length,
                        char **out, size_t *out_length, libsched_error *err)
{
    *out = NULL;
    struct tokenizer_scratch *scratch;
    int status = tokenizer_scratch_open(&scratch, tokenizer, err);
    if (status != LIBSCHED_OK)
        return status;
    struct run run = {.tokenizer = tokenizer, .scratch = scratch, .collects = true};
    const unsigned char *at = (const unsigned char *)text, *end = at + length;
    while (at < end)
        take_character(&run, utf8_next(&at));
    flush_waiting(&run);
    *out = scratch->text;
    *out_length = scratch->text_length;
    scratch->text = NULL;
    tokenizer_scratch_close(scratch);
    if (run.no_memory) {
        free(*out);
        *out = NULL;
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    }
    return LIBSCHED_OK;
}

/* ----------------------------------------------------------------------------- opening, closing */

void tokenizer_prepare_classes(struct tokenizer *tokenizer)
{
    unsigned meaning = CHARACTER_SPACE | CHARACTER_PUNCTUATION;
    if (tokenizer->clean)
        meaning |= CHARACTER_CONTROL | CHARACTER_BLANK;
    if (tokenizer->ideographs)
        meaning |= CHARACTER_IDEOGRAPH;
    if (tokenizer->strip)
        meaning |= CHARACTER_MARK | CHARACTER_DECOMPOSES;
    if (tokenizer->lower)
        meaning |= CHARACTER_UPPER;
    tokenizer->meaning = (uint8_t)meaning;
    for (uint32_t c = 0; c < 0x10000; c++)
        tokenizer->classes[c] = (uint8_t)(character_classify(c) & meaning);

    for (uint32_t c = 1; c < 0x80; c++) {
        uint32_t lowered[2] = {c};
        if (tokenizer->classes[c] & CHARACTER_UPPER)
            character_lower(c, lowered);
        if ((tokenizer->classes[c] & ~CHARACTER_UPPER) == 0 && !tokenizer->raw.begins[c])
            tokenizer->plain[c] = (unsigned char)lowered[0];
    }
}

int tokenizer_scratch_open(struct tokenizer_scratch **out, const struct tokenizer *tokenizer,
                           libsched_error *err)
{
    *out = NULL;
    struct tokenizer_scratch *scratch = calloc(1, sizeof(*scratch));
    if (scratch == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    size_t n = tokenizer->max_word;
    scratch->word = malloc(4 * n);
    scratch->pieces = malloc(n * sizeof(*scratch->pieces));
    scratch->hashes = malloc(n * sizeof(*scratch->hashes));
    scratch->ends = malloc(n * sizeof(*scratch->ends));
    scratch->waiting = malloc((n + 1) * sizeof(*scratch->waiting));
    if (scratch->word == NULL || scratch->pieces == NULL || scratch->hashes == NULL ||
        scratch->ends == NULL || scratch->waiting == NULL) {
        tokenizer_scratch_close(scratch);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    }
    *out = scratch;
    return LIBSCHED_OK;
}

void tokenizer_scratch_close(struct tokenizer_scratch *scratch)
{
    if (scratch == NULL)
        return;
    free(scratch->word);
    free(scratch->pieces);
    free(scratch->hashes);
    free(scratch->ends);
    free(scratch->waiting);
    free(scratch->text);
    free(scratch);
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    vocabulary_free(&tokenizer->vocabulary);
    added_tokens_free(&tokenizer->raw);
    added_tokens_free(&tokenizer->normalized);
    free(tokenizer);
}

const struct tokenizer_specials *tokenizer_special_ids(const struct tokenizer *tokenizer)
{
    return &tokenizer->specials;
}

uint32_t tokenizer_id_limit(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.id_limit;
}
