// SPDX-License-Identifier: Apache-2.0
// Steps of sessions: what goes in comes out, item by item, in both kinds of worker.
#include "worker/harness.h"

#include <map>
#include <memory>

#include <gmock/gmock.h>

#include "engine/synthetic.h"

using namespace worker_test;
using testing::HasSubstr;

class Steps : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Steps);

TEST_P(Steps, AnswerTheChecksumOfWhatTheyGot)
{
    Worker w(thread());
    w.up();
    Event loaded = w.load();
    ASSERT_EQ(loaded.raw.status, 0) << loaded.message;
    ASSERT_EQ(w.run(1, 1, {{10, "hello"}, {11, ""}, {12, std::string(100000, 'x')}}), 0)
        << w.run_error;
    Event step = w.wait(WORKER_STEP);
    EXPECT_EQ(step.raw.status, 0) << step.message;
    EXPECT_EQ(step.raw.batch, 1u);
    EXPECT_EQ(step.raw.step, 1u);
    EXPECT_GT(step.raw.begin, 0u);
    EXPECT_LE(step.raw.begin, step.raw.end);
    EXPECT_LE(step.raw.end, now_ns());
    ASSERT_EQ(w.passed.size(), 3u);
    const std::vector<std::string> data = {"hello", "", std::string(100000, 'x')};
    for (size_t i = 0; i < 3; i++) {
        const Event &item = w.passed[i];
        EXPECT_EQ(item.raw.type, WORKER_ITEM);
        EXPECT_EQ(item.raw.id, 10 + i);
        EXPECT_EQ(item.raw.status, 0) << item.message;
        ASSERT_NE(item.find("checksum"), nullptr);
        EXPECT_EQ(item.find("checksum")->u64(), synthetic_checksum(data[i].data(), data[i].size()));
    }
}

// What came of a step, by item.
static std::map<uint64_t, Event> ends(Worker &w)
{
    std::map<uint64_t, Event> out;
    for (Event &event : w.passed)
        if (event.raw.type == WORKER_ITEM) {
            EXPECT_EQ(out.count(event.raw.id), 0u) << "two ends of one item";
            out[event.raw.id] = event;
        }
    w.passed.clear();
    return out;
}

TEST_P(Steps, HoldTheLargestBatch)
{
    Worker w(thread(), 4 << 20);
    w.up();
    w.load({integer("max_batch_requests", 4096)});
    std::vector<Item> items;
    const std::string value(200, 'v');
    for (uint64_t i = 0; i < 4096; i++) {
        Item item = {i + 1, std::to_string(i), {}};
        for (const char *name : {"some_parameter_with_a_long_name", "another_one", "a_third"})
            item.parameters.push_back(text(name, value.c_str()));
        items.push_back(item);
    }
    for (uint64_t batch = 1; batch <= 3; batch++) {
        ASSERT_EQ(w.run(batch, 1, items), 0) << w.run_error;
        EXPECT_EQ(w.wait(WORKER_STEP).raw.status, 0);
        auto done = ends(w);
        ASSERT_EQ(done.size(), 4096u);
        for (uint64_t i = 0; i < 4096; i++) {
            std::string data = std::to_string(i);
            ASSERT_EQ(done[i + 1].find("checksum")->u64(),
                      synthetic_checksum(data.data(), data.size()));
        }
    }
}

TEST_P(Steps, TakeItemsOfManyTensorsInOneBatch)
{
    /* The synthetic engine takes one input: it refuses each of these, having got them all. */
    Worker w(thread());
    w.up();
    w.load();
    const std::string name(LIBSCHED_NAME_SIZE - 1, 'n');
    std::vector<worker_tensor> tensors(LIBSCHED_MAX_TENSORS);
    for (worker_tensor &t : tensors) {
        t = {};
        t.name = name.c_str();
        t.datatype = LIBSCHED_UINT8;
        t.rank = LIBSCHED_MAX_RANK;
        for (int64_t &d : t.shape)
            d = 1;
        t.segment = w.inputs.raw;
        t.size = 1;
    }
    /* As much as is promised to fit. */
    const std::string value(WORKER_MAX_PARAMETER_BYTES - 3, 'v');
    const libsched_parameter parameter = text("p", value.c_str());
    std::vector<worker_item> items(4096);
    for (size_t i = 0; i < items.size(); i++) {
        items[i] = {};
        items[i].id = i + 1;
        items[i].n_inputs = LIBSCHED_MAX_TENSORS;
        items[i].inputs = tensors.data();
        items[i].n_parameters = 1;
        items[i].parameters = &parameter;
    }
    worker_step step = {};
    step.batch = 1;
    step.key = 1;
    step.step = 1;
    step.n_joins = 4096;
    step.joins = items.data();
    libsched_error err;
    ASSERT_EQ(worker_run(w.raw, &step, &err), 0) << err.message;
    w.wait(WORKER_STEP);
    auto done = ends(w);
    ASSERT_EQ(done.size(), 4096u);
    EXPECT_EQ(done[4096].raw.status, LIBSCHED_EINVAL);
    EXPECT_THAT(done[4096].message, HasSubstr("data"));
}

TEST_P(Steps, WhoAreTooLargeForTheRingAreRefusedWhole)
{
    Worker w(thread());
    w.up();
    w.load();
    const std::string value(40 << 20, 'v');
    std::vector<Item> items;
    for (uint64_t i = 0; i < 2; i++)
        items.push_back({i + 1, "x", {text("long", value.c_str())}});
    EXPECT_EQ(w.run(1, 1, items), LIBSCHED_ETOOBIG);
    EXPECT_THAT(w.run_error, HasSubstr("smaller batches"));
    /* Nothing of it has remained: the ids are free, and one alone fits. */
    items.pop_back();
    ASSERT_EQ(w.run(2, 1, items), 0) << w.run_error;
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).at(1).raw.status, 0);
}

TEST_P(Steps, ThatWaitInTheRingAreAllRunInOrder)
{
    Worker w(thread());
    w.up();
    w.load({integer("b_us", 1000)});
    const std::string value(1 << 20, 'v');
    /* The first takes a while, so that the others gather until the ring is full. */
    ASSERT_EQ(w.run(1, 1, {{1, "x", {integer("units", 1000)}}}), 0);
    uint64_t last = 1;
    while (w.run(last + 1, 1, {{last + 1, "x", {text("v", value.c_str())}}}) == 0)
        if (++last == 1000)
            break;
    EXPECT_GE(last, 63u) << "as many as the ring holds";
    for (uint64_t i = 1; i <= last; i++)
        EXPECT_EQ(w.wait(WORKER_STEP).raw.batch, i);
    /* There is room again, also for the one that found none. */
    EXPECT_EQ(w.run(last + 1, 1, {{last + 1, "x"}}), 0) << w.run_error;
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).size(), last + 1);
}

TEST_P(Steps, StreamPartsWhileItemsJoinAndLeave)
{
    Worker w(thread());
    w.up();
    Event loaded = w.load();
    EXPECT_TRUE(loaded.raw.description->flags & LIBSCHED_ENGINE_STEPS);
    auto step = [&](uint32_t number, const std::vector<Item> &joins,
                    const std::vector<uint64_t> &stays = {},
                    const std::vector<uint64_t> &leaves = {}) {
        w.passed.clear();
        EXPECT_EQ(w.run(5, number, joins, stays, leaves), 0) << w.run_error;
        EXPECT_EQ(w.wait(WORKER_STEP).raw.step, number);
        std::string seen;
        for (const Event &event : w.passed) {
            EXPECT_EQ(event.raw.batch, 5u);
            seen += (event.raw.type == WORKER_PART ? "part " : "end ") +
                    std::to_string(event.raw.id) + ":" + std::to_string(event.find("part")->u32()) +
                    " ";
        }
        return seen;
    };
    EXPECT_EQ(step(1, {{1, "a", {integer("parts", 3)}}, {2, "b", {integer("parts", 9)}}}),
              "part 1:1 part 2:1 ");
    EXPECT_EQ(step(2, {{3, "c", {integer("parts", 1)}}}, {1, 2}), "part 1:2 part 2:2 end 3:1 ");
    /* 1 is not named: it stays without running. */
    EXPECT_EQ(step(3, {}, {2}), "part 2:3 ");
    EXPECT_EQ(step(4, {}, {1}, {2}), "end 1:3 ");
    /* 2 has left: its id may come again. */
    EXPECT_EQ(step(5, {{2, "b", {integer("parts", 2)}}}), "part 2:1 ");
    w.passed.clear();
    ASSERT_EQ(w.run(5, 6, {}, {}, {}, [](worker_step &s) { s.ends = true; }), 0);
    EXPECT_EQ(w.wait(WORKER_STEP).raw.step, 6u);
    EXPECT_TRUE(w.passed.empty());
    EXPECT_EQ(w.run(6, 1, {{2, "b"}}), 0) << w.run_error;
    w.wait(WORKER_STEP);
}

TEST_P(Steps, OfTwoSessionsTakeTurns)
{
    Worker w(thread());
    w.up();
    w.load({}, 1);
    ASSERT_EQ(w.run(1, 1, {{1, "a", {integer("parts", 2)}}}), 0);
    ASSERT_EQ(w.run(2, 1, {{2, "b", {integer("parts", 2)}}}), 0);
    ASSERT_EQ(w.run(1, 2, {}, {1}), 0);
    ASSERT_EQ(w.run(2, 2, {}, {2}), 0);
    for (uint64_t batch : {1, 2, 1, 2})
        EXPECT_EQ(w.wait(WORKER_STEP).raw.batch, batch);
    auto done = ends(w);
    EXPECT_EQ(done.at(1).find("part")->u32(), 2u);
    EXPECT_EQ(done.at(2).find("part")->u32(), 2u);
}

TEST_P(Steps, ThatFailFailEachOfTheirItems)
{
    Worker w(thread());
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "a", {text("fault", "fail")}}, {2, "b"}}), 0);
    Event step = w.wait(WORKER_STEP);
    EXPECT_EQ(step.raw.status, LIBSCHED_EENGINE);
    auto done = ends(w);
    ASSERT_EQ(done.size(), 2u);
    for (uint64_t id : {1, 2}) {
        EXPECT_EQ(done[id].raw.status, LIBSCHED_EENGINE);
        EXPECT_THAT(done[id].message, HasSubstr("a step that fails"));
    }
}

TEST_P(Steps, FailAnItemWithoutItsNeighbours)
{
    Worker w(thread());
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "a", {text("fault", "error")}}, {2, "b"}}), 0);
    EXPECT_EQ(w.wait(WORKER_STEP).raw.status, 0);
    auto done = ends(w);
    EXPECT_EQ(done.at(1).raw.status, LIBSCHED_EENGINE);
    EXPECT_EQ(done.at(2).raw.status, 0);
}

TEST_P(Steps, ThatDoNotFitGiveTheirItemsBack)
{
    Worker w(thread());
    w.up();
    w.load({integer("fit_units", 3)});
    ASSERT_EQ(w.run(1, 1, {{1, "a", {}, 2}, {2, "b", {}, 2}}), 0);
    EXPECT_EQ(w.wait(WORKER_STEP).raw.status, LIBSCHED_ENODEVMEM);
    EXPECT_TRUE(ends(w).empty()) << "they have no end yet";
    ASSERT_EQ(w.run(2, 1, {{1, "a", {}, 2}}), 0) << w.run_error;
    ASSERT_EQ(w.run(3, 1, {{2, "b", {}, 2}}), 0) << w.run_error;
    w.wait(WORKER_STEP);
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).size(), 2u);
}

TEST_P(Steps, PrepareCountsUnitsAndRewritesInputs)
{
    Worker w(thread());
    w.up();
    Event loaded = w.load({integer("prepare_us", 0)});
    EXPECT_TRUE(loaded.raw.description->flags & LIBSCHED_ENGINE_PREPARES);
    ASSERT_EQ(w.run(1, 1, {{1, "some", {integer("units", 17)}}, {2, "text"}}, {}, {},
                    [](worker_step &s) { s.prepare = true; }),
              0);
    EXPECT_EQ(w.wait(WORKER_STEP).raw.status, 0);
    auto done = ends(w);
    EXPECT_EQ(done.at(1).raw.units, 17u);
    EXPECT_EQ(done.at(1).find("data")->bytes(), "some");
    EXPECT_EQ(done.at(2).raw.units, 1u);
    EXPECT_EQ(done.at(2).find("data")->bytes(), "text");
}

TEST_P(Steps, OfAModelThatIsNotThereFail)
{
    Worker w(thread());
    w.up();
    ASSERT_EQ(w.run(1, 1, {{1, "a"}}), 0);
    EXPECT_EQ(w.wait(WORKER_STEP).raw.status, LIBSCHED_ENOTREADY);
    EXPECT_EQ(ends(w).at(1).raw.status, LIBSCHED_ENOTREADY);
}

TEST_P(Steps, RefuseWhatTheCallerGotWrong)
{
    Worker w(thread());
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "a", {integer("parts", 2)}}}), 0);
    w.wait(WORKER_STEP);
    EXPECT_EQ(w.run(2, 1, {{1, "a"}}), LIBSCHED_EINVAL) << "its id is in the worker";
    EXPECT_EQ(w.run(2, 1, {{7, "a"}, {7, "b"}}), LIBSCHED_EINVAL);
    EXPECT_THAT(w.run_error, HasSubstr("twice"));
    auto misplace = [](uint64_t offset, uint64_t size) {
        return [=](worker_step &s) {
            auto *tensor = const_cast<worker_tensor *>(s.joins[0].inputs);
            tensor->offset = offset;
            tensor->size = size;
        };
    };
    EXPECT_EQ(w.run(2, 1, {{7, "a"}}, {}, {}, misplace(1, 1)), LIBSCHED_EINVAL);
    EXPECT_EQ(w.run(2, 1, {{7, "a"}}, {}, {}, misplace(64 << 20, 1)), LIBSCHED_EINVAL);
    EXPECT_EQ(w.run(2, 1, {{7, "a"}}, {}, {}, misplace(0, UINT64_MAX)), LIBSCHED_EINVAL);
    ASSERT_EQ(w.run(2, 1, {{7, "a"}}), 0) << w.run_error;
    w.wait(WORKER_STEP);
}

TEST_P(Steps, ReadInputsFromManySegments)
{
    Worker w(thread());
    w.up();
    w.load({integer("max_batch_requests", 4096)});
    std::vector<std::unique_ptr<Segment>> segments;
    std::vector<worker_tensor> tensors(500);
    std::vector<worker_item> items(500);
    for (size_t i = 0; i < items.size(); i++) {
        segments.push_back(std::make_unique<Segment>(4096));
        memcpy(segments[i]->data() + 64, &i, sizeof(i));
        tensors[i] = {};
        tensors[i].name = "data";
        tensors[i].datatype = LIBSCHED_UINT8;
        tensors[i].rank = 1;
        tensors[i].shape[0] = sizeof(i);
        tensors[i].segment = segments[i]->raw;
        tensors[i].offset = 64;
        tensors[i].size = sizeof(i);
        items[i] = {};
        items[i].id = i + 1;
        items[i].units = 1;
        items[i].n_inputs = 1;
        items[i].inputs = &tensors[i];
    }
    worker_step step = {};
    step.key = 1;
    step.step = 1;
    step.n_joins = 500;
    step.joins = items.data();
    libsched_error err;
    for (step.batch = 1; step.batch <= 2; step.batch++) {
        ASSERT_EQ(worker_run(w.raw, &step, &err), 0) << err.message;
        w.wait(WORKER_STEP);
        auto done = ends(w);
        ASSERT_EQ(done.size(), 500u);
        for (size_t i = 0; i < items.size(); i++)
            ASSERT_EQ(done[i + 1].find("checksum")->u64(), synthetic_checksum(&i, sizeof(i)));
        /* Forgotten, they are passed anew when they are named again. */
        for (auto &segment : segments)
            worker_drop_segment(w.raw, segment->raw);
    }
}

TEST_P(Steps, KeepADroppedSegmentForThoseWhoStillUseIt)
{
    Worker w(thread());
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "still here", {integer("parts", 2)}}}), 0);
    w.wait(WORKER_STEP);
    worker_drop_segment(w.raw, w.inputs.raw);
    ASSERT_EQ(w.run(1, 2, {}, {1}), 0);
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).at(1).find("checksum")->u64(), synthetic_checksum("still here", 10));
}

class Models : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Models);

TEST_P(Models, AreDescribedWhenTheyAreLoaded)
{
    Worker w(thread());
    w.up();
    Event loaded = w.load({integer("max_batch_requests", 100), integer("memory_bytes", 12345),
                           integer("units_per_kib", 4), flag("stream", false)});
    ASSERT_EQ(loaded.raw.status, 0) << loaded.message;
    EXPECT_EQ(loaded.raw.key, 1u);
    EXPECT_EQ(loaded.raw.memory_bytes, 12345u);
    const libsched_engine_description *d = loaded.raw.description;
    ASSERT_NE(d, nullptr);
    EXPECT_EQ(d->max_batch_requests, 100u);
    EXPECT_EQ(d->units_per_kib, 4u);
    EXPECT_EQ(d->flags, unsigned(LIBSCHED_ENGINE_WAITS | LIBSCHED_ENGINE_REPEATABLE));
    ASSERT_EQ(d->n_inputs, 1u);
    EXPECT_STREQ(d->inputs[0].name, "data");
}

TEST_P(Models, ThatCannotBeLoadedSayWhy)
{
    Worker w(thread());
    w.up();
    Event failed = w.load({integer("no_such", 1)});
    EXPECT_EQ(failed.raw.status, LIBSCHED_EBADMODEL);
    EXPECT_THAT(failed.message, HasSubstr("no_such"));
    EXPECT_EQ(failed.raw.description, nullptr);
    failed = w.load({}, 1, "no_such_engine");
    EXPECT_EQ(failed.raw.status, LIBSCHED_EENGINE);
    EXPECT_THAT(failed.message, HasSubstr("no_such_engine"));
    EXPECT_EQ(w.load().raw.status, 0) << "the key is still free";
    failed = w.load();
    EXPECT_EQ(failed.raw.status, LIBSCHED_EEXIST);
}

TEST_P(Models, GoWithTheirItems)
{
    Worker w(thread());
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "a", {integer("parts", 2)}}}), 0);
    w.wait(WORKER_STEP);
    ASSERT_EQ(worker_unload(w.raw, 1), 0);
    EXPECT_EQ(w.wait(WORKER_UNLOADED).raw.key, 1u);
    EXPECT_EQ(w.load().raw.status, 0);
    ASSERT_EQ(w.run(2, 1, {{1, "a"}}), 0) << w.run_error;
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).at(1).raw.status, 0);
}

class Cancel : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Cancel);

TEST_P(Cancel, OfWhoIsUnknownIsIgnored)
{
    Worker w(thread());
    w.up();
    worker_cancel(w.raw, 99);
    w.load();
    ASSERT_EQ(w.run(1, 1, {{99, "a"}}), 0);
    w.wait(WORKER_STEP);
    EXPECT_EQ(ends(w).at(99).raw.status, 0) << "it was not cancelled then";
}
