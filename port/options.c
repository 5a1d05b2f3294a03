/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

enum option_kind {
    OPTION_FLAG,
    OPTION_U32,
    OPTION_U64,
    OPTION_SIZE32,
    OPTION_SIZE,
    OPTION_TEXT,
    OPTION_FDS,
    OPTION_LEVEL,
    OPTION_SHARES,
    OPTION_TIMES
};

struct option {
    const char *name, *argument, *help;
    enum option_kind kind;
    size_t offset;
    uint64_t min, max;
    uint32_t flag;
};

#define FIELD(field) offsetof(struct port_options, field)

static const struct option options[] = {
    {"fds", "IN,OUT", "descriptors to read and write; 3,4", OPTION_FDS},
    {"max-frame-bytes", "SIZE", "largest frame that is taken; 64M", OPTION_SIZE32,
     FIELD(max_frame_bytes), 4 * KIB, GIB},
    {"max-requests", "N", "requests in flight; 65536", OPTION_U32, FIELD(libsched.max_requests), 1,
     1 << 22},
    {"arena-bytes", "SIZE", "memory of inputs in flight; 1G", OPTION_SIZE,
     FIELD(libsched.arena_bytes), MIB, UINT64_MAX},
    {"result-bytes", "SIZE", "memory of results not yet sent, a worker; 256M", OPTION_SIZE,
     FIELD(libsched.result_bytes), MIB, UINT64_MAX},
    {"cpu-devices", "N", "CPU devices; 0: one for each NUMA node", OPTION_U32,
     FIELD(libsched.cpu_devices), 0, 1024},
    {"cores-per-device", "N", "cores of a CPU device; 0: its share of all", OPTION_U32,
     FIELD(libsched.cores_per_device), 0, 4096},
    {"devices-per-gpu", "N", "logical devices on each GPU, which share it; 0: one", OPTION_U32,
     FIELD(libsched.devices_per_gpu), 0, 16},
    {"prepare-workers", "N", "processes that prepare requests; 0: one", OPTION_U32,
     FIELD(libsched.prepare_workers), 0, 256},
    {"spin-us", "N", "look for work at most so long before sleeping; 50, 0: never", OPTION_U32,
     FIELD(spin_us), 0, 1000000},
    {"class-shares", "N,N,...", "device time of each priority, relative; 128,64,32,16,8,4,2,1",
     OPTION_SHARES, FIELD(libsched.class_shares), 1, 65536},
    {"class-patience-ms", "N,N,...",
     "when requests of a priority without a deadline want to be done; 1000,2000,4000,...",
     OPTION_TIMES, FIELD(libsched.class_patience_ns), 1, 3600000},
    {"job-share", "PERCENT", "device time for jobs, where requests want it too; 50", OPTION_U32,
     FIELD(libsched.job_share_percent), 1, 100},
    {"max-jobs", "N", "jobs that have not ended; 256", OPTION_U32, FIELD(libsched.max_jobs), 1,
     4096},
    {"first-job", "N", "the number of the first job; 1", OPTION_U64, FIELD(libsched.first_job), 1,
     INT64_MAX},
    {"max-client-requests", "N", "requests of one client that wait; 0: no limit", OPTION_U32,
     FIELD(libsched.max_client_requests), 0, UINT32_MAX},
    {"worker", "PATH", "the sched-worker to run; GPU_SCHED_WORKER, or beside the library",
     OPTION_TEXT, FIELD(libsched.worker_path)},
    {"plugins", "PATH[:PATH]", "folders of plugins; GPU_SCHED_PLUGINS, or beside the library",
     OPTION_TEXT, FIELD(libsched.plugin_path)},
    {"topology", "FILE", "a recorded machine (hwloc XML) instead of this one", OPTION_TEXT,
     FIELD(libsched.topology_xml)},
    {"collective-interface", "NAME",
     "network interface by which ranks on GPUs find each other; lo, or NCCL_SOCKET_IFNAME",
     OPTION_TEXT, FIELD(libsched.collective_interface)},
    {"share-weights-bytes", "SIZE",
     "a model of at least so many is read once for all GPUs that load it; 1G", OPTION_SIZE,
     FIELD(libsched.share_weights_bytes), 1, UINT64_MAX},
    {"threads", NULL, "workers are threads of this process", OPTION_FLAG, FIELD(libsched.flags), 0,
     0, LIBSCHED_THREAD_WORKERS},
    {"lease-min-bytes", "SIZE", "smallest tensor a lease is advised for; 1M", OPTION_SIZE,
     FIELD(lease_min_bytes), 1, UINT64_MAX},
    {"lease-max-bytes", "SIZE", "memory of all leases together; 1G, 0: no leases", OPTION_SIZE,
     FIELD(lease_max_bytes), 0, (uint64_t)1 << 46},
    {"lease-expiry-ms", "N", "how long a lease waits for its infer; 30000", OPTION_U32,
     FIELD(lease_expiry_ms), 1, 86400000},
    {"log-level", "LEVEL", "error, warning, info or none; warning", OPTION_LEVEL, FIELD(log_level)},
};
#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

static void print_help(void)
{
    printf("Usage: sched-port [--OPTION=VALUE ...]\n"
           "Serves a gpu_sched scheduler to the program at the other end of two descriptors\n"
           "(an Erlang port); docs/protocol.md says how they speak.\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", options[i].name,
                 options[i].argument != NULL ? "=" : "",
                 options[i].argument != NULL ? options[i].argument : "");
        printf("  %-24s %s\n", left, options[i].help);
    }
    printf("  %-24s %s\n  %-24s %s\n", "--help", "this", "--version", "the version");
    printf("\nSizes are bytes, or end in K, M or G. Exit codes: 0 after the end of the input,\n"
           "64 for an option that is not understood, 70 where it could not start or go on.\n");
}

static int parse_number(const char *text, uint64_t *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return -1;
    *out = value;
    return 0;
}

int options_parse_size(const char *text, uint64_t *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0)
        return -1;
    uint64_t unit = 1;
    if (*end == 'K' || *end == 'k')
        unit = KIB;
    else if (*end == 'M' || *end == 'm')
        unit = MIB;
    else if (*end == 'G' || *end == 'g')
        unit = GIB;
    if (unit > 1)
        end++;
    if (*end != '\0' || value > UINT64_MAX / unit)
        return -1;
    *out = value * unit;
    return 0;
}

static int parse_level(const char *text, int *out)
{
    static const char *const levels[] = {"none", "error", "warning", "info"};
    for (int i = 0; i < 4; i++)
        if (strcmp(text, levels[i]) == 0) {
            *out = i;
            return 0;
        }
    return -1;
}

static int parse_fds(const char *text, struct port_options *out)
{
    char rest;
    if (sscanf(text, "%d,%d%c", &out->fd_in, &out->fd_out, &rest) != 2 || out->fd_in < 0 ||
        out->fd_out < 0)
        return -1;
    return 0;
}

/* Numbers with commas in between, one for each priority; those that are not given stay as they
 * are. */
static int parse_list(const char *text, const struct option *option, uint64_t out[], uint32_t *n)
{
    for (*n = 0; *n < LIBSCHED_PRIORITIES; text++) {
        char *end;
        if (*text < '0' || *text > '9')
            return -1;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        if (errno != 0 || value < option->min || value > option->max)
            return -1;
        out[(*n)++] = value;
        if (*end == '\0')
            return 0;
        if (*end != ',')
            return -1;
        text = end;
    }
    return -1;
}

static int set_list(void *field, const struct option *option, const char *value)
{
    uint64_t numbers[LIBSCHED_PRIORITIES];
    uint32_t n;
    if (parse_list(value, option, numbers, &n) < 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        if (option->kind == OPTION_SHARES)
            ((uint32_t *)field)[i] = (uint32_t)numbers[i];
        else
            ((uint64_t *)field)[i] = numbers[i] * 1000000;
    return 0;
}

static int set_option(struct port_options *out, const struct option *option, const char *value)
{
    char *field = (char *)out + option->offset;
    uint64_t number = 0;
    switch (option->kind) {
    case OPTION_FLAG:
        *(uint32_t *)(void *)field |= option->flag;
        return 0;
    case OPTION_U32:
        if (parse_number(value, &number) < 0 || number < option->min || number > option->max)
            return -1;
        *(uint32_t *)(void *)field = (uint32_t)number;
        return 0;
    case OPTION_U64:
        if (parse_number(value, &number) < 0 || number < option->min || number > option->max)
            return -1;
        *(uint64_t *)(void *)field = number;
        return 0;
    case OPTION_SIZE32:
    case OPTION_SIZE:
        if (options_parse_size(value, &number) < 0 || number < option->min || number > option->max)
            return -1;
        if (option->kind == OPTION_SIZE32)
            *(uint32_t *)(void *)field = (uint32_t)number;
        else
            *(uint64_t *)(void *)field = number;
        return 0;
    case OPTION_TEXT:
        *(const char **)(void *)field = value;
        return *value != '\0' ? 0 : -1;
    case OPTION_FDS:
        return parse_fds(value, out);
    case OPTION_SHARES:
    case OPTION_TIMES:
        return set_list(field, option, value);
    case OPTION_LEVEL:
        return parse_level(value, (int *)(void *)field);
    }
    return -1;
}

static int parse_argument(struct port_options *out, const char *argument)
{
    const char *name = argument + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);

    if (strncmp(argument, "--", 2) != 0) {
        fprintf(stderr, "sched-port: \"%s\" is no option (--help lists them)\n", argument);
        return -1;
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *option = &options[i];
        if (strlen(option->name) != length || strncmp(option->name, name, length) != 0)
            continue;
        if ((option->argument != NULL) != (equals != NULL)) {
            fprintf(stderr, "sched-port: --%s takes %s value\n", option->name,
                    option->argument != NULL ? "a" : "no");
            return -1;
        }
        if (set_option(out, option, equals != NULL ? equals + 1 : NULL) == 0)
            return 0;
        if (option->kind == OPTION_SHARES || option->kind == OPTION_TIMES)
            fprintf(stderr,
                    "sched-port: --%s=%s: at most %d numbers from %" PRIu64 " to %" PRIu64
                    " with commas in between are expected\n",
                    option->name, equals + 1, LIBSCHED_PRIORITIES, option->min, option->max);
        else if (option->max > 0)
            fprintf(stderr,
                    "sched-port: --%s=%s: a number from %" PRIu64 " to %" PRIu64 " is expected\n",
                    option->name, equals + 1, option->min, option->max);
        else
            fprintf(stderr, "sched-port: --%s=%s: %s is expected\n", option->name, equals + 1,
                    option->argument);
        return -1;
    }
    fprintf(stderr, "sched-port: unknown option --%.*s (--help lists them)\n", (int)length, name);
    return -1;
}

enum options_result options_parse(struct port_options *out, int argc, char **argv)
{
    *out = (struct port_options){
        .fd_in = 3,
        .fd_out = 4,
        .max_frame_bytes = 64 << 20,
        .spin_us = 50,
        .lease_min_bytes = MIB,
        .lease_max_bytes = GIB,
        .lease_expiry_ms = 30000,
        .log_level = LIBSCHED_LOG_WARNING,
        .libsched = LIBSCHED_OPTIONS_INIT,
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_help();
            return OPTIONS_DONE;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("sched-port %s\n", libsched_version());
            return OPTIONS_DONE;
        }
        if (parse_argument(out, argv[i]) < 0)
            return OPTIONS_WRONG;
    }
    /* Its own default is not 0 but 50, so "never" needs saying. */
    out->libsched.spin_us = out->spin_us > 0 ? out->spin_us : UINT32_MAX;
    /* What follows from the limits has to be known here, for the hello. */
    if (out->libsched.max_requests == 0)
        out->libsched.max_requests = 65536;
    if (out->libsched.arena_bytes == 0)
        out->libsched.arena_bytes = GIB;
    return OPTIONS_RUN;
}
