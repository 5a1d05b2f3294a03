/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core wants to be loaded, and who reads it. Loads that it asks for in one go, of a large
 * model on several GPUs, are made together: one worker reads the weights and the others get them
 * from its GPU, where each would else read, hold in memory and copy the whole of them. What comes
 * of it is each worker's own affair: one that does not get them reads them itself, and so does one
 * that is started again later.
 *
 * A worker that waits for the others serves nobody meanwhile. So only those take part that have
 * nothing else to do, and they give it up where one of them would keep the others waiting.
 */
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/safetensors.h"
#include "runtime/internal.h"

/* So long one waits for another before it reads by itself: for the file to be read, above all. */
#define TIMEOUT_NS UINT64_C(60000000000)

void runtime_load_plan(libsched *s, const struct core_action *action)
{
    struct runtime_device *device = &s->devices[action->device];
    if (device->worker == NULL || device->epoch != action->epoch)
        return;
    s->by_index[action->model]->loads[action->device] = RUNTIME_LOADING;
    s->load_wanted[action->model] |= UINT64_C(1) << action->device;
    s->loads_wanted = true;
}

/* ------------------------------------------------------------------------------------ together */

/* Where there are not many weights the time to find each other is more than all that is saved. */
static bool is_large(const libsched *s, const struct runtime_model *model)
{
    if (strcmp(model->engine, "encoder") != 0 || model->library != NULL || model->path == NULL)
        return false;
    return catalog_file_size(model->path, SAFETENSORS_WEIGHTS) >= s->options.share_weights_bytes;
}

static const char *place_of(const struct runtime_device *device)
{
    return device->topology != NULL ? device->topology->pci_bus_id : "";
}

/* Whether its worker does nothing, so that it begins with a model as soon as it is asked to. */
static bool is_idle(const libsched *s, const struct runtime_device *device, uint32_t model)
{
    if (device->worker == NULL || device->job != 0 || !list_empty(&device->running))
        return false;
    /* What is still to be sent comes behind. */
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++)
        if (i != model && s->by_index[i] != NULL &&
            s->by_index[i]->loads[device->index] == RUNTIME_LOADING &&
            (s->load_wanted[i] >> device->index & 1) == 0)
            return false;
    return true;
}

/* Whether two are on GPUs of their own, of one make. */
static bool can_meet(const struct runtime_device *a, const struct runtime_device *b)
{
    return strcmp(a->driver, b->driver) == 0 && strcmp(place_of(a), place_of(b)) != 0;
}

/* One device of each GPU. */
static void choose(const libsched *s, uint64_t wanted, struct runtime_together *out)
{
    out->n_ranks = 0;
    for (uint32_t i = 0; i < s->n_listed; i++) {
        const struct runtime_device *device = &s->devices[i];
        bool fits =
            (wanted >> i & 1) != 0 && place_of(device)[0] != '\0' && is_idle(s, device, out->model);
        for (uint32_t r = 0; r < out->n_ranks; r++)
            fits = fits && can_meet(&s->devices[out->ranks[r]], device);
        if (fits)
            out->ranks[out->n_ranks++] = i;
    }
}

/* Where several can load it together, they are s->together. */
static void begin_together(libsched *s, struct runtime_model *model, uint64_t wanted)
{
    struct runtime_together fresh = {.model = model->index};
    if (s->together.id != 0 || !is_large(s, model))
        return;
    choose(s, wanted, &fresh);
    if (fresh.n_ranks < 2 ||
        segment_create_shared(&fresh.shared, "gpu_sched-load",
                              LIBSCHED_COMMUNICATOR_SHARED_SIZE(fresh.n_ranks), NULL) < 0)
        return;
    fresh.id = ++s->next_together;
    for (uint32_t r = 0; r < fresh.n_ranks; r++) {
        fresh.epochs[r] = s->devices[fresh.ranks[r]].epoch;
        fresh.left |= UINT64_C(1) << r;
    }
    s->together = fresh;
}

static uint32_t rank_of(const libsched *s, const struct runtime_device *device)
{
    uint32_t r = 0;
    while (r < s->together.n_ranks &&
           (s->together.ranks[r] != device->index || s->together.epochs[r] != device->epoch))
        r++;
    return r;
}

/* The workers that are still at it, but for rank 0. */
static void tell_id(libsched *s, int status, const unsigned char *id)
{
    for (uint32_t r = 1; r < s->together.n_ranks; r++) {
        struct runtime_device *device = &s->devices[s->together.ranks[r]];
        if ((s->together.left >> r & 1) == 0 || device->worker == NULL)
            continue;
        int rc = worker_load_id(device->worker, s->together.model, status, id);
        if (rc < 0 && rc != LIBSCHED_EDEVICELOST)
            runtime_worker_kill(s, device, "it does not take its commands");
    }
}

void runtime_load_id(libsched *s, struct runtime_device *device, const struct worker_event *event)
{
    if (s->together.id == 0 || event->key != s->together.model || rank_of(s, device) != 0)
        return;
    s->together.told = true;
    tell_id(s, event->status, event->rank_id);
}

/* Nobody waits for anybody any more. */
static void interrupt(libsched *s)
{
    static const unsigned char nothing[LIBSCHED_COMMUNICATOR_ID_SIZE];
    s->together.given_up = true;
    for (uint32_t r = 0; r < s->together.n_ranks; r++) {
        struct runtime_device *device = &s->devices[s->together.ranks[r]];
        if ((s->together.left >> r & 1) != 0 && device->worker != NULL)
            worker_load_interrupt(device->worker, s->together.id, NULL);
    }
    tell_id(s, LIBSCHED_ECANCELED, nothing);
}

void runtime_load_over(libsched *s, const struct runtime_device *device, bool ended)
{
    uint32_t rank = rank_of(s, device);
    if (s->together.id == 0 || rank == s->together.n_ranks)
        return;
    s->together.left &= ~(UINT64_C(1) << rank);
    if (ended)
        interrupt(s);
    if (s->together.left != 0)
        return;
    runtime_segment_drop(s, s->together.shared);
    runtime_together_free(s);
}

/* What waits for other devices might wait for one that waits for this one here. What does not is
 * done first where the id has not come yet, however long it takes. */
void runtime_load_beside(libsched *s, const struct runtime_device *device, bool with_others)
{
    uint32_t rank = rank_of(s, device);
    if (s->together.id == 0 || s->together.given_up || rank == s->together.n_ranks ||
        (s->together.left >> rank & 1) == 0)
        return;
    if (with_others || (rank != 0 && !s->together.told))
        interrupt(s);
}

void runtime_together_free(libsched *s)
{
    segment_free(s->together.shared);
    memset(&s->together, 0, sizeof(s->together));
}

/* ------------------------------------------------------------------------------------- sending */

static void send(libsched *s, struct runtime_model *model, struct runtime_device *device)
{
    const bool together =
        s->together.id != 0 && s->together.model == model->index && !s->together.given_up;
    const uint32_t rank = together ? rank_of(s, device) : 0;
    const struct worker_share share = {
        .id = s->together.id,
        .rank = rank,
        .n_ranks = s->together.n_ranks,
        .timeout_ns = TIMEOUT_NS,
        .shared = s->together.shared,
    };
    const struct worker_model what = {
        .key = model->index,
        .name = model->name,
        .engine = model->engine,
        .library = model->library,
        .path = model->path,
        .parameters = model->parameters,
        .n_parameters = model->n_parameters,
        .prepare_only = device->prepares,
        .share = together && rank < s->together.n_ranks ? &share : NULL,
    };
    struct worker_event event = {.type = WORKER_LOADED, .key = model->index};
    event.status = worker_load(device->worker, &what, &event.error);
    if (event.status >= 0)
        return;
    runtime_load_over(s, device, true);
    runtime_model_loaded(s, model, device, &event);
}

bool runtime_loads_send(libsched *s)
{
    if (!s->loads_wanted)
        return false;
    s->loads_wanted = false;
    for (uint32_t i = 0; i < CORE_MAX_MODELS; i++) {
        const uint64_t wanted = s->load_wanted[i];
        s->load_wanted[i] = 0;
        if (wanted == 0 || s->by_index[i] == NULL)
            continue;
        begin_together(s, s->by_index[i], wanted);
        for (uint32_t d = 0; d < s->n_devices; d++)
            if ((wanted >> d & 1) != 0 && s->devices[d].worker != NULL)
                send(s, s->by_index[i], &s->devices[d]);
    }
    return true;
}
