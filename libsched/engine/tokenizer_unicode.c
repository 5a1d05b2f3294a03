/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer_unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "engine/tokenizer_categories.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool within(const struct tokenizer_range *ranges, size_t count, uint32_t c)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= ranges[low].first;
}

#define WITHIN(ranges, c) within(ranges, COUNT(ranges), c)

uint8_t character_classify(uint32_t c)
{
    uint32_t decomposed[CHARACTER_MAX_DECOMPOSED], lower[2];
    unsigned classes = 0;
    if (WITHIN(tokenizer_controls, c))
        classes |= CHARACTER_CONTROL;
    if (WITHIN(tokenizer_blanks, c))
        classes |= CHARACTER_BLANK;
    if (WITHIN(tokenizer_ideographs, c))
        classes |= CHARACTER_IDEOGRAPH;
    if (WITHIN(tokenizer_marks, c))
        classes |= CHARACTER_MARK;
    if (WITHIN(tokenizer_spaces, c))
        classes |= CHARACTER_SPACE;
    if (WITHIN(tokenizer_punctuation, c))
        classes |= CHARACTER_PUNCTUATION;
    if (character_combining_class(c) != 0 || character_decompose(c, decomposed) != 1 ||
        decomposed[0] != c)
        classes |= CHARACTER_DECOMPOSES;
    if (character_lower(c, lower) != 1 || lower[0] != c)
        classes |= CHARACTER_UPPER;
    return (uint8_t)classes;
}

unsigned character_decompose(uint32_t c, uint32_t out[CHARACTER_MAX_DECOMPOSED])
{
    utf8proc_int32_t found[CHARACTER_MAX_DECOMPOSED];
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(
        (utf8proc_int32_t)c, found, CHARACTER_MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
    if (n < 1 || n > CHARACTER_MAX_DECOMPOSED) {
        out[0] = c;
        return 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out[i] = (uint32_t)found[i];
    return (unsigned)n;
}

unsigned character_combining_class(uint32_t c)
{
    return (unsigned)utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
}

unsigned character_lower(uint32_t c, uint32_t out[2])
{
    /* The one character whose lower case is two, in every locale but Turkish ones. */
    if (c == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

bool character_is_word(uint32_t c)
{
    /* Other_Alphabetic beyond letters and marks, and Join_Control. */
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
        (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
        c == 0x200D)
        return true;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* The length of the character at `p`, or 0 where it is not UTF-8. */
static size_t check_one(const unsigned char *p, size_t left)
{
    unsigned char lead = p[0];
    size_t need = lead < 0x80   ? 1
                  : lead < 0xC2 ? 0
                  : lead < 0xE0 ? 2
                  : lead < 0xF0 ? 3
                  : lead < 0xF5 ? 4
                                : 0;
    if (need == 0 || need > left)
        return 0;
    for (size_t i = 1; i < need; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((lead == 0xE0 && p[1] < 0xA0) || (lead == 0xED && p[1] > 0x9F) ||
        (lead == 0xF0 && p[1] < 0x90) || (lead == 0xF4 && p[1] > 0x8F))
        return 0;
    return need;
}

size_t utf8_check(const char *text, size_t length)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t at = 0;
    while (at < length) {
        uint64_t eight;
        if (length - at >= sizeof(eight)) {
            memcpy(&eight, p + at, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof(eight);
                continue;
            }
        }
        size_t n = check_one(p + at, length - at);
        if (n == 0)
            return at;
        at += n;
    }
    return length;
}
