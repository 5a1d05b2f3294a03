// SPDX-License-Identifier: Apache-2.0
// A scheduler under test: opened, fed and emptied through libsched.h alone.
#ifndef TESTS_API_SCHEDULER_H
#define TESTS_API_SCHEDULER_H

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <libsched.h>
#include <poll.h>

namespace api_test
{

// What the synthetic engine answers (libsched/engine/synthetic.h).
uint64_t checksum(const std::vector<uint8_t> &data);

struct Output {
    std::string name;
    uint32_t datatype;
    std::vector<int64_t> shape;
    std::string bytes;

    template <class T> T scalar() const
    {
        T value{};
        EXPECT_EQ(bytes.size(), sizeof(value));
        memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
        return value;
    }
    std::vector<float> floats() const
    {
        std::vector<float> values(bytes.size() / sizeof(float));
        memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
        return values;
    }
};

// A completion, copied.
struct Done {
    libsched_completion raw;
    std::string name, message;
    std::map<std::string, Output> outputs;
    std::map<std::string, std::string> values; // of a job, as text

    int status() const
    {
        return raw.status;
    }
};

// Parameters by type.
class Parameters
{
  public:
    Parameters &integer(const char *name, int64_t value);
    Parameters &real(const char *name, double value);
    Parameters &boolean(const char *name, bool value);
    Parameters &string(const char *name, const std::string &value);
    const libsched_parameter *data();
    uint32_t size() const;

  private:
    std::vector<libsched_parameter> parameters_;
    std::map<std::string, std::string> strings_;
};

// A request that owns what it points to.
struct Request {
    explicit Request(const std::string &model_name, size_t size = 16, uint8_t fill = 1);

    std::string model;
    std::vector<uint8_t> data;
    Parameters parameters;
    libsched_request raw;
    libsched_tensor input;

    libsched_request *get();
};

// A job that owns what it points to.
struct Job {
    explicit Job(const std::string &program_name, uint32_t n_devices = 1);

    std::string program;
    Parameters parameters;
    std::vector<const char *> devices;
    libsched_job_options raw;

    libsched_job_options *get();
};

enum class Workers { process, thread };

std::string workers_name(const testing::TestParamInfo<Workers> &info);

class Scheduler
{
  public:
    using Configure = std::function<void(libsched_options &)>;

    explicit Scheduler(Workers workers, const Configure &configure = {});
    ~Scheduler();
    Scheduler(const Scheduler &) = delete;
    Scheduler &operator=(const Scheduler &) = delete;

    libsched *get() const
    {
        return s_;
    }
    void close();

    // Loads a synthetic model, and waits until it is ready.
    void load(const std::string &name, Parameters parameters = {}, uint32_t queue_limit = 0);
    void load(libsched_model_options options);
    int begin_load(const std::string &name, Parameters parameters = {}, uint32_t queue_limit = 0,
                   libsched_error *err = nullptr);

    uint64_t submit(Request &request);
    // One text for a model of texts.
    uint64_t submit_text(const char *model, const std::string &text);

    // Polls, processes and reaps until `stop`, or 20 s have passed, which fails the test.
    void run_until(const std::function<bool()> &stop);
    // One turn of that, at most so long.
    void turn(int timeout_ms);
    // The same without polling; reaps at most 16 completions.
    void look(uint32_t flags);
    // Until the request has ended; its end.
    const Done &end_of(uint64_t id);
    const Done &infer(Request &request);

    uint64_t submit(Job &job);
    // Until the job has ended; its end.
    const Done &end_of_job(uint64_t id);
    const Done &run(Job &job);
    // Until it is in this state, or has ended.
    void await_job(uint64_t id, libsched_job_state state);
    libsched_job_info job(uint64_t id) const;
    bool job_has_ended(uint64_t id) const;

    bool has_ended(uint64_t id) const
    {
        return ends.count(id) > 0;
    }
    libsched_model_info model(const std::string &name) const;
    libsched_device_info device(uint32_t index = 0) const;
    libsched_stats stats() const;
    // Until the device is up.
    void await_device(uint32_t index = 0);

    std::map<uint64_t, Done> ends;
    std::map<uint64_t, std::vector<Done>> parts;
    std::map<uint64_t, std::vector<Done>> jobs;
    std::vector<Done> changes; // of models and devices
    size_t n_ends = 0;

  private:
    void take(const libsched_completion &completion);
    libsched *s_ = nullptr;
};

class ApiTest : public testing::TestWithParam<Workers>
{
};

#define API_TESTS_FOR_BOTH(suite)                                                               \
    INSTANTIATE_TEST_SUITE_P(                                                                   \
        Workers, suite, testing::Values(api_test::Workers::process, api_test::Workers::thread), \
        api_test::workers_name)
#define API_TESTS_FOR_PROCESSES(suite)                                                    \
    INSTANTIATE_TEST_SUITE_P(Workers, suite, testing::Values(api_test::Workers::process), \
                             api_test::workers_name)

} // namespace api_test

#endif
