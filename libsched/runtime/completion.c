/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completions: queued in the order in which they came about, reaped in bulk, released by the
 * caller. A request's end lies in the request, so that there is always memory for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

void runtime_completion_queue(libsched *s, struct runtime_completion *completion)
{
    completion->public.handle = completion;
    if (completion->public.message == NULL)
        completion->public.message = "";
    list_append(&s->ready, &completion->link);
    s->n_ready++;
    runtime_reap_signal(s);
}

bool runtime_notice_queue(libsched *s, const libsched_completion *what, const char *name,
                          const char *message)
{
    struct runtime_notice *notice = calloc(1, sizeof(*notice));
    if (notice == NULL)
        return false;
    snprintf(notice->name, sizeof(notice->name), "%s", name);
    snprintf(notice->message, sizeof(notice->message), "%s", message);
    notice->completion.public = *what;
    notice->completion.public.name = notice->name;
    notice->completion.public.message = notice->message;
    runtime_completion_queue(s, &notice->completion);
    return true;
}

size_t libsched_reap(libsched *s, libsched_completion *out, size_t max)
{
    size_t n = 0;
    runtime_lock(s);
    while (n < max && s->n_ready > 0) {
        struct list *node = s->ready.next;
        list_remove(node);
        list_append(&s->reaped, node);
        s->n_ready--;
        struct runtime_completion *completion = LIST_ENTRY(node, struct runtime_completion, link);
        if (completion->public.kind == LIBSCHED_JOB)
            runtime_job_notice_reaped(completion);
        out[n++] = completion->public;
    }
    if (s->n_ready == 0)
        runtime_reap_taken(s);
    else if (!s->own_thread && !s->spinning)
        runtime_wake(s); /* so that who polls before he has reaped all of them is woken */
    runtime_unlock(s);
    return n;
}

static void release(libsched *s, struct runtime_completion *completion)
{
    list_remove(&completion->link);
    worker_results_release(completion->results);
    completion->results = NULL;
    if (completion->public.kind == LIBSCHED_END) {
        completion->request->released = true;
        runtime_request_release(s, completion->request);
        return;
    }
    if (completion->public.kind == LIBSCHED_JOB)
        runtime_job_notice_release(s, completion);
    else
        free(LIST_ENTRY(completion, struct runtime_notice, completion));
}

void libsched_release(libsched *s, libsched_completion *completions, size_t n)
{
    runtime_lock(s);
    for (size_t i = 0; i < n; i++) {
        if (completions[i].handle != NULL)
            release(s, completions[i].handle);
        completions[i].handle = NULL;
        completions[i].outputs = NULL;
        completions[i].n_outputs = 0;
        completions[i].values = NULL;
        completions[i].n_values = 0;
    }
    runtime_unlock(s);
}

void runtime_completions_free(libsched *s)
{
    LIST_EACH(&s->ready, node, following)
    release(s, LIST_ENTRY(node, struct runtime_completion, link));
    LIST_EACH(&s->reaped, other, following)
    release(s, LIST_ENTRY(other, struct runtime_completion, link));
    s->n_ready = 0;
}
