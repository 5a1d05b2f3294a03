/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/requests.h"

#include <algorithm>
#include <cinttypes>

#include "sim/violation.h"

namespace sim
{

namespace
{

constexpr uint64_t slot_mask = 0xffffff;

bool waits(Where where)
{
    return where == Where::queued || where == Where::preparing;
}

} // namespace

Requests::Requests(const Scenario &scenario)
    : slots(scenario.config.max_requests), model_waiting(CORE_MAX_MODELS),
      model_ready(CORE_MAX_MODELS), model_unprepared(CORE_MAX_MODELS),
      source_queued(scenario.sources.size()), client_queued(scenario.clients.size())
{
}

Request *Requests::find(uint64_t id)
{
    uint64_t slot = id & slot_mask;
    if (slot >= slots.size() || slots[slot].id != id || slots[slot].where == Where::nowhere)
        return nullptr;
    return &slots[slot];
}

Request &Requests::get(uint64_t id)
{
    Request *r = find(id);
    if (r == nullptr)
        violate("one-end", "request %" PRIx64 " has ended, or never was", id);
    return *r;
}

Request &Requests::add(const core_submit &submit)
{
    uint64_t slot = submit.id & slot_mask;
    if (submit.id == 0 || slot >= slots.size())
        violate("protocol", "a request was given the id %" PRIx64, submit.id);
    Request &r = slots[slot];
    if (r.where != Where::nowhere || r.id == submit.id)
        violate("one-end", "the id %" PRIx64 " is given again", submit.id);
    r = Request();
    r.id = submit.id;
    submitted++;
    n_live++;
    return r;
}

/* Adds or takes one to or from all counts that speak of who is where it is. */
void Requests::count(const Request &r, uint32_t by)
{
    if (waits(r.where)) {
        n_queued += by;
        model_waiting[r.model] += by;
    }
    if (r.where == Where::queued) {
        client_queued[r.client] += by;
        source_queued[r.source] += by;
        (r.prepares && !r.prepared ? model_unprepared : model_ready)[r.model] += by;
    }
    if (r.where == Where::running || r.where == Where::done)
        n_running += by;
}

/* What is said of it otherwise must not change while it is queued. */
void Requests::move(Request &r, Where where)
{
    count(r, UINT32_MAX);
    r.where = where;
    count(r, 1);
    if (where == Where::queued && r.deadline != 0) {
        dues.push_back({r.deadline, r.id});
        std::push_heap(dues.begin(), dues.end(), later);
    }
}

void Requests::suspect(Request &r, bool is)
{
    n_suspects += static_cast<uint32_t>(is) - static_cast<uint32_t>(r.suspect);
    r.suspect = is;
}

void Requests::remove(Request &r)
{
    move(r, Where::nowhere);
    suspect(r, false);
    n_live--;
}

void Requests::check_counts(const core_counts &c) const
{
    if (c.submitted != submitted || c.refused != refused || c.completed != completed ||
        c.failed != failed || c.cancelled != cancelled || c.expired != expired ||
        c.queued != n_queued || c.running != n_running)
        violate("conservation",
                "submitted %" PRIu64 " refused %" PRIu64 " completed %" PRIu64 " failed %" PRIu64
                " cancelled %" PRIu64 " expired %" PRIu64 " queued %u running %u; the core says "
                "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %u",
                submitted, refused, completed, failed, cancelled, expired, n_queued, n_running,
                c.submitted, c.refused, c.completed, c.failed, c.cancelled, c.expired, c.queued,
                c.running);
    if (submitted != completed + failed + cancelled + expired + n_live)
        violate("conservation", "%u requests are live, and should be %" PRIu64, n_live,
                submitted - completed - failed - cancelled - expired);
}

uint64_t Requests::first_due()
{
    while (!dues.empty()) {
        const Request *r = find(dues.front().id);
        if (r != nullptr && r->where == Where::queued)
            return dues.front().at;
        std::pop_heap(dues.begin(), dues.end(), later);
        dues.pop_back();
    }
    return UINT64_MAX;
}

void Requests::check_expiry(uint64_t now)
{
    uint64_t due = first_due();
    if (due < now && now - due > 1000000)
        violate("expiry", "a request waits %" PRIu64 " ns after its deadline", now - due);
}

} // namespace sim
