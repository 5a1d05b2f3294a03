/* SPDX-License-Identifier: Apache-2.0 */
#include "utf8.h"

#include <stdint.h>

/* The bytes of the well-formed sequence at `at` (Unicode 15, table 3-7); 0 where there is none. */
static size_t sequence(const uint8_t *at)
{
    static const struct {
        uint8_t first_min, first_max, size, second_min, second_max;
    } forms[] = {
        {0x01, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
        {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
        {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (at[0] < forms[i].first_min || at[0] > forms[i].first_max)
            continue;
        size_t n = 1;
        /* A NUL is no byte of a sequence, so this ends in time. */
        while (n < forms[i].size && at[n] >= (n == 1 ? forms[i].second_min : 0x80) &&
               at[n] <= (n == 1 ? forms[i].second_max : 0xbf))
            n++;
        return n == forms[i].size ? n : 0;
    }
    return 0;
}

void utf8_clean(char *out, size_t size, const char *text)
{
    const uint8_t *at = (const uint8_t *)text;
    size_t used = 0;

    while (*at != 0) {
        size_t n = sequence(at);
        size_t take = n > 0 ? n : 1;
        if (take > size - 1 - used)
            break;
        for (size_t i = 0; i < take; i++)
            out[used++] = n > 0 ? (char)at[i] : '?';
        at += take;
    }
    out[used] = '\0';
}
