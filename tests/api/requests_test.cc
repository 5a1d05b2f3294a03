// SPDX-License-Identifier: Apache-2.0
// The life of requests: submitted, batched, answered in parts, cancelled, too late.
#include <algorithm>

#include "scheduler.h"

using namespace api_test;

class Requests : public ApiTest
{
};

TEST_P(Requests, AreAnswered)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m", 1000, 7);
    request.raw.user = 4711;
    const Done &done = s.infer(request);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.message, "");
    EXPECT_EQ(done.raw.user, 4711u);
    EXPECT_EQ(done.raw.attempts, 1u);
    EXPECT_EQ(done.raw.batch_size, 1u);
    EXPECT_EQ(done.raw.device, 0u);
    EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
}

TEST_P(Requests, OfNoBytesAreAnswered)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m", 0);
    const Done &done = s.infer(request);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), 0u);
}

TEST_P(Requests, ThatWaitTogetherAreBatched)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 2000).integer("max_batch_requests", 16));
    std::vector<uint64_t> ids;
    for (int i = 0; i < 160; i++) {
        Request request("m", size_t(i), uint8_t(i));
        ids.push_back(s.submit(request));
    }
    s.run_until([&] { return s.n_ends == ids.size(); });
    uint32_t largest = 0;
    for (size_t i = 0; i < ids.size(); i++) {
        const Done &done = s.ends.at(ids[i]);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(),
                  checksum(std::vector<uint8_t>(i, uint8_t(i))));
        largest = std::max(largest, done.raw.batch_size);
        EXPECT_LE(done.raw.batch_size, 16u);
    }
    EXPECT_EQ(largest, 16u);
    EXPECT_LE(s.model("m").counters.batches, 12u);
}

TEST_P(Requests, GoThroughPreparation)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("prepare_us", 0));
    for (int i = 0; i < 20; i++) {
        Request request("m", 300, uint8_t(i));
        const Done &done = s.infer(request);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
    }
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Requests, GiveTheirPartsInOrder)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    request.parameters.integer("parts", 5);
    request.raw.flags = LIBSCHED_WANT_PARTS;
    request.raw.part_credit = 100;
    uint64_t id = s.submit(request);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    ASSERT_EQ(s.parts[id].size(), 4u);
    for (uint32_t i = 0; i < 4; i++)
        EXPECT_EQ(s.parts[id][i].outputs.at("part").scalar<uint32_t>(), i + 1);
    EXPECT_EQ(done.outputs.at("part").scalar<uint32_t>(), 5u);
}

TEST_P(Requests, WaitForCreditBeforeTheNextPart)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    request.parameters.integer("parts", 4);
    request.raw.flags = LIBSCHED_WANT_PARTS;
    request.raw.part_credit = 1;
    uint64_t id = s.submit(request);
    s.run_until([&] { return s.parts[id].size() == 1; });
    // Others pass meanwhile; the one without credit gives nothing.
    for (int i = 0; i < 10; i++) {
        Request other("m");
        EXPECT_EQ(s.infer(other).status(), LIBSCHED_OK);
    }
    EXPECT_EQ(s.parts[id].size(), 1u);
    EXPECT_FALSE(s.has_ended(id));
    EXPECT_EQ(libsched_grant(s.get(), id, 1), LIBSCHED_OK);
    s.run_until([&] { return s.parts[id].size() == 2; });
    EXPECT_EQ(libsched_grant(s.get(), id, 100), LIBSCHED_OK);
    EXPECT_EQ(s.end_of(id).status(), LIBSCHED_OK);
    EXPECT_EQ(s.parts[id].size(), 3u);
}

TEST_P(Requests, WhosePartsNobodyWantsGiveTheLast)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    request.parameters.integer("parts", 5);
    uint64_t id = s.submit(request);
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
    EXPECT_TRUE(s.parts[id].empty());
    EXPECT_EQ(done.outputs.at("part").scalar<uint32_t>(), 5u);
}

TEST_P(Requests, AreCancelledWhereTheyWait)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 50000).integer("max_batch_requests", 1));
    Request request("m");
    uint64_t running = s.submit(request), waiting = s.submit(request);
    EXPECT_EQ(libsched_cancel(s.get(), waiting), LIBSCHED_OK);
    const Done &done = s.end_of(waiting);
    EXPECT_EQ(done.status(), LIBSCHED_ECANCELED);
    EXPECT_NE(done.message, "");
    EXPECT_EQ(s.end_of(running).status(), LIBSCHED_OK);
    EXPECT_EQ(libsched_cancel(s.get(), waiting), LIBSCHED_ENOENT);
    EXPECT_EQ(libsched_cancel(s.get(), 1), LIBSCHED_ENOENT);
    EXPECT_EQ(libsched_cancel(s.get(), UINT64_MAX), LIBSCHED_ENOENT);
    EXPECT_EQ(libsched_grant(s.get(), waiting, 1), LIBSCHED_ENOENT);
}

TEST_P(Requests, AreCancelledBetweenTheirParts)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 500));
    Request request("m");
    request.parameters.integer("parts", 100000);
    request.raw.flags = LIBSCHED_WANT_PARTS;
    request.raw.part_credit = UINT32_MAX;
    uint64_t id = s.submit(request);
    s.run_until([&] { return s.parts[id].size() >= 3; });
    EXPECT_EQ(libsched_cancel(s.get(), id), LIBSCHED_OK);
    EXPECT_EQ(s.end_of(id).status(), LIBSCHED_ECANCELED);
    Request next("m");
    EXPECT_EQ(s.infer(next).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Requests, WhoseDeadlinePassesAreToldSo)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 100000).integer("max_batch_requests", 1));
    Request request("m"), late("m");
    late.raw.timeout_ns = 10000000;
    uint64_t running = s.submit(request);
    s.run_until([&] { return s.stats().running == 1; });
    uint64_t expiring = s.submit(late);
    const Done &done = s.end_of(expiring);
    EXPECT_EQ(done.status(), LIBSCHED_EDEADLINE);
    EXPECT_FALSE(s.has_ended(running)); // it did not wait for the device to be told
    EXPECT_EQ(s.end_of(running).status(), LIBSCHED_OK);
    EXPECT_EQ(s.stats().counters.expired, 1u);
}

TEST_P(Requests, ComeBackWhereTheQueueIsFull)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 20000).integer("max_batch_requests", 1), 4);
    Request request("m");
    std::vector<uint64_t> accepted;
    libsched_error err{};
    uint64_t id = 0;
    int rc = LIBSCHED_OK;
    for (int i = 0; i < 10 && rc == LIBSCHED_OK; i++) {
        rc = libsched_submit(s.get(), request.get(), &id, &err);
        if (rc == LIBSCHED_OK)
            accepted.push_back(id);
    }
    EXPECT_EQ(rc, LIBSCHED_EQUEUEFULL) << err.message;
    EXPECT_NE(std::string(err.message).find("m"), std::string::npos) << err.message;
    EXPECT_GE(accepted.size(), 4u);
    s.run_until([&] { return s.n_ends == accepted.size(); });
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
    EXPECT_EQ(s.model("m").counters.refused, 1u);
}

TEST_P(Requests, ThatAreHeldByALoadingModelAreChecked)
{
    Scheduler s(GetParam());
    ASSERT_EQ(s.begin_load("m", Parameters().integer("load_us", 100000)), LIBSCHED_OK);
    Request good("m", 5, 5), bad("m"), cancelled("m"), late("m");
    late.raw.timeout_ns = 5000000;
    bad.get();
    bad.input.name = "wrong";
    uint64_t bad_id = 0, good_id = s.submit(good), cancelled_id = s.submit(cancelled),
             late_id = s.submit(late);
    ASSERT_EQ(libsched_submit(s.get(), &bad.raw, &bad_id, nullptr), LIBSCHED_OK);
    EXPECT_EQ(s.model("m").queued, 4u);
    EXPECT_EQ(libsched_cancel(s.get(), cancelled_id), LIBSCHED_OK);
    EXPECT_EQ(s.end_of(cancelled_id).status(), LIBSCHED_ECANCELED);
    EXPECT_EQ(s.end_of(late_id).status(), LIBSCHED_EDEADLINE);
    EXPECT_EQ(s.end_of(good_id).status(), LIBSCHED_OK);
    EXPECT_EQ(s.end_of(good_id).outputs.at("checksum").scalar<uint64_t>(), checksum(good.data));
    EXPECT_EQ(s.end_of(bad_id).status(), LIBSCHED_EINVAL);
    EXPECT_NE(std::string(s.end_of(bad_id).message).find("\"wrong\""), std::string::npos)
        << s.end_of(bad_id).message;
}

TEST_P(Requests, ThatFailAloneFailAlone)
{
    Scheduler s(GetParam());
    s.load("m");
    std::vector<uint64_t> ids;
    for (int i = 0; i < 10; i++) {
        Request request("m");
        if (i == 4)
            request.parameters.string("fault", "error");
        ids.push_back(s.submit(request));
    }
    s.run_until([&] { return s.n_ends == ids.size(); });
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(s.ends.at(ids[size_t(i)]).status() == LIBSCHED_OK, i != 4);
    EXPECT_NE(s.ends.at(ids[4]).message, "");
}

TEST_P(Requests, AreConserved)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 200).integer("max_batch_requests", 4));
    uint64_t accepted = 0, refused = 0;
    for (int i = 0; i < 500; i++) {
        Request request("m", size_t(i % 50), uint8_t(i));
        if (i % 7 == 0)
            request.parameters.string("fault", "error");
        if (i % 5 == 0)
            request.raw.timeout_ns = 1000000;
        request.raw.priority = i % 10 == 9 ? 8 : uint32_t(i % 8);
        uint64_t id;
        if (libsched_submit(s.get(), request.get(), &id, nullptr) == LIBSCHED_OK) {
            accepted++;
            if (i % 11 == 0)
                libsched_cancel(s.get(), id);
        } else {
            refused++;
        }
        libsched_stats now = s.stats();
        EXPECT_EQ(now.counters.submitted, now.counters.completed + now.counters.failed +
                                              now.counters.cancelled + now.counters.expired +
                                              now.queued + now.running);
    }
    s.run_until([&] { return s.n_ends == accepted; });
    libsched_stats stats = s.stats();
    const libsched_counters &c = stats.counters;
    EXPECT_EQ(c.submitted, accepted);
    EXPECT_EQ(c.refused, refused);
    EXPECT_EQ(refused, 50u);
    EXPECT_EQ(c.completed + c.failed + c.cancelled + c.expired, accepted);
    EXPECT_EQ(stats.queued + stats.running, 0u);
    EXPECT_EQ(stats.arena_used, 0u);
    EXPECT_GT(c.failed, 0u);
    EXPECT_GT(c.cancelled, 0u);
    libsched_counters m = s.model("m").counters;
    EXPECT_EQ(m.completed, c.completed);
    EXPECT_EQ(m.batched_requests, c.batched_requests);
}

API_TESTS_FOR_BOTH(Requests);
