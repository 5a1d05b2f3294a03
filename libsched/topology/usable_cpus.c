/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many CPUs this process can keep busy: its affinity, and the CPU quota of its control groups.
 *
 * A quota is set on any group from ours up to the root, and the smallest counts. Version 2 has it
 * in cpu.max ("max 100000" or "150000 100000"), version 1 in cpu.cfs_quota_us (-1: none) and
 * cpu.cfs_period_us. /proc/self/cgroup names our group, /proc/self/mountinfo the folder where the
 * hierarchy is mounted and which part of it that shows: inside a container often only its own.
 */
#include "topology/internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hierarchy {
    bool found;
    int version;
    char mount[PATH_MAX]; /* where it is mounted */
    char shown[PATH_MAX]; /* which group appears there as the root */
    char group[PATH_MAX]; /* ours */
};

/* Whether a comma-separated list has the word. */
static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)) != NULL; p += n) {
        bool starts = p == list || p[-1] == ',';
        bool ends = p[n] == '\0' || p[n] == ',' || p[n] == '\n';
        if (starts && ends)
            return true;
    }
    return false;
}

static FILE *open_under(const char *root, const char *path)
{
    char full[PATH_MAX];
    int n = snprintf(full, sizeof(full), "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof(full))
        return NULL;
    return fopen(full, "re");
}

/* The mount of the CPU controller. A hybrid system mounts both versions: the controller then sits
 * in version 1, and version 2's files have no quota. */
static void find_mount(const char *root, struct hierarchy *h)
{
    FILE *f = open_under(root, "/proc/self/mountinfo");
    if (f == NULL)
        return;
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, f) > 0) {
        /* id parent major:minor shown mount options [optional...] - type source superoptions */
        char shown[PATH_MAX], mount[PATH_MAX], type[64], super[4096];
        const char *tail = strstr(line, " - ");
        if (tail == NULL || sscanf(line, "%*s %*s %*s %4095s %4095s", shown, mount) != 2 ||
            sscanf(tail, " - %63s %*s %4095s", type, super) != 2)
            continue;
        bool v1 = strcmp(type, "cgroup") == 0 && has_word(super, "cpu");
        bool v2 = strcmp(type, "cgroup2") == 0;
        if (!v1 && (!v2 || h->found))
            continue;
        h->found = true;
        h->version = v1 ? 1 : 2;
        memcpy(h->shown, shown, sizeof(shown));
        memcpy(h->mount, mount, sizeof(mount));
        if (v1)
            break;
    }
    free(line);
    fclose(f);
}

/* Our group in that hierarchy: "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1. */
static void find_group(const char *root, struct hierarchy *h)
{
    FILE *f = open_under(root, "/proc/self/cgroup");
    if (f == NULL)
        return;
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, f) > 0) {
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *controllers++ = '\0';
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        bool ours = h->version == 2 ? strcmp(line, "0") == 0 : has_word(controllers, "cpu");
        if (ours && strlen(path) < sizeof(h->group)) {
            memcpy(h->group, path, strlen(path) + 1);
            break;
        }
    }
    free(line);
    fclose(f);
}

/* The quota written in one group, in thousandths of a CPU; 0: none. */
static unsigned read_group_quota(const char *root, const struct hierarchy *h, const char *group)
{
    char path[3 * PATH_MAX];
    long long quota = -1, period = 0;
    if (h->version == 2) {
        snprintf(path, sizeof(path), "%s%s/cpu.max", h->mount, group);
        FILE *f = open_under(root, path);
        if (f == NULL)
            return 0;
        if (fscanf(f, "%lld %lld", &quota, &period) != 2)
            quota = -1; /* "max" */
        fclose(f);
    } else {
        static const char *const names[] = {"cpu.cfs_quota_us", "cpu.cfs_period_us"};
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof(path), "%s%s/%s", h->mount, group, names[i]);
            FILE *f = open_under(root, path);
            if (f == NULL)
                return 0;
            if (fscanf(f, "%lld", i == 0 ? &quota : &period) != 1)
                quota = -1;
            fclose(f);
        }
    }
    if (quota <= 0 || period <= 0 || quota > LLONG_MAX / 1000)
        return 0;
    long long milli = quota * 1000 / period;
    return milli < 1 ? 1 : milli > INT_MAX ? INT_MAX : (unsigned)milli;
}

unsigned topology_read_cpu_quota(const char *root)
{
    struct hierarchy h = {.found = false};
    find_mount(root, &h);
    if (!h.found)
        return 0;
    find_group(root, &h);

    /* What is mounted may begin below the root: the rest of our path is what can be seen. */
    size_t cut = strlen(h.shown);
    char *group = h.group;
    if (strcmp(h.shown, "/") != 0 && strncmp(group, h.shown, cut) == 0 &&
        (group[cut] == '/' || group[cut] == '\0'))
        group += cut;

    unsigned least = 0;
    for (;;) {
        if (strcmp(group, "/") == 0)
            group[0] = '\0';
        unsigned quota = read_group_quota(root, &h, group);
        if (quota != 0 && (least == 0 || quota < least))
            least = quota;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* The CPUs of this thread's affinity. The kernel's set may be larger than cpu_set_t. */
static unsigned count_affinity(void)
{
    for (int n = CPU_SETSIZE; n <= 1 << 20; n *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        if (set == NULL)
            break;
        size_t size = CPU_ALLOC_SIZE((size_t)n);
        int rc = sched_getaffinity(0, size, set);
        int count = rc == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0)
            return (unsigned)count;
    }
    return 1;
}

unsigned topology_usable_cpus(void)
{
    unsigned count = count_affinity();
    unsigned milli = topology_read_cpu_quota("");
    if (milli == 0)
        return count;
    unsigned quota = milli < 1000 ? 1 : milli / 1000;
    return quota < count ? quota : count;
}
