/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of jobs when they ask. */
#include <stdio.h>

#include "runtime/internal.h"

uint32_t libsched_job_count(const libsched *s)
{
    libsched *unlocked = (libsched *)(uintptr_t)s; /* the lock is not part of what is read */
    runtime_lock(unlocked);
    uint32_t n = s->n_jobs;
    runtime_unlock(unlocked);
    return n;
}

static int answer(libsched *s, const struct runtime_job *job, libsched_job_info *out)
{
    libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
    struct core_job_info core;
    uint64_t now = runtime_now(s);
    bool in_core = core_job_get(s->core, job->core_id, &core) == LIBSCHED_OK;

    info.state = job->state;
    info.id = job->id;
    snprintf(info.name, sizeof(info.name), "%s", job->name);
    snprintf(info.program, sizeof(info.program), "%s", job->program);
    snprintf(info.client, sizeof(info.client), "%s", job->client);
    snprintf(info.text, sizeof(info.text), "%s", job->text);
    runtime_job_why(s, job, in_core ? &core : NULL, info.why, sizeof(info.why));
    info.n_devices = job->n_devices;
    info.devices = job->devices;
    info.step = job->step;
    info.done = job->done;
    info.total = job->total;
    snprintf(info.message, sizeof(info.message), "%s", job->message);
    info.queued_ns = (job->started_at != 0 ? job->started_at : now) - job->submitted_at;
    info.run_ns = job->started_at != 0 ? now - job->started_at : 0;
    if (in_core) {
        info.device_ns = core.device_ns;
        if (job->started_at == 0 && core.starts_by > now)
            info.starts_by_ns = core.starts_by - now;
    }
    return runtime_struct_write(out, &info, sizeof(info));
}

int libsched_job_get(libsched *s, uint32_t index, libsched_job_info *out)
{
    int rc = LIBSCHED_ENOENT;
    runtime_lock(s);
    LIST_EACH(&s->jobs, node, following)
    if (index-- == 0) {
        rc = answer(s, LIST_ENTRY(node, struct runtime_job, link), out);
        break;
    }
    runtime_unlock(s);
    return rc;
}

int libsched_job_find(libsched *s, uint64_t id, libsched_job_info *out)
{
    runtime_lock(s);
    const struct runtime_job *job = runtime_job_find(s, id);
    int rc = job != NULL ? answer(s, job, out) : LIBSCHED_ENOENT;
    runtime_unlock(s);
    return rc;
}
