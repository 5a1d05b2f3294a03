/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of CPUs in the kernel's notation, "0-3,8". hwloc's own reader takes more than that (open
 * ranges, other bases) and stops silently at what it does not understand.
 */
#include "topology/internal.h"

#include <ctype.h>

/* More than any Linux can be built for (NR_CPUS is at most 8192). */
#define CPU_LIMIT 65536

/* Reads a decimal number below CPU_LIMIT at *at, and moves *at behind it; -1 where there is none.
 */
static int read_number(const char **at, const char *end)
{
    const char *p = *at;
    int value = 0;
    if (p == end || !isdigit((unsigned char)*p))
        return -1;
    for (; p < end && isdigit((unsigned char)*p); p++) {
        value = value * 10 + (*p - '0');
        if (value >= CPU_LIMIT)
            return -1;
    }
    *at = p;
    return value;
}

/* One element, "3" or "0-3". */
static int read_range(const char **at, const char *end, hwloc_bitmap_t set)
{
    int first = read_number(at, end);
    int last = first;
    if (first >= 0 && *at < end && **at == '-') {
        (*at)++;
        last = read_number(at, end);
    }
    if (first < 0 || last < first)
        return LIBSCHED_EINVAL;
    if (hwloc_bitmap_set_range(set, (unsigned)first, last) != 0)
        return LIBSCHED_ENOMEM;
    return LIBSCHED_OK;
}

int topology_parse_cpu_list(const char *list, size_t length, hwloc_bitmap_t set,
                            libsched_error *err)
{
    const char *at = list;
    const char *end = list + length;

    hwloc_bitmap_zero(set);
    int rc = read_range(&at, end, set);
    while (rc == LIBSCHED_OK && at < end) {
        if (*at++ != ',')
            rc = LIBSCHED_EINVAL;
        else
            rc = read_range(&at, end, set);
    }
    if (rc == LIBSCHED_ENOMEM)
        return libsched_error_set(err, rc, "no memory for a set of CPUs");
    if (rc != LIBSCHED_OK)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "\"%.*s\" is not a list of CPUs such as \"0-3,8\"",
                                  length > 100 ? 100 : (int)length, list);
    return LIBSCHED_OK;
}
