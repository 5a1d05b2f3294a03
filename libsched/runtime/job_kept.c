/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ranks find each other by, kept after a job that ended well: the next job on the same devices
 * has the same ranks in the same workers, and they need not be made known to each other again. Here
 * it is decided what is kept, so that all ranks keep the same; a worker lets go what is dropped. A
 * rank may have lost its part for reasons of its own, or have called what the others have not: so
 * each is asked, and where they do not agree all begin anew.
 */
#include <string.h>

#include "runtime/internal.h"

static void drop(libsched *s, struct segment **segment)
{
    if (*segment == NULL)
        return;
    runtime_segment_drop(s, *segment);
    segment_free(*segment);
    *segment = NULL;
}

static bool is_of(const struct runtime_gang *gang, const struct runtime_job *job,
                  uint64_t timeout_ns)
{
    return gang->shared != NULL && gang->n_ranks == job->n_ranks &&
           gang->timeout_ns == timeout_ns &&
           memcmp(gang->ranks, job->ranks, job->n_ranks * sizeof(job->ranks[0])) == 0 &&
           memcmp(gang->epochs, job->epochs, job->n_ranks * sizeof(job->epochs[0])) == 0;
}

static int create(struct runtime_job *job, libsched_error *err)
{
    return segment_create_shared(&job->shared, "gpu_sched-job",
                                 LIBSCHED_COMMUNICATOR_SHARED_SIZE(job->n_ranks), err);
}

int runtime_gang_begin(libsched *s, struct runtime_job *job, uint64_t timeout_ns,
                       libsched_error *err)
{
    job->kept = job->renewed = false;
    job->n_asked = 0;
    for (uint32_t i = 0; i < job->n_ranks; i++)
        job->epochs[i] = s->devices[job->ranks[i]].epoch;
    for (uint32_t i = 0; i < RUNTIME_GANGS; i++) {
        if (!is_of(&s->gangs[i], job, timeout_ns))
            continue;
        job->shared = s->gangs[i].shared;
        s->gangs[i].shared = NULL;
        job->kept = true;
        return LIBSCHED_OK;
    }
    return create(job, err);
}

bool runtime_gang_hear(libsched *s, struct runtime_job *job, const struct worker_event *event,
                       libsched_error *err)
{
    if (job->n_asked == 0)
        job->calls = event->calls;
    job->renewed = job->renewed || !event->has_kept || event->calls != job->calls;
    if (++job->n_asked < job->n_ranks)
        return false;
    if (job->renewed) {
        job->kept = false;
        drop(s, &job->shared);
        (void)create(job, err);
    }
    return true;
}

/* Whether all ranks are in the workers in which they began. */
static bool is_whole(const libsched *s, const struct runtime_job *job)
{
    for (uint32_t i = 0; i < job->n_ranks; i++) {
        const struct runtime_device *device = &s->devices[job->ranks[i]];
        if (device->worker == NULL || device->ending || device->stopping ||
            device->epoch != job->epochs[i])
            return false;
    }
    return true;
}

/* Where there is room, or else the one that was not used for the longest time. */
static struct runtime_gang *choose(libsched *s)
{
    struct runtime_gang *oldest = &s->gangs[0];
    for (uint32_t i = 0; i < RUNTIME_GANGS; i++) {
        if (s->gangs[i].shared == NULL)
            return &s->gangs[i];
        if (s->gangs[i].used < oldest->used)
            oldest = &s->gangs[i];
    }
    return oldest;
}

void runtime_gang_end(libsched *s, struct runtime_job *job, uint64_t timeout_ns, int status)
{
    if (job->shared == NULL)
        return;
    if (status != LIBSCHED_OK || !is_whole(s, job)) {
        drop(s, &job->shared);
        return;
    }
    struct runtime_gang *gang = choose(s);
    drop(s, &gang->shared);
    gang->shared = job->shared;
    gang->n_ranks = job->n_ranks;
    memcpy(gang->ranks, job->ranks, sizeof(gang->ranks));
    memcpy(gang->epochs, job->epochs, sizeof(gang->epochs));
    gang->timeout_ns = timeout_ns;
    gang->used = ++s->gang_uses;
    job->shared = NULL;
}

void runtime_gangs_forget(libsched *s, const struct runtime_device *device)
{
    for (uint32_t i = 0; i < RUNTIME_GANGS; i++) {
        struct runtime_gang *gang = &s->gangs[i];
        bool member = device == NULL;
        for (uint32_t r = 0; gang->shared != NULL && r < gang->n_ranks; r++)
            member = member || gang->ranks[r] == device->index;
        if (member)
            drop(s, &gang->shared);
    }
}
