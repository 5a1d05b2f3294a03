// SPDX-License-Identifier: Apache-2.0
// Engines of somebody else, built outside the tree against the public headers alone: what they do
// right arrives, what they do wrong is answered with words.
#include "worker/harness.h"

#include <map>

#include <gmock/gmock.h>

using namespace worker_test;
using testing::HasSubstr;

namespace
{

const char *const kFolder = PLUGIN_FOLDER;

std::string library(const std::string &name)
{
    return std::string(kFolder) + "/libsched-engine-" + name + ".so";
}

void with_plugins(worker_options &options)
{
    options.plugin_path = "/no/such/folder:" PLUGIN_FOLDER;
}

class Plugin : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(Plugin);

TEST_P(Plugin, IsFoundByNameOnThePath)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    Event loaded = w.load({}, 1, "odd");
    ASSERT_EQ(loaded.raw.status, 0) << loaded.message;
    EXPECT_STREQ(loaded.raw.description->text, "odd");
    ASSERT_EQ(w.run(1, 1, {{1, "x", {text("do", "bytes"), integer("bytes", 5)}}}), 0);
    w.wait(WORKER_STEP);
    EXPECT_EQ(w.passed.at(0).find("bytes")->bytes(), std::string("\1\2\3\4\5"));
}

TEST_P(Plugin, IsLoadedFromWhereItIsSaidToBe)
{
    Worker w(thread());
    w.up();
    Event loaded = w.load({}, 1, "anything", library("odd").c_str());
    EXPECT_EQ(loaded.raw.status, 0) << loaded.message;
}

TEST_P(Plugin, SaysWhatItsItemsMayBeBatchedWith)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "odd");
    ASSERT_EQ(w.run(1, 1, {{1, "x", {integer("key", 77)}}, {2, "y"}}, {}, {},
                    [](worker_step &s) { s.prepare = true; }),
              0);
    w.wait(WORKER_STEP);
    ASSERT_EQ(w.passed.size(), 2u);
    EXPECT_EQ(w.passed[0].raw.batch_key, 77u);
    EXPECT_EQ(w.passed[1].raw.batch_key, 0u);
}

TEST_P(Plugin, ThatCannotBeUsedSaysWhy)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    const std::map<std::string, std::string> reasons = {
        {library("old"), "was built for version"},
        {library("small"), "an engine table of 16 bytes"},
        {library("unwilling"), "can't serve version"},
        {library("incomplete"), "without step()"},
        {library("mute"), "does not export libsched_engine_entry()"},
        {library("absent"), "No such file"},
        {"relative.so", "absolute path"},
        {SCHED_WORKER_PATH ".cc", "No such file"},
        {GPU_SCHED_SOURCE_DIR "/README.md", "plugin can't be loaded"},
    };
    for (auto &[path, reason] : reasons) {
        Event failed = w.load({}, 1, "x", path.c_str());
        EXPECT_EQ(failed.raw.status, LIBSCHED_EENGINE) << path;
        EXPECT_THAT(failed.message, HasSubstr(reason)) << path;
    }
    Event failed = w.load({}, 1, "absent");
    EXPECT_THAT(failed.message, HasSubstr("libsched-engine-absent.so in /no/such/folder:"));
    failed = w.load({}, 1, "../odd");
    EXPECT_THAT(failed.message, HasSubstr("can't be an engine's name"));
}

TEST_P(Plugin, ThatRefusesAModelIsHeard)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    Event failed = w.load({text("mode", "refuse")}, 1, "odd");
    EXPECT_EQ(failed.raw.status, LIBSCHED_EBADMODEL);
    EXPECT_EQ(failed.message, "the odd engine does not feel like it");
    failed = w.load({text("mode", "refuse_without_words")}, 1, "odd");
    EXPECT_EQ(failed.raw.status, LIBSCHED_ENODEVMEM);
    EXPECT_THAT(failed.message, HasSubstr("could not load model"));
    failed = w.load({text("mode", "no_status")}, 1, "odd");
    EXPECT_EQ(failed.raw.status, LIBSCHED_EENGINE);
    failed = w.load({text("mode", "bad_description")}, 1, "odd");
    EXPECT_EQ(failed.raw.status, LIBSCHED_EENGINE);
    EXPECT_THAT(failed.message, HasSubstr("17 outputs"));
    failed = w.load({text("mode", "bad_rank")}, 1, "odd");
    EXPECT_THAT(failed.message, HasSubstr("99 dimensions"));
}

class Engine : public BothKinds
{
  protected:
    void SetUp() override
    {
        start({});
    }

    void start(std::vector<libsched_parameter> parameters, uint64_t result_bytes = 1 << 20)
    {
        w = std::make_unique<Worker>(thread(), result_bytes, with_plugins);
        w->up();
        Event loaded = w->load(parameters, 1, "odd");
        ASSERT_EQ(loaded.raw.status, 0) << loaded.message;
        batch = 0;
    }

    // Runs an item alone and answers its end.
    Event run(const char *what, std::vector<libsched_parameter> more = {}, bool prepare = false)
    {
        w->passed.clear();
        batch++;
        more.push_back(text("do", what));
        EXPECT_EQ(w->run(batch, 1, {{batch, "x", more}}, {}, {},
                         [&](worker_step &s) { s.prepare = prepare; }),
                  0)
            << w->run_error;
        step = w->wait(WORKER_STEP);
        Event end;
        int ends = 0;
        parts.clear();
        for (const Event &event : w->passed) {
            if (event.raw.type == WORKER_ITEM) {
                end = event;
                ends++;
            } else if (event.raw.type == WORKER_PART) {
                parts.push_back(event);
            }
        }
        EXPECT_EQ(ends, 1);
        return end;
    }

    std::unique_ptr<Worker> w;
    uint64_t batch = 0;
    Event step;
    std::vector<Event> parts;
};
INSTANTIATE_BOTH_KINDS(Engine);

TEST_P(Engine, ThatForgetsAnItemHasItEnded)
{
    Event end = run("never_end");
    EXPECT_EQ(end.raw.status, LIBSCHED_EENGINE);
    EXPECT_THAT(end.message, HasSubstr("did not end"));
    EXPECT_EQ(step.raw.status, 0);
    end = run("never_end", {}, true);
    EXPECT_EQ(end.raw.status, LIBSCHED_EENGINE);
    /* It was told to let go of both. */
    EXPECT_EQ(*static_cast<const int64_t *>(run("count").find("value")->data), 2);
}

TEST_P(Engine, ThatMakesWrongOutputsHasTheItemEnded)
{
    const std::map<std::string, std::string> reasons = {
        {"undescribed", "does not describe"}, {"other_type", "other than it describes"},
        {"other_size", "16 bytes"},           {"no_name", "name is missing"},
        {"rank", "datatype and shape"},       {"many", "more than 16 outputs"},
    };
    for (auto &[what, reason] : reasons) {
        Event end = run(what.c_str());
        EXPECT_EQ(end.raw.status, LIBSCHED_EENGINE) << what;
        EXPECT_THAT(end.message, HasSubstr(reason)) << what;
        EXPECT_TRUE(end.outputs.empty());
    }
}

TEST_P(Engine, MayMakeOtherOutputsWhilePreparing)
{
    Event end = run("undescribed", {}, true);
    EXPECT_EQ(end.raw.status, 0) << end.message;
    EXPECT_NE(end.find("surprise"), nullptr);
    end = run("part", {}, true);
    EXPECT_EQ(end.raw.status, LIBSCHED_EENGINE);
    EXPECT_THAT(end.message, HasSubstr("part while it prepared"));
}

TEST_P(Engine, EndsAnItemOnce)
{
    Event end = run("twice");
    EXPECT_EQ(end.raw.status, 0);
    ASSERT_EQ(end.outputs.size(), 1u);
    EXPECT_EQ(end.outputs[0].u64(), 1u);
    EXPECT_TRUE(parts.empty());
}

TEST_P(Engine, ThatFailsAnItemDropsItsUnfinishedPart)
{
    Event end = run("unfinished");
    EXPECT_EQ(end.raw.status, LIBSCHED_EINVAL);
    EXPECT_TRUE(end.outputs.empty());
    ASSERT_EQ(parts.size(), 1u);
    EXPECT_EQ(parts[0].outputs.at(0).u64(), 1u);
}

TEST_P(Engine, ThatHasNoStatusOrNoWordsIsGivenThem)
{
    EXPECT_EQ(run("no_status").raw.status, LIBSCHED_EENGINE);
    Event end = run("no_message");
    EXPECT_EQ(end.raw.status, LIBSCHED_EINVAL);
    EXPECT_NE(end.message, "");
    EXPECT_EQ(run("long_message").message, std::string(LIBSCHED_MESSAGE_SIZE - 1, 'm'));
    end = run("step_status");
    EXPECT_EQ(end.raw.status, LIBSCHED_EENGINE);
    EXPECT_THAT(end.message, HasSubstr("-12345"));
    EXPECT_EQ(step.raw.status, LIBSCHED_EENGINE);
    EXPECT_NE(run("no_words").message, "");
}

TEST_P(Engine, CanPrintAndLog)
{
    EXPECT_EQ(run("print").raw.status, 0);
    int lines = 0;
    for (const Event &event : w->passed)
        lines += event.raw.type == WORKER_LOG && event.message == "logged by an engine";
    EXPECT_EQ(lines, 1);
}

TEST_P(Engine, SeesACancellationInTheMiddleOfAStep)
{
    ASSERT_EQ(w->run(1, 1, {{7, "x", {text("do", "until_cancelled")}}}), 0);
    /* Its parts come while it runs. */
    EXPECT_EQ(w->wait(WORKER_PART).raw.id, 7u);
    EXPECT_EQ(w->wait(WORKER_PART).outputs.at(0).u64(), 1u);
    worker_cancel(w->raw, 7);
    Event end = w->wait(WORKER_ITEM);
    EXPECT_EQ(end.raw.status, LIBSCHED_ECANCELED);
    EXPECT_EQ(end.message, "cancelled, as it saw");
    w->wait(WORKER_STEP);
}

TEST_P(Engine, SeesACancellationThatCameBeforeItsStep)
{
    ASSERT_EQ(w->run(1, 1, {{7, "x", {text("do", "until_cancelled")}}}), 0);
    w->wait(WORKER_PART);
    ASSERT_EQ(w->run(2, 1, {{8, "x", {text("do", "until_cancelled")}}}), 0);
    worker_cancel(w->raw, 8);
    worker_cancel(w->raw, 7);
    w->wait(WORKER_STEP);
    EXPECT_EQ(w->wait(WORKER_STEP).raw.batch, 2u);
    /* The next one in its place is not cancelled. */
    EXPECT_EQ(w->run(3, 1, {{9, "x", {text("do", "until_cancelled")}}}), 0);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(w->wait(WORKER_PART).raw.status, 0);
    worker_cancel(w->raw, 9);
    w->wait(WORKER_STEP);
}

TEST_P(Engine, StopsASteppingItemWhenItsWorkerIsStopped)
{
    ASSERT_EQ(w->run(1, 1, {{7, "x", {text("do", "until_cancelled")}}}), 0);
    w->wait(WORKER_PART);
    worker_stop(w->raw);
    Event down;
    do
        down = w->next();
    while (down.raw.type != WORKER_DOWN && down.raw.type != 0);
    EXPECT_EQ(down.raw.type, WORKER_DOWN);
    EXPECT_EQ(down.raw.status, 0) << down.message;
}

TEST_P(Engine, IsToldOfItemsThatLeave)
{
    start({text("mode", "steps")});
    ASSERT_EQ(w->run(1, 1,
                     {{1, "x", {text("do", "never_end")}},
                      {2, "x", {text("do", "never_end")}},
                      {3, "x", {text("do", "never_end")}}}),
              0);
    w->wait(WORKER_STEP);
    ASSERT_EQ(w->run(1, 2, {}, {2, 3}, {1}), 0);
    w->wait(WORKER_STEP);
    batch = 100;
    EXPECT_EQ(*static_cast<const int64_t *>(run("count").find("value")->data), 2001);
    ASSERT_EQ(w->run(1, 3, {}, {}, {}, [](worker_step &s) { s.ends = true; }), 0);
    w->wait(WORKER_STEP);
    EXPECT_EQ(*static_cast<const int64_t *>(run("count").find("value")->data), 3);
}

TEST_P(Engine, ThatLostItsDeviceEndsItsWorker)
{
    ASSERT_EQ(w->run(1, 1, {{1, "x"}, {2, "x", {text("do", "device_lost")}}}), 0);
    Event first = w->next();
    EXPECT_EQ(first.raw.type, WORKER_ITEM) << "what ended before it counts";
    EXPECT_EQ(first.raw.id, 1u);
    Event down = w->next();
    EXPECT_EQ(down.raw.type, WORKER_DOWN);
    EXPECT_EQ(down.raw.status, LIBSCHED_EDEVICELOST);
}

/* -------------------------------------------------------------------------- result memory */

TEST_P(Engine, FillsTheResultMemoryAndIsTold)
{
    start({}, 1 << 20);
    /* Nobody releases while it runs: run() keeps all parts until the end. */
    Event end = run("fill", {integer("bytes", 100000)});
    EXPECT_EQ(end.raw.status, LIBSCHED_ETOOBIG);
    EXPECT_THAT(end.message, HasSubstr("nobody has released"));
    EXPECT_EQ(parts.size(), 10u);
    for (const Event &part : parts) {
        const Output *out = part.find("bytes");
        ASSERT_EQ(out->size, 100000u);
        const unsigned char *bytes = static_cast<const unsigned char *>(out->data);
        int wrong = 0;
        for (size_t i = 0; i < out->size; i++)
            wrong += bytes[i] != static_cast<unsigned char>(part.raw.id + i);
        EXPECT_EQ(wrong, 0);
    }
    parts.clear();
    w->passed.clear();
    /* What was released can be used again. */
    end = run("bytes", {integer("bytes", 1 << 20)});
    EXPECT_EQ(end.raw.status, 0) << end.message;
    EXPECT_EQ(end.find("bytes")->size, 1u << 20);
}

TEST_P(Engine, ThatWaitsForRoomGoesOnWhenItIsGiven)
{
    start({}, 1 << 20);
    ASSERT_EQ(w->run(1, 1, {{1, "x", {text("do", "fill"), integer("bytes", 300000)}}}), 0);
    /* There is room for three, and each is released as it comes. A step waits a second in all. */
    for (int i = 0; i < 20; i++)
        ASSERT_EQ(w->next().raw.type, WORKER_PART);
    worker_kill(w->raw);
}

TEST_P(Engine, CannotHaveMoreThanThereIs)
{
    Event end = run("bytes", {integer("bytes", (1 << 20) + 1)});
    EXPECT_EQ(end.raw.status, LIBSCHED_ETOOBIG);
    EXPECT_THAT(end.message, HasSubstr("raise result_bytes"));
}

TEST_P(Engine, GivesLargeResults)
{
    start({}, UINT64_C(1) << 30);
    Event end = run("bytes", {integer("bytes", 200 << 20)});
    ASSERT_EQ(end.raw.status, 0) << end.message;
    const unsigned char *bytes = static_cast<const unsigned char *>(end.find("bytes")->data);
    for (size_t i = 0; i < 200u << 20; i += 4097)
        ASSERT_EQ(bytes[i], static_cast<unsigned char>(end.raw.id + i));
}

TEST_P(Engine, ResultsOutliveTheirWorker)
{
    Event end = run("bytes", {integer("bytes", 100000)});
    w->passed.clear();
    step = Event{};
    w.reset();
    const unsigned char *bytes = static_cast<const unsigned char *>(end.find("bytes")->data);
    for (size_t i = 0; i < 100000; i++)
        ASSERT_EQ(bytes[i], static_cast<unsigned char>(1 + i));
}

/* ------------------------------------------------------------------------ two steps at a time */

int64_t value_of(const Event &event)
{
    const Output *value = event.find("value");
    EXPECT_NE(value, nullptr) << event.message;
    return value != nullptr ? int64_t(value->u64()) : -1;
}

TEST_P(Plugin, BeginsTheNextStepWhileOneIsUnderWay)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    /* The first is over only once the second was begun. */
    ASSERT_EQ(w.run(1, 1, {{1, "x"}}), 0) << w.run_error;
    ASSERT_EQ(w.run(2, 1, {{2, "x"}, {3, "x"}}), 0) << w.run_error;
    Event first = w.wait(WORKER_STEP);
    EXPECT_EQ(first.raw.batch, 1u);
    EXPECT_EQ(first.raw.status, 0) << first.message;
    /* And the second since there was another: it says so although that one is over. */
    Event second = w.wait(WORKER_STEP);
    EXPECT_EQ(second.raw.batch, 2u);
    ASSERT_EQ(w.passed.size(), 3u);
    for (const Event &item : w.passed)
        EXPECT_EQ(value_of(item), 2);
    EXPECT_LE(first.raw.end, second.raw.begin) << "their times do not overlap";
    EXPECT_LE(second.raw.begin, second.raw.end);
}

TEST_P(Plugin, WaitsForStepsBeforeItDoesAnythingElse)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    ASSERT_EQ(w.run(1, 1, {{1, "x"}}), 0) << w.run_error;
    ASSERT_EQ(worker_unload(w.raw, 1), 0);
    Event step = w.wait(WORKER_STEP);
    EXPECT_EQ(step.raw.status, 0) << step.message;
    EXPECT_EQ(value_of(w.passed.at(0)), 1) << "it was alone";
    w.wait(WORKER_UNLOADED);
}

TEST_P(Plugin, GivesMemoryBackWithoutWaitingForSteps)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    ASSERT_EQ(w.run(1, 1, {{1, "x"}}), 0) << w.run_error;
    worker_drop_segment(w.raw, w.inputs.raw);
    ASSERT_EQ(w.run(2, 1, {{2, "x"}}), 0) << w.run_error;
    for (uint64_t id = 1; id <= 2; id++) {
        Event item = w.wait(WORKER_ITEM);
        EXPECT_EQ(item.raw.id, id);
        EXPECT_EQ(value_of(item), 2) << "the second was begun beside the first";
    }
}

TEST_P(Plugin, ReadsACommandThatEndsALargerStep)
{
    Worker w(thread(), 1 << 20, with_plugins);
    std::vector<Item> many;
    for (uint64_t id = 1; id <= 200; id++)
        many.push_back({id, "x"});
    w.up();
    w.load({}, 1, "pair");
    /* The memory of its command is free when it ends: that is while the next one is read. */
    ASSERT_EQ(w.run(1, 1, many), 0) << w.run_error;
    ASSERT_EQ(worker_unload(w.raw, 1), 0);
    Event step = w.wait(WORKER_STEP);
    EXPECT_EQ(step.raw.status, 0) << step.message;
    Event unloaded = w.wait(WORKER_UNLOADED);
    EXPECT_EQ(unloaded.raw.status, 0) << unloaded.message;
    EXPECT_EQ(unloaded.raw.key, 1u);

    w.load({}, 1, "pair");
    ASSERT_EQ(w.run(2, 1, many), 0) << w.run_error;
    ASSERT_EQ(w.run(3, 1, {{1001, "x"}}), 0) << w.run_error;
    ASSERT_EQ(w.run(4, 1, {{1002, "x"}}), 0) << w.run_error;
    for (uint64_t batch = 2; batch <= 3; batch++) {
        step = w.wait(WORKER_STEP);
        EXPECT_EQ(step.raw.batch, batch);
        EXPECT_EQ(step.raw.status, 0) << step.message;
    }
}

TEST_P(Plugin, BeginsNoStepForWhichResultMemoryMayBeShort)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    /* Either has room, but only once the other is over and its results were released. */
    ASSERT_EQ(w.run(1, 1, {{1, "x", {integer("room", 600000)}}}), 0) << w.run_error;
    ASSERT_EQ(w.run(2, 1, {{2, "x", {integer("room", 600000)}}}), 0) << w.run_error;
    ASSERT_EQ(worker_unload(w.raw, 1), 0);
    for (uint64_t id = 1; id <= 2; id++) {
        Event item = w.wait(WORKER_ITEM);
        EXPECT_EQ(item.raw.id, id);
        ASSERT_EQ(item.raw.status, 0) << item.message;
        EXPECT_EQ(value_of(item), 1) << "it was alone";
    }
    w.wait(WORKER_UNLOADED);
}

TEST_P(Plugin, LetsAStepThatFailsAtOnceFailAlone)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    ASSERT_EQ(w.run(1, 1, {{1, "x"}}), 0) << w.run_error;
    ASSERT_EQ(w.run(2, 1, {{2, "x", {integer("fail", 1)}}}), 0) << w.run_error;
    Event first = w.wait(WORKER_STEP);
    EXPECT_EQ(first.raw.batch, 1u) << "in their order";
    EXPECT_EQ(first.raw.status, 0) << first.message;
    Event second = w.wait(WORKER_STEP);
    EXPECT_EQ(second.raw.batch, 2u);
    EXPECT_EQ(second.raw.status, LIBSCHED_EENGINE);
}

TEST_P(Plugin, EndsWithAStepUnderWay)
{
    Worker w(thread(), 1 << 20, with_plugins);
    w.up();
    w.load({}, 1, "pair");
    ASSERT_EQ(w.run(1, 1, {{1, "x"}}), 0) << w.run_error;
    /* It is told to stop when it is freed, and does. */
}

} // namespace
