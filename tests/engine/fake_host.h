// SPDX-License-Identifier: Apache-2.0
// A host for an engine, without a worker: keeps what the engine makes.
#ifndef TESTS_ENGINE_FAKE_HOST_H
#define TESTS_ENGINE_FAKE_HOST_H

#include <deque>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <libsched/engine.h>

namespace engine_test
{

struct FakeItem {
    libsched_item raw{};
    std::string data;
    std::vector<libsched_parameter> parameters;
    libsched_tensor input{};

    std::map<std::string, std::string> outputs; // since the last part
    std::vector<std::map<std::string, std::string>> parts;
    int ends = 0;
    int status = 1;
    std::string message;
};

// Runs an engine's calls on items, one model.
class FakeHost
{
  public:
    explicit FakeHost(const libsched_engine *e) : engine(e)
    {
    }
    ~FakeHost()
    {
        if (model != nullptr)
            engine->close(model);
    }

    int open(const std::vector<libsched_parameter> &parameters)
    {
        libsched_engine_open_args args = {};
        args.struct_size = sizeof(args);
        args.name = "test";
        args.parameters = parameters.data();
        args.n_parameters = uint32_t(parameters.size());
        args.threads = 1;
        int status = engine->open(&model, &args, &err);
        if (status == 0) {
            EXPECT_EQ(engine->describe(model, &description, &err), 0);
        }
        return status;
    }

    FakeItem &add(const std::string &data, const std::vector<libsched_parameter> &parameters = {},
                  uint64_t units = 1)
    {
        items.emplace_back();
        FakeItem &item = items.back();
        item.data = data;
        item.parameters = parameters;
        item.input.name = "data";
        item.input.datatype = LIBSCHED_UINT8;
        item.input.rank = 1;
        item.input.shape[0] = int64_t(data.size());
        item.input.data = item.data.data();
        item.input.size = item.data.size();
        item.raw.id = items.size();
        item.raw.units = units;
        item.raw.joined = true;
        item.raw.n_inputs = 1;
        item.raw.inputs = &item.input;
        item.raw.n_parameters = uint32_t(parameters.size());
        item.raw.parameters = item.parameters.data();
        return item;
    }

    // Runs a step, or a prepare, of the items that have no end yet.
    int step(bool prepare = false)
    {
        std::vector<libsched_item *> pointers;
        libsched_engine_batch batch = {};
        for (FakeItem &item : items)
            if (item.ends == 0) {
                pointers.push_back(&item.raw);
                batch.units += item.raw.units;
            }
        batch.struct_size = sizeof(batch);
        batch.n_items = uint32_t(pointers.size());
        batch.items = pointers.data();
        batch.host = this;
        static const libsched_engine_host host = {
            sizeof(libsched_engine_host), output, part, end, [](void *, const char *) {},
        };
        int status = prepare ? engine->prepare(model, &batch, &host, &err)
                             : engine->step(model, &batch, &host, &err);
        for (FakeItem &item : items)
            item.raw.joined = false;
        return status;
    }

    const libsched_engine *engine;
    libsched_engine_model *model = nullptr;
    libsched_engine_description description{};
    libsched_error err{};
    std::deque<FakeItem> items;

  private:
    static FakeItem &of(void *host, libsched_item *raw)
    {
        return static_cast<FakeHost *>(host)->items.at(raw->id - 1);
    }
    static void *output(void *host, libsched_item *raw, const char *name, uint32_t, uint32_t,
                        const int64_t *, uint64_t size)
    {
        std::string &bytes = of(host, raw).outputs[name];
        bytes.assign(size, 0);
        return bytes.data();
    }
    static void part(void *host, libsched_item *raw)
    {
        FakeItem &item = of(host, raw);
        item.parts.push_back(item.outputs);
        item.outputs.clear();
    }
    static void end(void *host, libsched_item *raw, int status, const char *message)
    {
        FakeItem &item = of(host, raw);
        item.ends++;
        item.status = status;
        item.message = message != nullptr ? message : "";
    }
};

} // namespace engine_test

#endif
