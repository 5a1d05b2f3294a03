// SPDX-License-Identifier: Apache-2.0
// Memory that runs out: each allocation of the calling thread fails in turn, the first, then the
// second ..., until a run has none left to fail. Nothing crashes, nothing leaks, nothing hangs,
// and what failed says so.
#include <cstdlib>
#include <cstring>

#include <gtest/gtest.h>
#include <libsched.h>
#include <poll.h>

namespace
{

// Of this thread alone: workers are threads here.
thread_local bool counting;
thread_local long countdown;
thread_local bool struck;

bool strikes()
{
    if (!counting || countdown-- > 0)
        return false;
    counting = false; // one failure a run
    struck = true;
    return true;
}

} // namespace

extern "C" {
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *string);

void *__wrap_malloc(size_t size)
{
    return strikes() ? nullptr : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return strikes() ? nullptr : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return strikes() ? nullptr : __real_realloc(old, size);
}

char *__wrap_strdup(const char *string)
{
    return strikes() ? nullptr : __real_strdup(string);
}
}

namespace
{

// The whole life of a scheduler with one request; false where it could not be had.
bool live(int *refusal)
{
    libsched *s = nullptr;
    libsched_error err{};
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    options.flags = LIBSCHED_THREAD_WORKERS;
    options.cpu_devices = 1;
    options.max_requests = 16;
    options.arena_bytes = 1 << 20;
    options.result_bytes = 1 << 20;
    options.plugin_path = "/nowhere";
    *refusal = libsched_open(&s, &options, &err);
    if (*refusal < 0) {
        EXPECT_EQ(s, nullptr);
        EXPECT_STRNE(err.message, "");
        return false;
    }
    libsched_parameter parameter{};
    parameter.name = "prepare_us";
    parameter.type = LIBSCHED_PARAMETER_INT;
    libsched_model_options model = LIBSCHED_MODEL_OPTIONS_INIT;
    model.name = "m";
    model.engine = "synthetic";
    model.parameters = &parameter;
    model.n_parameters = 1;
    *refusal = libsched_model_load(s, &model, &err);
    uint64_t id = 0;
    unsigned char data[100] = {1};
    libsched_tensor input{};
    input.name = "data";
    input.datatype = LIBSCHED_UINT8;
    input.rank = 1;
    input.shape[0] = sizeof(data);
    input.data = data;
    input.size = sizeof(data);
    libsched_parameter parts{};
    parts.name = "parts";
    parts.type = LIBSCHED_PARAMETER_INT;
    parts.value.integer = 3;
    if (*refusal == LIBSCHED_OK) {
        libsched_request request = LIBSCHED_REQUEST_INIT;
        request.model = "m";
        request.inputs = &input;
        request.n_inputs = 1;
        request.parameters = &parts;
        request.n_parameters = 1;
        request.flags = LIBSCHED_WANT_PARTS;
        request.part_credit = 10;
        *refusal = libsched_submit(s, &request, &id, &err);
    }
    bool answered = false, ended = *refusal < 0;
    uint64_t until = libsched_now() + 120000000000;
    while (!ended && libsched_now() < until) {
        pollfd fd = {libsched_fd(s), POLLIN, 0};
        poll(&fd, 1, 1000);
        libsched_process(s, 0);
        libsched_completion done[8];
        size_t n = libsched_reap(s, done, 8);
        for (size_t i = 0; i < n; i++)
            if (done[i].kind == LIBSCHED_END) {
                ended = true;
                answered = done[i].status == LIBSCHED_OK;
                *refusal = done[i].status;
                EXPECT_EQ(answered, done[i].message[0] == '\0');
            }
        libsched_release(s, done, n);
    }
    EXPECT_TRUE(ended) << "a request that was accepted has no end";
    libsched_close(s);
    return answered;
}

// The same with a job on two devices; true where it ended well.
bool live_with_job(int *refusal)
{
    libsched *s = nullptr;
    libsched_error err{};
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    options.flags = LIBSCHED_THREAD_WORKERS;
    options.cpu_devices = 2;
    options.cores_per_device = 1;
    options.max_requests = 16;
    options.arena_bytes = 1 << 20;
    options.result_bytes = 1 << 20;
    options.plugin_path = "/nowhere";
    *refusal = libsched_open(&s, &options, &err);
    if (*refusal < 0)
        return false;
    libsched_parameter parameters[4]{};
    const char *const names[] = {"m", "n", "k", "steps"};
    for (int i = 0; i < 4; i++) {
        parameters[i].name = names[i];
        parameters[i].type = LIBSCHED_PARAMETER_INT;
        parameters[i].value.integer = i < 3 ? 8 : 1;
    }
    libsched_job_options job = LIBSCHED_JOB_OPTIONS_INIT;
    job.program = "gemm";
    job.n_devices = 2;
    job.parameters = parameters;
    job.n_parameters = 4;
    uint64_t id = 0;
    *refusal = libsched_job_submit(s, &job, &id, &err);
    bool well = false, ended = *refusal < 0;
    EXPECT_EQ(ended, id == 0);
    uint64_t until = libsched_now() + 120000000000;
    while (!ended && libsched_now() < until) {
        pollfd fd = {libsched_fd(s), POLLIN, 0};
        poll(&fd, 1, 1000);
        libsched_process(s, 0);
        libsched_job_info info = LIBSCHED_JOB_INFO_INIT;
        libsched_job_get(s, 0, &info);
        libsched_completion done[8];
        size_t n = libsched_reap(s, done, 8);
        for (size_t i = 0; i < n; i++)
            if (done[i].kind == LIBSCHED_JOB && done[i].state == LIBSCHED_JOB_ENDED) {
                ended = true;
                well = done[i].status == LIBSCHED_OK;
                *refusal = done[i].status;
            }
        libsched_release(s, done, n);
    }
    EXPECT_TRUE(ended) << "a job that was accepted has no end";
    EXPECT_EQ(libsched_job_count(s), 0u);
    libsched_close(s);
    return well;
}

TEST(Memory, MayRunOutAnywhereInTheLifeOfAJob)
{
    int refusal = 0;
    ASSERT_TRUE(live_with_job(&refusal)) << refusal;
    bool all = false;
    for (long n = 0; n < 5000 && !all; n++) {
        counting = true;
        countdown = n;
        struck = false;
        bool well = live_with_job(&refusal);
        counting = false;
        all = !struck;
        EXPECT_TRUE(well || !all);
        ASSERT_FALSE(HasFailure()) << "allocation " << n;
    }
    EXPECT_TRUE(all);
}

TEST(Memory, MayRunOutAnywhere)
{
    int refusal = 0;
    ASSERT_TRUE(live(&refusal)) << refusal; // also loads what libraries keep
    bool all = false;
    for (long n = 0; n < 5000 && !all; n++) {
        counting = true;
        countdown = n;
        struck = false;
        bool answered = live(&refusal);
        counting = false;
        all = !struck;
        EXPECT_TRUE(answered || !all);
        EXPECT_EQ(answered, refusal == LIBSCHED_OK);
        ASSERT_FALSE(HasFailure()) << "allocation " << n;
    }
    EXPECT_TRUE(all);
}

} // namespace
