/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request gives: its parts, its end, and the sentence that goes with an end that is not
 * good.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

/* --------------------------------------------------------------------------------------- parts */

static void free_part(struct runtime_completion *part)
{
    list_remove(&part->link);
    worker_results_release(part->results);
    free(part);
}

void runtime_parts_forget(struct runtime_request *request)
{
    LIST_EACH(&request->parts, node, following)
    free_part(LIST_ENTRY(node, struct runtime_completion, link));
}

void runtime_part_came(libsched *s, struct runtime_request *request, struct worker_event *event)
{
    /* Where nobody wants the parts, the last one's outputs may turn out to be those of the end. */
    if (!request->wants_parts)
        runtime_parts_forget(request);
    struct runtime_completion *part = calloc(1, sizeof(*part));
    if (part == NULL) {
        struct core_event cancel = {.type = CORE_CANCEL, .u.cancel.id = request->core_id};
        worker_results_release(event->results);
        libsched_error_set(&request->failure, LIBSCHED_ENOMEM,
                           "no memory for a part of its answer");
        request->fails = true;
        core_handle(s->core, s->now, &cancel);
        return;
    }
    list_init(&part->link);
    part->results = event->results;
    part->public.outputs = event->outputs;
    part->public.n_outputs = event->n_outputs;
    list_append(&request->parts, &part->link);
}

void runtime_part_send(libsched *s, struct runtime_request *request)
{
    if (list_empty(&request->parts))
        return;
    struct runtime_completion *part =
        LIST_ENTRY(request->parts.next, struct runtime_completion, link);
    list_remove(&part->link);
    part->public.kind = LIBSCHED_PART;
    part->public.id = request->id;
    part->public.user = request->user;
    part->public.device = request->device;
    runtime_completion_queue(s, part);
}

/* ------------------------------------------------------------------------------------- the end */

void runtime_outputs_keep(struct runtime_request *request, struct worker_event *event)
{
    struct runtime_completion *end = &request->end;
    worker_results_release(end->results);
    end->results = event->results;
    end->public.outputs = event->outputs;
    end->public.n_outputs = event->n_outputs;
}

/* Where the end itself brought nothing, the last part's outputs are the answer. */
static void take_last_part(struct runtime_request *request)
{
    if (request->wants_parts || request->end.public.n_outputs > 0 || list_empty(&request->parts))
        return;
    struct runtime_completion *part =
        LIST_ENTRY(request->parts.prev, struct runtime_completion, link);
    worker_results_release(request->end.results);
    request->end.results = part->results;
    request->end.public.outputs = part->public.outputs;
    request->end.public.n_outputs = part->public.n_outputs;
    part->results = NULL;
    free_part(part);
}

/* What to say where nobody who was nearer to it has said it. */
static void explain(libsched_error *err, const struct runtime_request *request, int status)
{
    const struct runtime_model *model = request->model;
    char before[LIBSCHED_MESSAGE_SIZE];

    switch (status) {
    case LIBSCHED_EDEADLINE:
        libsched_error_set(err, status, "its deadline passed before it could be answered");
        break;
    case LIBSCHED_ECANCELED:
        libsched_error_set(err, status, "it was cancelled");
        break;
    case LIBSCHED_EPOISON:
        memcpy(before, err->message, sizeof(before));
        libsched_error_set(err, status,
                           "it ended its worker each time it ran alone, so it isn't tried again: "
                           "%.150s",
                           before);
        break;
    case LIBSCHED_ETOOBIG:
        libsched_error_set(err, status, "it costs %llu units, model \"%s\" takes at most %llu",
                           (unsigned long long)request->units, model->name,
                           (unsigned long long)model->description.max_request_units);
        break;
    case LIBSCHED_ENOMODEL:
        libsched_error_set(err, status, "model \"%s\" was unloaded", model->name);
        break;
    case LIBSCHED_EDEVICELOST:
        libsched_error_set(err, status,
                           "its worker ended after a part of the answer had been sent, and the "
                           "model does not give the same parts again");
        break;
    case LIBSCHED_ENODEVMEM:
        libsched_error_set(err, status, "the device has not enough memory for it");
        break;
    case LIBSCHED_ECLOSING:
        libsched_error_set(err, status, "the scheduler is closing");
        break;
    default:
        if (model->error.status == status && model->error.message[0] != '\0')
            *err = model->error;
        else
            libsched_error_set(err, status, "it failed");
    }
}

static void count(libsched_counters *counters, int status, const libsched_completion *end)
{
    if (status == LIBSCHED_OK) {
        counters->completed++;
        counters->queue_ns += end->queue_ns;
        counters->compute_ns += end->compute_ns;
    } else if (status == LIBSCHED_ECANCELED) {
        counters->cancelled++;
    } else if (status == LIBSCHED_EDEADLINE) {
        counters->expired++;
    } else {
        counters->failed++;
    }
}

static void finish(libsched *s, struct runtime_request *request, int status)
{
    libsched_completion *end = &request->end.public;
    end->kind = LIBSCHED_END;
    end->status = status;
    end->id = request->id;
    end->user = request->user;
    if (status == LIBSCHED_OK) {
        take_last_part(request);
        end->message = "";
    } else {
        worker_results_release(request->end.results);
        request->end.results = NULL;
        end->outputs = NULL;
        end->n_outputs = 0;
        if (request->failure.status != status || request->failure.message[0] == '\0')
            explain(&request->failure, request, status);
        end->message = request->failure.message;
    }
    runtime_parts_forget(request);
    count(&s->counters, status, end);
    count(&request->model->counters, status, end);
    if (status == LIBSCHED_OK)
        runtime_histograms_count(&request->model->histograms, end);
    request->ended = true;
    request->model = NULL;
    runtime_completion_queue(s, &request->end);
    runtime_request_release(s, request);
}

void runtime_request_finish(libsched *s, struct runtime_request *request,
                            const struct core_action *reply)
{
    uint64_t now = s->now;
    libsched_completion *end = &request->end.public;
    end->device = reply->dispatched != 0 ? request->device : UINT32_MAX;
    end->attempts = reply->attempts;
    end->batch_size = reply->batch_size;
    end->queue_ns = (reply->dispatched != 0 ? reply->dispatched : now) - request->submitted_at;
    end->compute_ns = reply->dispatched != 0 ? now - reply->dispatched : 0;
    s->by_core[request->core_id & RUNTIME_SLOT_MASK] = NULL;
    finish(s, request, request->fails ? request->failure.status : reply->status);
}

void runtime_request_finish_held(libsched *s, struct runtime_request *request, int status,
                                 const char *message)
{
    list_remove(&request->held);
    request->model->n_held--;
    request->end.public.device = UINT32_MAX;
    request->end.public.queue_ns = s->now - request->submitted_at;
    if (message != NULL)
        libsched_error_set(&request->failure, status, "%s", message);
    finish(s, request, status);
}
