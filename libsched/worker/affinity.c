/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/affinity.h"

#include <ctype.h>
#include <sched.h>
#include <stdlib.h>

#define MAX_CPUS 65536

static int bad_list(const char *cpus, libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_EINVAL, "\"%s\" is not a list of cores like \"0-3,8\"",
                              cpus);
}

/* Reads a number below MAX_CPUS and moves on behind it; -1 where there is none. */
static long read_cpu(const char **at)
{
    if (!isdigit((unsigned char)**at))
        return -1;
    char *end;
    unsigned long value = strtoul(*at, &end, 10);
    *at = end;
    return value < MAX_CPUS ? (long)value : -1;
}

static int parse(cpu_set_t *set, size_t size, const char *cpus, libsched_error *err)
{
    const char *at = cpus;
    for (;;) {
        long first = read_cpu(&at), last = first;
        if (first >= 0 && *at == '-') {
            at++;
            last = read_cpu(&at);
        }
        if (first < 0 || last < first)
            return bad_list(cpus, err);
        for (long cpu = first; cpu <= last; cpu++)
            CPU_SET_S((size_t)cpu, size, set);
        if (*at == '\0')
            return LIBSCHED_OK;
        if (*at++ != ',')
            return bad_list(cpus, err);
    }
}

int affinity_bind(const char *cpus, libsched_error *err)
{
    size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    if (set == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a set of cores");
    CPU_ZERO_S(size, set);
    int status = parse(set, size, cpus, err);
    if (status == 0 && sched_setaffinity(0, size, set) < 0)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "binding to cores %s: %m", cpus);
    CPU_FREE(set);
    return status;
}
