/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/decision_log.h"

#include <cinttypes>

namespace sim
{

namespace
{

const char *action_name(core_action_type type)
{
    static const char *const names[] = {
        "?",    "dispatch",  "step",      "load",     "evict",     "abort",     "kill",   "reply",
        "part", "arm-timer", "job-start", "job-step", "job-close", "job-reply", "vacate", "occupy"};
    return static_cast<uint32_t>(type) < sizeof(names) / sizeof(names[0]) ? names[type] : "?";
}

const char *event_name(core_event_type type)
{
    static const char *const names[] = {
        "?",           "submit",       "prepared",     "cancel",     "grant",      "part",
        "item-done",   "step-done",    "batch-done",   "loaded",     "evicted",    "memory-report",
        "worker-up",   "worker-down",  "timer",        "drain",      "job-submit", "job-cancel",
        "job-release", "rank-started", "rank-stepped", "rank-closed"};
    return static_cast<uint32_t>(type) < sizeof(names) / sizeof(names[0]) ? names[type] : "?";
}

} // namespace

void DecisionLog::action(uint64_t now, const core_action &a)
{
    mix(now);
    mix(a.seq << 8 | a.type);
    mix(static_cast<uint64_t>(a.device) << 32 | a.model);
    mix(a.epoch);
    mix(a.batch);
    mix(static_cast<uint64_t>(a.step) << 32 | a.n_items);
    mix(a.id);
    mix(static_cast<uint64_t>(static_cast<int64_t>(a.status)) ^ a.at);
    mix(a.job);
    for (uint32_t i = 0; i < a.n_items; i++)
        mix(a.items[i].id * 8 + a.items[i].joins * 4u + a.items[i].leaves * 2u + a.ends);
    for (uint32_t i = 0; i < a.n_ranks; i++)
        mix(a.ranks[i]);
    if (file == nullptr)
        return;
    std::fprintf(file, "%" PRIu64 " %s", now, action_name(a.type));
    switch (a.type) {
    case CORE_DISPATCH:
    case CORE_STEP:
        std::fprintf(file,
                     " device %u epoch %" PRIu64 " model %u batch %" PRIx64 " step %u%s:", a.device,
                     a.epoch, a.model, a.batch, a.step, a.ends ? " ends" : "");
        for (uint32_t i = 0; i < a.n_items; i++)
            std::fprintf(file, " %" PRIx64 "/%" PRIu64 "%s%s", a.items[i].id, a.items[i].units,
                         a.items[i].joins ? "+" : "", a.items[i].leaves ? "-" : "");
        break;
    case CORE_LOAD:
    case CORE_EVICT:
        std::fprintf(file, " device %u epoch %" PRIu64 " model %u", a.device, a.epoch, a.model);
        break;
    case CORE_REPLY:
        std::fprintf(file, " %" PRIx64 " status %d attempts %u dispatched %" PRIu64 " of %u", a.id,
                     a.status, a.attempts, a.dispatched, a.batch_size);
        break;
    case CORE_REPLY_PART:
        std::fprintf(file, " %" PRIx64, a.id);
        break;
    case CORE_ABORT:
        std::fprintf(file, " device %u epoch %" PRIu64 " %" PRIx64, a.device, a.epoch, a.id);
        break;
    case CORE_ARM_TIMER:
        std::fprintf(file, " at %" PRIu64, a.at);
        break;
    case CORE_JOB_START:
    case CORE_JOB_STEP:
    case CORE_JOB_CLOSE:
    case CORE_JOB_REPLY:
        std::fprintf(file, " %" PRIx64 " step %u status %d ranks", a.job, a.step, a.status);
        for (uint32_t i = 0; i < a.n_ranks; i++)
            std::fprintf(file, " %u", a.ranks[i]);
        break;
    default:
        std::fprintf(file, " device %u epoch %" PRIu64, a.device, a.epoch);
    }
    std::fputc('\n', file);
}

void DecisionLog::event(uint64_t now, const core_event &e, int status)
{
    mix(static_cast<uint64_t>(e.type) << 32 ^ static_cast<uint32_t>(status) ^ now << 8);
    if (file == nullptr)
        return;
    std::fprintf(file, "%" PRIu64 " < %s", now, event_name(e.type));
    switch (e.type) {
    case CORE_SUBMIT:
        std::fprintf(file,
                     " %" PRIx64 " model %u class %u client %" PRIx64 " units %" PRIu64
                     " deadline %" PRIu64 " key %" PRIu64,
                     e.u.submit.id, e.u.submit.model, e.u.submit.priority, e.u.submit.client,
                     e.u.submit.units, e.u.submit.deadline, e.u.submit.batch_key);
        break;
    case CORE_CANCEL:
    case CORE_GRANT:
    case CORE_JOB_CANCEL:
    case CORE_JOB_RELEASE:
        std::fprintf(file, " %" PRIx64, e.u.cancel.id);
        break;
    case CORE_TIMER:
    case CORE_DRAIN:
        break;
    case CORE_JOB_SUBMIT:
        std::fprintf(file, " %" PRIx64 " k %u of %" PRIx64, e.u.job.id, e.u.job.n_devices,
                     e.u.job.devices);
        break;
    case CORE_PREPARED:
    case CORE_PART:
    case CORE_ITEM_DONE:
        std::fprintf(file, " device %u epoch %" PRIu64 " %" PRIx64 " batch %" PRIx64, e.device,
                     e.epoch, e.u.part.id, e.u.part.batch);
        break;
    case CORE_STEP_DONE:
    case CORE_BATCH_DONE:
        std::fprintf(file, " device %u epoch %" PRIu64 " batch %" PRIx64 " step %u status %d",
                     e.device, e.epoch, e.u.step_done.batch, e.u.step_done.step,
                     e.u.step_done.status);
        break;
    case CORE_LOADED:
    case CORE_EVICTED:
        std::fprintf(file, " device %u epoch %" PRIu64 " model %u status %d", e.device, e.epoch,
                     e.u.loaded.model, e.u.loaded.status);
        break;
    case CORE_RANK_STARTED:
    case CORE_RANK_STEPPED:
    case CORE_RANK_CLOSED:
        std::fprintf(file, " device %u epoch %" PRIu64 " job %" PRIx64 " step %u status %d%s",
                     e.device, e.epoch, e.u.rank.id, e.u.rank.step, e.u.rank.status,
                     e.u.rank.finished ? " finished" : "");
        break;
    default:
        std::fprintf(file, " device %u epoch %" PRIu64, e.device, e.epoch);
    }
    std::fprintf(file, status == LIBSCHED_OK ? "\n" : " = %d\n", status);
}

} // namespace sim
