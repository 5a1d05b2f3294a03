/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing: the pieces, put together in one order and taken apart in the other. */
#include <stdlib.h>

#include "runtime/internal.h"

#define MAX_CLIENTS 4096u

static int open_memory(libsched *s, libsched_error *err)
{
    int rc = segment_create(&s->segment, "gpu_sched-inputs", s->options.arena_bytes, err);
    if (rc < 0)
        return rc;
    s->arena = runtime_arena_new(s->options.arena_bytes);
    if (s->arena == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the arena");
    return LIBSCHED_OK;
}

static int open_core(libsched *s, libsched_error *err)
{
    struct core_config config = {
        .max_requests = s->options.max_requests,
        .max_clients = MAX_CLIENTS,
        .max_client_requests = s->options.max_client_requests,
        .max_jobs = s->options.max_jobs,
        .job_share = s->options.job_share_percent * 1024 / 100,
    };
    for (int i = 0; i < CORE_PRIORITIES; i++) {
        config.class_shares[i] = s->options.class_shares[i];
        config.class_patience[i] = s->options.class_patience_ns[i];
    }
    s->core = core_new(&config);
    if (s->core == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for %u requests",
                                  s->options.max_requests);
    return LIBSCHED_OK;
}

static int open_all(libsched *s, const libsched_options *options, libsched_error *err)
{
    int rc = runtime_options_read(&s->options, options, err);
    s->last_job = s->options.first_job - 1;
    if (rc == LIBSCHED_OK)
        rc = open_core(s, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_requests_open(s, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_wakeup_open(s, err);
    if (rc == LIBSCHED_OK)
        rc = open_memory(s, err);
    if (rc == LIBSCHED_OK)
        rc = runtime_devices_find(s, err);
    if (rc < 0)
        return rc;
    runtime_workers_restart(s, runtime_now(s));
    runtime_wake(s);
    return runtime_thread_start(s, err);
}

int libsched_open(libsched **out, const libsched_options *options, libsched_error *err)
{
    *out = NULL;
    libsched *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a scheduler");
    s->opened_at = libsched_now();
    s->next_epoch = 1;
    s->epoll_fd = s->timer_fd = s->wake_fd = s->reap_fd = -1;
    list_init(&s->ready);
    list_init(&s->reaped);
    list_init(&s->buffers);
    list_init(&s->jobs);
    int rc = open_all(s, options, err);
    if (rc < 0) {
        libsched_close(s);
        return rc;
    }
    *out = s;
    return LIBSCHED_OK;
}

void libsched_close(libsched *s)
{
    if (s == NULL)
        return;
    runtime_thread_stop(s);
    runtime_workers_end(s);
    /* Nobody reads the inputs any more. */
    for (uint32_t i = 0; i < s->n_devices; i++)
        LIST_EACH(&s->devices[i].running, node, following)
    list_remove(node);
    runtime_completions_free(s);
    runtime_jobs_free(s);
    runtime_gangs_forget(s, NULL);
    runtime_together_free(s);
    runtime_requests_close(s);
    runtime_buffers_free(s);
    runtime_models_free(s);
    runtime_wakeup_close(s);
    runtime_arena_free(s->arena);
    segment_free(s->segment);
    topology_close(s->topology);
    core_free(s->core);
    runtime_options_free(&s->options);
    free(s);
}

void libsched_drain(libsched *s)
{
    struct core_event event = {.type = CORE_DRAIN};
    runtime_lock(s);
    s->draining = true;
    core_handle(s->core, runtime_now(s), &event);
    /* The core would not take them any more once their models are there. */
    libsched_error why = {.status = LIBSCHED_ECLOSING, .message = "the scheduler is closing"};
    for (uint32_t i = 0; i < s->n_models; i++)
        runtime_held_fail(s, s->models[i], &why);
    runtime_settle(s);
    runtime_unlock(s);
}

int libsched_fd(const libsched *s)
{
    return s->own_thread ? s->reap_fd : s->epoll_fd;
}
