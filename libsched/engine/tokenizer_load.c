/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a tokenizer from a model's folder. What this tokenizer does not do is refused by name,
 * so that no model gets ids that its training did not see.
 */
#include "engine/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/json.h"
#include "engine/tokenizer_internal.h"
#include "engine/tokenizer_unicode.h"

#define TOKENIZER "tokenizer.json"
#define CONFIG "tokenizer_config.json"
#define VOCABULARY "vocab.txt"

#define MAX_FILE ((size_t)64 << 20)
#define MAX_ADDED 65536
#define DEFAULT_MAX_WORD 100
#define DEFAULT_PREFIX "##"

static int bad(libsched_error *err, const char *file, const char *what)
{
    return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: %s", file, what);
}

static int no_memory(libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the tokenizer");
}

/* The id of a token that the model cannot do without. */
static int find_token(const struct tokenizer *tokenizer, const char *file, const char *role,
                      const char *token, int32_t *id, libsched_error *err)
{
    *id = vocabulary_find(&tokenizer->vocabulary, token, strlen(token));
    if (*id >= 0)
        return LIBSCHED_OK;
    char quoted[CATALOG_QUOTE_SIZE];
    return libsched_error_set(err, LIBSCHED_EBADMODEL,
                              "%s: the vocabulary has no \"%s\", which is the %s token", file,
                              catalog_quote(quoted, token), role);
}

/* Options of BertNormalizer, by the names that the file gives them. */
static int read_normalization(struct tokenizer *tokenizer, const json_t *object, const char *file,
                              const char *ideographs, const char *lowercase, libsched_error *err)
{
    tokenizer->clean = tokenizer->ideographs = tokenizer->lower = true;
    int status = catalog_json_bool(object, file, "clean_text", &tokenizer->clean, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(object, file, ideographs, &tokenizer->ideographs, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(object, file, lowercase, &tokenizer->lower, err);
    /* Where the file leaves it open, accents go when case does. */
    tokenizer->strip = tokenizer->lower;
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(object, file, "strip_accents", &tokenizer->strip, err);
    return status;
}

/* ------------------------------------------------------------------------------ tokenizer.json */

/* The object of a key whose "type" has to be `type`. NULL where the key is absent or null, which
 * `optional` allows. */
static int get_typed(const json_t *root, const char *key, const char *type, bool optional,
                     const json_t **out, libsched_error *err)
{
    *out = json_object_get(root, key);
    if (*out == NULL || json_is_null(*out)) {
        *out = NULL;
        return optional ? LIBSCHED_OK : catalog_json_require(root, TOKENIZER, key, err);
    }
    const char *got = json_string_value(json_object_get(*out, "type"));
    if (got != NULL && strcmp(got, type) == 0)
        return LIBSCHED_OK;
    char quoted[CATALOG_QUOTE_SIZE];
    return libsched_error_set(err, LIBSCHED_EBADMODEL,
                              TOKENIZER ": \"%s\" is of type \"%s\", only \"%s\" is supported", key,
                              catalog_quote(quoted, got != NULL ? got : "(none)"), type);
}

static int read_vocabulary(struct tokenizer *tokenizer, const json_t *vocab, const char *prefix,
                           libsched_error *err)
{
    if (!json_is_object(vocab))
        return bad(err, TOKENIZER, "\"model\": \"vocab\" is missing or not an object");
    const char *token;
    json_t *value;
    size_t size = 0;
    json_object_foreach((json_t *)vocab, token, value) size += strlen(token);
    int status = vocabulary_init(&tokenizer->vocabulary, json_object_size(vocab), size, err);
    if (status != LIBSCHED_OK)
        return status;
    json_object_foreach((json_t *)vocab, token, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        char quoted[CATALOG_QUOTE_SIZE];
        if (id < 0 || id >= TOKENIZER_MAX_ID)
            return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                      TOKENIZER ": the id of \"%s\" is not within 0 to %" PRId64,
                                      catalog_quote(quoted, token), TOKENIZER_MAX_ID - 1);
        vocabulary_add(&tokenizer->vocabulary, token, strlen(token), (int32_t)id, prefix);
    }
    return LIBSCHED_OK;
}

static int read_model(struct tokenizer *tokenizer, const json_t *root, libsched_error *err)
{
    const json_t *model;
    const char *prefix = DEFAULT_PREFIX, *unk = "[UNK]";
    uint64_t max_word = DEFAULT_MAX_WORD;
    int status = get_typed(root, "model", "WordPiece", false, &model, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_string(model, TOKENIZER, "continuing_subword_prefix", &prefix, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_string(model, TOKENIZER, "unk_token", &unk, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(model, TOKENIZER, "max_input_chars_per_word", 1,
                                   TOKENIZER_MAX_WORD, &max_word, err);
    if (status == LIBSCHED_OK)
        status = read_vocabulary(tokenizer, json_object_get(model, "vocab"), prefix, err);
    if (status == LIBSCHED_OK)
        status = find_token(tokenizer, TOKENIZER, "unknown", unk, &tokenizer->specials.unk, err);
    tokenizer->max_word = (uint32_t)max_word;
    return status;
}

static int read_normalizer(struct tokenizer *tokenizer, const json_t *root, libsched_error *err)
{
    const json_t *normalizer;
    int status = get_typed(root, "normalizer", "BertNormalizer", true, &normalizer, err);
    if (status != LIBSCHED_OK || normalizer == NULL)
        return status;
    return read_normalization(tokenizer, normalizer, TOKENIZER, "handle_chinese_chars", "lowercase",
                              err);
}

/* One element of "added_tokens". */
struct added {
    const char *content;
    int32_t id;
    bool normalized, single_word;
};

static int read_added(const struct tokenizer *tokenizer, const json_t *entry, struct added *out,
                      libsched_error *err)
{
    uint64_t id = 0;
    if (!json_is_object(entry))
        return bad(err, TOKENIZER, "\"added_tokens\" holds something that is not an object");
    memset(out, 0, sizeof(*out));
    int status = catalog_json_require(entry, TOKENIZER, "content", err);
    if (status == LIBSCHED_OK)
        status = catalog_json_string(entry, TOKENIZER, "content", &out->content, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_require(entry, TOKENIZER, "id", err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(entry, TOKENIZER, "id", 0, TOKENIZER_MAX_ID - 1, &id, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(entry, TOKENIZER, "normalized", &out->normalized, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(entry, TOKENIZER, "single_word", &out->single_word, err);
    if (status != LIBSCHED_OK)
        return status;
    out->id = (int32_t)id;
    int32_t known = vocabulary_find(&tokenizer->vocabulary, out->content, strlen(out->content));
    char quoted[CATALOG_QUOTE_SIZE];
    if (known >= 0 && known != out->id)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  TOKENIZER
                                  ": added token \"%s\" has id %d, the vocabulary says %d",
                                  catalog_quote(quoted, out->content), out->id, known);
    return LIBSCHED_OK;
}

/* Puts the added tokens with that value of "normalized" in their set. */
static int read_added_tokens(struct tokenizer *tokenizer, const json_t *list, bool normalized,
                             libsched_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct added added;
        int status = read_added(tokenizer, json_array_get(list, i), &added, err);
        if (status != LIBSCHED_OK)
            return status;
        if (added.normalized != normalized)
            continue;
        const char *text = added.content;
        size_t length = strlen(text);
        char *normal = NULL;
        if (normalized) {
            status = tokenizer_normalize(tokenizer, text, length, &normal, &length, err);
            if (status != LIBSCHED_OK)
                return status;
            text = normal;
        }
        struct added_tokens *set = normalized ? &tokenizer->normalized : &tokenizer->raw;
        bool added_it = added_tokens_add(set, text, length, added.id, added.single_word);
        free(normal);
        if (!added_it)
            return no_memory(err);
        if ((uint32_t)added.id >= tokenizer->vocabulary.id_limit)
            tokenizer->vocabulary.id_limit = (uint32_t)added.id + 1;
    }
    added_tokens_sort(normalized ? &tokenizer->normalized : &tokenizer->raw);
    return LIBSCHED_OK;
}

/* The id of a special token in a template: template -> "special_tokens" -> name -> "ids"[0]. */
static int template_id(const json_t *processor, const json_t *piece, int32_t *id,
                       libsched_error *err)
{
    const json_t *special = json_object_get(piece, "SpecialToken");
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *tokens = json_object_get(processor, "special_tokens");
    const json_t *ids = name != NULL ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
    const json_t *first = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(first) || json_integer_value(first) < 0 ||
        json_integer_value(first) >= TOKENIZER_MAX_ID)
        return bad(err, TOKENIZER,
                   "\"post_processor\": a special token of the template has not exactly one id");
    *id = (int32_t)json_integer_value(first);
    return LIBSCHED_OK;
}

/* {"type": "TemplateProcessing", "single": [[CLS], A, [SEP]], ...} */
static int read_template(struct tokenizer *tokenizer, const json_t *processor, libsched_error *err)
{
    const json_t *single = json_object_get(processor, "single");
    if (json_array_size(single) != 3 ||
        json_object_get(json_array_get(single, 1), "Sequence") == NULL)
        return bad(err, TOKENIZER,
                   "\"post_processor\": only templates of one token, the text and one token are "
                   "supported");
    int status = template_id(processor, json_array_get(single, 0), &tokenizer->specials.cls, err);
    if (status == LIBSCHED_OK)
        status = template_id(processor, json_array_get(single, 2), &tokenizer->specials.sep, err);
    return status;
}

/* {"type": "BertProcessing", "cls": ["[CLS]", 101], "sep": ["[SEP]", 102]} */
static int read_bert_processing(struct tokenizer *tokenizer, const json_t *processor,
                                libsched_error *err)
{
    const struct {
        const char *key;
        int32_t *id;
    } ends[] = {{"cls", &tokenizer->specials.cls}, {"sep", &tokenizer->specials.sep}};
    for (size_t i = 0; i < 2; i++) {
        const json_t *id = json_array_get(json_object_get(processor, ends[i].key), 1);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOKENIZER_MAX_ID)
            return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                      TOKENIZER ": \"post_processor\": \"%s\" has no id",
                                      ends[i].key);
        *ends[i].id = (int32_t)json_integer_value(id);
    }
    return LIBSCHED_OK;
}

static int read_post_processor(struct tokenizer *tokenizer, const json_t *root, libsched_error *err)
{
    const json_t *processor = json_object_get(root, "post_processor");
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (type == NULL)
        return bad(err, TOKENIZER,
                   "\"post_processor\" is missing: nothing says which tokens begin "
                   "and end a text");
    int status;
    if (strcmp(type, "TemplateProcessing") == 0) {
        status = read_template(tokenizer, processor, err);
    } else if (strcmp(type, "BertProcessing") == 0) {
        status = read_bert_processing(tokenizer, processor, err);
    } else {
        char quoted[CATALOG_QUOTE_SIZE];
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  TOKENIZER ": \"post_processor\" is of type \"%s\", supported are "
                                            "\"TemplateProcessing\" and \"BertProcessing\"",
                                  catalog_quote(quoted, type));
    }
    uint32_t limit = tokenizer->vocabulary.id_limit;
    if (status == LIBSCHED_OK &&
        ((uint32_t)tokenizer->specials.cls >= limit || (uint32_t)tokenizer->specials.sep >= limit))
        status = bad(err, TOKENIZER, "\"post_processor\" names an id that no token has");
    return status;
}

static int load_json(struct tokenizer *tokenizer, const json_t *root, libsched_error *err)
{
    const json_t *pre_tokenizer, *added = json_object_get(root, "added_tokens");
    if (json_array_size(added) > MAX_ADDED)
        return bad(err, TOKENIZER, "more than 65536 \"added_tokens\", which is the limit");
    int status = read_normalizer(tokenizer, root, err);
    if (status == LIBSCHED_OK)
        status = get_typed(root, "pre_tokenizer", "BertPreTokenizer", false, &pre_tokenizer, err);
    if (status == LIBSCHED_OK)
        status = read_model(tokenizer, root, err);
    if (status == LIBSCHED_OK)
        status = read_added_tokens(tokenizer, added, false, err);
    if (status != LIBSCHED_OK)
        return status;
    /* Tokens that are sought in normalized text are normalized themselves first. */
    tokenizer_prepare_classes(tokenizer);
    status = read_added_tokens(tokenizer, added, true, err);
    if (status == LIBSCHED_OK)
        status = read_post_processor(tokenizer, root, err);
    tokenizer->specials.pad = vocabulary_find(&tokenizer->vocabulary, "[PAD]", 5);
    tokenizer->specials.mask = vocabulary_find(&tokenizer->vocabulary, "[MASK]", 6);
    return status;
}

/* ----------------------------------------------------------------------------------- vocab.txt */

/* One token a line; its number is its id. */
static int parse_vocabulary(struct tokenizer *tokenizer, const char *text, size_t length,
                            libsched_error *err)
{
    size_t lines = 1;
    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    size_t valid = utf8_check(text, length);
    if (valid != length)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, VOCABULARY ": not UTF-8 at byte %zu",
                                  valid);
    int status = vocabulary_init(&tokenizer->vocabulary, lines, length, err);
    if (status != LIBSCHED_OK)
        return status;
    const char *at = text, *end = text + length;
    for (int32_t id = 0; at < end; id++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        size_t n = (size_t)(stop - at);
        while (n > 0 && (at[n - 1] == '\r' || at[n - 1] == ' ' || at[n - 1] == '\t'))
            n--;
        vocabulary_add(&tokenizer->vocabulary, at, n, id, DEFAULT_PREFIX);
        at = newline != NULL ? newline + 1 : end;
    }
    return LIBSCHED_OK;
}

/* A special token's text in tokenizer_config.json: a string, or an object with "content". */
static int special_text(const json_t *config, const char *key, const char **text,
                        libsched_error *err)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        return catalog_json_string(value, CONFIG, "content", text, err);
    return catalog_json_string(config, CONFIG, key, text, err);
}

static int read_specials(struct tokenizer *tokenizer, const json_t *config, libsched_error *err)
{
    struct {
        const char *key, *role, *text;
        int32_t *id;
        bool needed;
    } specials[] = {
        {"cls_token", "first", "[CLS]", &tokenizer->specials.cls, true},
        {"sep_token", "last", "[SEP]", &tokenizer->specials.sep, true},
        {"unk_token", "unknown", "[UNK]", &tokenizer->specials.unk, true},
        {"pad_token", "padding", "[PAD]", &tokenizer->specials.pad, false},
        {"mask_token", "mask", "[MASK]", &tokenizer->specials.mask, false},
    };
    for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++) {
        const char *text = specials[i].text;
        int status = special_text(config, specials[i].key, &text, err);
        if (status != LIBSCHED_OK)
            return status;
        status = find_token(tokenizer, VOCABULARY, specials[i].role, text, specials[i].id, err);
        if (status != LIBSCHED_OK && !specials[i].needed)
            continue;
        if (status != LIBSCHED_OK)
            return status;
        if (!added_tokens_add(&tokenizer->raw, text, strlen(text), *specials[i].id, false))
            return no_memory(err);
    }
    added_tokens_sort(&tokenizer->raw);
    return LIBSCHED_OK;
}

static int load_vocabulary(struct tokenizer *tokenizer, const char *folder, libsched_error *err)
{
    json_t *config = NULL;
    char *text;
    size_t length;
    int status = catalog_file_read(&text, &length, folder, VOCABULARY, MAX_FILE, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_load_optional(&config, folder, CONFIG, MAX_FILE, err);
    if (status == LIBSCHED_OK)
        status = read_normalization(tokenizer, config, CONFIG, "tokenize_chinese_chars",
                                    "do_lower_case", err);
    if (status == LIBSCHED_OK)
        status = parse_vocabulary(tokenizer, text, length, err);
    if (status == LIBSCHED_OK)
        status = read_specials(tokenizer, config, err);
    tokenizer->max_word = DEFAULT_MAX_WORD;
    tokenizer_prepare_classes(tokenizer);
    json_decref(config);
    catalog_file_free(text);
    return status;
}

int tokenizer_open(struct tokenizer **out, const char *folder, libsched_error *err)
{
    *out = NULL;
    struct tokenizer *tokenizer = calloc(1, sizeof(*tokenizer));
    if (tokenizer == NULL)
        return no_memory(err);
    tokenizer->specials = (struct tokenizer_specials){-1, -1, -1, -1, -1};

    int status;
    if (catalog_file_exists(folder, TOKENIZER)) {
        json_t *root;
        status = catalog_json_load(&root, folder, TOKENIZER, MAX_FILE, err);
        if (status == LIBSCHED_OK)
            status = load_json(tokenizer, root, err);
        json_decref(root);
    } else {
        status = load_vocabulary(tokenizer, folder, err);
    }
    if (status != LIBSCHED_OK) {
        tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LIBSCHED_OK;
}
