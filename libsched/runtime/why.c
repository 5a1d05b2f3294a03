/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In words: what a job waits for, or why it has the devices that it has.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"

/* A sentence that is put together, and ends where there is no more room. */
struct text {
    char *out;
    size_t size, at;
};

static void LIBSCHED_PRINTF(2, 3) add(struct text *text, const char *format, ...)
{
    va_list args;
    if (text->at >= text->size)
        return;
    va_start(args, format);
    int n = vsnprintf(text->out + text->at, text->size - text->at, format, args);
    va_end(args);
    text->at += n > 0 ? (size_t)n : 0;
}

void runtime_device_names(const libsched *s, uint64_t devices, char *out, size_t size)
{
    struct text text = {.out = out, .size = size};
    uint32_t left = (uint32_t)__builtin_popcountll(devices);
    if (size > 0)
        out[0] = '\0';
    for (bool first = true; devices != 0; devices &= devices - 1, first = false) {
        const char *name = s->devices[__builtin_ctzll(devices)].name;
        /* Room for " and 64 more" has to stay. */
        if (!first && text.at + strlen(name) + 20 > size) {
            add(&text, " and %u more", left);
            return;
        }
        add(&text, "%s%s", first ? "" : left == 1 ? " and " : ", ", name);
        left--;
    }
}

static void add_names(struct text *text, const libsched *s, uint64_t devices)
{
    char names[112];
    runtime_device_names(s, devices, names, sizeof(names));
    add(text, "%s", names);
}

static void add_span(struct text *text, uint64_t ns)
{
    uint64_t s = (ns + 999999999) / 1000000000;
    if (s < 120)
        add(text, "%" PRIu64 " s", s);
    else if (s < 7200)
        add(text, "%" PRIu64 " min", (s + 59) / 60);
    else
        add(text, "%" PRIu64 " h", (s + 3599) / 3600);
}

/* ------------------------------------------------------------------------------------- pending */

static const struct runtime_job *holder(const libsched *s, const struct runtime_job *job,
                                        uint32_t device)
{
    LIST_EACH(&s->jobs, node, following)
    {
        const struct runtime_job *other = LIST_ENTRY(node, struct runtime_job, link);
        if (other != job && (other->devices >> device & 1) != 0)
            return other;
    }
    return NULL;
}

static void add_holders(struct text *text, const libsched *s, const struct runtime_job *job)
{
    for (uint64_t left = job->allowed; left != 0; left &= left - 1) {
        const struct runtime_device *device = &s->devices[__builtin_ctzll(left)];
        const struct runtime_job *other = holder(s, job, device->index);
        if (text->at + 100 > text->size) {
            add(text, "; ...");
            return;
        }
        if (other != NULL) {
            uint64_t until = other->started_at + other->time_limit;
            add(text, "; %s is held by job %" PRIu64, device->name, other->id);
            if (other->time_limit > 0 && until > s->now) {
                add(text, " for ");
                add_span(text, until - s->now);
                add(text, " at most");
            }
        } else if (device->state != LIBSCHED_DEVICE_UP) {
            add(text, "; %s is %s", device->name,
                device->state == LIBSCHED_DEVICE_DOWN ? "given up" : "starting");
        }
    }
}

static void add_blocker(struct text *text, const libsched *s, uint64_t core_id)
{
    const struct runtime_job *other = runtime_job_by_core(s, core_id);
    if (other != NULL)
        add(text, "job %" PRIu64 " (%s)", other->id, other->name);
    else
        add(text, "another job");
}

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

static void pending(struct text *text, const libsched *s, const struct runtime_job *job,
                    const struct core_job_info *info)
{
    uint32_t allowed = (uint32_t)__builtin_popcountll(job->allowed);
    switch (info->why) {
    case CORE_WHY_ORDER:
        add(text, "waits for its turn: ");
        add_blocker(text, s, info->blocker);
        add(text, " is before it");
        break;
    case CORE_WHY_DEVICES:
        add(text, "waits for %u device%s: %u of the %u that it may have %s free", info->need,
            plural(info->need), info->have, allowed, info->have == 1 ? "is" : "are");
        add_holders(text, s, job);
        break;
    case CORE_WHY_MEMORY:
        add(text,
            "waits for memory: a rank of it takes %" PRIu64 " MiB, for which %u of %u "
            "device%s ha%s room",
            (job->memory_bytes + (1 << 20) - 1) >> 20, info->have, info->need, plural(info->need),
            info->have == 1 ? "s" : "ve");
        if (info->blocker != 0) {
            add(text, "; ");
            add_blocker(text, s, info->blocker);
            add(text, " has some of it");
        }
        break;
    case CORE_WHY_DRAINING:
        add(text, "its %u device%s %s chosen, and finish what they are at: %u of them ha%s",
            info->need, plural(info->need), info->need == 1 ? "is" : "are", info->have,
            info->have == 1 ? "s" : "ve");
        break;
    case CORE_WHY_DOWN:
        add(text, "waits for workers: %u of the %u devices that it needs %s up", info->have,
            info->need, info->have == 1 ? "is" : "are");
        add_holders(text, s, job);
        break;
    case CORE_WHY_NONE:
        add(text, "is about to start");
        break;
    }
}

/* --------------------------------------------------------------------------------------- placed */

static const char *locality_text(enum topology_locality locality)
{
    switch (locality) {
    case TOPOLOGY_SAME_DEVICE:
        return "parts of one device";
    case TOPOLOGY_SAME_SWITCH:
        return "on one PCI switch";
    case TOPOLOGY_SAME_NUMA:
        return "on one NUMA node";
    case TOPOLOGY_SAME_PACKAGE:
        return "on one processor";
    case TOPOLOGY_SAME_MACHINE:
        break;
    }
    return "on different processors";
}

/* How the two that are furthest from each other are joined. */
static void add_links(struct text *text, const libsched *s, const struct runtime_job *job)
{
    enum topology_locality worst = TOPOLOGY_SAME_DEVICE;
    uint64_t least = UINT64_MAX;
    bool linked = true, some = false;
    for (uint32_t i = 0; i < job->n_ranks; i++)
        for (uint32_t k = 0; k < i; k++) {
            uint32_t a = job->ranks[i], b = job->ranks[k];
            uint64_t bandwidth = topology_link_bandwidth(s->topology, a, b);
            enum topology_locality locality = topology_get_locality(s->topology, a, b);
            some = some || bandwidth > 0;
            linked = linked && bandwidth > 0;
            least = bandwidth < least ? bandwidth : least;
            worst = locality > worst ? locality : worst;
        }
    if (linked)
        add(text, ", joined by NVLink (%" PRIu64 ".%" PRIu64 " GB/s each way%s)", least / 1000,
            least % 1000 / 100, job->n_ranks > 2 ? " or more" : "");
    else
        add(text, ", %s%s", locality_text(worst), some ? ", some of them joined by NVLink" : "");
}

static void placed(struct text *text, const libsched *s, const struct runtime_job *job)
{
    uint32_t allowed = (uint32_t)__builtin_popcountll(job->allowed);
    add(text, "has ");
    add_names(text, s, job->devices);
    if (job->n_ranks > 1)
        add_links(text, s, job);
    if (allowed <= job->n_ranks)
        add(text, ": all that it may have");
    else if (job->n_ranks == 1)
        add(text, ": one of the %u that it may have, and free", allowed);
    else if (job->distance <= job->least_distance)
        add(text, ": no %u of the %u that it may have are nearer to each other", job->n_ranks,
            allowed);
    else
        add(text,
            ": the nearest that were free (distance %" PRIu64 "; among all %u that it may have the "
            "least is %" PRIu64 ")",
            job->distance, allowed, job->least_distance);
}

void runtime_job_why(const libsched *s, const struct runtime_job *job,
                     const struct core_job_info *info, char *out, size_t size)
{
    struct text text = {.out = out, .size = size};
    if (size > 0)
        out[0] = '\0';
    if (job->state == LIBSCHED_JOB_CHECKING)
        add(&text, "%s",
            job->checker == RUNTIME_NOBODY ? "waits for a worker that checks its parameters"
                                           : "its parameters are being checked");
    else if (job->devices != 0)
        placed(&text, s, job);
    else if (info != NULL)
        pending(&text, s, job, info);
}
