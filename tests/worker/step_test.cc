// SPDX-License-Identifier: Apache-2.0
// Steps of sessions: what goes in comes out, item by item, in both kinds of worker.
#include "worker/harness.h"

#include <set>

#include "engine/synthetic.h"

using namespace worker_test;
using testing::Test;

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
