// SPDX-License-Identifier: Apache-2.0
// A scheduler with real workers on GPUs, as a user has it: over the fake of CUDA, and on real ones
// where there are some. What only the fake can show is in runtime_test.cc.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <set>

#include "../api/scheduler.h"
#include "../engine/tiny_bert.h"
#include "../support/folder.h"
#include "instruments.h"
#include "two_gpus.h"

using namespace api_test;

namespace
{

enum class Kind { emulated, gpu };

// What was built, or where it was packed.
std::string place(const char *variable, const char *built)
{
    const char *packed = getenv(variable);
    return packed != nullptr ? packed : built;
}

using Configure = std::function<void(libsched_options &)>;

std::unique_ptr<Scheduler> start(Kind kind, uint32_t devices_per_gpu,
                                 const Configure &configure = {})
{
    const std::string worker = place("GPU_SCHED_WORKER", SCHED_WORKER_PATH);
    const std::string plugins =
        kind == Kind::gpu ? place("GPU_SCHED_PLUGINS", CUDA_PLUGIN_FOLDER) : EMULATED_CUDA_FOLDER;
    auto s = std::make_unique<Scheduler>(Workers::process, [&](libsched_options &options) {
        options.worker_path = worker.c_str();
        options.plugin_path = plugins.c_str();
        options.cores_per_device = 1;
        options.devices_per_gpu = devices_per_gpu;
        if (configure)
            configure(options);
    });
    s->run_until([&] {
        for (uint32_t i = 0; i < libsched_device_count(s->get()); i++)
            if (s->device(i).state == LIBSCHED_DEVICE_STARTING)
                return false;
        return true;
    });
    return s;
}

// The GPUs that are up; and why one is not.
std::vector<libsched_device_info> gpus(Scheduler &s, std::string *why = nullptr)
{
    std::vector<libsched_device_info> found;
    for (uint32_t i = 0; i < libsched_device_count(s.get()); i++) {
        const libsched_device_info info = s.device(i);
        if (info.kind == LIBSCHED_DEVICE_GPU && info.state == LIBSCHED_DEVICE_UP)
            found.push_back(info);
        else if (info.kind == LIBSCHED_DEVICE_GPU && why != nullptr)
            *why = std::string(info.name) + ": " + info.reason;
    }
    return found;
}

struct Found {
    size_t n;
    std::string why = "hwloc sees no GPU";
    Found()
    {
        n = gpus(*start(Kind::gpu, 1), &why).size();
    }
};

const Found &found()
{
    static const Found all;
    return all;
}

class OnAnyGpu : public testing::TestWithParam<Kind>
{
  protected:
    void SetUp() override
    {
        if (GetParam() == Kind::gpu && found().n == 0)
            GTEST_SKIP() << "no GPU is tested: " << found().why;
        if (GetParam() == Kind::emulated) {
            emulated_ = std::make_unique<gpu_sched_test::two_gpus>(folder.path());
            instruments_ = std::make_unique<gpu_sched_test::instruments>();
            instruments_->show("0000:01:00.0 uuid GPU-00000001\n"
                               "0000:02:00.0 uuid GPU-00000002\n");
        }
        const size_t n = GetParam() == Kind::emulated ? 2 : found().n;
        // What NCCL needs for several ranks on one GPU; 2.30 is the first that can.
        if (n < 4 && GetParam() == Kind::gpu) {
            setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
            setenv("NCCL_MAX_CTAS", "4", 0);
            setenv("NCCL_NVLS_ENABLE", "0", 0);
        }
        bert.heads = 4;
        bert.write();
        s = start(GetParam(), n == 1 ? 4 : n < 4 ? 2 : 1);
        // One of each GPU, then another of each.
        std::vector<libsched_device_info> left = gpus(*s);
        while (names.size() < 4 && !left.empty()) {
            std::set<std::string> taken;
            for (auto info = left.begin(); info != left.end();)
                if (names.size() < 4 && taken.insert(info->pci).second) {
                    names.push_back(info->name);
                    info = left.erase(info);
                } else {
                    info++;
                }
        }
        ASSERT_EQ(names.size(), 4u);
    }

    void load(const char *name, const std::string &on, const char *precision)
    {
        load_on(name, {on.c_str()}, precision);
    }
    void load_on(const char *name, const std::vector<const char *> &on, const char *precision)
    {
        libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
        // Small batches: the emulator warms up with the largest.
        Parameters parameters;
        parameters.string("precision", precision).integer("max_batch_units", 128);
        options.name = name;
        options.path = bert.folder.c_str();
        options.devices = on.data();
        options.n_devices = (uint32_t)on.size();
        // So that two requests at once go to two devices.
        options.max_batch_requests = on.size() > 1 ? 1 : 0;
        options.parameters = parameters.data();
        options.n_parameters = parameters.size();
        s->load(options);
    }

    std::vector<float> embed(const char *model, const std::string &text)
    {
        return answer(s->submit_text(model, text));
    }

    std::vector<float> answer(uint64_t id)
    {
        const Done &done = s->end_of(id);
        EXPECT_EQ(done.status(), LIBSCHED_OK) << done.message;
        return done.status() == LIBSCHED_OK ? done.outputs.at("embedding").floats()
                                            : std::vector<float>();
    }

    // Of a job on the first devices. Empty where there are no ranks to be had at all.
    const Done *run(Job &job, uint32_t n)
    {
        job.raw.n_devices = n;
        for (uint32_t i = 0; i < n; i++)
            job.devices.push_back(names[i].c_str());
        const Done &end = s->run(job);
        if (end.status() == LIBSCHED_OK)
            return &end;
        why_not = end.message;
        // A machine without NCCL, or with one that can't have two ranks on a GPU.
        EXPECT_TRUE(GetParam() == Kind::gpu && found().n < 4) << end.message;
        return nullptr;
    }

    // The numbers of the only tensor of a file.
    static std::vector<float> numbers(const std::string &path)
    {
        std::ifstream file(path, std::ios::binary);
        const std::string bytes((std::istreambuf_iterator<char>(file)), {});
        uint64_t header = 0;
        if (bytes.size() < sizeof(header))
            return {};
        memcpy(&header, bytes.data(), sizeof(header));
        std::vector<float> values((bytes.size() - 8 - header) / sizeof(float));
        memcpy(values.data(), bytes.data() + 8 + header, values.size() * sizeof(float));
        return values;
    }

    static double cosine(const float *a, const float *b, size_t n)
    {
        double ab = 0, aa = 0, bb = 0;
        for (size_t i = 0; i < n; i++) {
            ab += double(a[i]) * b[i];
            aa += double(a[i]) * a[i];
            bb += double(b[i]) * b[i];
        }
        return ab / std::sqrt(aa * bb);
    }

    gpu_sched_test::temporary_folder folder;
    gpu_sched_test::tiny_bert bert;
    std::unique_ptr<Scheduler> s;
    std::vector<std::string> names; // of four devices, on different GPUs where possible
    std::string why_not;

  private:
    std::unique_ptr<gpu_sched_test::two_gpus> emulated_;
    std::unique_ptr<gpu_sched_test::instruments> instruments_;
};

TEST_P(OnAnyGpu, ModelsAreServedAsOnTheCpu)
{
    // Devices that can't be used have had workers too.
    const uint64_t deaths = s->stats().worker_deaths;
    load("reference", "cpu:0", "f32");
    load("exact", names[0], "f32");
    load("fast", names[0], "bf16");
    for (const char *text : {"a b c", "the cat sat on the mat", "", "x y z q"}) {
        const std::vector<float> expected = embed("reference", text);
        for (const char *model : {"exact", "fast"}) {
            const std::vector<float> got = embed(model, text);
            ASSERT_EQ(got.size(), expected.size()) << model;
            EXPECT_GE(cosine(got.data(), expected.data(), got.size()),
                      std::string(model) == "exact" ? 0.99999 : 0.9995)
                << model << ": " << text;
        }
    }
    EXPECT_GE(s->stats().counters.batches, 12u);
    EXPECT_EQ(s->stats().worker_deaths, deaths);
}

// Or why there are none.
TEST_P(OnAnyGpu, InstrumentsAreRead)
{
    libsched_device_readings now = LIBSCHED_DEVICE_READINGS_INIT;
    uint32_t index = 0;
    while (index < libsched_device_count(s->get()) && names[0] != s->device(index).name)
        index++;
    const uint64_t end = libsched_now() + 5000000000;
    while (now.uuid[0] == '\0' && libsched_now() < end) {
        ASSERT_EQ(libsched_device_get_readings(s->get(), index, &now), LIBSCHED_OK);
        s->turn(5);
    }
    if (now.uuid[0] == '\0')
        GTEST_SKIP() << "no instruments are tested: " << now.reason;
    EXPECT_EQ(std::string(now.uuid).substr(0, 4), "GPU-");
    if (GetParam() == Kind::gpu) {
        EXPECT_NE(now.has & LIBSCHED_READING_MEMORY, 0u);
        EXPECT_NE(now.has & LIBSCHED_READING_TEMPERATURE, 0u);
    }
}

TEST_P(OnAnyGpu, ProductsRunOnOneDevice)
{
    Job job("gemm");
    job.parameters.integer("m", 16)
        .integer("n", 16)
        .integer("k", 16)
        .integer("steps", 2)
        .string("datatype", "bf16");
    const Done *end = run(job, 1);
    ASSERT_NE(end, nullptr) << why_not;
    EXPECT_NE(end->values.find("flops_per_s"), end->values.end());
}

// allreduce checks the sums itself.
TEST_P(OnAnyGpu, RanksAddUp)
{
    for (uint32_t n : {2u, 4u}) {
        Job job("allreduce");
        job.parameters.integer("min_bytes", 1024).integer("max_bytes", 4096);
        const Done *end = run(job, n);
        if (end == nullptr)
            GTEST_SKIP() << "no ranks are tested on one GPU: " << why_not;
        EXPECT_NE(end->values.find("busbw_4096"), end->values.end());
    }
}

TEST_P(OnAnyGpu, AnEncoderThatIsSplitGivesTheVectorsOfOne)
{
    constexpr size_t width = 48;
    folder.write("texts.txt", "the cat sat on the mat\na b c\n\nx y z q w e r t y\nmat\n");
    for (const char *precision : {"f32", "bf16"}) {
        std::vector<float> one;
        for (uint32_t n : {1u, 2u, 4u}) {
            const std::string output =
                folder.path() + "/" + precision + std::to_string(n) + ".safetensors";
            Job job("embed");
            job.parameters.string("model", bert.folder)
                .string("input", folder.path() + "/texts.txt")
                .string("output", output)
                .string("split", "tensor")
                .string("precision", precision)
                .integer("batch", 64);
            if (run(job, n) == nullptr)
                GTEST_SKIP() << "no ranks are tested on one GPU: " << why_not;
            const std::vector<float> got = numbers(output);
            ASSERT_EQ(got.size(), 5 * width) << n;
            one = n == 1 ? got : one;
            const double limit = std::string(precision) == "f32" ? 1e-5 : 1e-3;
            for (size_t i = 0; i < 5; i++)
                EXPECT_GE(cosine(&got[i * width], &one[i * width], width), 1 - limit)
                    << n << " devices in " << precision << ", text " << i;
        }
    }
}

// One reads it, and the other has it by NCCL.
TEST_P(OnAnyGpu, RanksLoadAModelTogether)
{
    std::string log;
    load("alone", names[0], "f32");
    const std::vector<float> expected = embed("alone", "the cat sat");
    s = start(GetParam(), 1, [&](libsched_options &options) {
        options.share_weights_bytes = 1;
        options.log = [](void *to, int, const char *line) {
            static_cast<std::string *>(to)->append(line).append("\n");
        };
        options.log_payload = &log;
    });
    const std::vector<libsched_device_info> all = gpus(*s);
    if (all.size() < 2)
        GTEST_SKIP() << "no model is loaded together: it takes two GPUs";
    load_on("both", {all[0].name, all[1].name}, "f32");
    s->run_until([&] { return __builtin_popcountll(s->model("both").devices) == 2; });
    auto served = [&] {
        size_t n = 0;
        for (const libsched_device_info &now : gpus(*s))
            n += now.batches > 0;
        return n;
    };
    for (int i = 0; i < 1000 && served() < 2; i++)
        for (uint64_t id :
             {s->submit_text("both", "the cat sat"), s->submit_text("both", "the cat sat")}) {
            const std::vector<float> got = answer(id);
            ASSERT_EQ(got.size(), expected.size());
            ASSERT_GE(cosine(got.data(), expected.data(), got.size()), 0.99999);
        }
    EXPECT_EQ(served(), 2u);
    EXPECT_EQ(log.find("by itself"), std::string::npos) << log;
}

TEST_P(OnAnyGpu, RanksTrainTogether)
{
    std::string data;
    for (int i = 0; i < 24; i++)
        data += std::string("{\"text\": \"") + (i % 2 == 0 ? "cat mat" : "z x q") +
                (i % 3 == 0 ? " sat" : "") + "\", \"label\": \"" +
                (i % 2 == 0 ? "animal" : "letter") + "\"}\n";
    folder.write("data.jsonl", data);
    for (uint32_t n : {1u, 2u, 4u}) {
        const std::string out = folder.path() + "/trained" + std::to_string(n);
        Job job("train");
        job.parameters.string("model", bert.folder)
            .string("data", folder.path() + "/data.jsonl")
            .string("out", out)
            .integer("epochs", 4);
        const Done *end = run(job, n);
        if (end == nullptr)
            GTEST_SKIP() << "no ranks are tested on one GPU: " << why_not;
        EXPECT_GE(std::stod(end->values.at("accuracy")), 0.9) << n;
        EXPECT_TRUE(std::ifstream(out + "/head.safetensors").good()) << n;
    }
}

INSTANTIATE_TEST_SUITE_P(Gpus, OnAnyGpu, testing::Values(Kind::emulated, Kind::gpu),
                         [](const auto &kind) {
                             return kind.param == Kind::gpu ? "gpu" : "emulated";
                         });

} // namespace
