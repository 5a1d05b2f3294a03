// SPDX-License-Identifier: Apache-2.0
// How long requests took, as libsched_model_histograms() tells it.
#include <numeric>

#include "scheduler.h"

using namespace api_test;

class Histograms : public ApiTest
{
  public:
    static uint64_t sum(const uint64_t *buckets)
    {
        return std::accumulate(buckets, buckets + LIBSCHED_HISTOGRAM_BUCKETS, uint64_t(0));
    }
};

TEST_P(Histograms, CountWhatCompletedOnce)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 3000).integer("max_batch_requests", 4));
    std::vector<uint64_t> ids;
    for (int i = 0; i < 10; i++) {
        Request request("m");
        ids.push_back(s.submit(request));
    }
    s.run_until([&] { return s.n_ends == ids.size(); });

    libsched_histograms h = LIBSCHED_HISTOGRAMS_INIT;
    ASSERT_EQ(libsched_model_histograms(s.get(), "m", &h), LIBSCHED_OK);
    for (const uint64_t *buckets : {h.queue_us, h.compute_us, h.total_us, h.batch})
        EXPECT_EQ(sum(buckets), 10u);

    // Each completion is in the bucket that its own numbers say.
    libsched_histograms expected = {};
    auto bucket = [](uint64_t value) {
        int i = 0;
        while ((uint64_t(1) << i) < value)
            i++;
        return i;
    };
    for (uint64_t id : ids) {
        const libsched_completion &end = s.ends.at(id).raw;
        expected.queue_us[bucket((end.queue_ns + 999) / 1000)]++;
        expected.compute_us[bucket((end.compute_ns + 999) / 1000)]++;
        expected.total_us[bucket((end.queue_ns + end.compute_ns + 999) / 1000)]++;
        expected.batch[bucket(end.batch_size)]++;
        expected.batch_sum += end.batch_size;
    }
    for (int i = 0; i < LIBSCHED_HISTOGRAM_BUCKETS; i++) {
        EXPECT_EQ(h.queue_us[i], expected.queue_us[i]) << i;
        EXPECT_EQ(h.compute_us[i], expected.compute_us[i]) << i;
        EXPECT_EQ(h.total_us[i], expected.total_us[i]) << i;
        EXPECT_EQ(h.batch[i], expected.batch[i]) << i;
    }
    EXPECT_EQ(h.batch_sum, expected.batch_sum);
}

TEST_P(Histograms, DoNotCountWhatFailed)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 50000));
    Request request("m");
    uint64_t first = s.submit(request), second = s.submit(request);
    libsched_cancel(s.get(), second);
    s.run_until([&] { return s.n_ends == 2; });
    EXPECT_EQ(s.ends.at(first).status(), LIBSCHED_OK);
    EXPECT_EQ(s.ends.at(second).status(), LIBSCHED_ECANCELED);
    libsched_histograms h = LIBSCHED_HISTOGRAMS_INIT;
    ASSERT_EQ(libsched_model_histograms(s.get(), "m", &h), LIBSCHED_OK);
    EXPECT_EQ(sum(h.total_us), 1u);
    EXPECT_EQ(h.batch_sum, 1u);
}

TEST_P(Histograms, OfNoModelAreRefused)
{
    Scheduler s(GetParam());
    s.load("m");
    libsched_histograms h = LIBSCHED_HISTOGRAMS_INIT;
    EXPECT_EQ(libsched_model_histograms(s.get(), "none", &h), LIBSCHED_ENOMODEL);
    EXPECT_EQ(libsched_model_histograms(s.get(), nullptr, &h), LIBSCHED_ENOMODEL);
    h.struct_size = 0;
    EXPECT_EQ(libsched_model_histograms(s.get(), "m", &h), LIBSCHED_EINVAL);
}

API_TESTS_FOR_BOTH(Histograms);
