/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libsched_open() was given: checked, completed by the environment and by where the library
 * lies, and copied.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/internal.h"

#define MAX_PREPARE_WORKERS 16u
#define MAX_CPU_DEVICES 32u
#define MAX_DEVICES_PER_GPU 16u
#define MIN_ARENA (UINT64_C(1) << 16)
#define MAX_MEMORY (UINT64_C(1) << 40)
#define MAX_SPIN_US 1000000u
#define MAX_PATIENCE UINT64_C(3600000000000) /* an hour */

static bool is_program(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

/* The folder of the file that this code is in: the library, or a program it is linked into. */
static bool own_folder(char out[PATH_MAX])
{
    Dl_info info;
    if (dladdr((const void *)&libsched_open, &info) == 0 || info.dli_fname == NULL)
        return false;
    char path[PATH_MAX];
    /* Of a program, dladdr() may give no more than its argv[0]. */
    if (realpath(info.dli_fname, path) == NULL && realpath("/proc/self/exe", path) == NULL)
        return false;
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    strcpy(out, path[0] != '\0' ? path : "/");
    return true;
}

/* folder/file where that is a program. */
static char *program_in(const char *folder, size_t length, const char *file)
{
    char path[PATH_MAX], real[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%.*s/%s", (int)length, folder, file);
    if (n < 0 || (size_t)n >= sizeof(path) || !is_program(path) || realpath(path, real) == NULL)
        return NULL;
    return strdup(real);
}

static char *program_on_path(const char *file)
{
    const char *path = getenv("PATH");
    while (path != NULL && *path != '\0') {
        size_t length = strcspn(path, ":");
        char *found = length > 0 ? program_in(path, length, file) : NULL;
        if (found != NULL)
            return found;
        path += length + (path[length] == ':');
    }
    return NULL;
}

static int find_worker(char **out, const char *given, libsched_error *err)
{
    const char *option = "worker_path";
    if (given == NULL || given[0] == '\0') {
        given = getenv("GPU_SCHED_WORKER");
        option = "GPU_SCHED_WORKER";
    }
    if (given != NULL && given[0] != '\0') {
        char real[PATH_MAX];
        if (!is_program(given) || realpath(given, real) == NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%s is \"%s\", which is not a program that can be run: give "
                                      "the path of sched-worker",
                                      option, given);
        *out = strdup(real);
        return *out != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
    }
    static const char *const beside[] = {
        "sched-worker",
        "../libexec/gpu_sched/sched-worker",
        "../../libexec/gpu_sched/sched-worker", /* from lib/<architecture> */
        "../bin/sched-worker",
    };
    char folder[PATH_MAX] = "";
    if (own_folder(folder))
        for (size_t i = 0; *out == NULL && i < sizeof(beside) / sizeof(beside[0]); i++)
            *out = program_in(folder, strlen(folder), beside[i]);
    if (*out == NULL)
        *out = program_on_path("sched-worker");
    if (*out == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "sched-worker was found neither beside the library (%.120s) nor "
                                  "on PATH: give worker_path, or set GPU_SCHED_WORKER",
                                  folder);
    return LIBSCHED_OK;
}

/* The library's folder, and the worker's where that is another: device plugins are installed
 * there, since nobody else loads them. */
static int default_plugins(char **out, const char *worker_path)
{
    char folder[PATH_MAX], path[2 * PATH_MAX + 2];
    if (!own_folder(folder))
        return LIBSCHED_OK;
    const char *slash = worker_path != NULL ? strrchr(worker_path, '/') : NULL;
    size_t length = slash != NULL ? (size_t)(slash - worker_path) : 0;
    if (length > 0 && (strncmp(folder, worker_path, length) != 0 || folder[length] != '\0'))
        snprintf(path, sizeof(path), "%s:%.*s", folder, (int)length, worker_path);
    else
        snprintf(path, sizeof(path), "%s", folder);
    *out = strdup(path);
    return *out != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
}

static int find_plugins(char **out, const char *given, const char *worker_path, libsched_error *err)
{
    if (given == NULL)
        given = getenv("GPU_SCHED_PLUGINS");
    if (given == NULL)
        return default_plugins(out, worker_path);
    if (given[0] == '\0')
        return LIBSCHED_OK;
    for (const char *at = given; *at != '\0';) {
        size_t length = strcspn(at, ":");
        if (length > 0 && at[0] != '/')
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "plugin_path has the folder \"%.*s\", which is not absolute",
                                      (int)(length < 100 ? length : 100), at);
        at += length + (at[length] == ':');
    }
    *out = strdup(given);
    return *out != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
}

static int check_range(const char *name, uint64_t value, uint64_t min, uint64_t max,
                       libsched_error *err)
{
    if (value >= min && value <= max)
        return LIBSCHED_OK;
    return libsched_error_set(err, LIBSCHED_EINVAL, "%s is %llu, it may be from %llu to %llu", name,
                              (unsigned long long)value, (unsigned long long)min,
                              (unsigned long long)max);
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static int read_jobs(struct runtime_options *out, const libsched_options *given,
                     libsched_error *err)
{
    uint64_t max_jobs = or_default(given->max_jobs, 256);
    uint64_t job_share = or_default(given->job_share_percent, 50);
    int rc = check_range("job_share_percent", job_share, 1, 100, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("max_jobs", max_jobs, 1, CORE_MAX_JOBS, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("first_job", given->first_job, 0, INT64_MAX, err);
    out->job_share_percent = (uint32_t)job_share;
    out->max_jobs = (uint32_t)max_jobs;
    out->first_job = or_default(given->first_job, 1);
    return rc;
}

static int read_numbers(struct runtime_options *out, const libsched_options *given,
                        libsched_error *err)
{
    uint64_t max_requests = or_default(given->max_requests, 65536);
    uint64_t prepare_workers = or_default(given->prepare_workers, 1);
    uint64_t max_restarts = or_default(given->max_restarts, 5);
    uint64_t spin_us = given->spin_us == UINT32_MAX ? 0 : or_default(given->spin_us, 50);
    out->arena_bytes = or_default(given->arena_bytes, UINT64_C(1) << 30);
    out->result_bytes = or_default(given->result_bytes, UINT64_C(256) << 20);

    int rc = check_range("cpu_devices", given->cpu_devices, 0, MAX_CPU_DEVICES, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("devices_per_gpu", given->devices_per_gpu, 0, MAX_DEVICES_PER_GPU, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("prepare_workers", prepare_workers, 1, MAX_PREPARE_WORKERS, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("max_requests", max_requests, 1, RUNTIME_SLOT_MASK, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("arena_bytes", out->arena_bytes, MIN_ARENA, MAX_MEMORY, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("result_bytes", out->result_bytes, MIN_ARENA, MAX_MEMORY, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("spin_us", spin_us, 0, MAX_SPIN_US, err);
    if (rc == LIBSCHED_OK)
        rc = check_range("max_restarts", max_restarts, 1, 1000000, err);
    for (int i = 0; i < LIBSCHED_PRIORITIES && rc == LIBSCHED_OK; i++) {
        rc = check_range("class_shares", given->class_shares[i], 0, 1000000, err);
        if (rc == LIBSCHED_OK)
            rc =
                check_range("class_patience_ns", given->class_patience_ns[i], 0, MAX_PATIENCE, err);
    }
    out->cpu_devices = given->cpu_devices;
    out->cores_per_device = given->cores_per_device;
    out->devices_per_gpu = given->devices_per_gpu;
    out->prepare_workers = (uint32_t)prepare_workers;
    out->max_requests = (uint32_t)max_requests;
    out->spin_us = (uint32_t)spin_us;
    out->max_restarts = (uint32_t)max_restarts;
    out->max_client_requests = given->max_client_requests;
    out->share_weights_bytes = or_default(given->share_weights_bytes, UINT64_C(1) << 30);
    memcpy(out->class_shares, given->class_shares, sizeof(out->class_shares));
    memcpy(out->class_patience_ns, given->class_patience_ns, sizeof(out->class_patience_ns));
    return rc;
}

int runtime_options_read(struct runtime_options *out, const libsched_options *options,
                         libsched_error *err)
{
    static const libsched_options defaults = LIBSCHED_OPTIONS_INIT;
    const uint32_t known = LIBSCHED_THREAD_WORKERS | LIBSCHED_OWN_THREAD;
    libsched_options given;

    memset(out, 0, sizeof(*out));
    int rc = runtime_struct_read(&given, sizeof(given), options != NULL ? options : &defaults,
                                 "libsched_options", err);
    if (rc < 0)
        return rc;
    if ((given.flags & ~known) != 0)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "flags are 0x%x, of which only 0x%x is known", given.flags,
                                  known);
    out->flags = given.flags;
    out->log = given.log;
    out->log_payload = given.log_payload;
    rc = read_numbers(out, &given, err);
    if (rc == LIBSCHED_OK)
        rc = read_jobs(out, &given, err);
    if (rc < 0)
        return rc;

    if ((given.flags & LIBSCHED_THREAD_WORKERS) == 0)
        rc = find_worker(&out->worker_path, given.worker_path, err);
    if (rc == LIBSCHED_OK)
        rc = find_plugins(&out->plugin_path, given.plugin_path, out->worker_path, err);
    if (rc == LIBSCHED_OK && given.topology_xml != NULL) {
        out->topology_xml = strdup(given.topology_xml);
        rc = out->topology_xml != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
    }
    if (rc == LIBSCHED_OK)
        rc = runtime_interface_choose(out->environment, given.collective_interface, err);
    if (rc == LIBSCHED_ENOMEM)
        libsched_error_set(err, rc, "no memory for the options");
    if (rc < 0)
        runtime_options_free(out);
    return rc;
}

void runtime_options_free(struct runtime_options *options)
{
    free(options->worker_path);
    free(options->plugin_path);
    free(options->topology_xml);
    for (int i = 0; i < RUNTIME_ENVIRONMENT; i++) {
        free(options->environment[i]);
        options->environment[i] = NULL;
    }
    options->worker_path = options->plugin_path = options->topology_xml = NULL;
}
