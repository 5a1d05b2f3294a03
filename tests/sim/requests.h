/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All requests there are, kept beside the core and independent of it: where each is, how many
 * wait for what, and what it may be answered.
 */
#ifndef SIM_REQUESTS_H
#define SIM_REQUESTS_H

#include <cstdint>
#include <vector>

#include "core/core.h"
#include "sim/scenario.h"

namespace sim
{

enum class Where : uint8_t {
    nowhere, /* no request */
    queued,
    preparing,
    running,
    done, /* ended in a worker; its reply, or its last parts, are to come */
};

struct Request {
    uint64_t id = 0;
    uint64_t at = 0, deadline = 0;
    uint64_t units = 0, real_units = 0; /* as submitted; as prepared */
    uint64_t key = 0;
    uint64_t credit = 0; /* granted in all */
    uint64_t dispatched = 0;
    uint64_t number = 0;  /* of its submission */
    uint64_t untried = 0; /* ns for which nothing of its model had run when it came */
    uint32_t model = 0, client = 0, source = 0;
    uint32_t total_parts = 0; /* or steps, of an attempt */
    uint32_t yielded = 0;     /* in this attempt */
    uint32_t sent = 0;
    uint32_t attempts = 0, lone_deaths = 0, deaths = 0;
    uint32_t losses = 0;       /* deaths, and devices that were vacated */
    uint32_t cap = UINT32_MAX; /* of a batch it may be in, after one did not fit */
    Where where = Where::nowhere;
    uint8_t priority = 0;
    bool wants_parts = false, unlimited = false, cancelled = false;
    bool prepares = false, prepared = false;
    bool poison = false, suspect = false;
    bool timely = false; /* ended before its deadline */
    int end_status = 0;  /* what its worker said */

    bool has_credit() const
    {
        return !wants_parts || unlimited || credit > sent;
    }
};

class Requests
{
  public:
    explicit Requests(const Scenario &scenario);

    /* The live request of that id, or nullptr. */
    Request *find(uint64_t id);
    Request &get(uint64_t id); /* violation, if there is none */

    Request &add(const core_submit &submit);
    void move(Request &r, Where where);
    void remove(Request &r);

    uint32_t live() const
    {
        return n_live;
    }
    /* Of those that wait: what an empty model or client has none of. */
    uint32_t waiting_of_model(uint32_t model) const
    {
        return model_waiting[model];
    }
    uint32_t queued_of_client(uint32_t client) const
    {
        return client_queued[client];
    }
    /* Those who wait to be run; to be prepared. */
    uint32_t ready_of_model(uint32_t model) const
    {
        return model_ready[model];
    }
    uint32_t unprepared_of_model(uint32_t model) const
    {
        return model_unprepared[model];
    }
    uint32_t queued_of_source(uint32_t source) const
    {
        return source_queued[source];
    }
    uint32_t suspects() const
    {
        return n_suspects;
    }
    void suspect(Request &r, bool is);

    /* What the core's own counts are to say when it has nothing left to do. */
    void check_counts(const core_counts &counts) const;
    /* Nobody who waits has been past a deadline for a millisecond. */
    void check_expiry(uint64_t now);
    /* The first deadline of those who wait. */
    uint64_t first_due();

    /* Everybody, in the order of the slots. */
    template <typename F> void each(F f)
    {
        for (Request &r : slots)
            if (r.where != Where::nowhere)
                f(r);
    }

    uint64_t submitted = 0, refused = 0, completed = 0, failed = 0, cancelled = 0, expired = 0;

  private:
    void count(const Request &r, uint32_t by);

    struct Due {
        uint64_t at, id;
    };
    static bool later(const Due &a, const Due &b)
    {
        return a.at != b.at ? a.at > b.at : a.id > b.id;
    }

    std::vector<Request> slots;
    std::vector<uint32_t> model_waiting, model_ready, model_unprepared, source_queued,
        client_queued;
    uint32_t n_live = 0, n_queued = 0, n_running = 0, n_suspects = 0;
    std::vector<Due> dues; /* a heap; those that do not wait any more are in it still */
};

} // namespace sim

#endif
