/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What callers are told of a job while it happens. A change of its state is told for itself. Of its
 * progress only the latest is kept while nobody reaps it: it is written over what is queued. Its
 * end lies in the job, so that there is always memory for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

/* Of a job's result, names and strings included: as much as a worker promises to send. */
#define MAX_VALUE_BYTES ((size_t)64 << 10)

/* ------------------------------------------------------------------------------- completions */

static void fill(struct runtime_job_notice *notice, const struct runtime_job *job,
                 enum libsched_job_state state, int status, const char *message)
{
    libsched_completion *c = &notice->completion.public;
    snprintf(notice->name, sizeof(notice->name), "%s", job->name);
    snprintf(notice->message, sizeof(notice->message), "%s", message);
    *c = (libsched_completion){
        .kind = LIBSCHED_JOB,
        .status = status,
        .id = job->id,
        .user = job->user,
        .name = notice->name,
        .message = notice->message,
        .state = state,
        .device = UINT32_MAX,
        .done = job->done,
        .total = job->total,
        .devices = job->devices,
        .handle = c->handle,
    };
}

static struct runtime_job_notice *queue(libsched *s, struct runtime_job *job)
{
    struct runtime_job_notice *notice = calloc(1, sizeof(*notice));
    if (notice == NULL)
        return NULL;
    fill(notice, job, job->state, LIBSCHED_OK, job->message);
    runtime_completion_queue(s, &notice->completion);
    return notice;
}

void runtime_job_set_state(libsched *s, struct runtime_job *job, enum libsched_job_state state)
{
    if (job->state == state)
        return;
    job->state = state;
    /* Progress that comes from now on belongs behind this. */
    if (job->progress != NULL)
        job->progress->job = NULL;
    job->progress = NULL;
    job->announce = queue(s, job) == NULL;
    if (job->announce)
        s->announcements = true;
}

void runtime_jobs_announce(libsched *s)
{
    LIST_EACH(&s->jobs, node, following)
    {
        struct runtime_job *job = LIST_ENTRY(node, struct runtime_job, link);
        if (job->announce)
            job->announce = queue(s, job) == NULL;
        if (job->announce)
            s->announcements = true;
    }
}

void runtime_job_progress(libsched *s, struct runtime_job *job, const struct worker_event *event)
{
    job->total = event->total;
    job->done = event->total != 0 && event->done > event->total ? event->total : event->done;
    snprintf(job->message, sizeof(job->message), "%s", event->error.message);
    if (job->progress != NULL) {
        fill(job->progress, job, job->state, LIBSCHED_OK, job->message);
        return;
    }
    job->progress = queue(s, job);
    if (job->progress != NULL)
        job->progress->job = job;
}

void runtime_job_notice_reaped(struct runtime_completion *completion)
{
    struct runtime_job_notice *notice =
        LIST_ENTRY(completion, struct runtime_job_notice, completion);
    if (notice->job == NULL || notice == &notice->job->end)
        return;
    notice->job->progress = NULL;
    notice->job = NULL;
}

void runtime_job_notice_release(libsched *s, struct runtime_completion *completion)
{
    struct runtime_job_notice *notice =
        LIST_ENTRY(completion, struct runtime_job_notice, completion);
    if (notice->job != NULL && notice == &notice->job->end) {
        runtime_job_free(s, notice->job);
        return;
    }
    runtime_job_notice_reaped(completion);
    free(notice);
}

/* -------------------------------------------------------------------------------- its result */

static size_t value_bytes(const libsched_parameter *value)
{
    size_t bytes = strlen(value->name) + 1;
    if (value->type == LIBSCHED_PARAMETER_STRING)
        bytes += strlen(value->value.string) + 1;
    return bytes;
}

/* A value's strings are in one block, which its name begins. */
static void free_value(libsched_parameter *value)
{
    free((void *)(uintptr_t)value->name);
}

void runtime_job_values_free(struct runtime_job *job)
{
    for (uint32_t i = 0; i < job->n_values; i++)
        free_value(&job->values[i]);
    free(job->values);
    job->values = NULL;
    job->n_values = 0;
}

static bool copy_value(libsched_parameter *out, const libsched_parameter *value)
{
    size_t name = strlen(value->name) + 1;
    char *strings = malloc(value_bytes(value));
    if (strings == NULL)
        return false;
    *out = *value;
    out->name = memcpy(strings, value->name, name);
    if (value->type == LIBSCHED_PARAMETER_STRING)
        out->value.string =
            memcpy(strings + name, value->value.string, strlen(value->value.string) + 1);
    return true;
}

/* The place of a value of that name: the one there is, or a new one. */
static libsched_parameter *place(struct runtime_job *job, const char *name)
{
    for (uint32_t i = 0; i < job->n_values; i++)
        if (strcmp(job->values[i].name, name) == 0)
            return &job->values[i];
    libsched_parameter *more = realloc(job->values, (job->n_values + 1) * sizeof(*more));
    if (more == NULL)
        return NULL;
    job->values = more;
    more[job->n_values].name = NULL;
    return &more[job->n_values];
}

void runtime_job_value(libsched *s, struct runtime_job *job, const libsched_parameter *given)
{
    libsched_parameter copy;
    libsched_parameter *to = place(job, given->name);
    size_t before = to != NULL && to->name != NULL ? value_bytes(to) : 0;
    size_t bytes = job->value_bytes - before + value_bytes(given);
    if (before == 0)
        bytes += sizeof(*to);
    if (to == NULL || bytes > MAX_VALUE_BYTES || !copy_value(&copy, given)) {
        runtime_log(s, LIBSCHED_LOG_WARNING, "job %s: there is no room for \"%.64s\" of its result",
                    job->name, given->name);
        return;
    }
    if (before == 0)
        job->n_values++;
    else
        free_value(to);
    *to = copy;
    job->value_bytes = bytes;
}

/* ------------------------------------------------------------------------------------- its end */

void runtime_job_queue_end(libsched *s, struct runtime_job *job, int status)
{
    struct runtime_job_notice *end = &job->end;
    if (job->progress != NULL)
        job->progress->job = NULL;
    job->progress = NULL;
    job->state = LIBSCHED_JOB_ENDED;
    fill(end, job, LIBSCHED_JOB_ENDED, status, status < 0 ? job->failure.message : job->message);
    end->completion.public.values = job->values;
    end->completion.public.n_values = job->n_values;
    runtime_completion_queue(s, &end->completion);
}
