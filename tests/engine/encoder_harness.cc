/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/encoder_harness.h"

#include <cstring>

#include <gtest/gtest.h>

#include "device/loader.h"
#include "engine/encoder.h"

namespace gpu_sched_test
{

namespace
{

template <typename T>
owned_tensor number_tensor(uint32_t datatype, const std::vector<int64_t> &shape,
                           const std::vector<T> &values)
{
    owned_tensor t = {datatype, shape, std::vector<unsigned char>(values.size() * sizeof(T))};
    if (!values.empty())
        memcpy(t.data.data(), values.data(), t.data.size());
    return t;
}

/* What the host knows of an item. */
struct record {
    libsched_item item = {};
    std::vector<libsched_tensor> inputs;
    answer out;
};

struct host_state {
    std::deque<record> records;
    uint64_t result_limit;
};

record *find(host_state *state, const libsched_item *item)
{
    for (record &r : state->records)
        if (&r.item == item)
            return &r;
    return nullptr;
}

void *host_output(void *host, libsched_item *item, const char *name, uint32_t datatype,
                  uint32_t rank, const int64_t *shape, uint64_t size)
{
    auto *state = static_cast<host_state *>(host);
    record *r = find(state, item);
    EXPECT_EQ(0, r->out.ends) << "output of an item that has ended";
    if (datatype != LIBSCHED_BYTES) {
        EXPECT_EQ((uint64_t)libsched_shape_elements(shape, rank) * libsched_datatype_size(datatype),
                  size);
    }
    if (size > state->result_limit) {
        r->out.ends++;
        r->out.status = LIBSCHED_ETOOBIG;
        return nullptr;
    }
    owned_tensor &t = r->out.outputs[name];
    t = {datatype, std::vector<int64_t>(shape, shape + rank), {}};
    t.data.assign(size, 0xee);
    static unsigned char nothing;
    return size > 0 ? t.data.data() : &nothing;
}

void host_part(void *, libsched_item *)
{
    ADD_FAILURE() << "an encoder has no parts";
}

void host_end(void *host, libsched_item *item, int status, const char *message)
{
    record *r = find(static_cast<host_state *>(host), item);
    r->out.ends++;
    r->out.status = status;
    r->out.message = message != nullptr ? message : "";
    if (status != LIBSCHED_OK)
        r->out.outputs.clear();
}

void host_log(void *, const char *)
{
}

} // namespace

libsched_tensor tensor_of(const std::string &name, const owned_tensor &t)
{
    libsched_tensor tensor = {};

    tensor.name = name.c_str();
    tensor.datatype = t.datatype;
    tensor.rank = (uint32_t)t.shape.size();
    std::copy(t.shape.begin(), t.shape.end(), tensor.shape);
    tensor.data = t.data.data();
    tensor.size = t.data.size();
    return tensor;
}

owned_tensor bytes_tensor(const std::vector<std::string> &texts)
{
    owned_tensor t = {LIBSCHED_BYTES, {(int64_t)texts.size()}, {}};
    for (const std::string &text : texts) {
        for (int i = 0; i < 4; i++)
            t.data.push_back((unsigned char)(text.size() >> (8 * i)));
        t.data.insert(t.data.end(), text.begin(), text.end());
    }
    return t;
}

owned_tensor int32_tensor(const std::vector<int64_t> &shape, const std::vector<int32_t> &values)
{
    return number_tensor(LIBSCHED_INT32, shape, values);
}

owned_tensor int64_tensor(const std::vector<int64_t> &shape, const std::vector<int64_t> &values)
{
    return number_tensor(LIBSCHED_INT64, shape, values);
}

/* --------------------------------------------------------------------------------- parameters */

libsched_parameter &parameters::add(const std::string &name, uint32_t type)
{
    strings.push_back(name);
    values.push_back({strings.back().c_str(), type, {}});
    return values.back();
}

parameters &parameters::set(const std::string &name, bool value)
{
    add(name, LIBSCHED_PARAMETER_BOOL).value.boolean = value;
    return *this;
}

parameters &parameters::set(const std::string &name, int64_t value)
{
    add(name, LIBSCHED_PARAMETER_INT).value.integer = value;
    return *this;
}

parameters &parameters::set(const std::string &name, const std::string &value)
{
    strings.push_back(value);
    const char *text = strings.back().c_str();
    add(name, LIBSCHED_PARAMETER_STRING).value.string = text;
    return *this;
}

parameters::parameters(const parameters &other)
{
    *this = other;
}

parameters &parameters::operator=(const parameters &other)
{
    if (this == &other)
        return *this;
    strings.clear();
    values.clear();
    for (const libsched_parameter &p : other.values) {
        if (p.type == LIBSCHED_PARAMETER_STRING)
            set(p.name, std::string(p.value.string));
        else
            add(p.name, p.type).value = p.value;
    }
    return *this;
}

/* ----------------------------------------------------------------------------------- requests */

request text_request(const std::vector<std::string> &texts)
{
    request r;
    r.inputs["text"] = bytes_tensor(texts);
    return r;
}

request prepared_request(const std::vector<std::vector<int32_t>> &sequences)
{
    request r;
    std::vector<int32_t> ids, lengths;
    for (const auto &sequence : sequences) {
        ids.insert(ids.end(), sequence.begin(), sequence.end());
        lengths.push_back((int32_t)sequence.size());
    }
    r.inputs["ids"] = int32_tensor({(int64_t)ids.size()}, ids);
    r.inputs["lengths"] = int32_tensor({(int64_t)lengths.size()}, lengths);
    return r;
}

const float *answer::row(const std::string &name, size_t index) const
{
    const owned_tensor &t = outputs.at(name);
    return reinterpret_cast<const float *>(t.data.data()) + index * (size_t)t.shape.at(1);
}

/* -------------------------------------------------------------------------------------- model */

encoder_model::encoder_model(const std::string &folder, const parameters &options,
                             bool prepare_only, uint32_t threads, const encoder_device &on)
    : engine(engine_encoder())
{
    const libsched_device_driver *driver;
    libsched_device_open_args device_args = {};
    libsched_engine_open_args args = {};

    if (!prepare_only) {
        device_args.struct_size = sizeof(device_args);
        device_args.threads = threads;
        status = device_find_driver(&driver, on.driver.c_str(), on.plugins.c_str(), &err);
        if (status == LIBSCHED_OK)
            status = driver->open(&device, &device_args, &err);
        EXPECT_EQ(LIBSCHED_OK, status) << err.message;
    }
    args.struct_size = sizeof(args);
    args.name = "model";
    args.path = folder.c_str();
    args.parameters = options.list().data();
    args.n_parameters = (uint32_t)options.list().size();
    args.device = device;
    args.threads = threads;
    args.prepare_only = prepare_only;
    status = engine->open(&model, &args, &err);
}

encoder_model::~encoder_model()
{
    if (model != nullptr)
        engine->close(model);
    if (device != nullptr)
        device->driver->close(device);
}

libsched_engine_description encoder_model::describe()
{
    libsched_engine_description description = {};
    EXPECT_EQ(LIBSCHED_OK, engine->describe(model, &description, &err)) << err.message;
    return description;
}

std::vector<answer> encoder_model::call(bool prepare, const std::vector<request> &requests)
{
    static const libsched_engine_host host = {sizeof(host), host_output, host_part, host_end,
                                              host_log};
    host_state state = {{}, result_limit};
    std::vector<libsched_item *> items;
    libsched_engine_batch batch = {};

    for (const request &from : requests) {
        record &r = state.records.emplace_back();
        for (const auto &[name, t] : from.inputs)
            r.inputs.push_back(tensor_of(name, t));
        r.item.id = state.records.size();
        r.item.joined = true;
        r.item.cancelled = from.cancelled;
        r.item.n_inputs = (uint32_t)r.inputs.size();
        r.item.inputs = r.inputs.data();
        r.item.n_parameters = (uint32_t)from.options.list().size();
        r.item.parameters = from.options.list().data();
        items.push_back(&r.item);
    }
    batch.struct_size = sizeof(batch);
    batch.n_items = (uint32_t)items.size();
    batch.items = items.data();
    batch.host = &state;
    int result = prepare ? engine->prepare(model, &batch, &host, &err)
                         : engine->step(model, &batch, &host, &err);
    EXPECT_EQ(LIBSCHED_OK, result) << err.message;

    std::vector<answer> answers;
    for (record &r : state.records) {
        EXPECT_EQ(1, r.out.ends) << "an item has to be ended once";
        r.out.units = r.item.units;
        answers.push_back(std::move(r.out));
    }
    return answers;
}

std::vector<answer> encoder_model::prepare(const std::vector<request> &requests)
{
    return call(true, requests);
}

std::vector<answer> encoder_model::step(const std::vector<request> &requests)
{
    return call(false, requests);
}

std::vector<answer> encoder_model::run(const std::vector<request> &requests)
{
    std::vector<answer> answers = prepare(requests);
    std::vector<request> joined;
    std::vector<size_t> which;
    for (size_t i = 0; i < answers.size(); i++)
        if (answers[i].status == LIBSCHED_OK) {
            request r = requests[i];
            r.inputs = answers[i].outputs;
            joined.push_back(r);
            which.push_back(i);
        }
    std::vector<answer> results = step(joined);
    for (size_t i = 0; i < which.size(); i++) {
        uint64_t units = answers[which[i]].units;
        answers[which[i]] = results[i];
        answers[which[i]].units = units;
    }
    return answers;
}

} // namespace gpu_sched_test
