// SPDX-License-Identifier: Apache-2.0
// The encoder through the whole of the library, with real weights.
#include <cmath>
#include <csignal>

#include "../support/minilm.h"
#include "scheduler.h"

using namespace api_test;

class Encoder : public ApiTest
{
  protected:
    static void load(Scheduler &s, const std::string &folder)
    {
        libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
        libsched_error err{};
        options.name = "minilm";
        options.path = folder.c_str();
        ASSERT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_OK) << err.message;
        s.run_until([&] { return s.model("minilm").state != LIBSCHED_MODEL_LOADING; });
        ASSERT_EQ(s.model("minilm").state, uint32_t(LIBSCHED_MODEL_READY))
            << s.model("minilm").error.message;
    }

    static std::string bytes_of(const std::string &text)
    {
        uint32_t length = uint32_t(text.size());
        std::string out(4, '\0');
        memcpy(out.data(), &length, 4);
        return out + text;
    }

    static uint64_t submit(Scheduler &s, const std::string &text, int *rc = nullptr)
    {
        std::string bytes = bytes_of(text);
        libsched_tensor input{};
        input.name = "text";
        input.datatype = LIBSCHED_BYTES;
        input.rank = 1;
        input.shape[0] = 1;
        input.data = bytes.data();
        input.size = bytes.size();
        libsched_request request = LIBSCHED_REQUEST_INIT;
        request.model = "minilm";
        request.inputs = &input;
        request.n_inputs = 1;
        uint64_t id = 0;
        libsched_error err{};
        int got = libsched_submit(s.get(), &request, &id, &err);
        if (rc != nullptr)
            *rc = got;
        else
            EXPECT_EQ(got, LIBSCHED_OK) << err.message;
        return id;
    }

    static double largest_difference(const std::vector<float> &a, const std::vector<float> &b)
    {
        double largest = a.size() == b.size() ? 0 : HUGE_VAL;
        for (size_t i = 0; i < a.size() && i < b.size(); i++)
            largest = std::max(largest, std::fabs(double(a[i]) - b[i]));
        return largest;
    }

    static double cosine(const std::vector<float> &a, const std::vector<float> &b)
    {
        double ab = 0, aa = 0, bb = 0;
        for (size_t i = 0; i < a.size() && i < b.size(); i++) {
            ab += double(a[i]) * b[i];
            aa += double(a[i]) * a[i];
            bb += double(b[i]) * b[i];
        }
        return ab / std::sqrt(aa * bb);
    }
};

TEST_P(Encoder, EmbedsTextTheSameAloneAndInABatch)
{
    GPU_SCHED_NEED_MINILM(folder);
    Scheduler s(GetParam());
    load(s, folder);
    EXPECT_STREQ(s.model("minilm").engine, "encoder");

    std::vector<std::string> texts;
    for (int i = 0; i < 40; i++)
        texts.push_back("sentence number " + std::to_string(i) + std::string(size_t(i) * 5, 'x'));
    std::vector<std::vector<float>> alone;
    for (const std::string &text : texts) {
        const Done &done = s.end_of(submit(s, text));
        ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
        alone.push_back(done.outputs.at("embedding").floats());
        ASSERT_EQ(alone.back().size(), 384u);
    }
    std::vector<uint64_t> ids;
    for (const std::string &text : texts)
        ids.push_back(submit(s, text));
    s.run_until([&] { return s.n_ends == 2 * texts.size(); });
    uint32_t largest = 0;
    for (size_t i = 0; i < texts.size(); i++) {
        const Done &done = s.ends.at(ids[i]);
        ASSERT_EQ(done.status(), LIBSCHED_OK) << done.message;
        largest = std::max(largest, done.raw.batch_size);
        EXPECT_LT(largest_difference(done.outputs.at("embedding").floats(), alone[i]), 1e-5)
            << texts[i];
    }
    EXPECT_GT(largest, 1u);
    EXPECT_EQ(libsched_spin_budget(s.get()), 0u); // a CPU device computes
}

TEST_P(Encoder, MeansWhatTheTextMeans)
{
    GPU_SCHED_NEED_MINILM(folder);
    Scheduler s(GetParam());
    load(s, folder);
    auto embed = [&](const char *text) {
        return s.end_of(submit(s, text)).outputs.at("embedding").floats();
    };
    std::vector<float> cat = embed("A cat sits on the mat."), kitten = embed("A kitten on a rug."),
                       tax = embed("The tax form is due in April.");
    EXPECT_GT(cosine(cat, kitten), cosine(cat, tax) + 0.2);
}

TEST_P(Encoder, RefusesInvalidTextAloneInItsBatch)
{
    GPU_SCHED_NEED_MINILM(folder);
    Scheduler s(GetParam());
    load(s, folder);
    std::vector<uint64_t> good;
    for (int i = 0; i < 5; i++)
        good.push_back(submit(s, "fine"));
    uint64_t bad = submit(s, "not UTF-8: \xff\xfe");
    for (int i = 0; i < 5; i++)
        good.push_back(submit(s, "fine as well"));
    EXPECT_EQ(s.end_of(bad).status(), LIBSCHED_EINVAL) << s.end_of(bad).message;
    EXPECT_NE(s.end_of(bad).message, "");
    for (uint64_t id : good)
        EXPECT_EQ(s.end_of(id).status(), LIBSCHED_OK);
}

class MortalEncoder : public Encoder
{
};

TEST_P(MortalEncoder, SurvivesTheDeathOfItsWorker)
{
    GPU_SCHED_NEED_MINILM(folder);
    Scheduler s(GetParam());
    load(s, folder);
    std::string text(300, 'a');
    for (size_t i = 5; i < text.size(); i += 6)
        text[i] = ' ';
    std::vector<uint64_t> ids;
    for (int i = 0; i < 30; i++)
        ids.push_back(submit(s, text));
    s.run_until([&] { return s.n_ends >= 1; });
    ASSERT_EQ(kill(s.device().pid, SIGKILL), 0);
    s.run_until([&] { return s.n_ends == ids.size(); });
    for (uint64_t id : ids)
        EXPECT_EQ(s.ends.at(id).status(), LIBSCHED_OK) << s.ends.at(id).message;
    EXPECT_EQ(s.stats().worker_deaths, 1u);
}

API_TESTS_FOR_BOTH(Encoder);
API_TESTS_FOR_PROCESSES(MortalEncoder);
