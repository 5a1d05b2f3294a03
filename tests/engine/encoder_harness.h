/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the encoder as a worker would: a device, a model, and a host that keeps what items yield. */
#ifndef TESTS_ENGINE_ENCODER_HARNESS_H
#define TESTS_ENGINE_ENCODER_HARNESS_H

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include <libsched/device.h>
#include <libsched/engine.h>

namespace gpu_sched_test
{

/* A tensor that owns its data, aligned as the scheduler aligns it. */
struct owned_tensor {
    uint32_t datatype;
    std::vector<int64_t> shape;
    std::vector<unsigned char> data;
};

/* Of what an item is given, which has to stay. */
libsched_tensor tensor_of(const std::string &name, const owned_tensor &tensor);

owned_tensor bytes_tensor(const std::vector<std::string> &texts);
owned_tensor int32_tensor(const std::vector<int64_t> &shape, const std::vector<int32_t> &values);
owned_tensor int64_tensor(const std::vector<int64_t> &shape, const std::vector<int64_t> &values);

/* Named values of a model or request. */
class parameters
{
  public:
    parameters &set(const std::string &name, bool value);
    parameters &set(const std::string &name, int64_t value);
    parameters &set(const std::string &name, const std::string &value);
    const std::vector<libsched_parameter> &list() const
    {
        return values;
    }

  private:
    libsched_parameter &add(const std::string &name, uint32_t type);
    std::deque<std::string> strings; /* that do not move */
    std::vector<libsched_parameter> values;

  public:
    parameters() = default;
    parameters(const parameters &other);
    parameters &operator=(const parameters &other);
};

struct request {
    std::map<std::string, owned_tensor> inputs;
    parameters options;
    bool cancelled = false;
};

request text_request(const std::vector<std::string> &texts);
/* What prepare() makes of token ids. */
request prepared_request(const std::vector<std::vector<int32_t>> &sequences);

struct answer {
    int ends = 0; /* how often it was ended */
    int status = LIBSCHED_EPROTOCOL;
    std::string message;
    uint64_t units = 0;
    std::map<std::string, owned_tensor> outputs;

    /* Row of a FP32 output. */
    const float *row(const std::string &name, size_t index) const;
};

/* What a model is computed on. */
struct encoder_device {
    std::string driver = "cpu", plugins = "";
};

class encoder_model
{
  public:
    encoder_model(const std::string &folder, const parameters &options = {},
                  bool prepare_only = false, uint32_t threads = 2,
                  const encoder_device &on = encoder_device());
    ~encoder_model();
    encoder_model(const encoder_model &) = delete;
    encoder_model &operator=(const encoder_model &) = delete;

    int status;              /* of open() */
    libsched_error err = {}; /* of the last call */
    libsched_engine_model *model = nullptr;
    const libsched_engine *engine;
    /* Results have room for so many bytes each; more is refused as a scheduler would. */
    uint64_t result_limit = UINT64_MAX;

    libsched_engine_description describe();
    std::vector<answer> prepare(const std::vector<request> &requests);
    std::vector<answer> step(const std::vector<request> &requests);
    /* prepare(), and step() of what came through; the answers in the order of the requests. */
    std::vector<answer> run(const std::vector<request> &requests);

  private:
    std::vector<answer> call(bool prepare, const std::vector<request> &requests);
    libsched_device *device = nullptr;
};

} // namespace gpu_sched_test

#endif
