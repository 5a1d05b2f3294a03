// SPDX-License-Identifier: Apache-2.0
// The engine "synthetic": its checksum, its clock, its parts and its faults.
#include "engine/fake_host.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include <gmock/gmock.h>
#include <time.h>

#include "engine/registry.h"
#include "engine/synthetic.h"

using namespace engine_test;
using testing::HasSubstr;

namespace
{

libsched_parameter integer(const char *name, int64_t value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_INT;
    p.value.integer = value;
    return p;
}

libsched_parameter real(const char *name, double value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_FLOAT;
    p.value.real = value;
    return p;
}

libsched_parameter text(const char *name, const char *value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_STRING;
    p.value.string = value;
    return p;
}

libsched_parameter flag(const char *name, bool value)
{
    libsched_parameter p = {};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_BOOL;
    p.value.boolean = value;
    return p;
}

int64_t now_us()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

struct Synthetic : FakeHost {
    Synthetic() : FakeHost(engine_synthetic())
    {
    }
};

TEST(Checksum, IsWhatItsDescriptionSays)
{
    EXPECT_EQ(synthetic_checksum("", 0), 0u);
    EXPECT_EQ(synthetic_checksum("\1", 1), 1u + 1);
    EXPECT_EQ(synthetic_checksum("\0\0\0\0\0\0\0\0\1", 9), 9u + 3);
    const uint64_t words[] = {5, 7, UINT64_MAX};
    EXPECT_EQ(synthetic_checksum(words, 24), 24u + 5 * 1 + 7 * 3 - 5);
    std::string data(1000, 'a');
    data[500] = 'b';
    uint64_t before = synthetic_checksum(data.data(), data.size());
    std::swap(data[3], data[500]);
    EXPECT_NE(synthetic_checksum(data.data(), data.size()), before);
}

TEST(Registry, KnowsIt)
{
    EXPECT_EQ(engine_find_builtin("synthetic"), engine_synthetic());
    EXPECT_NE(engine_find_builtin("encoder"), nullptr);
    EXPECT_EQ(engine_find_builtin("synthetic2"), nullptr);
    EXPECT_EQ(engine_find_builtin(""), nullptr);
}

TEST(SyntheticModel, SaysWhatIsWrongWithItsParameters)
{
    const std::pair<libsched_parameter, const char *> wrong[] = {
        {integer("a_us", -1), "0 to"},
        {text("a_us", "5"), "has to be a number"},
        {real("a_us", NAN), "0 to"},
        {real("units", 1.5), "has to be a number"},
        {integer("max_batch_requests", 4097), "1 to 4096"},
        {integer("stream", 1), "true or false"},
        {integer("fault_folder", 1), "has to be a text"},
        {integer("b_ms", 1), "no parameter \"b_ms\""},
    };
    for (auto &[parameter, reason] : wrong) {
        Synthetic s;
        EXPECT_EQ(s.open({parameter}), LIBSCHED_EBADMODEL) << parameter.name;
        EXPECT_THAT(s.err.message, HasSubstr(reason));
    }
}

TEST(SyntheticModel, DescribesItself)
{
    Synthetic s;
    ASSERT_EQ(s.open({real("a_us", 2000), real("b_us", 0.5), integer("units", 3),
                      integer("prepare_us", 0)}),
              0);
    EXPECT_STREQ(s.description.text, "synthetic, 2 ms + 0.0005 ms a unit");
    EXPECT_EQ(s.description.units_fixed, 3u);
    EXPECT_EQ(s.description.flags, unsigned(LIBSCHED_ENGINE_WAITS | LIBSCHED_ENGINE_REPEATABLE |
                                            LIBSCHED_ENGINE_STEPS | LIBSCHED_ENGINE_PREPARES));
}

TEST(SyntheticStep, TakesItsTime)
{
    Synthetic s;
    ASSERT_EQ(s.open({integer("a_us", 5000), integer("b_us", 1000)}), 0);
    s.add("x", {}, 2);
    s.add("y", {integer("units", 3)}, 100);
    int64_t begin = now_us();
    ASSERT_EQ(s.step(), 0);
    EXPECT_GE(now_us() - begin, 10000) << "5 ms and 1 ms for each of 5 units";
}

TEST(SyntheticStep, ThatFollowsAtOnceMakesGoodWhatASleepTookTooLong)
{
    /* However long each sleep overshoots, together they don't drift: the last ends when it
     * should, or as late as one sleep. Were each overshoot kept, fifty would add up. */
    Synthetic s;
    ASSERT_EQ(s.open({integer("a_us", 2000)}), 0);
    int64_t begin = now_us(), late = 0;
    for (int i = 1; i <= 50; i++) {
        s.add("x");
        ASSERT_EQ(s.step(), 0);
        late = now_us() - begin - i * 2000;
        ASSERT_GE(late, -50) << "step " << i << " ended too early";
    }
    RecordProperty("late_us", int(late));
}

TEST(SyntheticStep, OfNoCostDoesNotSleep)
{
    Synthetic s;
    ASSERT_EQ(s.open({}), 0);
    int64_t begin = now_us();
    for (int i = 0; i < 1000; i++) {
        s.add("x");
        ASSERT_EQ(s.step(), 0);
        s.items.clear();
    }
    EXPECT_LT(now_us() - begin, 1000 * 1000);
}

TEST(SyntheticStep, MakesAPartOfEachItemUntilItsLast)
{
    Synthetic s;
    ASSERT_EQ(s.open({}), 0);
    FakeItem &one = s.add("one");
    FakeItem &three = s.add("three", {integer("parts", 3), flag("echo", true)});
    ASSERT_EQ(s.step(), 0);
    EXPECT_EQ(one.ends, 1);
    EXPECT_EQ(one.outputs.count("part"), 0u);
    FakeItem &late = s.add("late", {integer("parts", 2)});
    ASSERT_EQ(s.step(), 0);
    EXPECT_EQ(three.ends, 0);
    ASSERT_EQ(s.step(), 0);
    EXPECT_EQ(three.ends, 1);
    EXPECT_EQ(three.status, 0);
    ASSERT_EQ(three.parts.size(), 2u);
    EXPECT_EQ(three.parts[1].at("part"), std::string("\2\0\0\0", 4));
    EXPECT_EQ(three.outputs.at("part"), std::string("\3\0\0\0", 4));
    EXPECT_EQ(three.outputs.at("data"), "three");
    EXPECT_EQ(late.ends, 1);
    EXPECT_EQ(late.parts.size(), 1u);
}

TEST(SyntheticStep, RefusesPartsWhereItDoesNotStream)
{
    Synthetic s;
    ASSERT_EQ(s.open({flag("stream", false)}), 0);
    EXPECT_EQ(s.description.flags & LIBSCHED_ENGINE_STEPS, 0u);
    FakeItem &item = s.add("x", {integer("parts", 2)});
    FakeItem &one = s.add("x", {integer("parts", 1)});
    ASSERT_EQ(s.step(), 0);
    EXPECT_EQ(item.status, LIBSCHED_EINVAL);
    EXPECT_THAT(item.message, HasSubstr("stream = true"));
    EXPECT_EQ(one.status, 0);
}

TEST(SyntheticStep, AnswersARequestThatIsWrongWithoutItsNeighbours)
{
    Synthetic s;
    ASSERT_EQ(s.open({integer("fit_units", 10)}), 0);
    FakeItem &parts = s.add("x", {integer("parts", 0)});
    FakeItem &units = s.add("x", {text("units", "many")});
    FakeItem &fault = s.add("x", {text("fault", "no_such")});
    FakeItem &once = s.add("x", {text("fault", "error"), text("fault_once", "mark")});
    FakeItem &error = s.add("x", {text("fault", "error")});
    FakeItem &well = s.add("x");
    ASSERT_EQ(s.step(), 0);
    for (FakeItem *item : {&parts, &units, &fault, &once}) {
        EXPECT_EQ(item->ends, 1);
        EXPECT_EQ(item->status, LIBSCHED_EINVAL) << item->message;
    }
    EXPECT_EQ(error.status, LIBSCHED_EENGINE);
    EXPECT_EQ(well.status, 0);
}

TEST(SyntheticStep, FailsAsAWholeWhereItIsToldTo)
{
    const std::map<std::string, int> faults = {{"fail", LIBSCHED_EENGINE},
                                               {"no_memory", LIBSCHED_ENODEVMEM},
                                               {"device_lost", LIBSCHED_EDEVICELOST}};
    for (auto &[fault, status] : faults) {
        Synthetic s;
        ASSERT_EQ(s.open({}), 0);
        FakeItem &item = s.add(
            "x", {text("fault", fault.c_str()), integer("fault_part", 2), integer("parts", 3)});
        EXPECT_EQ(s.step(), 0) << "not in its first part";
        EXPECT_EQ(s.step(), status);
        EXPECT_EQ(item.ends, 0);
    }
}

TEST(SyntheticPrepare, CountsUnits)
{
    Synthetic s;
    ASSERT_EQ(
        s.open({integer("prepare_us", 100), integer("units", 2), integer("units_per_kib", 10)}), 0);
    FakeItem &small = s.add("small");
    FakeItem &large = s.add(std::string(5000, 'l'));
    FakeItem &told = s.add("told", {integer("units", 99)});
    FakeItem &wrong = s.add("wrong", {integer("units", 0)});
    ASSERT_EQ(s.step(true), 0);
    EXPECT_EQ(small.raw.units, 2u);
    EXPECT_EQ(large.raw.units, 2u + 48);
    EXPECT_EQ(large.outputs.at("data"), large.data);
    EXPECT_EQ(told.raw.units, 99u);
    EXPECT_EQ(wrong.status, LIBSCHED_EINVAL);
}

} // namespace
