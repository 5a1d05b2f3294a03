/* SPDX-License-Identifier: Apache-2.0 */
/* Whether jobs fit together: see check.c. */
#include <inttypes.h>

#include "core/internal.h"

#define CHECK(condition, ...)                                      \
    do {                                                           \
        if (!(condition)) {                                        \
            libsched_error_set(err, LIBSCHED_EINVAL, __VA_ARGS__); \
            return false;                                          \
        }                                                          \
    } while (0)

static bool check_waiting(const struct core *core, uint32_t *n, libsched_error *err)
{
    uint32_t previous = CORE_NONE;

    for (uint32_t i = core->waiting_jobs; i != CORE_NONE; i = core->jobs[i].next) {
        CHECK(i < core->config.max_jobs && ++*n <= core->n_jobs, "the jobs wait in a ring");
        const struct core_job *j = &core->jobs[i];
        CHECK(j->prev == previous && j->phase == CORE_JOB_WAITING,
              "job %" PRIu32 " of phase %d waits, or does not link back", i, j->phase);
        CHECK(previous == CORE_NONE || core->jobs[previous].id < j->id,
              "job %" PRIu32 " waits behind a younger one", i);
        previous = i;
    }
    CHECK(core->last_job == previous, "the jobs that wait end elsewhere than they say");
    CHECK(core->head_job == CORE_NONE || core->jobs[core->head_job].phase == CORE_JOB_WAITING,
          "devices are kept for a job that doesn't wait");
    return true;
}

/* A device of a job. */
static bool check_gang_device(const struct core *core, const struct core_job *j, uint32_t slot,
                              uint32_t device, libsched_error *err)
{
    const struct core_device_state *d = core->devices[device];
    uint64_t memory = d->config.memory_bytes == 0 || j->reserves ? 0 : j->memory;
    bool runs = j->phase == CORE_JOB_BEGINS || j->phase == CORE_JOB_STEPPING;

    CHECK(d->gang == slot, "device %" PRIu32 " is another's than job %" PRIu32 "'s", device, slot);
    CHECK(d->gang_memory == memory, "the rank on %" PRIu32 " has other memory", device);
    CHECK(d->reserved == j->reserves && (d->closed || !d->reserved),
          "device %" PRIu32 " is, or isn't, reserved", device);
    if (j->reserves) {
        CHECK(j->phase != CORE_JOB_HELD || (!d->up && d->vacated),
              "device %" PRIu32 " is held, and has a worker", device);
        CHECK(j->phase != CORE_JOB_ENDING || (d->up && d->vacated),
              "device %" PRIu32 " is kept for nothing", device);
        CHECK(j->phase == CORE_JOB_DRAINING || j->phase == CORE_JOB_VACATING || !d->closed ||
                  d->vacated,
              "device %" PRIu32 " was not vacated", device);
        return true;
    }
    CHECK(d->up && !d->vacated, "a rank on %" PRIu32 ", which is down", device);
    /* A load that wants no company may begin once the device's own rank is done with the step. */
    bool busy = (j->awaits & core_bit(device)) != 0;
    CHECK(!runs || (d->in_flight == 0 && !(busy && d->exclusive)),
          "device %" PRIu32 " runs a rank and more", device);
    CHECK(!d->closed || j->phase == CORE_JOB_DRAINING, "device %" PRIu32 " is kept empty", device);
    return true;
}

static bool check_job(const struct core *core, uint32_t slot, uint64_t *devices,
                      libsched_error *err)
{
    const struct core_job *j = &core->jobs[slot];
    bool all = j->phase >= CORE_JOB_DRAINING && j->phase <= CORE_JOB_STEPPING;
    bool asks = j->phase == CORE_JOB_BEGINS || j->phase == CORE_JOB_STEPPING;

    CHECK((j->id & 0xffff) == slot && j->id >> 16 != 0, "job %" PRIu32 " has another's id", slot);
    CHECK((j->say != 0) == core_action_linked(&j->action),
          "job %" PRIu32 " has something to say, or hasn't", slot);
    CHECK((j->phase == CORE_JOB_ENDED) == (j->say == CORE_SAY_REPLY),
          "job %" PRIu32 " of phase %d ends, or doesn't", slot, j->phase);
    CHECK((j->devices & ~j->allowed) == 0, "job %" PRIu32 " has what it may not have", slot);
    CHECK((j->devices & *devices) == 0, "job %" PRIu32 " has another's device", slot);
    CHECK(!all || (uint32_t)__builtin_popcountll(j->devices) == j->n_devices,
          "job %" PRIu32 " has a part of its devices", slot);
    CHECK((j->phase >= CORE_JOB_DRAINING && j->phase <= CORE_JOB_ENDING) == (j->devices != 0),
          "job %" PRIu32 " of phase %d has devices, or none", slot, j->phase);
    CHECK((j->awaits & ~j->devices) == 0 && (j->begun & ~j->devices) == 0,
          "job %" PRIu32 " waits for somebody else's device", slot);
    CHECK(!asks || j->awaits != 0, "job %" PRIu32 " waits for nobody", slot);
    CHECK(j->phase != CORE_JOB_READY || (j->awaits == 0 && j->begun == j->devices),
          "job %" PRIu32 " goes on before all have answered", slot);
    CHECK(j->phase != CORE_JOB_ENDING || j->reserves || j->awaits == j->devices,
          "job %" PRIu32 " ends, and waits for others", slot);
    CHECK(j->n_devices > 0 && (uint32_t)__builtin_popcountll(j->allowed) >= j->n_devices,
          "job %" PRIu32 " wants too much", slot);
    *devices |= j->devices;
    for (uint64_t bits = j->devices; bits != 0; bits &= bits - 1)
        if (!check_gang_device(core, j, slot, (uint32_t)__builtin_ctzll(bits), err))
            return false;
    return true;
}

static bool check_job_clients(const struct core *core, libsched_error *err)
{
    uint32_t jobs = 0, waiting = 0, of_class[CORE_PRIORITIES] = {0};

    for (uint32_t i = 0; i < core->max_job_clients; i++) {
        const struct core_job_client *c = &core->job_clients[i];
        CHECK(c->waiting <= c->jobs && (c->used || c->jobs == 0),
              "client %" PRIu32 " counts its jobs wrongly", i);
        jobs += c->jobs;
        waiting += c->waiting;
        of_class[c->priority] += c->waiting;
    }
    for (uint32_t slot = 0; slot < core->config.max_jobs; slot++) {
        const struct core_job *j = &core->jobs[slot];
        if (j->phase == CORE_JOB_FREE)
            continue;
        jobs -= j->phase != CORE_JOB_ENDED;
        waiting -= j->phase == CORE_JOB_WAITING;
        of_class[j->priority] -= j->phase == CORE_JOB_WAITING;
    }
    CHECK(jobs == 0 && waiting == 0, "the clients have other jobs than there are");
    for (uint32_t i = 0; i < CORE_PRIORITIES; i++) {
        CHECK(of_class[i] == 0, "the clients of class %" PRIu32 " have other jobs", i);
        waiting += core->job_classes[i].waiting;
    }
    for (uint32_t i = core->waiting_jobs; i != CORE_NONE; i = core->jobs[i].next)
        waiting--;
    CHECK(waiting == 0, "the classes have other jobs than there are");
    return true;
}

bool core_gang_check(const struct core *core, libsched_error *err)
{
    uint32_t n_free = 0, n = 0, waiting = 0, listed = 0, ended = 0;
    uint64_t devices = 0;

    for (uint32_t i = core->free_job; i != CORE_NONE; i = core->jobs[i].next)
        CHECK(i < core->config.max_jobs && ++n_free <= core->config.max_jobs &&
                  core->jobs[i].phase == CORE_JOB_FREE &&
                  !core_action_linked(&core->jobs[i].action),
              "the free jobs run in a ring, or are known");
    if (!check_waiting(core, &listed, err))
        return false;
    for (uint32_t slot = 0; slot < core->config.max_jobs; slot++) {
        const struct core_job *j = &core->jobs[slot];
        if (j->phase == CORE_JOB_FREE)
            continue;
        n++;
        waiting += j->phase == CORE_JOB_WAITING;
        ended += j->phase == CORE_JOB_ENDED;
        if (!check_job(core, slot, &devices, err))
            return false;
    }
    CHECK(n == core->n_jobs && n + n_free == core->config.max_jobs, "jobs were lost");
    CHECK(waiting == listed, "a job waits, and is forgotten");
    CHECK(core->jobs_submitted == core->jobs_ended + n - ended, "jobs ended twice, or never");
    CHECK(devices == core->job_devices, "the devices of jobs are others than it is thought");
    for (uint32_t i = 0; i < CORE_MAX_DEVICES; i++) {
        const struct core_device_state *d = core->devices[i];
        if (d == NULL)
            continue;
        CHECK((d->gang != CORE_NONE) == ((devices & core_bit(i)) != 0),
              "device %" PRIu32 " is a job's, or isn't", i);
        CHECK(d->gang != CORE_NONE || (!d->closed && !d->reserved && d->gang_memory == 0),
              "device %" PRIu32 " is kept for nobody", i);
        CHECK((d->say != 0) == core_action_linked(&d->action),
              "device %" PRIu32 " has something to say, or hasn't", i);
        CHECK(!d->vacated || d->gang != CORE_NONE || (d->say & CORE_SAY_OCCUPY),
              "device %" PRIu32 " is never given back", i);
        CHECK(!(d->say & CORE_SAY_KILL) || d->dying, "device %" PRIu32 " is ended, alive", i);
    }
    return check_job_clients(core, err);
}
