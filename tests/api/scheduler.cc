// SPDX-License-Identifier: Apache-2.0
#include "scheduler.h"

namespace api_test
{

uint64_t checksum(const std::vector<uint8_t> &data)
{
    uint64_t sum = data.size();
    for (size_t i = 0; i * 8 < data.size(); i++) {
        uint64_t word = 0;
        memcpy(&word, &data[i * 8], std::min<size_t>(8, data.size() - i * 8));
        sum += word * (2 * i + 1);
    }
    return sum;
}

std::string workers_name(const testing::TestParamInfo<Workers> &info)
{
    return info.param == Workers::process ? "process" : "thread";
}

Parameters &Parameters::integer(const char *name, int64_t value)
{
    libsched_parameter p{};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_INT;
    p.value.integer = value;
    parameters_.push_back(p);
    return *this;
}

Parameters &Parameters::real(const char *name, double value)
{
    libsched_parameter p{};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_FLOAT;
    p.value.real = value;
    parameters_.push_back(p);
    return *this;
}

Parameters &Parameters::boolean(const char *name, bool value)
{
    libsched_parameter p{};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_BOOL;
    p.value.boolean = value;
    parameters_.push_back(p);
    return *this;
}

Parameters &Parameters::string(const char *name, const std::string &value)
{
    libsched_parameter p{};
    p.name = name;
    p.type = LIBSCHED_PARAMETER_STRING;
    strings_[name] = value;
    parameters_.push_back(p);
    return *this;
}

const libsched_parameter *Parameters::data()
{
    for (libsched_parameter &p : parameters_)
        if (p.type == LIBSCHED_PARAMETER_STRING)
            p.value.string = strings_[p.name].c_str();
    return parameters_.data();
}

uint32_t Parameters::size() const
{
    return uint32_t(parameters_.size());
}

Request::Request(const std::string &model_name, size_t size, uint8_t fill)
    : model(model_name), data(size, fill), raw(LIBSCHED_REQUEST_INIT), input{}
{
}

libsched_request *Request::get()
{
    input.name = "data";
    input.datatype = LIBSCHED_UINT8;
    input.rank = 1;
    input.shape[0] = int64_t(data.size());
    input.data = data.data();
    input.size = data.size();
    raw.model = model.c_str();
    raw.inputs = &input;
    raw.n_inputs = 1;
    raw.parameters = parameters.data();
    raw.n_parameters = parameters.size();
    return &raw;
}

Job::Job(const std::string &program_name, uint32_t n_devices)
    : program(program_name), raw(LIBSCHED_JOB_OPTIONS_INIT)
{
    raw.n_devices = n_devices;
    raw.library = program == "tester" ? PLUGIN_FOLDER "/libsched-program-tester.so" : nullptr;
}

libsched_job_options *Job::get()
{
    raw.program = program.empty() ? nullptr : program.c_str();
    raw.flags = program.empty() ? uint32_t(LIBSCHED_JOB_RESERVE) : 0;
    raw.parameters = parameters.data();
    raw.n_parameters = parameters.size();
    raw.devices = devices.data();
    raw.n_device_names = uint32_t(devices.size());
    return &raw;
}

Scheduler::Scheduler(Workers workers, const Configure &configure)
{
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    libsched_error err{};
    options.worker_path = SCHED_WORKER_PATH;
    options.flags = workers == Workers::thread ? uint32_t(LIBSCHED_THREAD_WORKERS) : 0;
    options.arena_bytes = 64 << 20;
    options.result_bytes = 64 << 20;
    options.cpu_devices = 1;
    if (configure)
        configure(options);
    if (libsched_open(&s_, &options, &err) < 0)
        throw std::runtime_error(err.message);
}

Scheduler::~Scheduler()
{
    close();
}

void Scheduler::close()
{
    libsched_close(s_);
    s_ = nullptr;
}

int Scheduler::begin_load(const std::string &name, Parameters parameters, uint32_t queue_limit,
                          libsched_error *err)
{
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = name.c_str();
    options.engine = "synthetic";
    options.parameters = parameters.data();
    options.n_parameters = parameters.size();
    options.queue_limit = queue_limit;
    return libsched_model_load(s_, &options, err);
}

void Scheduler::load(const std::string &name, Parameters parameters, uint32_t queue_limit)
{
    libsched_error err{};
    ASSERT_EQ(begin_load(name, parameters, queue_limit, &err), LIBSCHED_OK) << err.message;
    run_until([&] { return model(name).state != LIBSCHED_MODEL_LOADING; });
    ASSERT_EQ(model(name).state, uint32_t(LIBSCHED_MODEL_READY)) << model(name).error.message;
}

void Scheduler::load(libsched_model_options options)
{
    libsched_error err{};
    std::string name = options.name;
    ASSERT_EQ(libsched_model_load(s_, &options, &err), LIBSCHED_OK) << err.message;
    run_until([&] { return model(name).state != LIBSCHED_MODEL_LOADING; });
    ASSERT_EQ(model(name).state, uint32_t(LIBSCHED_MODEL_READY)) << model(name).error.message;
}

uint64_t Scheduler::submit_text(const char *model, const std::string &text)
{
    const uint32_t length = (uint32_t)text.size();
    std::string data((const char *)&length, sizeof(length));
    data += text;
    libsched_tensor input = {};
    input.name = "text";
    input.datatype = LIBSCHED_BYTES;
    input.rank = 1;
    input.shape[0] = 1;
    input.data = data.data();
    input.size = data.size();
    libsched_request request = LIBSCHED_REQUEST_INIT;
    request.model = model;
    request.inputs = &input;
    request.n_inputs = 1;
    uint64_t id = 0;
    libsched_error err;
    EXPECT_EQ(libsched_submit(s_, &request, &id, &err), LIBSCHED_OK) << err.message;
    return id;
}

uint64_t Scheduler::submit(Request &request)
{
    uint64_t id = 0;
    libsched_error err{};
    EXPECT_EQ(libsched_submit(s_, request.get(), &id, &err), LIBSCHED_OK) << err.message;
    return id;
}

static std::string text_of(const libsched_parameter &value)
{
    switch (value.type) {
    case LIBSCHED_PARAMETER_BOOL:
        return value.value.boolean ? "true" : "false";
    case LIBSCHED_PARAMETER_INT:
        return std::to_string(value.value.integer);
    case LIBSCHED_PARAMETER_FLOAT:
        return std::to_string(value.value.real);
    default:
        return value.value.string;
    }
}

void Scheduler::take(const libsched_completion &completion)
{
    Done done;
    done.raw = completion;
    done.message = completion.message;
    if (completion.name != nullptr)
        done.name = completion.name;
    for (uint32_t i = 0; i < completion.n_outputs; i++) {
        const libsched_tensor &t = completion.outputs[i];
        done.outputs[t.name] = {t.name, t.datatype, std::vector<int64_t>(t.shape, t.shape + t.rank),
                                std::string(static_cast<const char *>(t.data), t.size)};
    }
    for (uint32_t i = 0; i < completion.n_values; i++)
        done.values[completion.values[i].name] = text_of(completion.values[i]);
    switch (completion.kind) {
    case LIBSCHED_JOB:
        EXPECT_FALSE(job_has_ended(completion.id)) << "something comes after a job's end";
        jobs[completion.id].push_back(done);
        break;
    case LIBSCHED_PART:
        parts[completion.id].push_back(done);
        break;
    case LIBSCHED_END:
        EXPECT_EQ(ends.count(completion.id), 0u) << "a request ended twice";
        ends[completion.id] = done;
        n_ends++;
        break;
    default:
        changes.push_back(done);
    }
}

void Scheduler::turn(int timeout_ms)
{
    pollfd fd = {libsched_fd(s_), POLLIN, 0};
    poll(&fd, 1, timeout_ms);
    look(0);
}

void Scheduler::look(uint32_t flags)
{
    ASSERT_GE(libsched_process(s_, flags), 0);
    libsched_completion completions[16];
    size_t n = libsched_reap(s_, completions, 16);
    for (size_t i = 0; i < n; i++)
        take(completions[i]);
    libsched_release(s_, completions, n);
}

void Scheduler::run_until(const std::function<bool()> &stop)
{
    uint64_t end = libsched_now() + 120000000000;
    while (!stop()) {
        uint64_t now = libsched_now();
        ASSERT_LT(now, end) << "nothing more happens";
        turn(int((end - now) / 1000000) + 1);
    }
}

const Done &Scheduler::end_of(uint64_t id)
{
    run_until([&] { return has_ended(id); });
    return ends[id];
}

const Done &Scheduler::infer(Request &request)
{
    return end_of(submit(request));
}

uint64_t Scheduler::submit(Job &job)
{
    uint64_t id = 0;
    libsched_error err{};
    EXPECT_EQ(libsched_job_submit(s_, job.get(), &id, &err), LIBSCHED_OK) << err.message;
    return id;
}

bool Scheduler::job_has_ended(uint64_t id) const
{
    auto job = jobs.find(id);
    return job != jobs.end() && job->second.back().raw.state == LIBSCHED_JOB_ENDED;
}

const Done &Scheduler::end_of_job(uint64_t id)
{
    run_until([&] { return job_has_ended(id); });
    return jobs[id].back();
}

const Done &Scheduler::run(Job &job)
{
    return end_of_job(submit(job));
}

libsched_job_info Scheduler::job(uint64_t id) const
{
    libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
    libsched_job_find(s_, id, &info);
    return info;
}

void Scheduler::await_job(uint64_t id, libsched_job_state state)
{
    run_until([&] { return job(id).state == state || job_has_ended(id); });
}

libsched_model_info Scheduler::model(const std::string &name) const
{
    libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
    libsched_model_find(s_, name.c_str(), &info);
    return info;
}

libsched_device_info Scheduler::device(uint32_t index) const
{
    libsched_device_info info = LIBSCHED_DEVICE_INFO_INIT;
    libsched_device_get(s_, index, &info);
    return info;
}

libsched_stats Scheduler::stats() const
{
    libsched_stats stats = LIBSCHED_STATS_INIT;
    libsched_get_stats(s_, &stats);
    return stats;
}

void Scheduler::await_device(uint32_t index)
{
    run_until([&] { return device(index).state == LIBSCHED_DEVICE_UP; });
}

} // namespace api_test
