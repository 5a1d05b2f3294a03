/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer_added.h"

#include <stdlib.h>
#include <string.h>

bool added_tokens_add(struct added_tokens *set, const char *text, size_t length, int32_t id,
                      bool single_word)
{
    if (length == 0)
        return true; /* it would be everywhere */
    char *copy = malloc(length);
    struct added_token *grown = realloc(set->tokens, (set->count + 1) * sizeof(*grown));
    if (grown != NULL)
        set->tokens = grown;
    if (copy == NULL || grown == NULL) {
        free(copy);
        return false;
    }
    memcpy(copy, text, length);
    set->tokens[set->count++] = (struct added_token){copy, length, id, single_word};
    set->begins[(unsigned char)text[0]] = true;
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    size_t common = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, common);
    if (order != 0)
        return order;
    return x->length < y->length ? -1 : x->length > y->length;
}

void added_tokens_sort(struct added_tokens *set)
{
    if (set->count > 0)
        qsort(set->tokens, set->count, sizeof(*set->tokens), compare);
}

void added_tokens_free(struct added_tokens *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->tokens[i].text);
    free(set->tokens);
    memset(set, 0, sizeof(*set));
}

/* The first of tokens[low..high) whose byte `at` is at least `byte` (or above it). They agree on
 * the bytes before, and those that end before `at` are not among them. */
static size_t bound(const struct added_tokens *set, size_t low, size_t high, size_t at,
                    unsigned char byte, bool above)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        unsigned char got = (unsigned char)set->tokens[middle].text[at];
        if (got < byte || (above && got == byte))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct added_token *added_tokens_match(const struct added_tokens *set, const char *text,
                                             size_t length)
{
    const struct added_token *longest = NULL;
    size_t low = 0, high = set->count;
    /* The tokens that begin with the first `at` bytes of the text are a range, which each byte
     * narrows; the shortest of them stands first. */
    for (size_t at = 0; at < length && low < high; at++) {
        unsigned char byte = (unsigned char)text[at];
        low = bound(set, low, high, at, byte, false);
        high = bound(set, low, high, at, byte, true);
        while (low < high && set->tokens[low].length == at + 1)
            longest = &set->tokens[low++];
    }
    return longest;
}
